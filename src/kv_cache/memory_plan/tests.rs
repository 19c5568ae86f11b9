use proptest::prelude::*;

use super::*;
use crate::hardware::{self, Gpu};
use crate::model::{self, Dtype, DtypeSetting, ModelConfig, WeightFormat};

/// A deployment with its own model and GPU, to be changed field by field.
struct Case {
    model: ModelConfig,
    gpu: Gpu,
    engine: EngineName,
}

impl Case {
    fn new(model: &str, gpu: &str, engine: EngineName) -> Self {
        Self { model: model::find(model).unwrap(), gpu: hardware::gpu(gpu).unwrap(), engine }
    }

    fn request(&self) -> MemoryRequest<'_> {
        let precision = self.precision(WeightFormat::None);
        MemoryRequest::new(self.engine, &self.model, precision, &self.gpu)
    }

    fn precision(&self, format: WeightFormat) -> WeightPrecision {
        WeightPrecision::resolve(DtypeSetting::Auto, format, self.model.dtype)
    }

    fn sharded(&self, tp: u32) -> MemoryRequest<'_> {
        MemoryRequest { tensor_parallel_size: tp, instance_gpus: tp, ..self.request() }
    }
}

fn gemma_on_l4(engine: EngineName) -> Case {
    Case::new("gemma-7b", "l4", engine)
}

// The facts of Google's GKE guide on LLM inference, 2024-02: Gemma 7B on g2-standard machines.

#[test]
fn vllm_refuses_gemma_7b_on_one_l4_with_room_for_about_640_tokens() {
    let case = gemma_on_l4(EngineName::Vllm0_4_2);
    let plan = MemoryPlan::new(&case.request());
    let refusal = plan.verdict.refusal.as_ref().unwrap();
    assert_eq!(refusal.kind, RefusalKind::OneRequest);
    assert!(refusal.message.contains("max-model-len 8192"), "{}", refusal.message);
    assert!((560..=720).contains(&plan.kv_tokens), "{}", plan.kv_tokens);
    let change = plan.verdict.smallest_change.unwrap();
    assert_eq!(change.to_string(), "max-model-len 640");
    assert!(plan.verdict.changes.iter().any(|change| change.to_string() == "quantize awq"));
}

#[test]
fn vllm_starts_gemma_7b_on_one_l4_with_600_tokens_and_with_1200_in_an_8_bit_cache() {
    let case = gemma_on_l4(EngineName::Vllm0_4_2);
    let with = |len, kv| {
        let mut request = case.request();
        request.vllm.max_model_len = Some(len);
        request.kv_cache_dtype = kv;
        MemoryPlan::new(&request).fits()
    };
    assert!(with(600, KvCacheDtype::Auto));
    assert!(!with(700, KvCacheDtype::Auto));
    assert!(!with(1200, KvCacheDtype::Auto));
    assert!(with(1200, KvCacheDtype::Fp8E5m2));
    assert!(!with(8192, KvCacheDtype::Fp8E5m2));
}

#[test]
fn vllm_starts_gemma_7b_on_two_l4_with_the_models_own_context() {
    let case = gemma_on_l4(EngineName::Vllm0_4_2);
    let plan = MemoryPlan::new(&case.sharded(2));
    assert!(plan.fits(), "{}", plan.verdict.arithmetic);
    assert_eq!(plan.settings.max_model_len, Some(8192));
}

#[test]
fn gemma_7b_in_awq_fits_one_l4() {
    let case = gemma_on_l4(EngineName::Vllm0_4_2);
    let precision = case.precision(WeightFormat::Awq);
    let plan = MemoryPlan::new(&MemoryRequest { precision, ..case.request() });
    assert!(plan.fits(), "{}", plan.verdict.arithmetic);
}

