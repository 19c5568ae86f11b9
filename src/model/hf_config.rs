//! Hugging Face `config.json` -> [`ModelConfig`].
//!
//! Field names and the defaults of absent fields are those of `transformers`' configuration
//! classes, read by the engines in the same way.

use serde_json::{Map, Value};

use crate::named::UnknownName;

use super::{Architecture, Dtype, ModelConfig, ModelError, Moe, SlidingWindow, WeightFormat};

// Bounds far above any model built, low enough that no product of fields overflows a u64 unseen.
const MAX_SIZE: u64 = 1 << 22;
const MAX_LAYERS: u64 = 1 << 12;
const MAX_HEADS: u64 = 1 << 14;
const MAX_EXPERTS: u64 = 1 << 14;
const MAX_POSITIONS: u64 = 1 << 30;
const MAX_PARAMETERS: u128 = 1 << 50;

pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<ModelConfig, ModelError> {
    let json = |reason: String, at| ModelError::Json { model: name.to_owned(), reason, at };
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| json(error.to_string(), (error.line(), error.column())))?;
    let Value::Object(map) = value else {
        return Err(json("the top level is not an object".into(), (1, 1)));
    };
    let config = Fields { model: name, map: &map };
    let architecture = config.architecture()?;

    let hidden_size = config.size("hidden_size", MAX_SIZE)?;
    let heads = config.size("num_attention_heads", MAX_HEADS)?;
    let layers = config.size("num_hidden_layers", MAX_LAYERS)?;
    let kv_heads = config.optional_size("num_key_value_heads", MAX_HEADS)?.unwrap_or(heads);
    if kv_heads > heads || heads % kv_heads != 0 {
        let expected = format!("a divisor of num_attention_heads ({heads})");
        return Err(config.bad("num_key_value_heads", expected));
    }
    let head_dim = match config.optional_size("head_dim", MAX_HEADS)? {
        Some(head_dim) => head_dim,
        // The Gemma classes default to 256, Qwen3 to 128; the others divide.
        None if architecture.is_gemma() => 256,
        None if architecture == Architecture::Qwen3 => 128,
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => {
            let expected =
                format!("given, as hidden_size {hidden_size} is not a multiple of {heads} heads");
            return Err(config.bad("head_dim", expected));
        }
    };
    let attention_bias = config.flag("attention_bias")?.unwrap_or(false);
    let model = ModelConfig {
        name: name.to_owned(),
        architecture,
        hidden_size,
        intermediate_size: config.size("intermediate_size", MAX_SIZE)?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        vocab_size: config.size("vocab_size", MAX_SIZE)?,
        tie_word_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(architecture.is_gemma()),
        max_position_embeddings: config.size("max_position_embeddings", MAX_POSITIONS)?,
        dtype: config.dtype()?,
        checkpoint_format: config.checkpoint_format()?,
        // Qwen2 always biases Q, K and V, and never the output projection.
        qkv_bias: architecture == Architecture::Qwen2 || attention_bias,
        o_bias: architecture != Architecture::Qwen2 && attention_bias,
        mlp_bias: architecture == Architecture::Llama && config.flag("mlp_bias")?.unwrap_or(false),
        qk_norm: matches!(
            architecture,
            Architecture::Qwen3 | Architecture::Qwen3Moe | Architecture::Gemma3
        ),
        moe: config.moe(architecture, layers)?,
        sliding_window: config.sliding_window(architecture, layers)?,
    };
    if model.parameters_wide() > MAX_PARAMETERS {
        let expected = format!("such that the model stays below {MAX_PARAMETERS} parameters");
        return Err(config.bad("hidden_size", expected));
    }
    Ok(model)
}

