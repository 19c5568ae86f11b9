//! The JSON Schema of a scenario file: for editors, for `servesim schema`, and for the check of a
//! file's keys, types and bounds.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::embedded;
use crate::time::SimDuration;
use crate::units::{Bytes, UsdPerHour};

use super::raw::RawScenario;

/// The schema of a file, a table or a key: the words of JSON Schema that ours uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schema {
    own: embedded::Value,
    /// Of the whole file, for tables that have the keys of another.
    root: embedded::Value,
}

impl Schema {
    /// The scenario's file with the built-in engines: what [`generate`] makes, as the committed file
    /// that editors read too has it.
    pub fn scenario() -> Self {
        Self { own: embedded::SCHEMA, root: embedded::SCHEMA }
    }

    /// A schema that was put together while the program ran; kept until it ends.
    pub(super) fn leak(json: &Value) -> Self {
        let own = embedded::Value::leak(json).expect("a schema is an object");
        Self { own, root: own }
    }

    /// A part of it: what that stands for, where it only names another table (`#/properties/model`).
    fn part(self, own: embedded::Value) -> Self {
        let place = own.get("$ref").and_then(embedded::Value::as_text);
        let find = |place: &'static str| {
            place.split('/').skip(1).try_fold(self.root, |here, word| here.get(word))
        };
        Self { own: place.and_then(find).unwrap_or(own), ..self }
    }

    pub fn to_json(self) -> Value {
        serde_json::to_value(self.own).expect("its keys are text")
    }

    fn text(self, word: &str) -> Option<&'static str> {
        self.own.get(word)?.as_text()
    }

    /// `integer`, `object` and so on; `None` where there are several [`Schema::forms`].
    pub fn kind(self) -> Option<&'static str> {
        self.text("type")
    }

    pub fn is_table(self) -> bool {
        self.kind() == Some("object")
    }

    pub fn description(self) -> Option<&'static str> {
        self.text("description")
    }

    /// The unit that a text stands for, or the width of a number.
    pub fn format(self) -> Option<&'static str> {
        self.text("format")
    }

    /// The keys of a table under names of ours, in the order of the types.
    pub fn properties(self) -> impl Iterator<Item = (&'static str, Self)> {
        let properties = self.own.get("properties").map_or(&[][..], |table| table.entries());
        properties.iter().map(move |(key, schema)| (*key, self.part(*schema)))
    }

    /// What a key of this table holds. Tables under names of the user's own have one in common.
    pub fn property(self, key: &str) -> Option<Self> {
        let named = || self.own.get("additionalProperties").filter(|any| !any.entries().is_empty());
        let known = self.own.get("properties").and_then(|table| table.get(key));
        known.or_else(named).map(|own| self.part(own))
    }

    /// What each item of a list is.
    pub fn items(self) -> Option<Self> {
        self.own.get("items").map(|own| self.part(own))
    }

    /// The forms that a value may have where there are several; else none.
    pub fn forms(self) -> impl Iterator<Item = Self> {
        self.list("anyOf").iter().map(move |form| self.part(*form))
    }

    /// The names of which a text must be one; none where any will do.
    pub fn values(self) -> impl Iterator<Item = &'static str> + Clone {
        self.list("enum").iter().filter_map(|value| value.as_text())
    }

    pub fn examples(self) -> impl Iterator<Item = &'static str> {
        self.list("examples").iter().filter_map(|value| value.as_text())
    }

    fn list(self, word: &str) -> &'static [embedded::Value] {
        self.own.get(word).and_then(embedded::Value::as_list).unwrap_or_default()
    }

    /// The bound of this name, such as `exclusiveMinimum`.
    pub fn bound(self, word: &str) -> Option<f64> {
        self.own.get(word)?.as_f64()
    }

    /// The schema of the key at a dotted path.
    pub fn at(self, path: &str) -> Option<Self> {
        path.split('.').try_fold(self, Self::property)
    }

    /// All keys by dotted path, tables included.
    pub fn keys(self) -> Vec<(String, Self)> {
        fn collect(prefix: &str, schema: Schema, out: &mut Vec<(String, Schema)>) {
            for (key, schema) in schema.properties() {
                let path = if prefix.is_empty() { key.into() } else { format!("{prefix}.{key}") };
                out.push((path.clone(), schema));
                collect(&path, schema, out);
            }
        }
        let mut out = Vec::new();
        collect("", self, &mut out);
        out
    }
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

/// A quantity is text with a unit; `format` names the unit type for the check.
macro_rules! quantity_schema {
    ($($Type:ty, $name:literal, $format:literal, [$($example:literal),+];)*) => {$(
        impl JsonSchema for $Type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
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
        let keys = Schema::scenario().keys();
        assert!(keys.len() > 80, "{}", keys.len());
        for (path, schema) in keys {
            assert!(schema.description().is_some(), "{path} has no description");
            assert!(schema.kind().is_some() || schema.forms().next().is_some(), "{path}");
            if schema.is_table() {
                let any = schema.own.get("additionalProperties");
                let named = schema.property("any name").is_some_and(Schema::is_table);
                assert!(
                    named || any == Some(embedded::Value::Boolean(false)),
                    "{path} takes any key"
                );
            }
        }
    }

    #[test]
    fn the_keys_of_the_contract_are_known() {
        let known: Vec<String> =
            Schema::scenario().keys().into_iter().map(|(path, _)| path).collect();
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
    fn nothing_is_null_and_only_pools_refer_to_other_keys() {
        let text = Schema::scenario().to_json().to_string();
        assert!(!text.contains("null"), "{text}");
        assert_eq!(text.matches("$ref").count(), 3, "{text}");
        let key = |path: &str| Schema::scenario().at(path).unwrap_or_else(|| panic!("{path}"));
        for path in ["model.name", "hardware.instance", "engine.vllm.max-num-seqs"] {
            assert_eq!(key(&format!("fleet.pools.large.{path}")), key(path));
        }
    }
}
