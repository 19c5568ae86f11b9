//! `servesim validate --against RESULT.json SCENARIO.toml`.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json as object};

use super::super::args::{Format, ScenarioArgs, ValidateArgs};
use super::super::{Failure, Outcome, input, output, run};
use super::percent;
use crate::cost::calibrated::merge;
use crate::deploy::Simulated;
use crate::load_test::read::{ReadError, TOLD_BY};
use crate::load_test::{self, Comparison, Log, Row};
use crate::report::{Listing, Style, json};
use crate::scenario::Registry;

pub fn run(
    args: &ValidateArgs,
    file: &Path,
    scenario: &ScenarioArgs,
    registry: &Registry,
) -> Result<Outcome, Failure> {
    if scenario.scenario.is_none() && !scenario.deployment.names_a_deployment() {
        return Err(Failure::bad_input(
            "what the load test ran is missing\n\
             help: name its scenario, as in --against RESULT.json SCENARIO.toml",
        ));
    }
    let bytes = std::fs::read(file)
        .map_err(|error| Failure::bad_input(format!("cannot read {}: {error}", file.display())))?;
    let measured = load_test::read(&bytes, args.benchmark)
        .map_err(|error| Failure::bad_input(unread(file, &error)))?;
    let mut scenario = input::scenario(scenario, registry)?;
    scenario.measure.convention = measured.format.convention();
    let Some(deployment) = run::deploy(&scenario, args.format)? else {
        return Ok(Outcome::Negative);
    };
    let first = scenario.workload.seed;
    let one_run = |i: u64| {
        let seed = first.wrapping_add(i);
        let log = Log::new(deployment.measure());
        let Simulated { observer: log, priced, .. } = deployment.simulate_noting(seed, log, false);
        let compared = load_test::compare(&measured, &log.run(&scenario, seed));
        (compared, priced.extrapolations())
    };
    let seeds = u64::from(scenario.measure.seeds);
    // Collected in order of the seeds, so that the figures do not depend on the threads.
    let runs: Vec<_> = (0..seeds).into_par_iter().map(one_run).collect();
    if let Some(failure) = scenario.workload.trace_failure() {
        return Err(Failure::Environment(format!("error: {failure}")));
    }
    let mut extrapolations = Vec::new();
    runs.iter().for_each(|(_, of_run)| merge(&mut extrapolations, of_run));
    let notes = run::notes(&scenario, &deployment, &extrapolations);
    let comparisons = runs.into_iter().map(|(comparison, _)| comparison).collect();
    let comparison = load_test::over_seeds(comparisons).expect("there is at least one seed");
    let beyond: Vec<_> = args
        .tolerance
        .into_iter()
        .flat_map(|tolerance| comparison.beyond(tolerance))
        .map(|row| row.metric.clone())
        .collect();
    match args.format {
        Format::Table => {
            let title = format!("{} beside {}", scenario.name, file.display());
            let style = output::stdout_style();
            let mut text = render(&title, &comparison, args.tolerance, &beyond, style);
            for note in notes {
                text.push_str(&style.dim(&format!("note: {note}")));
                text.push('\n');
            }
            output::print(text.as_bytes())?;
        }
        Format::Json => output::print(&json::pretty(&object!({
            "scenario": scenario.name,
            "against": file,
            "format": comparison.format,
            "seeds": comparison.seeds,
            "rows": comparison.rows,
            "warnings": comparison.warnings,
            "notes": notes,
            "tolerance": args.tolerance,
            "beyond_tolerance": beyond,
        })))?,
        Format::Csv => {
            output::print(&rows(&comparison).to_csv())?;
            comparison.warnings.iter().for_each(|w| output::complain(&format!("warning: {w}")));
        }
    }
    Ok(if beyond.is_empty() { Outcome::Done } else { Outcome::Negative })
}

/// What is wrong with the file, and what would be right.
fn unread(file: &Path, error: &ReadError) -> String {
    let file = file.display();
    match error {
        ReadError::NotJson { message, .. } => {
            format!(
                "{file} is not JSON: {message}\nhelp: a load tester's result is one JSON object"
            )
        }
        ReadError::Unknown { found } => {
            let mut text = format!("{file} is no result of a load tester that is known here\n");
            for (format, by) in TOLD_BY {
                text.push_str(&format!("looked for {by} ({format})\n"));
            }
            if found.is_empty() {
                text.push_str("found no object");
            } else {
                text.push_str(&format!("found the keys {}", found.join(", ")));
            }
            text
        }
        ReadError::Several { labels } => {
            let mut text = format!("{file}: {error}\nhelp: choose one with --benchmark N");
            for (i, label) in labels.iter().enumerate() {
                text.push_str(&format!("\n  {i}: {label}"));
            }
            text
        }
        ReadError::OutOfRange { .. }
        | ReadError::OneRun { .. }
        | ReadError::Negative { .. }
        | ReadError::Empty { .. } => format!("{file}: {error}"),
    }
}

fn render(
    title: &str,
    comparison: &Comparison,
    tolerance: Option<f64>,
    beyond: &[String],
    style: Style,
) -> String {
    let mut text = format!("{}, by the definitions of {}\n", style.bold(title), comparison.format);
    if comparison.seeds > 1 {
        text.push_str(&format!(
            "means of {} seeds; errors with one standard deviation between seeds\n",
            comparison.seeds
        ));
    }
    text.push('\n');
    text.push_str(&for_people(comparison).to_table());
    for warning in &comparison.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if let Some(tolerance) = tolerance {
        let within = format!("within {:.4} %", tolerance * 100.0);
        let within = within.replace(".0000 %", " %");
        text.push_str(&match beyond {
            [] => format!("{} {within}\n", style.good("all")),
            beyond => format!("{} {within}: {}\n", style.bad("not"), beyond.join(", ")),
        });
    }
    text
}

/// A row for each metric, its figures as `shown`.
fn listing(comparison: &Comparison, shown: impl Fn(&Row) -> [Value; 4]) -> Listing {
    let several = comparison.seeds > 1;
    let columns = [
        ("metric", "metric"),
        ("unit", "unit"),
        ("measured", "measured"),
        ("predicted", "predicted"),
        ("error", "error"),
        ("spread", "+-"),
        ("place", "in the file"),
    ];
    let columns: Vec<_> =
        columns.into_iter().filter(|(name, _)| several || *name != "spread").collect();
    let mut listing = Listing::new(&columns);
    for row in &comparison.rows {
        let [measured, predicted, error, spread] = shown(row);
        let mut cells =
            vec![row.metric.clone().into(), row.unit.into(), measured, predicted, error];
        cells.extend(several.then_some(spread));
        cells.push(row.place.clone().into());
        listing.push(cells);
    }
    listing
}

fn for_people(comparison: &Comparison) -> Listing {
    let rounded = |value: f64| Value::from((value * 1000.0).round() / 1000.0);
    listing(comparison, |row| {
        let predicted = row.predicted.map_or(Value::Null, rounded);
        let spread = row.spread.map(|spread| format!("{:.1} %", spread * 100.0));
        [rounded(row.measured), predicted, row.error.map(percent).into(), spread.into()]
    })
}

fn rows(comparison: &Comparison) -> Listing {
    listing(comparison, |row| {
        [row.measured.into(), row.predicted.into(), row.error.into(), row.spread.into()]
    })
}
