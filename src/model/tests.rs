use proptest::prelude::*;

use super::*;

fn model(name: &str) -> ModelConfig {
    find(name).unwrap()
}

fn change(
    name: &str,
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> Vec<u8> {
    let path = format!("{}/scenarios/models/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let mut value: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(value.as_object_mut().unwrap());
    serde_json::to_vec(&value).unwrap()
}

/// Counts that the models' publishers give (model cards, or the checkpoints' index files).
const PUBLISHED_PARAMETERS: &[(&str, u64)] = &[
    ("llama-2-7b", 6_738_415_616),
    ("llama-2-13b", 13_015_864_320),
    ("llama-2-70b", 68_976_648_192),
    ("llama-3-8b", 8_030_261_248),
    ("llama-3-70b", 70_553_706_496),
    ("llama-3.1-8b", 8_030_261_248),
    ("llama-3.1-70b", 70_553_706_496),
    ("mistral-7b", 7_241_732_096),
    ("mixtral-8x7b", 46_702_792_704),
    ("gemma-7b", 8_537_680_896),
    ("gemma-2-2b", 2_614_341_888),
    ("gemma-2-9b", 9_241_705_984),
    ("gemma-2-27b", 27_227_128_320),
    ("qwen2.5-0.5b", 494_032_768),
    ("qwen2.5-1.5b", 1_543_714_304),
    ("qwen2.5-3b", 3_085_938_688),
    ("qwen2.5-7b", 7_615_616_512),
    ("qwen2.5-14b", 14_770_033_664),
    ("qwen2.5-32b", 32_763_876_352),
    ("qwen2.5-72b", 72_706_203_648),
    ("qwen3-0.6b", 596_049_920),
    ("qwen3-1.7b", 1_720_574_976),
    ("qwen3-4b", 4_022_468_096),
    ("qwen3-8b", 8_190_735_360),
    ("qwen3-14b", 14_768_307_200),
    ("qwen3-32b", 32_762_123_264),
    ("qwen3-30b-a3b", 30_532_122_624),
];

#[test]
fn every_preset_has_its_published_number_of_parameters() {
    let mut expected: Vec<_> = PUBLISHED_PARAMETERS.to_vec();
    expected.sort_unstable();
    let mut found: Vec<_> = presets().map(|name| (name, model(name).parameter_count())).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn weights_in_16_bit_are_two_bytes_a_parameter() {
    for name in presets() {
        let model = model(name);
        let bytes = model.weight_bytes(&WeightPrecision::BFLOAT16, 1).get();
        assert_eq!(bytes, 2 * model.parameter_count(), "{name}");
    }
}

#[test]
fn shards_of_llama_2_70b_take_a_little_more_than_an_eighth_each() {
    let model = model("llama-2-70b");
    let whole = model.weight_bytes(&WeightPrecision::FLOAT16, 1).as_f64();
    let shard = model.weight_bytes(&WeightPrecision::FLOAT16, 8).as_f64();
    assert!(shard >= whole / 8.0 && shard < whole / 8.0 * 1.001, "{shard} {whole}");
}

#[test]
fn gptq_of_llama_2_13b_is_as_large_as_the_published_checkpoint() {
    let precision = WeightPrecision { format: WeightFormat::Gptq, dtype: Dtype::Float16 };
    let gb = model("llama-2-13b").weight_bytes(&precision, 1).as_f64() / 1e9;
    assert!((7.2..7.3).contains(&gb), "{gb}");
}

#[test]
fn kv_bytes_per_token_are_the_published_ones() {
    let kib =
        |name, kv, tp| model(name).kv_bytes_per_token(kv, Dtype::Float16, tp).as_f64() / 1024.0;
    assert_eq!(kib("llama-2-7b", KvCacheDtype::Auto, 1), 512.0);
    assert_eq!(kib("llama-2-13b", KvCacheDtype::Auto, 4), 200.0);
    assert_eq!(kib("llama-2-70b", KvCacheDtype::Auto, 8), 40.0);
    assert_eq!(kib("llama-2-70b", KvCacheDtype::Auto, 16), 40.0, "KV heads are replicated");
    assert_eq!(kib("gemma-7b", KvCacheDtype::Auto, 1), 448.0);
    assert_eq!(kib("gemma-7b", KvCacheDtype::Fp8E5m2, 1), 224.0);
}

#[test]
fn matrices_are_cut_as_the_engines_cut_them() {
    let shapes: Vec<_> = model("llama-2-70b")
        .layer_gemms(8)
        .into_iter()
        .map(|g| (g.name, g.n, g.k, g.layers))
        .collect();
    assert_eq!(
        shapes,
        [
            ("qkv", 1280, 8192, 80),
            ("o", 8192, 1024, 80),
            ("gate_up", 7168, 8192, 80),
            ("down", 8192, 3584, 80)
        ]
    );
    assert_eq!(model("gemma-7b").lm_head_gemm(2).n, 128_000);
}

#[test]
fn a_token_of_llama_2_7b_takes_two_operations_per_weight_it_meets() {
    let model = model("llama-2-7b");
    let embedding = 32000.0 * 4096.0;
    let norms = 65.0 * 4096.0;
    let matrices = model.parameter_count() as f64 - embedding - norms;
    assert_eq!(model.flops_per_token(0).get(), 2.0 * matrices);
    let attention = model.flops_per_token(1000).get() - model.flops_per_token(0).get();
    assert_eq!(attention, 4.0 * 4096.0 * 32.0 * 1000.0);
}

#[test]
fn a_mixture_reads_all_experts_only_in_large_batches() {
    let moe = model("mixtral-8x7b").moe.unwrap();
    assert!((moe.distinct_experts(1.0) - 2.0).abs() < 1e-9);
    assert!((moe.distinct_experts(2.0) - 3.5).abs() < 1e-9);
    assert!(moe.distinct_experts(100.0) > 7.999);
    let model = model("qwen3-30b-a3b");
    let active = model.flops_per_token(0).get() / 2.0;
    assert!((2.9e9..3.4e9).contains(&active), "A3B: about 3 G parameters met, got {active}");
}

#[test]
fn sliding_windows_follow_the_architecture() {
    let window = |name: &str| model(name).sliding_window.map(|s| (s.window, s.layers));
    assert_eq!(window("mistral-7b"), Some((4096, 32)));
    assert_eq!(window("gemma-2-9b"), Some((4096, 21)));
    assert_eq!(window("qwen2.5-7b"), None);
    assert_eq!(window("mixtral-8x7b"), None);
    assert_eq!(model("mistral-7b").resident_tokens(10_000), 4096);
    assert_eq!(model("gemma-2-9b").resident_tokens(10_000), 10_000);
}

#[test]
fn a_size_that_does_not_divide_is_refused_with_those_that_do() {
    let error = model("qwen2.5-7b").check_tensor_parallel(8).unwrap_err();
    assert_eq!(error.possible, [1, 2, 4]);
    assert!(error.to_string().contains("28 attention heads"), "{error}");
    assert!(model("llama-2-70b").check_tensor_parallel(16).is_ok());
    assert!(model("llama-2-70b").check_tensor_parallel(0).is_err());
}

#[test]
fn an_unknown_architecture_lists_the_supported_ones() {
    let bytes =
        change("llama-2-7b", |c| c["architectures"] = serde_json::json!(["MambaForCausalLM"]));
    let error = ModelConfig::from_hf_json("mine", &bytes).unwrap_err().to_string();
    assert!(error.contains("MambaForCausalLM") && error.contains("Qwen3MoeForCausalLM"), "{error}");
}

#[test]
fn latent_attention_is_refused_by_name() {
    let bytes =
        change("llama-2-7b", |c| c["architectures"] = serde_json::json!(["DeepseekV3ForCausalLM"]));
    let error = ModelConfig::from_hf_json("mine", &bytes).unwrap_err().to_string();
    assert!(error.contains("latent attention"), "{error}");
}

#[test]
fn fields_out_of_range_are_named_with_what_they_must_be() {
    use serde_json::json;
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(-3)),
        ("vocab_size", json!(1e30)),
        ("intermediate_size", json!("many")),
        ("num_key_value_heads", json!(5)),
        ("max_position_embeddings", json!(u64::MAX)),
        ("tie_word_embeddings", json!(1)),
        ("torch_dtype", json!("complex64")),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 3})),
    ] {
        let bytes = change("llama-2-7b", |c| {
            c.insert(field.into(), value.clone());
        });
        let error = ModelConfig::from_hf_json("mine", &bytes).unwrap_err().to_string();
        assert!(error.starts_with("model mine: "), "{field}: {error}");
    }
    let bytes = change("llama-2-7b", |c| {
        c.shift_remove("hidden_size");
    });
    let error = ModelConfig::from_hf_json("mine", &bytes).unwrap_err().to_string();
    assert!(error.contains("\"hidden_size\""), "{error}");
}

