//! Whose definitions a summary follows. Load testers agree on the names and differ in what they
//! count; a figure can only be compared with one that was computed the same way.

use super::quantile::Quantile;
use super::recorder::{Measure, Tally};
use super::slo::{divide, tpot};
use crate::engine::observer::RequestRecord;
use crate::named::named_enum;
use crate::time::{SimDuration, SimTime};

named_enum! {
    /// A load tester's definitions of duration and throughput.
    #[derive(Default)]
    pub enum Convention as "convention" {
        /// vLLM `bench serve`: from the first request sent to the last reply; tokens of completed
        /// requests.
        #[default]
        Vllm = "vllm",
        /// Red Hat's publication of 2023: tokens that the server generated up to the deadline, over
        /// the configured duration. The publication says "tokens generated during the test / 240 s"
        /// and not whether requests cut off at the end are in the count, so the other reading
        /// stands beside it.
        RedHat2023 = "redhat-2023",
        /// guidellm 0.8: rates over the window from the first request sent to the last end; TPOT
        /// includes the first token and counts once per token, ITL is a request's mean gap and
        /// counts once per gap; percentiles are values that occurred.
        Guidellm = "guidellm",
        /// llm-load-test since de80e02: tokens before the deadline over the configured duration;
        /// TTFT, TPOT and ITL of requests answered by then, TPOT with the first token.
        LlmLoadTest = "llm-load-test",
        /// aiperf 0.13: from the first request to the last response; ITL is a request's mean gap,
        /// and there is no TPOT.
        Aiperf = "aiperf",
    }
}

/// A latency of a request, and how often it counts.
pub(super) type Weighted = (SimDuration, u64);

/// What throughput is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub duration: SimDuration,
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Output tokens by the other reading, where a convention has two.
    pub answered_tokens: Option<u64>,
}

impl Convention {
    /// `end` is when the run's last event took place.
    pub(super) fn count(self, measure: &Measure, tally: &Tally, end: SimTime) -> Counted {
        let between = |first: Option<SimTime>, last: Option<SimTime>| {
            last.zip(first).map_or(SimDuration::ZERO, |(last, first)| last.since(first))
        };
        let completed = |duration| Counted {
            duration,
            requests: tally.completed,
            input_tokens: tally.input_tokens,
            output_tokens: tally.output_tokens,
            answered_tokens: None,
        };
        match self {
            Self::Vllm => completed(between(tally.first_arrival, tally.last_reply)),
            Self::Guidellm => completed(between(tally.first_sent, tally.last_end)),
            Self::Aiperf => completed(between(tally.first_answered, tally.last_answer)),
            Self::RedHat2023 => Counted {
                duration: measure.deadline.unwrap_or(end).since(measure.warm_up),
                requests: tally.by_deadline.answered,
                input_tokens: tally.by_deadline.prefilled,
                output_tokens: tally.by_deadline.generated,
                answered_tokens: Some(tally.by_deadline.answered_tokens),
            },
            Self::LlmLoadTest => Counted {
                duration: measure.deadline.map_or_else(
                    || between(tally.first_sent, tally.last_end),
                    |deadline| deadline.since(measure.warm_up),
                ),
                requests: tally.by_deadline.answered,
                input_tokens: tally.by_deadline.prefilled,
                output_tokens: tally.by_deadline.generated,
                answered_tokens: None,
            },
        }
    }

    pub(super) const fn quantile(self) -> Quantile {
        match self {
            Self::Guidellm => Quantile::Step,
            Self::Vllm | Self::RedHat2023 | Self::LlmLoadTest | Self::Aiperf => Quantile::Linear,
        }
    }

    /// Whether TTFT, TPOT and ITL are only of requests that were answered by the deadline.
    pub(super) const fn leaves_out_late_answers(self) -> bool {
        matches!(self, Self::LlmLoadTest)
    }

    /// Time per output token. aiperf has none: what is recorded is for objectives that name it.
    pub(super) fn tpot(self, record: &RequestRecord) -> Option<Weighted> {
        let tokens = u64::from(record.output_tokens);
        let with_first = || (tokens > 0).then(|| divide(record.e2e(), tokens));
        match self {
            Self::Vllm | Self::RedHat2023 | Self::Aiperf => tpot(record).map(|span| (span, 1)),
            Self::LlmLoadTest => with_first().map(|span| (span, 1)),
            Self::Guidellm => with_first().map(|span| (span, tokens)),
        }
    }

    pub(super) const fn has_tpot(self) -> bool {
        !matches!(self, Self::Aiperf)
    }

    /// The mean gap between a request's tokens; `None` where the gaps of all requests are pooled.
    pub(super) fn itl(self, record: &RequestRecord) -> Option<Weighted> {
        let gaps = u64::from(record.output_tokens).saturating_sub(1);
        let weight = if self == Self::Guidellm { gaps } else { 1 };
        (!self.pools_gaps()).then(|| tpot(record)).flatten().map(|span| (span, weight))
    }

