//! What the replays of all formats have in common: the watch over the scheduler, the cost that a
//! recording itself holds, and where the steps of a run go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;

use serde_json::Value;

use crate::cost::{CostTerm, DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::invariants::Violations;
use crate::engine::observer::{CompletedStep, Observer, RequestRecord, SteadyRun};
use crate::engine::router::RoundRobin;
use crate::engine::{RunOptions, RunTotals, Simulation};
use crate::request::{Request, RequestId};
use crate::scheduler::audit::{Audit, Depth};
use crate::scheduler::{Ended, Occupancy, Refusal, Scheduler, Step, StepOutcome};
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use super::divergence::State;
use super::{ConformanceError, Divergence, Verdict, first_difference};

/// The value of `cost` in a recording whose steps last as long as they were recorded to last.
pub(super) const RECORDED_COST: &str = "recorded";

/// What drives a scheduler.
pub(super) struct Drive {
    pub(super) scheduler: Box<dyn Scheduler>,
    pub(super) cost: Box<dyn StepCost>,
    pub(super) workload: Box<dyn Workload>,
    pub(super) aborts: Vec<(SimTime, u64)>,
    pub(super) stop_at: Option<SimTime>,
}

impl Drive {
    /// Runs, watched by `observer`; `watch` sees what observers do not.
    pub(super) fn run<O: Observer>(self, watch: Watch, observer: O) -> O {
        if let Some(pace) = &watch.pace {
            pace.seen.replace(self.run_plainly(pace.step_by_step));
            return observer;
        }
        let log = Rc::clone(&watch.log);
        let mut scheduler = self.scheduler;
        scheduler.record_detail();
        let scheduler: Box<dyn Scheduler> =
            Box::new(Watched { scheduler, uids: Vec::new(), steps: 0, watch });
        let options =
            RunOptions { aborts: self.aborts, stop_at: self.stop_at, ..RunOptions::default() };
        let replicas = vec![(scheduler, self.cost)];
        let router = Box::new(RoundRobin::default());
        let observer = (observer, Checks(Rc::clone(&log)));
        Simulation::new(replicas, router, self.workload, observer, options).run().1.0
    }

    /// Runs as `servesim run` does: no block has a name that need not, and steps may be jumped over.
    fn run_plainly(self, step_by_step: bool) -> Option<(RunTotals, Seen)> {
        let options = RunOptions { aborts: self.aborts, stop_at: self.stop_at, step_by_step };
        let replicas = vec![(self.scheduler, self.cost)];
        let router = Box::new(RoundRobin::default());
        let seen = Seen::default();
        Some(Simulation::new(replicas, router, self.workload, seen, options).run())
    }
}

/// What may not depend on the pace.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen {
    records: Vec<RequestRecord>,
    gaps: BTreeMap<SimDuration, u64>,
    busy: StepTime,
}

impl Observer for Seen {
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.busy.accumulate(step.time, 1);
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        self.busy.accumulate(&run.time, 1);
    }

    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        *self.gaps.entry(gap).or_default() += u64::from(sequences);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        self.records.push(*record);
    }
}

/// A run whose steps nobody compares.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    step_by_step: bool,
    seen: Rc<RefCell<Option<(RunTotals, Seen)>>>,
}

/// Has the invariants checked: who replays a schedule wants to know what is wrong with it.
struct Checks(Rc<RefCell<Log>>);

impl Observer for Checks {
    fn audits_schedulers(&self) -> bool {
        true
    }

    fn on_violations(&mut self, violations: &Violations) {
        self.0.borrow_mut().broken = violations.lines();
    }
}

/// The lists of a recording by name, the steps first.
pub(super) type Lists = Vec<(&'static str, Vec<Value>)>;

/// Compares a recording with what `run` writes. It is run again for the report of a divergence: what
/// stood before the step in question is gathered only then. Where the recording is reproduced and the
/// cost `can_jump`, it is run twice more, to see whether the jump changes anything.
pub(super) fn compare(
    engine: &str,
    recorded: &Lists,
    can_jump: bool,
    run: impl Fn(Watch) -> Result<Lists, ConformanceError>,
) -> Result<Verdict, ConformanceError> {
    let steps = recorded[0].1.len();
    // What a damaged recording asks for may keep a scheduler busy for ever.
    let watch = |look_at| Watch { look_at, most_steps: steps + 8, ..Watch::unlimited() };
    let plain = watch(None);
    let log = Rc::clone(&plain.log);
    let ours = run(plain)?;
    let broken = std::mem::take(&mut log.borrow_mut().broken);
    let mut divergence = recorded
        .iter()
        .zip(&ours)
        .find_map(|((name, expected), (_, actual))| first_difference(name, expected, actual));
    if let Some(Divergence { list: "steps", index, state, .. }) = &mut divergence {
        let watch = watch(Some(*index));
        let log = Rc::clone(&watch.log);
        run(watch)?;
        *state = log.borrow_mut().state.take();
    }
    let jumps_alike = (can_jump && divergence.is_none() && broken.is_empty())
        .then(|| {
            let at_pace = |step_by_step| {
                let seen = Rc::default();
                let pace = Pace { step_by_step, seen: Rc::clone(&seen) };
                run(Watch { pace: Some(pace), ..Watch::unlimited() })?;
                Ok(seen.take())
            };
            Ok(at_pace(true)? == at_pace(false)?)
        })
        .transpose()?;
    Ok(Verdict { engine: engine.to_owned(), steps, divergence, broken, jumps_alike })
}

/// What the watch over a scheduler notes.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) log: Rc<RefCell<Log>>,
    /// The step before which the state is to be noted.
    pub(super) look_at: Option<usize>,
    /// Steps that may be scheduled.
    pub(super) most_steps: usize,
    /// Neither watch nor compare, but run at this pace.
    pub(super) pace: Option<Pace>,
}

