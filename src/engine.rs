//! The event loop: a virtual clock, replicas that step, requests that come and go.
//!
//! Between two boundaries nothing can change but the clock, so the engine moves from boundary to
//! boundary: the end of a step, or the arrival that wakes an idle replica. At each boundary a
//! replica completes its oldest step, drains the arrivals so far, applies aborts and asks its
//! scheduler for the next step. Where the scheduler promises that a number of turns will only
//! repeat the last one ([`Scheduler::steady_turns`]), the engine takes them in one go; the clock
//! moves by the same whole nanoseconds as if it had taken them one by one.
//!
//! Ties: events are ordered by (time, sequence number); arrivals at the instant of a boundary are
//! in before it. A reply that leaves at a boundary cannot come back as a new request in time for
//! the step that is decided there.

mod aborts;
mod audited;
pub mod event;
pub mod fleet;
pub mod invariants;
pub mod observer;
mod replica;
pub mod router;

use std::cell::RefCell;
use std::rc::Rc;

use crate::cost::StepCost;
use crate::request::{FinishReason, Request, RequestId};
use crate::scheduler::{Ended, Occupancy, Scheduler};
use crate::time::SimTime;
use crate::workload::Workload;

use aborts::AbortScript;
use audited::Audited;
use event::EventQueue;
use fleet::Fleet;
use invariants::Violations;
use observer::{FleetReport, Observer, Outcome, RequestRecord};
use replica::Replica;
use router::{ReplicaLoad, Router};

/// How a run ends, and what it is allowed to skip.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The run stops here with whatever is in flight; without it, it ends when the workload has
    /// sent everything and every request has ended.
    pub stop_at: Option<SimTime>,
    /// Take every step on its own.
    pub step_by_step: bool,
    /// Clients that go away: (time, `uid` of the request), in order of time.
    pub aborts: Vec<(SimTime, u64)>,
}

/// What a run did, as far as no observer is needed to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTotals {
    /// Steps completed, those taken in one go included.
    pub steps: u64,
    /// Tokens generated in them.
    pub output_tokens: u64,
    /// Requests that arrived.
    pub requests: u64,
    /// The instant of the last event.
    pub end: SimTime,
}

/// A deployment under load.
pub struct Simulation<W, O> {
    replicas: Vec<Replica>,
    router: Box<dyn Router>,
    workload: W,
    observer: O,
    options: RunOptions,
    events: EventQueue,
    now: SimTime,
    next_uid: u64,
    aborts: AbortScript,
    ended: Vec<Ended>,
    /// What a router sees of each replica; use of KV caches only while it is asked.
    loads: Vec<ReplicaLoad>,
    /// Those of them that a request may go to, where a fleet is choosy.
    accepting: Vec<ReplicaLoad>,
    /// What surrounds the replicas, where anything does.
    fleet: Option<Box<Fleet>>,
    /// What the workload last announced, or something of the fleet that comes before it.
    next_arrival: SimTime,
    /// What the watch over the schedulers has found, if the observer has asked for one.
    violations: Option<Rc<RefCell<Violations>>>,
}

impl<W: Workload, O: Observer> Simulation<W, O> {
    /// A simulation of `replicas`, each a scheduler and its cost model.
    pub fn new(
        replicas: Vec<(Box<dyn Scheduler>, Box<dyn StepCost>)>,
        router: Box<dyn Router>,
        workload: W,
        observer: O,
        options: RunOptions,
    ) -> Self {
        assert!(!replicas.is_empty(), "a deployment has at least one replica");
        let violations = observer.audits_schedulers().then(Rc::default);
        let loads = (0u16..).zip(&replicas).map(|(replica, _)| ReplicaLoad::of(replica)).collect();
        let replicas: Vec<Replica> = (0u16..)
            .zip(replicas)
            .map(|(id, (scheduler, cost))| {
                Replica::new(id, watched(scheduler, id, violations.as_ref()), cost)
            })
            .collect();
        Self {
            replicas,
            router,
            workload,
            observer,
            aborts: AbortScript::new(&options.aborts),
            options,
            events: EventQueue::default(),
            now: SimTime::ZERO,
            next_uid: 0,
            ended: Vec::new(),
            loads,
            accepting: Vec::new(),
            fleet: None,
            next_arrival: SimTime::MAX,
            violations,
        }
    }

