//! Serving measurements: a CSV with one run per row, what was run and what came out.
//!
//! Each row is a scenario of its own. Columns stand for keys of it ([`KEYS`]; any column with a dot
//! in its name is a key as it is), the rest of it comes from the column `scenario`, from flags and
//! from defaults. Columns of [`Quantity`] hold what was measured.

use std::path::Path;

use crate::model::WeightFormat;
use crate::named::nearest;
use crate::scenario::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::scenario::document::{Node, Value};
use crate::scenario::{self, Assignment, Override, ReadFile, Registry, Source, Template};

use super::super::rows::{self, Header, Read, Row};
use super::Case;
use super::quantity::Quantity;

/// What a field is written as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Count,
    Number,
    Seconds,
}

/// Columns and the keys that they stand for.
const KEYS: [(&str, &str, Kind); 15] = [
    ("model", "model.name", Kind::Text),
    ("quantize", "model.quantize", Kind::Text),
    ("dtype", "model.dtype", Kind::Text),
    ("instance", "hardware.instance", Kind::Text),
    ("environment", "hardware.deployment", Kind::Text),
    ("engine", "engine.name", Kind::Text),
    ("gpus", "engine.tensor-parallel-size", Kind::Count),
    ("tensor_parallel_size", "engine.tensor-parallel-size", Kind::Count),
    ("clients", "workload.closed-loop.clients", Kind::Count),
    ("request_rate", "workload.poisson.request-rate", Kind::Number),
    ("num_requests", "workload.num-requests", Kind::Count),
    ("duration_s", "workload.duration", Kind::Seconds),
    ("input_tokens", "workload.lengths.fixed.input", Kind::Count),
    ("output_tokens", "workload.lengths.fixed.output", Kind::Count),
    ("dataset", "workload.lengths.dataset", Kind::Text),
];

const MEASUREMENTS: rows::Kind = rows::Kind {
    name: "table of measurements",
    example: "model,gpus,clients,input_tokens,output_tokens,throughput_tok_s",
};

/// What flags say of all rows.
pub struct Flags<'a> {
    /// An instance, or a family of them such as `g5`: rows of others are left out.
    pub instance: Option<&'a str>,
    /// Rows of other engines are left out.
    pub engine: Option<&'a str>,
    pub overrides: Vec<Override>,
    pub registry: &'a Registry,
}

/// The rows that are of the deployment.
#[derive(Debug)]
pub struct Measurements {
    pub cases: Vec<Case>,
    /// Rows of other instances or engines.
    pub left_out: usize,
    /// Columns that say nothing to this program.
    pub ignored: Vec<String>,
}

/// A row as it is written.
struct Written {
    scenario: Option<(String, Span)>,
    keys: Vec<Assignment>,
    label: String,
    measured: Vec<(Quantity, f64)>,
    fitted: bool,
}

/// Reads `text`, which stands in `path`, and the scenarios of its rows.
pub fn read(
    path: &Path,
    text: &str,
    flags: &Flags<'_>,
    files: &dyn ReadFile,
) -> Result<Measurements, Diagnostics> {
    let mut template = Template::read(&Source::Flags, flags.registry)?;
    let id = template.add_values(path, text);
    let (header, rows) = rows::read(MEASUREMENTS, id, text, columns, written)
        .map_err(|list| Diagnostics::new(template.sources().clone(), list))?;
    let mut found = Measurements { cases: Vec::new(), left_out: 0, ignored: header.ignored };
    for row in rows {
        let base = match &row.scenario {
            None => Source::Flags,
            Some((name, span)) => scenario::embedded(name)
                .map_or_else(|| scenario::open(&beside(path, name), files), Ok)
                .map_err(|problem| no_scenario(&template, span, &problem))?,
        };
        let mut template = Template::read(&base, flags.registry)?;
        let again = template.add_values(path, text);
        let mut errors = Vec::new();
        template.override_with(&overrides(flags, &row), &mut errors);
        if !errors.is_empty() {
            return Err(Diagnostics::new(template.sources().clone(), errors));
        }
        // The text has another number among this scenario's.
        let keys: Vec<Assignment> = row
            .keys
            .iter()
            .map(|(key, node)| {
                let span = Span::new(again, node.span.range.clone());
                let value = node.value.clone();
                (key.clone(), Node { key_span: span.clone(), span, value })
            })
            .collect();
        let scenario = template.with(&keys, files)?;
        if !is_of(flags, &scenario) {
            found.left_out += 1;
            continue;
        }
        for &(quantity, measured) in &row.measured {
            found.cases.push(Case {
                label: row.label.clone(),
                scenario: scenario.clone(),
                quantity,
                measured,
                fitted: row.fitted,
            });
        }
    }
    if found.cases.is_empty() {
        let which = [flags.instance, flags.engine].map(|name| name.unwrap_or("any"));
        let problem = Diagnostic::new("no row is of this deployment")
            .within(id)
            .note(match found.left_out {
                1 => "its one row is of another instance or engine".to_owned(),
                rows => format!("its {rows} rows are of other instances or engines"),
            })
            .help(format!("asked for: instance {}, engine {}", which[0], which[1]));
        return Err(Diagnostics::new(template.sources().clone(), vec![problem]));
    }
    Ok(found)
}

