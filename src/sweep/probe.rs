//! Tries what a sweep says before it starts: each value of each axis once, and the names in its
//! conditions.
//!
//! A value that is wrong by itself (a model that does not exist, text for a number) is an error of
//! the file. Values that are wrong together (a tensor-parallel size that a machine is too small
//! for) are what sweeps are for: such a point is a result.

use super::file::Parsed;
use crate::named::nearest;
use crate::scenario::diagnostic::{Diagnostic, Span};
use crate::scenario::document::Node;
use crate::scenario::{Diagnostics, ReadFile, shared_settings};

/// Of long axes, so many values are tried; the rest prove themselves when they run.
const MOST_TRIED: u64 = 1000;

/// The key that a name in a condition stands for: in full, or the last word of the one axis or of
/// the one key that ends so.
pub fn full_name(parsed: &Parsed, name: &str) -> Option<String> {
    if name.contains('.') {
        let shared = || shared_settings().any(|(key, _)| key == name);
        let known = parsed.template.registry().schema().at(name).is_some();
        return (known || shared()).then(|| name.to_owned());
    }
    let ends_so = |key: &str| key.rsplit('.').next() == Some(name);
    let mut axes = parsed.grid.axes().filter(|axis| ends_so(&axis.key));
    match (axes.next(), axes.next()) {
        (Some(axis), None) => return Some(axis.key.clone()),
        (Some(_), Some(_)) => return None,
        (None, _) => {}
    }
    let keys = parsed.template.registry().schema().keys();
    let mut keys = keys.iter().filter(|(key, schema)| ends_so(key) && !schema.is_table());
    match (keys.next(), keys.next()) {
        (Some((key, _)), None) => Some(key.clone()),
        _ => None,
    }
}

/// Tries all that can be tried before the first point runs.
pub fn check(parsed: &Parsed, files: &dyn ReadFile) -> Result<(), Diagnostics> {
    let mut errors = Vec::new();
    names(parsed, &mut errors);
    values(parsed, files, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Diagnostics::new(parsed.template.sources().clone(), errors))
}

/// Checks the names in conditions.
fn names(parsed: &Parsed, errors: &mut Vec<Diagnostic>) {
    const DERIVED: [&str; 3] = ["gpus", "gpu", "usd-per-hour"];
    for condition in &parsed.conditions {
        for (name, at) in condition.condition.names() {
            if DERIVED.contains(&name) || full_name(parsed, name).is_some() {
                continue;
            }
            let fault = super::condition::Fault { at, what: "unknown, or not the only one".into() };
            let mut problem = condition.complain(&fault);
            problem.title = format!("`{name}` is no key of the scenario");
            let keys: Vec<String> = parsed
                .template
                .registry()
                .schema()
                .keys()
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            let word = |key: &'_ str| key.rsplit('.').next() == Some(name);
            let near = keys
                .iter()
                .map(String::as_str)
                .find(|key| word(key))
                .or_else(|| nearest(name, keys.iter().map(String::as_str).chain(DERIVED)))
                .or_else(|| {
                    let last = |key: &&str| key.rsplit('.').next().unwrap_or(key).to_owned();
                    let words: Vec<String> = keys.iter().map(|k| last(&k.as_str())).collect();
                    let near = nearest(name, words.iter().map(String::as_str))?.to_owned();
                    keys.iter().map(String::as_str).find(|key| last(key) == near)
                });
            problem.help = vec![match near {
                Some(near) => format!("a similar name exists: `{near}`"),
                None => format!("names are keys of the scenario, and {}", DERIVED.join(", ")),
            }];
            errors.push(problem);
        }
    }
}

/// Tries each value with the first of the others.
fn values(parsed: &Parsed, files: &dyn ReadFile, errors: &mut Vec<Diagnostic>) {
    let groups = &parsed.grid.groups;
    let mut rows = vec![0; groups.len()];
    // What is wrong whatever the values: the base itself.
    let mut always: Option<Vec<Diagnostic>> = None;
    let mut attempt = |rows: &[u64], errors: &mut Vec<Diagnostic>| {
        let values = parsed.grid.values_of(rows);
        let found: Vec<Diagnostic> = match parsed.template.with(&values, files) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().cloned().collect(),
        };
        let nodes: Vec<&Node> = values.iter().map(|(_, node)| node).collect();
        let mut of_the_base = Vec::new();
        for problem in found {
            let touches = |span: &Span| nodes.iter().any(|node| inside(span, node));
            let primary = problem.primary.as_ref().is_some_and(|label| touches(&label.span));
            let context = problem.context.iter().any(|label| touches(&label.span));
            if primary && problem.context.is_empty() {
                if !errors.contains(&problem) {
                    errors.push(problem);
                }
            } else if !primary && !context {
                of_the_base.push(problem);
            }
        }
        match &mut always {
            None => always = Some(of_the_base),
            Some(always) => always.retain(|problem| of_the_base.contains(problem)),
        }
    };
    attempt(&rows, errors);
    for (index, group) in groups.iter().enumerate() {
        let step = group.len.div_ceil(MOST_TRIED).max(1);
        let mut row = step;
        while row < group.len {
            rows[index] = row;
            attempt(&rows, errors);
            row = row.saturating_add(step);
        }
        rows[index] = 0;
    }
    errors.extend(always.unwrap_or_default());
}

fn inside(span: &Span, node: &Node) -> bool {
    let within = |outer: &Span| {
        outer.source == span.source
            && outer.range.start <= span.range.start
            && span.range.end <= outer.range.end
    };
    within(&node.span) || within(&node.key_span)
}
