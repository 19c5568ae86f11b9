//! The calibrated price of a step: surfaces of the GPU, links and host put together for one model
//! on one rank.
//!
//! `step = GPU + max(0, host - GPU) + serial` (`../shared/design/design.md` section 4). All ranks of
//! a tensor-parallel group do the same work, so one rank is priced. Everything that depends on the
//! number of tokens alone is memoised: a repeat costs a few nanoseconds and allocates nothing.

mod grades;
mod kernels;
mod memo;
mod reach;

use crate::hardware::Gpu;
use crate::model::{Dtype, KvCacheDtype, ModelConfig, TpError, WeightPrecision};
use crate::time::SimDuration;

use super::attention::PrefillAlone;
use super::host::{EngineTraits, Graphs, HostModel};
use super::profile::{
    DeploymentProfile, GpuProfile, InterconnectProfile, ProfileError, WeightKernelProfile,
};
use super::sourced::Provenance;
use super::spread::{Part, Scales};
use super::trust::TermGrades;
use super::{ContextCost, CostTerm, DecodeCost, StepCost, StepShape, StepTime};

use kernels::Kernels;
use memo::Memo;
use reach::{MEASURED_CONTEXT, MEASURED_SEQUENCES, MEASURED_TOKENS, static_extrapolations};

pub use reach::{Extrapolated, Extrapolation, merge};

/// What a step's price depends on.
#[derive(Clone, Copy, Debug)]
pub struct CostInputs<'a> {
    pub model: &'a ModelConfig,
    pub precision: WeightPrecision,
    pub kv_cache: KvCacheDtype,
    pub tensor_parallel: u32,
    pub gpu: &'a Gpu,
    pub gpu_profile: &'a GpuProfile,
    /// Needed with tensor parallelism.
    pub interconnect: Option<&'a InterconnectProfile>,
    /// In place of the embedded profile of the kernel that the engine runs for the format.
    pub weight_kernel: Option<&'a WeightKernelProfile>,
    pub deployment: &'a DeploymentProfile,
    pub engine: &'a EngineTraits,
}

/// Why a deployment cannot be priced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    TensorParallel(#[from] TpError),
    #[error(
        "tensor-parallel-size {tensor_parallel} needs an interconnect profile, and the instance \
         has none; take an instance with several GPUs or tensor-parallel-size 1"
    )]
    NoInterconnect { tensor_parallel: u32 },
    #[error("{gpu} cannot compute in {dtype}; set model.dtype to float16")]
    Dtype { gpu: String, dtype: Dtype },
    #[error(
        "the profile of {gpu} has no [gemm-fp8] surface; measure one with `servesim calibrate`, or \
         take another quantisation"
    )]
    NoFp8Surface { gpu: String },
}

/// The parts of a step that depend on its number of tokens alone, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct LayerPart {
    linear: SimDuration,
    dequantise: SimDuration,
    elementwise: SimDuration,
    all_reduce: SimDuration,
}

/// The parts that depend on the number of logits rows alone.
#[derive(Clone, Copy, Debug)]
struct HeadPart {
    lm_head: SimDuration,
    gather: SimDuration,
}

/// What the prefill side of a step's attention depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunks {
    seqs: u32,
    tokens: u64,
    pairs: u64,
    context: u64,
}

impl Chunks {
    const fn of(shape: &StepShape) -> Self {
        Self {
            seqs: shape.prefill_seqs,
            tokens: shape.prefill_tokens,
            pairs: shape.prefill_pairs,
            context: shape.prefill_context,
        }
    }
}

/// The calibrated cost model of one deployment; memoises as it is asked.
#[derive(Clone, Debug)]
pub struct CalibratedCost {
    kernels: Kernels,
    graphs: Graphs,
    host: HostModel,
    kv_copy: ContextCost,
    layers: Memo<LayerPart>,
    heads: Memo<HeadPart>,
    decodes: Memo<DecodeCost>,
    /// The newest prefill chunks and their price: prompts of one length come one after another.
    newest_prefill: Option<(Chunks, PrefillAlone)>,
    /// The largest mean context of decoding sequences that stays within the measurements.
    known_context: u64,
    extrapolations: Vec<Extrapolation>,
    provenance: Vec<(CostTerm, Provenance)>,
    grades: TermGrades,
}

