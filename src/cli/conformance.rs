//! `servesim conformance`: our schedulers against schedules recorded from the real engines.

use std::path::{Path, PathBuf};

use super::{Failure, Outcome, output};
use crate::cli::args::ConformanceArgs;
use crate::conformance::{self, Divergence};

pub fn run(args: &ConformanceArgs) -> Result<Outcome, Failure> {
    let mut files = Vec::new();
    for path in &args.paths {
        collect(path, &mut files)?;
    }
    if files.is_empty() {
        let names: Vec<_> = args.paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Failure::bad_input(format!(
            "no recorded schedules (*.json) in {}",
            names.join(", ")
        )));
    }
    let style = output::stdout_style();
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let bytes = std::fs::read(&file).map_err(|error| unreadable(&file, &error))?;
        let name = file.display();
        let line = match conformance::check(&bytes) {
            Ok(verdict) => match &verdict.divergence {
                None => {
                    passed += 1;
                    format!("{} {name} ({} steps)\n", style.good("PASS"), verdict.steps)
                }
                Some(divergence) => {
                    failed += 1;
                    format!("{} {name}\n{}", style.bad("FAIL"), indented(divergence))
                }
            },
            Err(error) => {
                failed += 1;
                format!("{} {name}\n    {error}\n", style.bad("FAIL"))
            }
        };
        output::print(line.as_bytes())?;
    }
    output::print(format!("{passed} passed, {failed} failed\n").as_bytes())?;
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Negative })
}

/// Recordings at `path`, those of folders in order of name.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut below = Vec::new();
    for entry in entries {
        below.push(entry.map_err(|error| unreadable(path, &error))?.path());
    }
    below.sort();
    for path in below {
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "json") {
            collect(&path, files)?;
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::bad_input(format!("cannot read {}: {error}", path.display()))
}

/// The report of a divergence, indented under its file.
fn indented(divergence: &Divergence) -> String {
    divergence.to_string().lines().map(|line| format!("    {line}\n")).collect()
}
