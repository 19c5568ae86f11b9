//! Where the time of each request goes: every nanosecond of it to exactly one cause.
//!
//! A replica's time is a running total by cause, in which steps follow each other without a gap; a
//! request's share is the difference between the totals at its last token and at its first. So a step
//! costs as much as one addition for each cause, whatever the size of its batch, and the causes add up to
//! the latency to the nanosecond, with the jump over equal steps and without it.

use std::collections::{BTreeMap, HashMap};

use crate::cost::{CostTerm, StepTime};
use crate::engine::observer::{
    CompletedStep, Observer, Outcome, RequestRecord, ScheduledStep, SteadyRun,
};
use crate::named::named_enum;
use crate::scheduler::StepKind;
use crate::time::{SimDuration, SimTime};

named_enum! {
    /// What a request's time went to.
    pub enum Cause as "cause" {
        /// From being sent until a step works on it; failed attempts and pauses before another are in
        /// it.
        Queue = "queue",
        /// From there to the first token: the steps that work on its prompt, and those between them.
        Prefill = "prefill",
        /// Steps between its tokens that work on others' prompts only.
        OthersPrefill = "others-prefill",
        /// Steps that give it a token and work on others' prompts too.
        Mixed = "mixed",
        /// Of steps that only decode: reading the weights, which all sequences share.
        Weights = "weights",
        /// Reading the KV cache, its own and the batch's.
        Attention = "attention",
        /// Norms, activations and sampling.
        Elementwise = "elementwise",
        /// Waiting for the other ranks.
        AllReduce = "all-reduce",
        /// Rebuilding a contiguous KV cache (TGIS).
        KvCopy = "kv-copy",
        /// Host time that the GPU does not hide, and work in series with it.
        Host = "host",
        /// From losing its place in the batch to its next token.
        Preemption = "preemption",
        /// Between steps, or in one that it did not see to the end.
        Other = "other",
    }
}

impl Cause {
    pub const COUNT: usize = Self::ALL.len();
}

/// Time by cause, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares([u64; Cause::COUNT]);

impl Shares {
    pub const fn get(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    /// In the order of [`Cause::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.into_iter()
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    const fn add(&mut self, cause: Cause, time: SimDuration) {
        self.0[cause as usize] += time.as_nanos();
    }

    fn add_since(&mut self, now: &Self, then: &Self) {
        for (sum, (now, then)) in self.0.iter_mut().zip(now.0.iter().zip(then.0)) {
            *sum += now - then;
        }
    }

    /// Of the parts of a step that only decodes.
    fn add_terms(&mut self, time: &StepTime) {
        for (term, time) in time.terms() {
            let cause = match term {
                CostTerm::Linear | CostTerm::Dequantise | CostTerm::LmHead => Cause::Weights,
                CostTerm::Attention => Cause::Attention,
                CostTerm::Elementwise | CostTerm::Sampling => Cause::Elementwise,
                CostTerm::AllReduce => Cause::AllReduce,
                CostTerm::KvCopy => Cause::KvCopy,
                CostTerm::Host | CostTerm::Serial => Cause::Host,
            };
            self.add(cause, time);
        }
    }
}

/// A replica's time from the start of the run to the end of its newest step.
#[derive(Clone, Copy, Debug, Default)]
struct Elapsed {
    until: SimTime,
    by_cause: Shares,
}

impl Elapsed {
    /// A step, or a stretch of them, follows.
    fn add(&mut self, kind: StepKind, (start, end): (SimTime, SimTime), time: &StepTime) {
        self.by_cause.add(Cause::Other, start.since(self.until));
        match kind {
            StepKind::Decode => self.by_cause.add_terms(time),
            StepKind::Prefill => self.by_cause.add(Cause::OthersPrefill, end.since(start)),
            StepKind::Mixed => self.by_cause.add(Cause::Mixed, end.since(start)),
            StepKind::Empty => self.by_cause.add(Cause::Other, end.since(start)),
        }
        self.until = end;
    }
}

/// A request between its first token and its end.
#[derive(Clone, Copy, Debug)]
struct Decoding {
    /// Settled so far.
    shares: Shares,
    /// The replica's time when it last got into the batch.
    since: Shares,
    /// When it lost its place, if it has.
    preempted: Option<SimTime>,
}

/// Lays the time of requests to its causes. Memory follows the requests in flight.
#[derive(Clone, Debug, Default)]
pub struct Blame {
    warm_up: SimTime,
    replicas: Vec<Elapsed>,
    /// By `uid`.
    decoding: HashMap<u64, Decoding>,
    answered: u64,
    /// Of answered requests that came after the warm-up.
    sums: [u128; Cause::COUNT],
}

impl Blame {
    /// Requests that arrive before `warm_up` are not in the mean.
    pub fn new(warm_up: SimTime) -> Self {
        Self { warm_up, ..Self::default() }
    }

