//! `servesim calibrate --fit-deployment`: from measured runs to a deployment's profile.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::calibrate::deployment::constant::{Constant, Prior};
use crate::calibrate::deployment::measurements::{self, Flags, Measurements};
use crate::calibrate::deployment::{self, Case, DeploymentFit, FitError, Plan, profile};
use crate::cli::args::{CalibrateArgs, Format};
use crate::cli::{Failure, Outcome, output};
use crate::cost::profile::DeploymentProfile;
use crate::cost::sourced::significant;
use crate::deploy::DeployError;
use crate::named::UnknownName;
use crate::report::{Listing, json};
use crate::scenario::{DiskFiles, Override, Registry};

pub fn run(path: &Path, args: &CalibrateArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let text = fs::read(path).map_err(|error| {
        Failure::bad_input(format!(
            "cannot read {}: {error}; give a CSV with one measured run per row",
            path.display()
        ))
    })?;
    let text = String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::bad_input(format!("{} is not UTF-8 text: byte {at}", path.display()))
    })?;
    let flags = Flags {
        instance: args.instance.as_deref(),
        engine: args.engine.as_deref(),
        overrides: args.set.iter().map(|set| Override::set(set)).collect(),
        registry,
    };
    let found = measurements::read(path, &text, &flags, &DiskFiles)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let plan = plan(args, &found.cases, &file)?;
    let fit = deployment::fit(&found.cases, &plan).map_err(failure)?;
    if let Some(out) = &args.out {
        let begun = deployment::begun_with(&found.cases).map_err(failure)?;
        let text = profile::to_toml(&fit.profile(begun).map_err(|e| failure(e.into()))?);
        // What is written must be what the program reads.
        DeploymentProfile::from_toml(&out.display().to_string(), text.as_bytes())
            .map_err(|error| Failure::environment("the fitted profile is not valid", &error))?;
        output::replace(out, text.as_bytes())?;
    }
    output::print(&match args.format {
        Format::Table => table(args, &found, &fit).into_bytes(),
        Format::Csv => rows(&found.cases, &fit).to_csv(),
        Format::Json => json::pretty(&object(&found, &fit)),
    })?;
    Ok(Outcome::Done)
}

/// What the user gave is wrong, unless the program's own files are.
fn failure(error: FitError) -> Failure {
    match error {
        FitError::Profile(_) | FitError::Deploy { source: DeployError::Cost { .. }, .. } => {
            Failure::environment("the fit cannot be made", &error)
        }
        error => Failure::bad_input(error),
    }
}

/// What to fit: as the flags say, else as the profile to begin with was fitted, else all.
fn plan(args: &CalibrateArgs, cases: &[Case], source: &str) -> Result<Plan, Failure> {
    let named = |name: &str| {
        name.trim().parse::<Constant>().map_err(|error: UnknownName| Failure::bad_input(error))
    };
    let priors = args
        .prior
        .iter()
        .map(|text| {
            let (name, rest) = text.split_once('=').unwrap_or((text, ""));
            Ok((named(name)?, prior(named(name)?, text, rest)?))
        })
        .collect::<Result<Vec<(Constant, Prior)>, Failure>>()?;
    let mut constants =
        args.constants.iter().map(|name| named(name)).collect::<Result<Vec<_>, Failure>>()?;
    if constants.is_empty() {
        constants = deployment::fitted_before(cases).map_err(failure)?;
    }
    if constants.is_empty() {
        constants = deployment::felt(cases).map_err(failure)?;
    }
    constants.extend(priors.iter().map(|(constant, _)| *constant));
    let mut seen = Vec::new();
    constants.retain(|constant| {
        !seen.contains(constant) && {
            seen.push(*constant);
            true
        }
    });
    let with_prior = |constant: Constant| {
        let own = priors.iter().find(|(of, _)| *of == constant);
        (constant, own.map(|(_, prior)| prior.clone()))
    };
    Ok(Plan {
        constants: constants.into_iter().map(with_prior).collect(),
        seeds: args.seeds,
        source: source.to_owned(),
    })
}

fn prior(constant: Constant, whole: &str, text: &str) -> Result<Prior, Failure> {
    let wrong = |why: &str| {
        let example = constant.show(constant.unit().1);
        Failure::bad_input(format!(
            "--prior {whole:?}: {why}; write {constant}=\"{example},1.5\" for a guess that is \
             likely within a factor of 1.5"
        ))
    };
    let (guess, factor) = text.rsplit_once(',').ok_or_else(|| wrong("there is no factor"))?;
    let guess = constant.parse(guess.trim()).map_err(|why| wrong(&why))?;
    let factor = factor.trim().parse::<f64>().map_err(|_| wrong("the factor is no number"))?;
    match (guess > 0.0, factor.is_finite() && factor > 1.0) {
        (true, true) => Ok(Prior { guess, factor }),
        (false, _) => Err(wrong("the guess must be above zero")),
        (_, false) => Err(wrong("the factor must be above 1")),
    }
}

