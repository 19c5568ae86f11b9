//! The host side of a step: launching kernels beside the GPU, and work in series with it.

use crate::engine_name::EngineName;
use crate::time::SimDuration;

use super::StepShape;

/// The batch sizes for which an engine has captured CUDA graphs: a step is padded up to the next
/// one and replayed with a single launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphSizes {
    /// `padded[tokens]`: the captured size that serves so many tokens.
    padded: Vec<u32>,
}

impl GraphSizes {
    pub fn new(mut sizes: Vec<u32>) -> Self {
        sizes.retain(|size| *size > 0);
        sizes.sort_unstable();
        let mut padded = vec![];
        for size in sizes {
            // Everything up to this size that a smaller one does not serve.
            padded.resize(padded.len().max(size as usize + 1), size);
        }
        if let Some(nothing) = padded.first_mut() {
            *nothing = 0;
        }
        Self { padded }
    }

    /// TGI: 1, 2, 4, 8, 16, 32 (`../shared/engines/tgis-tgi.md` B6).
    pub fn tgi() -> Self {
        Self::new(vec![1, 2, 4, 8, 16, 32])
    }

    /// vLLM V0: 1, 2, 4, then every 8 up to 256 (`../shared/engines/vllm.md` section 8).
    pub fn vllm_v0() -> Self {
        Self::new([1, 2, 4].into_iter().chain((8..=256).step_by(8)).collect())
    }

    /// vLLM V1: up to `min(2 x max-num-seqs, 512, max-num-batched-tokens)`, every 8 below 256 and
    /// every 16 above (`../shared/engines/vllm.md` section 8).
    pub fn vllm_v1(max_num_seqs: u32, max_num_batched_tokens: u32) -> Self {
        let largest = max_num_seqs.saturating_mul(2).min(512).min(max_num_batched_tokens);
        let regular =
            [1, 2, 4].into_iter().chain((8..256).step_by(8)).chain((256..=512).step_by(16));
        let own = [max_num_seqs, max_num_batched_tokens];
        Self::new(regular.chain(own).filter(|size| *size <= largest).collect())
    }

    /// The captured size for `tokens`; `None` above the largest.
    #[inline]
    pub fn padded(&self, tokens: u64) -> Option<u64> {
        let index = usize::try_from(tokens).ok()?;
        self.padded.get(index).map(|size| u64::from(*size))
    }
}

/// Which steps an engine replays from CUDA graphs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Graphs {
    Off,
    /// Steps in which every sequence decodes.
    Decode(GraphSizes),
    /// Any step small enough; attention runs beside the graph's pieces where chunks are mixed in.
    Any(GraphSizes),
}

impl Graphs {
    /// The number of tokens that a replayed step computes; `None` where no graph serves it.
    #[inline]
    pub fn padded(&self, shape: &StepShape) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::Decode(sizes) if shape.is_pure_decode() => sizes.padded(shape.tokens()),
            Self::Decode(_) => None,
            Self::Any(sizes) => sizes.padded(shape.tokens()),
        }
    }
}

/// What the cost of a step needs to know of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineTraits {
    pub engine: EngineName,
    pub graphs: Graphs,
    /// Whether short all-reduces go through the engine's own kernel instead of NCCL.
    pub custom_all_reduce: bool,
}

impl EngineTraits {
    /// The engine's own defaults: `vllm-0.13` and later capture for 256 sequences and 2,048
    /// tokens, TGI v2 has graphs on. vLLM has had its own all-reduce since 0.3.
    pub fn of(engine: EngineName) -> Self {
        use EngineName as E;
        let graphs = match engine {
            E::Tgis2023 | E::Tgis2024 => Graphs::Off,
            E::TgiV2 | E::TgiV3 => Graphs::Decode(GraphSizes::tgi()),
            E::Vllm0_2_7 | E::Vllm0_4_2 | E::Static => Graphs::Decode(GraphSizes::vllm_v0()),
            E::Vllm0_13 | E::Vllm0_32 => Graphs::Any(GraphSizes::vllm_v1(256, 2048)),
        };
        let custom_all_reduce = matches!(engine, E::Vllm0_4_2 | E::Vllm0_13 | E::Vllm0_32);
        Self { engine, graphs, custom_all_reduce }
    }

    pub fn with_graphs(mut self, graphs: Graphs) -> Self {
        self.graphs = graphs;
        self
    }
}

/// Host times of one deployment, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostModel {
    /// Launching a step kernel by kernel, all layers.
    pub eager: f64,
    /// Launching a captured step.
    pub replay: f64,
    pub serial_per_step: f64,
    pub serial_per_sequence: f64,
    /// Once for each step that holds any prefill.
    pub serial_per_prefill: f64,
}

impl HostModel {
    /// Launching `beside` times as long, and the work in series `series` times.
    #[must_use]
    pub fn times(self, beside: f64, series: f64) -> Self {
        Self {
            eager: self.eager * beside,
            replay: self.replay * beside,
            serial_per_step: self.serial_per_step * series,
            serial_per_sequence: self.serial_per_sequence * series,
            serial_per_prefill: self.serial_per_prefill * series,
        }
    }

    /// Runs beside the GPU: only what exceeds the GPU's time is felt.
    pub fn beside(&self, replayed: bool) -> SimDuration {
        SimDuration::from_secs_f64(if replayed { self.replay } else { self.eager })
    }

    /// In series with the GPU.
    pub fn serial(&self, shape: &StepShape) -> SimDuration {
        let sequences = f64::from(shape.prefill_seqs) + f64::from(shape.decode_seqs);
        let prefill = if shape.prefill_seqs > 0 { self.serial_per_prefill } else { 0.0 };
        SimDuration::from_secs_f64(
            self.serial_per_step + self.serial_per_sequence * sequences + prefill,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_padded_to_the_next_captured_size() {
        let tgi = GraphSizes::tgi();
        assert_eq!([1, 3, 9, 32].map(|n| tgi.padded(n)), [Some(1), Some(4), Some(16), Some(32)]);
        assert_eq!(tgi.padded(33), None);
        let v0 = GraphSizes::vllm_v0();
        assert_eq!([5, 100, 256, 257].map(|n| v0.padded(n)), [Some(8), Some(104), Some(256), None]);
    }

    #[test]
    fn vllm_v1_captures_up_to_twice_its_sequences() {
        let sizes = GraphSizes::vllm_v1(128, 2048);
        assert_eq!(sizes.padded(250), Some(256));
        assert_eq!(sizes.padded(257), None);
        let sizes = GraphSizes::vllm_v1(256, 2048);
        assert_eq!([249, 257, 512].map(|n| sizes.padded(n)), [Some(256), Some(272), Some(512)]);
        // A budget below the regular sizes is itself captured.
        assert_eq!(GraphSizes::vllm_v1(256, 100).padded(99), Some(100));
    }

    #[test]
    fn only_decode_batches_are_replayed_before_v1() {
        let mut mixed = StepShape::decode(3, 300);
        mixed.push(0, 5);
        let traits = |engine| EngineTraits::of(engine).graphs;
        assert_eq!(traits(EngineName::Vllm0_4_2).padded(&mixed), None);
        assert_eq!(traits(EngineName::Vllm0_32).padded(&mixed), Some(8));
        assert_eq!(traits(EngineName::Tgis2023).padded(&StepShape::decode(3, 300)), None);
        assert_eq!(traits(EngineName::TgiV3).padded(&StepShape::decode(3, 300)), Some(4));
    }
}
