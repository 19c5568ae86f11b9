//! How far predictions are from measurements: of serving runs, by who and what was measured; of
//! single operators, on rows that were held out, and on GPUs whose tables were.
//!
//! What `validate` computes is kept in `calibration/accuracy.csv` and what the operator tables give
//! in `calibration/leave-one-gpu-out.csv`. So the page that is made of them can be made, and held to
//! them, where neither the tables nor the time for all runs are at hand.

mod coverage;
mod group;
mod operators;

use serde::{Deserialize, Serialize};

use crate::cost::trust::Trust;
use crate::metrics::Band;
use crate::validate::{self, Report, Suite};

pub use coverage::{Coverage, coverage};
pub use group::{By, Group, groups};
pub use operators::{
    LIMIT_MEDIAN, LIMIT_P90, OperatorError, committed_left_out, held_out,
    held_out_links_and_kernels, left_out,
};

const ROWS: &[u8] = include_bytes!("../calibration/accuracy.csv");

/// A published number beside its prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServingRow {
    pub suite: String,
    /// Rows of a suite that are judged together; empty if all are.
    pub group: String,
    pub row: String,
    pub gpu: String,
    pub engine: String,
    pub model: String,
    pub quantity: String,
    pub measured: f64,
    pub predicted: f64,
    /// Predicted by measured, less one, in per cent; where a constant was fitted on the row, that of
    /// a fit without it. Nothing where there is none without it.
    pub error_percent: Option<f64>,
    /// Whether a constant was fitted on the row.
    pub fitted: bool,
    pub trust: Option<Trust>,
    /// Where a measurement was expected.
    pub low_80: Option<f64>,
    pub high_80: Option<f64>,
    pub low_95: Option<f64>,
    pub high_95: Option<f64>,
}

impl ServingRow {
    fn of(suite: &str, row: &validate::Row) -> Self {
        let fitted = !row.fitted.is_empty();
        let error = if fitted { row.leave_one_out_error } else { Some(row.error) };
        // The band of the model that has not seen the row.
        let moved = error.map_or(1.0, |error| (1.0 + error) / (1.0 + row.error));
        let band = row.expected.filter(|_| error.is_some());
        let edge = |of: fn(&Band) -> f64| band.as_ref().map(|band| digits(of(band) * moved));
        Self {
            suite: suite.to_owned(),
            group: row.group.to_owned(),
            row: row.row.clone(),
            gpu: row.gpu.clone(),
            engine: row.engine.clone(),
            model: row.model.clone(),
            quantity: row.quantity.to_owned(),
            measured: digits(row.measured),
            predicted: digits(row.predicted),
            error_percent: error.map(|error| (error * 1e4).round() / 1e2),
            fitted,
            trust: row.trust,
            low_80: edge(|band| band.low_80),
            high_80: edge(|band| band.high_80),
            low_95: edge(|band| band.low_95),
            high_95: edge(|band| band.high_95),
        }
    }

    /// Whether the measurement lies in the band of 80 and in that of 95 %, where there is one.
    pub fn covered(&self) -> Option<(bool, bool)> {
        let band = Band {
            low_80: self.low_80?,
            high_80: self.high_80?,
            low_95: self.low_95?,
            high_95: self.high_95?,
        };
        Some((band.holds_80(self.measured), band.holds_95(self.measured)))
    }
}

/// Five digits: more differ from machine to machine and tell nobody anything.
fn digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(4 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// Suites that compare numbers; the others judge statements.
pub const SUITES: [Suite; 6] = [
    Suite::Redhat,
    Suite::TgiSagemaker,
    Suite::ArgonneA10040,
    Suite::SplitwiseA10080,
    Suite::L4Mistral,
    Suite::VllmRtxPro6000,
];

/// The rows as they were computed when the program was made.
pub fn committed_rows() -> Result<Vec<ServingRow>, csv::Error> {
    csv::Reader::from_reader(ROWS).deserialize().collect()
}

/// The rows of a suite's report. Figures that only say the same in other units do not count again.
pub fn rows(report: &Report) -> Vec<ServingRow> {
    let same_again =
        |row: &&validate::Row| row.quantity.starts_with("time per 1M") || row.unit == "USD";
    let rows = report.rows.iter().filter(|row| !same_again(row));
    rows.map(|row| ServingRow::of(report.suite, row)).collect()
}

/// All that is said of accuracy.
#[derive(Clone, Debug, Serialize)]
pub struct Accuracy {
    pub serving: Vec<ServingRow>,
    /// Of the committed profiles, on rows held out from their fits.
    pub operators: Vec<OperatorError>,
    /// The same of links and of kernels for quantised weights.
    pub links_and_kernels: Vec<OperatorError>,
    /// Of profiles made without the GPU's own tables.
    pub left_out: Vec<OperatorError>,
    pub notes: Vec<String>,
}

impl Accuracy {
    /// As committed, without a run.
    pub fn committed() -> Result<Self, csv::Error> {
        Ok(Self {
            serving: committed_rows()?,
            operators: held_out(),
            links_and_kernels: held_out_links_and_kernels(),
            left_out: committed_left_out()?,
            notes: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fitted_row_counts_with_the_error_of_a_fit_without_it() {
        let band = Band { low_80: 90.0, high_80: 110.0, low_95: 80.0, high_95: 120.0 };
        let row = validate::Row {
            measured: 100.0,
            predicted: 100.0,
            error: 0.0,
            leave_one_out_error: Some(0.15),
            fitted: vec!["a constant".into()],
            expected: Some(band),
            ..validate::Row::default()
        };
        let row = ServingRow::of("redhat", &row);
        assert_eq!((row.error_percent, row.low_80), (Some(15.0), Some(103.5)));
        assert_eq!(row.covered(), Some((false, true)));
    }

    #[test]
    fn what_is_committed_can_be_read() {
        let accuracy = Accuracy::committed().unwrap();
        assert!(!accuracy.operators.is_empty());
        for suite in SUITES {
            assert!(accuracy.serving.iter().any(|row| row.suite == suite.name()), "{suite}");
        }
    }
}
