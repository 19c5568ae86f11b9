//! Which machines are there, and which of their replicas take requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use super::super::observer::FleetReport;
use super::super::replica::Replica;
use super::autoscaling::{Autoscaler, ReplicaMeasure};
use super::rules::{FleetRules, RandomFailures};
use crate::random::{self, Use};
use crate::time::{SimDuration, SimTime};

/// What the engine has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Everything on the replica is lost.
    Fails {
        replica: u16,
    },
    Recovers,
    /// The replicas of the machine start anew.
    Starts {
        machine: u16,
    },
    /// The autoscaler wants to look at the metrics.
    Scales,
}

/// Something that happens to a machine or replica. Those that were planned before it changed again
/// carry the number of an earlier change, and do not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Planned {
    Outage { replica: u16, duration: SimDuration },
    Failure { replica: u16, change: u32 },
    Recovery { replica: u16, change: u32 },
    Start { machine: u16, change: u32 },
    Scaling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Off,
    Starting,
    Up,
    /// Takes no requests any more, and goes when those it has are answered.
    Draining,
}

#[derive(Clone, Debug)]
struct Machine {
    state: State,
    change: u32,
    /// Since when it is paid for.
    since: SimTime,
    paid: SimDuration,
}

#[derive(Debug)]
struct Health {
    failed: bool,
    change: u32,
    /// Since when it is up, if it is: taking requests, or finishing those that it has.
    since: Option<SimTime>,
    up: SimDuration,
    failures: u32,
    rng: Option<ChaCha8Rng>,
}

/// In order of time and of planning.
type Plan = BinaryHeap<Reverse<(SimTime, u64, Planned)>>;

#[derive(Debug)]
pub(super) struct Machines {
    per_machine: u16,
    machines: Vec<Machine>,
    replicas: Vec<Health>,
    failures: Option<RandomFailures>,
    autoscaler: Option<Autoscaler>,
    /// What comes to an end: outages, recoveries, starts.
    certain: Plan,
    /// What goes on for ever: random failures, looks at the metrics.
    recurring: Plan,
    planned: u64,
    most: u16,
}

impl Machines {
    pub(super) fn new(rules: &FleetRules, replicas: u16) -> Self {
        let per_machine = rules.replicas_per_machine.max(1);
        let machine =
            Machine { state: State::Off, change: 0, since: SimTime::ZERO, paid: SimDuration::ZERO };
        let health = |replica: u16| Health {
            failed: false,
            change: 0,
            since: None,
            up: SimDuration::ZERO,
            failures: 0,
            rng: rules.failures.map(|_| random::stream(rules.seed, Use::Failures(replica.into()))),
        };
        let mut this = Self {
            per_machine,
            machines: vec![machine; usize::from(replicas / per_machine)],
            replicas: (0..replicas).map(health).collect(),
            failures: rules.failures,
            autoscaler: rules.autoscaling.map(Autoscaler::new),
            certain: Plan::new(),
            recurring: Plan::new(),
            planned: 0,
            most: 0,
        };
        for outage in &rules.outages {
            let (replica, duration) = (outage.replica, outage.duration);
            this.plan(SimTime::ZERO + outage.at, Planned::Outage { replica, duration });
        }
        for machine in 0..rules.machines.min(replicas / per_machine) {
            this.machines[usize::from(machine)].state = State::Starting;
            this.starts(SimTime::ZERO, machine);
        }
        if let Some(interval) = this.autoscaler.as_ref().map(|scaler| scaler.rule().interval) {
            this.plan(SimTime::ZERO + interval, Planned::Scaling);
        }
        this
    }

    pub(super) fn replicas_of(&self, machine: u16) -> Range<u16> {
        let first = machine * self.per_machine;
        first..first + self.per_machine
    }

    const fn machine_of(&self, replica: u16) -> usize {
        (replica / self.per_machine) as usize
    }

    pub(super) fn accepts(&self, replica: u16) -> bool {
        let machine = &self.machines[self.machine_of(replica)];
        machine.state == State::Up && !self.replicas[usize::from(replica)].failed
    }

    fn plan(&mut self, at: SimTime, planned: Planned) {
        self.planned += 1;
        let entry = Reverse((at, self.planned, planned));
        match planned {
            Planned::Failure { .. } | Planned::Scaling => self.recurring.push(entry),
            _ => self.certain.push(entry),
        }
    }