    pub(super) const fn pools_gaps(self) -> bool {
        matches!(self, Self::Vllm | Self::RedHat2023)
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::tests::{answered, decode_step};
    use super::super::{Measure, Recorder, Summary};
    use super::*;
    use crate::engine::observer::{Observer, Outcome};
    use crate::request::FinishReason;

    /// Two requests: one answered within 10 s, one cut off by the deadline after 3 of its 9 tokens.
    fn run(convention: Convention) -> Summary {
        let mut recorder = Recorder::new(Measure {
            convention,
            deadline: Some(SimTime::from_nanos(10_000_000_000)),
            ..Measure::default()
        });
        decode_step(&mut recorder, 2000, 4000, 2);
        decode_step(&mut recorder, 4000, 8000, 2);
        decode_step(&mut recorder, 8000, 10_000, 1);
        decode_step(&mut recorder, 10_000, 12_000, 1);
        recorder.on_request(&answered(2000, 4000, 8000, 2));
        let mut cut = answered(2000, 4000, 12_000, 4);
        cut.outcome = Outcome::Unfinished;
        recorder.on_request(&cut);
        recorder.summary()
    }

    #[test]
    fn vllm_counts_completed_requests_between_first_send_and_last_reply() {
        let summary = run(Convention::Vllm);
        assert_eq!(summary.duration_s, 6.0);
        assert_eq!(summary.output_throughput, 2.0 / 6.0);
        assert_eq!(summary.request_throughput, 1.0 / 6.0);
        assert_eq!(summary.total_token_throughput, 102.0 / 6.0);
        assert_eq!(summary.output_throughput_answered, None);
    }

    #[test]
    fn guidellm_weighs_by_token_and_takes_values_that_occurred() {
        let mut recorder =
            Recorder::new(Measure { convention: Convention::Guidellm, ..Measure::default() });
        // 2 tokens in 4 s, the first after 2; 9 tokens in 9 s, the first after 1.
        recorder.on_request(&answered(0, 2000, 4000, 2));
        recorder.on_request(&answered(1000, 2000, 10_000, 9));
        let summary = recorder.summary();
        assert_eq!((summary.duration_s, summary.output_throughput), (10.0, 1.1));
        assert_eq!(summary.tpot_ms.count.get(), 11.0);
        assert_eq!(summary.tpot_ms.mean, Some((2.0 * 2000.0 + 9.0 * 1000.0) / 11.0));
        assert_eq!((summary.tpot_ms.median, summary.tpot_ms.p90), (Some(1000.0), Some(2000.0)));
        assert_eq!(summary.itl_ms.mean, Some((2000.0 + 8.0 * 1000.0) / 9.0));
        // Of two values the median is the lower and not their mean.
        assert_eq!(summary.ttft_ms.median, Some(1000.0));
    }

    #[test]
    fn llm_load_test_leaves_late_answers_out_of_the_latencies_of_tokens() {
        let mut recorder = Recorder::new(Measure {
            convention: Convention::LlmLoadTest,
            deadline: Some(SimTime::from_nanos(10_000_000_000)),
            ..Measure::default()
        });
        recorder.on_request(&answered(2000, 4000, 8000, 3));
        recorder.on_request(&answered(2000, 3000, 12_000, 10));
        let summary = recorder.summary();
        assert_eq!((summary.duration_s, summary.request_throughput), (10.0, 0.1));
        assert_eq!((summary.ttft_ms.count.get(), summary.ttft_ms.mean), (1.0, Some(2000.0)));
        assert_eq!((summary.tpot_ms.mean, summary.itl_ms.mean), (Some(2000.0), Some(2000.0)));
        assert_eq!((summary.e2el_ms.count.get(), summary.e2el_ms.mean), (2.0, Some(8000.0)));
    }

    #[test]
    fn aiperf_spans_the_answered_requests_and_has_no_tpot() {
        let mut recorder =
            Recorder::new(Measure { convention: Convention::Aiperf, ..Measure::default() });
        recorder.on_request(&answered(1000, 2000, 5000, 4));
        let mut refused = answered(0, 100, 200, 0);
        refused.outcome = Outcome::Ended(FinishReason::Refused);
        recorder.on_request(&refused);
        let summary = recorder.summary();
        assert_eq!((summary.duration_s, summary.output_throughput), (4.0, 1.0));
        assert_eq!((summary.tpot_ms.mean, summary.itl_ms.mean), (None, Some(1000.0)));
    }

    #[test]
    fn redhat_counts_tokens_generated_by_the_deadline_over_the_configured_duration() {
        let summary = run(Convention::RedHat2023);
        assert_eq!(summary.duration_s, 10.0);
        assert_eq!(summary.output_throughput, 0.5);
        assert_eq!(summary.output_throughput_answered, Some(0.2));
        assert_eq!(summary.request_throughput, 0.1);
        assert_eq!(summary.total_token_throughput, (200.0 + 5.0) / 10.0);
        assert_eq!(summary.normalized_latency_ms.mean, Some(3000.0));
    }
}
