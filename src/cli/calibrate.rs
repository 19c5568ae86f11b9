//! `servesim calibrate`: measurements in, a profile out.

mod deployment;
mod device;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::args::{CalibrateArgs, Format};
use super::{Failure, Outcome, output};
use crate::calibrate::import::{self, Tables, to_toml};
use crate::calibrate::table::{self, TableKind, Timing, catalogue_gpu};
use crate::cost::profile::{Fit, GpuProfile};
use crate::hardware::{self, Gpu};
use crate::report::Listing;
use crate::scenario::Registry;
use crate::scenario::diagnostic::{Diagnostics, Sources};

pub fn run(args: &CalibrateArgs, registry: &Registry) -> Result<Outcome, Failure> {
    match (&args.fit_deployment, args.device) {
        (Some(path), _) => deployment::run(path, args, registry),
        (None, Some(kind)) => device::run(kind, args),
        (None, None) => from_tables(args),
    }
}

/// Fits a GPU's profile to operator tables.
fn from_tables(args: &CalibrateArgs) -> Result<Outcome, Failure> {
    let tables = read_tables(&args.from_tables)?;
    let rows: Vec<Timing> = tables.into_iter().flat_map(|(_, rows)| rows).collect();
    if let Some(name) = &args.tables.links {
        let known = import::links_names().collect();
        let profile = Tables::new(&rows).links(name);
        let made = profile.map(|profile| (import::links_to_toml(&profile), profile.fits));
        return no_gpu(args, ("links", name, known), made);
    }
    if let Some(name) = &args.tables.weight_kernel {
        let known = import::weight_kernel_names().collect();
        let profile = Tables::new(&rows).weight_kernel(name);
        let made = profile.map(|profile| (import::weight_kernel_to_toml(&profile), profile.fits));
        return no_gpu(args, ("weight kernel", name, known), made);
    }
    let Some(gpu) = gpu_of(args, &rows)? else {
        // Several GPUs and none chosen: show what there is.
        print(args, &contents(&rows))?;
        return Ok(Outcome::Done);
    };
    let import = Tables::new(&rows).import(&gpu);
    if let Some(path) = &args.out {
        let text = to_toml(&import.profile, &gpu);
        // What is written must be what the program reads.
        GpuProfile::from_toml(&path.display().to_string(), text.as_bytes())
            .map_err(|error| Failure::environment("the fitted profile is not valid", &error))?;
        output::replace(path, text.as_bytes())?;
    }
    if args.format != Format::Table {
        print(args, &fits(&import.profile.fits))?;
        return Ok(Outcome::Done);
    }
    let style = output::stdout_style();
    let mut text = format!("{}: {} rows in the tables\n\n", style.bold(&gpu.name), import.rows);
    text.push_str(&fits(&import.profile.fits).to_table());
    text.push('\n');
    for (why, count) in import.dropped.iter() {
        text.push_str(&format!("left out {count:>6}  {why}\n"));
    }
    for (what, from) in &import.transferred {
        text.push_str(&format!("transferred  {what} from {from}\n"));
    }
    text.push_str(&written_to(args));
    output::print(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// Writes and reports the profile `name`, which is of no GPU: its text and its errors, if the tables
/// give one.
fn no_gpu(
    args: &CalibrateArgs,
    (what, name, known): (&str, &str, Vec<&str>),
    made: Option<(String, Vec<Fit>)>,
) -> Result<Outcome, Failure> {
    let Some((text, made)) = made else {
        let known = known.join(", ");
        return Err(Failure::bad_input(format!(
            "the tables give no profile of the {what} {name:?}; with their rows there are {known}"
        )));
    };
    if let Some(path) = &args.out {
        output::replace(path, text.as_bytes())?;
    }
    if args.format != Format::Table {
        print(args, &fits(&made))?;
        return Ok(Outcome::Done);
    }
    let style = output::stdout_style();
    let text = format!("{}\n\n{}{}", style.bold(name), fits(&made).to_table(), written_to(args));
    output::print(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// Where the profile went.
fn written_to(args: &CalibrateArgs) -> String {
    match &args.out {
        Some(path) => format!("\nwritten to {}\n", path.display()),
        None => "\nnot written: give --out PROFILE.toml to keep it\n".to_owned(),
    }
}

/// The GPU that was asked for, or the only one in the tables.
fn gpu_of(args: &CalibrateArgs, rows: &[Timing]) -> Result<Option<Gpu>, Failure> {
    let named = |name: &str| hardware::gpu(name).map_err(Failure::bad_input);
    if let Some(name) = &args.gpu {
        let known = hardware::gpu_names().any(|known| known == name);
        let alias = catalogue_gpu(name).filter(|_| !known);
        return named(alias.unwrap_or(name)).map(Some);
    }
    let known: BTreeSet<&str> = rows.iter().filter_map(|row| catalogue_gpu(&row.gpu)).collect();
    let unknown: BTreeSet<&str> = rows.iter().map(|row| row.gpu.as_str()).collect();
    match (known.len(), &args.out) {
        (1, _) => named(known.iter().next().expect("there is one")).map(Some),
        (0, _) => Err(Failure::bad_input(format!(
            "no GPU of the tables is in the catalogue: {}; name the one that they are of with --gpu",
            unknown.into_iter().collect::<Vec<_>>().join(", ")
        ))),
        (_, Some(_)) => Err(Failure::bad_input(format!(
            "the tables have several GPUs; choose one with --gpu: {}",
            known.into_iter().collect::<Vec<_>>().join(", ")
        ))),
        (_, None) => Ok(None),
    }
}

fn print(args: &CalibrateArgs, listing: &Listing) -> Result<(), Failure> {
    output::print(&match args.format {
        Format::Table => listing.to_table().into_bytes(),
        Format::Json => listing.to_json(),
        Format::Csv => listing.to_csv(),
    })
}

fn fits(fits: &[Fit]) -> Listing {
    let mut listing = Listing::new(&[
        ("surface", "surface"),
        ("source", "source"),
        ("rows", "fitted rows"),
        ("median_percent", "median error, %"),
        ("p90_percent", "p90, %"),
        ("on", "on"),
    ]);
    for fit in fits {
        listing.push(vec![
            fit.surface.clone().into(),
            fit.source.clone().into(),
            fit.rows.into(),
            fit.median_percent.into(),
            fit.p90_percent.into(),
            fit.on.clone().into(),
        ]);
    }
    listing
}

/// Rows by GPU and kind.
fn contents(rows: &[Timing]) -> Listing {
    let mut counts: BTreeMap<(&str, TableKind), usize> = BTreeMap::new();
    for timing in rows {
        *counts.entry((&timing.gpu, timing.operator.kind())).or_default() += 1;
    }
    let columns = [("gpu", "GPU"), ("catalogue", "--gpu"), ("kind", "kernels"), ("rows", "rows")];
    let mut listing = Listing::new(&columns);
    for ((gpu, kind), rows) in counts {
        listing.push(vec![gpu.into(), catalogue_gpu(gpu).into(), kind.name().into(), rows.into()]);
    }
    listing
}

/// The tables of files, and of all CSV files in folders, in alphabetical order.
pub(super) fn read_tables(paths: &[PathBuf]) -> Result<Vec<(TableKind, Vec<Timing>)>, Failure> {
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