struct Fields<'a> {
    model: &'a str,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    /// `null` is how configs write "not set".
    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn bad(&self, field: &'static str, expected: String) -> ModelError {
        let found = self.get(field).map_or("absent".to_owned(), |value| {
            let text = value.to_string();
            if text.chars().count() <= 60 {
                text
            } else {
                text.chars().take(57).chain("...".chars()).collect()
            }
        });
        ModelError::Field { model: self.model.to_owned(), field, found, expected }
    }

    fn unsupported(
        &self,
        field: &'static str,
        feature: String,
        remedy: &'static str,
    ) -> ModelError {
        ModelError::Unsupported { model: self.model.to_owned(), field, feature, remedy }
    }

    fn optional_size(&self, field: &'static str, max: u64) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if (1..=max).contains(&n) => Ok(u32::try_from(n).ok()),
            _ => Err(self.bad(field, format!("a whole number from 1 to {max}"))),
        }
    }

    fn size(&self, field: &'static str, max: u64) -> Result<u32, ModelError> {
        self.optional_size(field, max)?
            .ok_or(ModelError::Missing { model: self.model.to_owned(), field })
    }

    fn flag(&self, field: &'static str) -> Result<Option<bool>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.bad(field, "true or false".into())),
        }
    }

    fn text(&self, field: &'static str) -> Result<Option<&str>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(field, "a string".into())),
        }
    }

    fn list(&self, field: &'static str) -> Result<&[Value], ModelError> {
        match self.get(field) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.bad(field, "a list".into())),
        }
    }

    fn architecture(&self) -> Result<Architecture, ModelError> {
        let model = || self.model.to_owned();
        let found = self
            .list("architectures")?
            .first()
            .ok_or_else(|| ModelError::Missing { model: model(), field: "architectures" })?
            .as_str()
            .ok_or_else(|| self.bad("architectures", "a list of class names".into()))?;
        // Multi-head latent attention keeps one compressed vector per token instead of keys and
        // values: neither its KV bytes nor its shapes follow from the fields read here.
        if self.get("kv_lora_rank").is_some() || found.starts_with("Deepseek") {
            let compressed = self.get("kv_lora_rank").is_some();
            return Err(self.unsupported(
                if compressed { "kv_lora_rank" } else { "architectures" },
                format!("multi-head latent attention (MLA, {:?})", shorten(found)),
                "choose a model with ordinary or grouped-query attention",
            ));
        }
        found.parse().map_err(|error: UnknownName| ModelError::Architecture {
            model: model(),
            found: error.given,
        })
    }

    /// `dtype` in newer files, `torch_dtype` in older ones; float32 where absent, as in PyTorch.
    fn dtype(&self) -> Result<Dtype, ModelError> {
        let (field, text) = match self.text("torch_dtype")? {
            Some(text) => ("torch_dtype", Some(text)),
            None => ("dtype", self.text("dtype")?),
        };
        let Some(text) = text else { return Ok(Dtype::Float32) };
        text.trim_start_matches("torch.").parse().map_err(|_| {
            self.bad(field, format!("one of {}", Dtype::names().collect::<Vec<_>>().join(", ")))
        })
    }

    fn checkpoint_format(&self) -> Result<WeightFormat, ModelError> {
        const REMEDY: &str = "remove quantization_config and set `quantize` to the nearest format";
        let Some(value) = self.get("quantization_config") else { return Ok(WeightFormat::None) };
        let Some(quantization) = value.as_object() else {
            return Err(self.bad("quantization_config", "an object".into()));
        };
        let number = |key: &str| quantization.get(key).and_then(Value::as_i64);
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("");
        let four_bit = quantization.get("load_in_4bit").and_then(Value::as_bool).unwrap_or(false);
        let format = match method {
            "awq" => WeightFormat::Awq,
            "gptq" => WeightFormat::Gptq,
            "marlin" => WeightFormat::Marlin,
            "eetq" => WeightFormat::Eetq,
            "fp8" => WeightFormat::Fp8,
            "bitsandbytes" if four_bit => {
                match quantization.get("bnb_4bit_quant_type").and_then(Value::as_str) {
                    Some("nf4") => WeightFormat::BitsandbytesNf4,
                    _ => WeightFormat::BitsandbytesFp4,
                }
            }
            "bitsandbytes" => WeightFormat::Bitsandbytes,
            other => {
                let feature = format!("quantization method {:?}", shorten(other));
                return Err(self.unsupported("quantization_config.quant_method", feature, REMEDY));
            }
        };
        if matches!(format, WeightFormat::Awq | WeightFormat::Gptq | WeightFormat::Marlin) {
            let bits = number("bits").or_else(|| number("w_bit")).unwrap_or(4);
            let group = number("group_size").or_else(|| number("q_group_size")).unwrap_or(128);
            if bits != 4 || group != 128 {
                let feature = format!("{format} with {bits} bits in groups of {group}");
                return Err(self.unsupported(
                    if bits == 4 {
                        "quantization_config.group_size"
                    } else {
                        "quantization_config.bits"
                    },
                    feature,
                    "use a checkpoint with 4 bits in groups of 128",
                ));
            }
        }
        Ok(format)
    }

    fn moe(&self, architecture: Architecture, layers: u32) -> Result<Option<Moe>, ModelError> {
        let (experts, expert_ffn, moe_layers) = match architecture {
            Architecture::Mixtral => ("num_local_experts", "intermediate_size", layers),
            Architecture::Qwen3Moe => {
                ("num_experts", "moe_intermediate_size", self.qwen_moe_layers(layers)?)
            }
            _ => return Ok(None),
        };
        let num_experts = self.size(experts, MAX_EXPERTS)?;
        let experts_per_token = self.size("num_experts_per_tok", u64::from(num_experts))?;
        let expert_intermediate_size = self.size(expert_ffn, MAX_SIZE)?;
        if moe_layers == 0 {
            return Ok(None);
        }
        Ok(Some(Moe { num_experts, experts_per_token, expert_intermediate_size, moe_layers }))
    }

    /// Qwen3-MoE: layer i (from 0) has experts unless it is listed as dense, where i + 1 is a
    /// multiple of the step.
    fn qwen_moe_layers(&self, layers: u32) -> Result<u32, ModelError> {
        let step = self.optional_size("decoder_sparse_step", MAX_LAYERS)?.unwrap_or(1);
        let dense = self.list("mlp_only_layers")?;
        let is_dense = |layer: u32| dense.iter().any(|v| v.as_u64() == Some(u64::from(layer)));
        let count = (0..layers).filter(|i| (i + 1) % step == 0 && !is_dense(*i)).count();
        Ok(u32::try_from(count).unwrap_or(layers))
    }

    fn sliding_window(
        &self,
        architecture: Architecture,
        layers: u32,
    ) -> Result<Option<SlidingWindow>, ModelError> {
        let written = self.optional_size("sliding_window", MAX_POSITIONS)?;
        // `null` switches the window off; a missing key means the class default.
        let default =
            |window| if self.map.contains_key("sliding_window") { None } else { Some(window) };
        let listed = self.list("layer_types")?;
        let listed_sliding =
            listed.iter().filter(|v| v.as_str() == Some("sliding_attention")).count();
        let (window, pattern_layers) = match architecture {
            Architecture::Mistral => (written.or(default(4096)), layers),
            Architecture::Phi3 | Architecture::Mixtral => (written, layers),
            // Even layers slide, odd ones see everything.
            Architecture::Gemma2 => (written.or(default(4096)), layers.div_ceil(2)),
            Architecture::Gemma3 => {
                let pattern =
                    self.optional_size("sliding_window_pattern", MAX_LAYERS)?.unwrap_or(6);
                (written.or(default(4096)), layers - layers / pattern)
            }
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => {
                let on = self.flag("use_sliding_window")?.unwrap_or(false);
                let full = self.optional_size("max_window_layers", u64::MAX)?.unwrap_or(28);
                (written.filter(|_| on), layers.saturating_sub(full))
            }
            Architecture::Llama | Architecture::Gemma => (None, 0),
        };
        let sliding_layers = if listed.is_empty() {
            pattern_layers
        } else {
            u32::try_from(listed_sliding).unwrap_or(u32::MAX).min(layers)
        };
        Ok(window
            .filter(|_| sliding_layers > 0)
            .map(|window| SlidingWindow { window, layers: sliding_layers }))
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
