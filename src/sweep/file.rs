//! A sweep's file: a base scenario, what is changed in it, and the axes.
//!
//! ```toml
//! base = "redhat/llama-2-7b-g5.2xlarge"        # a file or an embedded scenario
//! where = ["engine.tensor-parallel-size <= gpus"]
//!
//! [scenario]                                    # changes to the base, keys as in a scenario
//! measure.slo = { ttft = "2s" }
//!
//! [axes]                                        # crossed; the same keys, with a list or a range
//! hardware.instance = ["g5.2xlarge", "g5.12xlarge"]
//! workload.closed-loop.clients = { from = 1, to = 64, steps = 7, scale = "log" }
//!
//! [[zip]]                                       # keys that move together
//! engine.tensor-parallel-size = [1, 4]
//! engine.replicas = [4, 1]
//! ```

use std::path::{Path, PathBuf};

use super::condition::{Condition, Fault};
use super::grid::{Axis, Grid, Group, Values, value};
use super::rank::{self, RankSpec};

use crate::named::nearest;
use crate::scenario::diagnostic::{Diagnostic, SourceId, Span};
use crate::scenario::document::{Node, Table, Value};
use crate::scenario::schema::Schema;
use crate::scenario::{
    self, Assignment, Diagnostics, Override, ReadFile, Registry, Source, Template, check_value,
    shared_settings,
};

/// What a file says, before any combination has been tried.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub name: String,
    pub template: Template,
    pub grid: Grid,
    pub conditions: Vec<Where>,
    pub rank: RankSpec,
}

/// A condition with its place.
#[derive(Clone, Debug)]
pub struct Where {
    pub condition: Condition,
    pub text: String,
    pub span: Span,
}

impl Where {
    /// What is wrong with the condition, pointing into it.
    pub fn complain(&self, fault: &Fault) -> Diagnostic {
        fault_at(&self.span, fault)
    }
}

fn fault_at(span: &Span, fault: &Fault) -> Diagnostic {
    // The text stands in quotes, one byte in; one with escapes is pointed at as a whole.
    let start = span.range.start + 1;
    let inside = start + fault.at.start..start + fault.at.end.max(fault.at.start + 1);
    let place = if inside.end <= span.range.end { inside } else { span.range.clone() };
    Diagnostic::new("this condition cannot be used")
        .at(Span::new(span.source, place), fault.what.clone())
        .help("write it as in `engine.tensor-parallel-size * engine.replicas <= gpus`")
}

/// The most values that a list made from a range with `scale = "log"` may have.
const MOST_LOG_STEPS: u64 = 100_000;

const TOP_KEYS: [&str; 7] = ["name", "base", "scenario", "axes", "zip", "where", "rank"];

/// Flags of `run` by the key that they stand for: what somebody who knows the flags would write.
const FLAGS: [(&str, &str); 12] = [
    ("model", "model.name"),
    ("instance", "hardware.instance"),
    ("gpu", "hardware.gpu"),
    ("engine", "engine.name"),
    ("tp", "engine.tensor-parallel-size"),
    ("replicas", "engine.replicas"),
    ("quantize", "model.quantize"),
    ("kv-cache-dtype", "engine.*.kv-cache-dtype"),
    ("max-model-len", "engine.*.max-model-len"),
    ("concurrency", "workload.closed-loop.clients"),
    ("request-rate", "workload.poisson.request-rate"),
    ("seed", "workload.seed"),
];

