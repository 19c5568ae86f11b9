//! What surrounds the replicas: a door that closes, clients that lose patience, machines that come,
//! go and fail.
//!
//! Nothing here stands in the way of a step. It happens when a request arrives or ends, or at an
//! instant of its own, which the event loop takes for one more arrival; a run without these rules
//! has none. Ties: at one instant machines change first, then clients give up, then requests are
//! tried again, then new ones arrive; ends of steps come after all of them.

pub mod autoscaling;
mod machines;
pub mod rules;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::observer::{FleetReport, NO_REPLICA, Observer, Outcome};
use super::replica::Replica;
use super::router::ReplicaLoad;
use super::{Simulation, record};
use crate::random::{self, Use};
use crate::request::{FinishReason, Request, RequestId};
use crate::scheduler::{Ended, Refusal, Scheduler};
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;

use autoscaling::ReplicaMeasure;
use machines::{Change, Machines};
use rules::{FleetRules, LostRequests};

/// Makes a fresh scheduler for a replica that starts anew.
pub type NewScheduler = Box<dyn FnMut(u16) -> Box<dyn Scheduler>>;

pub(super) struct Fleet {
    rules: FleetRules,
    new_scheduler: NewScheduler,
    machines: Machines,
    /// Who gives up when, the next first. Most have been answered by then, and their entries are
    /// dropped as they come up.
    patience: BinaryHeap<Reverse<GivesUp>>,
    /// Who tries again when, in order of time and then of failing.
    again: BTreeMap<(SimTime, u64), Request>,
    entered: u64,
    jitter: ChaCha8Rng,
    /// When the workload sends its next request.
    next_request: Option<SimTime>,
}

/// A client that goes away unless it has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GivesUp {
    at: SimTime,
    /// In which order clients were handed over.
    number: u64,
    replica: u16,
    id: RequestId,
    uid: u64,
    attempt: u32,
}

/// Something that is due.
enum Due {
    Change(Change),
    GivesUp(u16, RequestId),
    Again(Box<Request>),
}

impl Fleet {
    pub(super) fn new(rules: FleetRules, new_scheduler: NewScheduler) -> Self {
        Self {
            machines: Machines::new(&rules),
            patience: BinaryHeap::new(),
            again: BTreeMap::new(),
            entered: 0,
            jitter: random::stream(rules.seed, Use::Retries),
            next_request: None,
            rules,
            new_scheduler,
        }
    }

    /// When the next thing happens here, if the run still needs it: machines may come and go for
    /// ever, but nobody looks once the last request has ended.
    pub(super) fn next_time(
        &mut self,
        next_request: Option<SimTime>,
        replicas: &[Replica],
    ) -> Option<SimTime> {
        self.next_request = next_request;
        let serving = || replicas.iter().any(|replica| !replica.requests.is_empty());
        if next_request.is_none() && self.again.is_empty() && !serving() {
            return None;
        }
        let clients = self.next_of_clients(replicas);
        let changes = self.machines.next_certain();
        let works = || replicas.iter().any(|replica| replica.awake);
        let idle = next_request.is_none() && clients.is_none() && changes.is_none() && !works();
        // Who is still here waits for what will never come.
        let recurring = if idle { None } else { self.machines.next_recurring() };
        [clients, changes, recurring].into_iter().flatten().min()
    }

    fn next_of_clients(&mut self, replicas: &[Replica]) -> Option<SimTime> {
        while let Some(Reverse(next)) = self.patience.peek() {
            let request = replicas[usize::from(next.replica)].requests.find(next.id);
            let waits = request.is_some_and(|request| {
                let same = request.uid == next.uid && request.attempt() == next.attempt;
                same && !request.client_gone
            });
            if waits {
                break;
            }
            self.patience.pop();
        }
        let gives_up = self.patience.peek().map(|Reverse(next)| next.at);
        let again = self.again.first_key_value().map(|(&(at, _), _)| at);
        [gives_up, again].into_iter().flatten().min()
    }

    /// What is due at `now`, before the workload's next request.
    fn take_due(&mut self, now: SimTime) -> Option<Due> {
        if let Some(change) = self.machines.take_due(now) {
            return Some(Due::Change(change));
        }
        if self.patience.peek().is_some_and(|Reverse(next)| next.at <= now) {
            return self.patience.pop().map(|Reverse(next)| Due::GivesUp(next.replica, next.id));
        }
        let first = self.again.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(Due::Again(Box::new(first.remove())))
    }