#[test]
fn tgi_starts_gemma_7b_on_one_l4_with_small_limits_and_not_with_its_defaults() {
    for engine in [EngineName::TgiV2, EngineName::TgiV3] {
        let case = gemma_on_l4(engine);
        let mut request = case.request();
        request.tgi = TgiMemory {
            max_total_tokens: Some(3072),
            max_batch_prefill_tokens: Some(512),
            max_input_tokens: Some(512),
            cuda_memory_fraction: None,
        };
        let plan = MemoryPlan::new(&request);
        assert!(plan.fits(), "{engine}: {}", plan.verdict.arithmetic);
    }
    let case = gemma_on_l4(EngineName::TgiV2);
    let plan = MemoryPlan::new(&case.request());
    assert_eq!(plan.verdict.refusal.unwrap().kind, RefusalKind::WarmUp);
    let change = plan.verdict.smallest_change.unwrap();
    assert_eq!(change.settings[0].key, "max-batch-prefill-tokens");
}

#[test]
fn llama_2_13b_fits_one_l4_in_gptq_and_not_in_float16() {
    for engine in EngineName::ALL {
        let case = Case::new("llama-2-13b", "l4", *engine);
        let plan = MemoryPlan::new(&case.request());
        assert_eq!(plan.verdict.refusal.unwrap().kind, RefusalKind::Weights, "{engine}");
        let change = plan.verdict.smallest_change.unwrap();
        assert_eq!(change.to_string(), "quantize gptq", "{engine}");
        let precision = case.precision(WeightFormat::Gptq);
        assert!(MemoryPlan::new(&MemoryRequest { precision, ..case.request() }).fits());
    }
}

// The deployments of the Red Hat study of 2024-01 (TGIS).

#[test]
fn llama_2_7b_under_tgis_on_one_a10g_holds_about_20_requests_of_the_openorca_mix() {
    let case = Case::new("llama-2-7b", "a10g", EngineName::Tgis2023);
    let plan = MemoryPlan::new(&case.request());
    assert!((8_000..9_000).contains(&plan.kv_tokens), "{}", plan.kv_tokens);
    // Output-weighted mean of input + output tokens of the study's 32 prompts. Requests rarely
    // stand at their full length all at once, so a few more than this many fit.
    let mean_reservation = 476;
    assert_eq!(plan.kv_tokens / mean_reservation, 17);
}

#[test]
fn memory_is_no_limit_for_the_studys_larger_deployments() {
    for (model, gpu, tp, tokens) in [
        ("llama-2-13b", "a10g", 4, 36_800),
        ("llama-2-70b", "a10g", 8, 52_800),
        ("llama-2-70b", "a100-40gb", 8, 280_000),
    ] {
        let case = Case::new(model, gpu, EngineName::Tgis2023);
        let plan = MemoryPlan::new(&case.sharded(tp));
        let off = plan.kv_tokens as f64 / f64::from(tokens) - 1.0;
        assert!(plan.fits() && off.abs() < 0.02, "{model} on {gpu}: {}", plan.kv_tokens);
    }
}

#[test]
fn llama_2_70b_in_float16_takes_73_percent_of_each_of_8_a10g() {
    let case = Case::new("llama-2-70b", "a10g", EngineName::Tgis2023);
    let plan = MemoryPlan::new(&case.sharded(8));
    let share = plan.term(TermName::Weights).as_f64() / plan.gpu_memory.as_f64();
    assert!((share - 0.73).abs() < 0.01, "{share}");
}

#[test]
fn a_batch_weight_beyond_memory_starts_with_a_warning_as_tgis_of_2023_does() {
    let case = Case::new("llama-2-7b", "a10g", EngineName::Tgis2023);
    let mut request = case.request();
    request.tgis.max_batch_weight = Some(20_000);
    let plan = MemoryPlan::new(&request);
    assert!(plan.fits() && plan.notes.iter().any(|note| note.contains("20000")));
    request.tgis.max_batch_weight = Some(1_000);
    assert!(!MemoryPlan::new(&request).fits(), "below one request of the longest sequence");
}

// The memory estimation of TGIS 2024 (`engines/tgis-tgi.md` A9).

