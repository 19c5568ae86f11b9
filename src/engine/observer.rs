//! What the engine tells whoever watches: metrics, traces, timelines and recorded schedules are all
//! observers, and the engine itself prints and stores nothing.

use crate::cost::StepTime;
use crate::request::{FinishReason, RequestTable};
use crate::scheduler::{Occupancy, Step, StepOutcome};
use crate::time::{SimDuration, SimTime};

use super::invariants::Violations;

/// Watches a simulation. Every method has an empty default.
pub trait Observer {
    /// A step has been decided and handed to the GPU.
    fn on_scheduled(&mut self, _step: &ScheduledStep<'_>) {}

    /// A step has ended.
    fn on_completed(&mut self, _step: &CompletedStep<'_>) {}

    /// A stretch of identical decode steps has been taken at once, in place of that many
    /// `on_scheduled` and `on_completed`.
    fn on_steady(&mut self, _run: &SteadyRun) {}

    /// `sequences` sequences got a token `gap` after their previous one.
    fn on_token_gap(&mut self, _gap: SimDuration, _sequences: u32) {}

    /// The same for one step after the other, each with as many sequences.
    fn on_token_gaps(&mut self, gaps: &[SimDuration], sequences: u32) {
        gaps.iter().for_each(|&gap| self.on_token_gap(gap, sequences));
    }

    /// A request has ended, or the run has ended around it.
    fn on_request(&mut self, _record: &RequestRecord) {}

    /// An attempt has failed, and the request will be sent again: `on_request` is still to come.
    fn on_lost_attempt(&mut self, _record: &RequestRecord) {}

    /// The run is over: what replicas and machines did.
    fn on_fleet(&mut self, _report: &FleetReport) {}

    /// Whether each step must be shown one by one; turns fast-forward off.
    fn needs_every_step(&self) -> bool {
        false
    }

    /// Whether schedulers are to be watched from inside; asked once, before the run.
    fn audits_schedulers(&self) -> bool {
        false
    }

    /// What that has found, after the run.
    fn on_violations(&mut self, _violations: &Violations) {}
}

/// A step as it is handed to the GPU.
#[derive(Debug)]
pub struct ScheduledStep<'a> {
    pub replica: u16,
    /// Steps scheduled by this replica before this one.
    pub index: u64,
    /// When the scheduler decided.
    pub decided: SimTime,
    pub start: SimTime,
    pub end: SimTime,
    pub step: &'a Step,
    pub time: &'a StepTime,
    pub occupancy: Occupancy,
    pub requests: &'a RequestTable,
}

/// A step that has ended. Requests in `outcome.ended` are still in `requests`.
#[derive(Debug)]
pub struct CompletedStep<'a> {
    pub replica: u16,
    pub index: u64,
    pub start: SimTime,
    pub end: SimTime,
    pub step: &'a Step,
    pub time: &'a StepTime,
    pub outcome: &'a StepOutcome,
    /// As it was when the step had been scheduled: the batch that ran.
    pub occupancy: Occupancy,
    /// After the step's finished requests have left.
    pub occupancy_after: Occupancy,
    pub requests: &'a RequestTable,
}

/// A stretch of `steps` decode steps of the same `seqs` sequences, back to back.
#[derive(Clone, Copy, Debug)]
pub struct SteadyRun {
    pub replica: u16,
    /// Index of the first of them.
    pub index: u64,
    pub steps: u32,
    pub seqs: u32,
    pub start: SimTime,
    pub end: SimTime,
    /// Sum over the steps, term by term.
    pub time: StepTime,
    /// At the end of the stretch, where KV use is highest.
    pub occupancy: Occupancy,
}

/// What replicas and machines did in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetReport {
    /// By number.
    pub replicas: Vec<ReplicaReport>,
    /// By number; none where all machines were there all the time.
    pub pools: Vec<PoolReport>,
    /// The most machines that were paid for at once.
    pub most_machines: u16,
    /// How often one has failed.
    pub failures: u32,
    /// Of the run.
    pub end: SimTime,
}

/// What the machines of a pool did in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolReport {
    /// Of all machines that could have come; they follow those of the pool before.
    pub replicas: u16,
    /// For how long machines were paid for, all together.
    pub machine_time: SimDuration,
    /// The most that were paid for at once.
    pub most_machines: u16,
    /// How often one has failed.
    pub failures: u32,
}

/// What a replica did in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    pub replica: u16,
    /// Requests that ended on it, and those of them that were answered.
    pub requests: u64,
    pub completed: u64,
    /// Generated on it, for whatever request.
    pub output_tokens: u64,
    /// Time in steps that have ended.
    pub busy: SimDuration,
    /// Time in which it was up, taking requests or finishing those that it had.
    pub up: SimDuration,
    /// How often its machine has failed.
    pub failures: u32,
}

/// The replica of a request that none has taken.
pub const NO_REPLICA: u16 = u16::MAX;

/// How the run left a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Ended(FinishReason),
    /// In flight when the run ended: neither completed nor failed.
    Unfinished,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ended(reason) => reason.name(),
            Self::Unfinished => "unfinished",
        }
    }

    pub const fn is_success(self) -> bool {
        matches!(self, Self::Ended(reason) if reason.is_success())
    }
}

