//! Which machines are there, and which of them take requests.
//!
//! What comes, goes and fails is a machine, with all replicas on it: they share its power, its host
//! and its driver, and the cloud lends nothing smaller.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use super::super::observer::{FleetReport, PoolReport};
use super::super::replica::Replica;
use super::autoscaling::{Autoscaler, ReplicaMeasure};
use super::rules::{FleetRules, PoolRules, RandomFailures};
use crate::random::{self, Use};
use crate::time::{SimDuration, SimTime};

/// What the engine has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Everything on the machine is lost.
    Fails {
        machine: u16,
    },
    Recovers,
    /// The replicas of the machine start anew.
    Starts {
        machine: u16,
    },
    /// The autoscaler of the pool wants to look at the metrics.
    Scales {
        pool: u16,
    },
}

/// Something that happens to a machine. What was planned before it changed again carries the number
/// of an earlier change, and does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Planned {
    Outage { machine: u16, duration: SimDuration },
    Failure { machine: u16, change: u32 },
    Recovery { machine: u16, change: u32 },
    Start { machine: u16, change: u32 },
    Scaling { pool: u16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Off,
    Starting,
    Up,
    /// Takes no requests any more, and goes when those it has are answered.
    Draining,
}

#[derive(Debug)]
struct Machine {
    pool: u16,
    /// The first of its replicas, and how many they are.
    first: u16,
    replicas: u16,
    state: State,
    failed: bool,
    /// Counts what happens to it.
    change: u32,
    /// Since when it is paid for.
    paid_since: SimTime,
    paid: SimDuration,
    /// Since when it is up, if it is: taking requests, or finishing those that it has.
    up_since: Option<SimTime>,
    up: SimDuration,
    failures: u32,
    rng: Option<ChaCha8Rng>,
}

impl Machine {
    const fn replicas(&self) -> Range<u16> {
        self.first..self.first + self.replicas
    }

    const fn accepts(&self) -> bool {
        matches!(self.state, State::Up) && !self.failed
    }

    fn goes_down(&mut self, now: SimTime) {
        self.change += 1;
        if let Some(since) = self.up_since.take() {
            self.up += now.since(since);
        }
    }
}

/// Machines of one kind.
#[derive(Debug)]
struct Pool {
    rules: PoolRules,
    machines: Range<usize>,
    autoscaler: Option<Autoscaler>,
    most: u16,
}

/// In order of time and of planning.
type Plan = BinaryHeap<Reverse<(SimTime, u64, Planned)>>;

#[derive(Debug)]
pub(super) struct Machines {
    pools: Vec<Pool>,
    machines: Vec<Machine>,
    /// By replica.
    homes: Vec<u16>,
    /// What comes to an end: outages, recoveries, starts.
    certain: Plan,
    /// What goes on for ever: random failures, looks at the metrics.
    recurring: Plan,
    planned: u64,
    most: u16,
}

impl Machines {
    pub(super) fn new(rules: &FleetRules) -> Self {
        let mut this = Self {
            pools: Vec::new(),
            machines: Vec::new(),
            homes: Vec::new(),
            certain: Plan::new(),
            recurring: Plan::new(),
            planned: 0,
            most: 0,
        };
        for (number, pool) in (0u16..).zip(&rules.pools) {
            this.add_pool(number, pool, rules.seed);
        }
        for outage in &rules.outages {
            let (machine, duration) = (outage.machine, outage.duration);
            this.plan(SimTime::ZERO + outage.at, Planned::Outage { machine, duration });
        }
        for (number, pool) in rules.pools.iter().enumerate() {
            let first = this.pools[number].machines.start;
            for machine in first..first + usize::from(pool.machines.min(pool.most_machines)) {
                this.starts(SimTime::ZERO, machine as u16);
            }
        }
        for (number, pool) in (0u16..).zip(&rules.pools) {
            if let Some(rule) = &pool.autoscaling {
                this.plan(SimTime::ZERO + rule.interval, Planned::Scaling { pool: number });
            }
        }
        this
    }