    /// Runs to the end and gives the observer back.
    pub fn run(mut self) -> (RunTotals, O) {
        let stop_at = self.options.stop_at.unwrap_or(SimTime::MAX);
        self.look_ahead();
        loop {
            let arrival = self.next_arrival;
            let event = self.events.next_time().unwrap_or(SimTime::MAX);
            let next = arrival.min(event);
            if next == SimTime::MAX || next > stop_at {
                break;
            }
            debug_assert!(next >= self.now, "time never goes back");
            self.now = next;
            if arrival <= event {
                self.arrive();
            } else {
                let replica = self.events.pop().expect("an event was announced");
                self.boundaries(usize::from(replica), stop_at);
            }
        }
        if self.options.stop_at.is_some() && (self.is_serving() || self.now < stop_at) {
            self.now = stop_at;
        }
        self.close();
        if let Some(violations) = &self.violations {
            self.observer.on_violations(&violations.borrow());
        }
        let mut totals = RunTotals { requests: self.next_uid, end: self.now, ..Default::default() };
        for replica in &self.replicas {
            totals.steps += replica.completed_steps;
            totals.output_tokens += replica.output_tokens;
        }
        let end = self.now;
        let replicas = self.replicas.iter().map(|replica| replica.report(end)).collect();
        let mut report = FleetReport { replicas, ..FleetReport::default() };
        if let Some(fleet) = &self.fleet {
            fleet.complete_report(&mut report, end);
        }
        self.observer.on_fleet(&report);
        (totals, self.observer)
    }

    /// Asks the workload again: something has been taken from it or told to it.
    fn look_ahead(&mut self) {
        let next_request = self.workload.next_arrival();
        self.next_arrival = next_request.unwrap_or(SimTime::MAX);
        if let Some(fleet) = &mut self.fleet {
            let next = fleet.next_time(next_request, &self.replicas);
            self.next_arrival = self.next_arrival.min(next.unwrap_or(SimTime::MAX));
        }
    }

    fn arrive(&mut self) {
        if self.fleet.is_some() && self.fleet_event() {
            return;
        }
        let spec = self.workload.take();
        self.look_ahead();
        let mut request = Request::new(self.next_uid, spec, self.now);
        self.next_uid += 1;
        if self.fleet.is_some() {
            self.dispatch(request);
            return;
        }
        let chosen = if self.replicas.len() == 1 { 0 } else { self.route(&request) };
        let replica = &mut self.replicas[chosen];
        request.replica = replica.id;
        if replica.scheduler.admit(&request).is_err() {
            let refused = Outcome::Ended(FinishReason::Refused);
            let record = record(&request, self.now, 0, refused);
            self.observer.on_request(&record);
            self.workload.on_reply(&record);
            self.look_ahead();
            return;
        }
        self.place(request, chosen);
    }

    /// A replica has taken a request.
    fn place(&mut self, request: Request, chosen: usize) -> RequestId {
        let replica = &mut self.replicas[chosen];
        let uid = request.uid;
        let id = replica.requests.insert(request);
        replica.inbox.push(id);
        self.loads[chosen].outstanding += 1;
        self.aborts.arrived(uid, replica.id, id);
        self.wake(chosen);
        id
    }

    fn wake(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        if !replica.awake {
            replica.awake = true;
            self.events.push(self.now, replica.id);
        }
    }

    fn route(&mut self, request: &Request) -> usize {
        self.note_kv();
        self.router.route(request, &self.loads)
    }

    /// Tells the router of KV caches, if it looks at them.
    fn note_kv(&mut self) {
        debug_assert!(
            self.loads.iter().zip(&self.replicas).all(|(l, r)| l.outstanding == r.outstanding()),
            "loads are counted as they change"
        );
        if !self.router.looks_at_kv() {
            return;
        }
        for (load, replica) in self.loads.iter_mut().zip(&self.replicas) {
            let Occupancy { kv_used, kv_total, .. } = replica.scheduler.occupancy();
            (load.kv_used, load.kv_total) = (kv_used, kv_total);
        }
    }

    /// Whether any request is in flight.
    fn is_serving(&self) -> bool {
        self.replicas.iter().any(|replica| !replica.requests.is_empty())
    }

    /// The boundary of a replica that has come, and its further ones as long as they come before
    /// anything else. An event of this replica would be the newest, so equal times end the stretch.
    fn boundaries(&mut self, index: usize, stop_at: SimTime) {
        loop {
            self.boundary(index);
            let replica = &mut self.replicas[index];
            let Some(end) = replica.next_boundary() else {
                replica.awake = false;
                return;
            };
            let others = self.events.next_time().is_some_and(|other| other <= end);
            if others || self.next_arrival <= end || end > stop_at {
                self.events.push(end, replica.id);
                return;
            }
            self.now = end;
        }
    }

