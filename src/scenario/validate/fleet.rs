//! Several machines behind a router.

use super::super::raw::{RawAutoscaling, RawFailures, RawFleet, RawOutage, RawPrefixAware};
use super::super::{ArrivalSpec, EffectiveSettings, FleetSpec, WorkloadSpec};
use super::Context;
use crate::engine::fleet::autoscaling::{Autoscaling, ScalingMetric};
use crate::engine::fleet::rules::{Admission, Outage, RandomFailures};
use crate::engine::router::{PrefixAwareSettings, RouterPolicy};
use crate::time::SimDuration;

/// Shorter than anything that machines do, and long enough for a run to come to its end.
const SHORTEST: SimDuration = SimDuration::from_millis(1);

/// `None` where the scenario has no such table; what is wrong is reported.
pub(super) fn fleet(
    raw: Option<RawFleet>,
    replicas_per_machine: u32,
    context: &mut Context<'_>,
) -> Option<FleetSpec> {
    let raw = raw?;
    let router = raw.router.unwrap_or(RouterPolicy::LeastOutstanding);
    if raw.prefix_aware.is_some() && router != RouterPolicy::PrefixAware {
        let problem = context
            .pointing(
                context.key_span("fleet.prefix-aware"),
                "these are settings of the router prefix-aware",
                "without effect here",
            )
            .help("leave the table out, or set router = \"prefix-aware\"");
        let problem = context.because(problem, "fleet.router", format!("the router is {router}"));
        context.report(problem);
    }
    let autoscaling = raw.autoscaling.and_then(|rule| autoscaling(&rule, raw.machines, context));
    let machines = raw.machines.map_or_else(
        || autoscaling.map_or(1, |rule| rule.min_machines),
        |machines| u16::try_from(machines).unwrap_or(u16::MAX),
    );
    let most = autoscaling.map_or(machines, |rule| rule.max_machines);
    let there = (u32::from(most), replicas_per_machine);
    let outages =
        raw.outages.iter().filter_map(|(name, raw)| outage(name, raw, there, context)).collect();
    Some(FleetSpec {
        machines,
        router,
        prefix_aware: thresholds(raw.prefix_aware.unwrap_or_default()),
        admission: raw.admission.map_or_else(Admission::default, |raw| Admission {
            max_outstanding: raw.max_outstanding,
            max_waiting: raw.max_waiting,
        }),
        lost_requests: raw.lost_requests.unwrap_or_default(),
        outages,
        failures: raw.failures.and_then(|raw| failures(raw, context)),
        autoscaling,
    })
}

fn thresholds(raw: RawPrefixAware) -> PrefixAwareSettings {
    let default = PrefixAwareSettings::default();
    PrefixAwareSettings {
        cache_threshold: raw.cache_threshold.unwrap_or(default.cache_threshold),
        balance_abs_threshold: raw.balance_abs_threshold.unwrap_or(default.balance_abs_threshold),
        balance_rel_threshold: raw.balance_rel_threshold.unwrap_or(default.balance_rel_threshold),
    }
}

/// The value of a required duration that is long enough.
fn long_enough(
    value: Option<SimDuration>,
    path: &str,
    help: &str,
    context: &mut Context<'_>,
) -> Option<SimDuration> {
    let value = context.need(value, path, help)?;
    if value >= SHORTEST {
        return Some(value);
    }
    let problem = context
        .problem_at(path, format!("`{path}` must be at least {SHORTEST}"), "too short")
        .help(help);
    context.report(problem);
    None
}

/// An outage of one of so many machines with so many replicas each.
fn outage(
    name: &str,
    raw: &RawOutage,
    (machines, per_machine): (u32, u32),
    context: &mut Context<'_>,
) -> Option<Outage> {
    let at = format!("fleet.outages.{name}");
    let (machine, replica) = (format!("{at}.machine"), format!("{at}.replica"));
    let start = context.need(raw.at, &format!("{at}.at"), "say when, as in at = \"60s\"");
    let help = "say for how long, as in duration = \"30s\"";
    let duration = long_enough(raw.duration, &format!("{at}.duration"), help, context);
    let (key, what, number, there) = match (raw.machine, raw.replica) {
        (Some(_), Some(_)) => {
            let problem = context
                .problem_at(&replica, "the machine is named twice", "and by a replica on it")
                .help("keep one of machine and replica");
            let problem = context.because(problem, &machine, "by its number");
            context.report(problem);
            return None;
        }
        (None, None) => {
            if !context.taken.covers(&replica) {
                context.missing(&machine, "say which one, as in machine = 0");
            }
            return None;
        }
        (Some(number), None) => (machine, "machine", number, machines),
        (None, Some(number)) => (replica, "replica", number, machines * per_machine),
    };
    if number >= there {
        let problem = context
            .problem_at(&key, format!("there is no such {what}"), format!("not below {there}"))
            .note(format!("the fleet has {there}, numbered from 0"))
            .help("name one of them, or add machines");
        context.report(problem);
        return None;
    }
    let number = if what == "replica" { number / per_machine } else { number };
    Some(Outage { machine: number as u16, at: start?, duration: duration? })
}