#[test]
fn tgis_of_2024_bills_padded_prefills_by_the_square_and_flash_ones_by_the_token() {
    let case = Case::new("llama-2-7b", "a100-40gb", EngineName::Tgis2024);
    let model = |flash| {
        let mut request = case.request();
        request.tgis.flash_attention = Some(flash);
        MemoryPlan::new(&request).tgis_memory_model.unwrap()
    };
    let (flash, padded) = (model(true), model(false));
    assert_eq!(flash.prefill_quadratic, [0.0, 0.0]);
    // 512 KiB of KV and the MLP half of a layer: (2 x 4096 + 3 x 11008) x 2 B.
    assert_eq!(flash.prefill_bytes_per_token, f64::from(524_288 + 82_432));
    // 32 heads x 8 B for each pair of tokens.
    assert!((padded.prefill_quadratic[1] / 256.0 - 1.0).abs() < 0.01, "{padded:?}");
    assert!(padded.prefill_bytes(2048) > 1.5 * flash.prefill_bytes(2048));
    assert_eq!(padded.prefill_bytes(100), 100.0 * padded.prefill_bytes_per_token);
    // Old and new cache stand side by side in either.
    assert_eq!([flash, padded].map(|m| m.next_token_bytes_per_token), [1_048_576.0; 2]);
}

#[test]
fn tgis_of_2024_gives_out_what_the_safety_margin_leaves() {
    let case = Case::new("llama-2-7b", "a10g", EngineName::Tgis2024);
    for margin in [0, 20, 50] {
        let mut request = case.request();
        request.tgis.batch_safety_margin = Some(margin);
        let model = MemoryPlan::new(&request).tgis_memory_model.unwrap();
        let share = model.budget.as_f64() / model.free.as_f64();
        assert!((share - f64::from(100 - margin) / 100.0).abs() < 1e-9, "{margin}: {share}");
    }
}

#[test]
fn tgis_of_2024_refuses_a_length_whose_prefill_is_billed_over_the_budget() {
    let case = Case::new("mistral-7b", "a10g", EngineName::Tgis2024);
    let plan = |flash| {
        let mut request = case.request();
        request.tgis.flash_attention = Some(flash);
        request.tgis.max_sequence_length = Some(8192);
        MemoryPlan::new(&request)
    };
    assert!(plan(true).fits());
    let refusal = plan(false).verdict.refusal.unwrap();
    assert_eq!(refusal.kind, RefusalKind::OneRequest);
    assert!(refusal.message.contains("is billed"), "{}", refusal.message);
}

// Other anchors and rules.

/// Published run file of LLMServingSim (vLLM 0.19, Llama-3.1 8B in bfloat16, one RTX 4090): 2,588
/// blocks. Nothing was fitted to it.
#[test]
fn vllm_v1_comes_near_the_blocks_reported_on_an_rtx_4090() {
    let case = Case::new("llama-3.1-8b", "rtx-4090", EngineName::Vllm0_13);
    let mut request = case.request();
    request.vllm.max_model_len = Some(8192);
    let plan = MemoryPlan::new(&request);
    let off = plan.kv_blocks as f64 / 2588.0 - 1.0;
    assert!(off.abs() < 0.03, "{} blocks", plan.kv_blocks);
}

#[test]
fn a_context_is_cut_to_what_fits_and_the_next_block_does_not() {
    let case = Case::new("llama-3.1-8b", "l4", EngineName::Vllm0_32);
    let mut request = case.request();
    let change = MemoryPlan::new(&request).verdict.smallest_change.unwrap();
    assert_eq!(change.settings[0].key, "max-model-len");
    let len: u32 = change.settings[0].value.parse().unwrap();
    request.vllm.max_model_len = Some(len);
    assert!(MemoryPlan::new(&request).fits());
    request.vllm.max_model_len = Some(len + 16);
    assert!(!MemoryPlan::new(&request).fits());
}

#[test]
fn v1_keeps_one_block_for_itself_and_v0_none() {
    let blocks = |engine| {
        let case = Case::new("llama-2-7b", "a10g", engine);
        let plan = MemoryPlan::new(&case.request());
        plan.kv_blocks - plan.usable_kv_blocks
    };
    assert_eq!(blocks(EngineName::Vllm0_32), 1);
    assert_eq!(blocks(EngineName::Vllm0_4_2), 0);
}

