//! The JSON Schema of a sweep's file, made from the scenario's: the same keys, each with a list or a
//! range in place of a value.

use serde_json::{Map, Value, json};

use super::columns;
use crate::scenario::schema::Schema;
use crate::scenario::shared_settings;

/// Where the parts that are named several times stand.
const SCENARIO: &str = "#/$defs/scenario";
const AXES: &str = "#/$defs/axes";
const RANGE: &str = "#/$defs/range";

/// `scenario` is the schema of the scenario's file. It stands in the document once, and an axis refers
/// to the key whose values it lists.
pub fn json_schema(scenario: Schema) -> Value {
    let mut axes = axes_of(scenario, SCENARIO);
    let shared: Map<String, Value> = shared_settings()
        .filter_map(|(key, like)| Some((key, axis_of(scenario.at(&like)?, &place_of(&like)))))
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
    }
    move_references(&mut base);
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
            "scenario": {
                "$ref": SCENARIO,
                "description": "Changes to the base; keys as in a scenario.",
            },
            "axes": {
                "$ref": AXES,
                "description": "Keys that are crossed; the last in the file moves fastest.",
            },
            "zip": {
                "type": "array",
                "items": {
                    "$ref": AXES,
                    "description": "Keys that move together: lists of one length.",
                },
                "description": "Groups of zipped keys.",
            },
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
        "$defs": {
            "scenario": base,
            "axes": axes,
            "range": {
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
            },
        },
    })
}

/// What refers to a key of the scenario finds it where that stands here.
fn move_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(place)) = map.get_mut("$ref") {
                *place = place.replacen('#', SCENARIO, 1);
            }
            map.values_mut().for_each(move_references);
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}

/// Where a key of the scenario stands, by its dotted path.
fn place_of(path: &str) -> String {
    path.split('.').fold(SCENARIO.to_owned(), |place, key| format!("{place}/properties/{key}"))
}

/// Of a table that stands at `place`.
fn axes_of(schema: Schema, place: &str) -> Value {
    let properties: Map<String, Value> = schema
        .properties()
        .map(|(key, schema)| {
            let place = format!("{place}/properties/{key}");
            let axis = if schema.is_table() {
                json!({ "anyOf": [axes_of(schema, &place), list_of(&place)] })
            } else {
                axis_of(schema, &place)
            };
            (key.to_owned(), axis)
        })
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn axis_of(schema: Schema, place: &str) -> Value {
    let mut forms = vec![list_of(place)];
    let number = |schema: Schema| matches!(schema.kind(), Some("integer" | "number"));
    if number(schema) || schema.forms().any(number) {
        forms.push(json!({ "$ref": RANGE }));
    }
    json!({ "description": schema.description(), "anyOf": forms })
}

/// Values of the key that stands at `place`.
fn list_of(place: &str) -> Value {
    json!({ "type": "array", "items": { "$ref": place }, "minItems": 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(schema: &'a Value, into: &mut Vec<&'a str>) {
        match schema {
            Value::Object(map) => {
                into.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, into));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, into)),
            _ => {}
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_nothing_stands_there_twice() {
        let schema = json_schema(Schema::scenario());
        let mut places = Vec::new();
        references(&schema, &mut places);
        assert!(places.len() > 200, "{}", places.len());
        for place in places {
            let pointer = place.strip_prefix('#').expect("a place in this document");
            assert!(schema.pointer(pointer).is_some_and(Value::is_object), "{place}");
        }
        let (whole, scenario) =
            (schema.to_string().len(), Schema::scenario().to_json().to_string().len());
        assert!(whole < 3 * scenario, "{whole} bytes, the scenario's {scenario}");
    }

    #[test]
    fn an_axis_lists_values_of_its_key_or_gives_a_range() {
        let schema = json_schema(Schema::scenario());
        let clients = "/$defs/axes/properties/workload/anyOf/0/properties/closed-loop/anyOf/0\
                       /properties/clients/anyOf";
        let forms = schema.pointer(clients).expect("the axis");
        let key = forms[0]["items"]["$ref"].as_str().expect("a reference");
        let key = schema.pointer(&key[1..]).expect("the key");
        assert_eq!(key["type"], "integer");
        assert_eq!(forms[1]["$ref"], RANGE);
    }
}
