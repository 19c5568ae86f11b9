//! Holds our schedulers to schedules recorded from the real engines, step by step.
//!
//! There is no second engine here: the schedule under test comes from [`crate::engine::Simulation`]
//! with the same scheduler that `run` uses, driven by the recorded linear cost and watched by an
//! observer that writes steps in the recording's own format. Then two lists of JSON objects are
//! compared field by field.

mod router_script;
mod tgi;
mod tgis;
mod vllm;
mod vllm_v0;
mod vllm_v1;

use serde_json::{Map, Value};

/// A recording that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    #[error("not a recorded schedule: {0}")]
    Malformed(String),
    #[error("engine {0:?} has no scheduler here")]
    UnknownEngine(String),
}

/// The first place where our schedule and the recorded one part.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// The list that differs: `steps`, `finished`, `results`.
    pub list: &'static str,
    /// Position in that list, from 0.
    pub index: usize,
    pub expected: Option<Value>,
    pub actual: Option<Value>,
    /// Keys whose values differ.
    pub fields: Vec<String>,
    /// The last entry on which both agree.
    pub before: Option<Value>,
}

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub engine: String,
    /// Steps compared.
    pub steps: usize,
    pub divergence: Option<Divergence>,
}

/// Replays one recorded schedule.
pub fn check(bytes: &[u8]) -> Result<Verdict, ConformanceError> {
    let golden: Value =
        serde_json::from_slice(bytes).map_err(|e| ConformanceError::Malformed(e.to_string()))?;
    if golden["format"] == vllm_v0::FORMAT {
        return vllm_v0::check(golden);
    }
    if golden["format"] == vllm_v1::FORMAT {
        return vllm_v1::check(golden);
    }
    let engine = golden.pointer("/scenario/engine").and_then(Value::as_str);
    match engine {
        Some(name) if name.starts_with("tgis-") => tgis::check(name, &golden),
        Some(name) if name.starts_with("tgi-") => tgi::check(name, &golden),
        Some(name) => Err(ConformanceError::UnknownEngine(name.to_owned())),
        None => Err(ConformanceError::Malformed("it names no engine".into())),
    }
}

/// The first entry in which two lists of objects differ.
fn first_difference(
    list: &'static str,
    expected: &[Value],
    actual: &[Value],
) -> Option<Divergence> {
    let index =
        (0..expected.len().max(actual.len())).find(|&i| expected.get(i) != actual.get(i))?;
    let (expected_entry, actual_entry) = (expected.get(index), actual.get(index));
    let empty = Map::new();
    let object = |entry: Option<&Value>| entry.and_then(Value::as_object).unwrap_or(&empty).clone();
    let (left, right) = (object(expected_entry), object(actual_entry));
    let mut fields: Vec<String> = left
        .keys()
        .chain(right.keys())
        .filter(|k| left.get(*k) != right.get(*k))
        .cloned()
        .collect();
    fields.sort();
    fields.dedup();
    Some(Divergence {
        list,
        index,
        expected: expected_entry.cloned(),
        actual: actual_entry.cloned(),
        fields,
        before: index.checked_sub(1).map(|i| expected[i].clone()),
    })
}

/// Reads a number of a recording.
fn number(value: &Value, key: &str) -> Result<u64, ConformanceError> {
    value
        .get(key)
        .and_then(Value::as_u64)
        .ok_or_else(|| ConformanceError::Malformed(format!("{key} is not a whole number")))
}
