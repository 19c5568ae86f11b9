//! Steady turns, taken in one go.

use crate::cost::{CostTerm, DecodeCost, DecodeStep, StepShape, StepTime};
use crate::engine::observer::{Observer, SteadyRun};
use crate::scheduler::{Occupancy, StepKind};
use crate::time::SimTime;

use super::Replica;
use super::pipeline::{MAX_DEPTH, Pipeline};

/// What varies from turn to turn of a step in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    start: SimTime,
    end: SimTime,
    step: DecodeStep,
}

/// The pipeline while it only repeats itself.
struct Walk<'a> {
    cost: &'a DecodeCost,
    /// Nanoseconds of attention that unequal contexts add to each step.
    skew: f64,
    seqs: u64,
    /// Of the newest step, in tokens over all sequences.
    context: u64,
    kv_copy_tokens: u64,
    /// The steps in flight as a ring.
    turns: [Turn; MAX_DEPTH],
    depth: usize,
    oldest: usize,
    newest_end: SimTime,
}

impl<'a> Walk<'a> {
    /// Of a full pipeline whose newest step is `shape`.
    fn new(cost: &'a DecodeCost, shape: &StepShape, pipeline: &Pipeline) -> Self {
        let mut turns = [Turn::default(); MAX_DEPTH];
        let mut newest_end = SimTime::ZERO;
        for (turn, flight) in turns.iter_mut().zip(pipeline.iter()) {
            let (start, end) = (flight.start, flight.end);
            let step = DecodeStep {
                attention: flight.time.get(CostTerm::Attention),
                kv_copy: flight.time.get(CostTerm::KvCopy),
                host: flight.time.get(CostTerm::Host),
                total: end.since(start),
            };
            *turn = Turn { start, end, step };
            newest_end = end;
        }
        Self {
            cost,
            skew: cost.skew(shape),
            seqs: shape.decode_seqs.into(),
            context: shape.decode_context,
            kv_copy_tokens: shape.kv_copy_tokens,
            turns,
            depth: pipeline.len(),
            oldest: 0,
            newest_end,
        }
    }

    /// The turn of the step `behind` the oldest.
    fn turn(&self, behind: usize) -> &Turn {
        &self.turns[(self.oldest + behind) % self.depth]
    }

    #[inline(always)]
    fn next_end(&self) -> SimTime {
        self.turns[self.oldest].end
    }

    /// The oldest step ends, and another is put in behind the newest.
    #[inline(always)]
    fn take(&mut self) -> Turn {
        let ended = self.turns[self.oldest];
        self.context += self.seqs;
        if self.kv_copy_tokens > 0 {
            self.kv_copy_tokens += self.seqs;
        }
        let step = self.cost.at(self.context, self.skew, self.kv_copy_tokens);
        let start = self.newest_end.max(ended.end);
        self.newest_end = start + step.total;
        self.turns[self.oldest] = Turn { start, end: self.newest_end, step };
        self.oldest += 1;
        if self.oldest == self.depth {
            self.oldest = 0;
        }
        ended
    }
}

/// Time of the steps of a stretch that differs from step to step, term by term.
fn add(sum: &mut DecodeStep, step: &DecodeStep) {
    sum.attention += step.attention;
    sum.kv_copy += step.kv_copy;
    sum.host += step.host;
}

impl Replica {
    /// Turns that would only repeat the newest step.
    #[inline]
    pub(in crate::engine) fn steady_turns(&self) -> u32 {
        let full = self.pipeline.len() == self.depth;
        let decoding = self.pipeline.iter().all(|f| f.step.kind == StepKind::Decode);
        if full && decoding { self.scheduler.steady_turns() } else { 0 }
    }

