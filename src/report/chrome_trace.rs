//! A run in the Trace Event Format of Chrome, which ui.perfetto.dev and chrome://tracing open
//! ("Trace Event Format", Google, 2016): steps and requests as slices, queues and KV as counters.
//!
//! A replica is a process. Its steps are one thread (two where a step is scheduled while the one
//! before it runs); each lane of requests is another, in which a request holds its phases.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::lanes::lanes;
use super::run_records::{RequestRow, StepRow};
use crate::cost::CostTerm;

/// Threads of a process: steps first, then lanes.
const STEPS: u64 = 0;
const FIRST_LANE: u64 = 1;

/// The process of requests that no replica took.
const NOBODY: u64 = 1 << 16;

fn process(replica: Option<u16>) -> u64 {
    replica.map_or(NOBODY, u64::from)
}

/// The format counts in microseconds; three decimals hold every nanosecond.
fn micros(nanos: u64) -> Value {
    json!(nanos as f64 / 1e3)
}

fn slice(name: &str, at: (u64, u64), start: u64, end: u64, args: Value) -> Value {
    let (process, thread) = at;
    let length = micros(end.saturating_sub(start));
    json!({"name": name, "ph": "X", "pid": process, "tid": thread, "ts": micros(start), "dur": length, "args": args})
}

fn named(what: &str, at: (u64, u64), name: &str) -> Value {
    json!({"name": what, "ph": "M", "pid": at.0, "tid": at.1, "args": {"name": name}})
}

fn step(row: &StepRow) -> Vec<Value> {
    let at = (u64::from(row.replica), STEPS);
    let terms = CostTerm::ALL.iter().zip(row.terms()).filter(|(_, nanos)| *nanos > 0);
    let terms: serde_json::Map<String, Value> =
        terms.map(|(term, nanos)| (format!("{}_us", term.name()), micros(nanos))).collect();
    let args = json!({
        "step": row.step,
        "prefill_seqs": row.prefill_seqs,
        "prefill_tokens": row.prefill_tokens,
        "decode_seqs": row.decode_seqs,
        "decode_context": row.decode_context,
        "admitted": row.admitted,
        "preempted": row.preempted,
        "ended": row.ended,
        "time": terms,
    });
    let counter = |name: &str, values: Value| json!({"name": name, "ph": "C", "pid": at.0, "ts": micros(row.start_ns), "args": values});
    vec![
        slice(&row.kind, at, row.start_ns, row.end_ns, args),
        counter("requests", json!({"running": row.running, "waiting": row.waiting})),
        counter("KV cache", json!({"used": row.kv_used})),
    ]
}

fn request(row: &RequestRow, lane: u32) -> Vec<Value> {
    let at = (process(row.replica), FIRST_LANE + u64::from(lane));
    let args = json!({
        "client": row.client,
        "tenant": row.tenant,
        "outcome": row.outcome,
        "prompt_tokens": row.prompt_tokens,
        "output_tokens": row.output_tokens,
        "cached_tokens": row.cached_tokens,
        "preemptions": row.preemptions,
        "retries": row.retries,
    });
    let name = format!("request {}", row.request);
    let mut events = vec![slice(&name, at, row.arrival_ns, row.ended_ns, args)];
    for (phase, start, end) in phases(row) {
        events.push(slice(phase, at, start, end, json!({})));
    }
    events
}

/// What a request went through, one phase after the other: name, start and end in nanoseconds.
pub fn phases(row: &RequestRow) -> Vec<(&'static str, u64, u64)> {
    let marks = [
        ("queue", Some(row.arrival_ns)),
        ("prefill", row.first_scheduled_ns),
        ("decode", row.first_token_ns),
    ];
    let begun: Vec<(&str, u64)> =
        marks.into_iter().filter_map(|(phase, at)| Some((phase, at?))).collect();
    let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([row.ended_ns]);
    let spans = begun.iter().zip(ends).map(|(&(phase, start), end)| (phase, start, end));
    spans.filter(|(_, start, end)| end > start).collect()
}

