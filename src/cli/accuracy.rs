//! `servesim accuracy`: how far predictions are from measurements.

use std::path::Path;

use super::args::{AccuracyArgs, Format, Section};
use super::progress::RunsDone;
use super::stopwatch::Stopwatch;
use super::{Failure, Outcome, calibrate, list, output};
use crate::accuracy::{self, Accuracy};
use crate::calibrate::table::Timing;
use crate::report::{Listing, accuracy_table, json};
use crate::validate;

pub fn run(args: &AccuracyArgs) -> Result<Outcome, Failure> {
    if args.format == Format::Csv && args.section.is_none() {
        return Err(Failure::bad_input(
            "a CSV file has one table\n  = help: name it with --section groups, rows, operators or \
             left-out",
        ));
    }
    // Only now: what cannot be written is not computed.
    let page = args.write.as_deref().map(Page::open).transpose()?;
    let accuracy = figures(args)?;
    if let Some(page) = &page {
        page.write(&accuracy)?;
    }
    print(args, &accuracy)?;
    Ok(Outcome::Done)
}

fn figures(args: &AccuracyArgs) -> Result<Accuracy, Failure> {
    let fault = |error: &csv::Error| Failure::environment("the embedded figures", error);
    let mut figures = Accuracy::committed().map_err(|error| fault(&error))?;
    if !args.from_tables.is_empty() {
        let tables = calibrate::read_tables(&args.from_tables)?;
        let rows: Vec<Timing> = tables.into_iter().flat_map(|(_, rows)| rows).collect();
        figures.left_out = accuracy::left_out(&rows);
    }
    let simulated = matches!(args.section, None | Some(Section::Groups | Section::Rows));
    if args.committed || !simulated {
        return Ok(figures);
    }
    let watch = Stopwatch::start();
    let done = RunsDone::new(accuracy::SUITES.len() as u64, watch.started());
    let mut rows = Vec::new();
    for suite in accuracy::SUITES {
        let report = validate::run(suite, true).map_err(|error| {
            Failure::environment(&format!("cannot compute the suite {suite}"), &error)
        })?;
        let mut computed = accuracy::rows(&report);
        if computed.is_empty() {
            figures.notes.push(format!(
                "{suite}: the recording is not here; the figures are those of when the program was made"
            ));
            computed =
                figures.serving.iter().filter(|row| row.suite == suite.name()).cloned().collect();
        }
        rows.append(&mut computed);
        done.one_more();
    }
    if rows != figures.serving {
        figures.notes.push(
            "these figures are not the ones in calibration/accuracy.csv, from which the README's are \
             made"
                .into(),
        );
    }
    figures.serving = rows;
    Ok(figures)
}

fn print(args: &AccuracyArgs, accuracy: &Accuracy) -> Result<(), Failure> {
    let listing: Listing = match args.section {
        None if args.format == Format::Json => {
            let mut object = serde_json::json!(accuracy);
            object["groups"] = serde_json::json!(accuracy_table::all_groups(&accuracy.serving));
            return output::print(&json::pretty(&object));
        }
        None => {
            let text = accuracy_table::render(accuracy, output::stdout_style());
            return output::print(text.as_bytes());
        }
        Some(Section::Groups) => {
            accuracy_table::groups_listing(&accuracy_table::all_groups(&accuracy.serving))
        }
        Some(Section::Rows) => accuracy_table::rows_listing(&accuracy.serving),
        Some(Section::Operators) => {
            let all = [&accuracy.operators[..], &accuracy.links_and_kernels].concat();
            accuracy_table::operators_listing(&all, true)
        }
        Some(Section::LeftOut) => accuracy_table::operators_listing(&accuracy.left_out, false),
    };
    list::print(&listing, args.format)
}

/// A page with a marked section.
struct Page<'a> {
    path: &'a Path,
    text: String,
}

impl<'a> Page<'a> {
    fn open(path: &'a Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::bad_input(format!("cannot read {}: {error}", path.display()))
        })?;
        if accuracy_table::replace_section(&text, "").is_none() {
            return Err(Failure::bad_input(format!(
                "{} has no section for the figures\n  = help: put these two lines where it is to \
                 stand:\n{}",
                path.display(),
                accuracy_table::marks()
            )));
        }
        Ok(Self { path, text })
    }

    fn write(&self, accuracy: &Accuracy) -> Result<(), Failure> {
        let section = accuracy_table::markdown(accuracy);
        let text = accuracy_table::replace_section(&self.text, &section)
            .expect("the page has had its marks when it was opened");
        output::replace(self.path, text.as_bytes())
    }
}
