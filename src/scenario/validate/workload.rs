//! Arrivals, lengths, the end of the run, and what is measured.

use std::sync::Arc;

use super::super::lengths;
use super::super::raw::{
    ConventionSetting, RawFixedLengths, RawLengths, RawMeasure, RawOpenLoop, RawWorkload,
};
use super::super::{ArrivalSpec, LengthSpec, MeasureSpec, SloSpec, WorkloadSpec};
use super::{Context, looks_like_path};
use crate::metrics::Convention;
use crate::named::nearest;
use crate::time::SimDuration;
use crate::workload::{LengthOrder, LengthPair};

const KINDS: [&str; 3] = ["workload.closed-loop", "workload.constant", "workload.poisson"];

/// The length of the published runs, and vLLM bench's usual count.
const CLOSED_LOOP_DURATION: SimDuration = SimDuration::from_secs(240);
const OPEN_LOOP_REQUESTS: u64 = 1000;
/// What flags alone ask for when they say nothing of the load.
const DEFAULT_CLIENTS: u32 = 10;
const DEFAULT_DATASET: &str = "openorca-006";

pub(super) fn workload(
    raw: RawWorkload,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<WorkloadSpec> {
    let arrivals = arrivals(&raw, context, notes);
    let closed = arrivals.as_ref().map(ArrivalSpec::is_closed_loop);
    let lengths = lengths_of(&raw.lengths, closed.unwrap_or(true), context, notes);
    if raw.duration == Some(SimDuration::ZERO) {
        let problem = context
            .problem_at("workload.duration", "the duration must be above zero", "no time at all")
            .help("write a duration such as \"240s\"");
        context.report(problem);
    }
    if let (Some(ArrivalSpec::ClosedLoop { clients, .. }), Some(lengths)) = (&arrivals, &lengths) {
        permutations(*clients, lengths, context);
    }
    let closed = closed?;
    if closed && raw.drain.is_some() {
        let problem = context
            .problem_at("workload.drain", "a closed loop does not drain", "for open loops only")
            .help("leave it out: at the end, requests in flight count as unfinished");
        context.report(problem);
    }
    let (mut duration, mut num_requests) = (raw.duration, raw.num_requests);
    if duration.is_none() && num_requests.is_none() {
        if closed {
            duration = Some(CLOSED_LOOP_DURATION);
        } else {
            num_requests = Some(OPEN_LOOP_REQUESTS);
        }
    }
    Some(WorkloadSpec {
        arrivals: arrivals?,
        lengths: lengths?,
        duration,
        num_requests,
        seed: raw.seed.unwrap_or(1),
        // A closed loop that counts requests ends with the last answer.
        drain: if closed { duration.is_none() } else { raw.drain.unwrap_or(true) },
    })
}

fn arrivals(
    raw: &RawWorkload,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<ArrivalSpec> {
    let given: Vec<&str> = KINDS.into_iter().filter(|kind| context.node(kind).is_some()).collect();
    if let [first, others @ ..] = given.as_slice()
        && let [second, ..] = others
    {
        let problem = context
            .pointing(
                context.key_span(second),
                "a workload has one kind of arrivals",
                "and another",
            )
            .help("keep one of the tables");
        let problem = match context.key_span(first) {
            Some(span) => problem.because(span, "one kind"),
            None => problem,
        };
        context.report(problem);
        return None;
    }
    if let Some(closed) = &raw.closed_loop {
        let Some(clients) = closed.clients else {
            context.missing(
                "workload.closed-loop.clients",
                "say how many requests are in flight at once, as in clients = 10 (flag: \
                 --concurrency)",
            );
            return None;
        };
        let think_time = closed.think_time.unwrap_or(SimDuration::ZERO);
        return Some(ArrivalSpec::ClosedLoop { clients, think_time });
    }
    for (kind, open) in [("constant", &raw.constant), ("poisson", &raw.poisson)] {
        if let Some(RawOpenLoop { request_rate }) = open {
            let Some(request_rate) = *request_rate else {
                context.missing(
                    &format!("workload.{kind}.request-rate"),
                    "say how many requests arrive per second, as in request-rate = 2.5 (flag: \
                     --request-rate)",
                );
                return None;
            };
            return Some(match kind {
                "constant" => ArrivalSpec::Constant { request_rate },
                _ => ArrivalSpec::Poisson { request_rate },
            });
        }
    }
    // Unknown or refused kinds of arrivals have been reported.
    let others = ["duration", "num-requests", "seed", "drain", "lengths"];
    if context.taken.any_in("workload", &others) {
        return None;
    }
    if context.file.is_none() {
        notes.push(format!(
            "no load given: a closed loop of {DEFAULT_CLIENTS} clients is assumed (flags: \
             --concurrency, --request-rate)"
        ));
        let think_time = SimDuration::ZERO;
        return Some(ArrivalSpec::ClosedLoop { clients: DEFAULT_CLIENTS, think_time });
    }
    let problem = context
        .pointing(
            context.key_span("workload"),
            "the workload has no arrivals",
            "nothing says when requests arrive",
        )
        .help(
            "add one of [workload.closed-loop] clients = 10, [workload.poisson] request-rate = 2, \
             [workload.constant] request-rate = 2",
        );
    context.report(problem);
    None
}

fn lengths_of(
    raw: &RawLengths,
    closed: bool,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<LengthSpec> {
    const DATASET: &str = "workload.lengths.dataset";
    const FIXED: &str = "workload.lengths.fixed";
    let order = raw.order.unwrap_or(if closed {
        LengthOrder::PerClientShuffle
    } else {
        LengthOrder::Shuffle
    });
    match (&raw.dataset, &raw.fixed) {
        (Some(_), Some(_)) => {
            let problem = context
                .pointing(
                    context.key_span(FIXED),
                    "lengths come from a data set or are fixed, not both",
                    "and fixed",
                )
                .help("keep one of them");
            let problem = context.because(problem, DATASET, "a data set");
            context.report(problem);
            None
        }
        (Some(name), None) => {
            let pairs = dataset(DATASET, name, context)?;
            Some(LengthSpec { name: name.clone(), pairs, order })
        }
        (None, Some(RawFixedLengths { input, output })) => {
            if input.is_none() {
                context.missing(
                    "workload.lengths.fixed.input",
                    "give the prompt tokens (flag: --input-len)",
                );
            }
            if output.is_none() {
                context.missing(
                    "workload.lengths.fixed.output",
                    "give the output tokens (flag: --output-len)",
                );
            }
            let pair = LengthPair { input: (*input)?, output: (*output)? };
            Some(LengthSpec { name: "fixed".into(), pairs: Arc::new([pair]), order })
        }
        (None, None) if context.taken.any_in("workload.lengths", &["order"]) => None,
        (None, None) if context.file.is_none() => {
            notes.push(format!(
                "no lengths given: those of {DEFAULT_DATASET} are assumed (flags: --lengths, \
                 --input-len, --output-len)"
            ));
            let pairs = dataset(DATASET, DEFAULT_DATASET, context)?;
            Some(LengthSpec { name: DEFAULT_DATASET.into(), pairs, order })
        }
        (None, None) => {
            context.missing(
                DATASET,
                "add dataset = \"openorca-006\", or fixed = { input = 512, output = 128 }",
            );
            None
        }
    }
}

/// Each client keeps an index into all pairs.
fn permutations(clients: u32, lengths: &LengthSpec, context: &mut Context<'_>) {
    const MAX_INDICES: u64 = 1 << 28;
    let indices = u64::from(clients) * lengths.pairs.len() as u64;
    if lengths.order == LengthOrder::PerClientShuffle && indices > MAX_INDICES {
        let problem = context
            .problem_at(
                "workload.lengths.dataset",
                "the data set is too long for a permutation per client",
                format!("{} rows for each of {clients} clients", lengths.pairs.len()),
            )
            .help("set workload.lengths.order = \"shuffle\" or \"sample\"");
        context.report(problem);
    }
}

fn dataset(key: &str, name: &str, context: &mut Context<'_>) -> Option<Arc<[LengthPair]>> {
    let embedded = lengths::dataset(name);
    let (shown, bytes) = match embedded {
        Some(bytes) => (name.to_owned(), Ok(bytes.to_vec())),
        None => {
            let (path, bytes) = context.read(key, name);
            (path.display().to_string(), bytes)
        }
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            let known: Vec<&str> = lengths::dataset_names().collect();
            let mut problem = context
                .problem_at(key, format!("cannot read the data set {shown}"), error.to_string())
                .help(format!(
                    "give the path of a CSV with the columns input_tokens,output_tokens, or an \
                     embedded data set: {}",
                    known.join(", ")
                ));
            if !looks_like_path(name)
                && let (Some(near), Some(span)) =
                    (nearest(name, known.into_iter()), context.span(key))
            {
                problem = problem.suggest("a similar name exists", span, format!("\"{near}\""));
            }
            context.report(problem);
            return None;
        }
    };
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            let problem = context
                .problem_at(
                    key,
                    format!("the data set {shown} is not text"),
                    format!("no UTF-8 at byte {at}, in line {line}"),
                )
                .help("give a CSV file saved as UTF-8");
            context.report(problem);
            return None;
        }
    };
    // Errors point into the CSV, so it joins the texts; a sound one need not be kept.
    let id = context.sources.next_id();
    match lengths::parse(id, &text) {
        Ok(pairs) => Some(pairs),
        Err(problems) => {
            let added = context.sources.add(shown, text);
            debug_assert_eq!(added, id);
            let problems = problems.into_iter().map(|problem| match context.span(key) {
                Some(span) => problem.because(span, "the data set"),
                None => problem,
            });
            let problems: Vec<_> = problems.collect();
            context.errors.extend(problems);
            None
        }
    }
}

