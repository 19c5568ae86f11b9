//! Errors of single operators.

use serde::{Deserialize, Serialize};

use crate::calibrate::leave_out::{self, LeftOut};
use crate::calibrate::table::Timing;
use crate::cost::profile::{Fit, GpuProfile, InterconnectProfile, WeightKernelProfile, lookup};

const LEFT_OUT: &[u8] = include_bytes!("../../calibration/leave-one-gpu-out.csv");

/// The aim for rows held out from a fit, for each GPU and source.
pub const LIMIT_MEDIAN: f64 = 8.0;
pub const LIMIT_P90: f64 = 20.0;

/// Errors of one surface of one GPU, of links or of a kernel on one source's rows, in per cent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorError {
    /// The profile.
    pub gpu: String,
    pub surface: String,
    pub source: String,
    /// The GPU whose tables stood in for its own; empty where its own were fitted.
    pub from: String,
    /// Rows of its own that were fitted, or, of a profile without them, that were judged.
    pub rows: u32,
    pub median_percent: f64,
    pub p90_percent: f64,
}

impl OperatorError {
    fn new(gpu: &str, from: String, fit: Fit) -> Self {
        Self {
            gpu: gpu.to_owned(),
            surface: fit.surface,
            source: fit.source,
            from,
            rows: fit.rows,
            median_percent: fit.median_percent,
            p90_percent: fit.p90_percent,
        }
    }

    /// Whether another GPU's tables stood in, and not the datasheet.
    pub fn is_transfer(&self) -> bool {
        !self.from.is_empty() && self.from != leave_out::DATASHEET
    }

    /// Whether the aim for held-out rows is met.
    pub fn meets_limits(&self) -> bool {
        self.median_percent <= LIMIT_MEDIAN && self.p90_percent <= LIMIT_P90
    }
}

/// Of the embedded profiles, on rows held out from their fits, as the profiles say.
pub fn held_out() -> Vec<OperatorError> {
    let mut errors = Vec::new();
    for (path, file) in lookup::files() {
        let name = path.strip_prefix("gpus/").and_then(|file| file.strip_suffix(".toml"));
        let Some(name) = name else { continue };
        let profile = GpuProfile::from_embedded(&path, file).expect("embedded profiles are valid");
        let fits = profile.fits.into_iter();
        errors.extend(fits.map(|fit| OperatorError::new(name, String::new(), fit)));
    }
    errors.sort_by(|a, b| (&a.gpu, &a.surface, &a.source).cmp(&(&b.gpu, &b.surface, &b.source)));
    errors
}

/// The same of links, and of kernels for quantised weights, by the names of their profiles.
pub fn held_out_links_and_kernels() -> Vec<OperatorError> {
    let mut errors = Vec::new();
    for (path, file) in lookup::files() {
        let Some((folder, name)) = path.trim_end_matches(".toml").split_once('/') else { continue };
        let fits = match folder {
            "interconnects" => {
                InterconnectProfile::from_embedded(&path, file).map(|links| links.fits)
            }
            "weight-kernels" => {
                WeightKernelProfile::from_embedded(&path, file).map(|kernel| kernel.fits)
            }
            _ => continue,
        };
        let fits = fits.expect("embedded profiles are valid").into_iter();
        errors.extend(fits.map(|fit| OperatorError::new(name, String::new(), fit)));
    }
    errors.sort_by(|a, b| (&a.gpu, &a.surface, &a.source).cmp(&(&b.gpu, &b.surface, &b.source)));
    errors
}

/// Of profiles made without the GPU's own tables, as they were when the program was made.
pub fn committed_left_out() -> Result<Vec<OperatorError>, csv::Error> {
    csv::Reader::from_reader(LEFT_OUT).deserialize().collect()
}

/// The same from tables.
pub fn left_out(rows: &[Timing]) -> Vec<OperatorError> {
    let errors = leave_out::leave_one_out(rows).into_iter();
    errors.map(|LeftOut { gpu, from, fit }| OperatorError::new(&gpu, from, fit)).collect()
}
