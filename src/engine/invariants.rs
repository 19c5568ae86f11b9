//! What must hold at every step of every run, whatever the scheduler: `--check`.
//!
//! The checks in this file use only what observers see, so they hold an engine to its own reports:
//! time goes forward, terms add up, and every token that a step made is in exactly one request's
//! count. What schedulers hold inside is counted anew in [`super::audited`].

use std::fmt;

use super::observer::{CompletedStep, Observer, RequestRecord};
use crate::scheduler::audit::Rule;
use crate::time::{SimDuration, SimTime};

/// Violations kept; one broken rule usually breaks at every step.
const MOST_VIOLATIONS: usize = 20;

/// A rule that did not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub replica: u16,
    /// Steps scheduled by that replica before the one in question; `None`: it is about the whole run.
    pub step: Option<u64>,
    /// The `uid` of the request in question.
    pub request: Option<u64>,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: replica {}", self.rule.name(), self.replica)?;
        if let Some(step) = self.step {
            write!(f, ", step {step}")?;
        }
        if let Some(request) = self.request {
            write!(f, ", request {request}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The first violations of a run, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    pub first: Vec<Violation>,
    pub more: u64,
}

impl Violations {
    pub fn add(&mut self, violation: Violation) {
        if self.first.len() < MOST_VIOLATIONS {
            self.first.push(violation);
        } else {
            self.more += 1;
        }
    }

    /// One line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.first.iter().map(Violation::to_string).collect();
        if self.more > 0 {
            lines.push(format!("... and {} more", self.more));
        }
        lines
    }
}

/// Watches a run and notes what should not be.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    /// By replica: the end and the index of its last step.
    last: Vec<Option<(SimTime, u64)>>,
    tokens_of_steps: u64,
    gaps: u64,
    tokens_of_requests: u64,
    first_tokens_of_requests: u64,
    found: Violations,
}

impl Invariants {
    /// What was broken, after the run; empty if nothing was.
    pub fn finish(mut self) -> Vec<String> {
        let (steps, requests) = (self.tokens_of_steps, self.tokens_of_requests);
        let run = Place::default();
        self.expect(steps == requests, Rule::TokensConserved, run, || {
            format!("steps made {steps} tokens, and requests got {requests}")
        });
        let (gaps, later) = (self.gaps, requests - self.first_tokens_of_requests.min(requests));
        self.expect(gaps == later, Rule::TokensConserved, run, || {
            format!("{gaps} gaps were reported for {later} tokens after a request's first")
        });
        self.found.lines()
    }

    fn expect(&mut self, holds: bool, rule: Rule, place: Place, what: impl FnOnce() -> String) {
        if !holds {
            let Place { replica, step, request } = place;
            self.found.add(Violation { rule, replica, step, request, what: what() });
        }
    }
}

/// What a check is about.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    replica: u16,
    step: Option<u64>,
    request: Option<u64>,
}

impl Observer for Invariants {
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        let at = usize::from(step.replica);
        let place = Place { replica: step.replica, step: Some(step.index), request: None };
        if self.last.len() <= at {
            self.last.resize(at + 1, None);
        }
        if let Some((end, index)) = self.last[at] {
            self.expect(step.index == index + 1, Rule::MonotoneTime, place, || {
                format!("it follows step {index}")
            });
            self.expect(step.start >= end, Rule::MonotoneTime, place, || {
                format!("it starts at {}, before the last one ended at {end}", step.start)
            });
        }
        self.last[at] = Some((step.end, step.index));
        let (span, total) = (step.end.since(step.start), step.time.total());
        self.expect(step.end >= step.start && span == total, Rule::TermsAddUp, place, || {
            format!("it takes {span}, and its terms add up to {total}")
        });
        let tokens = step.outcome.tokens();
        let batch =
            u64::from(step.step.shape.prefill_seqs) + u64::from(step.step.shape.decode_seqs);
        self.expect(tokens <= batch, Rule::TokensConserved, place, || {
            format!("it makes {tokens} tokens for {batch} sequences")
        });
        self.tokens_of_steps += tokens;
    }

    fn on_token_gap(&mut self, _: SimDuration, sequences: u32) {
        self.gaps += u64::from(sequences);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let place = Place { replica: record.replica, step: None, request: Some(record.uid) };
        let instants = [Some(record.arrival), record.first_scheduled, record.first_token];
        let mut order: Vec<_> = instants.into_iter().flatten().collect();
        order.push(record.ended);
        self.expect(order.is_sorted(), Rule::MonotoneTime, place, || {
            format!("arrival, first step, first token, end are {order:?}")
        });
        let first = record.first_token;
        self.expect(
            (record.output_tokens > 0) == first.is_some(),
            Rule::TokensConserved,
            place,
            || format!("{} tokens, the first at {first:?}", record.output_tokens),
        );
        self.expect(
            record.cached_tokens <= record.prompt_tokens,
            Rule::BlocksConserved,
            place,
            || format!("{} of {} cached", record.cached_tokens, record.prompt_tokens),
        );
        self.tokens_of_requests += u64::from(record.output_tokens);
        self.first_tokens_of_requests += u64::from(record.first_token.is_some());
    }

    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        // Its tokens were made, and nobody got them.
        self.tokens_of_requests += u64::from(record.output_tokens);
        self.first_tokens_of_requests += u64::from(record.first_token.is_some());
    }

    fn needs_every_step(&self) -> bool {
        true
    }

    fn audits_schedulers(&self) -> bool {
        true
    }

    fn on_violations(&mut self, violations: &Violations) {
        for violation in &violations.first {
            self.found.add(violation.clone());
        }
        self.found.more += violations.more;
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
            tenant: 0,
            arrival: SimTime::from_nanos(5),
            first_scheduled: Some(SimTime::from_nanos(7)),
            first_token: Some(SimTime::from_nanos(9)),
            ended: SimTime::from_nanos(11),
            prompt_tokens: 10,
            output_tokens: 2,
            cached_tokens: 0,
            preemptions: 0,
            retries: 0,
            outcome: Outcome::Ended(FinishReason::Stop),
        }
    }

    #[test]
    fn instants_out_of_order_are_seen() {
        let mut checks = Invariants::default();
        checks.on_request(&RequestRecord { ended: SimTime::from_nanos(8), ..record() });
        let broken = checks.finish();
        assert!(broken[0].starts_with("time goes forward: replica 0, request 3: arrival"));
    }

    #[test]
    fn tokens_without_a_step_are_seen() {
        let mut checks = Invariants::default();
        checks.on_request(&record());
        let broken = checks.finish();
        assert_eq!(
            broken[0],
            "tokens are conserved: replica 0: steps made 0 tokens, and requests got 2"
        );
        assert_eq!(
            broken[1],
            "tokens are conserved: replica 0: 0 gaps were reported for 1 tokens after a request's \
             first"
        );
    }

    #[test]
    fn a_run_in_which_nothing_happens_breaks_nothing() {
        assert_eq!(Invariants::default().finish(), [""; 0]);
    }
}
