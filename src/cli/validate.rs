//! `servesim validate`: predictions beside published measurements, or beside a load test.

mod against;

use serde_json::Value;

use super::args::{Format, ValidateArgs};
use super::{Failure, Outcome, output};
use crate::report::{Listing, Style, json};
use crate::scenario::Registry;
use crate::validate::{self, Report, Suite};

pub fn run(args: &ValidateArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let scenario = args.scenario();
    if let Some(file) = &args.against {
        return against::run(args, file, &scenario, registry);
    }
    if scenario.deployment.names_a_deployment() || !scenario.overrides().is_empty() {
        return Err(Failure::bad_input(
            "the suites have scenarios of their own, which flags do not change\n\
             help: --against RESULT.json sets a scenario beside a load test of yours",
        ));
    }
    let suites = match &args.what {
        Some(name) => vec![name.parse::<Suite>().map_err(Failure::bad_input)?],
        None => Suite::ALL.to_vec(),
    };
    let mut reports = Vec::with_capacity(suites.len());
    for suite in suites {
        // The suites read only what is embedded: a fault there is ours, not the user's.
        let report = validate::run(suite, false).map_err(|error| {
            Failure::environment(&format!("cannot compute the suite {suite}"), &error)
        })?;
        if args.format == Format::Table {
            output::print(render(&report, output::stdout_style()).as_bytes())?;
        }
        reports.push(report);
    }
    match args.format {
        Format::Table => {}
        Format::Json => output::print(&json::pretty(&serde_json::json!({ "suites": reports })))?,
        Format::Csv => output::print(&rows(&reports).to_csv())?,
    }
    let passed = reports.iter().all(Report::passed);
    Ok(if passed { Outcome::Done } else { Outcome::Negative })
}

/// Share as a percentage with its sign.
fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

fn render(report: &Report, style: Style) -> String {
    let mut text = format!("{}: {}\n\n", style.bold(report.suite), report.title);
    if !report.rows.is_empty() {
        text.push_str(&rows_for_people(report).to_table());
        text.push('\n');
    }
    if !report.constants.is_empty() {
        text.push_str(&format!(
            "{} constants were fitted on these rows:\n",
            report.constants.len()
        ));
        text.push_str(&constants(report).to_table());
        text.push('\n');
    }
    for row in &report.rows {
        if let Some(note) = &row.note {
            text.push_str(&style.dim(&format!("{}, {}: {note}", row.row, row.quantity)));
            text.push('\n');
        }
    }
    for check in &report.checks {
        let verdict = if check.holds { style.good("holds") } else { style.bad("BROKEN") };
        text.push_str(&format!("{verdict}  {}: {}", check.id, check.claim));
        if !check.evidence.is_empty() {
            text.push_str(&style.dim(&format!(" ({})", check.evidence)));
        }
        text.push('\n');
    }
    for note in &report.notes {
        text.push_str(&style.dim(&format!("note: {note}")));
        text.push('\n');
    }
    let broken = report.checks.iter().filter(|check| !check.holds).count();
    text.push_str(&format!("{} checks hold, {broken} broken\n\n", report.checks.len() - broken));
    text
}

fn rows_for_people(report: &Report) -> Listing {
    let mut listing = Listing::new(&[
        ("row", "row"),
        ("quantity", "quantity"),
        ("measured", "measured"),
        ("predicted", "predicted"),
        ("interval", "95 % interval"),
        ("error", "error"),
        ("loo", "left out"),
        ("fitted", "in the fit"),
        ("trust", "trust"),
    ]);
    let rounded = |value: f64| Value::from((value * 1000.0).round() / 1000.0);
    for row in &report.rows {
        listing.push(vec![
            row.row.clone().into(),
            format!("{} [{}]", row.quantity, row.unit).into(),
            rounded(row.measured),
            rounded(row.predicted),
            row.interval.map(|(low, high)| format!("{low:.2} .. {high:.2}")).into(),
            percent(row.error).into(),
            row.leave_one_out_error.map(percent).into(),
            (!row.fitted.is_empty()).into(),
            row.trust.map(|trust| trust.name()).into(),
        ]);
    }
    listing
}

fn constants(report: &Report) -> Listing {
    let mut listing = Listing::new(&[
        ("name", "constant"),
        ("value", "fitted"),
        ("unit", "unit"),
        ("prior", "prior"),
        ("prior_factor", "x/:"),
        ("posterior_factor", "left, x/:"),
        ("committed", "in the profile"),
        ("sensitivity", "change of the rows, % per % of the constant"),
    ]);
    for constant in &report.constants {
        let sensitivity: Vec<_> = constant
            .sensitivity
            .iter()
            .map(|(row, change)| format!("{row} {change:+.2}"))
            .collect();
        listing.push(vec![
            constant.name.clone().into(),
            format!("{:.4e}", constant.value).into(),
            constant.unit.into(),
            format!("{:.4e}", constant.prior).into(),
            constant.prior_factor.into(),
            format!("{:.2}", constant.posterior_factor).into(),
            format!("{:.4e}", constant.committed).into(),
            sensitivity.join(", ").into(),
        ]);
    }
    listing
}

/// One row per measured number and one per check, of all suites.
fn rows(reports: &[Report]) -> Listing {
    let mut listing = Listing::new(&[
        ("suite", "suite"),
        ("row", "row"),
        ("quantity", "quantity"),
        ("unit", "unit"),
        ("measured", "measured"),
        ("predicted", "predicted"),
        ("low", "low"),
        ("high", "high"),
        ("error", "error"),
        ("leave_one_out_error", "leave one out"),
        ("fitted", "fitted"),
        ("trust", "trust"),
        ("holds", "holds"),
        ("note", "note"),
    ]);
    for report in reports {
        for row in &report.rows {
            listing.push(vec![
                report.suite.into(),
                row.row.clone().into(),
                row.quantity.into(),
                row.unit.into(),
                row.measured.into(),
                row.predicted.into(),
                row.interval.map(|interval| interval.0).into(),
                row.interval.map(|interval| interval.1).into(),
                row.error.into(),
                row.leave_one_out_error.into(),
                row.fitted.join(" ").into(),
                row.trust.map(|trust| trust.name()).into(),
                Value::Null,
                row.note.clone().into(),
            ]);
        }
        for check in &report.checks {
            let mut cells = vec![report.suite.into(), check.id.clone().into()];
            cells.resize(12, Value::Null);
            cells.push(check.holds.into());
            cells.push(format!("{} ({})", check.claim, check.evidence).into());
            listing.push(cells);
        }
    }
    listing
}