    /// When the next thing happens that comes to an end by itself.
    pub(super) fn next_certain(&mut self) -> Option<SimTime> {
        self.drop_outdated();
        self.certain.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn next_recurring(&mut self) -> Option<SimTime> {
        self.drop_outdated();
        self.recurring.peek().map(|Reverse((at, ..))| *at)
    }

    fn drop_outdated(&mut self) {
        let (machines, replicas) = (&self.machines, &self.replicas);
        let holds = |planned: &Planned| match *planned {
            Planned::Failure { replica, change } | Planned::Recovery { replica, change } => {
                replicas[usize::from(replica)].change == change
            }
            Planned::Start { machine, change } => machines[usize::from(machine)].change == change,
            Planned::Outage { .. } | Planned::Scaling => true,
        };
        for plan in [&mut self.certain, &mut self.recurring] {
            while plan.peek().is_some_and(|Reverse((.., planned))| !holds(planned)) {
                plan.pop();
            }
        }
    }

    /// What happens at `now`, done as far as this side of it goes.
    pub(super) fn take_due(&mut self, now: SimTime) -> Option<Change> {
        loop {
            self.drop_outdated();
            let first = |plan: &Plan| plan.peek().map(|Reverse((at, number, _))| (*at, *number));
            let (certain, recurring) = (first(&self.certain), first(&self.recurring));
            let plan = match (certain, recurring) {
                (Some(a), Some(b)) if b < a => &mut self.recurring,
                (None, Some(_)) => &mut self.recurring,
                _ => &mut self.certain,
            };
            if plan.peek().is_none_or(|Reverse((at, ..))| *at > now) {
                return None;
            }
            let Reverse((.., planned)) = plan.pop()?;
            if let Some(change) = self.happens(now, planned) {
                return Some(change);
            }
        }
    }

    fn happens(&mut self, now: SimTime, planned: Planned) -> Option<Change> {
        match planned {
            Planned::Outage { replica, duration } => self.fails(now, replica, Some(duration)),
            Planned::Failure { replica, .. } => self.fails(now, replica, None),
            Planned::Recovery { replica, .. } => {
                self.replicas[usize::from(replica)].failed = false;
                if self.machines[self.machine_of(replica)].state == State::Up {
                    self.takes_requests(now, replica);
                }
                Some(Change::Recovers)
            }
            Planned::Start { machine, .. } => {
                self.starts(now, machine);
                Some(Change::Starts { machine })
            }
            Planned::Scaling => {
                let interval = self.autoscaler.as_ref()?.rule().interval;
                self.plan(now + interval, Planned::Scaling);
                Some(Change::Scales)
            }
        }
    }

    /// `None` if there is nothing left to fail.
    fn fails(&mut self, now: SimTime, replica: u16, down: Option<SimDuration>) -> Option<Change> {
        let state = self.machines[self.machine_of(replica)].state;
        let failures = self.failures;
        let health = &mut self.replicas[usize::from(replica)];
        if health.failed || !matches!(state, State::Up | State::Draining) {
            return None;
        }
        let down = match (down, failures, &mut health.rng) {
            (Some(down), ..) => down,
            (None, Some(failures), Some(rng)) => exponential(failures.mttr, rng),
            (None, ..) => return None,
        };
        health.failed = true;
        health.failures += 1;
        health.change += 1;
        if let Some(since) = health.since.take() {
            health.up += now.since(since);
        }
        let change = health.change;
        self.plan(now + down, Planned::Recovery { replica, change });
        Some(Change::Fails { replica })
    }

    fn takes_requests(&mut self, now: SimTime, replica: u16) {
        let health = &mut self.replicas[usize::from(replica)];
        health.since = Some(now);
        health.change += 1;
        let change = health.change;
        if let (Some(failures), Some(rng)) = (self.failures, &mut health.rng) {
            let at = now + exponential(failures.mtbf, rng);
            self.plan(at, Planned::Failure { replica, change });
        }
    }

    /// A machine begins to take requests.
    fn starts(&mut self, now: SimTime, machine: u16) {
        self.machines[usize::from(machine)].state = State::Up;
        for replica in self.replicas_of(machine) {
            self.replicas[usize::from(replica)].failed = false;
            self.takes_requests(now, replica);
        }
        self.note_most();
    }

    fn note_most(&mut self) {
        let there = self.machines.iter().filter(|machine| machine.state != State::Off).count();
        self.most = self.most.max(u16::try_from(there).unwrap_or(u16::MAX));
    }

    /// Looks at the metrics of the replicas that take requests; starts and stops machines.
    pub(super) fn scale(
        &mut self,
        now: SimTime,
        measures: &[ReplicaMeasure],
        replicas: &[Replica],
    ) {
        let Some(scaler) = &mut self.autoscaler else { return };
        let counted = |machine: &&Machine| matches!(machine.state, State::Up | State::Starting);
        let there = self.machines.iter().filter(counted).count() as u16;
        let wanted = scaler.decide(now, there, self.per_machine, measures);
        let delay = scaler.rule().start_up_delay;
        for _ in there..wanted {
            self.add_machine(now, delay);
        }
        for _ in wanted..there {
            self.remove_machine(now, replicas);
        }
        self.note_most();
    }

    /// One that was to go stays; else the first that is off is ordered.
    fn add_machine(&mut self, now: SimTime, delay: SimDuration) {
        let find = |wanted: State, machines: &[Machine]| {
            machines.iter().position(|machine| machine.state == wanted)
        };
        if let Some(kept) = find(State::Draining, &self.machines) {
            self.machines[kept].state = State::Up;
            for replica in self.replicas_of(kept as u16) {
                // Who has recovered in the meantime was not wanted then.
                let health = &self.replicas[usize::from(replica)];
                if !health.failed && health.since.is_none() {
                    self.takes_requests(now, replica);
                }
            }
        } else if let Some(ordered) = find(State::Off, &self.machines) {
            let machine = &mut self.machines[ordered];
            machine.state = State::Starting;
            machine.since = now;
            machine.change += 1;
            let change = machine.change;
            self.plan(now + delay, Planned::Start { machine: ordered as u16, change });
        }
    }

    /// The last that is on its way is cancelled; else the last that is up is drained.
    fn remove_machine(&mut self, now: SimTime, replicas: &[Replica]) {
        let last = |wanted: State, machines: &[Machine]| {
            machines.iter().rposition(|machine| machine.state == wanted)
        };
        if let Some(cancelled) = last(State::Starting, &self.machines) {
            self.stop(now, cancelled);
        } else if let Some(drained) = last(State::Up, &self.machines) {
            self.machines[drained].state = State::Draining;
            self.stop_if_drained(now, drained as u16 * self.per_machine, replicas);
        }
    }

    /// A machine that is to go does so when none of its replicas has a request.
    pub(super) fn stop_if_drained(&mut self, now: SimTime, replica: u16, replicas: &[Replica]) {
        let machine = self.machine_of(replica);
        if self.machines[machine].state != State::Draining {
            return;
        }
        let mut own = self.replicas_of(machine as u16);
        if own.all(|replica| replicas[usize::from(replica)].outstanding == 0) {
            self.stop(now, machine);
        }
    }

    fn stop(&mut self, now: SimTime, machine: usize) {
        for replica in self.replicas_of(machine as u16) {
            let health = &mut self.replicas[usize::from(replica)];
            health.change += 1;
            if let Some(since) = health.since.take() {
                health.up += now.since(since);
            }
        }
        let machine = &mut self.machines[machine];
        machine.state = State::Off;
        machine.change += 1;
        machine.paid += now.since(machine.since);
    }

    /// What only the machines know, when the run ends.
    pub(super) fn complete_report(&self, report: &mut FleetReport, end: SimTime) {
        for (row, health) in report.replicas.iter_mut().zip(&self.replicas) {
            let last = health.since.map_or(SimDuration::ZERO, |since| end.since(since));
            row.up = health.up + last;
            row.failures = health.failures;
        }
        let paid = |machine: &Machine| match machine.state {
            State::Off => machine.paid,
            _ => machine.paid + end.since(machine.since),
        };
        report.machine_time = Some(self.machines.iter().map(paid).sum());
        report.most_machines = self.most;
        report.end = end;
    }
}

fn exponential(mean: SimDuration, rng: &mut ChaCha8Rng) -> SimDuration {
    let unit: f64 = Exp1.sample(rng);
    SimDuration::from_secs_f64(mean.as_secs_f64() * unit)
}
