//! The first step at which two schedules part.
//!
//! Both schedulers get the same requests at the same instants, and their steps last as long as those
//! of A: so what differs is what they decide, and not how fast they are. Requests of a closed loop
//! come when they came under A.

use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::deploy::Deployment;
use crate::engine::RunOptions;
use crate::engine::observer::{Observer, ScheduledStep};
use crate::request::{RequestId, RequestSpec, RequestTable};
use crate::scheduler::Step;
use crate::time::{SimDuration, SimTime};
use crate::workload::{Retold, Taken, Taped, Workload};

/// Requests over which schedules are followed: few first, since most part early.
const REQUESTS: [usize; 3] = [64, 512, 4096];

/// How the schedules of A and B compare.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedules {
    Part(Box<Parting>),
    Agree(Agreement),
}

/// Where they part.
#[derive(Clone, Debug, Serialize)]
pub struct Parting {
    pub replica: u16,
    /// Steps of the replica before it that work on anything; the same under both.
    pub step: usize,
    #[serde(serialize_with = "seconds")]
    pub at: SimTime,
    /// Nothing where the one has no such step any more.
    pub a: Option<StepView>,
    pub b: Option<StepView>,
    /// The last step on which both agree.
    pub before: Option<StepView>,
    /// Steps were compared request by request, since those of the two add up differently.
    #[serde(skip)]
    by_members: bool,
}

impl Parting {
    /// When the later of the two steps begins; nothing where the one never does.
    pub fn until(&self) -> Option<SimTime> {
        Some(self.a.as_ref()?.start.max(self.b.as_ref()?.start))
    }
}

/// They do not.
#[derive(Clone, Debug, Serialize)]
pub struct Agreement {
    /// Followed so far.
    pub requests: usize,
    pub steps: usize,
    /// Whether those are all requests of the run.
    pub all: bool,
    /// The first step that lasts differently when each has its own cost.
    pub cost: Option<CostDifference>,
}

/// A step in which both do the same, and one takes longer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CostDifference {
    pub step: usize,
    pub a_ms: f64,
    pub b_ms: f64,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepView {
    #[serde(serialize_with = "seconds")]
    pub start: SimTime,
    #[serde(serialize_with = "millis")]
    pub lasts: SimDuration,
    pub sequences: u32,
    pub tokens: u64,
    /// In order of the requests' numbers; empty where the scheduler does not tell.
    pub batch: Vec<Member>,
    /// Requests that it works on for the first time, and those taken off before it.
    pub admitted: Vec<u64>,
    pub preempted: Vec<u64>,
    pub running: u32,
    pub waiting: u32,
    /// In blocks where the engine has them, else in tokens.
    pub kv_used: u64,
    pub kv_total: u64,
}

/// A request's part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Member {
    pub request: u64,
    pub new_tokens: u32,
    /// Tokens whose KV stood in the cache before.
    pub computed_tokens: u32,
}

fn seconds<S: serde::Serializer>(at: &SimTime, ser: S) -> Result<S::Ok, S::Error> {
    ser.serialize_f64(at.as_secs_f64())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn millis<S: serde::Serializer>(lasts: &SimDuration, ser: S) -> Result<S::Ok, S::Error> {
    ser.serialize_f64(lasts.as_millis_f64())
}

/// Both sides with the cost of the first.
pub struct Contest<'a> {
    a: &'a Deployment<'a>,
    b: &'a Deployment<'a>,
    b_at_cost_of_a: Deployment<'a>,
}

impl<'a> Contest<'a> {
    pub fn new(a: &'a Deployment<'a>, b: &'a Deployment<'a>) -> Self {
        Self { a, b, b_at_cost_of_a: b.priced_as(a) }
    }

    /// Follows the run with `seed`. Also the requests up to the parting.
    pub fn follow(&self, seed: u64) -> (Schedules, Taken) {
        let mut all = false;
        let mut requests = Taken::new();
        for most in REQUESTS {
            if all {
                break;
            }
            requests = self.taken(seed, most);
            all = requests.len() < most;
            let retold: Arc<[(SimTime, RequestSpec)]> = requests.clone().into();
            let workload = || Box::new(Retold::new(Arc::clone(&retold))) as Box<dyn Workload>;
            if let Some(parting) = self.parting(&workload, self.a.stop_at()) {
                let until = parting.until().unwrap_or(SimTime::MAX);
                requests.retain(|&(at, _)| at <= until);
                return (Schedules::Part(Box::new(parting)), requests);
            }
        }
        let agreement = self.agreement(&requests, all);
        (Schedules::Agree(agreement), requests)
    }

    /// The first requests of the run of A.
    fn taken(&self, seed: u64, most: usize) -> Taken {
        let (workload, taken) = Taped::new(self.a.workload(seed), most);
        let options = RunOptions { stop_at: self.a.stop_at(), ..RunOptions::default() };
        self.a.drive(Box::new(workload), seed, (), options, false);
        Rc::unwrap_or_clone(taken).into_inner()
    }

