//! Arrivals, lengths, the end of the run, and what is measured.

pub mod arrivals;
mod lengths;
mod tenants;
mod trace;

use super::super::raw::{RawMeasure, RawSlo, RawWorkload};
use super::super::settings::SchedulingPolicy;
use super::super::{ArrivalSpec, EffectiveSettings, MeasureSpec, SloSpec, WorkloadSpec};
use super::Context;
use crate::metrics::Convention;
use crate::time::SimDuration;
use crate::workload::ArrivalProcess;

/// The length of the published runs, and vLLM bench's usual count.
const CLOSED_LOOP_DURATION: SimDuration = SimDuration::from_secs(240);
const OPEN_LOOP_REQUESTS: u64 = 1000;

pub(super) fn workload(
    raw: RawWorkload,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<WorkloadSpec> {
    let arrivals = arrivals::arrivals(&raw, context, notes);
    let closed = arrivals.as_ref().map(ArrivalSpec::is_closed_loop);
    let asked = if raw.trace.is_some() {
        trace::says_all(context).then(tenants::Asked::default)
    } else {
        tenants::asked(&raw, closed.unwrap_or(true), context, notes)
    };
    if raw.duration == Some(SimDuration::ZERO) {
        let problem = context
            .problem_at("workload.duration", "the duration must be above zero", "no time at all")
            .help("write a duration such as \"240s\"");
        context.report(problem);
    }
    if let (Some(ArrivalSpec::ClosedLoop { clients, .. }), Some(asked)) = (&arrivals, &asked) {
        let all = asked.lengths.iter().map(|lengths| ("workload.lengths".to_owned(), lengths));
        let of_tenants = asked
            .tenants
            .iter()
            .map(|tenant| (format!("workload.tenants.{}.lengths", tenant.name), &tenant.lengths));
        for (at, lengths) in all.chain(of_tenants) {
            lengths::permutations(&at, *clients, lengths, context);
        }
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
        } else if raw.trace.is_none() {
            num_requests = Some(OPEN_LOOP_REQUESTS);
        }
    }
    if let Some(ArrivalSpec::Trace(trace)) = &arrivals
        && trace.repeat_after.is_none()
    {
        num_requests = Some(num_requests.unwrap_or(u64::MAX).min(trace.requests()));
    }
    if duration.is_none()
        && let (Some(arrivals), Some(requests)) = (&arrivals, num_requests)
    {
        let seconds = seconds_to_send(arrivals, requests).unwrap_or(0.0);
        if seconds > SimDuration::LONGEST.as_secs_f64() {
            let years = seconds / (365.25 * 86_400.0);
            let problem = context
                .problem_at(
                    "workload.num-requests",
                    "the requests take too long to send",
                    format!("{years:.0} years at this rate"),
                )
                .help("send fewer, or at a higher rate, or give a duration in place of a count");
            context.report(problem);
        }
    }
    let asked = asked?;
    Some(WorkloadSpec {
        arrivals: arrivals?,
        lengths: asked.lengths,
        shared_prefix: asked.shared_prefix,
        sessions: asked.sessions,
        patience: asked.patience,
        tenants: asked.tenants,
        duration,
        num_requests,
        seed: raw.seed.unwrap_or(1),
        // A closed loop that counts requests ends with the last answer.
        drain: if closed { duration.is_none() } else { raw.drain.unwrap_or(true) },
    })
}

/// How long it takes at least until so many requests are sent, where that is plain. The clock ends
/// after 584 years, and what would be sent later would not be missed by anyone.
fn seconds_to_send(arrivals: &ArrivalSpec, requests: u64) -> Option<f64> {
    let requests = requests as f64;
    match arrivals {
        ArrivalSpec::ClosedLoop { clients, think_time } => {
            Some((requests / f64::from(*clients)).floor() * think_time.as_secs_f64())
        }
        ArrivalSpec::Open(
            ArrivalProcess::Constant { request_rate }
            | ArrivalProcess::Poisson { request_rate, .. }
            | ArrivalProcess::Gamma { request_rate, .. }
            | ArrivalProcess::Weibull { request_rate, .. }
            | ArrivalProcess::Diurnal { request_rate, .. },
        ) => Some(requests / request_rate),
        _ => None,
    }
}

/// What the workload has that the engine makes nothing of.
pub(super) fn without_effect(workload: &WorkloadSpec, engine: &EffectiveSettings) -> Vec<String> {
    let caching = match engine {
        EffectiveSettings::Vllm(settings) => settings.enable_prefix_caching,
        EffectiveSettings::Tgi(settings) => settings.prefix_caching,
        _ => false,
    };
    let by_priority = match engine {
        EffectiveSettings::Vllm(settings) => {
            settings.scheduling_policy == SchedulingPolicy::Priority
        }
        _ => false,
    };
    let askers = workload.askers();
    let shares = match &workload.arrivals {
        ArrivalSpec::Trace(trace) => trace.scan.shares,
        _ => askers.iter().any(|asker| asker.prefix.is_some() || asker.sessions.is_some()),
    };
    let ranked = askers.windows(2).any(|pair| pair[0].priority != pair[1].priority);
    let mut notes = Vec::new();
    if shares && !caching {
        notes.push("prompts share beginnings, and the engine's prefix caching is off".into());
    }
    if ranked && !by_priority {
        notes.push(
            "tenants have priorities, and the engine schedules first come, first served \
             (engine.vllm.scheduling-policy = \"priority\" does not)"
                .into(),
        );
    }
    notes
}

pub(super) fn measure(
    raw: RawMeasure,
    workload: Option<&WorkloadSpec>,
    context: &mut Context<'_>,
) -> Option<MeasureSpec> {
    let convention = raw.convention.unwrap_or_default();
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
    let slo = slo("measure.slo", raw.slo.as_ref(), context)?;
    Some(MeasureSpec { warm_up, convention, slo, seeds: raw.seeds.unwrap_or(1) })
}

/// `None` if something is wrong, `Some(None)` if there is no such table.
fn slo(at: &str, raw: Option<&RawSlo>, context: &mut Context<'_>) -> Option<Option<SloSpec>> {
    let Some(slo) = raw else { return Some(None) };
    if slo.ttft.is_none() && slo.tpot.is_none() && slo.e2el.is_none() {
        if !context.taken.covers(at) {
            let problem = context
                .pointing(context.key_span(at), "the SLO has no target", "nothing to meet")
                .help("set at least one of ttft, tpot, e2el, as in ttft = \"2s\"");
            context.report(problem);
        }
        return None;
    }
    for (key, limit) in [("ttft", slo.ttft), ("tpot", slo.tpot), ("e2el", slo.e2el)] {
        if limit == Some(SimDuration::ZERO) {
            let key = format!("{at}.{key}");
            let problem = context
                .problem_at(&key, "a target of zero cannot be met", "no time at all")
                .help("write how long it may take, as in \"2s\", or leave the target out");
            context.report(problem);
        }
    }
    let percentile = slo.percentile.unwrap_or(99.0);
    Some(Some(SloSpec { ttft: slo.ttft, tpot: slo.tpot, e2el: slo.e2el, percentile }))
}
