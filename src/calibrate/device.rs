//! Probes on a device at hand: micro-kernels, checked and timed, whose rows are those of operator
//! tables ([`super::table`]).
//!
//! A [`Device`] says what it is, which probes suit it, and measures one at a time; [`session`] walks
//! through them, keeps what is done where an interrupt cannot lose it, and goes on from there.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod fitted;
pub mod kernels;
pub mod probe;
pub mod session;
pub mod statistics;

use std::fmt;

pub use probe::{CopyKind, Probe, StreamKind};
pub use statistics::{Grade, Sample};

/// What stands at the head of a calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// As the vendor calls it, such as `NVIDIA A10G`.
    pub product: String,
    /// The profile's note: driver, threads, what else ran.
    pub conditions: String,
    /// Streaming multiprocessors, or threads.
    pub multiprocessors: u32,
    pub compute_capability: (u32, u32),
    /// `None` where the system does not tell.
    pub clock_mhz: Option<u32>,
    pub memory_bytes: u64,
    /// The last cache before memory, or at least as much where the system does not tell.
    pub cache_bytes: u64,
    pub cache_assumed: bool,
    /// Timings hold waits for other processes, and nobody knows how long they were.
    pub waits_unknown: bool,
    /// Dtype of matrices, as operator tables write it.
    pub dtype: &'static str,
    /// Why its products stand for no library that an engine would use, where they do not.
    pub not_representative: Option<String>,
}

/// Why a calibration does not go on. The text has cause and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceError {
    pub problem: String,
    pub help: String,
}

impl DeviceError {
    pub fn new(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self { problem: problem.into(), help: help.into() }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhelp: {}", self.problem, self.help)
    }
}

impl std::error::Error for DeviceError {}

/// How much time a calibration may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// A minute or two: half of the shapes, fewer repeats.
    Quick,
    Full,
}

/// Something that runs probes.
pub trait Device {
    fn description(&self) -> &Description;

    /// Holds every kernel to plain arithmetic; none may be timed before.
    fn check(&mut self) -> Result<Vec<kernels::check::Checked>, DeviceError>;

    /// The probes that suit it, cheapest information first.
    fn plan(&self, effort: Effort) -> Vec<Probe>;

    fn measure(&mut self, probe: &Probe, effort: Effort) -> Result<Sample, DeviceError>;

    /// What may change while it measures (clocks, temperature, other load), in words.
    fn state(&self) -> String;
}
