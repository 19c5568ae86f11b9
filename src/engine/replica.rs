//! One replica: a scheduler, its cost model and the steps in flight.

use crate::cost::{CostTerm, DecodeCost, DecodeStep, StepCost, StepTime};
use crate::request::{RequestId, RequestTable};
use crate::scheduler::{Ended, Occupancy, Scheduler, Step, StepKind, StepOutcome};
use crate::time::{SimDuration, SimTime};

use super::observer::{CompletedStep, Observer, ReplicaReport, ScheduledStep, SteadyRun};
use super::router::ReplicaLoad;

/// The deepest pipeline that any engine keeps: vLLM's asynchronous scheduling.
const MAX_DEPTH: usize = 2;

/// Empty steps at one instant after which a replica sleeps until something arrives: real engines
/// would spin on a request that can never be placed.
const MAX_EMPTY_STEPS: u32 = 4;

/// A step that has been scheduled and has not ended.
#[derive(Debug, Default)]
struct InFlight {
    step: Step,
    time: StepTime,
    index: u64,
    start: SimTime,
    end: SimTime,
    occupancy: Occupancy,
}

/// The steps in flight, oldest first. They stay where they are: a step is a large thing to move, and
/// its lists are to be reused.
#[derive(Debug, Default)]
struct Pipeline {
    slots: [InFlight; MAX_DEPTH],
    oldest: usize,
    len: usize,
}

impl Pipeline {
    /// The place of the step `behind` the oldest.
    const fn place(&self, behind: usize) -> usize {
        (self.oldest + behind) % MAX_DEPTH
    }

    fn oldest(&self) -> Option<&InFlight> {
        (self.len > 0).then(|| &self.slots[self.oldest])
    }

    fn newest(&self) -> Option<&InFlight> {
        self.len.checked_sub(1).map(|behind| &self.slots[self.place(behind)])
    }

    fn iter(&self) -> impl Iterator<Item = &InFlight> {
        (0..self.len).map(|behind| &self.slots[self.place(behind)])
    }

    /// Takes the oldest out; it may be read until the next is put in.
    fn finish_oldest(&mut self) -> &InFlight {
        let place = self.oldest;
        self.oldest = self.place(1);
        self.len -= 1;
        &self.slots[place]
    }

    /// The slot of the step to come, which is put in by `commit`.
    fn next_slot(&mut self) -> &mut InFlight {
        let place = self.place(self.len);
        &mut self.slots[place]
    }

    fn commit(&mut self) {
        self.len += 1;
    }
}

pub(super) struct Replica {
    pub(super) id: u16,
    pub(super) scheduler: Box<dyn Scheduler>,
    cost: Box<dyn StepCost>,
    /// Admitted, and not yet seen by the scheduler: a real engine drains its socket between steps.
    pub(super) inbox: Vec<RequestId>,
    /// Requests routed here and not yet answered.
    pub(super) outstanding: u32,
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
            inbox: Vec::new(),
            outstanding: 0,
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

    pub(super) fn drain_inbox(&mut self, requests: &RequestTable) {
        if self.inbox.is_empty() {
            return;
        }
        self.empty_steps = 0;
        for id in self.inbox.drain(..) {
            self.scheduler.enqueue(id, requests.get(id));
        }
    }

