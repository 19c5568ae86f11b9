//! By what the points of a sweep are ranked, and among which others.

use super::columns;
use super::grid::Grid;
use crate::named::nearest;
use crate::scenario::diagnostic::Diagnostic;
use crate::scenario::document::{Table, Value};

/// `[rank]` of a sweep's file.
#[derive(Clone, Debug, PartialEq)]
pub struct RankSpec {
    /// The metric; by default the cost of output tokens, or the throughput where a point has no
    /// price.
    pub by: Option<String>,
    /// The latency of the Pareto fronts.
    pub latency: String,
    /// Keys that are not a choice: points are ranked among those that agree in them. By default the
    /// model, the workload and what is measured.
    pub within: Option<Vec<String>>,
    /// Most rows of a ranking that are printed.
    pub top: usize,
}

impl Default for RankSpec {
    fn default() -> Self {
        Self { by: None, latency: "e2el_ms.p99".into(), within: None, top: 10 }
    }
}

/// What part an axis has in the ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What one decides: machine, engine, precision, settings.
    Choice,
    /// What is given: the model, the lengths.
    Given,
    /// How much is asked for: clients or requests per second.
    Load,
    /// Repetition: figures are averaged over it.
    Seed,
}

impl RankSpec {
    pub fn role(&self, key: &str) -> Role {
        let load = key == "workload.closed-loop.clients" || key.ends_with(".request-rate");
        match &self.within {
            _ if key == "workload.seed" => Role::Seed,
            _ if load => Role::Load,
            Some(keys) if keys.iter().any(|k| k == key) => Role::Given,
            Some(_) => Role::Choice,
            None => {
                let given = ["model.name", "model.config"].contains(&key)
                    || key.starts_with("workload.")
                    || key.starts_with("measure.");
                if given { Role::Given } else { Role::Choice }
            }
        }
    }
}

/// Reads `[rank]`.
pub fn read(table: &Table, grid: &Grid, errors: &mut Vec<Diagnostic>) -> RankSpec {
    const KEYS: [&str; 4] = ["by", "latency", "within", "top"];
    let mut spec = RankSpec::default();
    for (key, node) in &table.entries {
        let wrong = |what: &str| {
            Diagnostic::new(format!("`rank.{key}` must be {what}"))
                .at(node.span.clone(), format!("this is {}", node.value.kind()))
        };
        match (key.as_str(), &node.value) {
            ("by" | "latency", Value::String(name)) => {
                let fits = match (key.as_str(), columns::less_is_better(name)) {
                    ("by", better) => better.is_some(),
                    (_, better) => better == Some(true) && name.contains("_ms."),
                };
                if !fits {
                    let ranked: Vec<&str> = columns::metrics()
                        .map(|(name, _)| name)
                        .filter(|name| columns::less_is_better(name).is_some())
                        .collect();
                    let what = if key == "by" { "metric to rank by" } else { "latency" };
                    let problem = Diagnostic::new(format!("{name:?} is no {what}"))
                        .at(node.span.clone(), "none of the known ones");
                    errors.push(match nearest(name, ranked.iter().copied()) {
                        Some(near) => problem.suggest(
                            "a similar name exists",
                            node.span.clone(),
                            format!("\"{near}\""),
                        ),
                        None => problem.note(format!("known: {}", ranked.join(", "))),
                    });
                } else if key == "by" {
                    spec.by = Some(name.clone());
                } else {
                    spec.latency.clone_from(name);
                }
            }
            ("by" | "latency", _) => errors.push(wrong("the name of a metric")),
            ("top", Value::Integer(n)) if (1..=1_000_000).contains(n) => {
                spec.top = usize::try_from(*n).expect("in range");
            }
            ("top", _) => errors.push(wrong("a whole number, at least 1")),
            ("within", Value::Array(items)) => {
                let mut keys = Vec::new();
                for item in items {
                    match &item.value {
                        Value::String(path) => {
                            if !grid.axes().any(|axis| axis.key == *path) {
                                errors.push(
                                    Diagnostic::new(format!("`{path}` is no axis of this sweep"))
                                        .at(item.span.clone(), "the same for all points")
                                        .help("leave it out"),
                                );
                            }
                            keys.push(path.clone());
                        }
                        _ => errors.push(
                            Diagnostic::new("`rank.within` lists axes of the sweep")
                                .at(item.span.clone(), format!("this is {}", item.value.kind())),
                        ),
                    }
                }
                spec.within = Some(keys);
            }
            ("within", _) => errors.push(wrong("a list of keys")),
            _ => {
                let problem = Diagnostic::new(format!("unknown key `{key}` in [rank]"))
                    .at(node.key_span.clone(), "no such key here");
                errors.push(match nearest(key, KEYS.into_iter()) {
                    Some(near) => problem.suggest(
                        "a key with a similar name exists",
                        node.key_span.clone(),
                        near,
                    ),
                    None => problem.note(format!("known keys: {}", KEYS.join(", "))),
                });
            }
        }
    }
    spec
}
