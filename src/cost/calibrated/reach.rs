//! How far the measurements behind a price reach, and what was asked beyond.

use crate::model::Dtype;

use super::CostInputs;

/// A price that lies outside what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Extrapolation {
    pub what: Extrapolated,
    pub asked: f64,
    /// The nearest value that measurements reach.
    pub known: f64,
}

/// What is outside the measured range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extrapolated {
    /// Tokens in one step.
    Tokens,
    /// The smaller side of a weight matrix.
    MatrixSide,
    /// Bytes of a 16-bit weight matrix.
    MatrixBytes,
    HeadDim,
    /// Mean context of decoding sequences.
    Context,
    /// Sequences that decode in one step.
    Sequences,
    /// Mean context of the prompt chunks of a step, their own tokens included.
    ChunkContext,
    /// Ranks that the links' bandwidth was measured with.
    Ranks,
    /// Bytes of an element in 32-bit arithmetic.
    ElementBytes,
}

impl std::fmt::Display for Extrapolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            Extrapolated::Tokens => "tokens in a step",
            Extrapolated::MatrixSide => "smaller side of a weight matrix",
            Extrapolated::MatrixBytes => "bytes of a weight matrix",
            Extrapolated::HeadDim => "head dimension",
            Extrapolated::Context => "mean context of decoding sequences",
            Extrapolated::Sequences => "sequences decoding in a step",
            Extrapolated::ChunkContext => "mean context of prompt chunks",
            Extrapolated::Ranks => "ranks of an all-reduce",
            Extrapolated::ElementBytes => "bytes of an element",
        };
        write!(f, "{what}: {} asked, {} measured", self.asked, self.known)
    }
}

/// Adds `more` to `noted`, of which only the farthest of each kind stays. In whatever order several
/// are merged, the outcome is the same.
pub fn merge(noted: &mut Vec<Extrapolation>, more: &[Extrapolation]) {
    for one in more {
        match noted.binary_search_by_key(&one.what, |e| e.what) {
            Ok(at) if (one.asked - one.known).abs() > (noted[at].asked - one.known).abs() => {
                noted[at] = one.clone();
            }
            Ok(_) => {}
            Err(at) => noted.insert(at, one.clone()),
        }
    }
}

/// The GEMM surfaces were fitted up to this many rows.
pub(super) const MEASURED_TOKENS: u64 = 8192;
/// Below this side or size the GEMM surfaces are 34-85 % off at the 90th percentile.
const MEASURED_SIDE: u64 = 512;
const MEASURED_MATRIX_BYTES: u64 = 4_000_000;
const MEASURED_HEAD_DIM: u32 = 128;
/// All tables of attention reach so far, and their fits no further than twice as far.
pub(super) const MEASURED_CONTEXT: u64 = 16_384;
/// Of pure decode; larger batches of the tables are left out of the fits.
pub(super) const MEASURED_SEQUENCES: u32 = 512;

/// What any step of this deployment extrapolates.
pub(super) fn static_extrapolations(inputs: &CostInputs<'_>) -> Vec<Extrapolation> {
    let mut found = Vec::new();
    let model = inputs.model;
    // Routers are narrow by nature and take almost no time.
    let matrices = || {
        model.layer_gemms(inputs.tensor_parallel).into_iter().filter(|gemm| gemm.name != "router")
    };
    let side = matrices().map(|gemm| gemm.n.min(gemm.k)).min().unwrap_or(u64::MAX);
    let bytes = matrices().map(|gemm| 2 * gemm.n * gemm.k).min().unwrap_or(u64::MAX);
    let mut note = |outside: bool, what, asked: f64, known: f64| {
        if outside {
            found.push(Extrapolation { what, asked, known });
        }
    };
    let measured = MEASURED_MATRIX_BYTES;
    note(side < MEASURED_SIDE, Extrapolated::MatrixSide, side as f64, MEASURED_SIDE as f64);
    note(bytes < measured, Extrapolated::MatrixBytes, bytes as f64, measured as f64);
    let (dim, known) = (model.head_dim, MEASURED_HEAD_DIM);
    note(dim != known, Extrapolated::HeadDim, f64::from(dim), f64::from(known));
    let float32 = inputs.precision.dtype == Dtype::Float32;
    note(float32, Extrapolated::ElementBytes, 4.0, 2.0);
    let ranks = inputs.tensor_parallel;
    if let Some(links) = inputs.interconnect.filter(|links| ranks > 1 && !links.knows(ranks)) {
        let nearest = links.nccl.bus_bandwidth.iter().min_by_key(|b| b.ranks.abs_diff(ranks));
        let known = nearest.map_or(f64::NAN, |entry| f64::from(entry.ranks));
        note(true, Extrapolated::Ranks, f64::from(ranks), known);
    }
    found
}
