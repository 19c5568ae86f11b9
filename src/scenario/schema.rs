//! The JSON Schema of a scenario file: for editors, for `servesim schema`, and for the check of a
//! file's keys, types and bounds.

use std::borrow::Cow;
use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::time::SimDuration;
use crate::units::{Bytes, UsdPerHour};

use super::raw::RawScenario;

/// The schema with the built-in engines: what [`generate`] makes, from the committed file that
/// editors read too. Every run checks its file, and reading takes a quarter of generating.
pub fn json_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let text = include_str!(concat!(env!("OUT_DIR"), "/scenario.schema.json"));
        serde_json::from_str(text).expect("the committed schema is JSON")
    })
}

/// The schema as the types and their doc comments say it; `tests/schema.rs` holds the committed
/// file to it.
pub fn generate() -> Value {
    let mut schema = generator().into_root_schema_for::<RawScenario>().to_value();
    tidy(&mut schema);
    schema
}

/// The schema of one more table of settings; `about` describes it if the type does not.
pub(super) fn of_settings<T: JsonSchema>(about: &str) -> Value {
    let mut schema = generator().into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    if let Some(table) = schema.as_object_mut() {
        table.remove("$schema");
        table.remove("title");
        table.entry("description").or_insert_with(|| about.into());
    }
    schema
}

fn generator() -> SchemaGenerator {
    // Inlined, so that the check can walk file and schema side by side.
    SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator()
}

/// Takes out null, since in TOML a key is there or it is not, and the line breaks of the source.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::Array(forms)) = map.get_mut("anyOf") {
                forms.retain(|form| form["type"] != "null");
                if let [Value::Object(only)] = forms.as_mut_slice() {
                    let only = std::mem::take(only);
                    map.remove("anyOf");
                    for (key, value) in only {
                        // What the field says about itself comes before what its type says.
                        map.entry(key).or_insert(value);
                    }
                }
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// The schema of the key at a dotted path.
pub fn at_path<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(schema, |schema, key| {
        // Tables under names of the user's own have a schema in common.
        let named = || schema.get("additionalProperties").filter(|schema| schema.is_object());
        schema["properties"].get(key).or_else(named)
    })
}

/// All keys by dotted path, tables included.
pub fn keys(schema: &Value) -> Vec<(String, &Value)> {
    fn collect<'a>(prefix: &str, schema: &'a Value, out: &mut Vec<(String, &'a Value)>) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            out.push((path.clone(), schema));
            collect(&path, schema, out);
        }
    }
    let mut out = Vec::new();
    collect("", schema, &mut out);
    out
}

/// A quantity is text with a unit; `format` names the unit type for the check.
macro_rules! quantity_schema {
    ($($Type:ty, $name:literal, $format:literal, [$($example:literal),+];)*) => {$(
        impl JsonSchema for $Type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string", "format": $format, "examples": [$($example),+],
                })
            }
        }
    )*};
}

quantity_schema! {
    SimDuration, "Duration", "duration-with-unit", ["50ms", "240s", "1.5h"];
    Bytes, "Memory", "memory-with-unit", ["24 GiB", "512 MiB"];
    UsdPerHour, "Price", "price-with-unit", ["1.212 USD/h"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_description_and_a_checkable_type() {
        let keys = keys(json_schema());
        assert!(keys.len() > 80, "{}", keys.len());
        for (path, schema) in keys {
            assert!(schema["description"].is_string(), "{path} has no description");
            assert!(schema["type"].is_string() || schema["anyOf"].is_array(), "{path}: {schema}");
            if schema["type"] == "object" {
                let named = schema["additionalProperties"]["type"] == "object";
                assert!(named || schema["additionalProperties"] == false, "{path} takes any key");
            }
        }
    }

    #[test]
    fn the_keys_of_the_contract_are_known() {
        let known: Vec<String> = keys(json_schema()).into_iter().map(|(path, _)| path).collect();
        for path in [
            "name",
            "model.name model.config model.dtype model.quantize",
            "hardware.instance hardware.gpu hardware.num-gpus hardware.price hardware.price-kind",
            "hardware.price-list hardware.deployment",
            "engine.name engine.tensor-parallel-size engine.replicas",
            "engine.tgis.max-batch-size engine.tgis.max-batch-weight engine.tgis.max-waiting-tokens",
            "engine.vllm.max-model-len engine.vllm.gpu-memory-utilization engine.vllm.max-num-seqs",
            "engine.vllm.max-num-batched-tokens engine.vllm.block-size engine.vllm.kv-cache-dtype",
            "engine.vllm.enable-prefix-caching engine.vllm.enable-chunked-prefill",
            "engine.vllm.scheduling-policy engine.vllm.async-scheduling engine.vllm.watermark",
            "engine.vllm.long-prefill-token-threshold engine.vllm.num-gpu-blocks-override",
            "engine.vllm.scheduler-reserve-full-isl",
            "engine.tgi.max-input-tokens engine.tgi.max-total-tokens engine.tgi.cuda-graphs",
            "engine.tgi.max-batch-prefill-tokens engine.tgi.max-batch-total-tokens",
            "engine.tgi.waiting-served-ratio engine.tgi.max-waiting-tokens",
            "workload.duration workload.num-requests workload.seed workload.drain",
            "workload.closed-loop.clients workload.closed-loop.think-time",
            "workload.constant.request-rate workload.poisson.request-rate",
            "workload.lengths.dataset workload.lengths.fixed.input workload.lengths.fixed.output",
            "workload.lengths.order",
            "measure.warm-up measure.convention measure.seeds",
            "measure.slo.ttft measure.slo.tpot measure.slo.percentile",
        ]
        .iter()
        .flat_map(|line| line.split(' '))
        {
            assert!(known.iter().any(|key| key == path), "{path}");
        }
    }

    #[test]
    fn nothing_is_null_and_nothing_is_a_reference() {
        let text = json_schema().to_string();
        assert!(!text.contains("null"), "{text}");
        assert!(!text.contains("$ref"), "{text}");
    }
}
