//! The flags of sweeps and of searches for capacity.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, ScenarioArgs};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  servesim sweep redhat-table-2
  servesim sweep my-sweep.toml --out results --set workload.duration=60s
  servesim sweep my-sweep.toml --out shard-2 --shard 2/8
  servesim sweep merge shard-* --out results"
)]
pub struct SweepArgs {
    #[command(subcommand)]
    pub merge: Option<SweepCommand>,

    /// A sweep's file, or the name of an embedded one (`servesim list sweeps`)
    #[arg(value_name = "SWEEP", required = true)]
    pub sweep: Option<String>,

    /// Keep results in this folder; a sweep that was interrupted goes on where it was
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Also write the tables as Parquet, in builds with the feature parquet
    #[arg(long, requires = "out")]
    pub parquet: bool,

    /// Override any key of the base; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,

    /// Points that run at once (default: one for each core)
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub jobs: Option<u16>,

    /// Run only every N-th point, as shard I of N, counted from 0; `auto` in a job array of Slurm, Kubernetes or
    /// HyperQueue, `auto/N` where it does not say how many tasks there are
    #[arg(long, value_name = "I/N", requires = "out")]
    pub shard: Option<String>,

    /// Start however many points there are, without asking
    #[arg(long)]
    pub yes: bool,

    /// Check the file and count the points, and run none
    #[arg(long)]
    pub dry_run: bool,

    /// How the ranking is printed; csv prints all points
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim capacity redhat/llama-2-7b-g5.2xlarge --slo 'tpot:p95<100ms'
  servesim capacity --model llama-3.1-8b --instance g5.xlarge --engine vllm-0.32 \\
      --max-model-len 8192 --input-len 512 --output-len 128 --slo 'ttft<2s' --slo 'tpot<60ms'
  servesim capacity --cheapest --model llama-2-13b --engine vllm-0.32 --request-rate 10 \\
      --slo 'ttft:p99<2s' --slo 'tpot:p99<60ms'")]
pub struct CapacityArgs {
    #[command(flatten)]
    pub scenario: ScenarioArgs,

    /// A target: ttft, tpot, itl or e2el, with p50 to p100 (default p99) or mean, as in
    /// 'ttft:p99<2s'; or a share of requests within all of them, 'goodput>=99%'. May be repeated;
    /// vLLM's form 'ttft:2000' means milliseconds. Without one, the scenario's own [measure] slo
    #[arg(long, value_name = "TARGET")]
    pub slo: Vec<String>,

    /// What is raised until a target is missed (default: what the scenario's arrivals are)
    #[arg(long, value_enum, value_name = "LOAD")]
    pub search: Option<Searched>,

    /// Search the catalogue: which instance meets the targets cheapest, and how many it takes for
    /// --request-rate or --concurrency
    #[arg(long)]
    pub cheapest: bool,

    /// Instances to choose from (default: the whole catalogue)
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', requires = "cheapest")]
    pub instances: Vec<String>,

    /// How the answer is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// What a search for capacity raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Searched {
    /// Requests per second
    Rate,
    /// Clients that wait for their answers
    Concurrency,
}

#[derive(Debug, Subcommand)]
pub enum SweepCommand {
    /// Put the shards of a sweep together
    Merge(MergeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  servesim sweep merge shard-1 shard-2 --out results")]
pub struct MergeArgs {
    /// The shards' folders
    #[arg(required = true, value_name = "DIR")]
    pub shards: Vec<PathBuf>,

    /// The folder for the whole
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// Also write the points as Parquet, in builds with the feature parquet
    #[arg(long)]
    pub parquet: bool,

    /// How the ranking is printed; csv prints all points
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}
