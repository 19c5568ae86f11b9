//! Constants of a deployment from serving measurements, by simulation in the loop.
//!
//! No kernel's timing shows what the host takes between two steps or what a machine's links carry
//! under an engine. A few measured runs do: the constants are moved until the simulator predicts
//! them. Each starts from a prior, so that what the rows do not tell stays what was thought before,
//! and the result says of each constant how much the rows have told ([`ConstantFit::told`]).
//!
//! All trials of a fit use the same seeds, so that a prediction changes with the constants alone.

pub mod constant;
pub mod measurements;
pub mod profile;
pub mod quantity;

use std::collections::BTreeMap;
use std::sync::Mutex;

use rayon::prelude::*;

use crate::cost::calibrated::CostError;
use crate::cost::profile::lookup::{Match, Profiles};
use crate::cost::profile::{DeploymentProfile, FitRecord, FittedConstant};
use crate::cost::sourced::significant;
use crate::deploy::{self, DeployError, Deployment};
use crate::scenario::Scenario;
use crate::units::rounded;

use super::fit::{self, Fit, Parameter, Slope};
use constant::{Constant, Prior};
use quantity::{Outcome, Quantity};

/// What is thought of a row's own scatter, in natural-log units: runs of some minutes vary by 1-2 %,
/// and published tables rarely say how they were cut.
pub const SPREAD_OF_DATA: f64 = 0.03;

/// A measured run.
#[derive(Clone, Debug)]
pub struct Case {
    pub label: String,
    pub scenario: Scenario,
    pub quantity: Quantity,
    pub measured: f64,
    /// Whether the constants are fitted to it; else it is predicted only.
    pub fitted: bool,
}

/// Why a fit could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error("{row}: {source}")]
    Deploy { row: String, source: DeployError },
    #[error("{row}: no request was answered, so there is no {quantity} to compare")]
    NoAnswer { row: String, quantity: &'static str },
    #[error("{0}")]
    Profile(#[from] CostError),
    #[error("no row is to be fitted; leave the column `fit` out, or write yes in some rows")]
    NoRows,
    #[error("none of the rows depends on {0}; leave it out")]
    NotFelt(String),
}

/// What to fit, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each with a prior of one's own, or the profile's.
    pub constants: Vec<(Constant, Option<Prior>)>,
    /// Repetitions of a row with random lengths or arrivals.
    pub seeds: u64,
    /// What the measurements are called in the profile.
    pub source: String,
}

/// A row beside what the fitted constants predict.
#[derive(Clone, Debug)]
pub struct RowFit {
    /// Where it stands among the cases.
    pub case: usize,
    /// Predicted / measured - 1, with the constants before and after.
    pub before: f64,
    pub after: f64,
    /// The same by a fit to the other rows; `None` for a row that was not fitted.
    pub left_out: Option<f64>,
}

/// A constant before and after.
#[derive(Clone, Debug)]
pub struct ConstantFit {
    pub constant: Constant,
    /// GPUs in the group that the values of a constant of the links are of.
    pub ranks: Option<u32>,
    pub prior: Prior,
    /// In base units.
    pub value: f64,
    /// One standard deviation after the fit, as a factor.
    pub factor: f64,
    /// Which rows tell it: the case, the change of its prediction for one of the constant, both
    /// relative, and its share of what all rows tell.
    pub rows: Vec<(usize, f64, f64)>,
    /// The constant that it is hardest to tell from, and their correlation.
    pub confused_with: Option<(Constant, f64)>,
}

/// How much rows say of a constant, by what they leave of its prior's spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// At most half is left.
    Yes,
    /// At most nine tenths.
    Partly,
    No,
}

impl Told {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Partly => "partly",
            Self::No => "no: the prior",
        }
    }
}

impl ConstantFit {
    /// What reports call it.
    pub fn label(&self) -> String {
        match self.ranks {
            Some(ranks) => format!("{} of {ranks} GPUs", self.constant),
            None => self.constant.to_string(),
        }
    }

