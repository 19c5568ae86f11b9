//! When requests arrive: exactly one kind of arrivals, with all that it needs.

use super::super::super::ArrivalSpec;
use super::super::super::raw::{
    RawBursty, RawClosedLoop, RawDiurnal, RawMmpp, RawRamp, RawSpike, RawWorkload,
};
use super::super::Context;
use super::trace;
use crate::time::SimDuration;
use crate::workload::{ArrivalProcess, RampStrategy};

/// The tables of which a workload has one.
pub const KINDS: [&str; 10] = [
    "workload.closed-loop",
    "workload.constant",
    "workload.poisson",
    "workload.gamma",
    "workload.weibull",
    "workload.mmpp",
    "workload.diurnal",
    "workload.ramp",
    "workload.spike",
    "workload.trace",
];

/// What flags alone ask for when they say nothing of the load.
const DEFAULT_CLIENTS: u32 = 10;

pub(super) fn arrivals(
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
        return closed_loop(closed, context);
    }
    if let Some(trace) = &raw.trace {
        let spec = trace::trace(trace, raw, context, notes)?;
        return Some(ArrivalSpec::Trace(Box::new(spec)));
    }
    if let Some(kind) = given.first() {
        return process(kind, raw, context).map(ArrivalSpec::Open);
    }
    // Unknown or refused kinds of arrivals have been reported.
    let others = [
        "duration",
        "num-requests",
        "seed",
        "drain",
        "lengths",
        "shared-prefix",
        "sessions",
        "tenants",
    ];
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
             [workload.constant] request-rate = 2; the others: `servesim schema`",
        );
    context.report(problem);
    None
}

fn closed_loop(closed: &RawClosedLoop, context: &mut Context<'_>) -> Option<ArrivalSpec> {
    let clients = context.need(
        closed.clients,
        "workload.closed-loop.clients",
        "say how many requests are in flight at once, as in clients = 10 (flag: --concurrency)",
    )?;
    let think_time = closed.think_time.unwrap_or(SimDuration::ZERO);
    Some(ArrivalSpec::ClosedLoop { clients, think_time })
}

/// The process of the table `kind`, the only one that is there.
fn process(kind: &str, raw: &RawWorkload, context: &mut Context<'_>) -> Option<ArrivalProcess> {
    let rate = |context: &mut Context<'_>, rate| {
        context.need(
            rate,
            &format!("{kind}.request-rate"),
            "say how many requests arrive per second, as in request-rate = 2.5 (flag: \
             --request-rate)",
        )
    };
    if let Some(constant) = &raw.constant {
        return Some(ArrivalProcess::Constant {
            request_rate: rate(context, constant.request_rate)?,
        });
    }
    if let Some(poisson) = &raw.poisson {
        let request_rate = rate(context, poisson.request_rate)?;
        let rescale = rescale(kind, poisson.rescale, raw, context)?;
        return Some(ArrivalProcess::Poisson { request_rate, rescale });
    }
    if let Some(RawBursty { request_rate, burstiness, rescale: wanted }) =
        raw.gamma.as_ref().or(raw.weibull.as_ref())
    {
        let request_rate = rate(context, *request_rate)?;
        let burstiness = burstiness.unwrap_or(1.0);
        let rescale = rescale(kind, *wanted, raw, context)?;
        return Some(if raw.gamma.is_some() {
            ArrivalProcess::Gamma { request_rate, burstiness, rescale }
        } else {
            ArrivalProcess::Weibull { request_rate, burstiness, rescale }
        });
    }
    if let Some(mmpp) = &raw.mmpp {
        return self::mmpp(mmpp, context);
    }
    if let Some(day) = &raw.diurnal {
        let request_rate = rate(context, day.request_rate)?;
        return diurnal(day, request_rate, context);
    }
    if let Some(ramp) = &raw.ramp {
        return self::ramp(ramp, raw.duration, context);
    }
    let spike = raw.spike.as_ref()?;
    let request_rate = rate(context, spike.request_rate)?;
    self::spike(spike, request_rate, context)
}

