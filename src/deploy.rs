//! From a scenario to a deployment that runs: memory plan, cost model, scheduler, workload.

mod engine_config;
mod pool;
mod priced;
pub mod rules;

use std::cell::RefCell;
use std::rc::Rc;

use crate::cost::calibrated::{CalibratedCost, CostError};
use crate::cost::profile::lookup::Profiles;
use crate::cost::spread::Scales;
use crate::cost::{DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::Observer;
use crate::engine::router::Router;
use crate::engine::{RunOptions, RunTotals, Simulation};
use crate::kv_cache::memory_plan::MemoryPlan;
use crate::metrics::{Measure, PoolMeasure, PoolSteps, Slo};
use crate::scenario::{ArrivalSpec, Kind, Scenario, SloSpec};
use crate::scheduler::Scheduler;
use crate::scheduler::tgi::TgiStartError;
use crate::scheduler::tgis::TgisStartError;
use crate::time::{SimDuration, SimTime};
use crate::workload::{Arrivals, ClosedLoop, Mix, OpenLoop, Workload};

pub use engine_config::EngineConfig;
pub use pool::Pool;
pub use priced::Priced;

/// Why a deployment does not run; of which pool, where there are pools.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The engine would refuse to start; the plan says why and what would help.
    #[error("{}{}", of_pool(.pool), refusal(.plan))]
    DoesNotFit { pool: Option<String>, plan: Box<MemoryPlan> },
    #[error("{}the router refuses to start: {why}", of_pool(.pool))]
    Refuses { pool: Option<String>, why: Box<RouterError> },
    #[error("{}{why}", of_pool(.pool))]
    Cost { pool: Option<String>, why: Box<CostError> },
}

/// Why an engine's own router does not start.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    #[error(transparent)]
    Tgis(#[from] TgisStartError),
    #[error(transparent)]
    Tgi(#[from] TgiStartError),
}

fn of_pool(pool: &Option<String>) -> String {
    pool.as_ref().map_or(String::new(), |name| format!("pool {name}: "))
}

fn refusal(plan: &MemoryPlan) -> String {
    let why = plan.verdict.refusal.as_ref().map_or("", |r| r.message.as_str());
    format!("{} does not start: {why}", plan.engine)
}

/// A scenario put together: every part that does not depend on the seed.
#[derive(Clone, Debug)]
pub struct Deployment<'a> {
    scenario: &'a Scenario,
    /// At least one, in the order of their replicas.
    pools: Vec<Pool>,
}

impl<'a> Deployment<'a> {
    /// Looks the scenario's profiles up and puts it together.
    pub fn new(scenario: &'a Scenario) -> Result<Self, DeployError> {
        Self::with(scenario, profiles_of)
    }

    /// The same with profiles of one's own for a scenario without pools; a fit tries many.
    pub fn with_profiles(scenario: &'a Scenario, profiles: Profiles) -> Result<Self, DeployError> {
        Self::with(scenario, |_| Ok(profiles.clone()))
    }

    /// The same with profiles of one's own for each kind of machine.
    pub fn with(
        scenario: &'a Scenario,
        profiles: impl Fn(&Kind<'_>) -> Result<Profiles, CostError>,
    ) -> Result<Self, DeployError> {
        let share = scenario.workload.prompts_share();
        let pool = |kind: Kind<'_>| match profiles(&kind) {
            Ok(profiles) => Pool::new(kind, share, profiles),
            Err(why) => {
                Err(DeployError::Cost { pool: kind.pool.map(str::to_owned), why: Box::new(why) })
            }
        };
        let pools = scenario.kinds().into_iter().map(pool).collect::<Result<_, _>>()?;
        Ok(Self { scenario, pools })
    }

