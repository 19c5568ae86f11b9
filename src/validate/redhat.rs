//! Table 2 of Red Hat's study: six rows of throughput, minutes and USD per million tokens.
//!
//! One constant, the bandwidth of the links between the GPUs, is fitted on the five A10G rows; four of
//! them depend on it. A second one (latency of the links, or any of the host) leaves the error of rows
//! that are left out where it is or makes it larger. The p4d row is predicted with the host of other measurements, and once more
//! with a host factor of its own, which is a fit and no test.

use rayon::prelude::*;

use crate::calibrate::deployment::mean_absolute;
use crate::cost::calibrated::CostError;
use crate::cost::profile::lookup::Profiles;
use crate::cost::trust::Trust;
use crate::deploy::{self, Deployment};
use crate::engine::RunTotals;
use crate::metrics::{Band, Interval, Recorder};
use crate::scenario::Scenario;
use crate::uncertainty;
use crate::units::UsdPerHour;

use super::published::{TABLE_2, Table2Row, table_2};
use super::{Check, Report, Row, Suite, ValidateError, fits, load};

/// Independent repetitions of a row in the report; `scenario.md` asks for at least 32.
const SEEDS: u64 = 32;
/// Repetitions behind each change of throughput that a change of the constants makes.
const BAND_SEEDS: u64 = 4;