    /// Where the two part under `workload`, if they do up to `horizon`; with one, only where both have
    /// a step by then.
    pub fn parting(
        &self,
        workload: &dyn Fn() -> Box<dyn Workload>,
        horizon: Option<SimTime>,
    ) -> Option<Parting> {
        let parting = self.parting_by(workload, horizon, false)?;
        // What a step adds up to differs between families that do the same; its members then tell.
        let told =
            |view: &Option<StepView>| view.as_ref().is_some_and(|view| !view.batch.is_empty());
        if told(&parting.a) && told(&parting.b) && !differ(&parting) {
            return self.parting_by(workload, horizon, true);
        }
        Some(parting)
    }

    fn parting_by(
        &self,
        workload: &dyn Fn() -> Box<dyn Workload>,
        horizon: Option<SimTime>,
        by_members: bool,
    ) -> Option<Parting> {
        let place = self.first_difference(workload, horizon, by_members)?;
        let look =
            |side: &Deployment<'_>| run(side, workload(), Look::at(place), Some(place.until)).seen;
        let ([before, a], [_, b]) = (look(self.a), look(&self.b_at_cost_of_a));
        let Place { replica, step, at, .. } = place;
        Some(Parting { replica, step, at, a, b, before, by_members })
    }

    /// Whether the two part under `workload` up to where they do in `parting`, told as there.
    pub fn parts(
        &self,
        workload: &dyn Fn() -> Box<dyn Workload>,
        horizon: Option<SimTime>,
        parting: &Parting,
    ) -> bool {
        self.first_difference(workload, horizon, parting.by_members).is_some()
    }

    fn first_difference(
        &self,
        workload: &dyn Fn() -> Box<dyn Workload>,
        horizon: Option<SimTime>,
        by_members: bool,
    ) -> Option<Place> {
        let log = |side: &Deployment<'_>| run(side, workload(), Log::new(by_members), horizon);
        let (a, b) = (log(self.a), log(&self.b_at_cost_of_a));
        first_difference(&a, &b, horizon)
    }

    fn agreement(&self, requests: &Taken, all: bool) -> Agreement {
        let retold = Retold::new(requests.clone());
        let log = |side: &Deployment<'_>| {
            run(side, Box::new(retold.clone()), Log::new(false), side.stop_at())
        };
        let (a, b) = (log(self.a), log(self.b));
        let both = a.steps.first().into_iter().flatten().zip(b.steps.first().into_iter().flatten());
        let other = both.enumerate().find(|(_, (a, b))| a.lasts != b.lasts);
        Agreement {
            requests: requests.len(),
            steps: a.steps.iter().map(Vec::len).sum(),
            all,
            cost: other.map(|(step, (a, b))| CostDifference {
                step,
                a_ms: a.lasts.as_millis_f64(),
                b_ms: b.lasts.as_millis_f64(),
            }),
        }
    }
}

fn differ(parting: &Parting) -> bool {
    let what = |view: &Option<StepView>| {
        view.as_ref().map(|v| (v.batch.clone(), v.admitted.clone(), v.preempted.clone()))
    };
    what(&parting.a) != what(&parting.b)
}

fn run<O: Observer + Detailed>(
    side: &Deployment<'_>,
    workload: Box<dyn Workload>,
    observer: O,
    stop_at: Option<SimTime>,
) -> O {
    let options = RunOptions { stop_at, step_by_step: true, ..RunOptions::default() };
    let detail = observer.wants_detail();
    let seed = side.scenario().workload.seed;
    side.drive(workload, seed, observer, options, detail).observer
}

trait Detailed {
    fn wants_detail(&self) -> bool;
}

/// A step by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    replica: u16,
    step: usize,
    /// When it begins under A or B, the earlier and the later.
    at: SimTime,
    until: SimTime,
}

/// A step as far as it is compared.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Of what is decided.
    hash: u64,
    start: SimTime,
    lasts: SimDuration,
}

/// The steps of a run that work on anything, by replica.
#[derive(Debug)]
struct Log {
    steps: Vec<Vec<Entry>>,
    /// Preempted in steps that worked on nothing.
    preempted: Vec<Vec<u64>>,
    /// Compare each request's part, and not what they add up to.
    by_members: bool,
}

impl Log {
    const fn new(by_members: bool) -> Self {
        Self { steps: Vec::new(), preempted: Vec::new(), by_members }
    }
}

impl Detailed for Log {
    fn wants_detail(&self) -> bool {
        self.by_members
    }
}

impl Observer for Log {
    fn needs_every_step(&self) -> bool {
        true
    }