/// The last gap's end is known only if their number is.
fn rescale(
    kind: &str,
    wanted: Option<bool>,
    raw: &RawWorkload,
    context: &mut Context<'_>,
) -> Option<bool> {
    let wanted = wanted.unwrap_or(false);
    if wanted && raw.duration.is_some() && raw.num_requests.is_none() {
        let problem = context
            .problem_at(
                &format!("{kind}.rescale"),
                "gaps are rescaled to a number of requests",
                "how many is not said",
            )
            .help("set workload.num-requests in place of workload.duration (flag: --num-prompts)");
        let problem = context.because(problem, "workload.duration", "the run ends by time");
        context.report(problem);
        return None;
    }
    Some(wanted)
}

fn mmpp(raw: &RawMmpp, context: &mut Context<'_>) -> Option<ArrivalProcess> {
    const RATES: &str = "workload.mmpp.request-rates";
    const DWELL: &str = "workload.mmpp.mean-dwell";
    let rates = context.need(
        raw.request_rates.clone(),
        RATES,
        "give the requests per second in each state, as in request-rates = [2, 20]",
    );
    let dwell = context.need(
        raw.mean_dwell.clone(),
        DWELL,
        "give the mean stay in each state, as in mean-dwell = [\"60s\", \"5s\"]",
    );
    let (rates, dwell) = (rates?, dwell?);
    let problem = if rates.len() < 2 {
        let problem = context.problem_at(RATES, "there must be two states or more", "one or none");
        problem.help("for one rate, use [workload.poisson]")
    } else if rates.len() != dwell.len() {
        let problem = context
            .problem_at(DWELL, "each state has a rate and a stay", format!("{} stays", dwell.len()))
            .help("give as many of the one as of the other");
        context.because(problem, RATES, format!("{} rates", rates.len()))
    } else if rates.iter().all(|rate| *rate == 0.0) {
        context
            .problem_at(RATES, "no request ever arrives", "all rates are zero")
            .help("give at least one state a rate above zero")
    } else if dwell.contains(&SimDuration::ZERO) {
        context
            .problem_at(DWELL, "a stay must be above zero", "no time at all")
            .help("leave the state out, or give it a mean stay such as \"5s\"")
    } else {
        let stays: f64 = dwell.iter().map(|d| d.as_secs_f64()).sum();
        let requests: f64 = rates.iter().zip(&dwell).map(|(r, d)| r * d.as_secs_f64()).sum();
        // Each change of state costs a draw: a chain that is much faster than the requests would
        // take for ever, and is a Poisson process at the mean rate.
        if requests / (rates.len() as f64) < 1e-3 {
            context
                .problem_at(
                    DWELL,
                    "the state changes over a thousand times from one request to the next",
                    "too short for these rates",
                )
                .help(format!(
                    "use [workload.poisson] request-rate = {}, which is the same",
                    requests / stays
                ))
        } else {
            return Some(ArrivalProcess::Mmpp { request_rates: rates, mean_dwell: dwell });
        }
    };
    context.report(problem);
    None
}

fn diurnal(
    raw: &RawDiurnal,
    request_rate: f64,
    context: &mut Context<'_>,
) -> Option<ArrivalProcess> {
    let period = raw.period.unwrap_or(SimDuration::from_secs(24 * 3600));
    if period == SimDuration::ZERO {
        above_zero("workload.diurnal.period", "a period must be above zero", context);
        return None;
    }
    Some(ArrivalProcess::Diurnal {
        request_rate,
        amplitude: raw.amplitude.unwrap_or(0.5),
        period,
        peak_at: raw.peak_at.unwrap_or(SimDuration::from_nanos(period.as_nanos() / 2)),
        burstiness: raw.burstiness.unwrap_or(1.0),
    })
}

