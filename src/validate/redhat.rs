//! Table 2 of Red Hat's study: six rows of throughput, minutes and USD per million tokens.
//!
//! Three constants are fitted on the five A10G rows; each stands for several of them. The p4d row
//! is predicted with the host of other measurements, and once more with a host factor of its own,
//! which is a fit and no test.

use rayon::prelude::*;

use crate::calibrate::fit::{Fit, Parameter, least_squares};
use crate::cost::calibrated::CostError;
use crate::cost::profile::lookup::Profiles;
use crate::deploy::Deployment;
use crate::metrics::Interval;
use crate::scenario::Scenario;
use crate::units::UsdPerHour;

use super::published::{Table2Row, table_2};
use super::{Check, Constant, Report, Row, Suite, ValidateError, load};

/// Independent repetitions of a row in the report; `scenario.md` asks for at least 32.
const SEEDS: u64 = 32;
/// Repetitions within a fit. The seeds are the same for all rows and all trials, so that a trial
/// differs from the last only by its constants.
const FIT_SEEDS: u64 = 6;
/// What is thought of a row's own scatter: one 240 s run varies by 1-2 % from seed to seed, and the
/// study does not say how it counted the requests in flight at the end.
const SPREAD_OF_DATA: f64 = 0.03;

/// Largest errors that pass (issue: five A10G rows; mean, worst, mean when left out).
const MEAN_BOUND: f64 = 0.06;
const WORST_BOUND: f64 = 0.10;
const LEFT_OUT_BOUND: f64 = 0.10;

/// A constant that Table 2 determines, and where it stands.
struct Fitted {
    name: &'static str,
    unit: &'static str,
    /// One unit in base units.
    base: f64,
    guess: f64,
    /// The prior's spread as a factor.
    factor: f64,
    place: Place,
}

