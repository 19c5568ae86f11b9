//! Published measurements beside predictions, with bounds that fail when they break.
//!
//! A suite says of each row whether its data were used in fitting, and what the prediction would
//! have been without them.

mod claims;
mod fits;
mod gke;
mod published;
mod redhat;
mod requests;
mod serving;

use serde::Serialize;

use crate::calibrate::deployment::FitError;
use crate::cost::calibrated::CostError;
use crate::cost::trust::Trust;
use crate::deploy::DeployError;
use crate::metrics::Band;
use crate::named::named_enum;
use crate::scenario::{self, DiskFiles, Override, Scenario};

named_enum! {
    /// A set of published facts.
    pub enum Suite as "suite" {
        /// Table 2 of Red Hat's study: throughput, minutes and USD.
        Redhat = "redhat",
        /// What the same study says in words.
        RedhatClaims = "redhat-claims",
        /// What fits on L4 GPUs, from Google's guide.
        GkeMemory = "gke-memory",
        /// Inference time per token of TGI 1.0.3 on SageMaker.
        TgiSagemaker = "tgi-sagemaker",
        /// Batch latencies of vLLM on A100-40.
        ArgonneA10040 = "argonne-a100-40",
        /// Prompt and token times of vLLM on A100-80.
        SplitwiseA10080 = "splitwise-a100-80",
        /// Decoding of Mistral-7B in 16 and 4 bits on L4.
        L4Mistral = "l4-mistral",
        /// 300 requests on one RTX PRO 6000, request by request.
        VllmRtxPro6000 = "vllm-rtxpro6000",
    }
}

/// What a suite found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub suite: &'static str,
    pub title: &'static str,
    pub rows: Vec<Row>,
    pub constants: Vec<Constant>,
    pub checks: Vec<Check>,
    pub notes: Vec<String>,
}

impl Report {
    fn new(suite: Suite, title: &'static str) -> Self {
        Self {
            suite: suite.name(),
            title,
            rows: Vec::new(),
            constants: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Whether every check holds.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }
}

/// A measured number and our prediction of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub row: String,
    /// Rows of the suite that are judged together; empty if all are.
    pub group: &'static str,
    pub gpu: String,
    pub engine: String,
    pub model: String,
    pub quantity: &'static str,
    pub unit: &'static str,
    pub measured: f64,
    pub predicted: f64,
    /// Where one measurement is expected, from what the numbers behind the prediction may be off
    /// by; only where that was asked for.
    pub expected: Option<Band>,
    /// 95 % interval of the prediction's mean over seeds.
    pub interval: Option<(f64, f64)>,
    /// Predicted / measured - 1.
    pub error: f64,
    /// The same of a model that was refitted without this row.
    pub leave_one_out_error: Option<f64>,
    /// By what kind of numbers the prediction is limited.
    pub trust: Option<Trust>,
    /// What was fitted on this row, if anything.
    pub fitted: Vec<String>,
    pub note: Option<String>,
}

impl Row {
    fn new(row: String) -> Self {
        Self { row, ..Self::default() }
    }
}

/// A constant that was fitted on rows of the suite.
#[derive(Clone, Debug, Serialize)]
pub struct Constant {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// The guess before any row was seen, and its spread as a factor.
    pub prior: f64,
    pub prior_factor: f64,
    /// The spread that is left.
    pub posterior_factor: f64,
    /// What stands in the committed profile.
    pub committed: f64,
    /// Change of each row's throughput in per cent for a change of the constant by one per cent.
    pub sensitivity: Vec<(String, f64)>,
}

/// A statement that holds or does not.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub id: String,
    pub claim: String,
    pub holds: bool,
    pub evidence: String,
}

impl Check {
    fn new(
        id: impl Into<String>,
        claim: impl Into<String>,
        holds: bool,
        evidence: impl Into<String>,
    ) -> Self {
        Self { id: id.into(), claim: claim.into(), holds, evidence: evidence.into() }
    }
}

/// Why a suite could not be computed; each is a fault of the embedded data.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    #[error("published table: {0}")]
    Published(#[from] csv::Error),
    #[error("scenario {name}: {why}")]
    Scenario { name: String, why: String },
    #[error("scenario {name}: {source}")]
    Deploy { name: String, source: DeployError },
    #[error(transparent)]
    Cost(#[from] CostError),
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error("{path}: {why}")]
    Shared { path: String, why: String },
}

/// Computes one suite. Uses all threads of the current rayon pool; the result does not depend on
/// their number. `bands`: also say where each measurement is expected, which takes some twenty
/// times as many runs.
pub fn run(suite: Suite, bands: bool) -> Result<Report, ValidateError> {
    match suite {
        Suite::Redhat => redhat::report(bands),
        Suite::RedhatClaims => claims::report(),
        Suite::GkeMemory => gke::report(),
        Suite::TgiSagemaker | Suite::ArgonneA10040 | Suite::SplitwiseA10080 | Suite::L4Mistral => {
            serving::report(suite, bands)
        }
        Suite::VllmRtxPro6000 => requests::report(bands),
    }
}

/// An embedded scenario with some keys replaced, each as `key=value`.
fn load(name: &str, overrides: &[&str]) -> Result<Scenario, ValidateError> {
    let fault = |why: String| ValidateError::Scenario { name: name.to_owned(), why };
    let source = scenario::embedded(name).ok_or_else(|| fault("it is not embedded".into()))?;
    let overrides: Vec<Override> = overrides.iter().map(|o| Override::set(o)).collect();
    scenario::load(&source, &overrides, &DiskFiles).map_err(|d| fault(d.render(false)))
}
