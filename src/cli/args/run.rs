//! The flags of `run`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{Format, ScenarioArgs};
use crate::load_test::ResultFormat;

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

    /// Say what the time of requests goes to, cause by cause; with --out also blame.csv, one row per
    /// request
    #[arg(long)]
    pub blame: bool,

    /// Also write the tables as Parquet, in builds with the feature parquet
    #[arg(long, requires = "out")]
    pub parquet: bool,

    /// Print the result as a load tester's own JSON, by its definitions; with --out into that folder
    #[arg(long, value_name = "TOOL", value_parser = result_format())]
    pub result_format: Option<ResultFormat>,

    /// With --result-format vllm: also the gaps between the tokens of each request (itls) and
    /// generated_texts, as `vllm bench serve --save-detailed` writes them
    #[arg(long, requires = "result_format")]
    pub save_detailed: bool,

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

fn result_format() -> impl TypedValueParser<Value = ResultFormat> {
    PossibleValuesParser::new(ResultFormat::names())
        .map(|name| name.parse().expect("one of the possible values"))
}