impl Watch {
    pub(super) fn unlimited() -> Self {
        Self { log: Rc::default(), look_at: None, most_steps: usize::MAX, pace: None }
    }
}

/// The `uid`s that the scheduler was told of between two steps, which observers do not see.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) added: Vec<u64>,
    pub(super) aborted: Vec<u64>,
    /// Aborted just before the update of a step.
    pub(super) aborted_before_update: Vec<u64>,
    pub(super) state: Option<State>,
    /// Invariants that did not hold.
    pub(super) broken: Vec<String>,
}

/// The scheduler under test, with a note of each arrival and abort.
struct Watched {
    scheduler: Box<dyn Scheduler>,
    /// The `uid` in each slot.
    uids: Vec<u64>,
    steps: usize,
    watch: Watch,
}

impl Watched {
    fn state(&self) -> State {
        let uid = |id: RequestId| self.uids[id.index()];
        let audit = self.scheduler.audit(Depth::Queues).unwrap_or_default();
        let Occupancy { kv_used, kv_total, .. } = self.scheduler.occupancy();
        State {
            running: audit.running.iter().map(|holding| uid(holding.id)).collect(),
            waiting: audit.waiting.iter().map(|&id| uid(id)).collect(),
            kv_free: kv_total.saturating_sub(kv_used),
            kv_total,
        }
    }
}

impl Scheduler for Watched {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        self.scheduler.admit(request)
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        if self.uids.len() <= id.index() {
            self.uids.resize(id.index() + 1, 0);
        }
        self.uids[id.index()] = request.uid;
        self.watch.log.borrow_mut().added.push(request.uid);
        self.scheduler.enqueue(id, request);
    }

    fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        self.watch.log.borrow_mut().aborted.push(self.uids[id.index()]);
        self.scheduler.abort(now, id, ended);
    }

    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        if self.watch.look_at == Some(self.steps) {
            self.watch.log.borrow_mut().state = Some(self.state());
        }
        let runs = self.scheduler.schedule(now, step);
        self.steps += usize::from(runs);
        runs
    }

    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome) {
        let log = &mut *self.watch.log.borrow_mut();
        log.aborted_before_update.append(&mut log.aborted);
        self.scheduler.complete(start, now, outcome);
    }

    fn has_work(&self) -> bool {
        self.steps < self.watch.most_steps && self.scheduler.has_work()
    }

    fn generated(&self, id: RequestId) -> u32 {
        self.scheduler.generated(id)
    }

    fn occupancy(&self) -> Occupancy {
        self.scheduler.occupancy()
    }

    fn pipeline_depth(&self) -> usize {
        self.scheduler.pipeline_depth()
    }

    fn audit(&self, depth: Depth) -> Option<Audit> {
        self.scheduler.audit(depth)
    }
}

/// Steps that last as long as those of the recording, one after the other. Behind the recording's
/// end, where nothing is compared any more, they last as long as its last one.
#[derive(Debug)]
pub(super) struct RecordedCost {
    durations: Vec<SimDuration>,
    next: usize,
}

impl RecordedCost {
    pub(super) fn new(durations: Vec<SimDuration>) -> Self {
        Self { durations, next: 0 }
    }
}

impl StepCost for RecordedCost {
    fn step(&mut self, _: &StepShape) -> StepTime {
        let lasts = self.durations.get(self.next).or(self.durations.last());
        self.next += 1;
        let mut time = StepTime::ZERO;
        time.set(CostTerm::Linear, lasts.copied().unwrap_or(SimDuration::ZERO));
        time
    }

    fn decode(&mut self, _: u32) -> DecodeCost {
        unreachable!("every step of a replay is taken on its own")
    }
}

/// Where the steps of a run go as they are complete.
pub(super) enum Steps<'a> {
    /// To be compared.
    Kept(Vec<Value>),
    /// To be recorded, so that memory does not grow with them.
    Written { out: &'a mut dyn Write, count: u64, result: io::Result<()> },
}

impl<'a> Steps<'a> {
    pub(super) fn kept() -> Self {
        Self::Kept(Vec::new())
    }

    pub(super) fn written(out: &'a mut dyn Write) -> Self {
        Self::Written { out, count: 0, result: Ok(()) }
    }

    pub(super) fn push(&mut self, step: Value) {
        match self {
            Self::Kept(steps) => steps.push(step),
            Self::Written { out, count, result } => {
                let separator = if *count == 0 { "\n" } else { ",\n" };
                *count += 1;
                if result.is_ok() {
                    *result = write!(out, "{separator}{step}");
                }
            }
        }
    }

    pub(super) fn into_kept(self) -> Vec<Value> {
        match self {
            Self::Kept(steps) => steps,
            Self::Written { .. } => Vec::new(),
        }
    }

    /// How many were written.
    pub(super) fn finish(self) -> io::Result<u64> {
        match self {
            Self::Kept(steps) => Ok(steps.len() as u64),
            Self::Written { count, result, .. } => result.map(|()| count),
        }
    }
}
