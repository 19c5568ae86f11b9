//! Constants that a suite's own rows determine, fitted anew by the code of
//! `servesim calibrate --fit-deployment`.

use crate::calibrate::deployment::constant::Constant as Fitted;
use crate::calibrate::deployment::{self, Case, DeploymentFit, Plan};
use crate::deploy;

use super::published::Table;
use super::{Check, Constant, Report, ValidateError};

/// Repetitions of a row within a fit. The seeds are the same for all rows and all trials, so that a
/// trial differs from the last only by its constants.
const SEEDS: u64 = 16;

/// The constants that the committed profile says were fitted, fitted to `cases` again.
pub(super) fn again(cases: &[Case], source: &str) -> Result<DeploymentFit, ValidateError> {
    let constants = deployment::fitted_before(cases)?;
    let constants = constants.into_iter().map(|constant| (constant, None)).collect();
    Ok(deployment::fit(cases, &Plan { constants, seeds: SEEDS, source: source.to_owned() })?)
}

/// Fits the constants of a table's rows on one family of instances again, says of the report's rows
/// what a fit without them makes of them, and adds the constants. `bound` is the largest mean
/// absolute error of rows that are left out.
pub(super) fn add(
    report: &mut Report,
    table: Table,
    (instance, engine): (&str, &str),
    bound: Option<f64>,
) -> Result<(), ValidateError> {
    let cases = table.measurements(instance, engine)?.cases;
    let fit = again(&cases, table.name)?;
    for row in fit.rows.iter().filter(|row| row.left_out.is_some()) {
        let label = &cases[row.case].label;
        let fitted = fit.constants.iter().filter(|constant| constant.tells(row.case));
        let fitted: Vec<String> = fitted.map(|constant| constant.label()).collect();
        for shown in report.rows.iter_mut().filter(|shown| shown.row == *label) {
            shown.leave_one_out_error = row.left_out;
            shown.fitted.clone_from(&fitted);
        }
    }
    add_constants(report, instance, &cases, &fit)?;
    let (_, left_out) = fit.mean_errors();
    if let Some(bound) = bound {
        report.checks.push(Check::new(
            format!("{}.{instance}-left-out", report.suite),
            format!(
                "{instance}: mean absolute error of rows that are left out is at most {:.0} %",
                bound * 100.0
            ),
            left_out <= bound,
            format!("{:.1} %", left_out * 100.0),
        ));
    }
    Ok(())
}

/// Puts the constants of a fit into the report, and a check that the committed ones are these: else
/// they would be somebody's hand.
pub(super) fn add_constants(
    report: &mut Report,
    instance: &str,
    cases: &[Case],
    fit: &DeploymentFit,
) -> Result<(), ValidateError> {
    let committed = |constant: Fitted, ranks: Option<u32>| -> Result<f64, ValidateError> {
        for case in cases.iter().filter(|case| case.fitted) {
            let profiles = deploy::profiles(&case.scenario)?;
            if let Some(value) = constant.get(&profiles, ranks.unwrap_or(1)) {
                return Ok(value);
            }
        }
        Ok(f64::NAN)
    };
    let mut apart: f64 = 0.0;
    for fitted in &fit.constants {
        let (unit, base) = fitted.constant.unit();
        let sensitivity =
            fitted.rows.iter().map(|&(case, slope, _)| (cases[case].label.clone(), slope));
        let committed = committed(fitted.constant, fitted.ranks)?;
        apart = apart.max((committed / fitted.value - 1.0).abs());
        report.constants.push(Constant {
            name: format!("{}, {instance}", fitted.label()),
            value: fitted.value / base,
            unit,
            prior: fitted.prior.guess / base,
            prior_factor: fitted.prior.factor,
            posterior_factor: fitted.factor,
            committed: committed / base,
            sensitivity: sensitivity.collect(),
        });
    }
    report.checks.push(Check::new(
        format!("{}.{instance}-committed", report.suite),
        format!("the committed constants of {instance} are those of the fit, within 2 %"),
        apart <= 0.02,
        format!("{} constants, at most {:.1} % apart", fit.constants.len(), apart * 100.0),
    ));
    Ok(())
}