#[test]
fn graph_sizes_follow_the_server_settings() {
    let sizes = vllm::cuda_graph_sizes(256, 2048);
    assert_eq!((sizes.len(), sizes[0], *sizes.last().unwrap()), (51, 1, 512));
    assert_eq!(vllm::cuda_graph_sizes(4, 2048), [1, 2, 4, 8]);
    assert_eq!(vllm::cuda_graph_sizes(10, 2048), [1, 2, 4, 8, 10, 16]);
}

#[test]
fn bfloat16_on_a_t4_is_refused_and_float16_offered() {
    let case = Case::new("gemma-2-2b", "t4", EngineName::Vllm0_32);
    let plan = MemoryPlan::new(&case.request());
    assert_eq!(plan.verdict.refusal.unwrap().kind, RefusalKind::Dtype);
    assert_eq!(plan.verdict.smallest_change.unwrap().to_string(), "dtype float16");
}

#[test]
fn a_size_that_does_not_divide_gets_one_that_does() {
    let case = Case::new("qwen2.5-7b", "l4", EngineName::Vllm0_32);
    let request = MemoryRequest { tensor_parallel_size: 8, instance_gpus: 8, ..case.request() };
    let plan = MemoryPlan::new(&request);
    assert_eq!(plan.verdict.refusal.unwrap().kind, RefusalKind::TensorParallel);
    assert_eq!(plan.verdict.smallest_change.unwrap().to_string(), "tensor-parallel-size 4");
}

#[test]
fn a_model_far_too_large_names_the_number_of_gpus() {
    let case = Case::new("llama-2-70b", "l4", EngineName::Vllm0_32);
    let plan = MemoryPlan::new(&case.request());
    let change = plan.verdict.smallest_change.unwrap();
    assert_eq!(change.to_string(), "tensor-parallel-size 8 (on an instance with 8 such GPUs)");
}

#[test]
fn two_changes_are_offered_where_one_is_not_enough() {
    let case = Case::new("llama-2-13b", "t4", EngineName::Vllm0_4_2);
    let mut request = case.request();
    request.vllm.gpu_memory_utilization = Some(0.65);
    let plan = MemoryPlan::new(&request);
    let change = plan.verdict.smallest_change.unwrap();
    assert_eq!(change.settings.len(), 2, "{change}");
}

#[test]
fn settings_that_contradict_each_other_are_refused_with_both_numbers() {
    let case = Case::new("llama-2-7b", "a10g", EngineName::Vllm0_32);
    let message = |edit: fn(&mut VllmMemory)| {
        let mut request = case.request();
        edit(&mut request.vllm);
        let refusal = MemoryPlan::new(&request).verdict.refusal.unwrap();
        assert_eq!(refusal.kind, RefusalKind::Settings);
        refusal.message
    };
    assert!(message(|s| s.max_model_len = Some(9000)).contains("4096"));
    assert!(message(|s| s.max_num_batched_tokens = Some(100)).contains("256"));
    assert!(message(|s| s.gpu_memory_utilization = Some(1.5)).contains("1.5"));
    assert!(message(|s| s.gpu_memory_utilization = Some(0.99)).contains("free at start"));
    let unchunked = message(|s| {
        s.enable_chunked_prefill = Some(false);
        s.max_num_batched_tokens = Some(2048);
    });
    assert!(unchunked.contains("without chunked prefill"), "{unchunked}");
}

#[test]
fn a_plan_is_written_as_json_with_its_terms() {
    let case = gemma_on_l4(EngineName::Vllm0_4_2);
    let json = serde_json::to_value(MemoryPlan::new(&case.request())).unwrap();
    assert_eq!(json["engine"], "vllm-0.4.2");
    assert_eq!(json["verdict"]["fits"], false);
    assert_eq!(json["verdict"]["smallest_change"]["settings"][0]["value"], "640");
    assert!(json["terms"].as_array().unwrap().iter().any(|t| t["provenance"] == "fitted"));
}

