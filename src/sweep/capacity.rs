//! The highest load that meets an objective, by bisection; and which machine meets it cheapest.

use rayon::prelude::*;
use serde::Serialize;

use super::slo::Objective;
use super::trial::{self, Trial};
use super::{Bound, analysis};
use crate::cost::trust::Trust;
use crate::deploy::{DeployError, Deployment};
use crate::hardware::{self, PriceKind};
use crate::named::named_enum;
use crate::scenario::{ArrivalSpec, Diagnostics, Scenario};

named_enum! {
    /// What is raised until the objective breaks.
    pub enum SearchedLoad as "load" {
        /// Requests per second, whatever becomes of them.
        Rate = "rate",
        /// Clients that wait for their answers.
        Concurrency = "concurrency",
    }
}

impl SearchedLoad {
    /// What the scenario's own arrivals suggest.
    pub const fn of(scenario: &Scenario) -> Self {
        match scenario.workload.arrivals {
            ArrivalSpec::ClosedLoop { .. } => Self::Concurrency,
            ArrivalSpec::Open(_) | ArrivalSpec::Trace(_) => Self::Rate,
        }
    }

    pub const fn unit(self) -> &'static str {
        match self {
            Self::Rate => "requests/s",
            Self::Concurrency => "users",
        }
    }
}

/// Rates are found to within this share.
const PRECISION: f64 = 0.01;
/// The lightest load that is tried, as a share of what the deployment can serve at all.
const LIGHTEST: f64 = 0.01;
/// The heaviest load that is tried, likewise: beyond, arrivals end before a queue can show.
const FASTEST: f64 = 4.0;
/// More clients than this are not tried.
const MOST_CLIENTS: u64 = 16_384;

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct Capacity {
    pub over: SearchedLoad,
    /// The highest load that meets the objective; nothing if none does.
    pub load: Option<f64>,
    /// The trial at that load.
    pub at: Option<Trial>,
    /// The lightest trial above it that does not: what breaks first.
    pub beyond: Option<Trial>,
    /// What holds the deployment back there.
    pub bound: Bound,
    /// By what kind of numbers the answer is limited.
    pub trust: Option<Trust>,
    /// How many trials that took.
    pub trials: u32,
}

/// Searches the highest load of `scenario` that meets `objective`. The scenario's own load does not
/// matter; it must say what is asked for apart from a trace, which says both.
pub fn search(
    scenario: &Scenario,
    over: SearchedLoad,
    objective: &Objective,
) -> Result<Capacity, DeployError> {
    let deployment = Deployment::new(scenario)?;
    let mut search = Search { deployment: &deployment, over, objective, trials: 0 };
    let (at, beyond) = match over {
        SearchedLoad::Rate => search.rate(),
        SearchedLoad::Concurrency => search.clients(),
    };
    let bound = beyond.as_ref().or(at.as_ref()).map_or(Bound::Load, |trial| trial.bound);
    let trust = at.as_ref().or(beyond.as_ref()).and_then(|trial| trial.trust);
    let load = at.as_ref().map(|trial| trial.load);
    Ok(Capacity { over, load, at, beyond, bound, trust, trials: search.trials })
}

struct Search<'s> {
    deployment: &'s Deployment<'s>,
    over: SearchedLoad,
    objective: &'s Objective,
    trials: u32,
}

/// The heaviest trial that meets the objective, and the lightest that does not.
type Bracket = (Option<Trial>, Option<Trial>);

