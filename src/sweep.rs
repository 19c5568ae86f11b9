//! Sweeps: a scenario over a grid of its keys; and searches built on the same runs.
//!
//! - [`Sweep::load`] reads a file of axes and checks it before anything runs;
//! - [`Sweep::points`] enumerates the combinations that `where` lets through, in a fixed order;
//! - [`Sweep::row`] runs one of them: a line of `points.csv`, whatever becomes of it. A point that
//!   does not fit, or that no engine could be started with, is a result with its reason.
//!
//! A row depends on its point alone, so the bytes do not depend on threads, shards or
//! interruptions. Nothing here opens a file: `cli::sweep` keeps the journal.

pub mod analysis;
pub mod bound;
pub mod capacity;
mod cells;
pub mod columns;
mod condition;
mod file;
mod grid;
pub mod journal;
mod point;
mod probe;
pub mod rank;
pub mod schema;
pub mod sensitivity;
pub mod shard;
pub mod slo;
pub mod trial;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use xxhash_rust::xxh3::Xxh3;

use crate::cost::profile::lookup;
use crate::hardware;
use crate::scenario::document::Value;
use crate::scenario::{Assignment, Diagnostics, Override, ReadFile, Registry, Source};

pub use bound::Bound;
pub use capacity::SearchedLoad;
pub use point::{PointStatus, Run, run_scenario};
pub use rank::{RankSpec, Role};
pub use shard::Shard;

use condition::Operand;
use file::{Parsed, Where};

/// A sweep that has been checked: its base and its axes are sound, and at least one point is left.
#[derive(Debug)]
pub struct Sweep {
    parsed: Parsed,
    program: u128,
    fingerprint: String,
}

/// One point: its number among the points of the sweep, and its combination in the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub number: u64,
    combination: u64,
}

impl Sweep {
    /// Reads a sweep's file with `overrides` for its base, and tries each value of each axis once.
    pub fn load(
        source: &Source,
        overrides: &[Override],
        files: &dyn ReadFile,
        registry: &Registry,
    ) -> Result<Self, Diagnostics> {
        let parsed = file::parse(source, overrides, files, registry)?;
        let files = Remembering { files, read: Mutex::default() };
        probe::check(&parsed, &files)?;
        let program = program();
        let fingerprint = fingerprint(program, &parsed, &files);
        Ok(Self { parsed, program, fingerprint })
    }

    pub fn name(&self) -> &str {
        &self.parsed.name
    }

    /// Keys of the axes, in the order of the columns.
    pub fn axes(&self) -> impl Iterator<Item = &str> {
        self.parsed.grid.axes().map(|axis| axis.key.as_str())
    }

    pub fn rank(&self) -> &RankSpec {
        &self.parsed.rank
    }

    /// The header of `points.csv`.
    pub fn header(&self) -> Vec<String> {
        columns::header(self.axes())
    }

    /// What the results depend on: program, profiles, base, axes, conditions and the files that they
    /// name. Equal fingerprints give equal rows.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many combinations the axes have, `where` aside.
    pub fn combinations(&self) -> u128 {
        self.parsed.grid.combinations()
    }

    pub fn has_conditions(&self) -> bool {
        !self.parsed.conditions.is_empty()
    }

    /// All points in order; an error where a condition makes no sense for one of them.
    pub fn points(&self) -> impl Iterator<Item = Result<Point, Diagnostics>> + '_ {
        let all = u64::try_from(self.combinations()).unwrap_or(u64::MAX);
        let mut number = 0;
        (0..all).filter_map(move |combination| {
            let wanted = self.wanted(combination);
            match wanted {
                Err(problem) => Some(Err(problem)),
                Ok(false) => None,
                Ok(true) => {
                    let point = Point { number, combination };
                    number += 1;
                    Some(Ok(point))
                }
            }
        })
    }

    /// Whether all conditions hold.
    fn wanted(&self, combination: u64) -> Result<bool, Diagnostics> {
        let Parsed { grid, conditions, .. } = &self.parsed;
        if conditions.is_empty() {
            return Ok(true);
        }
        let values = grid.values(combination);
        let look_up = |name: &str| look_up(&self.parsed, &values, name);
        for condition in conditions {
            match condition.condition.holds(&look_up) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(fault) => return Err(self.complain(condition, &fault)),
            }
        }
        Ok(true)
    }

    fn complain(&self, condition: &Where, fault: &condition::Fault) -> Diagnostics {
        let sources = self.parsed.template.sources().clone();
        Diagnostics::new(sources, vec![condition.complain(fault)])
    }

    /// What `where` left: a message for a sweep of no points.
    pub fn nothing_left(&self) -> Diagnostics {
        use crate::scenario::diagnostic::Diagnostic;
        let combinations = self.combinations();
        let title = format!("no point is left: `where` excludes all {combinations} combinations");
        let mut problem = Diagnostic::new(title);
        if let Some(first) = self.parsed.conditions.first() {
            problem = problem.at(first.span.clone(), "no combination meets all conditions");
        }
        let problem = problem.help("drop a condition, or add values to the axes");
        Diagnostics::new(self.parsed.template.sources().clone(), vec![problem])
    }

    fn values(&self, point: Point) -> Vec<Assignment> {
        self.parsed.grid.values(point.combination)
    }
}