    /// The pools that a tenant's requests may go to.
    fn pools_for(&self, tenant: u16) -> impl Iterator<Item = u16> + '_ {
        let own = self.rules.serving.get(usize::from(tenant));
        let any = own.is_none().then(|| self.machines.pools());
        own.into_iter().flatten().copied().chain(any.into_iter().flatten())
    }

    fn number(&mut self) -> u64 {
        self.entered += 1;
        self.entered
    }

    /// The request has been handed to a replica: its client's patience begins.
    fn handed_over(&mut self, now: SimTime, id: RequestId, request: &Request) {
        let patience = self.rules.patience(request.spec.tenant);
        let Some(timeout) = patience.and_then(|patience| patience.timeout) else { return };
        let (at, number) = (now + timeout, self.number());
        let (replica, uid, attempt) = (request.replica, request.uid, request.attempt());
        self.patience.push(Reverse(GivesUp { at, number, replica, id, uid, attempt }));
    }

    /// Whether an attempt that ended for `reason` is followed by another; if so it stands in line.
    pub(super) fn tries_again(
        &mut self,
        now: SimTime,
        request: &Request,
        reason: FinishReason,
    ) -> bool {
        let (mut retries, mut resent) = (request.retries, request.resent);
        let resend = self.rules.lost_requests == LostRequests::Retry;
        let delay = if reason == FinishReason::ReplicaFailed && resend {
            resent = resent.saturating_add(1);
            SimDuration::ZERO
        } else {
            let Some(patience) = self.rules.patience(request.spec.tenant) else { return false };
            if !reason.may_pass() || u32::from(request.retries) >= patience.retries {
                return false;
            }
            let unit: f64 = self.jitter.random();
            retries = retries.saturating_add(1);
            patience.delay(u32::from(request.retries), unit)
        };
        let number = self.number();
        let next = Request { retries, resent, replica: NO_REPLICA, ..request.again(now + delay) };
        self.again.insert((now + delay, number), next);
        true
    }

    /// Requests whose clients wait to try again, in order of `uid`.
    pub(super) fn waiting_clients(&self) -> impl Iterator<Item = &Request> {
        self.again.values()
    }

    /// Adds what only the fleet knows.
    pub(super) fn complete_report(&self, report: &mut FleetReport, end: SimTime) {
        self.machines.complete_report(report, end);
    }
}

impl<W: Workload, O: Observer> Simulation<W, O> {
    /// Surrounds the replicas with `rules`, which count as many.
    pub fn with_fleet(mut self, rules: FleetRules, new_scheduler: NewScheduler) -> Self {
        assert_eq!(usize::from(rules.replicas()), self.replicas.len(), "replicas of the rules");
        // Pools number their replicas one after the other.
        let weights = rules
            .pools
            .iter()
            .flat_map(|pool| std::iter::repeat_n(pool.weight, usize::from(pool.replicas())));
        for (load, weight) in self.loads.iter_mut().zip(weights) {
            load.weight = weight;
        }
        self.fleet = Some(Box::new(Fleet::new(rules, new_scheduler)));
        self
    }

    /// Does what is due here, unless it is the workload's turn.
    pub(super) fn fleet_event(&mut self) -> bool {
        let Some(fleet) = &mut self.fleet else { return false };
        match fleet.take_due(self.now) {
            Some(Due::Change(change)) => self.change(change),
            Some(Due::GivesUp(replica, id)) => self.give_up(usize::from(replica), id),
            Some(Due::Again(request)) => self.dispatch(*request),
            None if fleet.next_request == Some(self.now) => return false,
            // What was to fail had failed already.
            None => {}
        }
        self.look_ahead();
        true
    }

