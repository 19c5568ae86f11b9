//! The JSON Schema of a sweep's file, made from the scenario's: the same keys, each with a list or a
//! range in place of a value.

use serde_json::{Map, Value, json};

use super::columns;
use crate::scenario::schema::Schema;
use crate::scenario::shared_settings;

/// `scenario` is the schema of the scenario's file.
pub fn json_schema(scenario: Schema) -> Value {
    let mut axes = axes_of(scenario);
    let shared: Map<String, Value> = shared_settings()
        .filter_map(|(key, like)| Some((key, axis_of(scenario.at(&like)?))))
        .collect();
    if let Some(properties) = axes["properties"].as_object_mut() {
        properties.extend(shared);
    }
    let ranked: Vec<&str> = columns::metrics()
        .map(|(name, _)| name)
        .filter(|name| columns::less_is_better(name).is_some())
        .collect();
    let latencies: Vec<&str> = ranked.iter().copied().filter(|n| n.contains("_ms.")).collect();
    let mut base = scenario.to_json();
    if let Some(base) = base.as_object_mut() {
        base.shift_remove("$schema");
        base.shift_remove("title");
        base.insert("description".into(), "Changes to the base; keys as in a scenario.".into());
    }
    let mut zipped = axes.clone();
    axes["description"] = "Keys that are crossed; the last in the file moves fastest.".into();
    zipped["description"] = "Keys that move together: lists of one length.".into();
    for schema in [&mut base, &mut axes, &mut zipped] {
        move_references(schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "servesim sweep",
        "description": "A scenario over a grid of its keys.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": {
                "type": "string",
                "description": "What reports call the sweep (default: the file's name).",
            },
            "base": {
                "type": "string",
                "description": "The scenario to start from: a file, relative to this one, or a name \
                                of `servesim list scenarios`.",
            },
            "scenario": base,
            "axes": axes,
            "zip": { "type": "array", "items": zipped, "description": "Groups of zipped keys." },
            "where": {
                "description": "Conditions that a point must meet, as in \
                                \"engine.tensor-parallel-size <= gpus\".",
                "anyOf": [
                    { "type": "string" },
                    { "type": "array", "items": { "type": "string" } },
                ],
            },
            "rank": {
                "type": "object",
                "additionalProperties": false,
                "description": "How points are ranked.",
                "properties": {
                    "by": {
                        "enum": ranked,
                        "description": "The metric (default usd_per_1m_output_tokens, or \
                                        output_throughput where there is no price).",
                    },
                    "latency": {
                        "enum": latencies,
                        "description": "The latency of the Pareto fronts (default e2el_ms.p99).",
                    },
                    "within": {
                        "type": "array",
                        "items": { "type": "string" },
                        "description": "Axes that are not a choice: points are ranked among those \
                                        that agree in them (default: the model, the workload and \
                                        what is measured).",
                    },
                    "top": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": 1_000_000,
                        "description": "Most rows of a ranking that are printed (default 10).",
                    },
                },
            },
        },
    })
}

/// What refers to a key of the scenario finds it in the base.
fn move_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(place)) = map.get_mut("$ref") {
                *place = place.replacen("#/", "#/properties/scenario/", 1);
            }
            map.values_mut().for_each(move_references);
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}

fn axes_of(schema: Schema) -> Value {
    let properties: Map<String, Value> = schema
        .properties()
        .map(|(key, schema)| {
            let axis = if schema.is_table() {
                let values = json!({ "type": "array", "items": schema.to_json(), "minItems": 1 });
                json!({ "anyOf": [axes_of(schema), values] })
            } else {
                axis_of(schema)
            };
            (key.to_owned(), axis)
        })
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn axis_of(schema: Schema) -> Value {
    let mut forms = vec![json!({ "type": "array", "items": schema.to_json(), "minItems": 1 })];
    let number = |schema: Schema| matches!(schema.kind(), Some("integer" | "number"));
    if number(schema) || schema.forms().any(number) {
        forms.push(json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["from", "to"],
            "properties": {
                "from": { "type": "number" },
                "to": { "type": "number" },
                "step": { "type": "number", "description": "Difference of neighbours." },
                "steps": { "type": "integer", "minimum": 1, "description": "Number of values." },
                "scale": { "enum": ["linear", "log"] },
            },
        }));
    }
    json!({ "description": schema.description(), "anyOf": forms })
}