    pub fn scenario(&self) -> &'a Scenario {
        self.scenario
    }

    /// The same deployment under another workload, measured otherwise. It knows what the runs so far
    /// have memoised. `scenario` must agree in model, machine and engine.
    pub fn under<'b>(&self, scenario: &'b Scenario) -> Deployment<'b> {
        debug_assert_eq!(scenario.hardware.instance, self.scenario.hardware.instance);
        debug_assert_eq!(scenario.engine.name, self.scenario.engine.name);
        Deployment { scenario, pools: self.pools.clone() }
    }

    /// One, or those of the fleet in the order of their names.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Of a deployment without pools, the only one.
    fn first(&self) -> &Pool {
        &self.pools[0]
    }

    /// The scheduler's settings; of the first pool, where there are several.
    pub fn engine_config(&self) -> &EngineConfig {
        &self.first().engine
    }

    /// A cost model of one's own; of the first pool, where there are several.
    pub fn step_cost(&self) -> Box<dyn StepCost> {
        Box::new(self.first().cost.clone())
    }

    /// A fresh scheduler; of the first pool, where there are several.
    pub fn scheduler(&self) -> Box<dyn Scheduler> {
        self.first().scheduler()
    }

    /// All replicas that may be there, each with a cost model of its own.
    pub fn replicas(&self) -> Vec<(Box<dyn Scheduler>, Box<dyn StepCost>)> {
        let of_pool = |pool: &Pool| -> Vec<_> {
            let replica = |_| (pool.scheduler(), Box::new(pool.cost.clone()) as Box<dyn StepCost>);
            (0..pool.replicas).map(replica).collect()
        };
        self.pools.iter().flat_map(of_pool).collect()
    }

    /// Lets further runs start with what one has left: equal steps need not be priced again.
    pub fn learn(&mut self, priced: Priced) {
        for (pool, cost) in self.pools.iter_mut().zip(priced.costs) {
            pool.cost = cost;
        }
    }

    /// The same deployment with parts of the prices scaled, those of each pool by its own scales.
    #[must_use]
    pub fn scaled(&self, scales: &[Scales]) -> Self {
        let mut scaled = self.clone();
        for (pool, &scales) in scaled.pools.iter_mut().zip(scales) {
            pool.cost = pool.cost.scaled(scales);
        }
        scaled
    }

    /// What a recorder of this scenario measures.
    pub fn measure(&self) -> Measure {
        let measure = &self.scenario.measure;
        Measure {
            convention: measure.convention,
            warm_up: SimTime::ZERO + measure.warm_up,
            deadline: self.scenario.workload.duration.map(|d| SimTime::ZERO + d),
            slo: measure.slo.as_ref().map(targets),
            replicas: self.scenario.replicas(),
            machines: self.scenario.machines().into(),
            price: self.scenario.hardware.price.as_ref().map(|price| price.usd),
            pools: self.scenario.kinds().iter().filter_map(measured).collect(),
        }
    }

    /// The tenants by number, each with its own objective or that of all.
    pub fn tenants(&self) -> Vec<(String, Option<Slo>)> {
        let Scenario { workload, measure, .. } = self.scenario;
        let names = workload.tenant_names().into_iter().enumerate();
        names
            .map(|(number, name)| {
                let own = workload.tenants.get(number).and_then(|tenant| tenant.slo.as_ref());
                (name, own.or(measure.slo.as_ref()).map(targets))
            })
            .collect()
    }

    /// A simulation of this deployment with what the scenario has around the replicas.
    pub fn surrounded<W: Workload, O: Observer>(
        &self,
        simulation: Simulation<W, O>,
        seed: u64,
    ) -> Simulation<W, O> {
        let Some(rules) = self.scenario.fleet_rules(seed) else { return simulation };
        let engines: Vec<EngineConfig> =
            self.pools.iter().map(|pool| pool.engine.clone()).collect();
        let homes = self.by_replica(|place, _| place);
        let new_scheduler = move |replica: u16| engines[homes[usize::from(replica)]].scheduler();
        simulation.with_fleet(rules, Box::new(new_scheduler))
    }

    /// Something of each replica's pool, by replica.
    fn by_replica<T: Clone>(&self, of: impl Fn(usize, &Pool) -> T) -> Vec<T> {
        let pools = self.pools.iter().enumerate();
        pools.flat_map(|(i, pool)| std::iter::repeat_n(of(i, pool), pool.replicas.into())).collect()
    }

    /// A fresh router, whose choices follow from `seed` where it draws them.
    pub fn router(&self, seed: u64) -> Box<dyn Router> {
        self.scenario.router(self.by_replica(|_, pool| pool.plan.kv_tokens)).router(seed)
    }

    /// Runs once with `seed`. Runs share nothing that changes, so any number may go on at once.
    pub fn simulate<O: Observer>(
        &self,
        seed: u64,
        observer: O,
        step_by_step: bool,
    ) -> (RunTotals, O) {
        let Simulated { totals, observer, .. } = self.simulate_noting(seed, observer, step_by_step);
        (totals, observer)
    }

    /// The scenario's requests, and what the run has left of the cost models.
    pub fn simulate_noting<O: Observer>(
        &self,
        seed: u64,
        observer: O,
        step_by_step: bool,
    ) -> Simulated<O> {
        self.start(self.workload(seed), seed, observer, self.options(step_by_step), false)
    }

    /// Requests of one's own in place of the scenario's, and what the run has left of the cost models.
    pub fn serve<O: Observer>(
        &self,
        workload: Box<dyn Workload>,
        observer: O,
        step_by_step: bool,
    ) -> Simulated<O> {
        let seed = self.scenario.workload.seed;
        self.drive(workload, seed, observer, self.options(step_by_step), false)
    }

    /// Requests of one's own, to an end of one's own; every step with its
    /// [`detail`](crate::scheduler::Step::detail) if asked for.
    pub fn drive<O: Observer>(
        &self,
        workload: Box<dyn Workload>,
        seed: u64,
        observer: O,
        options: RunOptions,
        detail: bool,
    ) -> Simulated<O> {
        let mut deployment = self.clone();
        for pool in &mut deployment.pools {
            // The scenario's workload does not tell whether these requests share their prompts.
            pool.engine = pool.engine.clone().with_shared_prompts();
        }
        deployment.start(workload, seed, observer, options, detail)
    }

    fn options(&self, step_by_step: bool) -> RunOptions {
        RunOptions { stop_at: self.stop_at(), step_by_step, ..Default::default() }
    }

    fn start<O: Observer>(
        &self,
        workload: Box<dyn Workload>,
        seed: u64,
        observer: O,
        options: RunOptions,
        detail: bool,
    ) -> Simulated<O> {
        let costs: Vec<_> =
            self.pools.iter().map(|pool| Rc::new(RefCell::new(pool.cost.clone()))).collect();
        let mut replicas = Vec::new();
        for (pool, cost) in self.pools.iter().zip(&costs) {
            for _ in 0..pool.replicas {
                let mut scheduler = pool.scheduler();
                if detail {
                    scheduler.record_detail();
                }
                let cost = Box::new(OneCost(Rc::clone(cost))) as Box<dyn StepCost>;
                replicas.push((scheduler, cost));
            }
        }
        let router = self.router(seed);
        let (totals, observer, steps) = if self.pools.len() == 1 {
            let simulation = Simulation::new(replicas, router, workload, observer, options);
            let (totals, observer) = self.surrounded(simulation, seed).run();
            (totals, observer, None)
        } else {
            // Behind a pointer, so that the engine's loop is compiled once for all of these.
            let pools: Vec<u16> = self.pools.iter().map(|pool| pool.replicas).collect();
            let mut both = (observer, PoolSteps::new(&pools));
            let watcher: &mut dyn Observer = &mut both;
            let simulation = Simulation::new(replicas, router, workload, watcher, options);
            let (totals, _) = self.surrounded(simulation, seed).run();
            (totals, both.0, Some(both.1))
        };
        let cost = |cost: Rc<RefCell<CalibratedCost>>| {
            Rc::try_unwrap(cost).expect("the replicas are gone").into_inner()
        };
        let priced = Priced { costs: costs.into_iter().map(cost).collect(), steps };
        Simulated { totals, observer, priced }
    }

    /// The same schedulers, whose steps last as long as those of `other`: of its pool of the same
    /// name, else of its first.
    pub fn priced_as(&self, other: &Deployment<'_>) -> Self {
        let mut priced = self.clone();
        for pool in &mut priced.pools {
            let same = other.pools.iter().find(|theirs| theirs.name == pool.name);
            pool.cost = same.unwrap_or(&other.pools[0]).cost.clone();
        }
        priced
    }

    /// A closed loop with a duration is cut off at the deadline; an open loop drains unless told
    /// otherwise.
    pub fn stop_at(&self) -> Option<SimTime> {
        let workload = &self.scenario.workload;
        let deadline = workload.duration.map(|d| SimTime::ZERO + d);
        deadline.filter(|_| workload.arrivals.is_closed_loop() || !workload.drain)
    }

    /// The requests of a run with `seed`.
    pub fn workload(&self, seed: u64) -> Box<dyn Workload> {
        let turn_round = self.first().profiles.deployment.profile.client_turn_round.value.get();
        requests(self.scenario, SimDuration::from_secs_f64(turn_round), seed)
    }
}