    /// Whether the prediction of a case depends on it.
    pub fn tells(&self, case: usize) -> bool {
        self.rows.iter().any(|(row, ..)| *row == case)
    }

    pub fn told(&self) -> Told {
        match self.factor.ln() / self.prior.factor.ln() {
            left if left <= 0.5 => Told::Yes,
            left if left <= 0.9 => Told::Partly,
            _ => Told::No,
        }
    }
}

/// A fit with all that there is to say of it.
#[derive(Clone, Debug)]
pub struct DeploymentFit {
    pub constants: Vec<ConstantFit>,
    /// In the order of the cases.
    pub rows: Vec<RowFit>,
    /// Scatter of the rows around the fit in natural-log units, at least [`SPREAD_OF_DATA`].
    pub spread: f64,
    source: String,
}

/// Mean of absolute values.
pub fn mean_absolute(errors: impl Iterator<Item = f64> + Clone) -> f64 {
    errors.clone().map(f64::abs).sum::<f64>() / errors.count().max(1) as f64
}

impl DeploymentFit {
    /// Mean absolute error of the fitted rows, and of the same when left out.
    pub fn mean_errors(&self) -> (f64, f64) {
        let fitted = self.rows.iter().filter(|row| row.left_out.is_some());
        let left_out = self.rows.iter().filter_map(|row| row.left_out);
        (mean_absolute(fitted.map(|row| row.after)), mean_absolute(left_out))
    }

    /// The constants put into `profiles`, in the fit's order.
    pub fn apply(&self, profiles: &mut Profiles) -> Result<(), CostError> {
        for fitted in &self.constants {
            let source =
                format!("fit to {}; known to a factor of {:.2}", self.source, fitted.factor);
            let ranks = fitted.ranks.unwrap_or(1);
            fitted.constant.set(profiles, ranks, fitted.value, &source)?;
        }
        Ok(())
    }

    /// `profiles` with the fitted constants and how they came about, as a deployment's profile.
    pub fn profile(&self, mut profiles: Profiles) -> Result<DeploymentProfile, CostError> {
        self.apply(&mut profiles)?;
        let mut profile = profiles.deployment.profile;
        // Links that any deployment on the machine would get need not be said again.
        let own = self.constants.iter().any(|fitted| fitted.constant.is_of_links());
        let links = profiles.interconnect.filter(|found| own || found.matched == Match::Exact);
        profile.links = links.map(|found| found.profile);
        let (mean, left_out) = self.mean_errors();
        let percent = |share: f64| (share * 1e4).round() / 100.0;
        let constants = self.constants.iter().map(|fitted| {
            let (unit, base) = fitted.constant.unit();
            FittedConstant {
                name: fitted.constant.name().to_owned(),
                ranks: fitted.ranks,
                unit: unit.to_owned(),
                value: rounded(fitted.value / base, 6),
                prior: rounded(fitted.prior.guess / base, 6),
                prior_factor: rounded(fitted.prior.factor, 6),
                posterior_factor: significant(fitted.factor),
            }
        });
        profile.fit = Some(FitRecord {
            source: self.source.clone(),
            rows: self.rows.iter().filter(|row| row.left_out.is_some()).count() as u32,
            mean_percent: percent(mean),
            left_out_percent: percent(left_out),
            constants: constants.collect(),
        });
        Ok(profile)
    }
}

/// The profiles that a fit to these cases begins with: of the widest group of GPUs.
pub fn begun_with(cases: &[Case]) -> Result<Profiles, FitError> {
    let fitted = cases.iter().filter(|case| case.fitted);
    let widest = fitted.max_by_key(|case| case.scenario.engine.tensor_parallel_size);
    Ok(deploy::profiles(&widest.ok_or(FitError::NoRows)?.scenario)?)
}