/// Reads a sweep; `overrides` change its base.
pub fn parse(
    source: &Source,
    overrides: &[Override],
    files: &dyn ReadFile,
    registry: &Registry,
) -> Result<Parsed, Diagnostics> {
    let Source::File { path, text } = source else {
        unreachable!("a sweep comes from a file");
    };
    // The base is read first, so that what it says has the places of its own text.
    let mut scratch = Template::read(&Source::Flags, registry)?;
    let (_, table, problems) = scratch.add_text(path, text)?;
    if !problems.is_empty() {
        return Err(Diagnostics::new(scratch.sources().clone(), problems));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut template = match table.get("base") {
        None => Template::read(&Source::Flags, registry)?,
        Some(node) => match base(node, folder, files) {
            Ok(source) => Template::read(&source, registry)?,
            Err(problem) => {
                return Err(Diagnostics::new(scratch.sources().clone(), vec![*problem]));
            }
        },
    };
    let (id, table, _) = template.add_text(path, text)?;
    let mut reader = Reader { errors: Vec::new(), source: id, schema: registry.schema() };
    let mut parsed = reader.sweep(&table, template, path);
    parsed.template.override_with(overrides, &mut reader.errors);
    reader.fixed_axes(&parsed, overrides);
    if reader.errors.is_empty() {
        Ok(parsed)
    } else {
        Err(Diagnostics::new(parsed.template.sources().clone(), reader.errors))
    }
}

/// The scenario that `base` names: beside the sweep's file, or embedded.
fn base(node: &Node, folder: &Path, files: &dyn ReadFile) -> Result<Source, Box<Diagnostic>> {
    let Value::String(name) = &node.value else {
        return Err(Box::new(
            Diagnostic::new("`base` names a scenario")
                .at(node.span.clone(), format!("this is {}", node.value.kind())),
        ));
    };
    let path: PathBuf = folder.join(name);
    match files.read(&path) {
        Ok(text) => Ok(Source::file(path, text)),
        Err(error) => scenario::embedded(name).ok_or_else(|| {
            let names = scenario::embedded_names();
            let problem = Diagnostic::new(format!("cannot read the base {}", path.display()))
                .at(node.span.clone(), error.to_string());
            Box::new(match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => problem.suggest(
                    "an embedded scenario has a similar name",
                    node.span.clone(),
                    format!("\"{near}\""),
                ),
                None => {
                    problem.help("give the path of a file, or a name of `servesim list scenarios`")
                }
            })
        }),
    }
}

struct Reader {
    errors: Vec<Diagnostic>,
    source: SourceId,
    /// Of the scenario's file.
    schema: Schema,
}

impl Reader {
    fn sweep(&mut self, table: &Table, mut template: Template, path: &Path) -> Parsed {
        let known = TOP_KEYS.iter().copied();
        for (key, node) in &table.entries {
            if !TOP_KEYS.contains(&key.as_str()) {
                let problem = Diagnostic::new(format!("unknown key `{key}` in a sweep"))
                    .at(node.key_span.clone(), "no such key here");
                let scenario_key = self.schema.at(key).is_some();
                self.errors.push(match nearest(key, known.clone()) {
                    _ if scenario_key => problem.help(format!(
                        "a key of the scenario: write [scenario.{key}], or [axes.{key}] to sweep it"
                    )),
                    Some(near) => problem.suggest(
                        "a key with a similar name exists",
                        node.key_span.clone(),
                        near,
                    ),
                    None => problem.note(format!("known keys: {}", TOP_KEYS.join(", "))),
                });
            }
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("sweep");
        let name = self.text(table, "name").unwrap_or_else(|| stem.to_owned());
        if let Some(changes) = self.table(table, "scenario") {
            let mut assignments = Vec::new();
            self.assignments("", changes, &mut assignments);
            template.assign(&assignments, &mut self.errors);
        }
        let mut groups: Vec<(usize, Group)> = Vec::new();
        if let Some(axes) = self.table(table, "axes") {
            for axis in self.axes("", axes) {
                let (at, len) = (axis.key_span.range.start, axis.values.len());
                groups.push((at, Group { axes: vec![axis], len }));
            }
        }
        for node in self.list(table, "zip") {
            let Value::Table(zip) = &node.value else {
                self.complain(&node.span, "`zip` is a table", "write [[zip]] and its keys below");
                continue;
            };
            let axes = self.axes("", zip);
            if let Some(group) = self.zip(axes, node) {
                groups.push((group.axes[0].key_span.range.start, group));
            }
        }
        groups.sort_by_key(|(at, _)| *at);
        let grid = Grid { groups: groups.into_iter().map(|(_, group)| group).collect() };
        self.twice(&grid);
        let conditions = self.conditions(table);
        let rank = match self.table(table, "rank") {
            Some(rank) => rank::read(rank, &grid, &mut self.errors),
            None => RankSpec::default(),
        };
        Parsed { name, template, grid, conditions, rank }
    }

    fn complain(&mut self, span: &Span, title: &str, help: &str) {
        self.errors.push(Diagnostic::new(title).at(span.clone(), "here").help(help));
    }

    fn text(&mut self, table: &Table, key: &str) -> Option<String> {
        let node = table.get(key)?;
        match &node.value {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.complain(&node.span, &format!("`{key}` is text"), "write it in quotes");
                None
            }
        }
    }

