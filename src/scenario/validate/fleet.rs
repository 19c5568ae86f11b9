//! Several machines behind a router.

use super::super::raw::{
    RawAdmission, RawAutoscaling, RawFailures, RawFleet, RawOutage, RawPrefixAware,
};
use super::super::{ArrivalSpec, EffectiveSettings, FleetSpec, PoolSpec, WorkloadSpec};
use super::{Context, pools};
use crate::engine::fleet::autoscaling::{Autoscaling, ScalingMetric};
use crate::engine::fleet::rules::{Admission, Outage, RandomFailures};
use crate::engine::router::{PrefixAwareSettings, RouterPolicy};
use crate::named::nearest;
use crate::time::SimDuration;

/// Shorter than anything that machines do, and long enough for a run to come to its end.
const SHORTEST: SimDuration = SimDuration::from_millis(1);

/// `replicas` are those of a machine, where there are no pools; `None` if something was reported.
pub(super) fn fleet(
    raw: RawFleet,
    replicas: u32,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<FleetSpec> {
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
    let failing = raw.failures.map(|raw| failures("fleet", raw, context));
    let failing = match failing {
        Some(failing) => Some(failing?),
        None => None,
    };
    let pools = if raw.pools.is_empty() {
        Vec::new()
    } else {
        of_each_pool(context);
        pools::pools(&raw.pools, failing, context, notes)?
    };
    let rule = match raw.autoscaling.filter(|_| pools.is_empty()) {
        Some(rule) => Some(autoscaling("fleet", &rule, raw.machines, context)?),
        None => None,
    };
    let machines = raw.machines.map_or_else(
        || rule.map_or(1, |rule| rule.min_machines),
        |machines| u16::try_from(machines).unwrap_or(u16::MAX),
    );
    let sizes = if pools.is_empty() {
        let most = rule.map_or(machines, |rule| rule.max_machines);
        vec![Size { pool: None, machines: most.into(), replicas }]
    } else {
        pools.iter().map(Size::of).collect()
    };
    let outages = raw.outages.iter();
    let outages = outages.map(|(name, raw)| outage(name, raw, &sizes, context)).collect::<Vec<_>>();
    Some(FleetSpec {
        machines: if pools.is_empty() {
            machines
        } else {
            pools.iter().map(|pool| pool.machines).sum()
        },
        router,
        prefix_aware: thresholds(raw.prefix_aware.unwrap_or_default()),
        admission: raw.admission.map_or_else(Admission::default, |raw| admission(&raw, context)),
        lost_requests: raw.lost_requests.unwrap_or_default(),
        outages: outages.into_iter().collect::<Option<_>>()?,
        failures: failing.filter(|_| pools.is_empty()),
        autoscaling: rule,
        pools,
    })
}

fn admission(raw: &RawAdmission, context: &mut Context<'_>) -> Admission {
    const KEYS: [&str; 2] = ["fleet.admission.max-outstanding", "fleet.admission.max-waiting"];
    let unlimited = raw.max_outstanding.is_none() && raw.max_waiting.is_none();
    if unlimited && !KEYS.iter().any(|key| context.taken.covers(key)) {
        let problem = context
            .pointing(
                context.key_span("fleet.admission"),
                "[fleet.admission] has no limit",
                "everything is admitted",
            )
            .help("set max-outstanding or max-waiting, both per replica, or leave the table out");
        context.report(problem);
    }
    Admission { max_outstanding: raw.max_outstanding, max_waiting: raw.max_waiting }
}

/// What each pool says for itself cannot be said of the fleet.
fn of_each_pool(context: &mut Context<'_>) {
    for key in ["machines", "autoscaling"] {
        let path = format!("fleet.{key}");
        if context.node(&path).is_none() {
            continue;
        }
        let title = format!("each pool has its own `{key}`");
        let problem = context
            .pointing(context.key_span(&path), title, "of which pool?")
            .help(format!("set fleet.pools.NAME.{key} in place of it"));
        let span = context.key_span("fleet.pools");
        let problem = match span {
            Some(span) => problem.because(span, "the pools"),
            None => problem,
        };
        context.report(problem);
    }
}

/// What there is of a pool, or in all.
struct Size<'a> {
    pool: Option<&'a str>,
    /// That may be there at once.
    machines: u32,
    /// Of one machine.
    replicas: u32,
}

