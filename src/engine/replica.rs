//! One replica: a scheduler, its cost model and the steps in flight.

mod jump;
mod pipeline;
mod token_clock;

use crate::cost::{DecodeCost, StepCost};
use crate::request::{RequestId, RequestTable};
use crate::scheduler::{Ended, Occupancy, Scheduler, StepOutcome};
use crate::time::{SimDuration, SimTime};

use super::observer::{CompletedStep, Observer, ReplicaReport, ScheduledStep};

use pipeline::{MAX_DEPTH, Pipeline};
use token_clock::TokenClock;

/// Empty steps at one instant after which a replica sleeps until something arrives: real engines
/// would spin on a request that can never be placed.
const MAX_EMPTY_STEPS: u32 = 4;

pub(super) struct Replica {
    pub(super) id: u16,
    pub(super) scheduler: Box<dyn Scheduler>,
    cost: Box<dyn StepCost>,
    /// Requests routed here and not yet answered. Each replica numbers its own, so that what a
    /// scheduler keeps by number follows the requests of its replica and not those of all.
    pub(super) requests: RequestTable,
    /// Admitted, and not yet seen by the scheduler: a real engine drains its socket between steps.
    pub(super) inbox: Vec<RequestId>,
    /// Whether a boundary of this replica stands in the event queue.
    pub(super) awake: bool,
    pipeline: Pipeline,
    /// How many steps the scheduler keeps in flight.
    depth: usize,
    outcome: StepOutcome,
    clock: TokenClock,
    scheduled_steps: u64,
    pub(super) completed_steps: u64,
    pub(super) output_tokens: u64,
    /// Requests that have ended here, and how many of them with an answer.
    pub(super) ended: u64,
    pub(super) answered: u64,
    /// Time in completed steps; they never overlap.
    busy: SimDuration,
    decode: Option<(u32, DecodeCost)>,
    /// Of the steady turns that are being taken.
    gaps: Vec<SimDuration>,
    empty_steps: u32,
}

impl Replica {
    pub(super) fn new(id: u16, scheduler: Box<dyn Scheduler>, cost: Box<dyn StepCost>) -> Self {
        let depth = scheduler.pipeline_depth();
        assert!((1..=MAX_DEPTH).contains(&depth), "a pipeline of {depth} steps");
        Self {
            id,
            scheduler,
            cost,
            requests: RequestTable::default(),
            inbox: Vec::new(),
            awake: false,
            pipeline: Pipeline::default(),
            depth,
            outcome: StepOutcome::default(),
            clock: TokenClock::default(),
            scheduled_steps: 0,
            completed_steps: 0,
            output_tokens: 0,
            ended: 0,
            answered: 0,
            busy: SimDuration::ZERO,
            decode: None,
            gaps: Vec::new(),
            empty_steps: 0,
        }
    }

    /// The end of the oldest step in flight.
    #[inline]
    pub(super) fn next_boundary(&self) -> Option<SimTime> {
        self.pipeline.oldest().map(|f| f.end)
    }

    pub(super) fn drain_inbox(&mut self) {
        if self.inbox.is_empty() {
            return;
        }
        self.empty_steps = 0;
        for id in self.inbox.drain(..) {
            self.scheduler.enqueue(id, self.requests.get(id));
        }
    }

    /// Requests routed here and not yet answered.
    pub(super) fn outstanding(&self) -> u32 {
        u32::try_from(self.requests.len()).expect("fewer than 2^32 live requests")
    }

    /// What has become of it by `end`.
    pub(super) fn report(&self, end: SimTime) -> ReplicaReport {
        ReplicaReport {
            replica: self.id,
            requests: self.ended,
            completed: self.answered,
            output_tokens: self.output_tokens,
            busy: self.busy,
            up: end.since(SimTime::ZERO),
            failures: 0,
        }
    }

    /// Requests in its queue.
    pub(super) fn waiting(&self) -> u32 {
        let inbox = u32::try_from(self.inbox.len()).unwrap_or(u32::MAX);
        self.scheduler.occupancy().waiting.saturating_add(inbox)
    }