/// One request with its raw instants; every summary is computed from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Order of arrival, from 0.
    pub uid: u64,
    pub client: u32,
    pub replica: u16,
    pub priority: i32,
    /// As in the request's spec.
    pub tenant: u16,
    pub arrival: SimTime,
    pub first_scheduled: Option<SimTime>,
    pub first_token: Option<SimTime>,
    /// When it ended; of an unfinished one, when the run ended.
    pub ended: SimTime,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    pub cached_tokens: u32,
    pub preemptions: u32,
    /// Attempts that were lost before.
    pub retries: u32,
    pub outcome: Outcome,
}

impl RequestRecord {
    /// From arrival to the end.
    pub const fn e2e(&self) -> SimDuration {
        self.ended.since(self.arrival)
    }

    /// From arrival to the first token.
    pub fn ttft(&self) -> Option<SimDuration> {
        self.first_token.map(|t| t.since(self.arrival))
    }

    /// From arrival to the first step that worked on it.
    pub fn queue(&self) -> Option<SimDuration> {
        self.first_scheduled.map(|t| t.since(self.arrival))
    }
}

/// Watches nothing.
impl Observer for () {}

/// Watches through a reference.
impl<O: Observer + ?Sized> Observer for &mut O {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        (**self).on_scheduled(step);
    }
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        (**self).on_completed(step);
    }
    fn on_steady(&mut self, run: &SteadyRun) {
        (**self).on_steady(run);
    }
    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        (**self).on_token_gap(gap, sequences);
    }
    fn on_token_gaps(&mut self, gaps: &[SimDuration], sequences: u32) {
        (**self).on_token_gaps(gaps, sequences);
    }
    fn on_request(&mut self, record: &RequestRecord) {
        (**self).on_request(record);
    }
    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        (**self).on_lost_attempt(record);
    }
    fn on_fleet(&mut self, report: &FleetReport) {
        (**self).on_fleet(report);
    }
    fn needs_every_step(&self) -> bool {
        (**self).needs_every_step()
    }
    fn audits_schedulers(&self) -> bool {
        (**self).audits_schedulers()
    }
    fn on_violations(&mut self, violations: &Violations) {
        (**self).on_violations(violations);
    }
}

/// Two observers of one run.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        self.0.on_scheduled(step);
        self.1.on_scheduled(step);
    }
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.0.on_completed(step);
        self.1.on_completed(step);
    }
    fn on_steady(&mut self, run: &SteadyRun) {
        self.0.on_steady(run);
        self.1.on_steady(run);
    }
    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        self.0.on_token_gap(gap, sequences);
        self.1.on_token_gap(gap, sequences);
    }
    fn on_token_gaps(&mut self, gaps: &[SimDuration], sequences: u32) {
        self.0.on_token_gaps(gaps, sequences);
        self.1.on_token_gaps(gaps, sequences);
    }
    fn on_request(&mut self, record: &RequestRecord) {
        self.0.on_request(record);
        self.1.on_request(record);
    }
    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        self.0.on_lost_attempt(record);
        self.1.on_lost_attempt(record);
    }
    fn on_fleet(&mut self, report: &FleetReport) {
        self.0.on_fleet(report);
        self.1.on_fleet(report);
    }
    fn needs_every_step(&self) -> bool {
        self.0.needs_every_step() || self.1.needs_every_step()
    }
    fn audits_schedulers(&self) -> bool {
        self.0.audits_schedulers() || self.1.audits_schedulers()
    }
    fn on_violations(&mut self, violations: &Violations) {
        self.0.on_violations(violations);
        self.1.on_violations(violations);
    }
}

/// An observer that may not be there.
impl<O: Observer> Observer for Option<O> {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        if let Some(observer) = self {
            observer.on_scheduled(step);
        }
    }
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        if let Some(observer) = self {
            observer.on_completed(step);
        }
    }
    fn on_steady(&mut self, run: &SteadyRun) {
        if let Some(observer) = self {
            observer.on_steady(run);
        }
    }
    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        if let Some(observer) = self {
            observer.on_token_gap(gap, sequences);
        }
    }
    fn on_token_gaps(&mut self, gaps: &[SimDuration], sequences: u32) {
        if let Some(observer) = self {
            observer.on_token_gaps(gaps, sequences);
        }
    }
    fn on_request(&mut self, record: &RequestRecord) {
        if let Some(observer) = self {
            observer.on_request(record);
        }
    }
    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        if let Some(observer) = self {
            observer.on_lost_attempt(record);
        }
    }
    fn on_fleet(&mut self, report: &FleetReport) {
        if let Some(observer) = self {
            observer.on_fleet(report);
        }
    }
    fn needs_every_step(&self) -> bool {
        self.as_ref().is_some_and(Observer::needs_every_step)
    }
    fn audits_schedulers(&self) -> bool {
        self.as_ref().is_some_and(Observer::audits_schedulers)
    }
    fn on_violations(&mut self, violations: &Violations) {
        if let Some(observer) = self {
            observer.on_violations(violations);
        }
    }
}
