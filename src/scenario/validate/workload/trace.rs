//! A recorded trace: read through once, so that a run meets nothing in it that it cannot use.

use super::super::super::TraceSpec;
use super::super::super::diagnostic::{Diagnostic, Span};
use super::super::super::raw::{RawTrace, RawWorkload};
use super::super::Context;
use crate::time::{SimDuration, SimTime};
use crate::trace::{self, Fault, Scan, Window};

const FILE: &str = "workload.trace.file";

pub(super) fn trace(
    raw: &RawTrace,
    workload: &RawWorkload,
    context: &mut Context<'_>,
    notes: &mut Vec<String>,
) -> Option<TraceSpec> {
    let file = context.need(
        raw.file.clone(),
        FILE,
        "give the path of the trace, as in file = \"trace.csv\" (flag: --trace)",
    )?;
    let start = raw.start.unwrap_or(SimDuration::ZERO);
    let end = raw.end.unwrap_or(SimDuration::MAX);
    if start >= end {
        let problem = context
            .problem_at("workload.trace.end", "the window ends before it begins", "no later")
            .help("make end later than start");
        let problem = context.because(problem, "workload.trace.start", "the window begins here");
        context.report(problem);
        return None;
    }
    let repeat = raw.repeat.unwrap_or(false);
    if repeat && workload.duration.is_none() && workload.num_requests.is_none() {
        let problem = context
            .problem_at("workload.trace.repeat", "a repeated trace has no end", "again and again")
            .help(
                "set workload.duration or workload.num-requests (flags: --duration, --num-prompts)",
            );
        context.report(problem);
        return None;
    }
    let path = context.path(FILE, &file);
    let source = match context.files.trace(&path) {
        Ok(source) => source,
        Err(error) => {
            unreadable(&path.display().to_string(), &error, context);
            return None;
        }
    };
    let window = Window { start: SimTime::ZERO + start, end: SimTime::ZERO + end };
    let block_tokens = raw.hash_block_size.unwrap_or(512);
    let scanned = match source.open() {
        Ok(input) => trace::scan(input, raw.time_unit, window, block_tokens),
        Err(error) => Err(Err(error)),
    };
    let scan = match scanned {
        Ok(scan) => scan,
        Err(Err(error)) => {
            unreadable(&path.display().to_string(), &error, context);
            return None;
        }
        Err(Ok(faults)) => {
            for fault in faults {
                report(&path.display().to_string(), fault, context);
            }
            return None;
        }
    };
    let (Some(first), Some(last)) = (scan.window_first, scan.window_last) else {
        nothing_in_it(&scan, context);
        return None;
    };
    let span = last.since(first);
    let rate_scale = raw.rate_scale.unwrap_or(1.0);
    let time_scale = time_scale(raw, &scan, span, rate_scale, context)?;
    let lasts = last.since(window.start).as_secs_f64() * time_scale;
    if lasts > SimDuration::LONGEST.as_secs_f64() {
        let key = ["workload.trace.time-scale", "workload.trace.request-rate"]
            .into_iter()
            .find(|key| context.span(key).is_some())
            .unwrap_or(FILE);
        let label = format!("{:.0} years", lasts / (365.25 * 86_400.0));
        let problem = context
            .problem_at(key, "the trace takes too long to send", label)
            .help("stretch it less; are its times in another unit? (workload.trace.time-unit)");
        context.report(problem);
        return None;
    }
    // One mean gap follows the last request, so that the rate does not change from pass to pass.
    let mean_gap = span.as_nanos() / (scan.window_rows - 1).max(1);
    let whole = match raw.end {
        Some(end) => end.saturating_sub(start),
        None => last.since(window.start) + SimDuration::from_nanos(mean_gap),
    };
    let repeat_after = repeat.then_some(whole.max(SimDuration::from_nanos(1)));
    remarks(&file, &scan, span, notes);
    let spec = TraceSpec {
        file,
        scan,
        start,
        end,
        time_scale,
        rate_scale,
        repeat_after,
        hash_block_size: block_tokens,
        time_unit: raw.time_unit,
        source,
        failure: Default::default(),
    };
    if spec.requests() == 0 {
        let problem = context
            .problem_at(
                "workload.trace.rate-scale",
                "nothing of the trace is sent",
                format!("less than one of {} requests", spec.scan.window_rows),
            )
            .help("make the factor larger");
        context.report(problem);
        return None;
    }
    Some(spec)
}

/// Whether nothing else says what is asked; reports what does.
pub(super) fn says_all(context: &mut Context<'_>) -> bool {
    let others = [
        ("workload.lengths", "a trace has its own lengths", "lengths"),
        ("workload.shared-prefix", "a trace says itself what prompts share", "a shared beginning"),
        ("workload.sessions", "a trace has its own sessions", "sessions"),
        ("workload.tenants", "a trace names its own tenants", "tenants"),
    ];
    let mut alone = true;
    for (table, title, label) in others {
        let Some(span) = context.key_span(table) else { continue };
        let problem = Diagnostic::new(title).at(span, label).help(
            "leave it out; for the trace's times alone, make a copy of it with other lengths",
        );
        let problem = context.because(problem, FILE, "the trace");
        context.report(problem);
        alone = false;
    }
    alone
}