/// The constants that the profile to begin with was itself fitted with.
pub fn fitted_before(cases: &[Case]) -> Result<Vec<Constant>, FitError> {
    let fit = begun_with(cases)?.deployment.profile.fit;
    let names = fit.into_iter().flat_map(|fit| fit.constants).map(|constant| constant.name);
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// The constants that some row to be fitted may depend on.
pub fn felt(cases: &[Case]) -> Result<Vec<Constant>, FitError> {
    let mut felt = Vec::new();
    for &constant in Constant::ALL {
        for case in cases.iter().filter(|case| case.fitted) {
            let ranks = case.scenario.engine.tensor_parallel_size;
            let profiles = deploy::profiles(&case.scenario)?;
            let there = constant.get(&profiles, ranks).is_some_and(|value| value > 0.0);
            if there && (ranks > 1 || !constant.is_of_links()) {
                felt.push(constant);
                break;
            }
        }
    }
    Ok(felt)
}

/// Fits `plan`'s constants to the cases that are to be fitted, and predicts the others.
pub fn fit(cases: &[Case], plan: &Plan) -> Result<DeploymentFit, FitError> {
    let rows: Vec<Model<'_>> = cases
        .iter()
        .enumerate()
        .map(|(index, case)| Model::new(index, case, plan))
        .collect::<Result<_, _>>()?;
    let fitted: Vec<&Model<'_>> = rows.iter().filter(|row| row.case.fitted).collect();
    // The links' constants are of the largest group.
    let widest = fitted.iter().max_by_key(|row| row.ranks()).ok_or(FitError::NoRows)?;
    let ranks = widest.ranks();
    let problem = Problem::new(&fitted, widest, plan, ranks)?;

    let known = Known::default();
    let all: Vec<usize> = (0..fitted.len()).collect();
    let guess: Vec<f64> = problem.parameters.iter().map(|p| p.guess).collect();
    let full = known.least_squares(&problem, &all, &guess, None)?;
    // Four digits of each constant are what a profile will hold.
    let values: Vec<f64> = full.values.iter().map(|&value| significant(value)).collect();
    let slope = known.slope(&problem, &full)?;
    let left_out: Vec<f64> = (0..fitted.len())
        .into_par_iter()
        .map(|out| {
            let rest: Vec<usize> = all.iter().copied().filter(|&row| row != out).collect();
            let rest_slope = rest.iter().map(|&row| slope[row].clone()).collect();
            let without = known.least_squares(&problem, &rest, &full.values, Some(rest_slope))?;
            known.error(&problem, fitted[out], &without.values)
        })
        .collect::<Result<_, FitError>>()?;

    let spread = problem.scatter(&full, &slope);
    let mut left_out = left_out.into_iter();
    let rows = rows
        .par_iter()
        .map(|row| {
            let before = known.error(&problem, row, &problem.before)?;
            Ok((before, known.error(&problem, row, &values)?))
        })
        .collect::<Result<Vec<_>, FitError>>()?
        .into_iter()
        .zip(&rows)
        .map(|((before, after), row)| RowFit {
            case: row.index,
            before,
            after,
            left_out: row.case.fitted.then(|| left_out.next().expect("one for each fitted row")),
        })
        .collect();
    let cases: Vec<usize> = fitted.iter().map(|row| row.index).collect();
    let constants = problem.constants(&values, spread, &slope, &cases);
    Ok(DeploymentFit { constants, rows, spread, source: plan.source.clone() })
}

/// A case that can be asked for its prediction under any constants.
struct Model<'a> {
    index: usize,
    case: &'a Case,
    profiles: Profiles,
    seeds: u64,
}

impl<'a> Model<'a> {
    fn new(index: usize, case: &'a Case, plan: &Plan) -> Result<Self, FitError> {
        let profiles = deploy::profiles(&case.scenario)?;
        let seeds = if case.scenario.workload.is_random() { plan.seeds.max(1) } else { 1 };
        Ok(Self { index, case, profiles, seeds })
    }

