//! From the journals of a sweep to its table and its ranking.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::super::args::Format;
use super::super::output::{Content, OutDir};
use super::super::{Failure, Outcome, output};
use super::store::Rows;
use crate::report::{csv, json, sweep_table};
use crate::scenario::DiskFiles;
use crate::sweep::analysis::{Analysis, Report};
use crate::sweep::{Point, RankSpec, Sweep, sensitivity};

/// Writes `points.csv` and `report.json`, and prints the ranking. `shards` are all those of one
/// sweep, in order and complete.
pub fn finish(
    mut shards: Vec<Rows>,
    sweep: Option<&Sweep>,
    out: Option<&Path>,
    format: Format,
) -> Result<Outcome, Failure> {
    let header = shards[0].header.clone();
    let default = RankSpec::default();
    let rank = sweep.map_or(&default, Sweep::rank);
    let mut analysis = Analysis::new(&header, rank);
    let mut heading = Vec::new();
    csv::write_row(&mut heading, header.columns.iter().cloned());
    if format == Format::Csv {
        output::print(&heading)?;
    }
    let out = out.map(OutDir::create).transpose()?;
    let mut table = out.as_ref().map(OutDir::scratch).transpose()?;
    for number in 0..header.points {
        let shard = usize::try_from(number % header.shards).expect("as many as were given");
        let Some(mut row) = shards[shard].row(number)? else {
            let path = shards[shard].path().display();
            let what = format!("error: point {number} has gone from {path}: run the sweep again");
            return Err(Failure::Environment(what));
        };
        analysis.add(number, &row);
        row.push(b'\n');
        if format == Format::Csv {
            output::print(&row)?;
        }
        if let (Some(table), Some(out)) = (&mut table, &out) {
            table.write_all(&row).map_err(|error| out.failure(&error))?;
        }
    }
    let mut report = analysis.report();
    match sweep {
        Some(sweep) => examine(sweep, &mut report)?,
        None => report.notes.push(
            "the sweep's file could not be loaded again, so the winners' sensitivity is not known"
                .into(),
        ),
    }
    if let (Some(table), Some(out)) = (table, &out) {
        let rows = table.into_inner().map_err(|error| out.failure(&error.into_error()))?;
        let points = vec![Content::Bytes(heading), Content::Scratch(rows)];
        let report = vec![Content::Bytes(json::pretty(&to_value(&report)))];
        out.write(vec![("points.csv", points), ("report.json", report)])?;
    }
    match format {
        Format::Table => {
            let text = sweep_table::render(&report, rank.top, output::stdout_style());
            output::print(text.as_bytes())?;
        }
        Format::Json => output::print(&json::pretty(&to_value(&report)))?,
        Format::Csv => {}
    }
    Ok(Outcome::Done)
}

fn to_value(report: &Report) -> serde_json::Value {
    serde_json::to_value(report).expect("a report has only string keys")
}

/// Tries the winners with other prices and bandwidths.
fn examine(sweep: &Sweep, report: &mut Report) -> Result<(), Failure> {
    let wanted = sensitivity::wanted(report);
    let mut found: BTreeMap<u64, Point> = BTreeMap::new();
    for point in sweep.points() {
        let point = point?;
        if wanted.last().is_none_or(|last| point.number > *last) {
            break;
        }
        if wanted.binary_search(&point.number).is_ok() {
            found.insert(point.number, point);
        }
    }
    sensitivity::examine(sweep, report, &|number| found.get(&number).copied(), &DiskFiles);
    Ok(())
}
