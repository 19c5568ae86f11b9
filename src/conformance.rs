//! Holds our schedulers to schedules recorded from the real engines, step by step.
//!
//! There is no second engine here: the schedule under test comes from [`crate::engine::Simulation`]
//! with the same scheduler that `run` uses, driven by the recorded linear cost and watched by an
//! observer that writes steps in the recording's own format. Then two lists of JSON objects are
//! compared field by field.

mod divergence;
mod record;
mod replay;
mod router;
mod tgi;
mod tgis;
mod vllm;
mod vllm_v0;
mod vllm_v1;

use serde_json::Value;

use divergence::first_difference;
pub use divergence::{Divergence, State};
pub use record::{RecordError, Recorded, Run, record, record_scenario};

/// A recording that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    #[error("not a recorded schedule: {0}")]
    Malformed(String),
    #[error("engine {:?} has no scheduler here (there are {})", .0, FAMILIES.concat().join(", "))]
    UnknownEngine(String),
    #[error("{0}")]
    Impossible(String),
    /// The rules of one family cannot be asked about a schedule of another.
    #[error(
        "{asked} cannot replay a schedule of {recorded}, whose settings and steps are of another \
         kind; it can be checked against {}", .possible.join(", ")
    )]
    OtherFamily { asked: String, recorded: String, possible: &'static [&'static str] },
}

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub engine: String,
    /// Steps compared.
    pub steps: usize,
    pub divergence: Option<Divergence>,
    /// Invariants that did not hold in the replay, whatever was recorded.
    pub broken: Vec<String>,
    /// Whether a run that jumps over steps gives the same requests at the same nanoseconds as one that
    /// takes them all; not tried where the schedule is not reproduced, or its steps last as recorded.
    pub jumps_alike: Option<bool>,
}

impl Verdict {
    /// Whether our schedule is the recorded one, sound, and the same when steps are jumped over.
    pub fn passes(&self) -> bool {
        self.divergence.is_none() && self.broken.is_empty() && self.jumps_alike != Some(false)
    }
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
    let recorded = recorded_engine(&golden)?;
    let name = engine.unwrap_or(&recorded);
    let family = |name: &str| FAMILIES.iter().copied().find(|names| names.contains(&name));
    let Some(possible) = family(&recorded) else {
        return Err(ConformanceError::UnknownEngine(recorded));
    };
    if !possible.contains(&name) {
        return Err(match family(name) {
            None => ConformanceError::UnknownEngine(name.to_owned()),
            Some(_) => ConformanceError::OtherFamily { asked: name.to_owned(), recorded, possible },
        });
    }
    match name {
        "vllm-0.2.7" | "vllm-0.4.2" => vllm_v0::check(golden, name),
        "vllm-0.13" | "vllm-0.32" => vllm_v1::check(golden, &recorded, name),
        "tgis-2023" | "tgis-2024" => tgis::check(name, &golden),
        "static" => tgis::check_static(&golden),
        _ => tgi::check(name, &golden),
    }
}

/// Engines whose recordings are of one kind.
const FAMILIES: &[&[&str]] = &[
    &["vllm-0.13", "vllm-0.32"],
    &["vllm-0.2.7", "vllm-0.4.2"],
    // One limits tokens and the other bytes.
    &["tgis-2023"],
    &["tgis-2024"],
    &["tgi-v2", "tgi-v3"],
    &["static"],
];

/// The engine that a recording is of. The real ones name the version of a package.
fn recorded_engine(golden: &Value) -> Result<String, ConformanceError> {
    let format = golden["format"].as_str().unwrap_or_default();
    if format == vllm_v0::FORMAT || format == vllm_v1::FORMAT {
        let version = golden.pointer("/oracle/version").and_then(Value::as_str).unwrap_or_default();
        return Ok(format!("vllm-{}", version.strip_suffix(".0").unwrap_or(version)));
    }
    let engine = golden.pointer("/scenario/engine").and_then(Value::as_str);
    engine.map(str::to_owned).ok_or(ConformanceError::Malformed("it names no engine".into()))
}

/// Reads a number of a recording.
fn number(value: &Value, key: &str) -> Result<u64, ConformanceError> {
    value
        .get(key)
        .and_then(Value::as_u64)
        .ok_or_else(|| ConformanceError::Malformed(format!("{key} is not a whole number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_jumps_elsewhere_does_not_pass() {
        let verdict = |jumps_alike| Verdict {
            engine: "vllm-0.32".into(),
            steps: 3,
            divergence: None,
            broken: Vec::new(),
            jumps_alike,
        };
        assert!(verdict(None).passes() && verdict(Some(true)).passes());
        assert!(!verdict(Some(false)).passes());
    }
}
