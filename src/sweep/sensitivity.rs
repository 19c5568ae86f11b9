//! How firmly a winner stands: against prices, and against bandwidth that is 10 % off.

use serde::Serialize;

use super::analysis::{Candidate, Cell, Report};
use super::point::run_scenario;
use super::{Point, Sweep, columns};
use crate::cost::calibrated::CostError;
use crate::cost::profile::lookup::Profiles;
use crate::cost::profile::{AllReduceSurface, GpuProfile};
use crate::deploy::{Deployment, profiles_of};
use crate::scenario::{Kind, ReadFile, Scenario};

/// The winner of a cell and those closest to it.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivity {
    pub winner: String,
    pub runner_up: String,
    /// Share by which the winner's price may rise, all else equal, before the runner-up is as good;
    /// where it is ranked by cost.
    pub price_margin: Option<f64>,
    pub trials: Vec<Trial>,
}

/// The ranking with one bandwidth changed.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// `memory` or `links`.
    pub bandwidth: &'static str,
    pub factor: f64,
    pub winner: String,
    /// The objective of the winner of the cell, relative to what it was.
    pub objective_change: f64,
}

/// Cells whose winners are tried; the first ones.
pub const MOST_CELLS: usize = 20;
/// Runners-up that are tried beside the winner.
const RUNNERS_UP: usize = 3;
const FACTORS: [f64; 2] = [0.9, 1.1];

/// Tries the winners of the first cells; `points` are those that their candidates are made of, by
/// number.
pub fn examine(
    sweep: &Sweep,
    report: &mut Report,
    points: &dyn Fn(u64) -> Option<Point>,
    files: &dyn ReadFile,
) {
    let (by, less) = (report.by.clone(), report.less_is_better);
    for cell in report.cells.iter_mut().take(MOST_CELLS) {
        cell.sensitivity = examine_cell(sweep, cell, (&by, less), points, files);
    }
}

/// The points that [`examine`] will ask for.
pub fn wanted(report: &Report) -> Vec<u64> {
    let cells = report.cells.iter().take(MOST_CELLS);
    let mut points: Vec<u64> =
        cells.flat_map(contenders).filter_map(|c| c.points.first().copied()).collect();
    points.sort_unstable();
    points
}

fn contenders(cell: &Cell) -> impl Iterator<Item = &Candidate> {
    cell.ranking.iter().take(1 + RUNNERS_UP).filter(|candidate| candidate.rank.is_some())
}

fn examine_cell(
    sweep: &Sweep,
    cell: &Cell,
    (by, less): (&str, bool),
    points: &dyn Fn(u64) -> Option<Point>,
    files: &dyn ReadFile,
) -> Option<Sensitivity> {
    let contenders: Vec<&Candidate> = contenders(cell).collect();
    let [winner, runner_up, ..] = contenders.as_slice() else { return None };
    let priced = by.starts_with("usd_per");
    let price_margin = match (winner.objective, runner_up.objective) {
        (Some(best), Some(next)) if priced => Some(next / best - 1.0),
        _ => None,
    };
    let get = columns::metrics().find(|(name, _)| *name == by)?.1;
    // One seed of each tells the change, which is then applied to the mean over all of them.
    let mut scenarios: Vec<(f64, Scenario)> = Vec::new();
    for contender in &contenders {
        let point = points(*contender.points.first()?)?;
        scenarios.push((contender.objective?, sweep.scenario(point, files).ok()?));
    }
    let objective = |scenario: &Scenario, change: Change| -> Option<f64> {
        let scenario = change.scenario(scenario);
        let deployment = Deployment::with(&scenario, |kind| change.profiles(kind)).ok()?;
        get(&run_scenario(&deployment).summary)
    };
    let unchanged: Vec<f64> = scenarios
        .iter()
        .map(|(_, scenario)| objective(scenario, Change { memory: 1.0, links: 1.0 }))
        .collect::<Option<_>>()?;
    let mut trials = Vec::new();
    let is_linked = |kind: &Kind<'_>| kind.engine.tensor_parallel_size > 1;
    let linked = scenarios.iter().any(|(_, scenario)| scenario.kinds().iter().any(is_linked));
    for (bandwidth, applies) in [("memory", true), ("links", linked)] {
        for factor in FACTORS.into_iter().filter(|_| applies) {
            let change = match bandwidth {
                "memory" => Change { memory: factor, links: 1.0 },
                _ => Change { memory: 1.0, links: factor },
            };
            let changed: Vec<f64> = scenarios
                .iter()
                .zip(&unchanged)
                .map(|((mean, scenario), was)| Some(mean * objective(scenario, change)? / was))
                .collect::<Option<_>>()?;
            let sign = if less { 1.0 } else { -1.0 };
            let best = (0..changed.len())
                .min_by(|&a, &b| (sign * changed[a]).total_cmp(&(sign * changed[b])))?;
            trials.push(Trial {
                bandwidth,
                factor,
                winner: contenders[best].label.clone(),
                objective_change: changed[0] / scenarios[0].0 - 1.0,
            });
        }
    }
    Some(Sensitivity {
        winner: winner.label.clone(),
        runner_up: runner_up.label.clone(),
        price_margin,
        trials,
    })
}

/// Factors on what GPUs read from their memory, and on what they send to each other.
#[derive(Clone, Copy, Debug)]
struct Change {
    memory: f64,
    links: f64,
}

impl Change {
    fn scenario(self, scenario: &Scenario) -> Scenario {
        let mut scenario = scenario.clone();
        let pools = scenario.fleet.iter_mut().flat_map(|fleet| &mut fleet.pools);
        let of_pools = pools.map(|pool| &mut pool.kind.hardware);
        for hardware in std::iter::once(&mut scenario.hardware).chain(of_pools) {
            let memory = &mut hardware.instance.gpu.memory;
            memory.bandwidth = memory.bandwidth * self.memory;
        }
        scenario
    }

    fn profiles(self, kind: &Kind<'_>) -> Result<Profiles, CostError> {
        let mut profiles = profiles_of(kind)?;
        scale_memory(&mut profiles.gpu.profile, self.memory);
        if let Some(links) = &mut profiles.interconnect {
            scale_links(&mut links.profile.nccl, self.links);
            if let Some(custom) = &mut links.profile.custom {
                scale_links(custom, self.links);
            }
        }
        Ok(profiles)
    }
}

fn scale_memory(profile: &mut GpuProfile, factor: f64) {
    let gemms = [Some(&mut profile.gemm), profile.gemm_fp8.as_mut()];
    for gemm in gemms.into_iter().flatten() {
        gemm.bandwidth.value = gemm.bandwidth.value * factor;
    }
    let attention = &mut profile.attention;
    attention.prefill.bandwidth.value = attention.prefill.bandwidth.value * factor;
    attention.decode.bandwidth.value = attention.decode.bandwidth.value * factor;
    attention.mixed.bandwidth.value = attention.mixed.bandwidth.value * factor;
    let dram = &mut profile.elementwise.dram_bandwidth;
    dram.value = dram.value * factor;
}

fn scale_links(surface: &mut AllReduceSurface, factor: f64) {
    for entry in &mut surface.bus_bandwidth {
        entry.value = entry.value * factor;
    }
}