    /// Of an answered request, on average: milliseconds by cause. Empty if none was answered.
    pub fn mean_ms(&self) -> BTreeMap<String, f64> {
        let mean = |sum: u128| sum as f64 / self.answered as f64 / 1e6;
        let causes = Cause::ALL.iter().zip(self.sums).filter(|_| self.answered > 0);
        causes.map(|(cause, sum)| (cause.name().replace('-', "_"), mean(sum))).collect()
    }

    fn replica(&mut self, number: u16) -> &mut Elapsed {
        let number = usize::from(number);
        if self.replicas.len() <= number {
            self.replicas.resize(number + 1, Elapsed::default());
        }
        &mut self.replicas[number]
    }

    /// A request has ended: what its time went to. The causes add up to its latency.
    pub fn settle(&mut self, record: &RequestRecord) -> Shares {
        let mut shares = Shares::default();
        let started = record.first_scheduled.unwrap_or(record.ended);
        shares.add(Cause::Queue, started.since(record.arrival));
        match (record.first_token, self.decoding.remove(&record.uid)) {
            (Some(first), Some(decoding)) => {
                shares.add(Cause::Prefill, first.since(started));
                shares.add_since(&decoding.shares, &Shares::default());
                match decoding.preempted {
                    Some(at) => shares.add(Cause::Preemption, record.ended.since(at)),
                    None => {
                        let now = self.replica(record.replica).by_cause;
                        shares.add_since(&now, &decoding.since);
                    }
                }
            }
            _ => shares.add(Cause::Prefill, record.ended.since(started)),
        }
        // A request may end within a step: its client has gone, or the run is over.
        let left = record.e2e().as_nanos().saturating_sub(shares.total());
        shares.add(Cause::Other, SimDuration::from_nanos(left));
        debug_assert_eq!(shares.total(), record.e2e().as_nanos(), "request {}", record.uid);
        let answered = matches!(record.outcome, Outcome::Ended(reason) if reason.is_success());
        if answered && record.arrival >= self.warm_up {
            self.answered += 1;
            for (sum, share) in self.sums.iter_mut().zip(shares.iter()) {
                *sum += u128::from(share);
            }
        }
        shares
    }
}

impl Observer for Blame {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        if step.step.preempted.is_empty() {
            return;
        }
        let now = *self.replica(step.replica);
        for &id in &step.step.preempted {
            let uid = step.requests.get(id).uid;
            // One that has no token yet is still at its prompt.
            if let Some(decoding) = self.decoding.get_mut(&uid)
                && decoding.preempted.is_none()
            {
                decoding.shares.add_since(&now.by_cause, &decoding.since);
                decoding.preempted = Some(now.until);
            }
        }
    }

    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        let now = self.replica(step.replica);
        now.add(step.step.kind, (step.start, step.end), step.time);
        let since = now.by_cause;
        for &id in &step.outcome.first_tokens {
            let uid = step.requests.get(id).uid;
            let new = Decoding { shares: Shares::default(), since, preempted: None };
            let decoding = self.decoding.entry(uid).or_insert(new);
            if let Some(at) = decoding.preempted.take() {
                decoding.shares.add(Cause::Preemption, step.end.since(at));
                decoding.since = since;
            }
        }
        // It may be the first that comes late: then it has no place to lose any more.
        for &id in &step.outcome.late_tokens {
            let (shares, preempted) = (Shares::default(), Some(step.end));
            let uid = step.requests.get(id).uid;
            self.decoding.entry(uid).or_insert(Decoding { shares, since, preempted });
        }
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        self.replica(run.replica).add(StepKind::Decode, (run.start, run.end), &run.time);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        self.settle(record);
    }

    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        self.decoding.remove(&record.uid);
    }
}