impl Search<'_> {
    fn attempt(&mut self, load: f64) -> Trial {
        self.trials += 1;
        let scenario = trial::under(self.deployment.scenario(), self.over, load);
        trial::run(&self.deployment.under(&scenario), load, self.objective)
    }

    fn rate(&mut self) -> Bracket {
        // With all requests there at once the deployment serves as fast as it can.
        let most = self.attempt(1e6).request_throughput;
        if most <= 0.0 {
            return (None, Some(self.attempt(1.0)));
        }
        let (mut met, mut broken) = (None, None);
        let (mut low, mut high) = (most * LIGHTEST, most * 1.1);
        // Most objectives break somewhere below saturation: a first look at both sides of it.
        for share in [0.5, 0.9] {
            if low < most * share && most * share < high {
                self.narrow(most * share, (&mut low, &mut high), (&mut met, &mut broken));
            }
        }
        if met.is_none() {
            self.narrow(most * LIGHTEST, (&mut low, &mut high), (&mut met, &mut broken));
            if met.is_none() {
                return (None, broken);
            }
        }
        // A burst ends with batches that empty, so that a steady flow can be served faster.
        while broken.is_none() && high < most * FASTEST {
            self.narrow(high, (&mut low, &mut high), (&mut met, &mut broken));
            if broken.is_none() {
                high *= 1.3;
            }
        }
        if broken.is_none() {
            return (met, None);
        }
        while high / low > 1.0 + PRECISION {
            // Halves what is left of the ratio, for low ends that lie far apart.
            let middle = (low * high).sqrt();
            self.narrow(middle, (&mut low, &mut high), (&mut met, &mut broken));
        }
        (met, broken)
    }

    fn narrow(
        &mut self,
        load: f64,
        (low, high): (&mut f64, &mut f64),
        (met, broken): (&mut Option<Trial>, &mut Option<Trial>),
    ) {
        let trial = self.attempt(load);
        if trial.met {
            *low = load;
            *met = Some(trial);
        } else {
            *high = load;
            *broken = Some(trial);
        }
    }

    fn clients(&mut self) -> Bracket {
        let (mut met, mut broken): Bracket = (None, None);
        let mut clients = 1;
        while broken.is_none() && clients <= MOST_CLIENTS {
            let trial = self.attempt(clients as f64);
            if trial.met {
                met = Some(trial);
            } else {
                broken = Some(trial);
            }
            clients *= 2;
        }
        let load = |trial: &Option<Trial>| trial.as_ref().map_or(0, |trial| trial.load as u64);
        while broken.is_some() && load(&broken) > load(&met) + 1 {
            let trial = self.attempt(((load(&met) + load(&broken)) / 2) as f64);
            if trial.met {
                met = Some(trial);
            } else {
                broken = Some(trial);
            }
        }
        (met, broken)
    }
}

/// A machine of the catalogue with the engine spread over its GPUs.
#[derive(Clone, Debug, Serialize)]
pub struct Offer {
    pub instance: String,
    pub gpu: String,
    pub gpus: u32,
    pub tensor_parallel_size: u32,
    /// Copies of the engine on one machine.
    pub replicas: u32,
    pub usd_per_hour: f64,
    /// Load that one machine carries: that of one copy, times the copies.
    pub load: Option<f64>,
    /// What that comes to, where the machine is full.
    pub usd_per_1m_output_tokens: Option<f64>,
    /// Machines for the wanted load, and what all of them cost.
    pub machines: Option<u64>,
    pub total_usd_per_hour: Option<f64>,
    pub bound: Option<Bound>,
    pub trust: Option<Trust>,
    /// What breaks first, or why it is no offer.
    pub why: String,
}

/// Every machine of the catalogue, in the order of the answer to "which one, and how many". `wanted`
/// is the load to carry; without it, what counts is the cost of a token on a full machine.
/// `scenario_for` makes the scenario for an instance and a tensor-parallel size.
pub fn cheapest(
    instances: &[String],
    over: SearchedLoad,
    objective: &Objective,
    wanted: Option<f64>,
    scenario_for: &(dyn Fn(&str, u32) -> Result<Scenario, Diagnostics> + Sync),
) -> Vec<Offer> {
    let candidates = candidates(instances);
    let mut offers: Vec<Offer> = candidates
        .into_par_iter()
        .map(|(name, tensor_parallel)| {
            let scenario = scenario_for(&name, tensor_parallel);
            offer(&name, tensor_parallel, scenario, over, objective, wanted)
        })
        .collect();
    offers.sort_by(|a, b| {
        let cost = |offer: &Offer| match wanted {
            Some(_) => offer.total_usd_per_hour.unwrap_or(f64::INFINITY),
            None => offer.usd_per_1m_output_tokens.unwrap_or(f64::INFINITY),
        };
        // Equal ones by what is left over, then in the catalogue's order.
        let room = |offer: &Offer| {
            -offer.load.unwrap_or(0.0) * offer.machines.map_or(1.0, |machines| machines as f64)
        };
        cost(a).total_cmp(&cost(b)).then(room(a).total_cmp(&room(b)))
    });
    offers
}

