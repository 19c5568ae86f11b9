//! Flags that replace keys of the file, before anything is checked.
//!
//! A flag becomes a node of the tree like any line of the file, with its own text to point at. What
//! it replaces, and what excludes it (another kind of arrivals, the old instance's price), goes.

use super::diagnostic::{Diagnostic, SourceId, Sources, Span};
use super::document::{self, Node, Table, Value};
use super::registry::Registry;
use super::validate::engine::{Absence, absent_settings, foreign_tables};
use super::validate::workload::arrivals;
use crate::engine_name::EngineFamily;

/// One flag: a dotted key of the scenario, its value, and how the user wrote it.
///
/// A key `engine.*.KEY` goes to the table of the engine's family, under that family's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    key: String,
    value: String,
    /// As on the command line.
    text: String,
    /// Byte of `text` at which the key stands, for `--set`; named flags are their own key.
    key_at: Option<usize>,
    /// Byte of `text` at which the value stands; a switch has none.
    value_at: Option<usize>,
}

impl Override {
    /// `--set KEY=VALUE`. The value is TOML; a bare word is text.
    pub fn set(assignment: &str) -> Self {
        Self::assigned("--set", assignment)
    }

    /// The same under another flag's name.
    pub fn assigned(flag: &str, assignment: &str) -> Self {
        let text = format!("{flag} {assignment}");
        let flag = flag.len() + 1;
        // Without `=` there is no value, which is reported with the other problems.
        let (key, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        let value_at =
            assignment.find('=').map(|at| flag + at + 1 + value.len() - value.trim_start().len());
        Self {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
            text,
            key_at: Some(flag + key.len() - key.trim_start().len()),
            value_at,
        }
    }

    /// The dotted key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// As on the command line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A named flag with a value, such as `--tp 4`.
    pub fn flag(flag: &str, key: &str, value: &str) -> Self {
        Self {
            key: key.to_owned(),
            value: value.trim().to_owned(),
            text: format!("{flag} {value}"),
            key_at: None,
            value_at: Some(flag.len() + 1 + value.len() - value.trim_start().len()),
        }
    }

    /// A named flag without a value, such as `--no-enable-prefix-caching`.
    pub fn switch(flag: &str, key: &str, on: bool) -> Self {
        Self {
            key: key.to_owned(),
            value: on.to_string(),
            text: flag.to_owned(),
            key_at: None,
            value_at: None,
        }
    }
}

/// Keys of which one replaces the others: setting the first by a flag drops the others' lines.
const EXCLUSIVE: &[(&str, &[&str])] = &[
    // A pinned price is that of the machine it was pinned for.
    (
        "hardware.instance",
        &["hardware.gpu", "hardware.num-gpus", "hardware.price", "hardware.price-list"],
    ),
    ("hardware.gpu", &["hardware.instance", "hardware.price", "hardware.price-list"]),
    ("hardware.num-gpus", &["hardware.price"]),
    ("hardware.price-kind", &["hardware.price"]),
    ("hardware.price-list", &["hardware.price"]),
    ("workload.closed-loop", &["workload.drain"]),
    // A trace says all this itself.
    (
        "workload.trace",
        &["workload.lengths", "workload.shared-prefix", "workload.sessions", "workload.tenants"],
    ),
    ("workload.lengths.dataset", LENGTH_KINDS),
];

const LENGTH_KINDS: &[&str] = &[
    "workload.lengths.fixed",
    "workload.lengths.uniform",
    "workload.lengths.normal",
    "workload.lengths.log-normal",
    "workload.lengths.zipf",
    "workload.lengths.histogram",
];

/// Keys of which there is one: setting any by a flag drops the others' lines. Of lengths there is
/// one for prompts and one for outputs, so a flag for the one leaves the other.
const ONE_OF: &[&[&str]] = &[
    &["model.name", "model.config"],
    &arrivals::KINDS,
    &["workload.duration", "workload.num-requests"],
    &[
        "workload.lengths.dataset",
        "workload.lengths.fixed.input",
        "workload.lengths.uniform.input",
        "workload.lengths.normal.input",
        "workload.lengths.log-normal.input",
        "workload.lengths.zipf.input",
        "workload.lengths.histogram.input",
    ],
    &[
        "workload.lengths.dataset",
        "workload.lengths.fixed.output",
        "workload.lengths.uniform.output",
        "workload.lengths.normal.output",
        "workload.lengths.log-normal.output",
        "workload.lengths.zipf.output",
        "workload.lengths.histogram.output",
    ],
];

/// A setting that several families have under different names: generic, then per family.
const SHARED: &[(&str, &[(EngineFamily, &str)])] = &[
    (
        "max-model-len",
        &[
            (EngineFamily::Vllm, "max-model-len"),
            (EngineFamily::Static, "max-model-len"),
            (EngineFamily::Tgi, "max-total-tokens"),
            (EngineFamily::Tgis, "max-sequence-length"),
        ],
    ),
    (
        "kv-cache-dtype",
        &[
            (EngineFamily::Vllm, "kv-cache-dtype"),
            (EngineFamily::Static, "kv-cache-dtype"),
            (EngineFamily::Tgi, "kv-cache-dtype"),
        ],
    ),
    (
        "gpu-memory-utilization",
        &[
            (EngineFamily::Vllm, "gpu-memory-utilization"),
            (EngineFamily::Static, "gpu-memory-utilization"),
            (EngineFamily::Tgi, "cuda-memory-fraction"),
        ],
    ),
    (
        "max-num-seqs",
        &[
            (EngineFamily::Vllm, "max-num-seqs"),
            (EngineFamily::Static, "batch-size"),
            (EngineFamily::Tgi, "max-batch-size"),
            (EngineFamily::Tgis, "max-batch-size"),
        ],
    ),
    (
        "max-num-batched-tokens",
        &[
            (EngineFamily::Vllm, "max-num-batched-tokens"),
            (EngineFamily::Tgi, "max-batch-prefill-tokens"),
        ],
    ),
    (
        "enable-prefix-caching",
        &[(EngineFamily::Vllm, "enable-prefix-caching"), (EngineFamily::Tgi, "prefix-caching")],
    ),
    (
        "enable-chunked-prefill",
        &[(EngineFamily::Vllm, "enable-chunked-prefill"), (EngineFamily::Tgi, "prefill-chunking")],
    ),
    ("block-size", &[(EngineFamily::Vllm, "block-size")]),
];

const ANY_FAMILY: &str = "engine.*.";

/// Applies the flags in order; the last one for a key wins. What a flag excludes goes if it comes
/// from one of `files`: two flags that exclude each other are the user's to sort out.
pub fn apply(
    table: &mut Table,
    files: &[SourceId],
    overrides: &[Override],
    registry: &Registry,
    sources: &mut Sources,
    errors: &mut Vec<Diagnostic>,
) {
    // The engine's name decides where `engine.*` goes, wherever among the flags it stands.
    let (names, rest): (Vec<_>, Vec<_>) =
        overrides.iter().partition(|flag| flag.key == "engine.name");
    for flag in names.into_iter().chain(rest) {
        let source = sources.add("command line", flag.text.as_str());
        apply_one(table, files, flag, registry, source, errors);
    }
}

fn apply_one(
    table: &mut Table,
    files: &[SourceId],
    flag: &Override,
    registry: &Registry,
    source: SourceId,
    errors: &mut Vec<Diagnostic>,
) {
    let whole = Span::new(source, 0..flag.text.len());
    if flag.key_at.is_some() && flag.value_at.is_none() {
        errors.push(
            Diagnostic::new("--set needs a key and a value")
                .at(whole, "no `=` here")
                .help("write --set workload.closed-loop.clients=20"),
        );
        return;
    }
    if turns_off_what_is_not_there(table, flag, registry) {
        return;
    }
    let key = match family_key(table, &flag.key, registry, &whole) {
        Ok(key) => key,
        Err(problem) => {
            errors.extend(problem.map(|problem| *problem));
            return;
        }
    };
    let parts: Vec<&str> = key.split('.').map(str::trim).collect();
    // No key of a scenario lies deeper than four tables.
    if parts.len() > 8 || parts.iter().any(|part| part.is_empty()) {
        errors.push(
            Diagnostic::new("this is not a key")
                .at(whole, "keys are words joined by dots")
                .help("write --set workload.closed-loop.clients=20"),
        );
        return;
    }
    let value_span = match flag.value_at {
        Some(at) => Span::new(source, at..at + flag.value.len()),
        None => whole.clone(),
    };
    let value = match value(&parts.join("."), flag, registry, source) {
        Ok(value) => value,
        Err(problems) => {
            errors.extend(problems);
            return;
        }
    };

    let key_span = |index: usize| match flag.key_at {
        None => Span::new(source, 0..flag.text.split(' ').next().map_or(0, str::len)),
        Some(at) => {
            let before: usize = key.split('.').take(index).map(|part| part.len() + 1).sum();
            let length = key.split('.').nth(index).map_or(0, str::len);
            Span::new(source, at + before..at + before + length)
        }
    };
    let node = Node { key_span: key_span(parts.len() - 1), span: value_span, value };
    let droppable = |node: &Node| files.contains(&node.key_span.source);
    assign(table, &parts, node, &key_span, &droppable, registry);
}

/// Puts `node` at a path, making the tables on the way, and drops what it excludes as far as
/// `droppable` lets it.
fn assign(
    table: &mut Table,
    parts: &[&str],
    node: Node,
    key_span: &dyn Fn(usize) -> Span,
    droppable: &dyn Fn(&Node) -> bool,
    registry: &Registry,
) {
    drop_excluded(table, droppable, parts, &node.value, registry);
    let last = parts.len() - 1;
    let mut here = table;
    for (index, part) in parts[..last].iter().enumerate() {
        if !matches!(here.get(part), Some(Node { value: Value::Table(_), .. })) {
            let node = Node {
                key_span: key_span(index),
                span: node.span.clone(),
                value: Value::Table(Table::default()),
            };
            here.insert(part, node);
        }
        here = match here.get_mut(part) {
            Some(Node { value: Value::Table(table), .. }) => table,
            _ => unreachable!("a table was put there"),
        };
    }
    here.insert(parts[last], node);
}

/// A key with the value that it takes, both with their places: one choice of a sweep.
pub type Assignment = (String, Node);

/// The keys below a node that are no tables, by path.
pub(super) fn leaves<'a>(path: String, node: &'a Node, out: &mut Vec<(String, &'a Node)>) {
    match &node.value {
        Value::Table(table) => {
            for (key, node) in &table.entries {
                leaves(format!("{path}.{key}"), node, out);
            }
        }
        _ => out.push((path, node)),
    }
}

/// Some tables of a scenario with what a pool says in them laid over; what that excludes goes.
pub(super) fn overlay(
    scenario: &Table,
    pool: &Table,
    tables: &[&str],
    registry: &Registry,
    errors: &mut Vec<Diagnostic>,
) -> Table {
    let of = |table: &Table| -> Vec<Assignment> {
        let some =
            tables.iter().filter_map(|name| Some(((*name).to_owned(), table.get(name)?.clone())));
        some.collect()
    };
    let mut laid = Table { entries: of(scenario) };
    assign_all(&mut laid, &of(pool), registry, errors);
    laid
}

/// Puts the values of a sweep's point into its base. What they exclude goes, except what another
/// of them says; a table as a value sets each of its keys.
pub fn assign_all(
    table: &mut Table,
    assignments: &[Assignment],
    registry: &Registry,
    errors: &mut Vec<Diagnostic>,
) {
    let mut given = Vec::new();
    for (path, node) in assignments {
        leaves(path.clone(), node, &mut given);
    }
    let own: Vec<Span> = given.iter().map(|(_, node)| node.key_span.clone()).collect();
    let droppable = |node: &Node| !own.contains(&node.key_span);
    // As with flags, the engine comes first.
    given.sort_by_key(|(path, _)| path != "engine.name");
    for (path, node) in given {
        match family_key(table, &path, registry, &node.key_span) {
            Ok(key) => {
                let parts: Vec<&str> = key.split('.').collect();
                let key_span = |_| node.key_span.clone();
                assign(table, &parts, node.clone(), &key_span, &droppable, registry);
            }
            Err(problem) => errors.extend(problem.map(|problem| *problem)),
        }
    }
}

/// The key with `engine.*` resolved; an error if the engine has nothing of the kind, without a
/// message where another one says why.
fn family_key(
    table: &Table,
    key: &str,
    registry: &Registry,
    whole: &Span,
) -> Result<String, Option<Box<Diagnostic>>> {
    let Some(setting) = key.strip_prefix(ANY_FAMILY) else { return Ok(key.to_owned()) };
    let name = table.find("engine.name");
    // A missing or unknown engine is reported by itself.
    let engine = match name.map(|name| &name.value) {
        Some(Value::String(name)) => registry.find(name).map_err(|_| None)?,
        _ => return Err(None),
    };
    let family = engine.family();
    let Some((_, names)) = SHARED.iter().find(|(shared, _)| *shared == setting) else {
        return Ok(format!("engine.{family}.{setting}"));
    };
    if let Some((_, own)) = names.iter().find(|(of, _)| *of == family) {
        return Ok(format!("engine.{family}.{own}"));
    }
    let mut problem = Diagnostic::new(format!("{engine} has no setting `{setting}`"))
        .at(whole.clone(), format!("not for the {family} engines"));
    if let Some(node) = name {
        problem = problem.because(node.span.clone(), "the engine");
    }
    let families: Vec<&str> = names.iter().map(|(family, _)| family.name()).collect();
    let problem = problem.help(format!("leave it out; it is for {}", families.join(", ")));
    Err(Some(Box::new(problem)))
}

/// Whether a switch says `no` to what the engine does not have anyway.
fn turns_off_what_is_not_there(table: &Table, flag: &Override, registry: &Registry) -> bool {
    let Some(setting) = flag.key.strip_prefix(ANY_FAMILY) else { return false };
    let is_switch = flag.value_at.is_none() && flag.key_at.is_none();
    if !is_switch || flag.value != "false" {
        return false;
    }
    let Some(Value::String(name)) = table.find("engine.name").map(|name| &name.value) else {
        return false;
    };
    let Ok(engine) = registry.find(name) else { return false };
    let family = engine.family();
    let names = SHARED.iter().find(|(shared, _)| *shared == setting).map(|(_, names)| *names);
    let Some((_, own)) = names.unwrap_or_default().iter().find(|(of, _)| *of == family) else {
        return true;
    };
    let key = format!("engine.{family}.{own}");
    absent_settings(engine, registry)
        .iter()
        .any(|(path, absence)| *path == key && matches!(absence, Absence::OnlyOf(_)))
}

/// What `engine.*.NAME` may be: each name with the key that it stands for in one of the families,
/// whose type and bounds it shares with the others.
pub fn shared_settings() -> impl Iterator<Item = (String, String)> {
    SHARED.iter().map(|(name, names)| {
        let (family, own) = names[0];
        (format!("{ANY_FAMILY}{name}"), format!("engine.{family}.{own}"))
    })
}

/// TOML where it looks like TOML, else the text itself: a shell eats quotes, and nobody should
/// have to write them for a name.
fn value(
    path: &str,
    flag: &Override,
    registry: &Registry,
    source: SourceId,
) -> Result<Value, Vec<Diagnostic>> {
    let text = flag.value.as_str();
    let at = flag.value_at.unwrap_or(0);
    if text.starts_with(['"', '\'', '[', '{']) {
        return document::parse_value(source, at, text);
    }
    let wants_text =
        registry.schema().at(path).is_some_and(|schema| schema.kind() == Some("string"));
    if wants_text {
        return Ok(Value::String(text.to_owned()));
    }
    match document::parse_value(source, at, text) {
        Ok(value @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_))) => Ok(value),
        _ if is_whole(text) => Err(vec![
            Diagnostic::new(format!("`{path}` is out of range"))
                .at(Span::new(source, at..at + text.len()), "more than 63 bits")
                .help(format!("write a number up to {}", i64::MAX)),
        ]),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Whether the text is a whole number, of any size.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '_')
}