/// Writes the trace; times are those of the run.
pub fn write(
    scenario: &str,
    requests: &[RequestRow],
    steps: &[StepRow],
    out: &mut dyn Write,
) -> io::Result<()> {
    let lanes = lanes(requests);
    let mut threads: BTreeSet<(u64, u64)> =
        steps.iter().map(|s| (s.replica.into(), STEPS)).collect();
    threads.extend(
        requests
            .iter()
            .zip(&lanes)
            .map(|(r, &lane)| (process(r.replica), FIRST_LANE + u64::from(lane))),
    );
    let processes: BTreeSet<u64> = threads.iter().map(|(process, _)| *process).collect();
    let process_names = processes.iter().map(|&process| {
        let name =
            if process == NOBODY { "no replica".into() } else { format!("replica {process}") };
        named("process_name", (process, 0), &name)
    });
    let thread_names = threads.iter().map(|&at| {
        let name = if at.1 == STEPS { "steps".into() } else { format!("requests {}", at.1) };
        named("thread_name", at, &name)
    });
    let records = steps.iter().flat_map(step);
    let events = process_names
        .chain(thread_names)
        .chain(records)
        .chain(requests.iter().zip(&lanes).flat_map(|(row, &lane)| request(row, lane)));
    write!(
        out,
        "{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\"traceEvents\":[",
        json!({"scenario": scenario})
    )?;
    for (i, event) in events.enumerate() {
        out.write_all(if i == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &event)?;
    }
    out.write_all(b"\n]}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run_records::tests as rows;

    fn events() -> Vec<Value> {
        let requests = rows::requests(&[
            rows::request(0, [0, 10, 50, 150]),
            rows::request(1, [20, 50, 90, 130]),
        ]);
        let steps = rows::steps(&[rows::step(0, 10, 50), rows::step(1, 50, 90)]);
        let mut out = Vec::new();
        write("a \"run\"", &requests.drawn, &steps.drawn, &mut out).unwrap();
        let whole: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(whole["otherData"]["scenario"], "a \"run\"");
        whole["traceEvents"].as_array().unwrap().clone()
    }

    #[test]
    fn slices_of_a_thread_nest_or_follow_each_other() {
        let mut open: std::collections::BTreeMap<(u64, u64), Vec<(f64, f64)>> = Default::default();
        for event in events().iter().filter(|event| event["ph"] == "X") {
            let at = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
            let start = event["ts"].as_f64().unwrap();
            let end = start + event["dur"].as_f64().unwrap();
            let stack = open.entry(at).or_default();
            stack.retain(|&(_, until)| until > start);
            assert!(stack.iter().all(|&(from, until)| from <= start && end <= until), "{event}");
            stack.push((start, end));
        }
        assert_eq!(open.len(), 3, "one thread of steps, two lanes");
    }

    #[test]
    fn the_phases_of_a_request_add_up_to_it() {
        let read = rows::requests(&[rows::request(0, [0, 10, 50, 150])]);
        let spans = phases(&read.drawn[0]);
        assert_eq!(spans.iter().map(|(_, start, end)| end - start).sum::<u64>(), 150_000_000);
        assert_eq!(
            spans.iter().map(|(name, ..)| *name).collect::<Vec<_>>(),
            ["queue", "prefill", "decode"]
        );
    }

    #[test]
    fn a_step_shows_what_it_ran_and_where_its_time_went() {
        let events = events();
        let step =
            events.iter().find(|event| event["name"] == "decode" && event["tid"] == 0).unwrap();
        assert_eq!((&step["ts"], &step["dur"]), (&json!(10_000.0), &json!(40_000.0)));
        assert_eq!(step["args"]["decode_seqs"], 3);
        assert_eq!(step["args"]["time"]["linear_us"], 0.005);
        assert!(events.iter().any(|event| event["ph"] == "C" && event["args"]["waiting"] == 1));
    }
}