    /// The oldest step of a replica ends, or an idle replica wakes.
    fn boundary(&mut self, index: usize) {
        let now = self.now;
        let replica = &mut self.replicas[index];
        self.aborts.apply(now, replica, &mut self.ended);
        // Before the step ends, so that its tokens are not laid to those who have gone.
        self.end_requests(index);
        let replica = &mut self.replicas[index];
        replica.complete(now, &mut self.observer, &mut self.ended);
        self.end_requests(index);

        let replica = &mut self.replicas[index];
        replica.drain_inbox();
        self.aborts.apply(now, replica, &mut self.ended);
        replica.fill_pipeline(now, &mut self.observer, &mut self.ended);
        self.end_requests(index);

        self.fast_forward(index);
    }

    /// Takes as many steady turns as end before anything else can happen.
    fn fast_forward(&mut self, index: usize) {
        if self.options.step_by_step || self.observer.needs_every_step() {
            return;
        }
        let replica = &mut self.replicas[index];
        let turns = replica.steady_turns();
        if turns == 0 {
            return;
        }
        let others = [self.events.next_time(), self.aborts.next_time(), self.options.stop_at];
        let horizon = others.into_iter().flatten().fold(self.next_arrival, SimTime::min);
        replica.fast_forward(turns, horizon, &mut self.observer);
    }

    /// Reports and forgets the requests in `self.ended`.
    #[inline]
    fn end_requests(&mut self, index: usize) {
        if !self.ended.is_empty() {
            self.report_ended(index);
        }
    }

    fn report_ended(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        for ended in self.ended.drain(..) {
            replica.forget(ended.id);
            self.loads[index].outstanding -= 1;
            let request = replica.requests.get(ended.id);
            // Whatever the engine made of it: nobody was there any more.
            let reason = if request.client_gone { FinishReason::TimedOut } else { ended.reason };
            let outcome = Outcome::Ended(reason);
            let record = record(request, self.now, ended.output_tokens, outcome);
            if let Some(fleet) = &mut self.fleet
                && fleet.tries_again(self.now, request, reason)
            {
                replica.requests.remove(ended.id);
                self.observer.on_lost_attempt(&record);
                continue;
            }
            replica.ended += 1;
            replica.answered += u64::from(reason.is_success());
            replica.requests.remove(ended.id);
            self.aborts.ended(record.uid);
            self.observer.on_request(&record);
            self.workload.on_reply(&record);
        }
        self.stop_if_drained(index);
        self.look_ahead();
    }

    /// The run is over: what is still in flight is unfinished.
    fn close(&mut self) {
        for replica in &mut self.replicas {
            replica.drain_inbox();
        }
        let mut unfinished = Vec::new();
        for replica in &self.replicas {
            unfinished.extend(replica.requests.iter().map(|(id, request)| {
                let tokens = replica.scheduler.generated(id);
                record(request, self.now, tokens, Outcome::Unfinished)
            }));
        }
        if let Some(fleet) = &self.fleet {
            let clients = fleet.waiting_clients();
            unfinished.extend(clients.map(|r| record(r, self.now, 0, Outcome::Unfinished)));
        }
        unfinished.sort_by_key(|r| r.uid);
        for record in &unfinished {
            self.observer.on_request(record);
        }
    }
}

/// The scheduler, under watch where somebody wants to know or the build is for finding faults.
fn watched(
    scheduler: Box<dyn Scheduler>,
    replica: u16,
    found: Option<&Rc<RefCell<Violations>>>,
) -> Box<dyn Scheduler> {
    if found.is_some() || cfg!(debug_assertions) {
        Box::new(Audited::new(scheduler, replica, found.cloned()))
    } else {
        scheduler
    }
}

fn record(
    request: &Request,
    ended: SimTime,
    output_tokens: u32,
    outcome: Outcome,
) -> RequestRecord {
    RequestRecord {
        uid: request.uid,
        client: request.spec.client,
        replica: request.replica,
        priority: request.spec.priority,
        tenant: request.spec.tenant,
        arrival: request.sent,
        // A step decided behind the one in flight may lie beyond the end of the run.
        first_scheduled: request.first_scheduled.filter(|&at| at <= ended),
        first_token: request.first_token,
        ended,
        prompt_tokens: request.spec.prompt_tokens,
        output_tokens,
        cached_tokens: request.cached_tokens,
        preemptions: request.preemptions,
        retries: request.attempt(),
        outcome,
    }
}
