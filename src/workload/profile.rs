//! What a workload sends, in figures: rates, burstiness, lengths, and what prompts share.
//!
//! Memory does not grow with the number of requests, but for the distinct lengths and, up to a limit,
//! the blocks that prompts share.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::kv_cache::prefix::{BlockKey, ContentKeys};
use crate::request::RequestSpec;
use crate::time::SimTime;

/// Gathers requests in order of arrival.
#[derive(Debug)]
pub struct Profiler {
    requests: u64,
    first: SimTime,
    last: SimTime,
    gaps: Moments,
    windows: [Counts; 3],
    rate: RateOverTime,
    input: BTreeMap<u32, u64>,
    output: BTreeMap<u32, u64>,
    tenants: Vec<u64>,
    sharing: Sharing,
}

/// Widths of the windows in which requests are counted, in seconds.
const WINDOWS: [u64; 3] = [1, 10, 60];

/// What was sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    pub requests: u64,
    pub first_arrival_s: f64,
    pub last_arrival_s: f64,
    /// Requests per second between the first and the last; none for fewer than two.
    pub mean_rate: Option<f64>,
    /// Coefficient of variation of the gaps between requests: 1 for Poisson, above in bursts.
    pub gap_cv: Option<f64>,
    pub windows: Vec<WindowProfile>,
    pub input_tokens: LengthProfile,
    pub output_tokens: LengthProfile,
    /// Requests of each tenant, by number.
    pub tenants: Vec<u64>,
    /// Share of the prompt tokens that an endless prefix cache of 16-token blocks would hold when they
    /// come; none where nothing is shared.
    pub shared_prefix_fraction: Option<f64>,
    /// Requests on which that share is based, if not on all.
    pub shared_prefix_of: Option<u64>,
    /// (start in seconds, requests per second) of equal stretches.
    pub rate: Vec<(f64, f64)>,
}

/// Counts of requests in windows of one width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WindowProfile {
    pub width_s: u64,
    /// Whole windows between the start and the last arrival.
    pub windows: u64,
    /// Requests in the fullest, over the mean.
    pub peak_to_mean: f64,
    /// Variance of the counts over their mean: 1 for Poisson at any width.
    pub dispersion: f64,
}

/// A distribution of lengths in tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LengthProfile {
    pub mean: f64,
    pub min: u32,
    pub p50: u32,
    pub p90: u32,
    pub p99: u32,
    pub max: u32,
    /// (lower bound, upper bound included, requests) of bins that double.
    pub histogram: Vec<(u32, u32, u64)>,
}

/// Mean and variance as values come (Welford 1962).
#[derive(Debug, Default)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    fn variance(&self) -> f64 {
        self.squares / self.count.max(1) as f64
    }
}

/// Requests in consecutive windows of one width.
#[derive(Debug)]
struct Counts {
    width_s: u64,
    window: u64,
    here: u64,
    done: Moments,
    most: u64,
}

impl Counts {
    fn add(&mut self, at: SimTime) {
        let window = at.as_nanos() / (self.width_s * 1_000_000_000);
        if window != self.window {
            self.close();
            // Empty windows all at once: a hole in a trace may hold millions.
            let empty = (window - self.window - 1) as f64;
            if empty > 0.0 {
                let (n, mean) = (self.done.count as f64, self.done.mean);
                self.done.squares += mean * mean * n * empty / (n + empty);
                self.done.mean = mean * n / (n + empty);
                self.done.count += empty as u64;
            }
            self.window = window;
        }
        self.here += 1;
    }

    fn close(&mut self) {
        self.done.add(self.here as f64);
        self.most = self.most.max(self.here);
        self.here = 0;
    }

    /// The last window is not whole, and left out.
    fn profile(&self) -> Option<WindowProfile> {
        (self.done.count > 1 && self.done.mean > 0.0).then(|| WindowProfile {
            width_s: self.width_s,
            windows: self.done.count,
            peak_to_mean: self.most as f64 / self.done.mean,
            dispersion: self.done.variance() / self.done.mean,
        })
    }
}