    /// GPUs that exchange.
    fn ranks(&self) -> u32 {
        self.case.scenario.engine.tensor_parallel_size
    }

    fn feels(&self, constant: Constant) -> bool {
        !constant.is_of_links() || (self.ranks() > 1 && self.profiles.interconnect.is_some())
    }

    fn predict(&self, profiles: Profiles) -> Result<f64, FitError> {
        let row = || self.case.label.clone();
        let mut deployment = Deployment::with_profiles(&self.case.scenario, profiles)
            .map_err(|source| FitError::Deploy { row: row(), source })?;
        let first = self.case.scenario.workload.seed;
        let mut sum = 0.0;
        for seed in first..first + self.seeds {
            let outcome = Outcome::of(&mut deployment, seed);
            sum += outcome.get(self.case.quantity).ok_or_else(|| FitError::NoAnswer {
                row: row(),
                quantity: self.case.quantity.label(),
            })?;
        }
        Ok(sum / self.seeds as f64)
    }
}

/// The constants of a fit and the rows that tell them.
struct Problem<'a> {
    rows: &'a [&'a Model<'a>],
    ranks: u32,
    of: Vec<(Constant, Prior)>,
    parameters: Vec<Parameter>,
    /// The values that the profiles have.
    before: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new(
        rows: &'a [&'a Model<'a>],
        widest: &Model<'_>,
        plan: &Plan,
        ranks: u32,
    ) -> Result<Self, FitError> {
        let (mut of, mut parameters, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for (constant, prior) in &plan.constants {
            let own = || Prior::of(*constant, &widest.profiles, ranks);
            let prior = prior.clone().or_else(own);
            let (Some(prior), true) = (prior, rows.iter().any(|row| row.feels(*constant))) else {
                return Err(FitError::NotFelt(constant.to_string()));
            };
            parameters.push(Parameter {
                name: constant.to_string(),
                guess: prior.guess,
                start: prior.guess,
                spread: prior.factor.ln(),
                bounds: (prior.guess / 30.0, prior.guess * 30.0),
            });
            before.push(constant.get(&widest.profiles, ranks).unwrap_or(prior.guess));
            of.push((*constant, prior));
        }
        Ok(Self { rows, ranks, of, parameters, before })
    }

    /// What the rows scatter by around the fit, in natural-log units. Of the rows are taken as many
    /// as constants have been told by them and not by their priors.
    fn scatter(&self, fit: &Fit, slope: &Slope) -> f64 {
        let posterior = fit::posterior(&self.parameters, SPREAD_OF_DATA, slope)
            .expect("every constant has a prior of finite spread");
        let told = self.parameters.iter().zip(&posterior.spread);
        let told: f64 = told.map(|(p, left)| 1.0 - (left / p.spread).powi(2)).sum();
        let squares: f64 = fit.residuals.iter().map(|r| r * r).sum();
        let free = (fit.residuals.len() as f64 - told).max(1.0);
        (squares / free).sqrt().max(SPREAD_OF_DATA)
    }

    fn constants(
        &self,
        values: &[f64],
        spread: f64,
        slope: &Slope,
        cases: &[usize],
    ) -> Vec<ConstantFit> {
        let posterior = fit::posterior(&self.parameters, spread, slope)
            .expect("every constant has a prior of finite spread");
        let one = |(i, (constant, prior)): (usize, &(Constant, Prior))| {
            let told: f64 = slope.iter().map(|row| row[i] * row[i]).sum();
            let mut rows: Vec<(usize, f64, f64)> = cases
                .iter()
                .zip(slope)
                .filter(|(_, row)| row[i] != 0.0)
                .map(|(&case, row)| (case, row[i], row[i] * row[i] / told))
                .collect();
            rows.sort_by(|a, b| b.2.total_cmp(&a.2));
            let confused_with = (0..self.of.len())
                .filter(|&j| j != i)
                .max_by(|&j, &k| {
                    posterior.correlation[i][j].abs().total_cmp(&posterior.correlation[i][k].abs())
                })
                .map(|j| (self.of[j].0, posterior.correlation[i][j]))
                .filter(|(_, correlation)| correlation.abs() >= 0.5);
            ConstantFit {
                constant: *constant,
                ranks: constant.is_of_links().then_some(self.ranks),
                prior: prior.clone(),
                value: values[i],
                factor: posterior.spread[i].exp(),
                rows,
                confused_with,
            }
        };
        self.of.iter().enumerate().map(one).collect()
    }
}

