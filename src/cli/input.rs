//! From what was typed to a scenario.

use super::Failure;
use super::args::ScenarioArgs;
use crate::scenario::{self, DiskFiles, Registry, Scenario, Source};

/// The scenario that the arguments describe: a file or an embedded scenario with overrides, or flags
/// alone, or the embedded default.
pub fn scenario(args: &ScenarioArgs, registry: &Registry) -> Result<Scenario, Failure> {
    let source = source(args)?;
    Ok(scenario::load_with(&source, &args.overrides(), &DiskFiles, registry)?)
}

/// What the flags change.
pub fn source(args: &ScenarioArgs) -> Result<Source, Failure> {
    Ok(match &args.scenario {
        Some(name) => scenario::open(name, &DiskFiles)?,
        None if args.deployment.names_a_deployment() => Source::Flags,
        None => scenario::embedded(scenario::DEFAULT_SCENARIO)
            .expect("the default scenario is embedded"),
    })
}
