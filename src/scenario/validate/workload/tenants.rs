//! What is asked, and by whom: tenants, shared beginnings, conversations.

use super::super::super::raw::{
    RawPatience, RawSessions, RawSharedPrefix, RawWorkload, ThinkTimes, Tokens,
};
use super::super::super::{LengthSpec, TenantSpec};
use super::super::Context;
use super::lengths::lengths;
use crate::engine::fleet::rules::Patience;
use crate::time::SimDuration;
use crate::workload::{Sessions, SharedPrefix, Turns};

/// What is asked for.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) lengths: Option<LengthSpec>,
    pub(super) shared_prefix: Option<SharedPrefix>,
    pub(super) sessions: Option<Sessions>,
    pub(super) patience: Option<Patience>,
    pub(super) tenants: Vec<TenantSpec>,
}

/// Numbers of tenants are 16 bits wide; nobody writes so many tables.
const MAX_TENANTS: usize = 1000;

pub(super) fn asked(
    raw: &RawWorkload,
    closed: bool,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<Asked> {
    let written =
        |at: &str, context: &Context<'_>| context.node(at).is_some() || context.taken.covers(at);
    let own = |name: &str| format!("workload.tenants.{name}.lengths");
    // Without tenants, or with one that has no lengths of its own, those of all are needed.
    let needed =
        raw.tenants.keys().any(|name| !written(&own(name), context)) || raw.tenants.is_empty();
    let of_all = if needed || written("workload.lengths", context) {
        Some(lengths("workload.lengths", &raw.lengths, closed, context, notes))
    } else {
        None
    };
    let all_prefix = shared_prefix("workload.shared-prefix", raw.shared_prefix, context);
    let all_sessions = sessions("workload.sessions", raw.sessions, context);
    let all_patience = patience("workload.patience", raw.patience, context);
    let mut sound = of_all.as_ref().is_none_or(Option::is_some);
    let of_all = of_all.flatten();

    if raw.tenants.len() > MAX_TENANTS {
        let title = format!("there are more than {MAX_TENANTS} tenants");
        let count = format!("{} of them", raw.tenants.len());
        let problem = context
            .pointing(context.key_span("workload.tenants"), title, count)
            .help("put those that ask alike into one");
        context.report(problem);
        return None;
    }
    let mut tenants = Vec::new();
    for (name, tenant) in &raw.tenants {
        let at = format!("workload.tenants.{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            let span = context.table.find("workload.tenants").map(|node| node.key_span.clone());
            let shown: String = name.chars().take(40).collect();
            let problem = context
                .pointing(span, format!("{shown:?} is no name for a tenant"), "in this table")
                .help("use letters, digits, - and _");
            context.report(problem);
            sound = false;
            continue;
        }
        let own_lengths = if written(&own(name), context) {
            lengths(&own(name), &tenant.lengths, closed, context, notes)
        } else {
            of_all.clone()
        };
        let prefix = match tenant.shared_prefix {
            None => all_prefix,
            own => self::shared_prefix(&format!("{at}.shared-prefix"), own, context),
        };
        let sessions = match tenant.sessions {
            None => all_sessions,
            own => self::sessions(&format!("{at}.sessions"), own, context),
        };
        let patience = match tenant.patience {
            None => all_patience,
            own => self::patience(&format!("{at}.patience"), own, context),
        };
        let slo = super::slo(&format!("{at}.slo"), tenant.slo.as_ref(), context);
        let (Some(lengths), Some(shared_prefix), Some(sessions), Some(patience), Some(slo)) =
            (own_lengths, prefix, sessions, patience, slo)
        else {
            sound = false;
            continue;
        };
        tenants.push(TenantSpec {
            name: name.clone(),
            share: tenant.share.unwrap_or(1.0),
            priority: tenant.priority.unwrap_or(0),
            model: tenant.model.clone(),
            lengths,
            shared_prefix,
            sessions,
            patience,
            slo,
        });
    }
    let (shared_prefix, sessions, patience) = (all_prefix?, all_sessions?, all_patience?);
    // A tenant's fault was reported with the tenant's own keys, or taken out before.
    sound.then_some(Asked { lengths: of_all, shared_prefix, sessions, patience, tenants })
}

/// `None` if something is wrong, `Some(None)` if there is no such table.
fn shared_prefix(
    at: &str,
    raw: Option<RawSharedPrefix>,
    context: &mut Context<'_>,
) -> Option<Option<SharedPrefix>> {
    let Some(raw) = raw else { return Some(None) };
    let tokens = context.need(
        raw.tokens,
        &format!("{at}.tokens"),
        "say how long the shared beginning is, as in tokens = 500",
    );
    let Tokens(tokens) = tokens?;
    let count = raw.count.map_or(1, |count| u16::try_from(count).unwrap_or(u16::MAX));
    Some(Some(SharedPrefix { tokens, count }))
}

/// The same for conversations.
fn sessions(
    at: &str,
    raw: Option<RawSessions>,
    context: &mut Context<'_>,
) -> Option<Option<Sessions>> {
    let Some(raw) = raw else { return Some(None) };
    let (fixed, mean) = (format!("{at}.turns"), format!("{at}.mean-turns"));
    let turns = match (raw.turns, raw.mean_turns) {
        (Some(turns), None) => Turns::Fixed(turns),
        (None, Some(mean)) => Turns::Mean(mean),
        (Some(_), Some(_)) => {
            let problem = context
                .problem_at(&mean, "turns are fixed or scatter around a mean, not both", "a mean")
                .help("keep one of turns and mean-turns");
            let problem = context.because(problem, &fixed, "fixed");
            context.report(problem);
            return None;
        }
        (None, None) => {
            if !context.taken.covers(&mean) {
                context.missing(&fixed, "say how many turns a conversation has, as in turns = 5");
            }
            return None;
        }
    };
    let think_time = raw.think_time.unwrap_or(SimDuration::ZERO);
    let exponential = raw.think_time_distribution == Some(ThinkTimes::Exponential);
    Some(Some(Sessions { turns, think_time, exponential }))
}

/// The same for how long clients wait.
fn patience(
    at: &str,
    raw: Option<RawPatience>,
    context: &mut Context<'_>,
) -> Option<Option<Patience>> {
    let Some(raw) = raw else { return Some(None) };
    let timeout = format!("{at}.timeout");
    if raw.timeout == Some(SimDuration::ZERO) {
        let problem = context
            .problem_at(&timeout, "the time-out must be above zero", "no time at all")
            .help("write a duration such as \"30s\"");
        context.report(problem);
        return None;
    }
    if raw.timeout.is_none() && raw.retries.is_none() {
        if !context.taken.covers(at) {
            let problem = context
                .pointing(context.key_span(at), "the patience has no limit", "nothing to do")
                .help("set timeout, as in timeout = \"30s\", or retries, or both");
            context.report(problem);
        }
        return None;
    }
    Some(Some(Patience {
        timeout: raw.timeout,
        retries: raw.retries.unwrap_or(0),
        retry_delay: raw.retry_delay.unwrap_or(SimDuration::from_millis(500)),
    }))
}
