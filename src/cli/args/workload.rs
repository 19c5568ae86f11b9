//! The flags of `workload`.

use clap::Args;

use super::{Format, ScenarioArgs};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim workload examples/chat-sessions
  servesim workload --trace trace.csv --model llama-3.1-8b --gpu a100-80gb --engine vllm-0.32
  servesim workload scenario.toml --request-rate 4 --burstiness 0.3 --format json")]
pub struct WorkloadCommandArgs {
    #[command(flatten)]
    pub scenario: ScenarioArgs,

    /// How the description is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}