    /// What a router sees of it.
    pub(super) fn load(&self, with_kv: bool) -> ReplicaLoad {
        let Occupancy { kv_used, kv_total, .. } =
            if with_kv { self.scheduler.occupancy() } else { Occupancy::default() };
        let (replica, outstanding) = (self.id, self.outstanding);
        ReplicaLoad { replica, outstanding, kv_used, kv_total, ..ReplicaLoad::default() }
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
    pub(super) fn abort(
        &mut self,
        now: SimTime,
        id: RequestId,
        requests: &RequestTable,
        ended: &mut Vec<Ended>,
    ) {
        self.drain_inbox(requests);
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
        requests: &mut RequestTable,
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
        self.clock.tokens(now, &self.outcome, requests, observer);
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
            requests,
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
        requests: &mut RequestTable,
        observer: &mut O,
        ended: &mut Vec<Ended>,
    ) {
        while self.pipeline.len < self.depth
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
                let request = requests.get_mut(id);
                if request.first_scheduled.is_none() {
                    request.first_scheduled = Some(start);
                    request.cached_tokens = cached;
                }
            }
            for &id in &slot.step.preempted {
                requests.get_mut(id).preemptions += 1;
                self.clock.leave_batch(id, requests);
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
                requests,
            });
            self.pipeline.commit();
        }
    }

    /// A request has ended: no token of it is awaited any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.clock.forget(id);
    }

    /// Turns that would only repeat the newest step.
    #[inline]
    pub(super) fn steady_turns(&self) -> u32 {
        let full = self.pipeline.len == self.depth;
        let decoding = self.pipeline.iter().all(|f| f.step.kind == StepKind::Decode);
        if full && decoding { self.scheduler.steady_turns() } else { 0 }
    }

    /// Takes up to `turns` steady turns, as long as the boundary at which each is taken lies before
    /// `horizon`.
    pub(super) fn fast_forward<O: Observer>(
        &mut self,
        turns: u32,
        horizon: SimTime,
        requests: &mut RequestTable,
        observer: &mut O,
    ) {
        if self.next_boundary().is_none_or(|end| end >= horizon) {
            return;
        }
        let newest = self.pipeline.newest().expect("a full pipeline");
        let mut shape = newest.step.shape;
        let first_shape = shape;
        let base = newest.occupancy;
        let oldest = &self.pipeline.slots[self.pipeline.oldest].occupancy;
        let lone = (oldest.running, oldest.waiting) != (base.running, base.waiting);
        let seqs = shape.decode_seqs;
        let decode = match &mut self.decode {
            Some((n, cost)) if *n == seqs => cost,
            other => &mut other.insert((seqs, self.cost.decode(seqs))).1,
        };
        let skew = decode.skew(&shape);

        // The pipeline as a ring of what varies from step to step.
        let depth = self.depth;
        let mut ring = [(SimTime::ZERO, SimTime::ZERO, DecodeStep::default()); MAX_DEPTH];
        for (slot, flight) in ring.iter_mut().zip(self.pipeline.iter()) {
            let part = |term| flight.time.get(term);
            let varying = DecodeStep {
                attention: part(CostTerm::Attention),
                kv_copy: part(CostTerm::KvCopy),
                host: part(CostTerm::Host),
                total: flight.end.since(flight.start),
            };
            *slot = (flight.start, flight.end, varying);
        }
        let mut first_start = ring[0].0;
        let mut sum = DecodeStep::default();
        let mut shown = 0;
        let mut taken = 0u32;
        let mut oldest = 0usize;
        let mut last_end = ring[depth - 1].1;
        let mut done_end = ring[0].1;
        let grow = u64::from(seqs);
        let copies = shape.kv_copy_tokens > 0;
        while taken < turns && ring[oldest].1 < horizon {
            let (_, end, step) = ring[oldest];
            sum.attention += step.attention;
            sum.kv_copy += step.kv_copy;
            sum.host += step.host;
            if taken == 0 {
                self.clock.decode_tokens(end, seqs, requests, observer);
            } else {
                self.gaps.push(end.since(done_end));
            }
            if taken == 0 && lone {
                // It ran beside others than those to come: a stretch of its own.
                let flight = &self.pipeline.slots[self.pipeline.oldest];
                self.busy += flight.time.total();
                observer.on_steady(&SteadyRun {
                    replica: self.id,
                    index: flight.index,
                    steps: 1,
                    seqs,
                    start: first_start,
                    end,
                    time: flight.time,
                    occupancy: flight.occupancy,
                });
                (shown, sum, first_start) = (1, DecodeStep::default(), ring[depth - 1].0);
            }
            shape.decode_context += grow;
            if copies {
                shape.kv_copy_tokens += grow;
            }
            let next = decode.at(shape.decode_context, skew, shape.kv_copy_tokens);
            let start = last_end.max(end);
            last_end = start + next.total;
            ring[oldest] = (start, last_end, next);
            oldest += 1;
            if oldest == depth {
                oldest = 0;
            }
            done_end = end;
            taken += 1;
        }

        self.cost.stretched_to(&shape);
        self.clock.batch = done_end;
        observer.on_token_gaps(&self.gaps, seqs);
        self.gaps.clear();

        // KV in use when each step was scheduled: those in flight, and behind them the new ones.
        let mut kv_used = [0; 2 * MAX_DEPTH + 1];
        for (noted, flight) in kv_used.iter_mut().zip(self.pipeline.iter()) {
            *noted = flight.occupancy.kv_used;
        }
        let noted = depth + (depth + 1).min(taken as usize);
        self.scheduler.advance_noting(taken, &mut kv_used[depth..noted]);

        let mut time = StepTime::ZERO;
        time.accumulate(&decode.fixed, u64::from(taken - shown));
        time.set(CostTerm::Attention, sum.attention);
        time.set(CostTerm::KvCopy, sum.kv_copy);
        time.set(CostTerm::Host, sum.host);
        self.busy += time.total();
        if taken > shown {
            observer.on_steady(&SteadyRun {
                replica: self.id,
                index: self.pipeline.slots[self.pipeline.oldest].index + u64::from(shown),
                steps: taken - shown,
                seqs,
                start: first_start,
                end: done_end,
                time,
                occupancy: Occupancy { kv_used: kv_used[noted - depth - 1], ..base },
            });
        }
        for behind in 0..depth {
            let place = self.pipeline.place(behind);
            let flight = &mut self.pipeline.slots[place];
            let (start, end, step) = ring[(oldest + behind) % depth];
            flight.start = start;
            flight.end = end;
            flight.time = decode.time(&step);
            flight.index += u64::from(taken);
            flight.occupancy = Occupancy { kv_used: kv_used[noted - depth + behind], ..base };
            let turns = u32::try_from(depth - 1 - behind).expect("a pipeline is short");
            let later = u64::from(turns) * grow;
            flight.step.shape = shape;
            flight.step.shape.decode_context -= later;
            flight.step.shape.decode_squares =
                first_shape.squares_after(i64::from(taken) - i64::from(turns));
            if copies {
                flight.step.shape.kv_copy_tokens -= later;
            }
            flight.step.admitted.clear();
            flight.step.preempted.clear();
            flight.step.ended.clear();
        }
        self.completed_steps += u64::from(taken);
        self.scheduled_steps += u64::from(taken);
        self.output_tokens += u64::from(taken) * grow;
    }
}