fn beside(path: &Path, name: &str) -> String {
    let folder = path.parent().unwrap_or(Path::new(""));
    folder.join(name).display().to_string()
}

fn no_scenario(template: &Template, span: &Span, problem: &Diagnostics) -> Diagnostics {
    let why = problem.iter().map(|d| d.title.clone()).collect::<Vec<_>>().join("; ");
    let diagnostic = Diagnostic::new("the row's scenario cannot be read")
        .at(span.clone(), why)
        .help("give the path of a scenario beside this file, or one of `servesim list scenarios`");
    Diagnostics::new(template.sources().clone(), vec![diagnostic])
}

/// Flags give what neither the row nor its scenario says; `--set` is for all rows.
fn overrides(flags: &Flags<'_>, row: &Written) -> Vec<Override> {
    let says = |key: &str| row.scenario.is_some() || row.keys.iter().any(|(k, _)| k == key);
    let mut overrides = Vec::new();
    for (flag, key, value) in [
        ("--instance", "hardware.instance", flags.instance),
        ("--engine", "engine.name", flags.engine),
    ] {
        if let Some(value) = value.filter(|_| !says(key)) {
            overrides.push(Override::flag(flag, key, value));
        }
    }
    overrides.extend(flags.overrides.iter().cloned());
    overrides
}

fn is_of(flags: &Flags<'_>, scenario: &scenario::Scenario) -> bool {
    let instance = scenario.hardware.instance.name.as_str();
    let family = instance.split_once('.').map_or(instance, |(family, _)| family);
    flags.instance.is_none_or(|name| name == instance || name == family)
        && flags.engine.is_none_or(|name| name == scenario.engine.name.name())
}

/// What the header makes the columns.
struct Columns {
    measured: Vec<Quantity>,
    /// Columns that are keys as they are.
    keys: Vec<String>,
    ignored: Vec<String>,
}

fn columns(header: &Header) -> Read<Columns> {
    let measured: Vec<Quantity> =
        Quantity::ALL.iter().copied().filter(|quantity| header.has(quantity.name())).collect();
    if measured.is_empty() {
        let known: Vec<&str> = Quantity::names().collect();
        let mut unknown =
            header.columns.keys().filter(|column| !KEYS.iter().any(|(of, ..)| of == column));
        let near = unknown.find_map(|column| {
            Some((column, nearest(column, Quantity::names()).filter(|near| near != column)?))
        });
        let mut problem =
            Diagnostic::new("the table of measurements has no column of a measurement")
                .at(header.span.clone(), "columns found")
                .help(format!("give one or more of {}, in these units", known.join(", ")));
        if let Some((column, near)) = near {
            problem = problem.help(format!("is `{column}` meant as `{near}`?"));
        }
        return Err(Box::new(problem));
    }
    if !header.has("model") && !header.has("scenario") {
        let keys: Vec<&str> = KEYS.iter().map(|(column, ..)| *column).collect();
        let problem = Diagnostic::new("the table of measurements does not say what was run")
            .at(header.span.clone(), "neither `scenario` nor `model`")
            .help(format!(
                "columns that say it: scenario, {}; or any key of a scenario, as \
                 engine.vllm.max-num-seqs",
                keys.join(", ")
            ));
        return Err(Box::new(problem));
    }
    let known = |column: &str| {
        column == "scenario"
            || column == "fit"
            || KEYS.iter().any(|(name, ..)| *name == column)
            || Quantity::names().any(|name| name == column)
    };
    let (keys, ignored) = header
        .columns
        .keys()
        .filter(|column| !known(column) && !column.is_empty())
        .cloned()
        .partition(|column| column.contains('.'));
    Ok(Columns { measured, keys, ignored })
}

