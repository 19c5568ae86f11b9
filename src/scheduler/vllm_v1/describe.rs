//! The rules of vLLM V1 in words.

use super::{Policy, VllmV1Config, VllmV1Rules};
use crate::kv_cache::block_pool::FreeOrder;
use crate::scheduler::rules::RuleTexts;

impl VllmV1Config {
    pub fn describe(&self) -> RuleTexts {
        let Self {
            max_model_len,
            max_num_seqs,
            max_num_active_seqs: _,
            prompts_share: _,
            max_num_batched_tokens,
            max_num_scheduled_tokens,
            num_gpu_blocks: _,
            block_size: _,
            enable_prefix_caching,
            enable_chunked_prefill,
            policy,
            async_scheduling,
            watermark,
            long_prefill_token_threshold: _,
            long_prefill_token_threshold_adaptive: _,
            rules,
        } = self;
        let VllmV1Rules {
            unkeyed_blocks_freed_to_front: _,
            reserve_full_isl,
            lone_request_exempt_from_threshold,
            any_earlier_victim_moves_cursor,
        } = rules;
        let budget = max_num_scheduled_tokens.unwrap_or(*max_num_batched_tokens);
        let threshold = match lone_request_exempt_from_threshold {
            true => "; long-prefill-token-threshold spares a request that is alone",
            false => "; long-prefill-token-threshold always holds",
        };
        let cursor = match any_earlier_victim_moves_cursor {
            true => "after an earlier victim the next in line keeps its turn",
            false => "after an earlier victim not yet scheduled the next in line misses its turn",
        };
        RuleTexts {
            door: format!(
                "prompt from {max_model_len}, or more than the cache can ever hold; a longer sum is \
                 cut"
            ),
            order: match policy {
                Policy::Fcfs => "first come, preempted ones in front; with scheduling-policy \
                                 priority by priority, then arrival"
                    .into(),
                Policy::Priority => "by priority, then arrival".into(),
            },
            room: match reserve_full_isl {
                true => "blocks of its whole present sequence".into(),
                false => "blocks of its first chunk".into(),
            },
            batching:
                "one batch: running ones first, then newcomers, unless somebody was preempted"
                    .into(),
            interruption: "never: prompts join".into(),
            budget: format!("{budget} for prompts and decodes alike"),
            chunking: match enable_chunked_prefill {
                true => format!("cut to what is left of the budget{threshold}"),
                false => format!("never cut{threshold}"),
            },
            seats: format!("{max_num_seqs}"),
            watermark: match watermark {
                share if *share > 0.0 => format!("{} % of the blocks", share * 100.0),
                _ => "nothing; watermark sets a share of the blocks".into(),
            },
            preemption: format!(
                "the one admitted last is computed again; under priority the least urgent, and \
                 {cursor}"
            ),
            prefix_cache: match enable_prefix_caching {
                true => "full blocks by a hash over all before them, as soon as they are computed"
                    .into(),
                false => "off".into(),
            },
            free_order: match rules.free_order() {
                FreeOrder::UnkeyedToFront => {
                    "the tail first; blocks without a key to the front, others to the back".into()
                }
                FreeOrder::AllToBack => "the tail first, all to the back".into(),
            },
            depth: match async_scheduling {
                true => "2: a step is decided while the one before it runs".into(),
                false => "1; 2 with async-scheduling".into(),
            },
            deadline: "none".into(),
            abort: "ends at once".into(),
        }
    }
}