    /// Share of the KV cache in use.
    pub(super) fn kv_usage(&self) -> f64 {
        let Occupancy { kv_used, kv_total, .. } = self.scheduler.occupancy();
        if kv_total == 0 { 0.0 } else { kv_used as f64 / kv_total as f64 }
    }

    /// The client of a request goes away, at any time. A step in flight is over before the scheduler
    /// decides again, so that it may be told now.
    pub(super) fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        self.drain_inbox();
        self.empty_steps = 0;
        self.scheduler.abort(now, id, ended);
    }

    /// Goes on with a fresh scheduler and an empty cache; steps in flight are lost.
    pub(super) fn start_anew(&mut self, scheduler: Box<dyn Scheduler>) {
        self.scheduler = scheduler;
        self.inbox.clear();
        self.awake = false;
        self.pipeline = Pipeline::default();
        self.clock = TokenClock::default();
        self.scheduled_steps = self.completed_steps;
        self.empty_steps = 0;
    }

    /// Completes the oldest step if it ends at `now`.
    pub(super) fn complete<O: Observer>(
        &mut self,
        now: SimTime,
        observer: &mut O,
        ended: &mut Vec<Ended>,
    ) {
        if self.next_boundary() != Some(now) {
            return;
        }
        let done = self.pipeline.finish_oldest();
        self.outcome.clear();
        self.scheduler.complete(done.start, now, &mut self.outcome);
        self.completed_steps += 1;
        self.output_tokens += self.outcome.tokens();
        self.busy += now.since(done.start);
        self.clock.tokens(now, &self.outcome, &mut self.requests, observer);
        observer.on_completed(&CompletedStep {
            replica: self.id,
            index: done.index,
            start: done.start,
            end: now,
            step: &done.step,
            time: &done.time,
            outcome: &self.outcome,
            occupancy: done.occupancy,
            occupancy_after: self.scheduler.occupancy(),
            requests: &self.requests,
        });
        if !self.outcome.ended.is_empty() {
            ended.append(&mut self.outcome.ended);
        }
    }

    /// Schedules steps until the pipeline is full or there is nothing to run.
    ///
    /// Depth 2 (vLLM's asynchronous scheduling, 0.16.0 and later): the next step is decided while
    /// the present one runs (`engines/vllm.md` section 6).
    pub(super) fn fill_pipeline<O: Observer>(
        &mut self,
        now: SimTime,
        observer: &mut O,
        ended: &mut Vec<Ended>,
    ) {
        while self.pipeline.len() < self.depth
            && self.scheduler.has_work()
            && self.empty_steps < MAX_EMPTY_STEPS
        {
            let start = self.pipeline.newest().map_or(now, |last| last.end.max(now));
            let slot = self.pipeline.next_slot();
            slot.step.clear();
            let runs = self.scheduler.schedule(now, &mut slot.step);
            if !slot.step.ended.is_empty() {
                ended.extend_from_slice(&slot.step.ended);
            }
            if !runs {
                break;
            }
            self.empty_steps = if slot.step.shape.is_empty() { self.empty_steps + 1 } else { 0 };
            slot.time = self.cost.step(&slot.step.shape);
            slot.start = start;
            slot.end = start + slot.time.total();
            for &(id, cached) in &slot.step.admitted {
                let request = self.requests.get_mut(id);
                if request.first_scheduled.is_none() {
                    request.first_scheduled = Some(start);
                    request.cached_tokens = cached;
                }
            }
            for &id in &slot.step.preempted {
                self.requests.get_mut(id).preemptions += 1;
                self.clock.leave_batch(id, &mut self.requests);
            }
            slot.occupancy = self.scheduler.occupancy();
            slot.index = self.scheduled_steps;
            self.scheduled_steps += 1;
            observer.on_scheduled(&ScheduledStep {
                replica: self.id,
                index: slot.index,
                decided: now,
                start,
                end: slot.end,
                step: &slot.step,
                time: &slot.time,
                occupancy: slot.occupancy,
                requests: &self.requests,
            });
            self.pipeline.commit();
        }
    }

    /// A request has ended: no token of it is awaited any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.clock.forget(id);
    }
}
