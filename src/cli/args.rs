//! What can be typed: commands and flags. Each command's are in a file of its own.

mod accuracy;
mod calibrate;
mod compare;
mod conformance;
mod list;
mod memory;
mod report;
mod run;
mod scenario;
mod sweep;
mod validate;
mod workload;

use clap::{Parser, Subcommand, ValueEnum};

pub use accuracy::{AccuracyArgs, Section};
pub use calibrate::{CalibrateArgs, DeviceKind};
pub use compare::{CompareArgs, Side};
pub use conformance::{ConformanceArgs, RecordArgs};
pub use list::{ListArgs, Listed, SchemaArgs, SchemaOf};
pub use memory::MemoryArgs;
pub use report::ReportArgs;
pub use run::RunArgs;
pub use scenario::{DeploymentArgs, ScenarioArgs, WorkloadArgs};
pub use sweep::{CapacityArgs, MergeArgs, Searched, SweepArgs, SweepCommand};
pub use validate::ValidateArgs;
pub use workload::WorkloadCommandArgs;

/// Simulates LLM serving on GPUs: latency, throughput, memory and cost, without the GPUs.
#[derive(Debug, Parser)]
#[command(
    name = "servesim",
    version,
    max_term_width = 100,
    after_help = "Examples:
  servesim run                                   the embedded default scenario
  servesim run scenario.toml --concurrency 20    a file, with one key changed
  servesim memory --model gemma-7b --instance g2-standard-4 --engine vllm-0.4.2
  servesim sweep redhat-table-2                  an embedded sweep, ranked by cost
  servesim list models

Exit codes: 0 done; 1 a negative verdict (does not fit, bound broken, worse, diverges); 2 bad usage
or input; 3 the environment failed; 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

// Of all commands the one that was typed is built.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Simulate one scenario and print its summary
    Run(RunArgs),
    /// Show where the GPU memory goes and whether the engine starts; exit 1 if it does not
    Memory(MemoryArgs),
    /// Describe what a scenario will send: rates, bursts, lengths, what prompts share
    Workload(WorkloadCommandArgs),
    /// Simulate a scenario over a grid of its keys, and rank what comes out
    Sweep(SweepArgs),
    /// Find the highest load that meets latency targets, or the cheapest machine that does
    Capacity(CapacityArgs),
    /// Compare two scenarios under the same requests; exit 1 if the second is worse
    Compare(CompareArgs),
    /// Compare predictions with published measurements, or with a load test of your own; exit 1 if a
    /// stated bound is broken
    Validate(ValidateArgs),
    /// Show how far predictions are from measurements, by GPU, engine, model and operator
    Accuracy(AccuracyArgs),
    /// Make a profile from measurements
    Calibrate(CalibrateArgs),
    /// Replay recorded schedules of the real engines; exit 1 if one differs
    Conformance(ConformanceArgs),
    /// Write the schedule of a scenario as a recording that `conformance` replays
    Record(RecordArgs),
    /// Draw a run that --out has written: plots, a page with its timeline, a trace for Perfetto
    Report(ReportArgs),
    /// List what there is
    List(ListArgs),
    /// Print the JSON Schema of a scenario's or a sweep's file
    Schema(SchemaArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For spreadsheets: a header and rows
    Csv,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            let help = command.get_after_help().expect("examples").to_string();
            assert!(help.contains(&format!("servesim {}", command.get_name())), "{help}");
        }
    }
}
