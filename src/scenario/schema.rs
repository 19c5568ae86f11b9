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

/// The schema, built once: it depends on nothing but the program.
pub fn json_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        // Inlined, so that the check can walk file and schema side by side.
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<RawScenario>().to_value();
        drop_null(&mut schema);
        schema
    })
}

/// TOML has no null: a key is there or it is not.
fn drop_null(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
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
            map.values_mut().for_each(drop_null);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}

/// The schema of the key at a dotted path.
pub(super) fn at_path(path: &str) -> Option<&'static Value> {
    path.split('.').try_fold(json_schema(), |schema, key| schema["properties"].get(key))
}

/// All keys by dotted path, tables included.
pub fn keys() -> Vec<(String, &'static Value)> {
    fn collect(prefix: &str, schema: &'static Value, out: &mut Vec<(String, &'static Value)>) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            out.push((path.clone(), schema));
            collect(&path, schema, out);
        }
    }
    let mut out = Vec::new();
    collect("", json_schema(), &mut out);
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
        let keys = keys();
        assert!(keys.len() > 80, "{}", keys.len());
        for (path, schema) in keys {
            assert!(schema["description"].is_string(), "{path} has no description");
            assert!(schema["type"].is_string() || schema["anyOf"].is_array(), "{path}: {schema}");
            if schema["type"] == "object" {
                assert_eq!(schema["additionalProperties"], false, "{path} takes any key");
            }
        }
    }

    #[test]
    fn nothing_is_null_and_nothing_is_a_reference() {
        let text = json_schema().to_string();
        assert!(!text.contains("null"), "{text}");
        assert!(!text.contains("$ref"), "{text}");
    }
}
