//! Whose definitions a summary follows. Load testers agree on the names and differ in what they
//! count; a figure can only be compared with one that was computed the same way.

use super::recorder::{Measure, Tally};
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
    }
}

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
        match self {
            Self::Vllm => Counted {
                duration: tally
                    .last_reply
                    .zip(tally.first_arrival)
                    .map_or(SimDuration::ZERO, |(last, first)| last.since(first)),
                requests: tally.completed,
                input_tokens: tally.input_tokens,
                output_tokens: tally.output_tokens,
                answered_tokens: None,
            },
            Self::RedHat2023 => Counted {
                duration: measure.deadline.unwrap_or(end).since(measure.warm_up),
                requests: tally.by_deadline.answered,
                input_tokens: tally.by_deadline.prefilled,
                output_tokens: tally.by_deadline.generated,
                answered_tokens: Some(tally.by_deadline.answered_tokens),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::tests::{answered, decode_step};
    use super::super::{Measure, Recorder, Summary};
    use super::*;
    use crate::engine::observer::{Observer, Outcome};

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
