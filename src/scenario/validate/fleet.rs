//! Several machines behind a router.

use super::super::raw::RawFleet;
use super::super::{ArrivalSpec, EffectiveSettings, FleetSpec, WorkloadSpec};
use super::Context;
use crate::engine::router::{PrefixAwareSettings, RouterPolicy};

/// `None` where the scenario has no such table.
pub(super) fn fleet(raw: Option<RawFleet>, context: &mut Context<'_>) -> Option<FleetSpec> {
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
    let thresholds = raw.prefix_aware.unwrap_or_default();
    let default = PrefixAwareSettings::default();
    Some(FleetSpec {
        machines: raw.machines.unwrap_or(1),
        router,
        prefix_aware: PrefixAwareSettings {
            cache_threshold: thresholds.cache_threshold.unwrap_or(default.cache_threshold),
            balance_abs_threshold: thresholds
                .balance_abs_threshold
                .unwrap_or(default.balance_abs_threshold),
            balance_rel_threshold: thresholds
                .balance_rel_threshold
                .unwrap_or(default.balance_rel_threshold),
        },
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
