//! The pools of a fleet, one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fleet::Served;
use super::steps::StepTotals;
use super::summary::Count;
use super::trust::Trusted;
use crate::cost::trust::{TermGrades, Trust};
use crate::engine::observer::{CompletedStep, FleetReport, Observer, SteadyRun};
use crate::scheduler::StepKind;
use crate::units::UsdPerHour;

/// What a pool is, for its row of the summary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolMeasure {
    pub name: String,
    pub model: String,
    pub instance: String,
    pub engine: String,
    /// Of one machine, idle GPUs included.
    pub price: Option<UsdPerHour>,
}

/// What the machines of a pool did in the whole run, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolSummary {
    pub model: String,
    pub instance: String,
    pub engine: String,
    /// Paid for, on average over the run, and the most at once.
    pub machines: f64,
    pub most_machines: Count,
    pub machine_hours: f64,
    /// What these cost; null without a price.
    pub usd: Option<f64>,
    /// The same for a million of the output tokens generated here; null without any.
    pub usd_per_1m_output_tokens: Option<f64>,
    /// By all its replicas.
    #[serde(flatten)]
    pub served: Served,
    /// By what kind of numbers the pool's prices are limited; null where nothing ran.
    #[serde(default)]
    pub trust: Option<Trust>,
    /// Share of the pool's busy time by the grade of the numbers that price it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trust_shares: BTreeMap<String, f64>,
}

impl PoolSummary {
    /// A row for each, by name.
    pub(super) fn of(report: &FleetReport, pools: &[PoolMeasure]) -> BTreeMap<String, Self> {
        let mut replicas = report.replicas.as_slice();
        let mut rows = BTreeMap::new();
        for (pool, done) in pools.iter().zip(&report.pools) {
            let (own, rest) = replicas.split_at(replicas.len().min(done.replicas.into()));
            replicas = rest;
            let served = Served::by(own, done.failures);
            let (paid_s, end_s) = (done.machine_time.as_secs_f64(), report.end.as_secs_f64());
            let usd = pool.price.map(|price| price.get() * paid_s / 3600.0);
            let output_tokens = served.output_tokens.get();
            let row = Self {
                model: pool.model.clone(),
                instance: pool.instance.clone(),
                engine: pool.engine.clone(),
                machines: if end_s > 0.0 { paid_s / end_s } else { 0.0 },
                most_machines: Count::new(done.most_machines.into()),
                machine_hours: paid_s / 3600.0,
                usd,
                usd_per_1m_output_tokens: usd
                    .filter(|_| output_tokens > 0.0)
                    .map(|usd| usd * 1e6 / output_tokens),
                served,
                trust: None,
                trust_shares: BTreeMap::new(),
            };
            rows.insert(pool.name.clone(), row);
        }
        rows
    }
}

/// What the machines of all pools that were there cost per hour, on average over the run.
pub(super) fn usd_per_hour(report: &FleetReport, pools: &[PoolMeasure]) -> Option<UsdPerHour> {
    if report.pools.len() != pools.len() {
        return None;
    }
    let end_s = report.end.as_secs_f64();
    let prices = pools.iter().zip(&report.pools).map(|(pool, done)| {
        let machines = if end_s > 0.0 { done.machine_time.as_secs_f64() / end_s } else { 0.0 };
        Some(pool.price?.get() * machines)
    });
    prices.sum::<Option<f64>>().map(UsdPerHour::new)
}

/// The steps of each pool, for what prices them; beside the recorder, which has those of all.
#[derive(Clone, Debug, Default)]
pub struct PoolSteps {
    /// The pool of each replica.
    homes: Arc<[u16]>,
    steps: Vec<StepTotals>,
}

impl PoolSteps {
    /// `replicas` of each pool.
    pub fn new(replicas: &[u16]) -> Self {
        let homes = (0u16..)
            .zip(replicas)
            .flat_map(|(pool, &count)| std::iter::repeat_n(pool, count.into()));
        Self { homes: homes.collect(), steps: vec![StepTotals::default(); replicas.len()] }
    }

    /// How far the run can be trusted, the steps of whose pools were priced by numbers of these
    /// grades.
    pub fn trusted(&self, grades: &[TermGrades]) -> Trusted {
        let pools = self.steps.iter().zip(grades);
        let times = pools.flat_map(|(steps, grades)| {
            steps.time_by_kind().map(move |(kind, time)| (kind, time, grades))
        });
        Trusted::over(times)
    }

    /// The same of one pool.
    pub fn trusted_one(&self, pool: usize, grades: &TermGrades) -> Trusted {
        Trusted::of(self.steps[pool].time_by_kind(), grades)
    }

    fn of(&mut self, replica: u16) -> &mut StepTotals {
        &mut self.steps[usize::from(self.homes[usize::from(replica)])]
    }
}

impl Observer for PoolSteps {
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.of(step.replica).add(step.step.kind, 1, (step.start, step.end), step.time);
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        let (steps, span) = (run.steps.into(), (run.start, run.end));
        self.of(run.replica).add(StepKind::Decode, steps, span, &run.time);
    }
}
