//! Arrivals, lengths, the end of the run, and what is measured.

use clap::{Args, ValueEnum};

use super::valued;
use crate::scenario::Override;

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
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "num_prompts")]
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
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub warm_up: Option<String>,

    /// Whose definitions of throughput and latency the summary follows
    #[arg(long, value_name = "NAME")]
    pub convention: Option<String>,

    /// Target for the time to first token, as in "2s"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub slo_ttft: Option<String>,

    /// Target for the time per output token, as in "60ms"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub slo_tpot: Option<String>,

    /// Target for the time from arrival to the last token
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
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
    pub(super) fn overrides(&self) -> Vec<Override> {
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
