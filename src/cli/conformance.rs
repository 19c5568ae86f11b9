//! `servesim conformance`: our schedulers against schedules recorded from the real engines.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Failure, Outcome, output};
use crate::cli::args::ConformanceArgs;
use crate::conformance::{self, ConformanceError, Verdict};

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
    // Gathered in the order of the files, so that the lines do not depend on the threads.
    let verdicts: Vec<_> = files
        .par_iter()
        .map(|file| {
            let bytes = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
            match conformance::check_as(&bytes, args.engine.as_deref()) {
                // Asking for the rules of an engine that there is none of, or of another kind, is a
                // mistake of the user's and no finding.
                Err(error @ ConformanceError::OtherFamily { .. }) => Err(wrong(file, &error)),
                Err(error @ ConformanceError::UnknownEngine(_)) if args.engine.is_some() => {
                    Err(wrong(file, &error))
                }
                verdict => Ok(verdict),
            }
        })
        .collect();
    let style = output::stdout_style();
    let (mut passed, mut failed) = (0, 0);
    for (file, verdict) in files.iter().zip(verdicts) {
        let name = file.display();
        let line = match verdict? {
            Ok(verdict) if verdict.passes() => {
                passed += 1;
                format!("{} {name} ({} steps)\n", style.good("PASS"), verdict.steps)
            }
            Ok(verdict) => {
                failed += 1;
                format!("{} {name}\n{}", style.bad("FAIL"), findings(&verdict))
            }
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

fn wrong(path: &Path, error: &ConformanceError) -> Failure {
    Failure::bad_input(format!("{}: {error}", path.display()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::bad_input(format!("cannot read {}: {error}", path.display()))
}

/// What is wrong with a replay, indented under its file.
fn findings(verdict: &Verdict) -> String {
    let mut text: String =
        verdict.broken.iter().map(|line| format!("    invariant broken: {line}\n")).collect();
    if verdict.jumps_alike == Some(false) {
        text.push_str(
            "    a run that jumps over steps does not give the same requests as one that takes them all\n",
        );
    }
    if let Some(divergence) = &verdict.divergence {
        text.extend(divergence.to_string().lines().map(|line| format!("    {line}\n")));
    }
    text
}
