//! The flags of `conformance` and `record`.

use std::path::PathBuf;

use clap::Args;

use super::ScenarioArgs;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim conformance recordings/tgis recordings/vllm/one.json
  servesim conformance --engine vllm-0.13 recordings/vllm-v1-0.32    would 0.13 have done the same?

The last line is `N passed, M failed`; exit 1 if one differs.")]
pub struct ConformanceArgs {
    /// Replay by the rules of this engine instead of those of the one that was recorded; of the same
    /// family
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,

    /// Recorded schedules, or folders of them
    #[arg(required = true, value_name = "FILE|DIR")]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim record scenario.toml --out schedule.json
  servesim record --model llama-3-8b --gpu a100-80gb --engine vllm-0.32 --concurrency 20 \\
      --duration 30s --out schedule.json
  servesim conformance schedule.json    passes until a scheduler decides otherwise

The recording holds what the scheduler was given and what it decided, in the format of its engine's
golden schedules. A replay takes the duration of each step from it and not from a cost model.")]
pub struct RecordArgs {
    #[command(flatten)]
    pub scenario: ScenarioArgs,

    /// The file to write; standard output without it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