/// Predictions by row and constants: fits without a row ask again for much that the full one has
/// simulated, and a row without tensor parallelism does not feel the links.
#[derive(Default)]
struct Known(Mutex<BTreeMap<(usize, Vec<u64>), f64>>);

impl Known {
    /// Log ratio of the row's prediction to its measurement.
    fn residual(
        &self,
        problem: &Problem<'_>,
        row: &Model<'_>,
        values: &[f64],
    ) -> Result<f64, FitError> {
        let felt = problem.of.iter().zip(values).filter(|((constant, _), _)| row.feels(*constant));
        let key = (row.index, felt.map(|(_, value)| value.to_bits()).collect::<Vec<_>>());
        if let Some(&known) = self.0.lock().expect("no thread panicked").get(&key) {
            return Ok(known);
        }
        let mut profiles = row.profiles.clone();
        for ((constant, _), value) in problem.of.iter().zip(values) {
            constant
                .set(&mut profiles, problem.ranks, *value, "")
                .map_err(|error| FitError::Profile(error.into()))?;
        }
        let residual = (row.predict(profiles)? / row.case.measured).ln();
        self.0.lock().expect("no thread panicked").insert(key, residual);
        Ok(residual)
    }

    /// Predicted / measured - 1.
    fn error(
        &self,
        problem: &Problem<'_>,
        row: &Model<'_>,
        values: &[f64],
    ) -> Result<f64, FitError> {
        Ok(self.residual(problem, row, values)?.exp_m1())
    }

    /// Fits to `rows`, starting at `start`; from a known slope, if there is one.
    fn least_squares(
        &self,
        problem: &Problem<'_>,
        rows: &[usize],
        start: &[f64],
        slope: Option<Slope>,
    ) -> Result<Fit, FitError> {
        let mut parameters = problem.parameters.clone();
        parameters.iter_mut().zip(start).for_each(|(p, &start)| p.start = start);
        self.or_fault(problem, rows, |residuals| match slope {
            None => fit::least_squares(&parameters, SPREAD_OF_DATA, residuals),
            Some(slope) => fit::least_squares_near(&parameters, SPREAD_OF_DATA, slope, residuals),
        })
    }

    /// The slope of all rows at the values of a fit.
    fn slope(&self, problem: &Problem<'_>, full: &Fit) -> Result<Slope, FitError> {
        let rows: Vec<usize> = (0..problem.rows.len()).collect();
        self.or_fault(problem, &rows, |residuals| fit::slope(&problem.parameters, full, residuals))
    }

    /// A fit cannot return early from within; this remembers the first fault.
    fn or_fault<T>(
        &self,
        problem: &Problem<'_>,
        rows: &[usize],
        ask: impl FnOnce(&dyn Fn(&[f64]) -> Vec<f64>) -> T,
    ) -> Result<T, FitError> {
        let fault = Mutex::new(None);
        let residuals = |values: &[f64]| -> Vec<f64> {
            rows.par_iter()
                .map(|&row| {
                    self.residual(problem, problem.rows[row], values).unwrap_or_else(|error| {
                        fault.lock().expect("no thread panicked").get_or_insert(error);
                        f64::NAN
                    })
                })
                .collect()
        };
        let answer = ask(&residuals);
        match fault.into_inner().expect("no thread panicked") {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests;
