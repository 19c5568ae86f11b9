//! The flags of `validate`.

use std::path::PathBuf;

use clap::Args;

use super::{DeploymentArgs, Format, ScenarioArgs, WorkloadArgs};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim validate
  servesim validate redhat --format json
  servesim validate --against result.json scenario.toml
  servesim validate --against benchmarks.json --benchmark 2 scenario.toml --tolerance 10%

With --against the file is a result of vllm bench serve, guidellm, llm-load-test, aiperf or
genai-perf, told by its content; the scenario is simulated once, and both sides' figures follow that
tool's definitions.")]
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
    #[arg(long, value_name = "SHARE", requires = "against", value_parser = share)]
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

/// A share as 10% or 0.1.
fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().map(|number| number / scale);
    share
        .ok()
        .filter(|share| share.is_finite() && *share >= 0.0)
        .ok_or_else(|| "a share is written as 10% or 0.1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_is_a_percentage_or_a_number() {
        assert_eq!((share("10%"), share("12.5 %"), share("0.1")), (Ok(0.1), Ok(0.125), Ok(0.1)));
        assert!([share("-1%"), share("many"), share("nan")].iter().all(Result::is_err));
    }
}
