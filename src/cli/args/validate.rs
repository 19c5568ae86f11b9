//! The flags of `validate`.

use std::path::PathBuf;

use clap::Args;

use super::{DeploymentArgs, Format, ScenarioArgs, WorkloadArgs};
use crate::compare::metric::parse_tolerance;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim validate
  servesim validate redhat --format json
  servesim validate --against result.json scenario.toml
  servesim validate --against benchmarks.json --benchmark 2 scenario.toml --tolerance 10%
  servesim validate --against result.json scenario.toml --seeds 16

With --against the file is a result of vllm bench serve, guidellm, llm-load-test, aiperf or
genai-perf, told by its content; both sides' figures follow that tool's definitions. The scenario is
simulated once, or with each of --seeds N: then predictions are means, and the spread between seeds
stands beside the error.")]
pub struct ValidateArgs {
    /// The suite, all of them without one; with --against, the scenario that the load test ran
    #[arg(value_name = "SUITE|SCENARIO")]
    pub what: Option<String>,

    /// A load tester's result, to set a prediction beside it
    #[arg(long, value_name = "RESULT.json")]
    pub against: Option<PathBuf>,

    /// Which benchmark of a guidellm report that holds several, counted from 0
    #[arg(long, value_name = "N", requires = "against")]
    pub benchmark: Option<usize>,

    /// Exit 1 if a throughput, or a mean or percentile of a latency, is off by more, as in 10%
    #[arg(long, value_name = "SHARE", requires = "against", allow_hyphen_values = true, value_parser = parse_tolerance)]
    pub tolerance: Option<f64>,

    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,

    /// Override any key of the scenario; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "against")]
    pub set: Vec<String>,

    #[command(flatten)]
    pub deployment: DeploymentArgs,

    #[command(flatten)]
    pub workload: WorkloadArgs,
}

impl ValidateArgs {
    /// The scenario to set beside a load test.
    pub fn scenario(&self) -> ScenarioArgs {
        ScenarioArgs {
            scenario: self.what.clone(),
            set: self.set.clone(),
            deployment: self.deployment.clone(),
            workload: self.workload.clone(),
        }
    }
}