    fn add_pool(&mut self, pool: u16, rules: &PoolRules, seed: u64) {
        let start = self.machines.len();
        for _ in 0..rules.most_machines {
            let number = u32::try_from(self.machines.len()).expect("machines have 16-bit numbers");
            let first = self.homes.len() as u16;
            self.homes
                .resize(self.homes.len() + usize::from(rules.replicas_per_machine), number as u16);
            self.machines.push(Machine {
                pool,
                first,
                replicas: rules.replicas_per_machine,
                state: State::Off,
                failed: false,
                change: 0,
                paid_since: SimTime::ZERO,
                paid: SimDuration::ZERO,
                up_since: None,
                up: SimDuration::ZERO,
                failures: 0,
                rng: rules.failures.map(|_| random::stream(seed, Use::Failures(number))),
            });
        }
        self.pools.push(Pool {
            rules: *rules,
            machines: start..self.machines.len(),
            autoscaler: rules.autoscaling.map(Autoscaler::new),
            most: 0,
        });
    }

    pub(super) fn replicas_of(&self, machine: u16) -> Range<u16> {
        self.machines[usize::from(machine)].replicas()
    }

    /// The replicas of a pool that take requests, by number.
    pub(super) fn accepting(&self, pool: u16) -> impl Iterator<Item = u16> + '_ {
        let machines = &self.machines[self.pools[usize::from(pool)].machines.clone()];
        machines.iter().filter(|machine| machine.accepts()).flat_map(Machine::replicas)
    }

    pub(super) fn pools(&self) -> Range<u16> {
        0..u16::try_from(self.pools.len()).expect("pools have 16-bit numbers")
    }

    fn failures(&self, machine: &Machine) -> Option<RandomFailures> {
        self.pools[usize::from(machine.pool)].rules.failures
    }

    fn plan(&mut self, at: SimTime, planned: Planned) {
        self.planned += 1;
        let entry = Reverse((at, self.planned, planned));
        match planned {
            Planned::Failure { .. } | Planned::Scaling { .. } => self.recurring.push(entry),
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
        let machines = &self.machines;
        let holds = |planned: &Planned| match *planned {
            Planned::Failure { machine, change }
            | Planned::Recovery { machine, change }
            | Planned::Start { machine, change } => machines[usize::from(machine)].change == change,
            Planned::Outage { .. } | Planned::Scaling { .. } => true,
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
            Planned::Outage { machine, duration } => self.fails(now, machine, Some(duration)),
            Planned::Failure { machine, .. } => self.fails(now, machine, None),
            Planned::Recovery { machine, .. } => {
                self.machines[usize::from(machine)].failed = false;
                if self.machines[usize::from(machine)].state == State::Up {
                    self.takes_requests(now, machine);
                }
                Some(Change::Recovers)
            }
            Planned::Start { machine, .. } => {
                self.starts(now, machine);
                Some(Change::Starts { machine })
            }
            Planned::Scaling { pool } => {
                let interval = self.pools[usize::from(pool)].autoscaler.as_ref()?.rule().interval;
                self.plan(now + interval, Planned::Scaling { pool });
                Some(Change::Scales { pool })
            }
        }
    }

    /// `None` if there is nothing left to fail.
    fn fails(&mut self, now: SimTime, number: u16, down: Option<SimDuration>) -> Option<Change> {
        let failures = self.failures(&self.machines[usize::from(number)]);
        let machine = &mut self.machines[usize::from(number)];
        if machine.failed || !matches!(machine.state, State::Up | State::Draining) {
            return None;
        }
        let down = match (down, failures, &mut machine.rng) {
            (Some(down), ..) => down,
            (None, Some(failures), Some(rng)) => exponential(failures.mttr, rng),
            (None, ..) => return None,
        };
        machine.failed = true;
        machine.failures += 1;
        machine.goes_down(now);
        let change = machine.change;
        self.plan(now + down, Planned::Recovery { machine: number, change });
        Some(Change::Fails { machine: number })
    }

    fn takes_requests(&mut self, now: SimTime, number: u16) {
        let failures = self.failures(&self.machines[usize::from(number)]);
        let machine = &mut self.machines[usize::from(number)];
        machine.up_since = Some(now);
        machine.change += 1;
        let change = machine.change;
        if let (Some(failures), Some(rng)) = (failures, &mut machine.rng) {
            let at = now + exponential(failures.mtbf, rng);
            self.plan(at, Planned::Failure { machine: number, change });
        }
    }

    /// A machine begins to take requests.
    fn starts(&mut self, now: SimTime, number: u16) {
        let machine = &mut self.machines[usize::from(number)];
        machine.state = State::Up;
        machine.failed = false;
        self.takes_requests(now, number);
        self.note_most();
    }

    fn note_most(&mut self) {
        let mut all = 0;
        for pool in &mut self.pools {
            let machines = &self.machines[pool.machines.clone()];
            let there =
                machines.iter().filter(|machine| machine.state != State::Off).count() as u16;
            pool.most = pool.most.max(there);
            all += there;
        }
        self.most = self.most.max(all);
    }

    /// Looks at the metrics of the pool's replicas that take requests; starts and stops machines.
    pub(super) fn scale(
        &mut self,
        now: SimTime,
        number: u16,
        measures: &[ReplicaMeasure],
        replicas: &[Replica],
    ) {
        let pool = &mut self.pools[usize::from(number)];
        let Some(scaler) = &mut pool.autoscaler else { return };
        let machines = &self.machines[pool.machines.clone()];
        let counted = |machine: &&Machine| matches!(machine.state, State::Up | State::Starting);
        let there = machines.iter().filter(counted).count() as u16;
        let wanted = scaler.decide(now, there, pool.rules.replicas_per_machine, measures);
        let delay = scaler.rule().start_up_delay;
        for _ in there..wanted {
            self.add_machine(now, number, delay);
        }
        for _ in wanted..there {
            self.remove_machine(now, number, replicas);
        }
        self.note_most();
    }

    /// One that was to go stays; else the first that is off is ordered.
    fn add_machine(&mut self, now: SimTime, pool: u16, delay: SimDuration) {
        let range = self.pools[usize::from(pool)].machines.clone();
        let find =
            |wanted: State| range.clone().find(|&number| self.machines[number].state == wanted);
        if let Some(kept) = find(State::Draining) {
            let machine = &mut self.machines[kept];
            machine.state = State::Up;
            // Who has recovered in the meantime was not wanted then.
            if !machine.failed && machine.up_since.is_none() {
                self.takes_requests(now, kept as u16);
            }
        } else if let Some(ordered) = find(State::Off) {
            let machine = &mut self.machines[ordered];
            machine.state = State::Starting;
            machine.paid_since = now;
            machine.change += 1;
            let change = machine.change;
            self.plan(now + delay, Planned::Start { machine: ordered as u16, change });
        }
    }

    /// The last that is on its way is cancelled; else the last that is up is drained.
    fn remove_machine(&mut self, now: SimTime, pool: u16, replicas: &[Replica]) {
        let range = self.pools[usize::from(pool)].machines.clone();
        let last =
            |wanted: State| range.clone().rfind(|&number| self.machines[number].state == wanted);
        if let Some(cancelled) = last(State::Starting) {
            self.stop(now, cancelled);
        } else if let Some(drained) = last(State::Up) {
            self.machines[drained].state = State::Draining;
            self.stop_if_drained(now, self.machines[drained].first, replicas);
        }
    }

    /// A machine that is to go does so when none of its replicas has a request.
    pub(super) fn stop_if_drained(&mut self, now: SimTime, replica: u16, replicas: &[Replica]) {
        let number = usize::from(self.homes[usize::from(replica)]);
        let machine = &self.machines[number];
        if machine.state != State::Draining {
            return;
        }
        if machine.replicas().all(|replica| replicas[usize::from(replica)].requests.is_empty()) {
            self.stop(now, number);
        }
    }

    fn stop(&mut self, now: SimTime, number: usize) {
        let machine = &mut self.machines[number];
        machine.goes_down(now);
        machine.state = State::Off;
        machine.paid += now.since(machine.paid_since);
    }

    /// What only the machines know, when the run ends.
    pub(super) fn complete_report(&self, report: &mut FleetReport, end: SimTime) {
        for (row, &home) in report.replicas.iter_mut().zip(&self.homes) {
            let machine = &self.machines[usize::from(home)];
            let last = machine.up_since.map_or(SimDuration::ZERO, |since| end.since(since));
            row.up = machine.up + last;
            row.failures = machine.failures;
        }
        let paid = |machine: &Machine| match machine.state {
            State::Off => machine.paid,
            _ => machine.paid + end.since(machine.paid_since),
        };
        let pools = self.pools.iter().map(|pool| {
            let machines = &self.machines[pool.machines.clone()];
            PoolReport {
                replicas: pool.rules.replicas(),
                machine_time: machines.iter().map(paid).sum(),
                most_machines: pool.most,
                failures: machines.iter().map(|machine| machine.failures).sum(),
            }
        });
        report.pools = pools.collect();
        report.failures = report.pools.iter().map(|pool| pool.failures).sum();
        report.most_machines = self.most;
        report.end = end;
    }
}

fn exponential(mean: SimDuration, rng: &mut ChaCha8Rng) -> SimDuration {
    let unit: f64 = Exp1.sample(rng);
    SimDuration::from_secs_f64(mean.as_secs_f64() * unit)
}
