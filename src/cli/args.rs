//! What can be typed: commands and flags, and the scenario keys that flags stand for.
//!
//! Flags that override a key take their value as text and pass it on with their own spelling. So a
//! value is checked in one place, whether it comes from a file, `--set` or a flag, and the message
//! points at what the user wrote.

mod accuracy;
mod calibrate;
mod compare;
mod sweep;
mod validate;

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::load_test::ResultFormat;
use crate::scenario::Override;

pub use accuracy::{AccuracyArgs, Section};
pub use calibrate::{CalibrateArgs, DeviceKind};
pub use compare::{CompareArgs, Side};
pub use sweep::{CapacityArgs, MergeArgs, Searched, SweepArgs, SweepCommand};
pub use validate::ValidateArgs;

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

// Of thirteen commands one is built.
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

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim run
  servesim run scenarios/redhat/llama-2-7b-g5.2xlarge.toml --format json
  servesim run --model llama-3-8b --gpu a100-80gb --engine vllm-0.32 --request-rate 4 \\
      --input-len 512 --output-len 128 --num-prompts 1000
  servesim run scenario.toml --set engine.vllm.block-size=32 --out results
  servesim run scenario.toml --result-format guidellm > benchmarks.json")]
pub struct RunArgs {
    #[command(flatten)]
    pub scenario: ScenarioArgs,

    /// Write summary.json, requests.csv and timeline.csv into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Also write steps.csv, one row per engine step (takes every step on its own)
    #[arg(long, requires = "out")]
    pub steps: bool,

    /// Also write the tables as Parquet, in builds with the feature parquet
    #[arg(long, requires = "out")]
    pub parquet: bool,

    /// Print the result as a load tester's own JSON, by its definitions; with --out into that folder
    #[arg(long, value_name = "TOOL", value_parser = result_format())]
    pub result_format: Option<ResultFormat>,

    /// Take every step on its own instead of jumping over equal ones; the results are the same
    #[arg(long)]
    pub step_by_step: bool,

    /// Say where measurements are expected, given how far the numbers behind the prediction may be
    /// off (simulates some twenty variations)
    #[arg(long)]
    pub intervals: bool,

    /// Check the engine's invariants at every step
    #[arg(long)]
    pub check: bool,

    /// How the summary is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim memory --model gemma-7b --instance g2-standard-4 --engine vllm-0.4.2
  servesim memory scenario.toml --max-model-len 600 --format json")]
pub struct MemoryArgs {
    #[command(flatten)]
    pub scenario: ScenarioArgs,

    /// How the plan is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

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

/// A scenario and what is changed in it.
#[derive(Clone, Debug, Default, Args)]
pub struct ScenarioArgs {
    /// A scenario file, or the name of an embedded one (`servesim list scenarios`). Without one, the
    /// flags describe the deployment; without flags either, an embedded default runs
    #[arg(value_name = "SCENARIO")]
    pub scenario: Option<String>,

    /// Override any key of the scenario; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,

    #[command(flatten)]
    pub deployment: DeploymentArgs,

    #[command(flatten)]
    pub workload: WorkloadArgs,
}

impl ScenarioArgs {
    /// The overrides that the flags stand for; `--set` comes last and wins.
    pub fn overrides(&self) -> Vec<Override> {
        let mut overrides = self.deployment.overrides();
        overrides.extend(self.workload.overrides());
        overrides.extend(self.set.iter().map(|assignment| Override::set(assignment)));
        overrides
    }
}

/// Model, machine and engine.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Deployment")]
pub struct DeploymentArgs {
    /// A preset, or the path of a Hugging Face config.json
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,

    /// An instance type by the cloud's own name
    #[arg(long, value_name = "INSTANCE", conflicts_with = "gpu")]
    pub instance: Option<String>,

    /// A GPU in a machine of one's own, in place of --instance
    #[arg(long, value_name = "GPU")]
    pub gpu: Option<String>,

    /// How many of them
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "instance")]
    pub num_gpus: Option<String>,

    /// Price of the whole machine, as in "1.212 USD/h"
    #[arg(long, value_name = "PRICE")]
    pub price: Option<String>,

    /// An engine and its generation
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,

    /// A deployment profile of `calibrate --fit-deployment`, or the environment of an embedded one
    #[arg(long, value_name = "FILE|ENVIRONMENT")]
    pub profile: Option<String>,

