//! One replica: a scheduler, its cost model and the steps in flight.

use std::collections::VecDeque;

use crate::cost::{CostTerm, DecodeCost, DecodeStep, StepCost, StepTime};
use crate::request::{RequestId, RequestTable};
use crate::scheduler::{Ended, Occupancy, Scheduler, Step, StepKind, StepOutcome};
use crate::time::SimTime;

use super::observer::{CompletedStep, Observer, ScheduledStep, SteadyRun};

/// The deepest pipeline that any engine keeps: vLLM's asynchronous scheduling.
const MAX_DEPTH: usize = 2;

/// Empty steps at one instant after which a replica sleeps until something arrives: real engines
/// would spin on a request that can never be placed.
const MAX_EMPTY_STEPS: u32 = 4;

/// A step that has been scheduled and has not ended.
#[derive(Debug)]
struct InFlight {
    step: Step,
    time: StepTime,
    index: u64,
    start: SimTime,
    end: SimTime,
    occupancy: Occupancy,
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
    in_flight: VecDeque<InFlight>,
    /// Steps to be reused, so that a step costs no allocation.
    spare: Vec<Step>,
    outcome: StepOutcome,
    clock: TokenClock,
    scheduled_steps: u64,
    pub(super) completed_steps: u64,
    pub(super) output_tokens: u64,
    decode: Option<(u32, DecodeCost)>,
    empty_steps: u32,
}

impl Replica {
    pub(super) fn new(id: u16, scheduler: Box<dyn Scheduler>, cost: Box<dyn StepCost>) -> Self {
        Self {
            id,
            scheduler,
            cost,
            inbox: Vec::new(),
            outstanding: 0,
            awake: false,
            in_flight: VecDeque::with_capacity(2),
            spare: Vec::new(),
            outcome: StepOutcome::default(),
            clock: TokenClock::default(),
            scheduled_steps: 0,
            completed_steps: 0,
            output_tokens: 0,
            decode: None,
            empty_steps: 0,
        }
    }

    /// The end of the oldest step in flight.
    pub(super) fn next_boundary(&self) -> Option<SimTime> {
        self.in_flight.front().map(|f| f.end)
    }

    pub(super) fn drain_inbox(&mut self, requests: &RequestTable) {
        for id in self.inbox.drain(..) {
            self.empty_steps = 0;
            self.scheduler.enqueue(id, requests.get(id));
        }
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
        let done = self.in_flight.pop_front().expect("the step that ends now");
        self.outcome.clear();
        self.scheduler.complete(done.start, now, &mut self.outcome);
        self.completed_steps += 1;
        self.output_tokens += self.outcome.tokens();
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
        ended.append(&mut self.outcome.ended);
        self.spare.push(done.step);
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
        while self.in_flight.len() < self.scheduler.pipeline_depth()
            && self.scheduler.has_work()
            && self.empty_steps < MAX_EMPTY_STEPS
        {
            let mut step = self.spare.pop().unwrap_or_default();
            step.clear();
            let runs = self.scheduler.schedule(now, &mut step);
            ended.extend(step.ended.iter().copied());
            if !runs {
                self.spare.push(step);
                break;
            }
            self.empty_steps = if step.shape.is_empty() { self.empty_steps + 1 } else { 0 };
            let time = self.cost.step(&step.shape);
            let start = self.in_flight.back().map_or(now, |last| last.end.max(now));
            let end = start + time.total();
            for &(id, cached) in &step.admitted {
                let request = requests.get_mut(id);
                if request.first_scheduled.is_none() {
                    request.first_scheduled = Some(start);
                    request.cached_tokens = cached;
                }
            }
            for &id in &step.preempted {
                requests.get_mut(id).preemptions += 1;
                self.clock.leave_batch(id, requests);
            }
            let occupancy = self.scheduler.occupancy();
            let index = self.scheduled_steps;
            self.scheduled_steps += 1;
            observer.on_scheduled(&ScheduledStep {
                replica: self.id,
                index,
                decided: now,
                start,
                end,
                step: &step,
                time: &time,
                occupancy,
                requests,
            });
            self.in_flight.push_back(InFlight { step, time, index, start, end, occupancy });
        }
    }