/// A share as a percentage with its sign.
fn percent(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

fn table(args: &CalibrateArgs, found: &Measurements, fit: &DeploymentFit) -> String {
    let mut text = constants_for_people(&found.cases, fit).to_table();
    text.push('\n');
    text.push_str(&rows_for_people(&found.cases, fit).to_table());
    let (mean, left_out) = fit.mean_errors();
    text.push_str(&format!(
        "\nmean absolute error of the fitted rows {:.1} %, by fits without each row {:.1} %; rows \
         scatter by {:.1} % around the fit\n",
        mean * 100.0,
        left_out * 100.0,
        fit.spread * 100.0
    ));
    if found.left_out > 0 {
        text.push_str(&format!("left out {} rows of other instances or engines\n", found.left_out));
    }
    if !found.ignored.is_empty() {
        text.push_str(&format!("columns not used: {}\n", found.ignored.join(", ")));
    }
    match &args.out {
        Some(path) => text.push_str(&format!("written to {}\n", path.display())),
        None => text.push_str("not written: give --out PROFILE.toml to keep it\n"),
    }
    text
}

/// Rows that tell a constant by less than this are not named.
const SMALL_SHARE: f64 = 0.1;

fn constants_for_people(cases: &[Case], fit: &DeploymentFit) -> Listing {
    let mut listing = Listing::new(&[
        ("constant", "constant"),
        ("prior", "prior"),
        ("prior_factor", "x/:"),
        ("value", "fitted"),
        ("factor", "x/:"),
        ("told", "told by rows"),
        ("rows", "which (share of what is told)"),
        ("confused_with", "hard to tell from"),
    ]);
    for constant in &fit.constants {
        let rows = constant.rows.iter().filter(|(.., share)| *share >= SMALL_SHARE);
        let rows: Vec<String> = rows
            .map(|(case, _, share)| {
                format!("{} ({:.0} %)", figure(&cases[*case], cases), share * 100.0)
            })
            .collect();
        let confused = constant.confused_with.map(|(other, rho)| format!("{other} ({rho:+.2})"));
        listing.push(vec![
            constant.label().into(),
            constant.constant.show(constant.prior.guess).into(),
            format!("{:.2}", constant.prior.factor).into(),
            constant.constant.show(constant.value).into(),
            format!("{:.2}", constant.factor).into(),
            constant.told().name().into(),
            rows.join(", ").into(),
            confused.into(),
        ]);
    }
    listing
}

/// A measured figure by its row's name, and by what it is where the row has several.
fn figure(case: &Case, cases: &[Case]) -> String {
    let of_row = cases.iter().filter(|other| other.label == case.label).count();
    if of_row == 1 {
        case.label.clone()
    } else {
        format!("{} of {}", case.quantity.label(), case.label)
    }
}

fn rows_for_people(cases: &[Case], fit: &DeploymentFit) -> Listing {
    let mut listing = Listing::new(&[
        ("row", "row"),
        ("quantity", "quantity"),
        ("measured", "measured"),
        ("before", "before"),
        ("fitted", "fitted"),
        ("left_out", "left out"),
        ("fit", "in the fit"),
    ]);
    for row in &fit.rows {
        let case = &cases[row.case];
        listing.push(vec![
            case.label.clone().into(),
            format!("{} [{}]", case.quantity.label(), case.quantity.unit()).into(),
            case.measured.into(),
            percent(row.before).into(),
            percent(row.after).into(),
            row.left_out.map(percent).into(),
            case.fitted.into(),
        ]);
    }
    listing
}

fn rows(cases: &[Case], fit: &DeploymentFit) -> Listing {
    let columns = ["row", "quantity", "unit", "measured", "predicted", "error_before", "error"];
    let columns = columns.into_iter().chain(["leave_one_out_error", "fitted"]);
    let mut listing = Listing::new(&columns.map(|name| (name, name)).collect::<Vec<_>>());
    for row in &fit.rows {
        let case = &cases[row.case];
        listing.push(vec![
            case.label.clone().into(),
            case.quantity.label().into(),
            case.quantity.unit().into(),
            case.measured.into(),
            significant(case.measured * (1.0 + row.after)).into(),
            row.before.into(),
            row.after.into(),
            row.left_out.into(),
            case.fitted.into(),
        ]);
    }
    listing
}

fn object(found: &Measurements, fit: &DeploymentFit) -> Value {
    let constants: Vec<Value> = fit
        .constants
        .iter()
        .map(|constant| {
            let (unit, base) = constant.constant.unit();
            let rows: Vec<Value> = constant
                .rows
                .iter()
                .map(|(case, slope, share)| {
                    let case = &found.cases[*case];
                    json!({
                        "row": case.label,
                        "quantity": case.quantity.label(),
                        "elasticity": slope,
                        "share": share,
                    })
                })
                .collect();
            json!({
                "constant": constant.constant.name(),
                "ranks": constant.ranks,
                "unit": unit,
                "prior": constant.prior.guess / base,
                "prior_factor": constant.prior.factor,
                "value": constant.value / base,
                "factor": constant.factor,
                "told": constant.told().name(),
                "rows": rows,
                "confused_with": constant.confused_with.map(|(other, correlation)| {
                    json!({ "constant": other.name(), "correlation": correlation })
                }),
            })
        })
        .collect();
    let (mean, left_out) = fit.mean_errors();
    json!({
        "constants": constants,
        "rows": serde_json::from_slice::<Value>(&rows(&found.cases, fit).to_json())
            .expect("it was just written"),
        "mean_absolute_error": mean,
        "leave_one_out_error": left_out,
        "scatter": fit.spread,
        "left_out": found.left_out,
        "ignored_columns": found.ignored,
    })
}
