//! Our steps, written as the recordings of vLLM write theirs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::engine::observer::{CompletedStep, Observer, Outcome, RequestRecord, ScheduledStep};
use crate::request::FinishReason;
use crate::scheduler::Occupancy;
use crate::time::SimTime;

use super::super::replay::{Log, Steps, Watch};
use super::Dialect;

/// Writes our steps as the recording writes its own.
pub(in crate::conformance) struct Recorder<'a, D> {
    /// Position in the recording of each request, by `uid`; beyond them the `uid` itself.
    pub(in crate::conformance) order: Vec<usize>,
    log: Rc<RefCell<Log>>,
    dialect: D,
    pub(in crate::conformance) steps: Steps<'a>,
    /// Steps that are scheduled and not completed, oldest first.
    in_flight: VecDeque<Value>,
    pub(in crate::conformance) results: Vec<Value>,
    scheduled: u64,
    preemptions: usize,
    max_running: u32,
    end: SimTime,
}

impl<'a, D: Dialect> Recorder<'a, D> {
    pub(in crate::conformance) fn new(dialect: D, steps: Steps<'a>, watch: &Watch) -> Self {
        Self {
            order: Vec::new(),
            log: Rc::clone(&watch.log),
            dialect,
            steps,
            in_flight: VecDeque::new(),
            results: Vec::new(),
            scheduled: 0,
            preemptions: 0,
            max_running: 0,
            end: SimTime::ZERO,
        }
    }

    fn index(&self, uid: u64) -> usize {
        let uid = usize::try_from(uid).expect("a position fits usize");
        self.order.get(uid).copied().unwrap_or(uid)
    }

    fn indices(&self, uids: &[u64]) -> Vec<usize> {
        uids.iter().map(|&uid| self.index(uid)).collect()
    }

    /// The run is over: what is in flight stays as it is.
    pub(in crate::conformance) fn flush(&mut self) {
        for step in self.in_flight.drain(..) {
            self.steps.push(step);
        }
    }

    /// There are results for at least `requests` requests.
    pub(in crate::conformance) fn make_results(&mut self, requests: usize) {
        for index in self.results.len()..requests {
            self.results.push(json!({ "id": request_name(index) }));
        }
    }

    pub(in crate::conformance) fn summary(&self) -> Value {
        let mut summary = json!({
            "steps": self.scheduled,
            "preemptions": self.preemptions,
            "end_ns": self.end.as_nanos(),
            "max_running": self.max_running,
        });
        self.dialect.summary(&mut summary);
        summary
    }
}

/// What a request is called in a recording of ours.
pub(in crate::conformance) fn request_name(index: usize) -> String {
    format!("r{index:04}")
}

/// Lists are written only if there is something in them.
pub(in crate::conformance) fn set_list(step: &mut Value, key: &str, list: &[usize]) {
    if !list.is_empty() {
        step[key] = json!(list);
    }
}

impl<D: Dialect> Observer for Recorder<'_, D> {
    fn needs_every_step(&self) -> bool {
        true
    }

    fn on_scheduled(&mut self, scheduled: &ScheduledStep<'_>) {
        let index = |id| self.index(scheduled.requests.get(id).uid);
        let detail = scheduled.step.detail.as_ref().expect("detail was asked for");
        let preempted: Vec<usize> = scheduled.step.preempted.iter().map(|&id| index(id)).collect();
        let members: Vec<usize> = detail.scheduled.iter().map(|s| index(s.id)).collect();
        let dropped: Vec<usize> = scheduled.step.ended.iter().map(|e| index(e.id)).collect();
        let batch = members.into_iter().zip(&detail.scheduled);
        let batch: Vec<Value> = batch.map(|(at, s)| self.dialect.sequence(at, s)).collect();
        let Occupancy { running, waiting, .. } = scheduled.occupancy;
        let mut step = json!({
            "i": scheduled.index,
            "t": scheduled.decided.as_nanos(),
            "s": batch,
            "end": scheduled.end.as_nanos(),
            "rw": [running, waiting],
            "fb": [detail.free_blocks],
        });
        self.dialect.step(detail, &dropped, &mut step);
        let (added, aborted) = {
            let log = &mut *self.log.borrow_mut();
            (std::mem::take(&mut log.added), std::mem::take(&mut log.aborted))
        };
        set_list(&mut step, "add", &self.indices(&added));
        set_list(&mut step, "ab", &self.indices(&aborted));
        set_list(&mut step, "p", &preempted);
        self.preemptions += preempted.len();
        self.max_running = self.max_running.max(running);
        self.scheduled += 1;
        self.in_flight.push_back(step);
    }

    fn on_completed(&mut self, completed: &CompletedStep<'_>) {
        let aborted = std::mem::take(&mut self.log.borrow_mut().aborted_before_update);
        let aborted = self.indices(&aborted);
        let ended = completed.outcome.ended.iter();
        let finished: Vec<usize> =
            ended.map(|e| self.index(completed.requests.get(e.id).uid)).collect();
        let mut step = self.in_flight.pop_front().expect("steps end in the order they began");
        let Occupancy { kv_used, kv_total, .. } = completed.occupancy_after;
        step["fb"] = json!([step["fb"][0], kv_total - kv_used]);
        set_list(&mut step, "uab", &aborted);
        set_list(&mut step, "fin", &finished);
        self.steps.push(step);
        self.end = completed.end;
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let Outcome::Ended(reason) = record.outcome else { return };
        let why = match reason {
            FinishReason::Aborted => "abort",
            other => other.name(),
        };
        let index = self.index(record.uid);
        self.make_results(index + 1);
        let result = &mut self.results[index];
        result["first_token_ns"] = json!(record.first_token.map(SimTime::as_nanos));
        result["finish_ns"] = json!(record.ended.as_nanos());
        result["why"] = json!(why);
        result["out_tokens"] = json!(record.output_tokens);
        result["preemptions"] = json!(record.preemptions);
        self.dialect.result(record, result);
    }
}
