//! What must hold at every step of every run, whatever the scheduler: `--check`.
//!
//! The checks use only what observers see, so they hold an engine to its own reports: time goes
//! forward, terms add up, memory is not overdrawn, and every token that a step made is in exactly
//! one request's count.

use super::observer::{CompletedStep, Observer, RequestRecord};
use crate::time::{SimDuration, SimTime};

/// Messages kept; one broken rule usually breaks at every step.
const MOST_MESSAGES: usize = 20;

/// Watches a run and notes what should not be.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    /// By replica: the end and the index of its last step.
    last: Vec<Option<(SimTime, u64)>>,
    tokens_of_steps: u64,
    gaps: u64,
    tokens_of_requests: u64,
    first_tokens_of_requests: u64,
    broken: Vec<String>,
    more: u64,
}

impl Invariants {
    /// What was broken, after the run; empty if nothing was.
    pub fn finish(mut self) -> Vec<String> {
        let (steps, requests) = (self.tokens_of_steps, self.tokens_of_requests);
        self.expect(steps == requests, || {
            format!("steps made {steps} tokens, and requests got {requests}")
        });
        let (gaps, later) = (self.gaps, requests - self.first_tokens_of_requests.min(requests));
        self.expect(gaps == later, || {
            format!("{gaps} gaps were reported for {later} tokens after a request's first")
        });
        if self.more > 0 {
            self.broken.push(format!("... and {} more", self.more));
        }
        self.broken
    }

    fn expect(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if holds {
        } else if self.broken.len() < MOST_MESSAGES {
            self.broken.push(message());
        } else {
            self.more += 1;
        }
    }
}

impl Observer for Invariants {
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        let place = usize::from(step.replica);
        let name = || format!("replica {} step {}", step.replica, step.index);
        if self.last.len() <= place {
            self.last.resize(place + 1, None);
        }
        if let Some((end, index)) = self.last[place] {
            self.expect(step.index == index + 1, || format!("{} follows step {index}", name()));
            self.expect(step.start >= end, || {
                format!("{} starts at {}, before the last one ended at {end}", name(), step.start)
            });
        }
        self.last[place] = Some((step.end, step.index));
        let (span, total) = (step.end.since(step.start), step.time.total());
        self.expect(step.end >= step.start && span == total, || {
            format!("{} takes {span}, and its terms add up to {total}", name())
        });
        for (when, seen) in [("during", step.occupancy), ("after", step.occupancy_after)] {
            self.expect(seen.kv_used <= seen.kv_total, || {
                format!("{} {when}: {} of {} KV used", name(), seen.kv_used, seen.kv_total)
            });
        }
        let tokens = step.outcome.tokens();
        let batch =
            u64::from(step.step.shape.prefill_seqs) + u64::from(step.step.shape.decode_seqs);
        self.expect(tokens <= batch, || {
            format!("{} makes {tokens} tokens for {batch} sequences", name())
        });
        self.tokens_of_steps += tokens;
    }

    fn on_token_gap(&mut self, _: SimDuration, sequences: u32) {
        self.gaps += u64::from(sequences);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let name = || format!("request {}", record.uid);
        let instants = [Some(record.arrival), record.first_scheduled, record.first_token];
        let mut order: Vec<_> = instants.into_iter().flatten().collect();
        order.push(record.ended);
        self.expect(order.is_sorted(), || {
            format!("{}: arrival, first step, first token, end are {order:?}", name())
        });
        self.expect((record.output_tokens > 0) == record.first_token.is_some(), || {
            let first = record.first_token;
            format!("{}: {} tokens, the first at {first:?}", name(), record.output_tokens)
        });
        self.expect(record.cached_tokens <= record.prompt_tokens, || {
            format!("{}: {} of {} cached", name(), record.cached_tokens, record.prompt_tokens)
        });
        self.tokens_of_requests += u64::from(record.output_tokens);
        self.first_tokens_of_requests += u64::from(record.first_token.is_some());
    }

    fn needs_every_step(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::observer::Outcome;
    use super::*;
    use crate::request::FinishReason;

    fn record() -> RequestRecord {
        RequestRecord {
            uid: 3,
            client: 0,
            replica: 0,
            priority: 0,
            arrival: SimTime::from_nanos(5),
            first_scheduled: Some(SimTime::from_nanos(7)),
            first_token: Some(SimTime::from_nanos(9)),
            ended: SimTime::from_nanos(11),
            prompt_tokens: 10,
            output_tokens: 2,
            cached_tokens: 0,
            preemptions: 0,
            outcome: Outcome::Ended(FinishReason::Stop),
        }
    }

    #[test]
    fn instants_out_of_order_are_seen() {
        let mut checks = Invariants::default();
        checks.on_request(&RequestRecord { ended: SimTime::from_nanos(8), ..record() });
        assert!(checks.finish()[0].starts_with("request 3: arrival"));
    }

    #[test]
    fn tokens_without_a_step_are_seen() {
        let mut checks = Invariants::default();
        checks.on_request(&record());
        let broken = checks.finish();
        assert_eq!(broken[0], "steps made 0 tokens, and requests got 2");
        assert_eq!(broken[1], "0 gaps were reported for 1 tokens after a request's first");
    }

    #[test]
    fn a_run_in_which_nothing_happens_breaks_nothing() {
        assert_eq!(Invariants::default().finish(), [""; 0]);
    }
}