fn written(columns: &Columns, row: &Row<'_>) -> Read<Written> {
    let mut keys = Vec::new();
    for (column, key, kind) in KEYS {
        let Some(field) = row.optional(column) else { continue };
        let value = match kind {
            Kind::Text => Value::String(field.to_owned()),
            Kind::Count => {
                let count = row.count(column, 1)?;
                Value::Integer(i64::try_from(count).expect("counts are below 2^48"))
            }
            Kind::Number => Value::Float(row.positive(column, "nothing arrives", "write 2.5")?),
            Kind::Seconds => {
                let help = "write seconds without a unit, such as 240";
                row.positive(column, "no time", help)?;
                Value::String(format!("{field} s"))
            }
        };
        keys.push(assignment(row, column, key, value));
    }
    for key in &columns.keys {
        let Some(field) = row.optional(key) else { continue };
        let value = match (field.parse::<i64>(), field.parse::<f64>(), field.parse::<bool>()) {
            (Ok(whole), ..) => Value::Integer(whole),
            (_, Ok(number), _) => Value::Float(number),
            (.., Ok(truth)) => Value::Boolean(truth),
            _ => Value::String(field.to_owned()),
        };
        keys.push(assignment(row, key, key, value));
    }
    let mut measured = Vec::new();
    for &quantity in &columns.measured {
        if row.optional(quantity.name()).is_some() {
            let help = format!("write {} without the unit, such as 35.2", quantity.unit());
            measured.push((quantity, row.positive(quantity.name(), "nothing measured", &help)?));
        }
    }
    let first = columns.measured[0].name();
    if measured.is_empty() {
        return Err(row.fault(first, "nothing measured in this row", "give the row a measurement"));
    }
    let fitted = match row.optional("fit") {
        None | Some("yes") => true,
        Some("no") => false,
        Some(_) => {
            return Err(row.fault(
                "fit",
                "neither yes nor no",
                "write no for a row that is to be predicted only, else yes or nothing",
            ));
        }
    };
    let scenario = row.optional("scenario").map(|name| (name.to_owned(), row.span("scenario")));
    Ok(Written { scenario, keys, label: label(row), measured, fitted })
}

fn assignment(row: &Row<'_>, column: &str, key: &str, value: Value) -> Assignment {
    let span = row.span(column);
    (key.to_owned(), Node { key_span: span.clone(), span, value })
}

/// What reports call the row.
fn label(row: &Row<'_>) -> String {
    if let Some(name) = row.optional("scenario") {
        let name = name.rsplit('/').next().unwrap_or(name);
        return name.strip_suffix(".toml").unwrap_or(name).to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    let mut add = |column: &str, show: &dyn Fn(&str) -> String| {
        words.extend(row.optional(column).map(show));
    };
    add("model", &str::to_owned);
    if row.optional("quantize") != Some(WeightFormat::None.name()) {
        add("quantize", &str::to_owned);
    }
    add("instance", &str::to_owned);
    add("gpus", &|n| format!("tp {n}"));
    add("tensor_parallel_size", &|n| format!("tp {n}"));
    add("clients", &|n| format!("x {n}"));
    add("request_rate", &|rate| format!("{rate}/s"));
    add("dataset", &str::to_owned);
    let lengths = ["input_tokens", "output_tokens"].map(|column| row.optional(column));
    if let [Some(input), Some(output)] = lengths {
        words.push(format!("{input}+{output}"));
    }
    words.join(" ")
}
