//! What clients send, and when, as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawSlo;
use crate::named::named_enum;
use crate::time::SimDuration;
use crate::trace::TimeUnit;
use crate::workload::{LengthOrder, RampStrategy};

/// Arrivals, lengths and the end of the run. Exactly one table of arrivals.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawWorkload {
    /// When clients stop sending (default 240s in a closed loop that has no num-requests).
    pub duration: Option<SimDuration>,
    /// How many requests are sent (default 1000 in an open loop that has no duration).
    #[schemars(range(min = 1, max = 1_000_000_000_u64))]
    pub num_requests: Option<u64>,
    /// Seed of all random streams (default 1).
    pub seed: Option<u64>,
    /// In an open loop, serve what has arrived by the end (default true).
    pub drain: Option<bool>,
    /// Closed loop: each client sends its next request when the last is answered.
    pub closed_loop: Option<RawClosedLoop>,
    /// Open loop with equal gaps between arrivals.
    pub constant: Option<RawOpenLoop>,
    /// Open loop with exponential gaps between arrivals.
    pub poisson: Option<RawPoisson>,
    /// Open loop with Gamma-distributed gaps: the burstiness of vllm bench serve.
    pub gamma: Option<RawBursty>,
    /// Open loop with Weibull-distributed gaps.
    pub weibull: Option<RawBursty>,
    /// Open loop at a rate that jumps at random between given ones (Markov-modulated Poisson).
    pub mmpp: Option<RawMmpp>,
    /// Open loop at a rate that rises and falls like that of a day.
    pub diurnal: Option<RawDiurnal>,
    /// Open loop at a rate that goes from one value to another.
    pub ramp: Option<RawRamp>,
    /// Open loop with a stretch at another rate, once or again and again.
    pub spike: Option<RawSpike>,
    /// Replay of a recorded trace, with its own lengths.
    pub trace: Option<RawTrace>,
    /// Lengths of prompts and outputs: a data set, or one distribution for each of the two.
    pub lengths: RawLengths,
    /// A beginning that prompts have in common, such as a system prompt.
    pub shared_prefix: Option<RawSharedPrefix>,
    /// Conversations of several turns: each prompt is all that was said before and something new.
    pub sessions: Option<RawSessions>,
    /// How long clients wait for an answer, and whether they try again.
    pub patience: Option<RawPatience>,
    /// Classes of requests by name, as in [workload.tenants.chat]; what a tenant does not say of
    /// itself is as in [workload].
    pub tenants: BTreeMap<String, RawTenant>,
}

/// A beginning that prompts have in common; it comes on top of their lengths.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSharedPrefix {
    /// Its length.
    pub tokens: Option<Tokens>,
    /// How many different ones there are, all as likely (default 1).
    #[schemars(range(min = 1, max = 65535))]
    pub count: Option<u32>,
}

/// Turns that follow each other; a turn is sent when the one before has been answered.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawSessions {
    /// Turns of every conversation.
    #[schemars(range(min = 1, max = 10_000))]
    pub turns: Option<u32>,
    /// Turns on average, geometrically distributed, in place of `turns`.
    #[schemars(range(min = 1, max = 1000))]
    pub mean_turns: Option<f64>,
    /// Pause between an answer and the next turn, on average (default 0s).
    pub think_time: Option<SimDuration>,
    /// How the pauses scatter (default fixed).
    pub think_time_distribution: Option<ThinkTimes>,
}

named_enum! {
    /// How pauses between turns scatter.
    pub enum ThinkTimes as "distribution" {
        Fixed = "fixed",
        Exponential = "exponential",
    }
}

/// One class of requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawTenant {
    /// Its share of the arrivals (in a closed loop: of the clients), relative to the other tenants'
    /// (default 1).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub share: Option<f64>,
    /// Priority of its requests; smaller is more urgent, as in vLLM (default 0).
    pub priority: Option<i32>,
    /// Its lengths.
    pub lengths: RawLengths,
    /// Its shared beginning.
    pub shared_prefix: Option<RawSharedPrefix>,
    /// Its conversations.
    pub sessions: Option<RawSessions>,
    /// Its patience.
    pub patience: Option<RawPatience>,
    /// The model that it asks for, where pools serve several.
    pub model: Option<String>,
    /// Its own targets (default: those of [measure.slo]).
    pub slo: Option<RawSlo>,
}

