//! Results of load tests: written as the tools write them, and read back.
//!
//! One [`Run`] holds what a simulated client saw of its requests. [`ResultFormat::document`] makes
//! of it the JSON that vLLM's `bench serve`, guidellm, llm-load-test or aiperf would have left, each
//! figure by that tool's own definition. [`read`] takes such a file, told by its content, to
//! [`Measured`] figures under our names, and [`compare`] sets both beside each other.

mod aiperf;
pub mod compare;
mod gaps;
mod guidellm;
mod llm_load_test;
mod log;
pub mod read;
mod statistics;
mod vllm;

use serde_json::Value;

use crate::metrics::{Convention, Slo, Stats};
use crate::named::named_enum;

pub use compare::{Comparison, Row, compare, over_seeds};
pub use log::Log;
pub use read::{Measured, read};

named_enum! {
    /// Whose JSON a result is.
    pub enum ResultFormat as "result format" {
        /// vLLM 0.32 `bench serve --save-result`.
        Vllm = "vllm",
        /// guidellm 0.8.1, report version 2.
        Guidellm = "guidellm",
        /// llm-load-test since de80e02.
        LlmLoadTest = "llm-load-test",
        /// aiperf 0.13, schema 1.4; genai-perf's files are alike.
        Aiperf = "aiperf",
    }
}

impl ResultFormat {
    /// The definitions that its figures follow.
    pub const fn convention(self) -> Convention {
        match self {
            Self::Vllm => Convention::Vllm,
            Self::Guidellm => Convention::Guidellm,
            Self::LlmLoadTest => Convention::LlmLoadTest,
            Self::Aiperf => Convention::Aiperf,
        }
    }

    /// What the file is called in a folder of results; where the tool has a fixed name, that.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm.json",
            Self::Guidellm => "benchmarks.json",
            Self::LlmLoadTest => "llm-load-test.json",
            Self::Aiperf => "profile_export_aiperf.json",
        }
    }

    /// The tool's own document. It holds no wall-clock times: the clock starts with the run.
    pub fn document(self, run: &Run) -> Value {
        match self {
            Self::Vllm => vllm::document(run),
            Self::Guidellm => guidellm::document(run),
            Self::LlmLoadTest => llm_load_test::document(run),
            Self::Aiperf => aiperf::document(run),
        }
    }
}

/// How a request ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Answered,
    /// The test ended before its answer.
    CutOff,
    /// Why, in a word.
    Failed(&'static str),
}

/// A request as its client saw it; times in seconds on the test's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Which it was, counted from 0.
    pub id: u64,
    pub user: u32,
    pub start: f64,
    pub first_token: Option<f64>,
    pub last_token: Option<f64>,
    /// Of one that was cut off, the end of the test.
    pub end: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cached_tokens: u64,
    /// Whether it ended before the configured end of the test.
    pub in_time: bool,
    pub status: Status,
    /// Between its tokens, in seconds, where a file has them or they were asked for.
    pub gaps: Vec<f64>,
}

impl Request {
    pub fn latency(&self) -> f64 {
        self.end - self.start
    }

    pub fn ttft(&self) -> Option<f64> {
        Some(self.first_token? - self.start)
    }

    /// From the first token to the end, per token after the first.
    pub fn mean_gap(&self) -> Option<f64> {
        let gaps = self.output_tokens.checked_sub(1).filter(|&gaps| gaps > 0)?;
        Some((self.end - self.first_token?) / gaps as f64)
    }

    pub fn is_answered(&self) -> bool {
        self.status == Status::Answered
    }
}

/// How a test sends its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Clients that wait for their answers.
    Clients(u32),
    /// Requests per second; the shape of the gaps' Gamma distribution, infinite for equal gaps.
    Rate { rate: f64, burstiness: f64 },
    /// At times of its own: a trace, or a rate that changes.
    Other,
}

/// A simulated load test.
#[derive(Clone, Debug)]
pub struct Run {
    pub model: String,
    pub seed: u64,
    pub load: Load,
    /// How many requests were to be sent, and for how many seconds, where that is configured.
    pub num_requests: Option<u64>,
    pub duration: Option<f64>,
    /// Seconds at the start whose requests are not among `requests`.
    pub warm_up: f64,
    pub slo: Option<Slo>,
    /// In the order in which they were sent.
    pub requests: Vec<Request>,
    /// Whether each request has its gaps.
    pub each_gap: bool,
    /// Gaps between tokens, of all requests, in milliseconds.
    pub gaps: Stats,
    /// Tokens of all requests up to the configured end, those of unanswered ones included.
    pub tokens_in_time: u64,
    /// Tokens of all requests in the best second, counted from the first request.
    pub busiest_second: u64,
}

impl Run {
    fn answered(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.is_answered())
    }

    /// Configured seconds without the warm-up.
    fn measured(&self) -> Option<f64> {
        Some(self.duration? - self.warm_up)
    }

    /// Requests that ended, well or not.
    fn ended(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.status != Status::CutOff)
    }

    /// Requests that meet every limit of the objective.
    fn good(&self, slo: &Slo) -> usize {
        self.answered().filter(|request| meets(request, slo)).count()
    }
}

fn meets(request: &Request, slo: &Slo) -> bool {
    // To the nanosecond, in which limits are given and times were simulated.
    let nanos = |seconds: f64| (seconds * 1e9).round() as u64;
    let within = |limit: Option<crate::time::SimDuration>, got: Option<f64>| match limit {
        None => true,
        Some(limit) => got.is_some_and(|got| nanos(got) <= limit.as_nanos()),
    };
    within(slo.ttft, request.ttft())
        && within(slo.tpot, Some(request.mean_gap().unwrap_or(0.0)))
        && within(slo.e2el, Some(request.latency()))
}

/// The first start and the last end.
fn span<'a>(requests: impl Iterator<Item = &'a Request>) -> Option<(f64, f64)> {
    requests.fold(None, |span: Option<(f64, f64)>, request| {
        let (start, end) = span.unwrap_or((request.start, request.end));
        Some((start.min(request.start), end.max(request.end)))
    })
}

/// `n` per second of `seconds`; 0 where there was no time.
fn rate(n: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests;
