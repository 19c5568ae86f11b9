//! The flags of `memory`.

use std::path::PathBuf;

use clap::Args;

use super::{Format, ScenarioArgs};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim memory --model gemma-7b --instance g2-standard-4 --engine vllm-0.4.2
  servesim memory scenario.toml --max-model-len 600 --format json")]
pub struct MemoryArgs {
    #[command(flatten)]
    pub scenario: ScenarioArgs,

    /// Write memory.json and memory.csv into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// As of `run`, and without effect: a plan is made of no steps
    #[arg(long)]
    pub step_by_step: bool,

    /// As of `run`, and without effect: a plan is made of no steps
    #[arg(long)]
    pub check: bool,

    /// How the plan is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}
