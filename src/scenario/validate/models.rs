//! Which model is asked for, and who serves it.

use super::super::{ArrivalSpec, KindSpec, WorkloadSpec};
use super::Context;
use crate::named::nearest;

/// Holds the tenants' models against those that are served; what is probably not meant comes back.
pub(super) fn asked_for(
    workload: &WorkloadSpec,
    kinds: &[(Option<&str>, &KindSpec)],
    context: &mut Context<'_>,
) -> Vec<String> {
    let mut served: Vec<&str> = Vec::new();
    for (_, kind) in kinds {
        if !served.contains(&kind.model.name.as_str()) {
            served.push(&kind.model.name);
        }
    }
    for tenant in &workload.tenants {
        let at = format!("workload.tenants.{}", tenant.name);
        match tenant.model.as_deref() {
            Some(model) if !served.contains(&model) => nobody_serves(&at, model, &served, context),
            None if served.len() > 1 => {
                let title =
                    format!("the tenant {} does not say which model it asks for", tenant.name);
                let problem = context
                    .pointing(context.key_span(&at), title, "no `model` here")
                    .note(format!("the pools serve {}", served.join(", ")))
                    .help(format!("name one of them, as in model = \"{}\"", served[0]));
                context.report(problem);
            }
            _ => {}
        }
    }
    if workload.tenants.is_empty() && served.len() > 1 {
        let problem = context
            .pointing(
                context.key_span("fleet.pools"),
                "nothing says which model a request asks for",
                format!("these serve {}", served.join(" and ")),
            )
            .help(match workload.arrivals {
                ArrivalSpec::Trace(_) => {
                    "a trace does not say it: let all pools serve one model".to_owned()
                }
                _ => format!(
                    "write a tenant for each, as in [workload.tenants.one] with model = \"{}\"",
                    served[0]
                ),
            });
        context.report(problem);
    }
    // Paid for all the same, so that it is a figure and no error: an estate may have such machines.
    let idle = kinds.iter().filter(|(_, kind)| !is_asked(workload, &kind.model.name));
    let idle = idle.filter_map(|(name, kind)| Some(((*name)?, &kind.model.name)));
    idle.map(|(name, model)| {
        format!("nobody asks for {model}: the pool {name} is idle, and paid for")
    })
    .collect()
}

fn is_asked(workload: &WorkloadSpec, model: &str) -> bool {
    let mut asked = workload.tenants.iter().map(|tenant| tenant.model.as_deref());
    workload.tenants.is_empty() || asked.any(|asked| asked.is_none_or(|asked| asked == model))
}

fn nobody_serves(at: &str, model: &str, served: &[&str], context: &mut Context<'_>) {
    let key = format!("{at}.model");
    let problem =
        context.problem_at(&key, format!("nobody serves {model}"), "asked for by this tenant");
    let near = nearest(model, served.iter().copied());
    let problem = match (near, context.span(&key)) {
        (Some(near), Some(span)) => {
            problem.suggest("a similar name is served", span, format!("\"{near}\""))
        }
        _ => problem.note(format!("served: {}", served.join(", "))),
    };
    context.report(problem.help("name a model that is served, or add a pool that serves this one"));
}
