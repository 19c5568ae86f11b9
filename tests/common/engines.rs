//! Random settings of every engine, under which its server would start.

use proptest::prelude::*;

use servesim::deploy::EngineConfig;
use servesim::engine_name::EngineName;
use servesim::scheduler::static_batch::StaticConfig;
use servesim::scheduler::tgi::{ShardLayout, TgiConfig, TgiRules};
use servesim::scheduler::tgis::{BatchType, ShardMemory, TgisConfig, WeightRules};
use servesim::scheduler::vllm_v0::{VllmV0Config, VllmV0Rules};
use servesim::scheduler::vllm_v1::{Policy, VllmV1Config, VllmV1Rules};

/// An engine with its settings.
#[derive(Clone, Debug)]
pub struct Engine {
    pub name: EngineName,
    pub config: EngineConfig,
}

pub fn engines() -> impl Strategy<Value = Engine> {
    prop_oneof![4 => tgis(), 4 => tgi(), 1 => static_batch(), 4 => vllm_v0(), 4 => vllm_v1()]
}

/// TGIS settings under which the real router starts.
fn tgis() -> impl Strategy<Value = Engine> {
    (
        prop_oneof![Just(BatchType::Flash), Just(BatchType::Padded)],
        1u32..24,
        0u32..30,
        600u64..6000,
        prop::bool::ANY,
        prop::option::of(800u64..3000),
    )
        .prop_map(|(batch_type, seats, patience, weight, newer, memory)| {
            let square = if batch_type == BatchType::Padded { 500 } else { 1 };
            let rules = if newer {
                WeightRules::Tgis2024 {
                    weight_limit: weight * square * 1000,
                    prefill_linear: 1200.0,
                    prefill_quadratic: [300.0, 0.7],
                    nexttoken: [900.0, 1000.0],
                    max_prefill_padding: 0.3,
                }
            } else {
                WeightRules::Tgis2023 {
                    max_batch_weight: weight * square,
                    max_prefill_weight: weight,
                }
            };
            let name = if newer { EngineName::Tgis2024 } else { EngineName::Tgis2023 };
            let config = EngineConfig::Tgis(TgisConfig {
                batch_type,
                rules,
                max_batch_size: seats,
                max_waiting_tokens: patience,
                max_sequence_length: 500,
                max_new_tokens: 400,
                max_concurrent_requests: 40,
                memory: ShardMemory { prefill_tokens: memory, decode_tokens: memory },
            });
            Engine { name, config }
        })
        .prop_filter("the router starts", |engine| match &engine.config {
            EngineConfig::Tgis(config) => config.check().is_ok(),
            _ => true,
        })
}

/// TGI settings of both back-ends; the KV cache holds at least one longest request.
fn tgi() -> impl Strategy<Value = Engine> {
    (
        (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY, prop::bool::weighted(0.2)),
        prop_oneof![Just(1u32), Just(16)],
        (64u32..800, 600u32..6000),
        prop_oneof![Just(0.0f32), Just(0.3), Just(1.2)],
        0u32..30,
        prop::option::of(1u32..24),
    )
        .prop_map(|(switches, block_size, (prefill, total), ratio, patience, seats)| {
            let (newer, chunking, prefix_caching, padded) = switches;
            let prefill_chunking = newer && chunking && !padded;
            let name = if newer { EngineName::TgiV3 } else { EngineName::TgiV2 };
            let config = EngineConfig::Tgi(TgiConfig {
                rules: if newer {
                    TgiRules::V3 { prefill_chunking, prefix_caching }
                } else {
                    TgiRules::V2
                },
                block_size,
                max_batch_prefill_tokens: prefill.max(if prefill_chunking { 64 } else { 300 }),
                max_batch_total_tokens: total,
                waiting_served_ratio: ratio,
                max_waiting_tokens: patience,
                max_batch_size: seats,
                requires_padding: padded,
                shard: if padded { ShardLayout::Padded } else { ShardLayout::Paged },
                speculate: 0,
                max_input_tokens: 300,
                max_total_tokens: 500,
                max_concurrent_requests: 40,
            });
            Engine { name, config }
        })
}

fn static_batch() -> impl Strategy<Value = Engine> {
    (1u32..16, 500u64..6000).prop_map(|(batch_size, kv_tokens)| {
        let config = StaticConfig { batch_size, max_sequence_length: 500, kv_tokens };
        Engine { name: EngineName::Static, config: EngineConfig::Static(config) }
    })
}

fn vllm_v0() -> impl Strategy<Value = Engine> {
    let rules = prop_oneof![
        Just((EngineName::Vllm0_2_7, VllmV0Rules::V0_2_7, false)),
        Just((EngineName::Vllm0_4_2, VllmV0Rules::V0_4_2, false)),
        Just((EngineName::Vllm0_4_2, VllmV0Rules::V0_4_2, true)),
    ];
    (rules, 1u32..24, 24u32..600, 20u32..200, prop_oneof![Just(8u32), Just(16)], 0u32..300)
        .prop_map(|(rules, max_num_seqs, tokens, num_gpu_blocks, block_size, max_paddings)| {
            let (name, rules, enable_chunked_prefill) = rules;
            let config = EngineConfig::VllmV0(VllmV0Config {
                max_model_len: 400,
                max_num_seqs,
                max_num_batched_tokens: tokens,
                max_paddings,
                num_gpu_blocks,
                block_size,
                enable_chunked_prefill,
                rules,
            });
            Engine { name, config }
        })
}

fn vllm_v1() -> impl Strategy<Value = Engine> {
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let watermark = prop_oneof![Just(0.0), 0.0..0.1];
    let threshold = prop_oneof![3 => Just(0u32), 1 => 8u32..200];
    (1u32..24, 24u32..600, 32u32..200, watermark, threshold, switches).prop_map(
        |(max_num_seqs, budget, num_gpu_blocks, watermark, threshold, switches)| {
            let (caching, chunked, asynchronous, newer, by_priority) = switches;
            let name = if newer { EngineName::Vllm0_32 } else { EngineName::Vllm0_13 };
            let config = EngineConfig::VllmV1(VllmV1Config {
                max_model_len: 400,
                max_num_seqs,
                max_num_active_seqs: None,
                max_num_batched_tokens: if chunked { budget } else { budget.max(400) },
                max_num_scheduled_tokens: None,
                num_gpu_blocks,
                block_size: 16,
                enable_prefix_caching: caching,
                prompts_share: true,
                enable_chunked_prefill: chunked,
                policy: if by_priority { Policy::Priority } else { Policy::Fcfs },
                async_scheduling: asynchronous,
                watermark,
                long_prefill_token_threshold: threshold,
                long_prefill_token_threshold_adaptive: false,
                rules: if newer { VllmV1Rules::V0_32 } else { VllmV1Rules::V0_13 },
            });
            Engine { name, config }
        },
    )
}