    fn on_scheduled(&mut self, scheduled: &ScheduledStep<'_>) {
        let replica = usize::from(scheduled.replica);
        if self.steps.len() <= replica {
            self.steps.resize(replica + 1, Vec::new());
            self.preempted.resize(replica + 1, Vec::new());
        }
        let uid = |id: &RequestId| scheduled.requests.get(*id).uid;
        let preempted = &mut self.preempted[replica];
        preempted.extend(scheduled.step.preempted.iter().map(uid));
        let shape = &scheduled.step.shape;
        if shape.is_empty() {
            return;
        }
        let mut hash = Xxh3::new();
        let mut add = |number: u64| hash.update(&number.to_le_bytes());
        if self.by_members {
            for member in members(scheduled.step, scheduled.requests) {
                add(member.request);
                add(u64::from(member.new_tokens));
            }
        } else {
            add(u64::from(shape.prefill_seqs) + u64::from(shape.decode_seqs));
            add(shape.tokens());
            add(shape.prefill_context + shape.decode_context);
        }
        for mut list in [
            scheduled.step.admitted.iter().map(|(id, _)| uid(id)).collect(),
            std::mem::take(preempted),
        ] {
            list.sort_unstable();
            add(list.len() as u64);
            list.into_iter().for_each(&mut add);
        }
        let lasts = scheduled.end.since(scheduled.start);
        self.steps[replica].push(Entry { hash: hash.digest(), start: scheduled.start, lasts });
    }
}

/// The earliest place in which two logs differ. Where runs were cut at `horizon`, a step that the one
/// has not begun by then is no difference: another shape of the same batch may have taken longer, and
/// an asynchronous scheduler has decided one step more.
fn first_difference(a: &Log, b: &Log, horizon: Option<SimTime>) -> Option<Place> {
    let replicas = a.steps.len().max(b.steps.len());
    let differences = (0..replicas).filter_map(|replica| {
        let steps = |log: &Log| log.steps.get(replica).map_or(0, Vec::len);
        let of = |log: &Log, step: usize| {
            let entry = log.steps.get(replica)?.get(step)?;
            horizon.is_none_or(|horizon| entry.start <= horizon).then_some(*entry)
        };
        let differ = |step: &usize| match (of(a, *step), of(b, *step)) {
            (Some(a), Some(b)) => a.hash != b.hash,
            (None, None) => false,
            _ => horizon.is_none(),
        };
        let step = (0..steps(a).max(steps(b))).find(differ)?;
        let starts = || [of(a, step), of(b, step)].into_iter().flatten().map(|entry| entry.start);
        let (at, until) = (starts().min()?, starts().max()?);
        Some(Place { replica: u16::try_from(replica).expect("it came from one"), step, at, until })
    });
    differences.min_by_key(|place| (place.at, place.replica))
}

/// Looks at the step at a place and at the one before it.
#[derive(Debug)]
struct Look {
    place: Place,
    steps: usize,
    preempted: Vec<u64>,
    /// Before it, and it.
    seen: [Option<StepView>; 2],
}

impl Look {
    const fn at(place: Place) -> Self {
        Self { place, steps: 0, preempted: Vec::new(), seen: [None, None] }
    }
}

impl Detailed for Look {
    fn wants_detail(&self) -> bool {
        true
    }
}

impl Observer for Look {
    fn needs_every_step(&self) -> bool {
        true
    }

    fn on_scheduled(&mut self, scheduled: &ScheduledStep<'_>) {
        if scheduled.replica != self.place.replica {
            return;
        }
        let ScheduledStep { step, requests, occupancy, .. } = scheduled;
        let uid = |id: &RequestId| requests.get(*id).uid;
        self.preempted.extend(step.preempted.iter().map(uid));
        if step.shape.is_empty() {
            return;
        }
        let preempted = std::mem::take(&mut self.preempted);
        let seen = match self.steps {
            steps if steps + 1 == self.place.step => Some(0),
            steps if steps == self.place.step => Some(1),
            _ => None,
        };
        if let Some(seen) = seen {
            self.seen[seen] = Some(StepView {
                start: scheduled.start,
                lasts: scheduled.end.since(scheduled.start),
                sequences: step.shape.prefill_seqs + step.shape.decode_seqs,
                tokens: step.shape.tokens(),
                batch: members(step, requests),
                admitted: step.admitted.iter().map(|(id, _)| uid(id)).collect(),
                preempted,
                running: occupancy.running,
                waiting: occupancy.waiting,
                kv_used: occupancy.kv_used,
                kv_total: occupancy.kv_total,
            });
        }
        self.steps += 1;
    }
}

/// Who is in a step, by number; nobody where the scheduler does not tell.
fn members(step: &Step, requests: &RequestTable) -> Vec<Member> {
    let scheduled = step.detail.iter().flat_map(|detail| &detail.scheduled);
    let mut members: Vec<Member> = scheduled
        .map(|sequence| Member {
            request: requests.get(sequence.id).uid,
            new_tokens: sequence.new_tokens,
            computed_tokens: sequence.computed_tokens,
        })
        .collect();
    members.sort_unstable();
    members
}