    /// Sends a request to a replica, if the fleet takes it.
    pub(super) fn dispatch(&mut self, mut request: Request) {
        self.note_kv();
        let fleet = self.fleet.as_ref().expect("only a fleet dispatches");
        self.accepting.clear();
        for pool in fleet.pools_for(request.spec.tenant) {
            let replicas = fleet.machines.accepting(pool);
            self.accepting.extend(replicas.map(|replica| self.loads[usize::from(replica)]));
        }
        let up = self.accepting.len() as u64;
        let admission = fleet.rules.admission;
        let full =
            |limit: Option<u32>, count: u64| limit.is_some_and(|n| count >= u64::from(n) * up);
        let outstanding = self.accepting.iter().map(|load| u64::from(load.outstanding)).sum();
        let waiting = || {
            let of = |load: &ReplicaLoad| self.replicas[usize::from(load.replica)].waiting();
            self.accepting.iter().map(|load| u64::from(of(load))).sum()
        };
        let refusal = if self.accepting.is_empty() {
            Some(FinishReason::Unavailable)
        } else if full(admission.max_outstanding, outstanding)
            || (admission.max_waiting.is_some() && full(admission.max_waiting, waiting()))
        {
            Some(FinishReason::Rejected)
        } else {
            None
        };
        if let Some(reason) = refusal {
            request.replica = NO_REPLICA;
            self.turn_away(&request, reason, true);
            return;
        }
        let chosen = self.router.route(&request, &self.accepting);
        let chosen = usize::from(self.accepting[chosen].replica);
        let replica = &mut self.replicas[chosen];
        request.replica = replica.id;
        if let Err(refusal) = replica.scheduler.admit(&request) {
            // A server that is full says so as the router does; one that is asked for too much will
            // never take it.
            let full = matches!(refusal, Refusal::TooManyRequests { .. });
            self.turn_away(&request, FinishReason::Refused, full);
            return;
        }
        let id = self.place(request, chosen);
        let fleet = self.fleet.as_mut().expect("only a fleet dispatches");
        fleet.handed_over(self.now, id, self.replicas[chosen].requests.get(id));
        self.look_ahead();
    }

    /// Nobody takes the request now; its client may try again where that can help.
    fn turn_away(&mut self, request: &Request, reason: FinishReason, may_pass: bool) {
        let record = record(request, self.now, 0, Outcome::Ended(reason));
        let fleet = self.fleet.as_mut().expect("only a fleet turns away");
        let passing = if reason == FinishReason::Refused { FinishReason::Rejected } else { reason };
        if may_pass && fleet.tries_again(self.now, request, passing) {
            self.observer.on_lost_attempt(&record);
        } else {
            self.observer.on_request(&record);
            self.workload.on_reply(&record);
        }
        self.look_ahead();
    }

    /// The client of a live request goes away.
    fn give_up(&mut self, index: usize, id: RequestId) {
        let replica = &mut self.replicas[index];
        replica.requests.get_mut(id).client_gone = true;
        replica.abort(self.now, id, &mut self.ended);
        self.end_requests(index);
        self.wake(index);
    }

    fn change(&mut self, change: Change) {
        let fleet = self.fleet.as_mut().expect("only a fleet changes");
        match change {
            Change::Fails { machine } => {
                for replica in fleet.machines.replicas_of(machine) {
                    self.lose_requests(usize::from(replica));
                    self.stop_if_drained(usize::from(replica));
                }
            }
            Change::Recovers => {}
            Change::Starts { machine } => {
                for replica in fleet.machines.replicas_of(machine) {
                    let scheduler = (fleet.new_scheduler)(replica);
                    let scheduler = super::watched(scheduler, replica, self.violations.as_ref());
                    self.replicas[usize::from(replica)].start_anew(scheduler);
                    self.router.forget(replica);
                }
            }
            Change::Scales { pool } => {
                let accepting = fleet.machines.accepting(pool);
                let replicas = accepting.map(|replica| &self.replicas[usize::from(replica)]);
                let measures: Vec<ReplicaMeasure> = replicas
                    .map(|replica| ReplicaMeasure {
                        outstanding: replica.outstanding(),
                        waiting: replica.waiting(),
                        kv: replica.kv_usage(),
                    })
                    .collect();
                fleet.machines.scale(self.now, pool, &measures, &self.replicas);
            }
        }
    }

    /// Everything on a replica is lost, its cache included.
    fn lose_requests(&mut self, index: usize) {
        let fleet = self.fleet.as_mut().expect("only a fleet loses replicas");
        let replica = &mut self.replicas[index];
        replica.drain_inbox();
        let mut lost: Vec<(u64, Ended)> = replica
            .requests
            .iter()
            .map(|(id, request)| {
                let output_tokens = replica.scheduler.generated(id);
                (request.uid, Ended { id, reason: FinishReason::ReplicaFailed, output_tokens })
            })
            .collect();
        lost.sort_by_key(|&(uid, _)| uid);
        let scheduler = (fleet.new_scheduler)(replica.id);
        replica.start_anew(super::watched(scheduler, replica.id, self.violations.as_ref()));
        self.events.remove(replica.id);
        self.router.forget(replica.id);
        self.ended.extend(lost.into_iter().map(|(_, ended)| ended));
        self.end_requests(index);
    }

    /// The requests of a replica have changed: a machine that is to go may have become free.
    pub(super) fn stop_if_drained(&mut self, index: usize) {
        if let Some(fleet) = &mut self.fleet {
            let replica = self.replicas[index].id;
            fleet.machines.stop_if_drained(self.now, replica, &self.replicas);
        }
    }
}
