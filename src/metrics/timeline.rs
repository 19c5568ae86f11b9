//! Batch size, queue and KV use over time, in a bounded number of bins.
//!
//! When the run outgrows the bins, neighbours are merged and the width doubles. All sums are
//! integers, so the result does not depend on when that happened.

use serde::{Deserialize, Serialize};

use crate::scheduler::Occupancy;
use crate::time::SimTime;

/// Most points that a timeline has.
pub const MAX_BINS: usize = 512;

/// Width of a bin at first, as a power of two of nanoseconds: 1.05 ms. A power of two turns the
/// division that finds a bin into a shift.
const FIRST_SHIFT: u32 = 20;

/// Sums over all replicas by interval of time.
#[derive(Clone, Debug)]
pub struct Timeline {
    shift: u32,
    bins: Vec<Bin>,
    end: SimTime,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    /// Replica-nanoseconds with a step in flight.
    busy: u64,
    /// Sequence-nanoseconds.
    running: u128,
    waiting: u128,
    kv_used: Option<f64>,
}

impl Bin {
    /// A step ran for `span` nanoseconds.
    #[inline]
    fn add(&mut self, span: u64, occupancy: &Occupancy) {
        self.busy += span;
        self.running += u128::from(occupancy.running) * u128::from(span);
        self.waiting += u128::from(occupancy.waiting) * u128::from(span);
    }
}

/// A point of the timeline, for plots.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub start_s: f64,
    pub end_s: f64,
    /// Replicas at work, on average.
    pub busy: f64,
    /// Running sequences of all replicas, averaged over the interval with idle time as 0.
    pub batch_size: f64,
    /// Requests in the waiting queues while steps ran.
    pub waiting: f64,
    /// Highest KV use, as a share of the cache, at the instants at which the batch changed; in
    /// between it only grows. None if there was none.
    pub kv_usage: Option<f64>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { shift: FIRST_SHIFT, bins: Vec::new(), end: SimTime::ZERO }
    }
}

impl Timeline {
    /// A step or a stretch of equal steps ran from `start` to `end`.
    pub fn add(&mut self, start: SimTime, end: SimTime, occupancy: &Occupancy) {
        if end <= start {
            return;
        }
        let last = (end.as_nanos() - 1) >> self.shift;
        // Most steps are short against a bin.
        if start.as_nanos() >> self.shift == last
            && let Some(bin) = self.bins.get_mut(last as usize)
        {
            bin.add(end.as_nanos() - start.as_nanos(), occupancy);
            self.end = self.end.max(end);
            return;
        }
        self.add_across(start, end, occupancy);
    }

    /// The same where bins have to be made, or where the time lies in more than one.
    #[inline(never)]
    fn add_across(&mut self, start: SimTime, end: SimTime, occupancy: &Occupancy) {
        self.reach(end);
        let (start, end) = (start.as_nanos(), end.as_nanos());
        let mut from = start;
        while from < end {
            let index = from >> self.shift;
            let to = end.min((index + 1) << self.shift);
            self.bins[index as usize].add(to - from, occupancy);
            from = to;
        }
    }

    /// KV use where the batch changed. Only such instants are sampled because they are seen one by
    /// one whether or not the engine jumps over the others.
    pub fn sample_kv(&mut self, at: SimTime, occupancy: &Occupancy) {
        if occupancy.kv_total == 0 {
            return;
        }
        // An end belongs to the interval that it closes.
        let mut index = at.as_nanos().saturating_sub(1) >> self.shift;
        if index >= self.bins.len() as u64 {
            self.reach(at);
            index = at.as_nanos().saturating_sub(1) >> self.shift;
        }
        self.end = self.end.max(at);
        let usage = occupancy.kv_used as f64 / occupancy.kv_total as f64;
        let bin = &mut self.bins[index as usize];
        bin.kv_used = Some(bin.kv_used.map_or(usage, |seen| seen.max(usage)));
    }

    /// Makes room up to `end`.
    #[inline(never)]
    fn reach(&mut self, end: SimTime) {
        self.end = self.end.max(end);
        let last = |shift: u32| (end.as_nanos().saturating_sub(1) >> shift) as usize;
        while last(self.shift) >= MAX_BINS {
            self.merge();
        }
        let needed = last(self.shift) + 1;
        if self.bins.len() < needed {
            self.bins.resize(needed, Bin::default());
        }
    }

    fn merge(&mut self) {
        self.shift += 1;
        for i in 0..self.bins.len().div_ceil(2) {
            let (a, b) = (self.bins[2 * i], self.bins.get(2 * i + 1).copied().unwrap_or_default());
            self.bins[i] = Bin {
                busy: a.busy + b.busy,
                running: a.running + b.running,
                waiting: a.waiting + b.waiting,
                kv_used: match (a.kv_used, b.kv_used) {
                    (Some(x), Some(y)) => Some(x.max(y)),
                    (x, y) => x.or(y),
                },
            };
        }
        self.bins.truncate(self.bins.len().div_ceil(2));
    }

    /// The points in order of time; the last ends where the last step did.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        (0u64..).zip(&self.bins).map(|(i, bin)| {
            let start = i << self.shift;
            let end = ((i + 1) << self.shift).min(self.end.as_nanos());
            let span = end.saturating_sub(start).max(1) as f64;
            Point {
                start_s: start as f64 / 1e9,
                end_s: end as f64 / 1e9,
                busy: bin.busy as f64 / span,
                batch_size: bin.running as f64 / span,
                waiting: bin.waiting as f64 / span,
                kv_usage: bin.kv_used,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupancy(running: u32, kv_used: u64) -> Occupancy {
        Occupancy { running, waiting: 2, kv_used, kv_total: 100 }
    }

    fn ms(n: u64) -> SimTime {
        SimTime::from_nanos(n * 1_000_000)
    }

    #[test]
    fn points_stay_bounded_and_keep_the_total() {
        let mut timeline = Timeline::default();
        for i in 0..100_000 {
            timeline.add(ms(10 * i), ms(10 * i + 10), &occupancy(5, 0));
        }
        let points: Vec<_> = timeline.points().collect();
        assert!(points.len() <= MAX_BINS && points.len() > MAX_BINS / 4, "{}", points.len());
        assert_eq!(points.last().unwrap().end_s, 1000.0);
        for point in points {
            assert!((point.batch_size - 5.0).abs() < 1e-12 && (point.busy - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn one_long_stretch_is_the_same_as_its_parts() {
        let (mut whole, mut parts) = (Timeline::default(), Timeline::default());
        whole.add(ms(3), ms(70_003), &occupancy(7, 0));
        for i in 0..70_000 {
            parts.add(ms(3 + i), ms(4 + i), &occupancy(7, 0));
        }
        assert!(whole.points().eq(parts.points()));
    }

    #[test]
    fn kv_use_is_the_peak_of_an_interval_and_empty_where_nothing_changed() {
        let mut timeline = Timeline::default();
        timeline.sample_kv(ms(1), &occupancy(1, 30));
        timeline.sample_kv(ms(1), &occupancy(1, 20));
        timeline.sample_kv(ms(10), &occupancy(1, 50));
        let usage: Vec<_> = timeline.points().map(|p| p.kv_usage).collect();
        assert_eq!((usage[0], usage[5], usage[9]), (Some(0.3), None, Some(0.5)));
    }
}
