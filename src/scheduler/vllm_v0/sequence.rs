//! One request as the V0 scheduler sees it: a group of one sequence.

use crate::request::{FinishReason, Request};
use crate::time::SimTime;

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// In the waiting queue, or not there at all.
    #[default]
    Waiting,
    /// Running, and some of its prompt is not computed yet. All of its prompt has blocks.
    Prefill,
    /// Running, and advancing with the others in [`super::lockstep::Lockstep`].
    Decode,
}

/// Lengths are in tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequence {
    pub(super) arrival: SimTime,
    pub(super) prompt: u32,
    /// Outputs so far, while it does not decode; what decodes is known to the lockstep.
    pub(super) outputs: u32,
    /// Outputs after which it finishes.
    pub(super) limit: u32,
    /// Whether the limit is where the model stops by itself.
    stops: bool,
    pub(super) preempted: bool,
    pub(super) phase: Phase,
    /// In prefill: tokens computed in the steps that have ended.
    pub(super) computed: u32,
    /// In decode: the turn that gives it its last token, if it misses none.
    pub(super) finish_turn: u64,
}

impl Sequence {
    pub(super) fn new(request: &Request, max_model_len: u32) -> Self {
        let spec = &request.spec;
        // An empty prompt still has its begin-of-sequence token.
        let prompt = spec.prompt_tokens.max(1);
        // It finishes once it is longer than `max_model_len`, not once it is as long (0.2.7
        // `engine/llm_engine.py`, 0.4.2 `engine/output_processor/stop_checker.py`).
        let room = (u64::from(max_model_len) + 1).saturating_sub(u64::from(prompt)).max(1);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let most = spec.max_output_tokens.max(1).min(room);
        Self {
            arrival: request.arrival,
            prompt,
            limit: most.min(spec.stop_at.max(1)),
            stops: spec.stop_at <= most,
            ..Self::default()
        }
    }

    /// Its length while it does not decode. Preemption recomputes outputs too, so they are then part
    /// of what is to be computed.
    pub(super) fn len(&self) -> u32 {
        self.prompt + self.outputs
    }

    /// Tokens that have KV when it finishes: all but the one sampled last.
    pub(super) fn final_computed(&self) -> u32 {
        self.prompt + self.limit - 1
    }

    pub(super) fn ends_by(&self) -> FinishReason {
        if self.stops { FinishReason::Stop } else { FinishReason::Length }
    }
}