impl CalibratedCost {
    pub fn new(inputs: &CostInputs<'_>) -> Result<Self, CostError> {
        let kernels = Kernels::new(inputs)?;
        let copy_bandwidth =
            inputs.gpu.memory.bandwidth.bytes_per_s() * inputs.deployment.copy_efficiency.value;
        let kv_bytes = inputs.model.kv_bytes_per_token(
            inputs.kv_cache,
            inputs.precision.dtype,
            inputs.tensor_parallel,
        );
        // Every byte is read from the old tensor and written to the new one.
        let kv_copy = ContextCost::Curve {
            constant: 0.0,
            per_token: 2.0 * kv_bytes.as_f64() / copy_bandwidth * 1e9,
            per_sqrt: 0.0,
        };
        Ok(Self {
            known_context: kernels.known_context(MEASURED_CONTEXT),
            extrapolations: {
                let mut noted = Vec::new();
                merge(&mut noted, &static_extrapolations(inputs));
                noted
            },
            provenance: kernels.provenance(inputs),
            grades: kernels.grades(inputs),
            host: inputs.deployment.host_model(inputs.model.num_hidden_layers),
            graphs: inputs.engine.graphs.clone(),
            kernels,
            kv_copy,
            layers: Memo::new(),
            heads: Memo::new(),
            decodes: Memo::new(),
            newest_prefill: None,
        })
    }

    /// The same price with parts of it scaled, and nothing asked yet.
    #[must_use]
    pub fn scaled(&self, scales: Scales) -> Self {
        Self {
            kernels: self.kernels.clone().scaled(scales),
            graphs: self.graphs.clone(),
            host: self.host.times(scales.of(Part::Host), scales.of(Part::Serial)),
            kv_copy: self.kv_copy.times(scales.of(Part::Copies)),
            layers: Memo::new(),
            heads: Memo::new(),
            decodes: Memo::new(),
            newest_prefill: None,
            known_context: self.known_context,
            extrapolations: self.extrapolations.clone(),
            provenance: self.provenance.clone(),
            grades: self.grades,
        }
    }

    /// What was asked for so far, or will be by any step, outside the measured range.
    pub fn extrapolations(&self) -> &[Extrapolation] {
        &self.extrapolations
    }

    /// The least trusted number behind each term that this deployment has.
    pub fn provenance(&self) -> &[(CostTerm, Provenance)] {
        &self.provenance
    }

    /// How well founded each term is, by kind of step, given what was asked for so far.
    pub fn grades(&self) -> TermGrades {
        self.grades.beyond(&self.extrapolations)
    }

    fn extrapolated(&mut self, what: Extrapolated, asked: f64, known: f64) {
        merge(&mut self.extrapolations, &[Extrapolation { what, asked, known }]);
    }

    /// Notes contexts of decoding sequences beyond the measurements.
    #[inline]
    fn note_decode(&mut self, shape: &StepShape) {
        if shape.decode_context > u64::from(shape.decode_seqs) * self.known_context {
            self.far_decode(shape);
        }
    }

    #[cold]
    fn far_decode(&mut self, shape: &StepShape) {
        let mean = shape.decode_context.div_ceil(u64::from(shape.decode_seqs));
        self.extrapolated(Extrapolated::Context, mean as f64, self.known_context as f64);
    }

    /// The same of prompt chunks.
    fn note_chunks(&mut self, shape: &StepShape) {
        let chunks = u64::from(shape.prefill_seqs);
        if shape.prefill_context > chunks * self.known_context {
            let mean = shape.prefill_context.div_ceil(chunks.max(1));
            self.extrapolated(Extrapolated::ChunkContext, mean as f64, self.known_context as f64);
        }
    }

