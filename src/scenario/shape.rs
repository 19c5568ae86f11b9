//! Checks a file against the schema: unknown keys, wrong types, missing units, numbers out of
//! bounds. All of them in one go; what is wrong is taken out, so that later checks see only sound
//! values.

use crate::named::nearest;
use crate::time::SimDuration;
use crate::units::{Bytes, ParseUnitError, UsdPerHour};

use super::diagnostic::Diagnostic;
use super::document::{Node, Table, Value};
use super::refused;
use super::schema::Schema;

/// Dotted paths of keys that were written but taken out: not to be reported as missing.
#[derive(Debug, Default)]
pub struct TakenOut(Vec<String>);

impl TakenOut {
    /// Whether this key, or anything below it, was written and taken out.
    pub fn covers(&self, path: &str) -> bool {
        self.0.iter().any(|taken| {
            taken.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// The same for a pool, whose own keys lie over the scenario's.
    pub fn of_pool(&self, name: &str) -> Self {
        let of_pool = format!("fleet.pools.{name}.");
        let own = self.0.iter().filter_map(|taken| taken.strip_prefix(&of_pool).map(str::to_owned));
        Self(self.0.iter().cloned().chain(own).collect())
    }

    /// Whether a key of this table was taken out, other than the given ones.
    pub fn any_in(&self, table: &str, except: &[&str]) -> bool {
        self.0.iter().any(|taken| {
            taken
                .strip_prefix(table)
                .and_then(|rest| rest.strip_prefix('.'))
                .and_then(|rest| rest.split('.').next())
                .is_some_and(|key| !except.contains(&key))
        })
    }
}

pub fn check(table: &mut Table, schema: Schema, errors: &mut Vec<Diagnostic>) -> TakenOut {
    let mut check = Check { root: schema, errors, taken: TakenOut::default() };
    check.table(table, schema, "");
    check.taken
}

/// What is wrong with `node` as the value of the key at a dotted path of the scenario; keys of
/// tables included. `root` is the schema of the whole file.
pub fn check_value(node: &Node, root: Schema, path: &str) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    if let Some(schema) = root.at(path) {
        let mut check = Check { root, errors: &mut errors, taken: TakenOut::default() };
        let key = path.rsplit('.').next().unwrap_or(path);
        check.node(&mut node.clone(), schema, path, key);
    }
    errors
}

struct Check<'a> {
    /// Of the whole file.
    root: Schema,
    errors: &'a mut Vec<Diagnostic>,
    taken: TakenOut,
}

impl Check<'_> {
    fn table(&mut self, table: &mut Table, schema: Schema, path: &str) {
        table.entries.retain_mut(|(key, node)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let sound = match schema.property(key) {
                Some(schema) => self.node(node, schema, &path, key),
                None => {
                    if let Some(problem) = self.unknown_key(key, node, schema, &path) {
                        // The key that was meant is not missing as well.
                        if let Some(meant) = &problem.suggestion {
                            let table = path.strip_suffix(key.as_str()).unwrap_or("");
                            self.taken.0.push(format!("{table}{}", meant.replacement));
                        }
                        self.errors.push(problem);
                    }
                    false
                }
            };
            if !sound {
                self.taken.0.push(path);
            }
            sound
        });
    }

    fn node(&mut self, node: &mut Node, schema: Schema, path: &str, key: &str) -> bool {
        if schema.is_table() {
            let Value::Table(table) = &mut node.value else {
                // Tables under names of the user's own have their keys in common.
                let (path, keys) = match (names(schema), schema.property("NAME")) {
                    (none, Some(named)) if none.is_empty() => {
                        (format!("{path}.NAME"), names(named))
                    }
                    (keys, _) => (path.to_owned(), keys),
                };
                let problem = Diagnostic::new(format!("`{key}` is a table"))
                    .at(node.span.clone(), format!("this is {}", node.value.kind()))
                    .help(format!("write [{path}] and its keys below it: {keys}"));
                self.errors.push(problem);
                return false;
            };
            self.table(table, schema, path);
            return true;
        }
        match leaf(node, schema, path) {
            Ok(()) => true,
            Err(problem) => {
                self.errors.push(*problem);
                false
            }
        }
    }

    /// `None` for a key that is known, not modelled, and set to what makes no difference.
    fn unknown_key(
        &self,
        key: &str,
        node: &Node,
        schema: Schema,
        path: &str,
    ) -> Option<Diagnostic> {
        let of_pool = in_pool(path);
        if let Some(refusal) = refused::lookup(of_pool.map_or(path, |(_, rest)| rest)) {
            if refusal.is_harmless(&node.value) {
                return None;
            }
            return Some(
                Diagnostic::new(refusal.title(key))
                    .at(node.key_span.clone(), refusal.label())
                    .help(refusal.help()),
            );
        }
        let shown: String = key.chars().take(80).collect();
        let place =
            path.rsplit_once('.').map_or(String::new(), |(table, _)| format!(" in [{table}]"));
        let mut problem = Diagnostic::new(format!("unknown key `{shown}`{place}"))
            .at(node.key_span.clone(), "no such key here");
        // A key of exactly this name elsewhere is more likely than one that looks alike here.
        if let Some(elsewhere) = elsewhere(self.root, key) {
            let elsewhere = match of_pool {
                Some((pool, _)) if !elsewhere.starts_with("fleet") => format!("{pool}.{elsewhere}"),
                _ => elsewhere,
            };
            problem = problem.help(format!("`{key}` belongs in [{elsewhere}]"));
            return Some(problem);
        }
        let known = schema.properties().map(|(name, _)| name);
        let span = node.key_span.clone();
        Some(match nearest(&key.replace('_', "-"), known) {
            Some(near) => {
                problem.suggest("a key with a similar name exists", span, near.to_owned())
            }
            None => problem.note(format!("known keys: {}", names(schema))),
        })
    }
}

