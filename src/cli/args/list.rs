//! The flags of `list` and `schema`.

use clap::{Args, ValueEnum};

use super::Format;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim list gpus
  servesim list instances --format csv")]
pub struct ListArgs {
    /// What to list
    #[arg(value_enum)]
    pub what: Listed,

    /// How the list is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    /// GPUs with memory, bandwidth and dense peaks
    Gpus,
    /// Machines of the clouds with GPUs, links and price
    Instances,
    /// Model presets with their shapes
    Models,
    /// Engine generations
    Engines,
    /// What their schedulers do, rule by rule
    Rules,
    /// Scenarios that come with the program
    Scenarios,
    /// Sweeps that come with the program
    Sweeps,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim schema > scenario.schema.json    then, as the first line of a scenario:
  #:schema scenario.schema.json
  servesim schema sweep > sweep.schema.json")]
pub struct SchemaArgs {
    /// Of which file
    #[arg(value_enum, default_value_t)]
    pub of: SchemaOf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// What is simulated
    #[default]
    Scenario,
    /// A scenario over a grid of its keys
    Sweep,
}