fn ramp(
    raw: &RawRamp,
    duration: Option<SimDuration>,
    context: &mut Context<'_>,
) -> Option<ArrivalProcess> {
    let start_rate = context.need(
        raw.start_rate,
        "workload.ramp.start-rate",
        "say how many requests arrive per second at first, as in start-rate = 1",
    );
    let end_rate = context.need(
        raw.end_rate,
        "workload.ramp.end-rate",
        "say how many requests arrive per second in the end, as in end-rate = 10",
    );
    let over = context.need(
        raw.over.or(duration),
        "workload.ramp.over",
        "say how long the way takes, as in over = \"10min\", or set workload.duration",
    );
    let (start_rate, end_rate, over) = (start_rate?, end_rate?, over?);
    if over == SimDuration::ZERO {
        above_zero("workload.ramp.over", "a ramp must take some time", context);
        return None;
    }
    let strategy = raw.strategy.unwrap_or(RampStrategy::Linear);
    let zero =
        if start_rate == 0.0 { "workload.ramp.start-rate" } else { "workload.ramp.end-rate" };
    if start_rate == 0.0 && end_rate == 0.0 {
        let problem = context
            .problem_at(zero, "no request ever arrives", "both rates are zero")
            .help("give one of start-rate and end-rate a value above zero");
        context.report(problem);
        return None;
    }
    if strategy == RampStrategy::Exponential && (start_rate == 0.0 || end_rate == 0.0) {
        let problem = context
            .problem_at(zero, "equal factors do not lead to or from zero", "zero")
            .help("give a rate above zero, or use strategy = \"linear\"");
        let strategy = "workload.ramp.strategy";
        let problem = context.because(problem, strategy, "by equal factors");
        context.report(problem);
        return None;
    }
    let burstiness = raw.burstiness.unwrap_or(1.0);
    Some(ArrivalProcess::Ramp { start_rate, end_rate, over, strategy, burstiness })
}

fn spike(raw: &RawSpike, request_rate: f64, context: &mut Context<'_>) -> Option<ArrivalProcess> {
    let spike_rate = context.need(
        raw.spike_rate,
        "workload.spike.spike-rate",
        "say how many requests arrive per second in the spike, as in spike-rate = 20",
    );
    let spike_start = context.need(
        raw.spike_start,
        "workload.spike.spike-start",
        "say when the spike begins, as in spike-start = \"60s\"",
    );
    let spike_duration = context.need(
        raw.spike_duration,
        "workload.spike.spike-duration",
        "say how long the spike lasts, as in spike-duration = \"30s\"",
    );
    let (spike_rate, spike_start, spike_duration) = (spike_rate?, spike_start?, spike_duration?);
    if spike_duration == SimDuration::ZERO {
        above_zero("workload.spike.spike-duration", "a spike must last some time", context);
        return None;
    }
    if request_rate == 0.0 && spike_rate == 0.0 {
        let problem = context
            .problem_at(
                "workload.spike.spike-rate",
                "no request ever arrives",
                "both rates are zero",
            )
            .help("give one of request-rate and spike-rate a value above zero");
        context.report(problem);
        return None;
    }
    if let Some(every) = raw.spike_every
        && every <= spike_duration
    {
        let problem = context
            .problem_at(
                "workload.spike.spike-every",
                "one spike begins before the last has ended",
                "from start to start",
            )
            .help("make it longer than spike-duration");
        let duration = "workload.spike.spike-duration";
        let problem = context.because(problem, duration, "a spike lasts this long");
        context.report(problem);
        return None;
    }
    Some(ArrivalProcess::Spike {
        request_rate,
        spike_rate,
        spike_start,
        spike_duration,
        spike_every: raw.spike_every,
        burstiness: raw.burstiness.unwrap_or(1.0),
    })
}

fn above_zero(path: &str, title: &str, context: &mut Context<'_>) {
    let problem =
        context.problem_at(path, title, "no time at all").help("write a duration such as \"60s\"");
    context.report(problem);
}