    /// Takes up to `turns` steady turns (at least one), as long as the boundary at which each is
    /// taken lies before `horizon`.
    pub(in crate::engine) fn fast_forward<O: Observer>(
        &mut self,
        turns: u32,
        horizon: SimTime,
        observer: &mut O,
    ) {
        if self.next_boundary().is_none_or(|end| end >= horizon) {
            return;
        }
        let newest = self.pipeline.newest().expect("a full pipeline");
        let (shape, base) = (newest.step.shape, newest.occupancy);
        let seqs = shape.decode_seqs;
        let decode = match &mut self.decode {
            Some((n, cost)) if *n == seqs => cost,
            other => &mut other.insert((seqs, self.cost.decode(seqs))).1,
        };
        let mut walk = Walk::new(decode, &shape, &self.pipeline);

        let oldest = self.pipeline.oldest().expect("a full pipeline");
        let index = oldest.index;
        let first = walk.take();
        self.clock.decode_tokens(first.end, seqs, &self.requests, observer);
        let beside = (oldest.occupancy.running, oldest.occupancy.waiting);
        // It ran beside others than those to come: a stretch of its own.
        let lone = beside != (base.running, base.waiting);
        let mut sum = DecodeStep::default();
        let mut start = first.start;
        if lone {
            self.busy += oldest.time.total();
            observer.on_steady(&SteadyRun {
                replica: self.id,
                index,
                steps: 1,
                seqs,
                start,
                end: first.end,
                time: oldest.time,
                occupancy: oldest.occupancy,
            });
            start = walk.turn(0).start;
        } else {
            add(&mut sum, &first.step);
        }
        let mut taken = 1;
        let mut end = first.end;
        while taken < turns && walk.next_end() < horizon {
            let turn = walk.take();
            self.gaps.push(turn.end.since(end));
            add(&mut sum, &turn.step);
            end = turn.end;
            taken += 1;
        }
        let newest = shape.after(taken.into());
        self.cost.stretched_to(&newest);
        self.clock.batch = end;
        observer.on_token_gaps(&self.gaps, seqs);
        self.gaps.clear();

        // KV in use when each step was scheduled: those in flight, and behind them the new ones.
        let depth = self.depth;
        let mut kv_used = [0; 2 * MAX_DEPTH + 1];
        for (noted, flight) in kv_used.iter_mut().zip(self.pipeline.iter()) {
            *noted = flight.occupancy.kv_used;
        }
        let noted = depth + (depth + 1).min(taken as usize);
        self.scheduler.advance_noting(taken, &mut kv_used[depth..noted]);

        let steps = taken - u32::from(lone);
        let mut time = StepTime::ZERO;
        time.accumulate(&walk.cost.fixed, steps.into());
        time.set(CostTerm::Attention, sum.attention);
        time.set(CostTerm::KvCopy, sum.kv_copy);
        time.set(CostTerm::Host, sum.host);
        self.busy += time.total();
        if steps > 0 {
            observer.on_steady(&SteadyRun {
                replica: self.id,
                index: index + u64::from(lone),
                steps,
                seqs,
                start,
                end,
                time,
                occupancy: Occupancy { kv_used: kv_used[noted - depth - 1], ..base },
            });
        }
        for behind in 0..depth {
            let (flight, turn) = (self.pipeline.at_mut(behind), walk.turn(behind));
            // Of the steps now in flight the newest is `taken` turns behind what was the newest.
            let later = u64::from(taken) + behind as u64 + 1 - depth as u64;
            flight.start = turn.start;
            flight.end = turn.end;
            flight.time = walk.cost.time(&turn.step);
            flight.index += u64::from(taken);
            flight.occupancy = Occupancy { kv_used: kv_used[noted - depth + behind], ..base };
            flight.step.shape = shape.after(later);
            flight.step.admitted.clear();
            flight.step.preempted.clear();
            flight.step.ended.clear();
        }
        let taken = u64::from(taken);
        self.completed_steps += taken;
        self.scheduled_steps += taken;
        self.output_tokens += taken * u64::from(seqs);
    }
}