    /// GPUs that share each layer
    #[arg(
        long = "tp",
        visible_alias = "tensor-parallel-size",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub tensor_parallel_size: Option<String>,

    /// Independent copies of the engine on the machine
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub replicas: Option<String>,

    /// Element type of activations and unquantised weights
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,

    /// How the weights are stored
    #[arg(long, value_name = "FORMAT", visible_alias = "quantization")]
    pub quantize: Option<String>,

    /// Element type of the KV cache
    #[arg(long, value_name = "DTYPE")]
    pub kv_cache_dtype: Option<String>,

    /// Longest prompt and output together
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_model_len: Option<String>,

    /// Share of the GPU's memory that the engine may use
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub gpu_memory_utilization: Option<String>,

    /// Most sequences in a batch
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_num_seqs: Option<String>,

    /// Most tokens in a step (prefill, where the engine separates it)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_num_batched_tokens: Option<String>,

    /// Tokens per KV block
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub block_size: Option<String>,

    /// Reuse the KV blocks of equal prefixes
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub enable_prefix_caching: bool,

    /// Do not
    #[arg(long, overrides_with = "enable_prefix_caching")]
    pub no_enable_prefix_caching: bool,

    /// Cut long prompts into chunks that run with decodes
    #[arg(long, overrides_with = "no_enable_chunked_prefill")]
    pub enable_chunked_prefill: bool,

    /// Do not
    #[arg(long, overrides_with = "enable_chunked_prefill")]
    pub no_enable_chunked_prefill: bool,
}

impl DeploymentArgs {
    /// Whether the flags name a deployment of their own.
    pub const fn names_a_deployment(&self) -> bool {
        self.model.is_some()
            || self.instance.is_some()
            || self.gpu.is_some()
            || self.engine.is_some()
    }

    fn overrides(&self) -> Vec<Override> {
        // A preset has no slash and no extension.
        let is_path = |model: &str| model.contains(['/', '\\']) || model.ends_with(".json");
        let model_key = match &self.model {
            Some(model) if is_path(model) => "model.config",
            _ => "model.name",
        };
        let mut overrides = valued(&[
            ("--model", model_key, &self.model),
            ("--instance", "hardware.instance", &self.instance),
            ("--gpu", "hardware.gpu", &self.gpu),
            ("--num-gpus", "hardware.num-gpus", &self.num_gpus),
            ("--price", "hardware.price", &self.price),
            ("--engine", "engine.name", &self.engine),
            ("--profile", "hardware.deployment", &self.profile),
            ("--tp", "engine.tensor-parallel-size", &self.tensor_parallel_size),
            ("--replicas", "engine.replicas", &self.replicas),
            ("--dtype", "model.dtype", &self.dtype),
            ("--quantize", "model.quantize", &self.quantize),
            ("--kv-cache-dtype", "engine.*.kv-cache-dtype", &self.kv_cache_dtype),
            ("--max-model-len", "engine.*.max-model-len", &self.max_model_len),
            (
                "--gpu-memory-utilization",
                "engine.*.gpu-memory-utilization",
                &self.gpu_memory_utilization,
            ),
            ("--max-num-seqs", "engine.*.max-num-seqs", &self.max_num_seqs),
            (
                "--max-num-batched-tokens",
                "engine.*.max-num-batched-tokens",
                &self.max_num_batched_tokens,
            ),
            ("--block-size", "engine.*.block-size", &self.block_size),
        ]);
        overrides.extend(switched(&[
            (
                self.enable_prefix_caching,
                "--enable-prefix-caching",
                self.no_enable_prefix_caching,
                "--no-enable-prefix-caching",
                "engine.*.enable-prefix-caching",
            ),
            (
                self.enable_chunked_prefill,
                "--enable-chunked-prefill",
                self.no_enable_chunked_prefill,
                "--no-enable-chunked-prefill",
                "engine.*.enable-chunked-prefill",
            ),
        ]));
        overrides
    }
}

