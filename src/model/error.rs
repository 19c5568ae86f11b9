//! Why a model is refused, and where in its `config.json` the reason stands.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;

use super::Architecture;

/// Why a model description was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// `at` is the line and the column, both from 1, at which reading stopped.
    #[error("model {model}: not a JSON object: {reason}; expected a Hugging Face config.json")]
    Json { model: String, reason: String, at: (usize, usize) },
    #[error("model {model}: the config has no {field:?}, which a Hugging Face config.json gives")]
    Missing { model: String, field: &'static str },
    #[error("model {model}: {field:?} is {found}; it must be {expected}")]
    Field { model: String, field: &'static str, found: String, expected: String },
    #[error(
        "model {model}: architecture {found:?} is not supported; supported are {}",
        Architecture::names().collect::<Vec<_>>().join(", ")
    )]
    Architecture { model: String, found: String },
    /// `field` is the path of keys that asks for it.
    #[error("model {model}: {feature} is not modelled yet; {remedy}")]
    Unsupported { model: String, field: &'static str, feature: String, remedy: &'static str },
    #[error(
        "unknown model {name:?}{}; presets are {}; or give the path of a config.json",
        .suggestion.as_ref().map(|s| format!("; did you mean {s:?}?")).unwrap_or_default(),
        .known.join(", ")
    )]
    UnknownPreset { name: String, suggestion: Option<String>, known: Vec<String> },
}

impl ModelError {
    /// The bytes of the `config.json` that it is about; `None` where something is missing.
    pub fn place(&self, text: &str) -> Option<Range<usize>> {
        match self {
            Self::Json { at, .. } => Some(byte_at(text, *at)),
            Self::Field { field, .. } | Self::Unsupported { field, .. } => value_at(text, field),
            Self::Architecture { found, .. } => {
                let list = value_at(text, "architectures")?;
                let name = text[list.clone()].find(found.as_str()).map(|at| list.start + at);
                Some(name.map_or(list, |start| start..start + found.len()))
            }
            Self::Missing { .. } | Self::UnknownPreset { .. } => None,
        }
    }
}

/// An empty range; columns count bytes, as the JSON parser's do.
fn byte_at(text: &str, (line, column): (usize, usize)) -> Range<usize> {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let at = (before + column.saturating_sub(1)).min(text.len());
    at..at
}

/// The value at a dotted path of keys, as far as there is one.
fn value_at(text: &str, path: &str) -> Option<Range<usize>> {
    let mut found = None;
    let mut within = text;
    for key in path.split('.') {
        let Ok(mut entries) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(within)
        else {
            break;
        };
        let Some(value) = entries.remove(key) else { break };
        within = value.get();
        // A raw value is a piece of the text that it was read from.
        let start = (within.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
        found = Some(start..start + within.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::model::ModelConfig;

    #[test]
    fn a_message_knows_which_bytes_it_is_about() {
        let text = include_str!("../../scenarios/models/llama-2-7b.json");
        let about = |from: &str, to: &str| {
            let edited = text.replacen(from, to, 1);
            assert_ne!(edited, text, "{from}");
            let error = ModelConfig::from_hf_json("mine", edited.as_bytes()).unwrap_err();
            error.place(&edited).map(|place| edited[place.start..].to_owned())
        };
        let heads = about("\"num_key_value_heads\": 32", "\"num_key_value_heads\": 33").unwrap();
        assert!(heads.starts_with("33"), "{heads}");
        let class = about("LlamaForCausalLM", "GPT2LMHeadModel").unwrap();
        assert!(class.starts_with("GPT2LMHeadModel"), "{class}");
        let quantized = "{\"quantization_config\": {\"quant_method\": \"hqq\"},";
        assert!(about("{", quantized).unwrap().starts_with("\"hqq\""));
        // Of four bits in groups of 128 one is wrong and the other is not written.
        let coarse = "{\"quantization_config\": {\"quant_method\": \"gptq\", \"w_bit\": 8},";
        assert!(about("{", coarse).unwrap().starts_with("{\"quant_method\""));
        assert_eq!(about("\"hidden_size\"", "\"hidden\""), None);
        let cut = about("\"hidden_size\":", "\"hidden_size\"").unwrap();
        assert!(cut.contains("4096") && !cut.contains("hidden_size"), "{cut}");
    }
}
