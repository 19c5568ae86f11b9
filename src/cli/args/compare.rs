//! The flags of comparisons.

use std::path::PathBuf;

use clap::Args;

use super::{Format, ScenarioArgs};
use crate::scenario::Override;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  servesim compare before.toml after.toml
  servesim compare scenario.toml --engines vllm-0.13,vllm-0.32
  servesim compare scenario.toml --set-b engine.vllm.max-num-seqs=64 --tolerance 2% --seeds 40
  servesim compare scenario.toml --set-b engine.vllm.block-size=32 --metric goodput=1%

Flags apply to both sides. Both get the same requests: seeds, arrivals and lengths are A's own, and
what is measured is what A measures. Exit 1 if B is worse by more than the tolerance, and surely so.")]
pub struct CompareArgs {
    /// A, and B where it has no file of its own
    #[command(flatten)]
    pub scenario: ScenarioArgs,

    /// The scenario to compare with it: a file or the name of an embedded one. Without one, B is the
    /// same scenario with what --engines and --set-b change
    #[arg(value_name = "OTHER")]
    pub other: Option<String>,

    /// The engines of A and of B
    #[arg(long, value_name = "A,B", value_parser = two, conflicts_with = "engine")]
    pub engines: Option<[String; 2]>,

    /// Override any key of A alone; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set_a: Vec<String>,

    /// Override any key of B alone; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set_b: Vec<String>,

    /// How much worse is let pass, as a share of A's figure
    #[arg(long, value_name = "SHARE", default_value = "1%", allow_hyphen_values = true)]
    pub tolerance: String,

    /// A metric that judges, with its own tolerance if one stands behind it; may be repeated
    /// (default: throughput, mean and p99 of TTFT, TPOT and E2E, failed requests, and the share within
    /// the scenario's objective)
    #[arg(long, value_name = "KEY[=SHARE]")]
    pub metric: Vec<String>,

    /// Prompts of at least so many tokens are told as a class of their own (default: the longer half)
    #[arg(
        long,
        value_name = "TOKENS",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub split: Option<u32>,

    /// Write the smallest workload found that makes the two schedules part, as a trace
    #[arg(long, value_name = "FILE.jsonl")]
    pub witness: Option<PathBuf>,

    /// Write comparison.json, comparison.csv, pairs.csv and witness.jsonl into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Take every step on its own instead of jumping over equal ones; the results are the same
    #[arg(long)]
    pub step_by_step: bool,

    /// Check the engine's invariants at every step
    #[arg(long)]
    pub check: bool,

    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

impl CompareArgs {
    /// What is changed in one side; its own flags come last and win.
    pub fn overrides(&self, side: Side) -> Vec<Override> {
        let mut overrides = self.scenario.overrides();
        let (place, flag, set) = match side {
            Side::A => (0, "--set-a", &self.set_a),
            Side::B => (1, "--set-b", &self.set_b),
        };
        if let Some(engines) = &self.engines {
            overrides.push(Override::flag("--engines", "engine.name", &engines[place]));
        }
        overrides.extend(set.iter().map(|assignment| Override::assigned(flag, assignment)));
        overrides
    }

    /// Whether anything says in what the two differ.
    pub fn names_two(&self) -> bool {
        self.other.is_some()
            || self.engines.is_some()
            || !self.set_a.is_empty()
            || !self.set_b.is_empty()
    }
}

fn two(text: &str) -> Result<[String; 2], String> {
    match text.split(',').map(str::trim).collect::<Vec<_>>()[..] {
        [a, b] if !a.is_empty() && !b.is_empty() => Ok([a.to_owned(), b.to_owned()]),
        _ => Err("two engines are compared, as in vllm-0.13,vllm-0.32".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::two;

    #[test]
    fn engines_are_two() {
        assert_eq!(two("static, vllm-0.32"), Ok(["static".into(), "vllm-0.32".into()]));
        assert!(["static", "a,b,c", "a,", ""].iter().all(|text| two(text).is_err()));
    }
}