/// Arrivals, lengths, the end of the run, and what is measured.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Workload")]
pub struct WorkloadArgs {
    /// Clients that each wait for their answer before they send again
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        conflicts_with_all = ["request_rate", "trace"]
    )]
    pub concurrency: Option<String>,

    /// Requests per second that arrive whatever the answers; with --trace, its times are stretched to
    /// that rate
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub request_rate: Option<String>,

    /// Gaps between arrivals at --request-rate
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub arrivals: Arrivals,

    /// Shape of the gaps' Gamma (or Weibull) distribution: below 1 in bursts, 1 Poisson, above more
    /// even
    #[arg(long, value_name = "SHAPE", allow_negative_numbers = true)]
    pub burstiness: Option<String>,

    /// Replay the arrivals and lengths of a recorded trace: Azure, BurstGPT, Mooncake, or a CSV or JSON
    /// Lines file with arrival_s, input_tokens and output_tokens
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["lengths", "input_len", "output_len", "burstiness"]
    )]
    pub trace: Option<String>,

    /// Factor on the times of the trace: 0.5 sends it twice as fast
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub time_scale: Option<String>,

    /// Factor on the number of the trace's requests at unchanged times
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub rate_scale: Option<String>,

    /// A CSV with the columns input_tokens and output_tokens, or an embedded data set
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_len", "output_len"])]
    pub lengths: Option<String>,

    /// Prompt tokens of every request
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub input_len: Option<String>,

    /// Output tokens of every request
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub output_len: Option<String>,

    /// How long clients send, as in "240s"
    #[arg(
        long,
        value_name = "TIME",
        allow_negative_numbers = true,
        conflicts_with = "num_prompts"
    )]
    pub duration: Option<String>,

    /// How many requests are sent
    #[arg(long, value_name = "N", visible_alias = "num-requests", allow_negative_numbers = true)]
    pub num_prompts: Option<String>,

    /// Seed of all random streams
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub seed: Option<String>,

    /// Independent repetitions; above 1 the summary has means and 95 % intervals
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seeds: Option<String>,

    /// Start of the run that the summary leaves out, as in "30s"
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub warm_up: Option<String>,

    /// Whose definitions of throughput and latency the summary follows
    #[arg(long, value_name = "NAME")]
    pub convention: Option<String>,

    /// Target for the time to first token, as in "2s"
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub slo_ttft: Option<String>,

    /// Target for the time per output token, as in "60ms"
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub slo_tpot: Option<String>,

    /// Target for the time from arrival to the last token
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub slo_e2el: Option<String>,
}

/// The gaps of an open loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// Exponential gaps
    #[default]
    Poisson,
    /// Equal gaps
    Constant,
    /// Gamma-distributed gaps of the shape --burstiness, as in vllm bench serve
    Gamma,
    /// Weibull-distributed gaps of that shape
    Weibull,
}

impl WorkloadArgs {
    fn overrides(&self) -> Vec<Override> {
        // As in vllm bench serve, a burstiness alone means Gamma.
        let (rate_key, burstiness_key) = match (self.arrivals, &self.burstiness) {
            // A trace is stretched to the rate.
            _ if self.trace.is_some() => {
                ("workload.trace.request-rate", "workload.gamma.burstiness")
            }
            (Arrivals::Constant, _) => {
                ("workload.constant.request-rate", "workload.constant.burstiness")
            }
            (Arrivals::Poisson, None) => {
                ("workload.poisson.request-rate", "workload.gamma.burstiness")
            }
            (Arrivals::Poisson | Arrivals::Gamma, _) => {
                ("workload.gamma.request-rate", "workload.gamma.burstiness")
            }
            (Arrivals::Weibull, _) => {
                ("workload.weibull.request-rate", "workload.weibull.burstiness")
            }
        };
        valued(&[
            ("--concurrency", "workload.closed-loop.clients", &self.concurrency),
            ("--trace", "workload.trace.file", &self.trace),
            ("--request-rate", rate_key, &self.request_rate),
            ("--burstiness", burstiness_key, &self.burstiness),
            ("--time-scale", "workload.trace.time-scale", &self.time_scale),
            ("--rate-scale", "workload.trace.rate-scale", &self.rate_scale),
            ("--lengths", "workload.lengths.dataset", &self.lengths),
            ("--input-len", "workload.lengths.fixed.input", &self.input_len),
            ("--output-len", "workload.lengths.fixed.output", &self.output_len),
            ("--duration", "workload.duration", &self.duration),
            ("--num-prompts", "workload.num-requests", &self.num_prompts),
            ("--seed", "workload.seed", &self.seed),
            ("--seeds", "measure.seeds", &self.seeds),
            ("--warm-up", "measure.warm-up", &self.warm_up),
            ("--convention", "measure.convention", &self.convention),
            ("--slo-ttft", "measure.slo.ttft", &self.slo_ttft),
            ("--slo-tpot", "measure.slo.tpot", &self.slo_tpot),
            ("--slo-e2el", "measure.slo.e2el", &self.slo_e2el),
        ])
    }
}

