//! Holds our schedulers to schedules recorded from the real engines, step by step.
//!
//! There is no second engine here: the schedule under test comes from [`crate::engine::Simulation`]
//! with the same scheduler that `run` uses, driven by the recorded linear cost and watched by an
//! observer that writes steps in the recording's own format. Then two lists of JSON objects are
//! compared field by field.

mod divergence;
mod router_script;
mod tgi;
mod tgis;
mod vllm;
mod vllm_v0;
mod vllm_v1;

use serde_json::Value;

pub use divergence::Divergence;
use divergence::first_difference;

/// A recording that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    #[error("not a recorded schedule: {0}")]
    Malformed(String),
    #[error("engine {0:?} has no scheduler here")]
    UnknownEngine(String),
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
    check_as(bytes, None)
}

/// Replays one recorded schedule by the rules of `engine` instead of those of the engine that was
/// recorded: would that version have done the same?
pub fn check_as(bytes: &[u8], engine: Option<&str>) -> Result<Verdict, ConformanceError> {
    let golden: Value =
        serde_json::from_slice(bytes).map_err(|e| ConformanceError::Malformed(e.to_string()))?;
    if golden["format"] == vllm_v0::FORMAT {
        return vllm_v0::check(golden, engine);
    }
    if golden["format"] == vllm_v1::FORMAT {
        return vllm_v1::check(golden, engine);
    }
    let recorded = golden.pointer("/scenario/engine").and_then(Value::as_str);
    match engine.or(recorded) {
        Some(name) if name.starts_with("tgis-") => tgis::check(name, &golden),
        Some(name) if name.starts_with("tgi-") => tgi::check(name, &golden),
        Some(name) => Err(ConformanceError::UnknownEngine(name.to_owned())),
        None => Err(ConformanceError::Malformed("it names no engine".into())),
    }
}

/// Reads a number of a recording.
fn number(value: &Value, key: &str) -> Result<u64, ConformanceError> {
    value
        .get(key)
        .and_then(Value::as_u64)
        .ok_or_else(|| ConformanceError::Malformed(format!("{key} is not a whole number")))
}