fn any_u32() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![
        3 => Just(None),
        3 => (1u32..20_000).prop_map(Some),
        1 => any::<u32>().prop_map(Some)
    ]
}

fn any_fraction() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![3 => Just(None), 3 => (0.01..1.0).prop_map(Some), 1 => any::<f64>().prop_map(Some)]
}

fn pick<T: Copy>(from: &[T], index: usize) -> T {
    from[index % from.len()]
}

proptest! {
    #[test]
    fn every_byte_is_accounted_for_whatever_is_asked(
        choice in proptest::array::uniform6(0usize..1000),
        gpus in prop_oneof![4 => 1u32..9, 1 => any::<u32>()],
        tp in prop_oneof![4 => 1u32..9, 1 => any::<u32>()],
        numbers in proptest::array::uniform9(any_u32()),
        fractions in proptest::array::uniform2(any_fraction()),
    ) {
        let models: Vec<_> = model::presets().collect();
        let devices: Vec<_> = hardware::gpu_names().collect();
        let case = Case::new(
            pick(&models, choice[0]), pick(&devices, choice[1]), pick(EngineName::ALL, choice[2]),
        );
        let format = pick(WeightFormat::ALL, choice[3]);
        let request = MemoryRequest {
            precision: WeightPrecision { format, dtype: pick(Dtype::ALL, choice[4]) },
            kv_cache_dtype: pick(KvCacheDtype::ALL, choice[5]),
            tensor_parallel_size: tp,
            instance_gpus: gpus,
            vllm: VllmMemory {
                gpu_memory_utilization: fractions[0],
                max_model_len: numbers[0],
                max_num_seqs: numbers[1],
                max_num_batched_tokens: numbers[2],
                block_size: numbers[3],
                num_gpu_blocks_override: numbers[4].filter(|n| n % 3 == 0),
                enable_chunked_prefill: None,
                enforce_eager: None,
            },
            tgi: TgiMemory {
                max_input_tokens: numbers[5],
                max_total_tokens: numbers[6],
                max_batch_prefill_tokens: numbers[7],
                cuda_memory_fraction: fractions[1],
            },
            tgis: TgisMemory {
                max_sequence_length: numbers[8],
                max_batch_weight: numbers[0].map(u64::from),
                flash_attention: numbers[2].map(|n| n % 2 == 0),
                batch_safety_margin: numbers[1],
            },
            ..case.request()
        };
        let plan = MemoryPlan::new(&request);
        let spent: u128 = plan.terms.iter().map(|term| u128::from(term.bytes.get())).sum();
        prop_assert_eq!(
            u128::from(plan.gpu_memory.get()) + u128::from(plan.shortfall.get()),
            spent + u128::from(plan.kv_budget.get())
        );
        prop_assert_eq!(plan.verdict.fits, plan.verdict.refusal.is_none());
        prop_assert!(!plan.verdict.fits || plan.verdict.changes.is_empty());
        for change in &plan.verdict.changes {
            prop_assert!(!change.settings.is_empty());
        }
        if plan.fits() && request.vllm.num_gpu_blocks_override.is_none() {
            let block = plan.kv_bytes_per_token * u64::from(plan.block_size);
            prop_assert!(block * plan.kv_blocks <= plan.kv_budget);
            prop_assert!(plan.kv_tokens > 0);
        }
    }

    #[test]
    fn more_utilisation_never_holds_fewer_tokens(low in 0.3f64..0.9, more in 0.0f64..0.08) {
        let case = Case::new("llama-3.1-8b", "a100-40gb", EngineName::Vllm0_32);
        let tokens = |utilization: f64| {
            let mut request = case.request();
            request.vllm.gpu_memory_utilization = Some(utilization);
            MemoryPlan::without_remedies(&request).kv_tokens
        };
        prop_assert!(tokens(low + more) >= tokens(low));
    }
}
