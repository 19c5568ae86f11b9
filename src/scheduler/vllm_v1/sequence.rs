//! What the scheduler keeps of a live request.

use crate::kv_cache::BlockTable;
use crate::request::Request;
use crate::time::SimTime;

use super::queue::Urgency;

/// Where a request stands. vLLM itself knows only waiting, preempted and running; what it calls
/// running is split here by how its progress is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The slot holds no live request.
    #[default]
    Absent,
    /// In the waiting queue, new or preempted.
    Waiting,
    /// Running with more tokens to compute before it samples.
    Prefill,
    /// Running in lockstep: one token in every step, counted by [`super::lockstep::Lockstep`].
    Decode,
    /// Running with its last token in flight: nothing more to schedule.
    Leaving,
}

/// A live request. Lengths are in tokens.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub phase: Phase,
    pub prompt: u32,
    /// Output tokens at which it ends: the end of its own accord, or the limit.
    pub limit: u32,
    /// Output tokens that the client allows, cut to what `max_model_len` leaves.
    pub max_output: u32,
    /// It ends of its own accord. The end token is looked for before the limit
    /// (v1/core/sched/utils.py, `check_stop`), so this holds where both fall on one token.
    pub stops: bool,
    /// Tokens whose KV is computed or handed to a step; in phase `Decode` the lockstep knows.
    pub computed: u32,
    /// Output tokens sampled; of those in phase `Decode` or `Leaving` only the ones before `joined`.
    pub outputs: u32,
    /// Number of its newest admission; the running list is in this order.
    pub order: u64,
    /// The turn that computed its last prompt token; it decodes from the next one on.
    pub joined: u64,
    /// The turn that computes its last output token, if it gets one in each turn until then.
    pub finish_turn: u64,
    /// The newest turn in which the exact loop gave it tokens, and how many.
    pub scheduled_turn: u64,
    pub chunk: u32,
    pub preempted: bool,
    pub priority: i32,
    pub arrival: SimTime,
    pub uid: u64,
    pub table: BlockTable,
}

/// An admission number that no request has.
pub(super) const NEVER: u64 = u64::MAX;

impl Sequence {
    /// Puts a new request in the slot, which keeps its allocations.
    pub(super) fn start(&mut self, request: &Request, prompt: u32, max_output: u32) {
        assert_eq!(self.phase, Phase::Absent, "a slot holds one request at a time");
        let table = std::mem::take(&mut self.table);
        let spec = &request.spec;
        *self = Self {
            phase: Phase::Waiting,
            prompt,
            limit: max_output.min(spec.stop_at).max(1),
            max_output,
            stops: spec.stop_at <= max_output,
            order: NEVER,
            scheduled_turn: NEVER,
            priority: spec.priority,
            arrival: request.arrival,
            uid: request.uid,
            table,
            ..Self::default()
        };
        self.table.reset(request.uid, spec.content.as_ref());
    }

    pub(super) fn urgency(&self) -> Urgency {
        (self.priority, self.arrival, self.uid)
    }

    /// Tokens known so far, outside of phase `Decode`.
    pub(super) fn known(&self) -> u32 {
        self.prompt + self.outputs
    }

    /// Tokens computed once all of its output is sampled: the last one never gets KV.
    pub(super) fn final_computed(&self) -> u32 {
        self.prompt + self.limit - 1
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Prefill | Phase::Decode | Phase::Leaving)
    }
}
