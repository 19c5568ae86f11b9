//! `servesim workload`: what a scenario will send.

use serde_json::json;

use super::args::{Format, WorkloadCommandArgs};
use super::{Failure, Outcome, input, list, output};
use crate::deploy::{self, DeployError, Deployment};
use crate::engine::observer::RequestRecord;
use crate::engine::{RunOptions, Simulation};
use crate::report::workload_table;
use crate::request::RequestSpec;
use crate::scenario::{Registry, Scenario};
use crate::time::SimTime;
use crate::workload::{Profiler, Workload};

pub fn run(args: &WorkloadCommandArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let scenario = input::scenario(&args.scenario, registry)?;
    let seed = scenario.workload.seed;
    let mut watched = Profiler::default();
    let waits = match deploy::requests_without_answers(&scenario, seed) {
        Some(mut workload) => {
            while let Some(at) = workload.next_arrival() {
                watched.add(at, &workload.take());
            }
            false
        }
        None => {
            answered(&scenario, seed, &mut watched)?;
            true
        }
    };
    if let Some(failure) = scenario.workload.trace_failure() {
        return Err(Failure::Environment(format!("error: {failure}")));
    }
    let profile = watched.profile();
    let tenants = scenario.workload.tenant_names();
    let mut notes = scenario.notes.clone();
    if waits {
        notes.push(
            "when requests are sent depends on the answers: these are the simulated ones".into(),
        );
    }
    match args.format {
        Format::Table => {
            let style = output::stdout_style();
            let mut text = workload_table::render(&scenario.name, &profile, &tenants, style);
            for note in notes {
                text.push_str(&style.dim(&format!("note: {note}")));
                text.push('\n');
            }
            output::print(text.as_bytes())?;
        }
        Format::Json => {
            let object = json!({
                "scenario": scenario.name,
                "workload": scenario.workload,
                "profile": profile,
                "tenants": tenants,
                "notes": notes,
            });
            output::print(&crate::report::json::pretty(&object))?;
        }
        Format::Csv => list::print(&workload_table::figures(&profile, &tenants), Format::Csv)?,
    }
    Ok(Outcome::Done)
}

/// Simulates the deployment, and watches what is asked of it.
fn answered(scenario: &Scenario, seed: u64, watched: &mut Profiler) -> Result<(), Failure> {
    let deployment = Deployment::new(scenario).map_err(|error| match error {
        DeployError::Cost { .. } => Failure::bad_input(error),
        // Who is never answered asks once.
        other => Failure::bad_input(format!(
            "when this workload sends depends on answers, and there are none: {other}"
        )),
    })?;
    let workload = Watched { workload: deployment.workload(seed), at: SimTime::ZERO, watched };
    let replicas = deployment.replicas();
    let options = RunOptions { stop_at: deployment.stop_at(), ..RunOptions::default() };
    let simulation = Simulation::new(replicas, deployment.router(seed), workload, (), options);
    deployment.surrounded(simulation, seed).run();
    Ok(())
}

struct Watched<'a> {
    workload: Box<dyn Workload>,
    at: SimTime,
    watched: &'a mut Profiler,
}

impl Workload for Watched<'_> {
    fn next_arrival(&mut self) -> Option<SimTime> {
        let at = self.workload.next_arrival();
        self.at = at.unwrap_or(self.at);
        at
    }

    fn take(&mut self) -> RequestSpec {
        let spec = self.workload.take();
        self.watched.add(self.at, &spec);
        spec
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        self.workload.on_reply(record);
    }
}
