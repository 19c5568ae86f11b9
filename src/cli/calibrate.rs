//! `servesim calibrate`: measurements in, a profile out.

mod device;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::args::{CalibrateArgs, Format};
use super::{Failure, Outcome, output};
use crate::calibrate::table::{self, TableKind, Timing, catalogue_gpu};
use crate::report::Listing;
use crate::scenario::diagnostic::{Diagnostics, Sources};

pub fn run(args: &CalibrateArgs) -> Result<Outcome, Failure> {
    match args.device {
        Some(kind) => device::run(kind, args),
        None => from_tables(args),
    }
}

/// Reads operator tables and shows what they hold.
fn from_tables(args: &CalibrateArgs) -> Result<Outcome, Failure> {
    let tables = read_tables(&args.from_tables)?;
    let mut counts: BTreeMap<(&str, TableKind), usize> = BTreeMap::new();
    for timing in tables.iter().flat_map(|(_, rows)| rows) {
        *counts.entry((&timing.gpu, timing.operator.kind())).or_default() += 1;
    }
    let columns =
        [("gpu", "GPU"), ("catalogue", "in the catalogue"), ("kind", "kernels"), ("rows", "rows")];
    let mut listing = Listing::new(&columns);
    for ((gpu, kind), rows) in counts {
        listing.push(vec![gpu.into(), catalogue_gpu(gpu).into(), kind.name().into(), rows.into()]);
    }
    output::print(&match args.format {
        Format::Table => listing.to_table().into_bytes(),
        Format::Json => listing.to_json(),
        Format::Csv => listing.to_csv(),
    })?;
    Ok(Outcome::Done)
}

/// The tables of files, and of all CSV files in folders, in alphabetical order.
fn read_tables(paths: &[PathBuf]) -> Result<Vec<(TableKind, Vec<Timing>)>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(csv_files(path)?);
        } else {
            files.push(path.clone());
        }
    }
    let mut sources = Sources::default();
    let (mut tables, mut faults) = (Vec::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| {
            Failure::bad_input(format!(
                "cannot read {}: {error}; give operator tables as CSV text",
                file.display()
            ))
        })?;
        let id = sources.add(file.display().to_string(), text.as_str());
        match table::read(id, &text) {
            Ok(table) => tables.push(table),
            Err(list) => faults.extend(list),
        }
    }
    if faults.is_empty() { Ok(tables) } else { Err(Diagnostics::new(sources, faults).into()) }
}

fn csv_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable =
        |error| Failure::bad_input(format!("cannot read {}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::bad_input(format!("no CSV files in {}", folder.display())));
    }
    Ok(files)
}