/// Counts in at most [`Self::BINS`] stretches, which double in width when there would be more.
#[derive(Debug)]
struct RateOverTime {
    width: u64,
    counts: Vec<u64>,
}

impl RateOverTime {
    const BINS: usize = 120;

    fn add(&mut self, at: SimTime) {
        while at.as_nanos() / self.width >= Self::BINS as u64 {
            self.counts = self.counts.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.width *= 2;
        }
        let bin = (at.as_nanos() / self.width) as usize;
        if self.counts.len() <= bin {
            self.counts.resize(bin + 1, 0);
        }
        self.counts[bin] += 1;
    }
}

/// Which blocks of tokens have been seen.
#[derive(Debug, Default)]
struct Sharing {
    seen: HashSet<BlockKey>,
    prompt_tokens: u64,
    shared_tokens: u64,
    requests: u64,
    described: bool,
    full: bool,
}

impl Sharing {
    const BLOCK: u32 = 16;
    /// Blocks that are remembered; beyond, what follows is left out of the figure.
    const MOST: usize = 1 << 19;

    fn add(&mut self, spec: &RequestSpec) {
        if self.full {
            return;
        }
        self.requests += 1;
        self.prompt_tokens += u64::from(spec.prompt_tokens);
        let Some(content) = &spec.content else { return };
        self.described = true;
        let mut keys = ContentKeys::new(content.clone());
        let prompt = spec.prompt_tokens / Self::BLOCK;
        let all = spec.prompt_tokens.saturating_add(spec.max_output_tokens) / Self::BLOCK;
        let mut shared = true;
        for block in 0..all {
            let new = self.seen.insert(keys.key(block, Self::BLOCK));
            shared &= !new && block < prompt;
            if shared {
                self.shared_tokens += u64::from(Self::BLOCK);
            }
        }
        self.full = self.seen.len() > Self::MOST;
    }
}

impl Default for Profiler {
    fn default() -> Self {
        Self {
            requests: 0,
            first: SimTime::ZERO,
            last: SimTime::ZERO,
            gaps: Moments::default(),
            windows: WINDOWS.map(|width_s| Counts {
                width_s,
                window: 0,
                here: 0,
                done: Moments::default(),
                most: 0,
            }),
            rate: RateOverTime { width: 1_000_000, counts: Vec::new() },
            input: BTreeMap::new(),
            output: BTreeMap::new(),
            tenants: Vec::new(),
            sharing: Sharing::default(),
        }
    }
}

impl Profiler {
    /// The next request; times never decrease.
    pub fn add(&mut self, at: SimTime, spec: &RequestSpec) {
        if self.requests == 0 {
            self.first = at;
        } else {
            self.gaps.add(at.since(self.last).as_secs_f64());
        }
        self.last = at;
        self.requests += 1;
        self.windows.iter_mut().for_each(|counts| counts.add(at));
        self.rate.add(at);
        *self.input.entry(spec.prompt_tokens).or_default() += 1;
        *self.output.entry(spec.max_output_tokens).or_default() += 1;
        let tenant = usize::from(spec.tenant);
        if self.tenants.len() <= tenant {
            self.tenants.resize(tenant + 1, 0);
        }
        self.tenants[tenant] += 1;
        self.sharing.add(spec);
    }

    pub fn profile(&self) -> Profile {
        let gaps = self.gaps.count > 0 && self.gaps.mean > 0.0;
        let width = self.rate.width as f64 * 1e-9;
        let Sharing { prompt_tokens, shared_tokens, requests, described, full, .. } = self.sharing;
        Profile {
            requests: self.requests,
            first_arrival_s: self.first.as_secs_f64(),
            last_arrival_s: self.last.as_secs_f64(),
            mean_rate: gaps.then(|| 1.0 / self.gaps.mean),
            gap_cv: gaps.then(|| self.gaps.variance().sqrt() / self.gaps.mean),
            windows: self.windows.iter().filter_map(Counts::profile).collect(),
            input_tokens: lengths(&self.input),
            output_tokens: lengths(&self.output),
            tenants: self.tenants.clone(),
            shared_prefix_fraction: described
                .then(|| shared_tokens as f64 / prompt_tokens.max(1) as f64),
            shared_prefix_of: (described && full).then_some(requests),
            rate: (0u32..)
                .zip(&self.rate.counts)
                .map(|(bin, &count)| (f64::from(bin) * width, count as f64 / width))
                .collect(),
        }
    }
}