enum Place {
    /// The bus bandwidth among so many ranks, on instances with that many.
    BusBandwidth(&'static str),
    /// A host constant of the engine, the same on all instances.
    Host(&'static str),
}

/// The fitted constants with their priors, which are what was thought before any row was seen:
/// PCIe through host memory carries a few GB/s under NCCL; sampling a sequence costs a fraction of
/// a millisecond of Python.
const FITTED: [Fitted; 3] = [
    Fitted {
        name: "bus bandwidth of 4 A10G",
        unit: "GB/s",
        base: 1e9,
        guess: 3.0,
        factor: 3.0,
        place: Place::BusBandwidth("nccl.bus-bandwidth-4"),
    },
    Fitted {
        name: "bus bandwidth of 8 A10G",
        unit: "GB/s",
        base: 1e9,
        guess: 2.0,
        factor: 3.0,
        place: Place::BusBandwidth("nccl.bus-bandwidth-8"),
    },
    Fitted {
        name: "TGIS host time per sequence",
        unit: "ms",
        base: 1e-3,
        guess: 0.3,
        factor: 2.0,
        place: Place::Host("serial-per-sequence"),
    },
];

impl Fitted {
    fn parameter(&self) -> Parameter {
        Parameter {
            name: self.name.to_owned(),
            guess: self.guess,
            spread: self.factor.ln(),
            bounds: (self.guess / 30.0, self.guess * 30.0),
        }
    }

    fn set(&self, profiles: &mut Profiles, value: f64) -> Result<(), CostError> {
        match (&self.place, &mut profiles.interconnect) {
            (Place::BusBandwidth(name), Some(found)) if found.profile.get(name).is_some() => {
                found.profile.set(name, value * self.base)?;
            }
            (Place::BusBandwidth(_), _) => {}
            (Place::Host(name), _) => {
                profiles.deployment.profile.set(name, value * self.base)?;
            }
        }
        Ok(())
    }

    fn committed(&self, profiles: &Profiles) -> Option<f64> {
        let value = match &self.place {
            Place::BusBandwidth(name) => profiles.interconnect.as_ref()?.profile.get(name),
            Place::Host(name) => profiles.deployment.profile.get(name),
        };
        value.map(|value| value / self.base)
    }
}

/// A published row and the scenario that stands for it.
struct Case {
    published: Table2Row,
    scenario: Scenario,
}

impl Case {
    fn is_a10g(&self) -> bool {
        self.scenario.hardware.gpu().name == "a10g"
    }

    fn fault(&self, source: crate::deploy::DeployError) -> ValidateError {
        ValidateError::Deploy { name: self.published.scenario.clone(), source }
    }

    fn profiles(&self) -> Result<Profiles, ValidateError> {
        let deployment = Deployment::new(&self.scenario).map_err(|e| self.fault(e))?;
        Ok(deployment.profiles().clone())
    }

    /// Throughput in tokens per second of each seed: tokens that left the server by the deadline,
    /// over the configured duration.
    fn throughput(&self, profiles: &Profiles, seeds: u64) -> Result<Vec<f64>, ValidateError> {
        let deployment = Deployment::with_profiles(&self.scenario, profiles.clone())
            .map_err(|e| self.fault(e))?;
        let duration = self.scenario.workload.duration.expect("Table 2 runs last 240 s");
        let first = self.scenario.workload.seed;
        Ok((first..first + seeds)
            .into_par_iter()
            .map(|seed| {
                let (totals, ()) = deployment.simulate(seed, (), false);
                totals.output_tokens as f64 / duration.as_secs_f64()
            })
            .collect())
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

/// Fits the constants on `cases`, starting from their priors.
fn fit(cases: &[(&Case, Profiles)]) -> Result<Fit, ValidateError> {
    let parameters: Vec<Parameter> = FITTED.iter().map(Fitted::parameter).collect();
    // A fit cannot return early from within; remember the first fault.
    let fault = std::sync::Mutex::new(None);
    let fit = least_squares(&parameters, SPREAD_OF_DATA, |values| {
        let residual = |(case, profiles): &(&Case, Profiles)| -> Result<f64, ValidateError> {
            let mut profiles = profiles.clone();
            for (fitted, &value) in FITTED.iter().zip(values) {
                fitted.set(&mut profiles, value)?;
            }
            let predicted = mean(&case.throughput(&profiles, FIT_SEEDS)?);
            Ok((predicted / case.published.throughput_tok_s).ln())
        };
        cases
            .par_iter()
            .map(|case| {
                residual(case).unwrap_or_else(|error| {
                    fault.lock().expect("no thread panicked").get_or_insert(error);
                    f64::NAN
                })
            })
            .collect()
    });
    match fault.into_inner().expect("no thread panicked") {
        Some(error) => Err(error),
        None => Ok(fit),
    }
}

/// `profiles` with the fitted constants replaced.
fn with_constants(profiles: &Profiles, values: &[f64]) -> Result<Profiles, CostError> {
    let mut profiles = profiles.clone();
    for (fitted, &value) in FITTED.iter().zip(values) {
        fitted.set(&mut profiles, value)?;
    }
    Ok(profiles)
}

pub(super) fn report() -> Result<Report, ValidateError> {
    let mut report = Report::new(
        Suite::Redhat,
        "Red Hat, Table 2: Llama-2 under TGIS, 10 clients, 240 s, 32 OpenOrca prompts",
    );
    let cases: Vec<Case> = table_2()?
        .into_iter()
        .map(|published| {
            let scenario = load(&format!("redhat/{}", published.scenario), &[])?;
            Ok(Case { published, scenario })
        })
        .collect::<Result<_, ValidateError>>()?;
    let a10g: Vec<(&Case, Profiles)> = cases
        .iter()
        .filter(|case| case.is_a10g())
        .map(|case| Ok((case, case.profiles()?)))
        .collect::<Result<_, ValidateError>>()?;

    let full = fit(&a10g)?;
    // Without each row in turn.
    let left_out: Vec<f64> = (0..a10g.len())
        .into_par_iter()
        .map(|out| {
            let rest: Vec<(&Case, Profiles)> = a10g
                .iter()
                .enumerate()
                .filter(|&(i, _)| i != out)
                .map(|(_, (case, profiles))| (*case, profiles.clone()))
                .collect();
            let values = fit(&rest)?.values;
            let (case, profiles) = &a10g[out];
            let profiles = with_constants(profiles, &values)?;
            Ok(mean(&case.throughput(&profiles, SEEDS)?) / case.published.throughput_tok_s - 1.0)
        })
        .collect::<Result<_, ValidateError>>()?;

    let names: Vec<String> = FITTED.iter().map(|f| f.name.to_owned()).collect();
    let mut errors = Vec::new();
    for ((case, profiles), &left_out) in a10g.iter().zip(&left_out) {
        let samples = case.throughput(profiles, SEEDS)?;
        let fitted: Vec<String> = FITTED
            .iter()
            .zip(&names)
            .filter(|(f, _)| f.committed(profiles).is_some())
            .map(|(_, name)| name.clone())
            .collect();
        errors.push(add_rows(&mut report, case, &samples, Some(left_out), fitted, None));
    }
    for case in cases.iter().filter(|case| !case.is_a10g()) {
        add_p4d(&mut report, case)?;
    }

    for (index, fitted) in FITTED.iter().enumerate() {
        let committed = a10g.iter().find_map(|(_, profiles)| fitted.committed(profiles));
        let labels = a10g.iter().map(|(case, _)| case.published.scenario.clone());
        report.constants.push(Constant {
            name: fitted.name.to_owned(),
            value: full.values[index],
            unit: fitted.unit,
            prior: fitted.guess,
            prior_factor: fitted.factor,
            committed: committed.expect("a fitted constant stands in a profile"),
            sensitivity: labels.zip(full.sensitivity.iter().map(|row| row[index])).collect(),
        });
    }
    add_bounds(&mut report, &errors, &left_out);
    Ok(report)
}

/// The rows of one case: throughput, minutes, and the cost at both prices. Returns the error.
fn add_rows(
    report: &mut Report,
    case: &Case,
    samples: &[f64],
    left_out: Option<f64>,
    fitted: Vec<String>,
    note: Option<&str>,
) -> f64 {
    let predicted = mean(samples);
    let interval = Interval::of(samples).map(|i| (i.low, i.high));
    let published = &case.published;
    let error = predicted / published.throughput_tok_s - 1.0;
    let label = published.scenario.clone();
    report.rows.push(Row {
        row: label.clone(),
        quantity: "throughput",
        unit: "tok/s",
        measured: published.throughput_tok_s,
        predicted,
        interval,
        error,
        leave_one_out_error: left_out,
        fitted: fitted.clone(),
        note: note.map(str::to_owned),
    });
    let mut derived = |quantity, unit, measured: f64, predicted: f64, note: Option<String>| {
        report.rows.push(Row {
            row: label.clone(),
            quantity,
            unit,
            measured,
            predicted,
            interval: None,
            error: predicted / measured - 1.0,
            leave_one_out_error: left_out.map(|e| 1.0 / (1.0 + e) - 1.0),
            fitted: fitted.clone(),
            note,
        });
    };
    derived("time per 1M tokens", "min", published.minutes_per_1m, 1e6 / predicted / 60.0, None);
    let usd = |price: f64, rate: f64| UsdPerHour::new(price).per_million_tokens(rate);
    let (paid, list) = (published.published_usd_per_hour, published.list_usd_per_hour);
    derived("cost per 1M tokens", "USD", published.usd_per_1m, usd(paid, predicted), None);
    // A price list may round; only another price changes the answer.
    if (paid / list - 1.0).abs() > 0.01 {
        let measured = usd(list, published.throughput_tok_s);
        let note = format!(
            "at the list price of {}, {list} USD/h; the study used {paid} USD/h, half of it",
            published.instance
        );
        let quantity = "cost per 1M tokens, list price";
        derived(quantity, "USD", measured, usd(list, predicted), Some(note));
    }
    error
}

/// The p4d row twice: as a prediction, and with the host factor that was fitted on it.
fn add_p4d(report: &mut Report, case: &Case) -> Result<(), ValidateError> {
    let own = case.profiles()?;
    let instance = &case.scenario.hardware.instance;
    let elsewhere =
        Profiles::look_up(instance, case.scenario.engine.name, None).map_err(CostError::from)?;
    let predicted = Profiles { deployment: elsewhere.deployment, ..own.clone() };
    let note = "predicted: host times of p4d from other measurements";
    let samples = case.throughput(&predicted, SEEDS)?;
    add_rows(report, case, &samples, None, Vec::new(), Some(note));
    let note = "fitted, no test: host time per layer of this row's own deployment";
    let samples = case.throughput(&own, SEEDS)?;
    let fitted = vec!["host time per layer of this deployment".to_owned()];
    let error = add_rows(report, case, &samples, None, fitted, Some(note));
    report.checks.push(Check::new(
        "redhat.p4d-fit",
        "the p4d row with its own host factor is reproduced within 2 %",
        error.abs() <= 0.02,
        format!("{:+.1} %", error * 100.0),
    ));
    Ok(())
}

fn add_bounds(report: &mut Report, errors: &[f64], left_out: &[f64]) {
    let magnitude = |errors: &[f64]| errors.iter().map(|e| e.abs()).collect::<Vec<f64>>();
    let (errors, left_out) = (magnitude(errors), magnitude(left_out));
    let worst = errors.iter().copied().fold(0.0, f64::max);
    let percent = |x: f64| format!("{:.1} %", x * 100.0);
    let checks = [
        ("redhat.mean", "mean absolute error", mean(&errors), MEAN_BOUND),
        ("redhat.worst", "largest absolute error", worst, WORST_BOUND),
        ("redhat.left-out", "mean absolute error when left out", mean(&left_out), LEFT_OUT_BOUND),
    ];
    for (id, what, value, bound) in checks {
        report.checks.push(Check::new(
            id,
            format!("{what} of the five A10G rows is at most {}", percent(bound)),
            value <= bound,
            percent(value),
        ));
    }
    // The committed profiles must be what the fit gives, or they are somebody's hand.
    let apart =
        report.constants.iter().map(|c| (c.committed / c.value - 1.0).abs()).fold(0.0, f64::max);
    report.checks.push(Check::new(
        "redhat.committed",
        "the committed constants are those of the fit, within 2 %",
        apart <= 0.02,
        format!("{} constants, at most {} apart", report.constants.len(), percent(apart)),
    ));
}