    fn table<'t>(&mut self, table: &'t Table, key: &str) -> Option<&'t Table> {
        let node = table.get(key)?;
        match &node.value {
            Value::Table(table) => Some(table),
            _ => {
                let help = format!("write [{key}] and its keys below it");
                self.complain(&node.span, &format!("`{key}` is a table"), &help);
                None
            }
        }
    }

    fn list<'t>(&mut self, table: &'t Table, key: &str) -> &'t [Node] {
        match table.get(key).map(|node| (&node.value, node)) {
            None => &[],
            Some((Value::Array(items), _)) => items,
            Some((_, node)) => {
                let help = if key == "zip" {
                    "write [[zip]] and its keys below it"
                } else {
                    "write a list, as in [\"...\"]"
                };
                self.complain(&node.span, &format!("`{key}` is a list"), help);
                &[]
            }
        }
    }

    /// The leaves of `[scenario]`.
    fn assignments(&mut self, prefix: &str, table: &Table, out: &mut Vec<Assignment>) {
        for (key, node) in &table.entries {
            let path = join(prefix, key);
            match (&node.value, resolve(self.schema, &path)) {
                (_, None) => self.unknown(&path, node),
                (Value::Table(inner), Some(Key::Table)) => self.assignments(&path, inner, out),
                (_, Some(_)) => out.push((path, node.clone())),
            }
        }
    }

    /// The axes of a table of keys.
    fn axes(&mut self, prefix: &str, table: &Table) -> Vec<Axis> {
        let mut axes = Vec::new();
        for (key, node) in &table.entries {
            let path = join(prefix, key);
            match (&node.value, resolve(self.schema, &path)) {
                (_, None) => self.unknown(&path, node),
                (Value::Table(inner), Some(Key::Table)) => axes.extend(self.axes(&path, inner)),
                (_, Some(key)) => {
                    if let Some(values) = self.values(&path, &key, node) {
                        axes.push(Axis { key: path, key_span: node.key_span.clone(), values });
                    }
                }
            }
        }
        axes
    }

    fn unknown(&mut self, path: &str, node: &Node) {
        let mut problem = Diagnostic::new(format!("`{path}` is no key of a scenario"))
            .at(node.key_span.clone(), "no such key");
        let word = path.rsplit('.').next().unwrap_or(path);
        let keys = self.schema.keys();
        let shared: Vec<String> = shared_settings().map(|(key, _)| key).collect();
        let known = || keys.iter().map(|(key, _)| key.as_str()).chain(shared.iter().map(|k| &**k));
        let by_flag = FLAGS.iter().find(|(flag, _)| *flag == path).map(|(_, key)| *key);
        let by_word = || known().find(|key| key.rsplit('.').next() == Some(word));
        let hyphens = path.replace('_', "-");
        if let Some(near) = by_flag.or_else(by_word).or_else(|| nearest(&hyphens, known())) {
            let text = if near.contains('*') { format!("\"{near}\"") } else { near.to_owned() };
            problem = problem.help(format!("a key with a similar name exists: {text}"));
        } else {
            problem = problem.help("`servesim schema scenario` has all keys");
        }
        self.errors.push(problem);
    }

    fn values(&mut self, path: &str, key: &Key, node: &Node) -> Option<Values> {
        match &node.value {
            Value::Array(items) if items.is_empty() => {
                self.errors.push(
                    Diagnostic::new(format!("`{path}` has no values"))
                        .at(node.span.clone(), "an empty list leaves the sweep without a point")
                        .help("give at least one value, or leave the key out"),
                );
                None
            }
            Value::Array(items) => {
                let before = self.errors.len();
                for item in items {
                    self.errors.extend(check_value(item, self.schema, key.checked(path)));
                }
                (self.errors.len() == before).then(|| Values::List(items.clone()))
            }
            Value::Table(range) => self.range(path, key, range, node),
            other => {
                self.errors.push(
                    Diagnostic::new(format!("`{path}` is an axis and takes a list or a range"))
                        .at(node.span.clone(), format!("this is {}", other.kind()))
                        .help(format!(
                            "write {path} = [...], or {{ from = 1, to = 64, steps = 7 }}; a single \
                             value belongs in [scenario]"
                        )),
                );
                None
            }
        }
    }

    fn range(&mut self, path: &str, key: &Key, range: &Table, node: &Node) -> Option<Values> {
        const KEYS: [&str; 5] = ["from", "to", "step", "steps", "scale"];
        const HELP: &str = "write { from = 1, to = 64, step = 1 }, { from = 1, to = 64, steps = 7 }, \
                            or { from = 1, to = 64, steps = 7, scale = \"log\" }";
        let fail = |reader: &mut Self, span: &Span, what: String| {
            let title = format!("the range of `{path}` cannot be used");
            reader.errors.push(Diagnostic::new(title).at(span.clone(), what).help(HELP));
            None
        };
        for (name, node) in &range.entries {
            if !KEYS.contains(&name.as_str()) {
                return fail(self, &node.key_span, format!("`{name}` is no part of a range"));
            }
        }
        let number = |name: &str| {
            let node = range.get(name)?;
            match node.value {
                Value::Integer(n) => Some((n as f64, node)),
                Value::Float(x) if x.is_finite() => Some((x, node)),
                _ => Some((f64::NAN, node)),
            }
        };
        for name in &KEYS[..4] {
            if let Some((x, node)) = number(name)
                && x.is_nan()
            {
                return fail(self, &node.span, format!("`{name}` is a finite number"));
            }
        }
        let (Some((from, from_node)), Some((to, to_node))) = (number("from"), number("to")) else {
            return fail(self, &node.span, "`from` and `to` are missing".into());
        };
        let log = match range.get("scale").map(|node| (&node.value, node)) {
            None => false,
            Some((Value::String(scale), _)) if scale == "linear" => false,
            Some((Value::String(scale), _)) if scale == "log" => true,
            Some((_, node)) => {
                return fail(self, &node.span, "the scale is \"linear\" or \"log\"".into());
            }
        };
        let whole = key.is_whole();
        let (step, count) = match (number("step"), number("steps")) {
            (Some(_), Some((_, node))) => {
                return fail(self, &node.span, "either `step` or `steps`".into());
            }
            (None, None) => {
                return fail(self, &node.span, "`steps` says how many values".into());
            }
            (Some((_, node)), None) if log => {
                return fail(self, &node.span, "a log range counts its `steps`".into());
            }
            (Some((step, node)), None) => {
                let count = ((to - from) / step + 1e-9).floor();
                if count >= 9e15 {
                    return fail(self, &node.span, "more values than can be counted".into());
                }
                if !(0.0..9e15).contains(&count) {
                    return fail(self, &node.span, "does not lead from `from` to `to`".into());
                }
                if whole && step.fract() != 0.0 {
                    return fail(self, &node.span, "this key takes whole numbers".into());
                }
                (step, count as u64 + 1)
            }
            (None, Some((steps, node))) => {
                if steps >= 9e15 {
                    return fail(self, &node.span, "more values than can be counted".into());
                }
                if !(steps >= 1.0 && steps.fract() == 0.0) {
                    return fail(self, &node.span, "a whole number, at least 1".into());
                }
                let gaps = (steps - 1.0).max(1.0);
                ((to - from) / gaps, steps as u64)
            }
        };
        // Ends are checked like any value; what lies between is between them.
        let before = self.errors.len();
        for (x, place) in [(from, from_node), (to, to_node)] {
            let end = Node { value: value(x, whole && x.fract() == 0.0), ..place.clone() };
            self.errors.extend(check_value(&end, self.schema, key.checked(path)));
        }
        if self.errors.len() > before {
            return None;
        }
        let node_of = |x: f64| Node {
            key_span: node.key_span.clone(),
            span: node.span.clone(),
            value: value(x, whole),
        };
        let rounded = whole && step.fract() != 0.0;
        if !(log || rounded) {
            let span = node.span.clone();
            return Some(Values::Steps { first: from, step, count, whole, span });
        }
        if log && !(from > 0.0 && to > 0.0) {
            return fail(self, &from_node.span, "a log range lies above zero".into());
        }
        if count > MOST_LOG_STEPS {
            return fail(self, &node.span, format!("more than {MOST_LOG_STEPS} steps"));
        }
        let gaps = (count - 1).max(1) as f64;
        let mut numbers: Vec<f64> = (0..count)
            .map(|i| {
                let share = i as f64 / gaps;
                let x =
                    if log { from * (to / from).powf(share) } else { from + (to - from) * share };
                // The end as it was written, without the rounding on the way.
                let x = if i > 0 && i + 1 == count { to } else { x };
                if whole { x.round() } else { x }
            })
            .collect();
        // Small whole numbers meet when rounded.
        numbers.dedup();
        Some(Values::List(numbers.into_iter().map(node_of).collect()))
    }

    fn zip(&mut self, axes: Vec<Axis>, node: &Node) -> Option<Group> {
        let Some(first) = axes.first() else {
            if self.errors.is_empty() {
                self.complain(
                    &node.span,
                    "this zip has no keys",
                    "give keys with lists, or drop it",
                );
            }
            return None;
        };
        let len = first.values.len();
        if let Some(other) = axes.iter().find(|axis| axis.values.len() != len) {
            self.errors.push(
                Diagnostic::new("zipped keys move together and need lists of one length")
                    .at(other.key_span.clone(), format!("{} values", other.values.len()))
                    .because(first.key_span.clone(), format!("{len} values"))
                    .help("make the lists equally long, or cross the keys under [axes]"),
            );
            return None;
        }
        Some(Group { axes, len })
    }

    fn twice(&mut self, grid: &Grid) {
        let axes: Vec<&Axis> = grid.axes().collect();
        for (i, axis) in axes.iter().enumerate() {
            if let Some(first) = axes[..i].iter().find(|first| first.key == axis.key) {
                self.errors.push(
                    Diagnostic::new(format!("`{}` is swept twice", axis.key))
                        .at(axis.key_span.clone(), "and here")
                        .because(first.key_span.clone(), "here")
                        .help("keep one of them"),
                );
            }
        }
    }

    /// A flag for a key that is an axis would change nothing.
    fn fixed_axes(&mut self, parsed: &Parsed, overrides: &[Override]) {
        for flag in overrides {
            if let Some(axis) = parsed.grid.axes().find(|axis| axis.key == flag.key()) {
                self.errors.push(
                    Diagnostic::new(format!("`{}` is an axis of the sweep", flag.key()))
                        .at(axis.key_span.clone(), format!("so `{}` has no effect", flag.text()))
                        .help("change the axis in the file"),
                );
            }
        }
    }

    fn conditions(&mut self, table: &Table) -> Vec<Where> {
        let one;
        let nodes = match table.get("where") {
            Some(node) if matches!(node.value, Value::String(_)) => {
                one = [node.clone()];
                &one[..]
            }
            _ => self.list(table, "where"),
        };
        let mut conditions = Vec::new();
        for node in nodes {
            let Value::String(text) = &node.value else {
                self.complain(&node.span, "a condition is text", "write it in quotes");
                continue;
            };
            match Condition::parse(text) {
                Ok(condition) => conditions.push(Where {
                    condition,
                    text: text.clone(),
                    span: node.span.clone(),
                }),
                Err(fault) => self.errors.push(fault_at(&node.span, &fault)),
            }
        }
        debug_assert!(conditions.iter().all(|c| c.span.source == self.source));
        conditions
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// What a path is the key of.
enum Key {
    Table,
    /// A value; for `engine.*.KEY` the key of one family, which has the others' type and bounds.
    Value {
        like: Option<String>,
        whole: bool,
    },
}

impl Key {
    /// The key that says what values are allowed.
    fn checked<'a>(&'a self, path: &'a str) -> &'a str {
        match self {
            Self::Value { like: Some(like), .. } => like,
            _ => path,
        }
    }

    const fn is_whole(&self) -> bool {
        matches!(self, Self::Value { whole: true, .. })
    }
}

fn resolve(schema: Schema, path: &str) -> Option<Key> {
    if path == "engine.*" {
        return Some(Key::Table);
    }
    let like = shared_settings().find(|(key, _)| key == path).map(|(_, like)| like);
    let schema = schema.at(like.as_deref().unwrap_or(path))?;
    if schema.is_table() {
        return Some(Key::Table);
    }
    let integer = |schema: Schema| schema.kind() == Some("integer");
    let whole = integer(schema) || schema.forms().any(integer);
    Some(Key::Value { like, whole })
}