impl<'a> Size<'a> {
    fn of(pool: &'a PoolSpec) -> Self {
        Self {
            pool: Some(&pool.name),
            machines: pool.most_machines().into(),
            replicas: pool.kind.engine.replicas,
        }
    }
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

/// `None` if something was reported.
fn outage(
    name: &str,
    raw: &RawOutage,
    sizes: &[Size<'_>],
    context: &mut Context<'_>,
) -> Option<Outage> {
    let at = format!("fleet.outages.{name}");
    let key = |key: &str| format!("{at}.{key}");
    let start = context.need(raw.at, &key("at"), "say when, as in at = \"60s\"");
    let help = "say for how long, as in duration = \"30s\"";
    let duration = long_enough(raw.duration, &key("duration"), help, context);
    let machine = match (raw.machine, raw.replica) {
        (Some(_), Some(_)) => {
            let title = "the machine is named twice";
            let problem = context
                .problem_at(&key("replica"), title, "and by a replica on it")
                .help("keep one of machine and replica");
            let problem = context.because(problem, &key("machine"), "by its number");
            context.report(problem);
            return None;
        }
        (None, None) => {
            if !context.taken.covers(&key("replica")) {
                context.missing(&key("machine"), "say which one, as in machine = 0");
            }
            return None;
        }
        (Some(number), None) => machine(&at, number, raw.pool.as_deref(), sizes, context)?,
        (None, Some(number)) => of_replica(&key("replica"), number, sizes, context)?,
    };
    // The number of machines is bounded.
    Some(Outage { machine: machine as u16, at: start?, duration: duration? })
}

/// Its number among all machines.
fn machine(
    at: &str,
    number: u32,
    pool: Option<&str>,
    sizes: &[Size<'_>],
    context: &mut Context<'_>,
) -> Option<u32> {
    let key = format!("{at}.pool");
    let names: Vec<&str> = sizes.iter().filter_map(|size| size.pool).collect();
    let place = match pool {
        None if names.is_empty() => 0,
        None => {
            let help = format!("say of which pool: {}", names.join(", "));
            context.missing(&key, help);
            return None;
        }
        Some(pool) => match sizes.iter().position(|size| size.pool == Some(pool)) {
            Some(place) => place,
            None => {
                let problem = context.problem_at(&key, "there is no such pool", "unknown");
                let problem = match (nearest(pool, names.iter().copied()), context.span(&key)) {
                    (Some(near), Some(span)) => {
                        problem.suggest("a similar name exists", span, format!("\"{near}\""))
                    }
                    _ if names.is_empty() => problem.help("leave it out: the fleet has no pools"),
                    _ => problem.note(format!("pools: {}", names.join(", "))),
                };
                context.report(problem);
                return None;
            }
        },
    };
    let there = sizes[place].machines;
    if number < there {
        return Some(sizes[..place].iter().map(|size| size.machines).sum::<u32>() + number);
    }
    let whose = sizes[place].pool.map_or("fleet".into(), |name| format!("pool {name}"));
    no_such(&format!("{at}.machine"), "machine", &whose, there, context);
    None
}

/// The number of the machine that a replica is on.
fn of_replica(
    key: &str,
    number: u32,
    sizes: &[Size<'_>],
    context: &mut Context<'_>,
) -> Option<u32> {
    let (mut replica, mut machines) = (number, 0);
    for size in sizes {
        let there = size.machines * size.replicas;
        if replica < there {
            return Some(machines + replica / size.replicas);
        }
        replica -= there;
        machines += size.machines;
    }
    no_such(key, "replica", "fleet", number - replica, context);
    None
}

fn no_such(key: &str, what: &str, whose: &str, there: u32, context: &mut Context<'_>) {
    let problem = context
        .problem_at(key, format!("there is no such {what}"), format!("not below {there}"))
        .note(format!("the {whose} has {there}, numbered from 0"))
        .help("name one of them, or add machines");
    context.report(problem);
}

/// Of the table at `at`.
pub(super) fn failures(
    at: &str,
    raw: RawFailures,
    context: &mut Context<'_>,
) -> Option<RandomFailures> {
    let mtbf = "say how long machines last on average, as in mtbf = \"12h\"";
    let mtbf = long_enough(raw.mtbf, &format!("{at}.failures.mtbf"), mtbf, context);
    let mttr = "say how long a failure lasts on average, as in mttr = \"2min\"";
    let mttr = long_enough(raw.mttr, &format!("{at}.failures.mttr"), mttr, context);
    Some(RandomFailures { mtbf: mtbf?, mttr: mttr? })
}

/// Of the table at `at`.
pub(super) fn autoscaling(
    at: &str,
    raw: &RawAutoscaling,
    machines: Option<u32>,
    context: &mut Context<'_>,
) -> Option<Autoscaling> {
    let key = |key: &str| format!("{at}.autoscaling.{key}");
    let (target_key, most_key, least_key) =
        (&*key("target"), &*key("max-machines"), &*key("min-machines"));
    let metric = raw.metric.unwrap_or(ScalingMetric::Outstanding);
    let target =
        context.need(raw.target, target_key, "say what the metric should be, as in target = 16");
    let most =
        context.need(raw.max_machines, most_key, "say how many may run, as in max-machines = 8");
    let interval = raw.interval.unwrap_or(SimDuration::from_secs(15));
    let help = "write a duration such as \"15s\"";
    let interval = long_enough(Some(interval), &key("interval"), help, context);
    let (target, most) = (target?, most?);
    if metric == ScalingMetric::Kv && target > 1.0 {
        let problem = context
            .problem_at(target_key, "a KV cache is never more than full", "a share, at most 1")
            .help("write it as a share, as in target = 0.7");
        let problem = context.because(problem, &key("metric"), "a share of the cache");
        context.report(problem);
        return None;
    }
    let least = raw.min_machines.unwrap_or(1);
    if least > most {
        let problem = context
            .problem_at(least_key, "the least is more than the most", "more than max-machines")
            .help("lower it, or raise max-machines");
        let problem = context.because(problem, most_key, "the most");
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
        let problem = context.because(problem, most_key, format!("{least} to {most} machines"));
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