fn result_format() -> impl TypedValueParser<Value = ResultFormat> {
    PossibleValuesParser::new(ResultFormat::names())
        .map(|name| name.parse().expect("one of the possible values"))
}

fn valued(flags: &[(&str, &str, &Option<String>)]) -> Vec<Override> {
    let given = flags.iter().filter_map(|&(flag, key, value)| Some((flag, key, value.as_ref()?)));
    given.map(|(flag, key, value)| Override::flag(flag, key, value)).collect()
}

/// (on, its flag, off, its flag, key); of the two, clap keeps the later.
fn switched(flags: &[(bool, &str, bool, &str, &str)]) -> Vec<Override> {
    flags
        .iter()
        .filter_map(|&(on, on_flag, off, off_flag, key)| match (on, off) {
            (true, _) => Some(Override::switch(on_flag, key, true)),
            (_, true) => Some(Override::switch(off_flag, key, false)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn scenario_args(flags: &[&str]) -> ScenarioArgs {
        let words = ["servesim", "run"].iter().chain(flags);
        match Cli::try_parse_from(words).expect("flags that parse").command {
            Command::Run(run) => run.scenario,
            other => panic!("{other:?}"),
        }
    }

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

    #[test]
    fn flags_become_overrides_with_their_own_spelling() {
        let args = scenario_args(&["--tp", "4", "--concurrency", "20", "--set", "a.b=1"]);
        let want = [
            Override::flag("--tp", "engine.tensor-parallel-size", "4"),
            Override::flag("--concurrency", "workload.closed-loop.clients", "20"),
            Override::set("a.b=1"),
        ];
        assert_eq!(args.overrides(), want);
    }

    #[test]
    fn a_model_is_a_preset_or_a_path() {
        let key = |model: &str| scenario_args(&["--model", model]).overrides()[0].clone();
        let flag = |key: &str, model: &str| Override::flag("--model", key, model);
        assert_eq!(key("llama-2-7b"), flag("model.name", "llama-2-7b"));
        assert_eq!(key("my/config.json"), flag("model.config", "my/config.json"));
        assert_eq!(key("config.json"), flag("model.config", "config.json"));
    }

    #[test]
    fn the_later_of_two_switches_wins() {
        let args =
            scenario_args(&["--enable-prefix-caching", "--no-enable-prefix-caching"]).overrides();
        let key = "engine.*.enable-prefix-caching";
        assert_eq!(args, [Override::switch("--no-enable-prefix-caching", key, false)]);
    }

    #[test]
    fn a_burstiness_makes_the_gaps_gamma() {
        let flags = |more: &[&str]| {
            let flags = [&["--request-rate", "2", "--burstiness", "0.5"], more].concat();
            scenario_args(&flags).overrides()
        };
        let want = |kind: &str| {
            let key = |key: &str| format!("workload.{kind}.{key}");
            [
                Override::flag("--request-rate", &key("request-rate"), "2"),
                Override::flag("--burstiness", &key("burstiness"), "0.5"),
            ]
        };
        assert_eq!(flags(&[]), want("gamma"));
        assert_eq!(flags(&["--arrivals", "weibull"]), want("weibull"));
    }

    #[test]
    fn a_rate_beside_a_trace_is_the_traces() {
        let args = scenario_args(&["--request-rate", "4", "--trace", "a.csv"]).overrides();
        let want = [
            Override::flag("--trace", "workload.trace.file", "a.csv"),
            Override::flag("--request-rate", "workload.trace.request-rate", "4"),
        ];
        assert_eq!(args, want);
    }

    #[test]
    fn negative_numbers_reach_the_check_that_explains_them() {
        let args = scenario_args(&["--request-rate", "-3", "--arrivals", "constant"]).overrides();
        assert_eq!(
            args,
            [Override::flag("--request-rate", "workload.constant.request-rate", "-3")]
        );
    }
}