#[test]
fn absent_fields_take_the_defaults_of_the_class() {
    let bytes = change("gemma-7b", |c| {
        for field in ["tie_word_embeddings", "head_dim", "num_key_value_heads"] {
            c.shift_remove(field);
        }
    });
    let read = ModelConfig::from_hf_json("gemma-7b", &bytes).unwrap();
    assert_eq!(read, model("gemma-7b"));
}

#[test]
fn a_slip_in_a_preset_name_gets_a_suggestion() {
    let error = find("llama2-7b").unwrap_err().to_string();
    assert!(error.contains("did you mean \"llama-2-7b\""), "{error}");
    assert!(preset("../Cargo").is_none());
}

proptest! {
    #[test]
    fn reading_a_config_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = ModelConfig::from_hf_json("fuzz", &bytes);
    }

    #[test]
    fn an_edited_config_is_read_or_refused_and_never_panics(
        which in 0..27usize,
        field in 0..30usize,
        value in prop_oneof![
            any::<i64>().prop_map(serde_json::Value::from),
            any::<u32>().prop_map(serde_json::Value::from),
            (1u32..200).prop_map(serde_json::Value::from),
            any::<f64>().prop_map(serde_json::Value::from),
            any::<bool>().prop_map(serde_json::Value::from),
            ".{0,8}".prop_map(serde_json::Value::from),
            Just(serde_json::json!([[], {}, null])),
            Just(serde_json::Value::Null),
        ],
        tp in 0u32..100,
    ) {
        let name = presets().nth(which).unwrap();
        let bytes = change(name, |c| {
            let key = c.keys().nth(field % c.len()).unwrap().clone();
            c.insert(key, value);
        });
        if let Ok(model) = ModelConfig::from_hf_json(name, &bytes) {
            model.parameter_count();
            model.weight_bytes(&WeightPrecision::FLOAT16, tp);
            model.flops_per_token(u64::MAX);
            let _ = model.check_tensor_parallel(tp);
        }
    }

    #[test]
    fn cutting_a_model_never_loses_weight(which in 0..27usize, tp in 1u32..17) {
        let model = model(presets().nth(which).unwrap());
        if model.check_tensor_parallel(tp).is_ok() {
            let whole = model.weight_bytes(&WeightPrecision::FLOAT16, 1);
            let shard = model.weight_bytes(&WeightPrecision::FLOAT16, tp);
            prop_assert!(shard * u64::from(tp) >= whole);
            prop_assert!(tp == 1 || shard < whole);
        }
    }
}