/// Largest errors that pass on the five A10G rows: mean, worst, mean when left out. The aim for the
/// mean is 5 %. Seven constants with priors reach 4.6 %, but predict rows that are left out worse
/// than the one does (9.1 % to 7.9 %); so the mean is what it is.
const MEAN_BOUND: f64 = 0.06;
const WORST_BOUND: f64 = 0.12;
const LEFT_OUT_BOUND: f64 = 0.09;

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

    fn label(&self) -> String {
        let name = &self.published.scenario;
        name.rsplit('/').next().unwrap_or(name).to_owned()
    }

    /// Where one measurement is expected: what the prediction may be off by, and the scatter of
    /// single runs.
    fn expected(
        &self,
        profiles: &Profiles,
        samples: &[f64],
    ) -> Result<Option<Band>, ValidateError> {
        let deployment = Deployment::with_profiles(&self.scenario, profiles.clone())
            .map_err(|e| self.fault(e))?;
        let first = self.scenario.workload.seed;
        let deviations = uncertainty::deviations(&deployment, |varied| {
            let runs = (first..first + BAND_SEEDS)
                .map(|seed| varied.simulate(seed, (), false).0.output_tokens as f64);
            vec![Some(runs.sum())]
        });
        let scatter = Interval::standard_deviation(samples).unwrap_or(0.0) / mean(samples);
        let band = deviations[0].map(|d| d.with_scatter(scatter).around(mean(samples)));
        Ok(band)
    }

    /// By what kind of numbers the prediction is limited, in its first run.
    fn trust(&self, profiles: &Profiles) -> Result<Option<Trust>, ValidateError> {
        let deployment = Deployment::with_profiles(&self.scenario, profiles.clone())
            .map_err(|e| self.fault(e))?;
        let recorder = Recorder::new(deployment.measure());
        let run = deployment.simulate_noting(self.scenario.workload.seed, recorder, false);
        Ok(run.priced.trusted(&run.observer).grade())
    }

    /// Throughput in tokens per second of each seed: tokens that left the server by the deadline,
    /// over the configured duration.
    fn throughput(&self, profiles: &Profiles, seeds: u64) -> Result<Vec<f64>, ValidateError> {
        let mut deployment = Deployment::with_profiles(&self.scenario, profiles.clone())
            .map_err(|e| self.fault(e))?;
        let duration = self.scenario.workload.duration.expect("Table 2 runs last 240 s");
        let rate = |totals: RunTotals| totals.output_tokens as f64 / duration.as_secs_f64();
        let first = self.scenario.workload.seed;
        // The other seeds meet nearly the same steps as the first.
        let run = deployment.simulate_noting(first, (), false);
        deployment.learn(run.priced);
        let others = (first + 1..first + seeds)
            .into_par_iter()
            .map(|seed| rate(deployment.simulate(seed, (), false).0));
        let mut samples = vec![rate(run.totals)];
        samples.par_extend(others);
        Ok(samples)
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

pub(super) fn report(bands: bool) -> Result<Report, ValidateError> {
    let mut report = Report::new(
        Suite::Redhat,
        "Red Hat, Table 2: Llama-2 under TGIS, 10 clients, 240 s, 32 OpenOrca prompts",
    );
    let cases: Vec<Case> = table_2()?
        .into_iter()
        .map(|published| Ok(Case { scenario: load(&published.scenario, &[])?, published }))
        .collect::<Result<_, ValidateError>>()?;
    let measurements = TABLE_2.measurements("g5", "tgis-2023")?;
    let fit = fits::again(&measurements.cases, TABLE_2.name)?;

    let mut errors = Vec::new();
    for row in &fit.rows {
        let label = &measurements.cases[row.case].label;
        let case = cases.iter().find(|case| case.label() == *label).expect("of the same table");
        let profiles = deploy::profiles(&case.scenario)?;
        let samples = case.throughput(&profiles, SEEDS)?;
        let fitted = fit.constants.iter().filter(|constant| constant.tells(row.case));
        let fitted = fitted.map(|constant| constant.label()).collect();
        let from = report.rows.len();
        errors.push(add_rows(&mut report, case, &samples, row.left_out, fitted, None));
        trust_rows(&mut report.rows[from..], case, &profiles, &samples, bands)?;
    }
    for case in cases.iter().filter(|case| !case.is_a10g()) {
        add_p4d(&mut report, case, bands)?;
    }
    fits::add_constants(&mut report, "g5", &measurements.cases, &fit)?;
    let left_out: Vec<f64> = fit.rows.iter().filter_map(|row| row.left_out).collect();
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
    let label = case.label();
    let place = || Row {
        gpu: case.scenario.hardware.gpu().name.clone(),
        engine: case.scenario.engine.name.to_string(),
        model: case.scenario.model.name.clone(),
        ..Row::new(label.clone())
    };
    report.rows.push(Row {
        quantity: "throughput",
        unit: "tok/s",
        measured: published.throughput_tok_s,
        predicted,
        interval,
        error,
        leave_one_out_error: left_out,
        fitted: fitted.clone(),
        note: note.map(str::to_owned),
        ..place()
    });
    let mut derived = |quantity, unit, measured: f64, predicted: f64, note: Option<String>| {
        report.rows.push(Row {
            quantity,
            unit,
            measured,
            predicted,
            interval: None,
            error: predicted / measured - 1.0,
            leave_one_out_error: left_out.map(|e| 1.0 / (1.0 + e) - 1.0),
            fitted: fitted.clone(),
            note,
            ..place()
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

/// Says of a case's rows how far they can be trusted.
fn trust_rows(
    rows: &mut [Row],
    case: &Case,
    profiles: &Profiles,
    samples: &[f64],
    bands: bool,
) -> Result<(), ValidateError> {
    let trust = case.trust(profiles)?;
    let band = if bands { case.expected(profiles, samples)? } else { None };
    for row in rows {
        row.trust = trust;
        row.expected = band.filter(|_| row.quantity == "throughput");
    }
    Ok(())
}

/// The p4d row twice: as a prediction, and with the host factor that was fitted on it.
fn add_p4d(report: &mut Report, case: &Case, bands: bool) -> Result<(), ValidateError> {
    let own = deploy::profiles(&case.scenario)?;
    let instance = &case.scenario.hardware.instance;
    let elsewhere = Profiles::look_up(instance, case.scenario.engine.name.base(), None)
        .map_err(CostError::from)?;
    let predicted = Profiles { deployment: elsewhere.deployment, ..own.clone() };
    let note = "predicted: host times of p4d from other measurements";
    let samples = case.throughput(&predicted, SEEDS)?;
    let from = report.rows.len();
    add_rows(report, case, &samples, None, Vec::new(), Some(note));
    trust_rows(&mut report.rows[from..], case, &predicted, &samples, bands)?;
    let note = "fitted, no test: host time per layer of this row's own deployment";
    let samples = case.throughput(&own, SEEDS)?;
    let fitted = vec!["host time per layer of this deployment".to_owned()];
    let from = report.rows.len();
    let error = add_rows(report, case, &samples, None, fitted, Some(note));
    trust_rows(&mut report.rows[from..], case, &own, &samples, bands)?;
    report.checks.push(Check::new(
        "redhat.p4d-fit",
        "the p4d row with its own host factor is reproduced within 2 %",
        error.abs() <= 0.02,
        format!("{:+.1} %", error * 100.0),
    ));
    Ok(())
}

fn add_bounds(report: &mut Report, errors: &[f64], left_out: &[f64]) {
    let worst = errors.iter().map(|e| e.abs()).fold(0.0, f64::max);
    let mean = |errors: &[f64]| mean_absolute(errors.iter().copied());
    let percent = |x: f64| format!("{:.1} %", x * 100.0);
    let checks = [
        ("redhat.mean", "mean absolute error", mean(errors), MEAN_BOUND),
        ("redhat.worst", "largest absolute error", worst, WORST_BOUND),
        ("redhat.left-out", "mean absolute error when left out", mean(left_out), LEFT_OUT_BOUND),
    ];
    for (id, what, value, bound) in checks {
        report.checks.push(Check::new(
            id,
            format!("{what} of the five A10G rows is at most {}", percent(bound)),
            value <= bound,
            percent(value),
        ));
    }
}