/// A pool as its row of the summary names it.
fn measured(kind: &Kind<'_>) -> Option<PoolMeasure> {
    Some(PoolMeasure {
        name: kind.pool?.to_owned(),
        model: kind.model.name.clone(),
        instance: kind.hardware.instance.name.clone(),
        engine: kind.engine.name.to_string(),
        price: kind.hardware.price.as_ref().map(|price| price.usd),
    })
}

fn targets(slo: &SloSpec) -> Slo {
    Slo { ttft: slo.ttft, tpot: slo.tpot, e2el: slo.e2el, percentile: slo.percentile }
}

/// The requests of a scenario; clients take `pause` from an answer to the next request.
fn requests(scenario: &Scenario, pause: SimDuration, seed: u64) -> Box<dyn Workload> {
    let spec = &scenario.workload;
    let askers = spec.askers();
    match &spec.arrivals {
        &ArrivalSpec::ClosedLoop { clients, think_time } => {
            let mix = Mix::of_clients(&askers, clients, seed);
            Box::new(ClosedLoop::new(clients, mix, think_time, pause, spec.num_requests))
        }
        ArrivalSpec::Trace(trace) => Box::new(trace.replay(spec.num_requests, spec.duration)),
        ArrivalSpec::Open(process) => {
            let (requests, duration) = (spec.num_requests, spec.duration);
            let arrivals = Arrivals::new(process, requests, duration, seed);
            let mix = Mix::open_loop(&askers, seed);
            Box::new(OpenLoop::new(arrivals, mix, pause, requests, duration))
        }
    }
}