fn lengths(counts: &BTreeMap<u32, u64>) -> LengthProfile {
    let all: u64 = counts.values().sum();
    let (Some(&min), Some(&max)) = (counts.keys().next(), counts.keys().next_back()) else {
        return LengthProfile::default();
    };
    let sum: f64 = counts.iter().map(|(&tokens, &n)| f64::from(tokens) * n as f64).sum();
    // The smallest length that this share of the requests does not exceed.
    let percentile = |share: f64| {
        let mut left = (share * all as f64).ceil().max(1.0) as u64;
        for (&tokens, &n) in counts {
            if left <= n {
                return tokens;
            }
            left -= n;
        }
        max
    };
    let mut histogram: Vec<(u32, u32, u64)> = Vec::new();
    for (&tokens, &n) in counts {
        let low = 1 << tokens.max(1).ilog2();
        match histogram.last_mut() {
            Some((from, _, count)) if *from == low => *count += n,
            _ => {
                // Bins without requests between two with are shown.
                while let Some(&(_, to, _)) = histogram.last()
                    && to + 1 < low
                {
                    histogram.push((to + 1, 2 * to + 1, 0));
                }
                histogram.push((low, low - 1 + low, n));
            }
        }
    }
    LengthProfile {
        mean: sum / all as f64,
        min,
        p50: percentile(0.5),
        p90: percentile(0.9),
        p99: percentile(0.99),
        max,
        histogram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(seconds: &[f64]) -> Profile {
        let mut profiler = Profiler::default();
        for s in seconds {
            let at = SimTime::from_nanos((s * 1e9).round() as u64);
            profiler.add(at, &RequestSpec::fixed(100, 10));
        }
        profiler.profile()
    }

    #[test]
    fn even_gaps_have_no_variation() {
        let times: Vec<f64> = (0..=100).map(f64::from).collect();
        let p = profile(&times);
        assert_eq!((p.requests, p.mean_rate, p.gap_cv), (101, Some(1.0), Some(0.0)));
        assert_eq!(p.windows[1].peak_to_mean, 1.0);
        assert!(p.windows[1].dispersion.abs() < 1e-12);
        let sent: f64 = p.rate.iter().map(|(_, rate)| rate * (p.rate[1].0 - p.rate[0].0)).sum();
        assert!((sent - 101.0).abs() < 1e-6, "{sent}");
        assert!(p.rate.len() <= 120);
    }

    #[test]
    fn empty_windows_count() {
        // Windows of 1 s: 3, 0, 0, 0, 1, and one that is not whole.
        let p = profile(&[0.1, 0.2, 0.3, 4.5, 5.5]);
        let second = p.windows[0];
        assert_eq!((second.windows, second.peak_to_mean), (5, 3.0 / 0.8));
        let variance = (2.2f64.powi(2) + 3.0 * 0.8f64.powi(2) + 0.2f64.powi(2)) / 5.0;
        assert!((second.dispersion - variance / 0.8).abs() < 1e-12, "{}", second.dispersion);
    }

    #[test]
    fn lengths_have_percentiles_and_doubling_bins() {
        let counts = BTreeMap::from([(3, 5), (100, 4), (900, 1)]);
        let l = lengths(&counts);
        assert_eq!((l.min, l.p50, l.p90, l.p99, l.max), (3, 3, 100, 900, 900));
        assert_eq!(l.mean, 131.5);
        assert_eq!(l.histogram.first(), Some(&(2, 3, 5)));
        assert_eq!(l.histogram.last(), Some(&(512, 1023, 1)));
        assert_eq!(l.histogram.len(), 9, "{:?}", l.histogram);
    }

    #[test]
    fn nothing_has_no_figures() {
        let p = profile(&[]);
        assert_eq!((p.requests, p.mean_rate, p.shared_prefix_fraction), (0, None, None));
    }
}
