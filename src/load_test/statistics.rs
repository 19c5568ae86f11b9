//! Figures over lists: with percentiles as numpy takes them, and as guidellm does.

use crate::metrics::quantile::percentile_of_sorted;

/// A sorted list of values.
#[derive(Clone, Debug, Default)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// `None` without values, as all that follow.
    pub fn mean(&self) -> Option<f64> {
        (!self.is_empty()).then(|| self.sum() / self.count() as f64)
    }

    /// Of the population (numpy's default, `ddof=0`).
    pub fn std(&self) -> Option<f64> {
        let mean = self.mean()?;
        let squares: f64 = self.0.iter().map(|value| (value - mean) * (value - mean)).sum();
        Some((squares / self.count() as f64).sqrt())
    }

    pub fn min(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    pub fn percentile(&self, percent: f64) -> Option<f64> {
        percentile_of_sorted(&self.0, percent)
    }
}

/// Values with the share of the whole that each has, ascending: guidellm's "pdf"
/// (guidellm 0.8.1 `schemas/base/statistics.py`, `DistributionSummary.from_values`).
#[derive(Clone, Debug, Default)]
pub struct Weighted {
    values: Vec<f64>,
    shares: Vec<f64>,
}

/// Below it, a weight is no weight and an interval no time (guidellm's `epsilon`).
const EPSILON: f64 = 1e-6;

/// Events nearer than this are one (guidellm's `threshold`), in seconds.
const MERGED: f64 = 1e-4;

impl Weighted {
    /// Values with their weights; equal values are one, and those without weight none.
    pub fn of(pairs: &[(f64, f64)]) -> Self {
        let mut sorted = pairs.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut values, mut weights) = (Vec::<f64>::new(), Vec::<f64>::new());
        for (value, weight) in sorted {
            match (values.last(), weights.last_mut()) {
                (Some(&last), Some(sum)) if last == value => *sum += weight,
                _ => {
                    values.push(value);
                    weights.push(weight);
                }
            }
        }
        let kept: Vec<_> = values.into_iter().zip(weights).filter(|pair| pair.1 > 0.0).collect();
        let total: f64 = kept.iter().map(|pair| pair.1).sum();
        let even = total <= EPSILON;
        let total = if even { kept.len() as f64 } else { total };
        let shares = kept.iter().map(|pair| if even { 1.0 } else { pair.1 } / total).collect();
        Self { values: kept.iter().map(|pair| pair.0).collect(), shares }
    }

    /// Rates at which weighted events come, each for half the time to its neighbours, and how many
    /// there were; within a window, or from the first event to the last.
    pub fn rates(events: &[(f64, f64)], window: Option<(f64, f64)>) -> (Self, f64) {
        let mut events = events.to_vec();
        if let Some((start, end)) = window {
            events.retain(|event| (start..=end).contains(&event.0));
            events.extend([(start, 0.0), (end, 0.0)]);
        }
        let events = merged(events);
        if events.len() <= 1 {
            return (Self::default(), events.len() as f64);
        }
        let middle = |i: usize| (events[i].0 + events[i + 1].0) / 2.0;
        let last = events.len() - 1;
        let rates: Vec<_> = (0..events.len())
            .map(|i| {
                let from = if i == 0 { events[0].0 } else { middle(i - 1) };
                let time =
                    if i == last { (events[last].0 - from).max(EPSILON) } else { middle(i) - from };
                (events[i].1 / time, time)
            })
            .collect();
        (Self::of(&rates), events.iter().map(|event| event.1).sum())
    }

    /// How much is there at once, by time, of intervals with a weight; in a window, or for as long as
    /// any lasts.
    pub fn concurrency(intervals: &[(f64, f64, f64)], window: Option<(f64, f64)>) -> Self {
        let changes =
            intervals.iter().flat_map(|&(from, to, weight)| [(from, weight), (to, -weight)]);
        let mut changes = merged(changes.collect());
        if let Some((start, end)) = window.filter(|_| !changes.is_empty()) {
            let before = changes.partition_point(|change| change.0 < start);
            let held: f64 = changes.drain(..before).map(|change| change.1).sum();
            changes.insert(0, (start, held));
            changes.truncate(changes.partition_point(|change| change.0 <= end));
            changes.push((end, 0.0));
        }
        let mut level = 0.0;
        let levels: Vec<_> = changes
            .windows(2)
            .map(|pair| {
                level += pair[0].1;
                (f64::max(level, 0.0), (pair[1].0 - pair[0].0).max(0.0))
            })
            .collect();
        if levels.iter().any(|level| level.1 > 0.0) { Self::of(&levels) } else { Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn mean(&self) -> f64 {
        self.pairs().map(|(value, share)| value * share).sum()
    }

    pub fn variance(&self) -> f64 {
        let mean = self.mean();
        self.pairs().map(|(value, share)| (value - mean) * (value - mean) * share).sum()
    }

    /// The value with the greatest share; of several the least.
    pub fn mode(&self) -> f64 {
        let most = self.shares.iter().copied().fold(0.0, f64::max);
        let at = self.shares.iter().position(|&share| share == most);
        at.map_or(0.0, |at| self.values[at])
    }

    pub fn min(&self) -> f64 {
        self.values.first().copied().unwrap_or(0.0)
    }

    pub fn max(&self) -> f64 {
        self.values.last().copied().unwrap_or(0.0)
    }

    /// The first value up to which there is the wanted share. The shares are added up in order, in
    /// floating point, as the tool does: of ten equal shares nine come to less than 0.9.
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sum = 0.0;
        let at = self.shares.iter().position(|share| {
            sum += share;
            sum >= percent / 100.0
        });
        at.map_or_else(|| self.max(), |at| self.values[at])
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.values.iter().copied().zip(self.shares.iter().copied())
    }
}

