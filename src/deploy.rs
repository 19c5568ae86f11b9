//! From a scenario to a deployment that runs: memory plan, cost model, scheduler, workload.

mod engine_config;
pub mod rules;

use std::cell::RefCell;
use std::rc::Rc;

use crate::cost::calibrated::{CalibratedCost, CostError, CostInputs};
use crate::cost::host::EngineTraits;
use crate::cost::profile::lookup::Profiles;
use crate::cost::spread::Scales;
use crate::cost::{DecodeCost, StepCost, StepShape, StepTime};
use crate::engine::observer::Observer;
use crate::engine::router::Router;
use crate::engine::{RunOptions, RunTotals, Simulation};
use crate::kv_cache::memory_plan::MemoryPlan;
use crate::metrics::{Measure, Recorder, Slo, Summary};
use crate::scenario::{ArrivalSpec, Scenario, SloSpec};
use crate::scheduler::Scheduler;
use crate::scheduler::tgi::TgiStartError;
use crate::scheduler::tgis::TgisStartError;
use crate::time::{SimDuration, SimTime};
use crate::workload::{Arrivals, ClosedLoop, Mix, OpenLoop, Workload};

pub use engine_config::EngineConfig;

/// Why a deployment does not run.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The engine would refuse to start; the plan says why and what would help.
    #[error("{}", refusal(.0))]
    DoesNotFit(Box<MemoryPlan>),
    #[error("the router refuses to start: {0}")]
    Tgis(#[from] TgisStartError),
    #[error("the router refuses to start: {0}")]
    Tgi(#[from] TgiStartError),
    #[error(transparent)]
    Cost(#[from] CostError),
}

fn refusal(plan: &MemoryPlan) -> String {
    let why = plan.verdict.refusal.as_ref().map_or("", |r| r.message.as_str());
    format!("{} does not start: {why}", plan.engine)
}

/// A scenario put together: every part that does not depend on the seed.
#[derive(Clone, Debug)]
pub struct Deployment<'a> {
    scenario: &'a Scenario,
    profiles: Profiles,
    plan: MemoryPlan,
    engine: EngineConfig,
    cost: CalibratedCost,
}

impl<'a> Deployment<'a> {
    /// Looks the scenario's profiles up and puts it together.
    pub fn new(scenario: &'a Scenario) -> Result<Self, DeployError> {
        Self::with_profiles(scenario, profiles(scenario)?)
    }

    /// The same with profiles of one's own; a fit tries many.
    pub fn with_profiles(scenario: &'a Scenario, profiles: Profiles) -> Result<Self, DeployError> {
        let plan = memory_plan(scenario);
        if !plan.fits() {
            return Err(DeployError::DoesNotFit(Box::new(plan)));
        }
        let tensor_parallel = scenario.engine.tensor_parallel_size;
        let gpu = scenario.hardware.gpu();
        let traits = EngineTraits::of(scenario.engine.name.base())
            .with_graphs(engine_config::graphs(&scenario.engine));
        let cost = CalibratedCost::new(&CostInputs {
            model: &scenario.model,
            precision: scenario.precision,
            kv_cache: scenario.kv_cache_dtype,
            tensor_parallel,
            gpu,
            gpu_profile: &profiles.gpu.profile,
            interconnect: profiles.interconnect.as_ref().map(|found| &found.profile),
            weight_kernel: None,
            deployment: &profiles.deployment.profile,
            engine: &traits,
        })?;
        let engine = EngineConfig::new(scenario, &plan)?;
        Ok(Self { scenario, profiles, plan, engine, cost })
    }

    pub fn scenario(&self) -> &'a Scenario {
        self.scenario
    }

    /// The same deployment under another workload, measured otherwise. It knows what the runs so far
    /// have memoised. `scenario` must agree in model, machine and engine.
    pub fn under<'b>(&self, scenario: &'b Scenario) -> Deployment<'b> {
        debug_assert_eq!(scenario.hardware.instance, self.scenario.hardware.instance);
        debug_assert_eq!(scenario.engine.name, self.scenario.engine.name);
        let Self { profiles, plan, engine, cost, .. } = self.clone();
        Deployment { scenario, profiles, plan, engine, cost }
    }

    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// The cost model that every run starts with a copy of.
    pub fn cost(&self) -> &CalibratedCost {
        &self.cost
    }

    /// Lets further runs start with what one has left: equal steps need not be priced again.
    pub fn learn(&mut self, cost: CalibratedCost) {
        self.cost = cost;
    }

    /// The same deployment with parts of its price scaled.
    #[must_use]
    pub fn scaled(&self, scales: Scales) -> Self {
        Self { cost: self.cost.scaled(scales), ..self.clone() }
    }

    /// The scheduler's settings.
    pub fn engine_config(&self) -> &EngineConfig {
        &self.engine
    }

    /// A cost model of one's own.
    pub fn step_cost(&self) -> Box<dyn StepCost> {
        Box::new(self.cost.clone())
    }

    /// A fresh scheduler of the deployment.
    pub fn scheduler(&self) -> Box<dyn Scheduler> {
        self.engine.scheduler()
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
        let engine = self.engine.clone();
        simulation.with_fleet(rules, Box::new(move |_| engine.scheduler()))
    }

    /// A fresh router, whose choices follow from `seed` where it draws them.
    pub fn router(&self, seed: u64) -> Box<dyn Router> {
        self.scenario.router(vec![self.plan.kv_tokens]).router(seed)
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

    /// The figures of a run, with how far they can be trusted after what it has asked of the cost
    /// model.
    pub fn summary(recorder: Recorder, cost: &CalibratedCost) -> Summary {
        let trusted = recorder.trusted(&cost.grades());
        recorder.summary().trusted(&trusted)
    }

    /// The scenario's requests, and what the run has left of the cost model.
    pub fn simulate_noting<O: Observer>(
        &self,
        seed: u64,
        observer: O,
        step_by_step: bool,
    ) -> Simulated<O> {
        self.start(self.workload(seed), seed, observer, self.options(step_by_step), false)
    }

    /// Requests of one's own in place of the scenario's, and what the run has left of the cost model.
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
        // The scenario's workload does not tell whether these requests share their prompts.
        let engine = self.engine.clone().with_shared_prompts();
        let deployment = Self { engine, ..self.clone() };
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
        let cost = Rc::new(RefCell::new(self.cost.clone()));
        let scheduler = || {
            let mut scheduler = self.scheduler();
            if detail {
                scheduler.record_detail();
            }
            scheduler
        };
        let replicas = (0..self.scenario.replicas())
            .map(|_| (scheduler(), Box::new(OneCost(Rc::clone(&cost))) as Box<_>))
            .collect();
        let simulation = Simulation::new(replicas, self.router(seed), workload, observer, options);
        let (totals, observer) = self.surrounded(simulation, seed).run();
        let cost = Rc::try_unwrap(cost).expect("the replicas are gone").into_inner();
        Simulated { totals, observer, cost }
    }

    /// The same schedulers, whose steps last as long as those of `other`.
    pub fn priced_as(&self, other: &Deployment<'_>) -> Self {
        Self { cost: other.cost.clone(), ..self.clone() }
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
        let turn_round = self.profiles.deployment.profile.client_turn_round.value.get();
        requests(self.scenario, SimDuration::from_secs_f64(turn_round), seed)
    }
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

/// The profiles that price a scenario's steps: its own file's, else those of the environment that
/// it names.
pub fn profiles(scenario: &Scenario) -> Result<Profiles, CostError> {
    let hardware = &scenario.hardware;
    let (instance, name) = (&hardware.instance, hardware.deployment.as_str());
    Ok(match &hardware.profile {
        Some(own) => Profiles::with_deployment(instance, (**own).clone(), name)?,
        None => Profiles::look_up(instance, scenario.engine.name.base(), Some(name))?,
    })
}

/// The memory plan of a scenario, whether or not it fits.
pub fn memory_plan(scenario: &Scenario) -> MemoryPlan {
    MemoryPlan::new(&engine_config::memory_request(scenario))
}

/// What came out of a run.
#[derive(Debug)]
pub struct Simulated<O> {
    pub totals: RunTotals,
    pub observer: O,
    /// The cost model as the run has left it: it remembers prices, and knows what it was asked
    /// outside of its range.
    pub cost: CalibratedCost,
}

/// The cost model of one run, which all its replicas ask.
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