    fn layer_part(&mut self, tokens: u64) -> LayerPart {
        if let Some(&part) = self.layers.get(tokens) {
            return part;
        }
        if tokens > MEASURED_TOKENS {
            self.extrapolated(Extrapolated::Tokens, tokens as f64, MEASURED_TOKENS as f64);
        }
        let part = self.kernels.layer_part(tokens);
        self.layers.insert(tokens, part);
        part
    }

    fn head_part(&mut self, rows: u64) -> HeadPart {
        if let Some(&part) = self.heads.get(rows) {
            return part;
        }
        let part = self.kernels.head_part(rows);
        self.heads.insert(rows, part);
        part
    }

    /// All terms but attention, KV copy and host; and the host's time beside the GPU.
    fn fixed(&mut self, shape: &StepShape) -> (StepTime, SimDuration) {
        let replayed = self.graphs.padded(shape);
        let layers = self.layer_part(replayed.unwrap_or(shape.tokens()));
        let head = self.head_part(shape.logits_rows);
        let mut time = StepTime::ZERO;
        time.set(CostTerm::Linear, layers.linear);
        time.set(CostTerm::Dequantise, layers.dequantise);
        time.set(CostTerm::Elementwise, layers.elementwise);
        time.set(CostTerm::AllReduce, layers.all_reduce + head.gather);
        time.set(CostTerm::LmHead, head.lm_head);
        time.set(CostTerm::Sampling, self.kernels.sampling(shape.sampled_seqs));
        time.set(CostTerm::Serial, self.host.serial(shape));
        (time, self.host.beside(replayed.is_some()))
    }

    fn prefill_attention(&mut self, shape: &StepShape) -> SimDuration {
        let chunks = Chunks::of(shape);
        let alone = match self.newest_prefill {
            Some((known, alone)) if known == chunks => alone,
            _ => {
                self.note_chunks(shape);
                self.kernels.prefill_alone(shape)
            }
        };
        self.newest_prefill = Some((chunks, alone));
        self.kernels.prefill_attention(shape, &alone)
    }

    fn decode_cost(&mut self, seqs: u32) -> DecodeCost {
        let (fixed, host) = self.fixed(&StepShape::decode(seqs, 0));
        DecodeCost {
            fixed,
            fixed_gpu: fixed.gpu(),
            fixed_total: fixed.total(),
            host,
            attention: self.kernels.decode_attention(seqs),
            per_spread: self.kernels.decode_per_spread(seqs),
            kv_copy: self.kv_copy,
        }
    }
}

impl StepCost for CalibratedCost {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        if shape.is_empty() {
            return StepTime::ZERO;
        }
        let seqs = u64::from(shape.decode_seqs);
        let all_sampled = shape.logits_rows == seqs && shape.sampled_seqs == shape.decode_seqs;
        self.note_decode(shape);
        if shape.is_pure_decode() && all_sampled {
            if let Some(known) = self.decodes.get(seqs) {
                return known.time(&known.of(shape));
            }
            let decode = self.decode(shape.decode_seqs);
            return decode.time(&decode.of(shape));
        }
        let (mut time, host) = self.fixed(shape);
        let attention = if shape.is_pure_decode() {
            let decode = self.decode(shape.decode_seqs);
            decode.attention.at_plus(shape.decode_context, decode.skew(shape))
        } else {
            self.prefill_attention(shape)
        };
        time.set(CostTerm::Attention, attention);
        if shape.kv_copy_tokens > 0 {
            time.set(CostTerm::KvCopy, self.kv_copy.at(shape.kv_copy_tokens));
        }
        time.set(CostTerm::Host, host.saturating_sub(time.gpu()));
        time
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        let key = u64::from(seqs);
        if let Some(&cost) = self.decodes.get(key) {
            return cost;
        }
        if seqs > MEASURED_SEQUENCES {
            let (asked, known) = (f64::from(seqs), f64::from(MEASURED_SEQUENCES));
            self.extrapolated(Extrapolated::Sequences, asked, known);
        }
        let cost = self.decode_cost(seqs);
        self.decodes.insert(key, cost);
        cost
    }

    fn stretched_to(&mut self, shape: &StepShape) {
        self.note_decode(shape);
    }
}

#[cfg(test)]
mod tests;