/// When the sequences of a replica got their newest tokens.
///
/// All sequences that decode together got theirs at the same instant, so one instant stands for the
/// whole batch; only those whose token came at another time (a prefill that stalled the others, a
/// step that passed them over) carry their own in [`crate::request::Request::last_token`].
#[derive(Debug, Default)]
struct TokenClock {
    batch: SimTime,
    /// Sequences with an instant of their own; few, and empty most of the time.
    apart: Vec<RequestId>,
}

impl TokenClock {
    /// Notes the tokens of a step that ended at `now`.
    fn tokens<O: Observer>(
        &mut self,
        now: SimTime,
        outcome: &StepOutcome,
        requests: &mut RequestTable,
        observer: &mut O,
    ) {
        for &id in &outcome.stalled {
            if !self.apart.contains(&id) {
                requests.get_mut(id).last_token = self.batch;
                self.apart.push(id);
            }
        }
        if outcome.decode_tokens > 0 && self.apart.is_empty() {
            observer.on_token_gap(now.since(self.batch), outcome.decode_tokens);
            self.batch = now;
        } else if outcome.decode_tokens > 0 {
            let mut together = outcome.decode_tokens;
            self.apart.retain(|&id| {
                if outcome.stalled.contains(&id) {
                    return true;
                }
                observer.on_token_gap(now.since(requests.get(id).last_token), 1);
                together -= 1;
                false
            });
            if together > 0 {
                observer.on_token_gap(now.since(self.batch), together);
            }
            self.batch = now;
        }
        for &id in &outcome.first_tokens {
            let request = requests.get_mut(id);
            if request.first_token.is_none() {
                request.first_token = Some(now);
            } else {
                observer.on_token_gap(now.since(request.last_token), 1);
            }
            request.last_token = now;
            request.decoding = true;
            if self.batch != now {
                self.apart.push(id);
            }
        }
        for &id in &outcome.late_tokens {
            let request = requests.get_mut(id);
            if request.first_token.is_none() {
                request.first_token = Some(now);
            } else {
                observer.on_token_gap(now.since(request.last_token), 1);
            }
            request.last_token = now;
        }
    }

    /// The tokens of a step in which `seqs` sequences decoded and nothing else happened.
    #[inline]
    fn decode_tokens<O: Observer>(
        &mut self,
        now: SimTime,
        seqs: u32,
        requests: &RequestTable,
        observer: &mut O,
    ) {
        let mut together = seqs;
        if !self.apart.is_empty() {
            for id in self.apart.drain(..) {
                observer.on_token_gap(now.since(requests.get(id).last_token), 1);
                together -= 1;
            }
        }
        if together > 0 {
            observer.on_token_gap(now.since(self.batch), together);
        }
        self.batch = now;
    }

    /// A sequence is preempted: it keeps the instant of its newest token, which is not the batch's
    /// if it was still being recomputed.
    fn leave_batch(&mut self, id: RequestId, requests: &mut RequestTable) {
        let request = requests.get_mut(id);
        if let Some(at) = self.apart.iter().position(|&other| other == id) {
            self.apart.swap_remove(at);
        } else if request.decoding {
            request.last_token = self.batch;
        }
        request.decoding = false;
    }

    fn forget(&mut self, id: RequestId) {
        if let Some(at) = self.apart.iter().position(|&other| other == id) {
            self.apart.swap_remove(at);
        }
    }
}