/// Clients that give up, and those that try again after a time-out, a failure or a status of 429 or
/// 503.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawPatience {
    /// How long an attempt may take until its last token (default: for ever).
    pub timeout: Option<SimDuration>,
    /// Attempts after the first (default 0).
    #[schemars(range(max = 1000))]
    pub retries: Option<u32>,
    /// Pause before the first of them; it doubles with each up to 8 s, and up to a quarter of it is
    /// left out at random, as in OpenAI's client libraries (default 500ms).
    pub retry_delay: Option<SimDuration>,
}

/// Clients that wait for their answer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawClosedLoop {
    /// Clients, each with one request in flight.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub clients: Option<u32>,
    /// Pause between an answer and the next request (default 0s).
    pub think_time: Option<SimDuration>,
}

/// Arrivals that do not wait for answers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawOpenLoop {
    /// Requests per second.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub request_rate: Option<f64>,
}

/// Arrivals that know nothing of each other.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawPoisson {
    /// Requests per second.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub request_rate: Option<f64>,
    /// Stretch the gaps so that the last request arrives at exactly num-requests / request-rate, as
    /// vllm bench serve does (default false).
    pub rescale: Option<bool>,
}

/// Arrivals in bursts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawBursty {
    /// Requests per second.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub request_rate: Option<f64>,
    /// Shape of the gaps' distribution: 1 is Poisson, below comes in bursts, above is more even
    /// (default 1; vllm bench serve has the same for Gamma).
    #[schemars(range(min = 0.05, max = 1_000_000))]
    pub burstiness: Option<f64>,
    /// Stretch the gaps so that the last request arrives at exactly num-requests / request-rate, as
    /// vllm bench serve does (default false).
    pub rescale: Option<bool>,
}

/// A rate that follows a Markov chain: in each state for a time, then in another.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawMmpp {
    /// Requests per second in each state, at least two, as in [2, 20].
    #[schemars(inner(range(min = 0, max = 1_000_000)))]
    pub request_rates: Option<Vec<f64>>,
    /// Mean length of a stay in each state, as in ["60s", "5s"]; stays are exponential.
    pub mean_dwell: Option<Vec<SimDuration>>,
}

/// request-rate x (1 + amplitude x cos(2 pi (t - peak-at) / period)).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawDiurnal {
    /// Requests per second, on average over a period.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub request_rate: Option<f64>,
    /// How far the rate rises and falls, as a share of the average (default 0.5).
    #[schemars(range(min = 0, max = 1))]
    pub amplitude: Option<f64>,
    /// Length of a day (default 24h).
    pub period: Option<SimDuration>,
    /// When the rate is highest (default half a period, so that the run starts in the quietest
    /// hour).
    pub peak_at: Option<SimDuration>,
    /// Shape of the gaps, as in [workload.gamma] (default 1).
    #[schemars(range(min = 0.05, max = 1_000_000))]
    pub burstiness: Option<f64>,
}

/// A rate that goes from one value to another, and stays there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawRamp {
    /// Requests per second at the start.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub start_rate: Option<f64>,
    /// Requests per second at the end.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub end_rate: Option<f64>,
    /// How long the way takes (default workload.duration).
    pub over: Option<SimDuration>,
    /// By equal differences or by equal factors (default linear).
    pub strategy: Option<RampStrategy>,
    /// Shape of the gaps, as in [workload.gamma] (default 1).
    #[schemars(range(min = 0.05, max = 1_000_000))]
    pub burstiness: Option<f64>,
}

/// A rate with a stretch at another.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawSpike {
    /// Requests per second outside of the spike.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub request_rate: Option<f64>,
    /// Requests per second in the spike.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub spike_rate: Option<f64>,
    /// When the first spike begins.
    pub spike_start: Option<SimDuration>,
    /// How long a spike lasts.
    pub spike_duration: Option<SimDuration>,
    /// From the start of a spike to the start of the next (default: there is one spike).
    pub spike_every: Option<SimDuration>,
    /// Shape of the gaps, as in [workload.gamma] (default 1).
    #[schemars(range(min = 0.05, max = 1_000_000))]
    pub burstiness: Option<f64>,
}