fn drop_excluded(
    table: &mut Table,
    droppable: &dyn Fn(&Node) -> bool,
    parts: &[&str],
    value: &Value,
    registry: &Registry,
) {
    // In a pool as in the scenario.
    if let ["fleet", "pools", name, rest @ ..] = parts
        && !rest.is_empty()
    {
        let pools =
            table.get_mut("fleet").and_then(|fleet| fleet.value.as_table_mut()?.get_mut("pools"));
        let pool = pools.and_then(|pools| pools.value.as_table_mut()?.get_mut(name));
        if let Some(Value::Table(pool)) = pool.map(|pool| &mut pool.value) {
            drop_excluded(pool, droppable, rest, value, registry);
        }
        return;
    }
    let path = parts.join(".");
    let may_drop = |table: &Table, path: &str| table.find(path).is_some_and(droppable);
    // A table that is set whole sets the keys in it.
    let sets = |key: &str| {
        let below = |long: &str, short: &str| {
            let rest = long.strip_prefix(short)?;
            if rest.is_empty() {
                Some(String::new())
            } else {
                rest.strip_prefix('.').map(Into::into)
            }
        };
        below(&path, key).is_some()
            || below(key, &path).is_some_and(|rest| match value {
                Value::Table(table) => table.find(&rest).is_some(),
                _ => false,
            })
    };
    for (set, others) in EXCLUSIVE.iter().filter(|(set, _)| sets(set)) {
        debug_assert!(registry.schema().at(set).is_some(), "{set} is no key");
        for other in *others {
            if may_drop(table, other) {
                table.remove_path(other);
            }
        }
    }
    // How much the other arrivals were to send says nothing of a trace, which has its own end.
    if sets("workload.trace.file") && table.find("workload.trace").is_none() {
        let convention = table.find("measure.convention").map(|node| &node.value);
        // It divides by a configured duration.
        let timed = matches!(convention, Some(Value::String(name)) if name == "redhat-2023");
        let with_it = timed.then_some("measure.convention");
        for key in ["workload.duration", "workload.num-requests"].into_iter().chain(with_it) {
            if may_drop(table, key) {
                table.remove_path(key);
            }
        }
    }
    for group in ONE_OF {
        for set in group.iter().filter(|key| sets(key)) {
            for other in group.iter().filter(|other| *other != set) {
                if may_drop(table, other) {
                    table.remove_path(other);
                }
            }
        }
    }
    // Settings that the other engine does not have.
    if let ("engine.name", Value::String(name)) = (path.as_str(), value)
        && let Ok(engine) = registry.find(name)
    {
        let tables = foreign_tables(engine, registry).into_iter().map(|(table, _)| table);
        let settings = absent_settings(engine, registry).into_iter().map(|(setting, _)| setting);
        for path in tables.chain(settings) {
            if may_drop(table, &path) {
                table.remove_path(&path);
            }
        }
    }
}