pub(super) fn measure(
    raw: RawMeasure,
    workload: Option<&WorkloadSpec>,
    context: &mut Context<'_>,
) -> Option<MeasureSpec> {
    let convention = match raw.convention.unwrap_or(ConventionSetting::Vllm) {
        ConventionSetting::Vllm => Convention::Vllm,
        ConventionSetting::RedHat2023 => Convention::RedHat2023,
        other @ (ConventionSetting::Guidellm
        | ConventionSetting::LlmLoadTest
        | ConventionSetting::Aiperf) => {
            let problem = context
                .problem_at(
                    "measure.convention",
                    format!("the convention {other} is not built yet"),
                    "to come",
                )
                .help("use \"vllm\" or \"redhat-2023\"");
            context.report(problem);
            return None;
        }
    };
    let duration = workload.and_then(|workload| workload.duration);
    if convention == Convention::RedHat2023 && workload.is_some() && duration.is_none() {
        let problem = context
            .problem_at(
                "measure.convention",
                "redhat-2023 needs a duration",
                "divides by the configured duration",
            )
            .help("set workload.duration, as in duration = \"240s\"");
        let problem = context.because(problem, "workload.num-requests", "the run ends by count");
        context.report(problem);
    }
    let warm_up = raw.warm_up.unwrap_or(SimDuration::ZERO);
    if let Some(duration) = duration
        && warm_up >= duration
        && warm_up > SimDuration::ZERO
    {
        let problem = context
            .problem_at(
                "measure.warm-up",
                "the warm-up leaves nothing to measure",
                "as long as the run",
            )
            .help("make it shorter than the duration");
        let problem =
            context.because(problem, "workload.duration", format!("the run lasts {duration}"));
        context.report(problem);
    }
    let slo = match raw.slo {
        None => None,
        Some(slo) => {
            if slo.ttft.is_none() && slo.tpot.is_none() && slo.e2el.is_none() {
                if !context.taken.covers("measure.slo") {
                    let problem = context
                        .pointing(
                            context.key_span("measure.slo"),
                            "the SLO has no target",
                            "nothing to meet",
                        )
                        .help("set at least one of ttft, tpot, e2el, as in ttft = \"2s\"");
                    context.report(problem);
                }
                return None;
            }
            let percentile = slo.percentile.unwrap_or(99.0);
            Some(SloSpec { ttft: slo.ttft, tpot: slo.tpot, e2el: slo.e2el, percentile })
        }
    };
    Some(MeasureSpec { warm_up, convention, slo, seeds: raw.seeds.unwrap_or(1) })
}
