//! What the steps of a run add up to: time by term and kind, batch size, KV use.

use crate::cost::StepTime;
use crate::scheduler::{Occupancy, StepKind};
use crate::time::{SimDuration, SimTime};

/// Sums over all steps of all replicas.
#[derive(Clone, Debug, Default)]
pub struct StepTotals {
    /// Steps by kind, in the order of [`StepTotals::KINDS`].
    steps: [u64; Self::KINDS.len()],
    /// Adds up exactly to the busy time.
    time: [StepTime; Self::KINDS.len()],
    /// Tokens that steps have produced, whether or not their request was answered in the end.
    pub tokens: u64,
    pub preemptions: u64,
    /// Sequence-nanoseconds and nanoseconds of the steps after the warm-up.
    running: u128,
    measured: u128,
    pub max_batch: u32,
    /// Highest over the replicas.
    pub kv_total: u64,
    /// The highest use of a cache: what was used, and of how much.
    kv_peak: (u64, u64),
    /// End of the last step.
    pub end: SimTime,
}

impl StepTotals {
    pub const KINDS: [StepKind; 4] =
        [StepKind::Prefill, StepKind::Decode, StepKind::Mixed, StepKind::Empty];

    const fn place(kind: StepKind) -> usize {
        match kind {
            StepKind::Prefill => 0,
            StepKind::Decode => 1,
            StepKind::Mixed => 2,
            StepKind::Empty => 3,
        }
    }

    /// Adds `steps` steps from `start` to `end`, back to back, that took `time` in all.
    #[inline]
    pub fn add(
        &mut self,
        kind: StepKind,
        steps: u64,
        (start, end): (SimTime, SimTime),
        time: &StepTime,
    ) {
        let place = Self::place(kind);
        debug_assert_eq!(time.total(), end.since(start), "the terms add up to the steps");
        self.steps[place] += steps;
        self.time[place].accumulate(time, 1);
        self.end = self.end.max(end);
    }

    /// Adds the batch and the KV cache between two instants, of which the time before `from` (the end
    /// of the warm-up) does not count.
    #[inline]
    pub fn occupy(&mut self, start: SimTime, end: SimTime, from: SimTime, occupancy: &Occupancy) {
        let span = u128::from(end.since(start.max(from)).as_nanos());
        self.running += u128::from(occupancy.running) * span;
        self.measured += span;
        if end > from {
            self.max_batch = self.max_batch.max(occupancy.running);
        }
        if occupancy.kv_total > 0 {
            self.kv_total = self.kv_total.max(occupancy.kv_total);
            let (used, total) = self.kv_peak;
            // The larger fraction, without dividing: caches are far smaller than 2^32 blocks.
            if occupancy.kv_used * total.max(1) > used * occupancy.kv_total {
                self.kv_peak = (occupancy.kv_used, occupancy.kv_total);
            }
        }
    }

    /// The highest share of a replica's KV cache that was in use.
    pub fn kv_usage_peak(&self) -> f64 {
        let (used, total) = self.kv_peak;
        if total == 0 { 0.0 } else { used as f64 / total as f64 }
    }

    /// Running sequences averaged over the time in which steps ran; `None` before the first.
    pub fn mean_batch(&self) -> Option<f64> {
        (self.measured > 0).then(|| self.running as f64 / self.measured as f64)
    }

    pub fn busy(&self) -> SimDuration {
        self.time().total()
    }

    /// Of all kinds, by term.
    pub fn time(&self) -> StepTime {
        let mut sum = StepTime::ZERO;
        self.time.iter().for_each(|time| sum.accumulate(time, 1));
        sum
    }

    /// By kind and term.
    pub fn time_by_kind(&self) -> impl Iterator<Item = (StepKind, &StepTime)> {
        Self::KINDS.into_iter().zip(&self.time)
    }

    /// Steps and their time by kind.
    pub fn by_kind(&self) -> impl Iterator<Item = (StepKind, u64, SimDuration)> + '_ {
        (0..).zip(Self::KINDS).map(|(i, kind)| (kind, self.steps[i], self.time[i].total()))
    }

    pub fn steps(&self) -> u64 {
        self.steps.iter().sum()
    }
}
