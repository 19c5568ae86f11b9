//! JSON documents.

use serde::Serialize;
use serde_json::{Value, json};

use crate::metrics::Summary;

/// What the simulation itself took. The only place where real time is shown: identity tests leave
/// it out, and files never have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SimulatorFigures {
    pub steps: u64,
    pub output_tokens: u64,
    pub cpu_s: f64,
    pub wall_s: f64,
}

/// The object that `run --format json` prints: scenario, summary, what the prediction rests on and,
/// on the terminal only, what the simulation took.
pub fn run_object(
    scenario: &impl Serialize,
    summary: &Summary,
    provenance: &Value,
    simulator: Option<&SimulatorFigures>,
) -> Vec<u8> {
    let mut object = json!({
        "scenario": scenario,
        "summary": summary,
        "provenance": provenance,
    });
    if let Some(figures) = simulator {
        object["simulator"] = json!(figures);
    }
    pretty(&object)
}

/// Indented, ending in a newline.
pub fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(value).expect("a tree of values has only string keys");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_members_of_the_contract() {
        let scenario = json!({"name": "a"});
        let figures = SimulatorFigures::default();
        let bytes = run_object(&scenario, &Summary::default(), &json!({}), Some(&figures));
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["scenario", "summary", "provenance", "simulator"]);
        let figures: Vec<_> = value["simulator"].as_object().unwrap().keys().collect();
        assert_eq!(figures, ["steps", "output_tokens", "cpu_s", "wall_s"]);
        assert!(bytes.ends_with(b"}\n"));
    }

    #[test]
    fn a_file_has_no_wall_clock_figures() {
        let bytes = run_object(&json!({}), &Summary::default(), &json!({}), None);
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains("simulator") && !text.contains("wall_s"));
    }
}