/// The requests of a scenario in which nobody waits for an answer; `None` where somebody does.
pub fn requests_without_answers(scenario: &Scenario, seed: u64) -> Option<Box<dyn Workload>> {
    let spec = &scenario.workload;
    let waits = spec.arrivals.is_closed_loop()
        || spec.askers().iter().any(|asker| asker.sessions.is_some());
    (!waits).then(|| requests(scenario, SimDuration::ZERO, seed))
}

/// The profiles that price the steps of a scenario without pools.
pub fn profiles(scenario: &Scenario) -> Result<Profiles, CostError> {
    profiles_of(&scenario.kinds()[0])
}

/// The profiles that price the steps of a machine: its own file's, else those of the environment
/// that it names.
pub fn profiles_of(kind: &Kind<'_>) -> Result<Profiles, CostError> {
    let (instance, name) = (&kind.hardware.instance, kind.hardware.deployment.as_str());
    Ok(match &kind.hardware.profile {
        Some(own) => Profiles::with_deployment(instance, (**own).clone(), name)?,
        None => Profiles::look_up(instance, kind.engine.name.base(), Some(name))?,
    })
}

/// The memory plan of a scenario without pools, whether or not it fits.
pub fn memory_plan(scenario: &Scenario) -> MemoryPlan {
    memory_plan_of(&scenario.kinds()[0])
}

/// The memory plan of a machine, whether or not it fits.
pub fn memory_plan_of(kind: &Kind<'_>) -> MemoryPlan {
    MemoryPlan::new(&engine_config::memory_request(kind))
}

/// What came out of a run.
#[derive(Debug)]
pub struct Simulated<O> {
    pub totals: RunTotals,
    pub observer: O,
    pub priced: Priced,
}

/// The cost model of one pool in one run, which all its replicas ask.
struct OneCost(Rc<RefCell<CalibratedCost>>);

impl StepCost for OneCost {
    fn step(&mut self, shape: &StepShape) -> StepTime {
        self.0.borrow_mut().step(shape)
    }

    fn decode(&mut self, seqs: u32) -> DecodeCost {
        self.0.borrow_mut().decode(seqs)
    }

    fn stretched_to(&mut self, shape: &StepShape) {
        self.0.borrow_mut().stretched_to(shape);
    }
}