    /// A request has ended: no token of it is awaited any more.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.clock.forget(id);
    }

    /// Turns that would only repeat the newest step.
    pub(super) fn steady_turns(&self) -> u32 {
        let full = self.in_flight.len() == self.scheduler.pipeline_depth();
        let decoding = self.in_flight.iter().all(|f| f.step.kind == StepKind::Decode);
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
        if self.in_flight[0].end >= horizon {
            return;
        }
        let newest = self.in_flight.back().expect("a full pipeline");
        let mut shape = newest.step.shape;
        let seqs = shape.decode_seqs;
        let decode = match self.decode {
            Some((n, cost)) if n == seqs => cost,
            _ => self.cost.decode(seqs),
        };
        self.decode = Some((seqs, decode));

        // The pipeline as a ring of what varies from step to step.
        let depth = self.in_flight.len();
        let mut ring = [(SimTime::ZERO, SimTime::ZERO, DecodeStep::default()); MAX_DEPTH];
        for (slot, flight) in ring.iter_mut().zip(&self.in_flight) {
            let part = |term| flight.time.get(term);
            let varying = DecodeStep {
                attention: part(CostTerm::Attention),
                kv_copy: part(CostTerm::KvCopy),
                host: part(CostTerm::Host),
                total: flight.time.total(),
            };
            *slot = (flight.start, flight.end, varying);
        }
        let first_start = ring[0].0;
        let mut sum = DecodeStep::default();
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
            self.clock.decode_tokens(end, seqs, requests, observer);
            shape.decode_context += grow;
            if copies {
                shape.kv_copy_tokens += grow;
            }
            let next = decode.at(shape.decode_context, shape.kv_copy_tokens);
            let start = last_end.max(end);
            last_end = start + next.total;
            ring[oldest] = (start, last_end, next);
            oldest = (oldest + 1) % depth;
            done_end = end;
            taken += 1;
        }

        let occupancy = self.advance_recording_occupancy(taken);
        let mut time = StepTime::ZERO;
        time.accumulate(&decode.fixed, u64::from(taken));
        time.set(CostTerm::Attention, sum.attention);
        time.set(CostTerm::KvCopy, sum.kv_copy);
        time.set(CostTerm::Host, sum.host);
        observer.on_steady(&SteadyRun {
            replica: self.id,
            index: self.in_flight[0].index,
            steps: taken,
            seqs,
            start: first_start,
            end: done_end,
            time,
            occupancy,
        });
        for (slot, flight) in self.in_flight.iter_mut().enumerate() {
            let (start, end, step) = ring[(oldest + slot) % depth];
            flight.start = start;
            flight.end = end;
            flight.time = decode.time(&step);
            flight.index += u64::from(taken);
            let behind = u64::try_from(depth - 1 - slot).expect("a pipeline is short") * grow;
            flight.step.shape = shape;
            flight.step.shape.decode_context -= behind;
            if copies {
                flight.step.shape.kv_copy_tokens -= behind;
            }
            flight.step.admitted.clear();
        }
        self.completed_steps += u64::from(taken);
        self.scheduled_steps += u64::from(taken);
        self.output_tokens += u64::from(taken) * grow;
    }

    /// Advances the scheduler by `turns` and notes the occupancy of each step that stays in flight;
    /// returns that of the last one completed. Each is taken at the instant its step was scheduled.
    fn advance_recording_occupancy(&mut self, turns: u32) -> Occupancy {
        let depth = self.in_flight.len();
        let mut recent = [Occupancy::default(); 2 * MAX_DEPTH + 1];
        let mut known = 0;
        let mut note = |occupancy| {
            recent[known] = occupancy;
            known += 1;
        };
        for flight in &self.in_flight {
            note(flight.occupancy);
        }
        let singly = turns.min(u32::try_from(depth).expect("a pipeline is short"));
        if turns > singly {
            self.scheduler.advance(turns - singly);
            note(self.scheduler.occupancy());
        }
        for _ in 0..singly {
            self.scheduler.advance(1);
            note(self.scheduler.occupancy());
        }
        let in_flight = &recent[known - depth..known];
        for (flight, &occupancy) in self.in_flight.iter_mut().zip(in_flight) {
            flight.occupancy = occupancy;
        }
        recent[known - depth - 1]
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
        if outcome.decode_tokens > 0 {
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
        for id in self.apart.drain(..) {
            observer.on_token_gap(now.since(requests.get(id).last_token), 1);
            together -= 1;
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
