//! `servesim record`: the schedule of a scenario, as a file that `servesim conformance` replays.

use std::io::{self, Write};

use super::args::RecordArgs;
use super::{Failure, Outcome, input, memory, output};
use crate::cli::args::Format;
use crate::conformance::{RecordError, Recorded, record_scenario};
use crate::deploy::{DeployError, Deployment};
use crate::scenario::Registry;

pub fn run(args: &RecordArgs, registry: &Registry) -> Result<Outcome, Failure> {
    let scenario = input::scenario(&args.scenario, registry)?;
    let deployment = match Deployment::new(&scenario) {
        Ok(deployment) => deployment,
        Err(DeployError::DoesNotFit { pool, plan }) => {
            memory::print(&scenario, pool.as_deref(), &plan, Format::Table)?;
            return Ok(Outcome::Negative);
        }
        Err(error @ DeployError::Refuses { .. }) => {
            output::complain(&format!("does not start: {error}"));
            return Ok(Outcome::Negative);
        }
        Err(error @ DeployError::Cost { .. }) => return Err(Failure::bad_input(error)),
    };
    let record = |out: &mut dyn Write| {
        record_scenario(&deployment, scenario.workload.seed, out).map_err(|error| match error {
            RecordError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Failure::BrokenPipe
            }
            RecordError::Io(error) => Failure::environment("cannot write the recording", &error),
            other => Failure::bad_input(other),
        })
    };
    let recorded = match &args.out {
        None => record(&mut io::BufWriter::new(io::stdout().lock()))?,
        Some(path) => {
            let recorded = output::write_file(path, record)?;
            let Recorded { steps, requests, .. } = recorded;
            let line = format!("{}: {steps} steps, {requests} requests\n", path.display());
            output::print(line.as_bytes())?;
            recorded
        }
    };
    for line in &recorded.broken {
        output::complain(&format!("invariant broken: {line}"));
    }
    Ok(if recorded.broken.is_empty() { Outcome::Done } else { Outcome::Negative })
}
