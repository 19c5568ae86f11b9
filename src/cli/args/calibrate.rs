//! What can be typed after `servesim calibrate`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::Format;

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("measurements").required(true),
    after_help = "Examples:
  servesim calibrate --from-tables tables/ --gpu l40s --out l40s.toml
  servesim calibrate --device cuda --out my-gpu.toml
  servesim calibrate --device cpu --quick --out host.toml && servesim run --gpu host.toml ...
  servesim calibrate --fit-deployment measured.csv --instance g5.12xlarge --engine vllm-0.32 \\
      --out ours.toml && servesim run --instance g5.12xlarge --engine vllm-0.32 --profile ours.toml

With --device the profile is a GPU file with its calibration, for --gpu of other commands; the
timings go to a folder beside it (my-gpu.rows/). An interrupted calibration goes on where it was.

With --fit-deployment each row of MEASUREMENTS.csv is a run: model, gpus, clients (or request_rate),
input_tokens and output_tokens (or dataset), duration_s, quantize, instance, engine, environment;
scenario, a file or embedded one that the other columns change; any key of a scenario, as
engine.vllm.max-num-seqs. Measured: one or more of throughput_tok_s, ttft_ms, tpot_ms,
inference_ms_per_token, e2e_ms, batch_ms_per_token, batch_ms (all means but inference_ms_per_token,
a median of time on the GPU by tokens). fit = no: the row is predicted and not fitted."
)]
pub struct CalibrateArgs {
    /// Operator tables (CSV), or folders of them
    #[arg(long, value_name = "FILE|DIR", num_args = 1.., group = "measurements")]
    pub from_tables: Vec<PathBuf>,

    /// Time micro-kernels on this machine
    #[arg(long, value_name = "DEVICE", group = "measurements", requires = "out")]
    pub device: Option<DeviceKind>,

    /// Fit constants of the host, the engine and the links to measured runs, by simulating them
    #[arg(
        long,
        value_name = "MEASUREMENTS.csv",
        group = "measurements",
        conflicts_with_all = ["device_index", "threads", "quick", "gpu"]
    )]
    pub fit_deployment: Option<PathBuf>,

    /// The instance that was measured, or a family such as g5; rows of others are left out
    #[arg(long, value_name = "INSTANCE", requires = "fit_deployment")]
    pub instance: Option<String>,

    /// The engine that was measured; rows of others are left out
    #[arg(long, value_name = "ENGINE", requires = "fit_deployment")]
    pub engine: Option<String>,

    /// A key of the scenarios of all rows; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "fit_deployment")]
    pub set: Vec<String>,

    /// The constants to fit [default: those that the profile to begin with was fitted with, else
    /// all that some row depends on]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', requires = "fit_deployment")]
    pub constants: Vec<String>,

    /// What is thought of a constant beforehand: a guess, and one standard deviation as a factor up
    /// and down, as in serial-per-step="2 ms,1.5" [default: the value of the profile to begin with,
    /// the wider the less its provenance promises]
    #[arg(long, value_name = "NAME=GUESS,FACTOR", requires = "fit_deployment")]
    pub prior: Vec<String>,

    /// Repetitions of a run whose lengths or arrivals are random
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        value_parser = clap::value_parser!(u64).range(1..=1000),
        requires = "fit_deployment"
    )]
    pub seeds: u64,

    /// Number of the GPU, as CUDA counts
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "from_tables")]
    pub device_index: u32,

    /// Threads of the CPU device [default: all that this process may use]
    #[arg(long, value_name = "N", conflicts_with = "from_tables")]
    pub threads: Option<usize>,

    /// Half of the shapes and fewer repeats: minutes in place of a quarter of an hour
    #[arg(long, conflicts_with = "from_tables")]
    pub quick: bool,

    /// The GPU of the catalogue whose rows to take; needed where the tables have several
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    pub gpu: Option<String>,

    #[command(flatten)]
    pub tables: TableArgs,

    /// Write the profile here; it is complete or left as it was
    #[arg(long, value_name = "PROFILE.toml")]
    pub out: Option<PathBuf>,

    /// How the report is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// What to fit to operator tables, in place of a GPU's profile.
#[derive(Clone, Debug, Args)]
pub struct TableArgs {
    /// Fit links to all-reduce rows: a profile of that name, such as link--nvswitch
    #[arg(long, value_name = "NAME", requires = "from_tables", conflicts_with_all = ["gpu", "weight_kernel"])]
    pub links: Option<String>,

    /// Fit a kernel for quantised weights: marlin, marlin-fp8 or eetq
    #[arg(long, value_name = "NAME", requires = "from_tables", conflicts_with = "gpu")]
    pub weight_kernel: Option<String>,
}

/// What micro-kernels run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    /// An NVIDIA GPU (Turing or later); only its driver is needed
    Cuda,
    /// The host's processor, in 32 bits
    Cpu,
}