/// Instances with a price, of those with the same GPUs the cheapest, each with the tensor-parallel
/// sizes that fill it evenly.
fn candidates(instances: &[String]) -> Vec<(String, u32)> {
    let mut machines: Vec<(String, String, u32, f64)> = Vec::new();
    for name in instances {
        let Ok(instance) = hardware::instance(name) else { continue };
        let Some(price) = instance.price(PriceKind::OnDemand) else { continue };
        let (gpu, gpus, usd) = (instance.gpu.name.clone(), instance.num_gpus, price.usd.get());
        match machines.iter_mut().find(|(_, g, n, _)| (g, *n) == (&gpu, gpus)) {
            Some(same) if usd < same.3 => *same = (name.clone(), gpu, gpus, usd),
            Some(_) => {}
            None => machines.push((name.clone(), gpu, gpus, usd)),
        }
    }
    let sizes = |gpus: u32| [1, 2, 4, 8].into_iter().filter(move |tp| gpus.is_multiple_of(*tp));
    let all = machines.into_iter();
    all.flat_map(|(name, _, gpus, _)| sizes(gpus).map(move |tp| (name.clone(), tp))).collect()
}

fn offer(
    name: &str,
    tensor_parallel: u32,
    scenario: Result<Scenario, Diagnostics>,
    over: SearchedLoad,
    objective: &Objective,
    wanted: Option<f64>,
) -> Offer {
    let instance = hardware::instance(name).expect("a candidate is in the catalogue");
    let price = instance.price(PriceKind::OnDemand).expect("a candidate has a price");
    let replicas = instance.num_gpus / tensor_parallel;
    let mut offer = Offer {
        instance: name.to_owned(),
        gpu: instance.gpu.name.clone(),
        gpus: instance.num_gpus,
        tensor_parallel_size: tensor_parallel,
        replicas,
        usd_per_hour: price.usd.get(),
        load: None,
        usd_per_1m_output_tokens: None,
        machines: None,
        total_usd_per_hour: None,
        bound: None,
        trust: None,
        why: String::new(),
    };
    let scenario = match scenario {
        Ok(scenario) => scenario,
        Err(problems) => {
            offer.why = problems.iter().next().map_or(String::new(), |p| p.title.clone());
            return offer;
        }
    };
    let found = match search(&scenario, over, objective) {
        Ok(found) => found,
        Err(DeployError::DoesNotFit { plan, .. }) => {
            let why = plan.verdict.refusal.as_ref().map_or("", |r| r.message.as_str());
            offer.why = format!("does not fit: {why}");
            return offer;
        }
        Err(error) => {
            offer.why = error.to_string();
            return offer;
        }
    };
    offer.bound = Some(found.bound);
    offer.trust = found.trust;
    let first = found.beyond.as_ref().and_then(|trial| trial.missed.first());
    offer.why = first.cloned().unwrap_or_default();
    let Some(at) = found.at else { return offer };
    // Of the copies on one machine, where the search was with one copy on each of the fleet's.
    let copies = f64::from(replicas) / f64::from(scenario.machines());
    let load = at.load * copies;
    offer.load = Some(load);
    let tokens = at.output_throughput * copies;
    offer.usd_per_1m_output_tokens = (tokens > 0.0).then(|| price.usd.per_million_tokens(tokens));
    if let Some(wanted) = wanted {
        let machines = (wanted / load).ceil().max(1.0);
        offer.machines = Some(machines as u64);
        offer.total_usd_per_hour = Some(machines * price.usd.get());
    }
    offer
}

impl Offer {
    /// In a few words: `g5.12xlarge, 2 x tp 2`.
    pub fn label(&self) -> String {
        let tp = analysis::Setting::from((
            "engine.tensor-parallel-size".to_owned(),
            self.tensor_parallel_size.to_string(),
        ));
        let spread = analysis::label(&[tp]);
        match self.replicas {
            1 => format!("{} {spread}", self.instance),
            n => format!("{} {n} x {spread}", self.instance),
        }
    }
}

#[cfg(test)]
mod tests;
