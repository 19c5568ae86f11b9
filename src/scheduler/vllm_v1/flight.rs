//! A step between `schedule` and `complete`.

use super::lockstep::Member;
use super::sequence::{Phase, Sequence};

/// What one scheduled step will bring about when it ends. Reused from step to step.
///
/// Sequences are named by admission number and slot. A number that its slot no longer carries means
/// that the request has ended meanwhile; its part of the outcome is then ignored.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub turn: u64,
    /// Lockstep sequences that get a token.
    pub decode: u32,
    /// Whether requests have come or gone since it was scheduled: the queues, or the batch that
    /// runs, are not those of a later step.
    pub outdated: bool,
    /// Sequences outside of lockstep, in running order.
    pub chunks: Vec<Chunk>,
    /// Lockstep sequences that get nothing in this step.
    pub missed: Vec<Member>,
    /// Lockstep sequences that get a token but were preempted meanwhile.
    pub late: Vec<Member>,
    /// Sequences whose last token this is, in running order.
    pub finishing: Vec<Member>,
}

/// Tokens of a sequence that is not in lockstep: of a prompt, or of a sequence being recomputed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub member: Member,
    /// Tokens computed before.
    pub past: u32,
    pub new: u32,
    /// Whether this step took the sequence from the waiting queue.
    pub admitted: bool,
    /// Whether nothing is left to compute, so that a token is sampled.
    pub samples: bool,
}

impl Flight {
    pub(super) fn clear(&mut self) {
        self.decode = 0;
        self.outdated = false;
        self.chunks.clear();
        self.missed.clear();
        self.late.clear();
        self.finishing.clear();
    }

    /// Whether all it does is one token for each sequence in lockstep, and nobody finishes.
    #[inline]
    pub(super) fn only_decodes(&self) -> bool {
        self.chunks.is_empty()
            && self.missed.is_empty()
            && self.late.is_empty()
            && self.finishing.is_empty()
    }

    /// Whether a running sequence gets a token of this step as one of the lockstep.
    pub(super) fn decodes(&self, member: Member, seq: &Sequence) -> bool {
        let in_time = match seq.phase {
            Phase::Decode => true,
            Phase::Leaving => self.turn <= seq.finish_turn,
            _ => false,
        };
        in_time && seq.joined < self.turn && !self.missed.contains(&member)
    }
}
