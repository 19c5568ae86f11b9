//! Pools of a fleet: the scenario's model, machine and engine, with what each pool says laid over
//! them as flags are laid over a file.

use std::collections::BTreeMap;

use super::super::diagnostic::{Diagnostic, Span};
use super::super::document::{Node, Table, Value};
use super::super::load::take_custom_settings;
use super::super::overrides::{leaves, overlay};
use super::super::raw::{RawKind, RawPool};
use super::super::{KindSpec, PoolSpec};
use super::fleet::{autoscaling, failures};
use super::{Context, PoolPlace};
use crate::engine::fleet::rules::RandomFailures;

/// More kinds of machines than anybody has.
const MAX_POOLS: usize = 100;
/// Replicas have 16-bit numbers, one of which stands for none.
const MAX_REPLICAS: u32 = 65_000;
/// What a pool may lay its own over.
pub(super) const OVERLAID: [&str; 3] = ["model", "hardware", "engine"];

/// All pools in the order of their names; `None` if something was reported, or taken out before.
pub(super) fn pools(
    raw: &BTreeMap<String, RawPool>,
    failures_of_all: Option<RandomFailures>,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<Vec<PoolSpec>> {
    if raw.len() > MAX_POOLS {
        let title = format!("there are more than {MAX_POOLS} pools");
        let count = format!("{} of them", raw.len());
        let problem = context
            .pointing(context.key_span("fleet.pools"), title, count)
            .help("put machines that are alike into one");
        context.report(problem);
        return None;
    }
    let mut unused = asked_of_all(context);
    let mut pools = Vec::new();
    let mut noted: Vec<(&str, Vec<String>)> = Vec::new();
    let before = context.errors.len();
    for (name, raw) in raw {
        if !is_plain(name) {
            let shown: String = name.chars().take(40).collect();
            let problem = context
                .pointing(
                    context.key_span("fleet.pools"),
                    format!("{shown:?} is no name for a pool"),
                    "in this table",
                )
                .help("use letters, digits, - and _");
            context.report(problem);
            continue;
        }
        let Some(Value::Table(own)) =
            context.table.find(&format!("fleet.pools.{name}")).map(|node| &node.value)
        else {
            continue;
        };
        let merged = overlay(context.table, own, &OVERLAID, context.registry, context.errors);
        unused.retain(|(path, key)| merged.find(path).is_none_or(|node| node.key_span != *key));
        let mut of_pool = Vec::new();
        let kind = kind(name, &merged, context, &mut of_pool);
        pools.extend(pool(name, raw, kind, failures_of_all, context));
        noted.push((name, of_pool));
    }
    if context.errors.len() == before {
        report_unused(&unused, context);
        report_too_many(&pools, context);
    }
    notes.extend(told(&noted));
    (pools.len() == raw.len()).then_some(pools)
}

/// Whether a name can stand in a dotted path.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.chars().all(plain)
}

fn pool(
    name: &str,
    raw: &RawPool,
    kind: Option<KindSpec>,
    failures_of_all: Option<RandomFailures>,
    context: &mut Context<'_>,
) -> Option<PoolSpec> {
    let at = format!("fleet.pools.{name}");
    let rule = raw.autoscaling.map(|rule| autoscaling(&at, &rule, raw.machines, context));
    let own = raw.failures.map(|own| failures(&at, own, context));
    let rule = match rule {
        Some(rule) => Some(rule?),
        None => None,
    };
    let failures = match own {
        Some(own) => Some(own?),
        None => failures_of_all,
    };
    let machines = raw.machines.map_or_else(
        || rule.map_or(1, |rule| rule.min_machines),
        |machines| u16::try_from(machines).unwrap_or(u16::MAX),
    );
    Some(PoolSpec {
        name: name.to_owned(),
        machines,
        weight: raw.weight.unwrap_or(1.0),
        failures,
        autoscaling: rule,
        kind: kind?,
    })
}

/// What a machine of the pool is; what is wrong is reported once, even if several pools have it.
fn kind(
    name: &str,
    merged: &Table,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<KindSpec> {
    let mut json = merged.to_json();
    let mut custom = take_custom_settings(&mut json, context.registry);
    let raw = match serde_json::from_value::<RawKind>(json) {
        Ok(raw) => raw,
        Err(error) => {
            // The schema check takes out all that the structs refuse, unless the two disagree.
            let problem = Diagnostic::new(format!("the pool {name} cannot be read: {error}"));
            context.report(problem);
            return None;
        }
    };
    let taken = context.taken.of_pool(name);
    let known = context.errors.len();
    let kind = super::kind(
        &raw,
        &mut custom,
        &mut Context {
            table: merged,
            taken: &taken,
            pool: Some(PoolPlace { name, document: context.table }),
            file: context.file,
            folders: context.folders,
            files: context.files,
            registry: context.registry,
            sources: context.sources,
            errors: context.errors,
        },
        notes,
    );
    let new = context.errors.split_off(known);
    for problem in new {
        let place = |problem: &Diagnostic| problem.primary.as_ref().map(|label| label.span.clone());
        let same =
            |other: &Diagnostic| other.title == problem.title && place(other) == place(&problem);
        if !context.errors.iter().any(same) {
            context.errors.push(problem.note(format!("in the pool {name}")));
        }
    }
    kind
}

/// What flags or a sweep ask of all pools: keys that are not the file's own, with their places.
fn asked_of_all(context: &Context<'_>) -> Vec<(String, Span)> {
    let mut asked: Vec<(String, &Node)> = Vec::new();
    for table in OVERLAID {
        if let Some(node) = context.table.get(table) {
            leaves(table.to_owned(), node, &mut asked);
        }
    }
    let asked = asked.into_iter().map(|(path, node)| (path, node.key_span.clone()));
    asked.filter(|(_, span)| Some(span.source) != context.file).collect()
}

/// A file's own keys are there to be overlaid; who asks for something now is told that it is.
fn report_unused(unused: &[(String, Span)], context: &mut Context<'_>) {
    for (path, span) in unused {
        let problem = Diagnostic::new(format!("`{path}` has no effect"))
            .at(span.clone(), "every pool has its own")
            .help(format!("set it for a pool, as in --set fleet.pools.NAME.{path}=..."));
        context.report(problem);
    }
}

fn report_too_many(pools: &[PoolSpec], context: &mut Context<'_>) {
    let replicas: u32 =
        pools.iter().map(|pool| u32::from(pool.most_machines()) * pool.kind.engine.replicas).sum();
    if replicas > MAX_REPLICAS {
        let title = format!("the pools have more than {MAX_REPLICAS} replicas");
        let problem = context
            .pointing(context.key_span("fleet.pools"), title, format!("{replicas} together"))
            .help("take fewer machines");
        context.report(problem);
    }
}

/// Notes of all pools once, of some with their names.
pub(super) fn told(noted: &[(&str, Vec<String>)]) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for (name, notes) in noted {
        for note in notes {
            let of_all = noted.iter().all(|(_, other)| other.contains(note));
            let line = if of_all { note.clone() } else { format!("pool {name}: {note}") };
            if !told.contains(&line) {
                told.push(line);
            }
        }
    }
    told
}