/// A recorded trace, its format told by its header or first line. Times count from `arrival_s` = 0,
/// or from the first row where they are dates or timestamps.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawTrace {
    /// Path of the trace: Azure (CSV), BurstGPT (CSV), Mooncake (JSON Lines), or our own CSV or JSON
    /// Lines with arrival_s, input_tokens, output_tokens and, if wanted, session, prefix,
    /// prefix_tokens, priority, tenant, hash_ids. Read line by line, so of any size.
    pub file: Option<String>,
    /// Where in the trace to begin; what comes before is left out (default 0s).
    pub start: Option<SimDuration>,
    /// Where in the trace to end (default: with its last row).
    pub end: Option<SimDuration>,
    /// Factor on the times between requests: 0.5 sends the same requests twice as fast (default 1).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub time_scale: Option<f64>,
    /// Factor on the number of requests at unchanged times: 0.5 leaves every other one out, 2 sends
    /// each twice, spread over the time to the next (default 1).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1000))]
    pub rate_scale: Option<f64>,
    /// Mean requests per second, reached by scaling times, in place of `time-scale`.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub request_rate: Option<f64>,
    /// Begin anew at the end, until workload.duration or workload.num-requests is reached (default
    /// false).
    pub repeat: Option<bool>,
    /// Tokens that one of hash_ids stands for (default 512, as in Mooncake's traces).
    #[schemars(range(min = 1, max = 1_048_576))]
    pub hash_block_size: Option<u32>,
    /// Unit of times that are written as numbers (default s; ms for `timestamp` in JSON Lines).
    pub time_unit: Option<TimeUnit>,
}

/// Lengths in tokens: `dataset`, or for each of input and output one of the distributions.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawLengths {
    /// An embedded data set (openorca-006), or the path of a CSV with the columns input_tokens and
    /// output_tokens, of a data set of llm-load-test, or of ShareGPT (4 characters to a token).
    pub dataset: Option<String>,
    /// How the pairs of a data set are drawn (default per-client-shuffle in a closed loop, shuffle
    /// in an open one).
    pub order: Option<LengthOrder>,
    /// Every request has the same lengths.
    pub fixed: RawSides<Tokens>,
    /// Every length between two is as likely as any other.
    pub uniform: RawSides<RawUniform>,
    /// Normally distributed lengths.
    pub normal: RawSides<RawNormal>,
    /// Log-normally distributed lengths: many short, few very long.
    pub log_normal: RawSides<RawLogNormal>,
    /// Lengths by Zipf's law, the shortest the most frequent.
    pub zipf: RawSides<RawZipf>,
    /// Lengths by an empirical histogram.
    pub histogram: RawSides<RawHistogram>,
}

/// One kind of lengths for prompt, output or both; the other side may be of another kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct RawSides<T> {
    /// Prompt tokens.
    pub input: Option<T>,
    /// Output tokens.
    pub output: Option<T>,
}

impl<T> Default for RawSides<T> {
    fn default() -> Self {
        Self { input: None, output: None }
    }
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Tokens(#[schemars(range(min = 1, max = 0x4000_0000))] pub u32);

/// Whole numbers between two.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawUniform {
    /// Fewest tokens (default 1).
    pub min: Option<Tokens>,
    /// Most tokens.
    pub max: Option<Tokens>,
}

/// A normal distribution, rounded and cut: what lies outside of the cuts is drawn again.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawNormal {
    /// Mean before the cuts.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 0x4000_0000))]
    pub mean: Option<f64>,
    /// Standard deviation before the cuts.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 0x4000_0000))]
    pub stddev: Option<f64>,
    /// Fewest tokens (default 1).
    pub min: Option<Tokens>,
    /// Most tokens (default 1073741824).
    pub max: Option<Tokens>,
}

/// A log-normal distribution, rounded and cut: what lies outside of the cuts is drawn again.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogNormal {
    /// Median before the cuts.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 0x4000_0000))]
    pub median: Option<f64>,
    /// Standard deviation of the natural logarithm before the cuts.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 20))]
    pub sigma: Option<f64>,
    /// Fewest tokens (default 1).
    pub min: Option<Tokens>,
    /// Most tokens (default 1073741824).
    pub max: Option<Tokens>,
}

/// min + k - 1 tokens with a probability proportional to k^-exponent, k = 1, 2, ...
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawZipf {
    /// How fast the probability falls (default 1).
    #[schemars(range(min = 0, max = 20))]
    pub exponent: Option<f64>,
    /// Fewest tokens, the most frequent length (default 1).
    pub min: Option<Tokens>,
    /// Most tokens.
    pub max: Option<Tokens>,
}

/// Bins and how often each was seen, as numpy.histogram returns them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawHistogram {
    /// Bounds of the bins in rising order, one more than bins, as in [1, 128, 512, 4096].
    pub edges: Option<Vec<Tokens>>,
    /// Count or weight of each bin, as in [50, 30, 20].
    #[schemars(inner(range(min = 0)))]
    pub counts: Option<Vec<f64>>,
}