/// What a name in a condition stands for.
fn look_up(parsed: &Parsed, values: &[Assignment], name: &str) -> Operand {
    let find = |path: &str| {
        let swept = values.iter().find(|(key, _)| key == path).map(|(_, node)| &node.value);
        swept.or_else(|| parsed.template.find(path).map(|node| &node.value))
    };
    let value = |path: &str| find(path).map_or(Operand::None, operand);
    match name {
        "gpus" | "gpu" | "usd-per-hour" => {
            let Operand::Text(instance) = value("hardware.instance") else {
                return match name {
                    "gpu" => value("hardware.gpu"),
                    "gpus" => match value("hardware.num-gpus") {
                        Operand::None => Operand::Number(1.0),
                        count => count,
                    },
                    _ => Operand::None,
                };
            };
            let Ok(instance) = hardware::instance(&instance) else { return Operand::None };
            match name {
                "gpu" => Operand::Text(instance.gpu.name.clone()),
                "gpus" => Operand::Number(f64::from(instance.num_gpus)),
                _ => instance
                    .price(hardware::PriceKind::OnDemand)
                    .map_or(Operand::None, |price| Operand::Number(price.usd.get())),
            }
        }
        _ => match probe::full_name(parsed, name) {
            Some(path) => match (value(&path), path.as_str()) {
                // Their defaults, which nobody writes down.
                (Operand::None, "engine.tensor-parallel-size" | "engine.replicas") => {
                    Operand::Number(1.0)
                }
                (value, _) => value,
            },
            None => Operand::None,
        },
    }
}

fn operand(value: &Value) -> Operand {
    match value {
        Value::String(text) => Operand::Text(text.clone()),
        Value::Integer(n) => Operand::Number(*n as f64),
        Value::Float(x) => Operand::Number(*x),
        Value::Boolean(b) => Operand::Truth(*b),
        Value::Datetime | Value::Array(_) | Value::Table(_) => Operand::None,
    }
}

/// Passes on what it reads, and remembers what it was.
struct Remembering<'a> {
    files: &'a dyn ReadFile,
    read: Mutex<BTreeMap<PathBuf, u128>>,
}

impl ReadFile for Remembering<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = self.files.read(path)?;
        let digest = xxhash_rust::xxh3::xxh3_128(&bytes);
        self.read.lock().expect("nobody panics with it").insert(path.to_owned(), digest);
        Ok(bytes)
    }
}

/// A hash of the program's version and of all profiles that it prices with.
fn program() -> u128 {
    let mut hash = Xxh3::new();
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    for (path, file) in lookup::files() {
        hash.update(path.as_bytes());
        hash.update(format!("{file:?}").as_bytes());
    }
    hash.digest128()
}

fn fingerprint(program: u128, parsed: &Parsed, files: &Remembering<'_>) -> String {
    let mut hash = Xxh3::new();
    hash.update(&program.to_le_bytes());
    hash.update(parsed.template.table().to_json().to_string().as_bytes());
    for group in &parsed.grid.groups {
        for axis in &group.axes {
            hash.update(axis.key.as_bytes());
            match &axis.values {
                grid::Values::List(nodes) => {
                    for node in nodes {
                        hash.update(node.value.to_json().to_string().as_bytes());
                        hash.update(b"\n");
                    }
                }
                grid::Values::Steps { first, step, count, .. } => {
                    hash.update(format!("{first}+{step}x{count}").as_bytes());
                }
            }
        }
        hash.update(b";");
    }
    for condition in &parsed.conditions {
        hash.update(condition.text.as_bytes());
        hash.update(b"\n");
    }
    for digest in files.read.lock().expect("nobody panics with it").values() {
        hash.update(&digest.to_le_bytes());
    }
    format!("{:032x}", hash.digest128())
}

#[cfg(test)]
mod tests;
