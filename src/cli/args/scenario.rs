//! A scenario on the command line: its file, and what flags change in it.
//!
//! Flags that override a key take their value as text and pass it on with their own spelling. So a
//! value is checked in one place, whether it comes from a file, `--set` or a flag, and the message
//! points at what the user wrote.

mod deployment;
mod workload;

use clap::Args;

use crate::scenario::Override;

pub use deployment::DeploymentArgs;
pub use workload::WorkloadArgs;

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
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn scenario_args(flags: &[&str]) -> ScenarioArgs {
        let words = ["servesim", "run"].iter().chain(flags);
        match Cli::try_parse_from(words).expect("flags that parse").command {
            Command::Run(run) => run.scenario,
            other => panic!("{other:?}"),
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