fn failures(raw: RawFailures, context: &mut Context<'_>) -> Option<RandomFailures> {
    let mtbf = "say how long machines last on average, as in mtbf = \"12h\"";
    let mtbf = long_enough(raw.mtbf, "fleet.failures.mtbf", mtbf, context);
    let mttr = "say how long a failure lasts on average, as in mttr = \"2min\"";
    let mttr = long_enough(raw.mttr, "fleet.failures.mttr", mttr, context);
    Some(RandomFailures { mtbf: mtbf?, mttr: mttr? })
}

fn autoscaling(
    raw: &RawAutoscaling,
    machines: Option<u32>,
    context: &mut Context<'_>,
) -> Option<Autoscaling> {
    const TARGET: &str = "fleet.autoscaling.target";
    const MOST: &str = "fleet.autoscaling.max-machines";
    const LEAST: &str = "fleet.autoscaling.min-machines";
    let metric = raw.metric.unwrap_or(ScalingMetric::Outstanding);
    let target =
        context.need(raw.target, TARGET, "say what the metric should be, as in target = 16");
    let most = context.need(raw.max_machines, MOST, "say how many may run, as in max-machines = 8");
    let interval = raw.interval.unwrap_or(SimDuration::from_secs(15));
    let help = "write a duration such as \"15s\"";
    let interval = long_enough(Some(interval), "fleet.autoscaling.interval", help, context);
    let (target, most) = (target?, most?);
    if metric == ScalingMetric::Kv && target > 1.0 {
        let problem = context
            .problem_at(TARGET, "a KV cache is never more than full", "a share, at most 1")
            .help("write it as a share, as in target = 0.7");
        let problem = context.because(problem, "fleet.autoscaling.metric", "a share of the cache");
        context.report(problem);
        return None;
    }
    let least = raw.min_machines.unwrap_or(1);
    if least > most {
        let problem = context
            .problem_at(LEAST, "the least is more than the most", "more than max-machines")
            .help("lower it, or raise max-machines");
        let problem = context.because(problem, MOST, "the most");
        context.report(problem);
        return None;
    }
    if let Some(machines) = machines
        && !(least..=most).contains(&machines)
    {
        let problem = context
            .problem_at(
                "fleet.machines",
                "the fleet starts outside of its own limits",
                format!("not within {least} to {most}"),
            )
            .help("leave machines out, or move the limits");
        let problem = context.because(problem, MOST, format!("{least} to {most} machines"));
        context.report(problem);
        return None;
    }
    Some(Autoscaling {
        metric,
        target,
        // The schema bounds both.
        min_machines: least as u16,
        max_machines: most as u16,
        interval: interval?,
        start_up_delay: raw.start_up_delay.unwrap_or(SimDuration::from_secs(120)),
        scale_down_delay: raw.scale_down_delay.unwrap_or(SimDuration::from_secs(300)),
    })
}

/// What the router has nothing to go by for.
pub(super) fn without_effect(
    fleet: &FleetSpec,
    workload: &WorkloadSpec,
    engine: &EffectiveSettings,
) -> Vec<String> {
    let caching = match engine {
        EffectiveSettings::Vllm(settings) => settings.enable_prefix_caching,
        EffectiveSettings::Tgi(settings) => settings.prefix_caching,
        _ => false,
    };
    let mut notes = Vec::new();
    match fleet.router {
        RouterPolicy::SessionSticky if !workload.has_sessions() => notes.push(
            "requests of this workload tell no session, so the router session-sticky goes by \
             outstanding requests"
                .into(),
        ),
        RouterPolicy::PrefixAware if !caching => {
            notes
                .push("the router goes by prefixes, and the engine's prefix caching is off".into());
        }
        RouterPolicy::PrefixAware if !shares(workload) => notes.push(
            "prompts share no beginnings, so the router prefix-aware goes by outstanding requests"
                .into(),
        ),
        _ => {}
    }
    notes
}

fn shares(workload: &WorkloadSpec) -> bool {
    match &workload.arrivals {
        ArrivalSpec::Trace(trace) => trace.scan.shares,
        _ => {
            workload.askers().iter().any(|asker| asker.prefix.is_some() || asker.sessions.is_some())
        }
    }
}
