//! `servesim capacity`: the highest load that meets an objective, or the cheapest machine that does.

use serde_json::json as object;

use super::args::{CapacityArgs, Format, Searched};
use super::{Failure, Outcome, input, list, memory, output};
use crate::deploy::DeployError;
use crate::hardware;
use crate::report::{capacity_table, json};
use crate::scenario::{self, DiskFiles, Override, Registry, Scenario, Source};
use crate::sweep::capacity::{self, SearchedLoad};
use crate::sweep::slo::Objective;

pub fn run(args: &CapacityArgs, registry: &Registry) -> Result<Outcome, Failure> {
    if args.cheapest { cheapest(args, registry) } else { one(args, registry) }
}

/// A trace says when requests come and what they ask for at once, so that there is no load to raise.
fn refuse_trace(scenario: &Scenario) -> Result<(), Failure> {
    if scenario.workload.askers().is_empty() {
        return Err(Failure::bad_input(
            "a trace has a load of its own, and the search is for the load\n  = help: give lengths \
             in place of the trace (--lengths, or --input-len and --output-len)",
        ));
    }
    Ok(())
}

/// Each machine of the catalogue is tried in the place of the scenario's, as many as that has.
fn refuse_changing_fleets(scenario: &Scenario) -> Result<(), Failure> {
    let Some(fleet) = &scenario.fleet else { return Ok(()) };
    let (has, help) = if !fleet.pools.is_empty() {
        (
            "pools",
            "leave [fleet.pools] out; `servesim capacity` without --cheapest takes them as they are",
        )
    } else if fleet.autoscaling.is_some() {
        (
            "machines that come and go",
            "leave [fleet.autoscaling] out: the answer says how many machines",
        )
    } else {
        return Ok(());
    };
    Err(Failure::bad_input(format!(
        "--cheapest asks which machine and how many, and the scenario's fleet has {has}\n  = help: \
         {help}"
    )))
}

fn objective(args: &CapacityArgs, scenario: &Scenario) -> Result<Objective, Failure> {
    if args.slo.is_empty() {
        return match &scenario.measure.slo {
            Some(slo) => Ok(Objective::of(slo)),
            None => Err(Failure::bad_input(
                "nothing says how fast answers have to come\n  = help: add --slo 'ttft:p99<2s' \
                 --slo 'tpot:p99<60ms', or [measure] slo to the scenario",
            )),
        };
    }
    Objective::parse(&args.slo).map_err(Failure::bad_input)
}

fn searched(args: &CapacityArgs, scenario: &Scenario) -> SearchedLoad {
    let workload = &args.scenario.workload;
    match args.search {
        Some(Searched::Rate) => SearchedLoad::Rate,
        Some(Searched::Concurrency) => SearchedLoad::Concurrency,
        None if workload.concurrency.is_some() => SearchedLoad::Concurrency,
        None if workload.request_rate.is_some() => SearchedLoad::Rate,
        None if args.scenario.scenario.is_some() => SearchedLoad::of(scenario),
        None => SearchedLoad::Rate,
    }
}

fn one(args: &CapacityArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let scenario = input::scenario(&args.scenario, registry)?;
    refuse_trace(&scenario)?;
    let objective = objective(args, &scenario)?;
    let over = searched(args, &scenario);
    let found = match capacity::search(&scenario, over, &objective) {
        Ok(found) => found,
        Err(DeployError::DoesNotFit { pool, plan }) => {
            memory::print(&scenario, pool.as_deref(), &plan, args.format)?;
            return Ok(Outcome::Negative);
        }
        Err(error @ DeployError::Refuses { .. }) => {
            output::complain(&format!("does not start: {error}"));
            return Ok(Outcome::Negative);
        }
        Err(error @ DeployError::Cost { .. }) => return Err(Failure::bad_input(error)),
    };
    match args.format {
        Format::Table => {
            let text = capacity_table::render(
                &scenario.name,
                &objective,
                &found,
                &scenario.notes,
                output::stdout_style(),
            );
            output::print(text.as_bytes())?;
        }
        Format::Json => output::print(&json::pretty(&object!({
            "scenario": scenario,
            "objective": objective.to_string(),
            "capacity": found,
        })))?,
        Format::Csv => {
            list::print(&capacity_table::row(&scenario.name, &objective, &found), Format::Csv)?;
        }
    }
    Ok(if found.load.is_some() { Outcome::Done } else { Outcome::Negative })
}

fn cheapest(args: &CapacityArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let instances = instances(args)?;
    let source = match &args.scenario.scenario {
        Some(name) => scenario::open(name, &DiskFiles)?,
        None => Source::Flags,
    };
    let scenario_for = |instance: &str, tensor_parallel: u32| {
        let mut overrides = args.scenario.overrides();
        overrides.push(Override::flag("--instance", "hardware.instance", instance));
        let size = tensor_parallel.to_string();
        overrides.push(Override::flag("--tp", "engine.tensor-parallel-size", &size));
        overrides.push(Override::flag("--replicas", "engine.replicas", "1"));
        scenario::load_with(&source, &overrides, &DiskFiles, registry)
    };
    // What is wrong with every machine is wrong with the input.
    let scenario = scenario_for(&instances[0], 1)?;
    refuse_trace(&scenario)?;
    refuse_changing_fleets(&scenario)?;
    let objective = objective(args, &scenario)?;
    let over = searched(args, &scenario);
    let wanted = wanted(args, &scenario, over);
    let offers = capacity::cheapest(&instances, over, &objective, wanted, &scenario_for);
    let found = offers.iter().any(|offer| offer.load.is_some());
    match args.format {
        Format::Table => {
            let title = format!("{} under {}", scenario.model.name, scenario.engine.name);
            let text = capacity_table::render_offers(
                &title,
                &objective,
                (over, wanted),
                &offers,
                &scenario.notes,
                output::stdout_style(),
            );
            output::print(text.as_bytes())?;
        }
        Format::Json => output::print(&json::pretty(&object!({
            "objective": objective.to_string(),
            "load": over,
            "wanted": wanted,
            "offers": offers,
        })))?,
        Format::Csv => list::print(&capacity_table::offers(&offers, over), Format::Csv)?,
    }
    Ok(if found { Outcome::Done } else { Outcome::Negative })
}

/// The load that was asked for on the command line: with a flag, or as a scenario.
fn wanted(args: &CapacityArgs, scenario: &Scenario, over: SearchedLoad) -> Option<f64> {
    use crate::scenario::ArrivalSpec;
    let workload = &args.scenario.workload;
    match (over, &scenario.workload.arrivals) {
        (SearchedLoad::Concurrency, ArrivalSpec::ClosedLoop { clients, .. })
            if workload.concurrency.is_some() =>
        {
            Some(f64::from(*clients))
        }
        (SearchedLoad::Rate, ArrivalSpec::Open(_)) => {
            workload.request_rate.as_ref().and_then(|rate| rate.trim().parse().ok())
        }
        _ => None,
    }
}

/// The instances to choose from.
fn instances(args: &CapacityArgs) -> Result<Vec<String>, Failure> {
    let known: Vec<String> = hardware::instance_names().map(str::to_owned).collect();
    if args.instances.is_empty() {
        return Ok(known);
    }
    for name in &args.instances {
        hardware::instance(name).map_err(Failure::bad_input)?;
    }
    Ok(args.instances.clone())
}