/// The factor on times, from itself or from the wanted rate.
fn time_scale(
    raw: &RawTrace,
    scan: &Scan,
    span: SimDuration,
    rate_scale: f64,
    context: &mut Context<'_>,
) -> Option<f64> {
    const RATE: &str = "workload.trace.request-rate";
    let Some(rate) = raw.request_rate else { return Some(raw.time_scale.unwrap_or(1.0)) };
    if raw.time_scale.is_some() {
        let problem = context
            .problem_at(RATE, "times are scaled by a factor or to a rate, not both", "to a rate")
            .help("keep one of time-scale and request-rate");
        let problem = context.because(problem, "workload.trace.time-scale", "by a factor");
        context.report(problem);
        return None;
    }
    if span == SimDuration::ZERO {
        let label = format!("{} requests at one instant", scan.window_rows);
        let problem = context
            .problem_at(RATE, "the trace has no rate that could be scaled", label)
            .help("take a longer window, or leave request-rate out");
        context.report(problem);
        return None;
    }
    let gaps = (scan.window_rows - 1) as f64;
    Some(gaps * rate_scale * 1e9 / (span.as_nanos() as f64 * rate))
}

fn unreadable(path: &str, error: &std::io::Error, context: &mut Context<'_>) {
    let problem = context
        .problem_at(FILE, format!("cannot read the trace {path}"), error.to_string())
        .help("give the path of a CSV or JSON Lines file (`servesim schema` lists the formats)");
    context.report(problem);
}

fn report(path: &str, fault: Fault, context: &mut Context<'_>) {
    let problem = Diagnostic::new(fault.title);
    let problem = match fault.line {
        Some((number, line)) => {
            let (line, range) = clip(&line, fault.range);
            let source = context.sources.add_excerpt(path, line, number);
            problem.at(Span::new(source, range), fault.label)
        }
        None => problem.note(format!("{path}: {}", fault.label)),
    };
    let problem = problem.help(fault.help);
    let problem = match context.span(FILE) {
        Some(span) => problem.because(span, "the trace"),
        None => problem,
    };
    context.report(problem);
}

/// What of a line is shown: rows with block ids are as long as their prompts.
fn clip(line: &str, range: std::ops::Range<usize>) -> (String, std::ops::Range<usize>) {
    const MOST: usize = 160;
    if line.len() <= MOST {
        return (line.to_owned(), range);
    }
    let mut end = MOST;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    (format!("{} ...", &line[..end]), range.start.min(end)..range.end.min(end))
}

fn nothing_in_it(scan: &Scan, context: &mut Context<'_>) {
    let problem = match (scan.first, scan.last) {
        (Some(first), Some(last)) => {
            let key = match context.span("workload.trace.start") {
                Some(_) => "workload.trace.start",
                None => "workload.trace.end",
            };
            let label = format!("the trace goes from {first} to {last}");
            context
                .problem_at(key, "the window holds no request", label)
                .help("move the window; its times are those of the trace before any scaling")
        }
        _ if scan.skipped > 0 => context.problem_at(
            FILE,
            "no request of the trace has both a prompt and an answer",
            format!("{} rows with zero tokens", scan.skipped),
        ),
        _ => context
            .problem_at(FILE, "the trace is empty", "a header line and no rows")
            .help("add rows, or give another file"),
    };
    context.report(problem);
}

/// What is odd about a trace and no reason to refuse it.
fn remarks(file: &str, scan: &Scan, span: SimDuration, notes: &mut Vec<String>) {
    if scan.skipped > 0 {
        notes.push(format!(
            "{file}: {} of {} rows have no prompt or no answer, as failed requests do, and are left \
             out",
            scan.skipped,
            scan.rows + scan.skipped
        ));
    }
    // A gap is a hole where it is as long as a hundred of the others, a minute at least and a
    // tenth of it all: a recorder that stopped, rather than a quiet moment.
    let others = |hole: SimDuration| {
        span.saturating_sub(hole).as_secs_f64() / scan.window_rows.saturating_sub(2) as f64
    };
    if let Some(hole) = scan.hole
        && scan.window_rows >= 10
        && hole.length >= SimDuration::from_secs(60)
        && hole.length.as_secs_f64() * 10.0 >= span.as_secs_f64()
        && hole.length.as_secs_f64() >= 100.0 * others(hole.length)
    {
        notes.push(format!(
            "{file} has a hole: no request for {} from {} on",
            hole.length, hole.from
        ));
    }
}