/// Events in order of time, those of a moment as one: a group begins with an event that has another
/// within [`MERGED`] and takes in all within that of its beginning; then again, until none is near
/// another.
fn merged(mut events: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    events.sort_by(|a, b| a.0.total_cmp(&b.0));
    let add = |events: &mut Vec<(f64, f64)>, event: (f64, f64), same: bool| match events.last_mut()
    {
        Some(last) if same => last.1 += event.1,
        _ => events.push(event),
    };
    let mut apart: Vec<(f64, f64)> = Vec::with_capacity(events.len());
    for event in events {
        let same = apart.last().is_some_and(|last| last.0 == event.0);
        add(&mut apart, event, same);
    }
    loop {
        let near = |i: usize| i + 1 < apart.len() && apart[i + 1].0 - apart[i].0 <= MERGED;
        // A group is sought at the first of a chain of near events; one that begins in the reach of
        // the beginning before is left for the next pass.
        let starts: Vec<_> =
            (0..apart.len()).filter(|&i| near(i) && (i == 0 || !near(i - 1))).collect();
        if starts.is_empty() {
            return apart;
        }
        let mut next = Vec::with_capacity(apart.len());
        let (mut reach, mut before) = (None, None);
        for (i, &event) in apart.iter().enumerate() {
            if starts.binary_search(&i).is_ok() {
                let end = apart.partition_point(|other| other.0 <= event.0 + MERGED) - 1;
                if before.is_none_or(|before| i > before) {
                    reach = Some((i, end));
                }
                before = Some(end);
            }
            let same = reach.is_some_and(|(start, end)| start < i && i <= end);
            add(&mut next, event, same);
        }
        apart = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_for_half_the_time_to_its_neighbours() {
        let (rates, count) = Weighted::rates(&[(1.0, 1.0), (3.0, 2.0)], Some((0.0, 4.0)));
        // 0 for 0.5 s, 1 / 1.5 for 1.5 s, 2 / 1.5 for 1.5 s, 0 for 0.5 s.
        assert_eq!((rates.mean(), count), (0.75, 3.0));
        assert_eq!((rates.min(), rates.max()), (0.0, 2.0 / 1.5));
        assert!(Weighted::rates(&[(1.0, 1.0)], None).0.is_empty());
    }

    #[test]
    fn concurrency_is_weighted_by_time() {
        let levels = Weighted::concurrency(&[(0.0, 2.0, 1.0), (1.0, 4.0, 1.0)], Some((0.0, 4.0)));
        assert_eq!((levels.mean(), levels.mode(), levels.max()), (1.25, 1.0, 2.0));
    }

    #[test]
    fn what_happens_within_a_tenth_of_a_millisecond_happens_at_once() {
        let events = vec![(0.0, 1.0), (0.000_05, 1.0), (0.000_12, 1.0), (1.0, 1.0)];
        assert_eq!(merged(events), [(0.0, 2.0), (0.000_12, 1.0), (1.0, 1.0)]);
    }

    #[test]
    fn weights_make_the_median_of_a_list() {
        let weighted = Weighted::of(&[(5.0, 1.0), (1.0, 1.0), (3.0, 6.0), (9.0, 0.0)]);
        assert_eq!((weighted.percentile(50.0), weighted.max()), (3.0, 5.0));
        assert_eq!(weighted.mean(), 3.0);
    }

    #[test]
    fn nothing_has_no_figures() {
        let none = Sorted::default();
        assert_eq!((none.mean(), none.std(), none.percentile(50.0)), (None, None, None));
        assert_eq!(Weighted::of(&[]).percentile(50.0), 0.0);
    }
}
