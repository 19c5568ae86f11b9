//! Service-level objectives: which requests were good enough, and were enough of them?
//!
//! Goodput is vLLM's (`bench serve --goodput`): requests that meet every limit, per second; a
//! request of one token has a TPOT of 0. Attainment is guidellm's: the share of all answered requests
//! that meet every limit, where failed ones count against it.

use crate::engine::observer::RequestRecord;
use crate::time::SimDuration;

/// Upper limits on a request's latencies; a limit that is not set is always met.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    pub ttft: Option<SimDuration>,
    pub tpot: Option<SimDuration>,
    pub e2el: Option<SimDuration>,
    /// The share of requests, in percent, that must meet each limit for the objective to be met.
    pub percentile: f64,
}

impl Default for Slo {
    fn default() -> Self {
        Self { ttft: None, tpot: None, e2el: None, percentile: 99.0 }
    }
}

/// Requests judged against an [`Slo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SloTally {
    /// Requests that meet every limit.
    pub good: u64,
    /// Requests within each limit: TTFT, TPOT, E2E.
    pub within: [u64; 3],
    /// All requests judged, failed ones included.
    pub judged: u64,
}

impl SloTally {
    /// Counts a request that has ended.
    pub fn add(&mut self, slo: &Slo, record: &RequestRecord) {
        self.judged += 1;
        if !record.outcome.is_success() {
            return;
        }
        let within = |limit: Option<SimDuration>, got: Option<SimDuration>| match (limit, got) {
            (None, _) => true,
            (Some(limit), Some(got)) => got <= limit,
            (Some(_), None) => false,
        };
        let met = [
            within(slo.ttft, record.ttft()),
            within(slo.tpot, Some(tpot(record).unwrap_or_default())),
            within(slo.e2el, Some(record.e2e())),
        ];
        for (count, met) in self.within.iter_mut().zip(met) {
            *count += u64::from(met);
        }
        self.good += u64::from(met.iter().all(|&m| m));
    }

    /// The share of requests that meet every limit; `None` before any was judged.
    pub fn attainment(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.good as f64 / self.judged as f64)
    }

    /// Whether each limit by itself holds for the wanted share of requests, which is what "p99 TTFT
    /// below 2 s and p99 TPOT below 60 ms" asks.
    pub fn is_met(&self, slo: &Slo) -> bool {
        let wanted = slo.percentile / 100.0 * self.judged as f64;
        self.within.iter().all(|&n| n as f64 >= wanted)
    }
}

/// Time per output token after the first, `(E2E - TTFT) / (n - 1)`, to the nearest nanosecond; only
/// for requests of more than one token.
pub fn tpot(record: &RequestRecord) -> Option<SimDuration> {
    let gaps = u64::from(record.output_tokens).checked_sub(1).filter(|&gaps| gaps > 0)?;
    let span = record.ended.since(record.first_token?);
    Some(divide(span, gaps))
}

/// `span / n` to the nearest nanosecond, halves up.
pub(crate) fn divide(span: SimDuration, n: u64) -> SimDuration {
    SimDuration::from_nanos((span.as_nanos() + n / 2) / n)
}

#[cfg(test)]
mod tests {
    use super::super::recorder::tests::answered;
    use super::*;
    use crate::engine::observer::Outcome;
    use crate::request::FinishReason;

    const fn ms(n: u64) -> SimDuration {
        SimDuration::from_millis(n)
    }

    #[test]
    fn a_limit_is_met_by_equality() {
        let slo = Slo { ttft: Some(ms(100)), tpot: Some(ms(10)), ..Slo::default() };
        let mut tally = SloTally::default();
        // 100 ms to the first of 11 tokens, then 10 ms each.
        tally.add(&slo, &answered(0, 100, 200, 11));
        assert_eq!((tally.good, tally.is_met(&slo)), (1, true));
        tally.add(&slo, &answered(0, 101, 201, 11));
        assert_eq!((tally.good, tally.within, tally.is_met(&slo)), (1, [1, 2, 2], false));
    }

    #[test]
    fn a_request_of_one_token_has_no_time_per_token_to_miss() {
        let slo = Slo { tpot: Some(ms(1)), ..Slo::default() };
        let mut tally = SloTally::default();
        tally.add(&slo, &answered(0, 500, 500, 1));
        assert_eq!(tally.good, 1);
    }

    #[test]
    fn failed_requests_count_against_attainment() {
        let slo = Slo { ttft: Some(ms(100)), ..Slo::default() };
        let mut tally = SloTally::default();
        tally.add(&slo, &answered(0, 50, 100, 5));
        let mut failed = answered(0, 50, 100, 5);
        failed.outcome = Outcome::Ended(FinishReason::OutOfMemory);
        tally.add(&slo, &failed);
        assert_eq!(tally.attainment(), Some(0.5));
    }

    #[test]
    fn limits_may_be_missed_by_different_requests() {
        // 1 % of the requests miss one limit, another 1 % the other: each p99 holds, 98 % are good.
        let slo = Slo { ttft: Some(ms(100)), tpot: Some(ms(10)), ..Slo::default() };
        let mut tally = SloTally::default();
        for i in 0..100 {
            let record = match i {
                0 => answered(0, 200, 210, 2),
                1 => answered(0, 50, 90, 2),
                _ => answered(0, 50, 60, 2),
            };
            tally.add(&slo, &record);
        }
        assert_eq!((tally.attainment(), tally.is_met(&slo)), (Some(0.98), true));
    }
}