fn names(schema: Schema) -> String {
    schema.properties().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// The path of a pool, and what stands behind it.
fn in_pool(path: &str) -> Option<(&str, &str)> {
    let (name, rest) = path.strip_prefix("fleet.pools.")?.split_once('.')?;
    let pool = &path[.."fleet.pools.".len() + name.len()];
    Some((pool, rest))
}

/// The table in which a key of this very name exists.
fn elsewhere(root: Schema, key: &str) -> Option<String> {
    let keys = root.keys();
    let (path, _) = keys.iter().find(|(path, _)| path.rsplit('.').next() == Some(key))?;
    path.rsplit_once('.').map(|(table, _)| table.to_owned())
}

type Checked = Result<(), Box<Diagnostic>>;

fn leaf(node: &Node, schema: Schema, path: &str) -> Checked {
    if schema.forms().next().is_some() {
        return match schema.forms().find(|form| takes(*form, &node.value)) {
            Some(form) => leaf(node, form, path),
            None => {
                let wanted: Vec<String> = schema.forms().map(wanted).collect();
                Err(wrong_type(node, path, &wanted.join(" or "), schema))
            }
        };
    }
    if !takes(schema, &node.value) {
        return Err(wrong_type(node, path, &wanted(schema), schema));
    }
    match &node.value {
        Value::String(text) => text_value(node, text, schema, path),
        Value::Integer(n) => bounds(node, *n as f64, schema, path),
        Value::Float(x) => bounds(node, *x, schema, path),
        Value::Array(items) => {
            let Some(schema) = schema.items() else { return Ok(()) };
            items.iter().try_for_each(|item| leaf(item, schema, path))
        }
        Value::Boolean(_) | Value::Datetime | Value::Table(_) => Ok(()),
    }
}

fn takes(schema: Schema, value: &Value) -> bool {
    match (schema.kind(), value) {
        (Some("string"), Value::String(_))
        | (Some("integer" | "number"), Value::Integer(_))
        | (Some("number"), Value::Float(_))
        | (Some("boolean"), Value::Boolean(_))
        | (Some("array"), Value::Array(_)) => true,
        // 10.0 where a count is due is refused, as in TOML itself.
        _ => false,
    }
}

fn wanted(schema: Schema) -> String {
    match schema.kind() {
        _ if schema.values().next().is_some() => quoted(schema.values(), " or "),
        Some("string") => match schema.format() {
            Some("duration-with-unit") => "a duration in quotes".into(),
            Some("memory-with-unit") => "an amount of memory in quotes".into(),
            Some("price-with-unit") => "a price in quotes".into(),
            _ => "text in quotes".into(),
        },
        Some("integer") => "a whole number".into(),
        Some("number") => "a number".into(),
        Some("boolean") => "true or false".into(),
        Some("array") => match schema.items() {
            Some(items) => format!("a list in which each item is {}", wanted(items)),
            None => "a list".into(),
        },
        _ => "something else".into(),
    }
}

fn quoted(texts: impl Iterator<Item = &'static str>, between: &str) -> String {
    texts.map(|text| format!("{text:?}")).collect::<Vec<_>>().join(between)
}

fn wrong_type(node: &Node, path: &str, wanted: &str, schema: Schema) -> Box<Diagnostic> {
    let number = matches!(node.value, Value::Integer(_) | Value::Float(_));
    let unit = schema.format().is_some_and(|format| format.ends_with("-with-unit"));
    let mut problem = if number && unit {
        Diagnostic::new(format!("`{path}` has no unit"))
            .at(node.span.clone(), "a bare number")
            .note("units are written out, so that nobody has to guess them")
    } else {
        Diagnostic::new(format!("`{path}` must be {wanted}"))
            .at(node.span.clone(), format!("this is {}", node.value.kind()))
    };
    let examples = quoted(schema.examples(), ", ");
    if !examples.is_empty() {
        problem = problem.help(format!("write {wanted}, such as {examples}"));
    }
    Box::new(problem)
}

fn text_value(node: &Node, text: &str, schema: Schema, path: &str) -> Checked {
    if schema.values().next().is_some() {
        return one_of(node, text, schema.values(), path);
    }
    let fault = match schema.format() {
        Some("duration-with-unit") => text.parse::<SimDuration>().err(),
        Some("memory-with-unit") => text.parse::<Bytes>().err(),
        Some("price-with-unit") => text.parse::<UsdPerHour>().err(),
        _ => None,
    };
    match fault {
        None => Ok(()),
        Some(ParseUnitError { what, reason, examples, .. }) => Err(Box::new(
            Diagnostic::new(format!("`{path}` is not {what}"))
                .at(node.span.clone(), reason)
                .help(format!("write {what} with its unit, such as {examples}")),
        )),
    }
}

fn one_of(
    node: &Node,
    text: &str,
    known: impl Iterator<Item = &'static str> + Clone,
    path: &str,
) -> Checked {
    if known.clone().any(|name| name == text) {
        return Ok(());
    }
    let mut problem = Diagnostic::new(format!("unknown value of `{path}`"))
        .at(node.span.clone(), "none of the known ones")
        .note(format!("known values: {}", known.clone().collect::<Vec<_>>().join(", ")));
    if let Some(near) = nearest(text, known) {
        problem = problem.suggest(
            "a value with a similar name exists",
            node.span.clone(),
            format!("\"{near}\""),
        );
    }
    Err(Box::new(problem))
}

fn bounds(node: &Node, x: f64, schema: Schema, path: &str) -> Checked {
    // A 32-bit key says so in its format and leaves the upper bound to it.
    let widest = if schema.format() == Some("uint32") { Some(f64::from(u32::MAX)) } else { None };
    let minimum = schema.bound("minimum");
    let above = schema.bound("exclusiveMinimum");
    let maximum = schema.bound("maximum").or(widest);
    let inside = x.is_finite()
        && minimum.is_none_or(|min| x >= min)
        && above.is_none_or(|min| x > min)
        && maximum.is_none_or(|max| x <= max);
    if inside {
        return Ok(());
    }
    let lower = match (minimum, above) {
        (_, Some(0.0)) => Some("above 0".to_owned()),
        (_, Some(min)) => Some(format!("above {min}")),
        (Some(min), None) => Some(format!("at least {min}")),
        (None, None) => None,
    };
    let too_high = maximum.is_some_and(|max| x > max);
    let range = match (lower, maximum) {
        (Some(lower), Some(max)) if too_high => format!("{lower} and at most {max}"),
        (Some(lower), _) => lower,
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "finite".into(),
    };
    let label = match x {
        x if !x.is_finite() => "not a finite number",
        x if x < 0.0 => "negative",
        0.0 => "zero",
        _ if too_high => "too large",
        _ => "too small",
    };
    Err(Box::new(
        Diagnostic::new(format!("`{path}` must be {range}"))
            .at(node.span.clone(), label)
            .help(description(schema)),
    ))
}

fn description(schema: Schema) -> String {
    let text = schema.description().unwrap_or("see `servesim schema`");
    format!("it means: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}
