//! The observer from which every summary is made.

use std::sync::Arc;

use super::convention::Convention;
use super::distribution::Distribution;
use super::pools::PoolMeasure;
use super::slo::{Slo, SloTally, divide};
use super::steps::StepTotals;
use super::summary::Summary;
use super::tenants::Tenants;
use super::timeline::Timeline;
use super::trust::Trusted;
use crate::cost::trust::TermGrades;
use crate::engine::observer::{
    CompletedStep, FleetReport, Observer, Outcome, RequestRecord, ScheduledStep, SteadyRun,
};
use crate::request::FinishReason;
use crate::scheduler::StepKind;
use crate::time::{SimDuration, SimTime};
use crate::units::UsdPerHour;

/// What is to be measured, and against what.
#[derive(Clone, Debug, Default)]
pub struct Measure {
    pub convention: Convention,
    /// Requests that arrive before it are left out of the summary, and so are the token gaps, the
    /// batch sizes and the generated tokens until then. Time by term, step counts, preemptions and
    /// the peak KV use are those of the whole run.
    pub warm_up: SimTime,
    /// When the clients stop: the configured duration, where there is one.
    pub deadline: Option<SimTime>,
    pub slo: Option<Slo>,
    pub replicas: u16,
    /// Machines that are there all the time, where none come and go.
    pub machines: u32,
    /// Of one machine, idle GPUs included; where there are pools, each has its own.
    pub price: Option<UsdPerHour>,
    /// In the order of their replicas; none where all machines are of one kind.
    pub pools: Arc<[PoolMeasure]>,
}

/// Distributions over the requests that were answered, and over token gaps.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    pub ttft: Distribution,
    pub tpot: Distribution,
    /// Gaps between tokens, of all requests.
    pub itl: Distribution,
    /// A request's mean gap, where the convention has that for the ITL.
    pub mean_gap: Distribution,
    pub e2el: Distribution,
    pub normalized: Distribution,
    pub queue: Distribution,
}

/// Counts over requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub completed: u64,
    pub unfinished: u64,
    pub in_warm_up: u64,
    /// By [`Tally::FAILURES`].
    pub failed: [u64; Tally::FAILURES.len()],
    /// Of completed requests.
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cached_tokens: u64,
    /// First arrival and last reply of the requests that have ended.
    pub first_arrival: Option<SimTime>,
    pub last_reply: Option<SimTime>,
    /// The same of the answered ones.
    pub first_answered: Option<SimTime>,
    pub last_answer: Option<SimTime>,
    /// The same of all, cut-off ones included.
    pub first_sent: Option<SimTime>,
    pub last_end: Option<SimTime>,
    pub by_deadline: ByDeadline,
    pub slo: SloTally,
}

impl Tally {
    pub const FAILURES: [FinishReason; 10] = [
        FinishReason::TimeLimit,
        FinishReason::Aborted,
        FinishReason::Ignored,
        FinishReason::Refused,
        FinishReason::OutOfMemory,
        FinishReason::Starved,
        FinishReason::TimedOut,
        FinishReason::Rejected,
        FinishReason::Unavailable,
        FinishReason::ReplicaFailed,
    ];

    pub fn failed_for(&self, reason: FinishReason) -> u64 {
        let place = Self::FAILURES.iter().position(|&r| r == reason);
        place.map_or(0, |place| self.failed[place])
    }
}

/// What had happened when the clients stopped.
#[derive(Clone, Debug, Default)]
pub(super) struct ByDeadline {
    /// Output tokens from steps that had ended.
    pub generated: u64,
    /// Prompt tokens of requests that had got their first token.
    pub prefilled: u64,
    /// Requests that had been answered, and their output tokens.
    pub answered: u64,
    pub answered_tokens: u64,
}

/// Accumulates a run; memory does not grow with the number of requests.
#[derive(Clone, Debug)]
pub struct Recorder {
    pub(super) measure: Measure,
    pub(super) latencies: Latencies,
    pub(super) tally: Tally,
    pub(super) steps: StepTotals,
    pub(super) fleet: FleetReport,
    pub(super) tenants: Tenants,
    /// Attempts that were lost and followed by another.
    pub(super) retries: u64,
    timeline: Timeline,
    /// Gaps and sequences of the step that is about to be reported: only its end says on which side
    /// of the warm-up and of the deadline they lie.
    gaps: Vec<(SimDuration, u32)>,
    /// The warm-up is over and no deadline will come: every gap counts, whenever its step ends.
    all_count: bool,
}

impl Recorder {
    pub fn new(measure: Measure) -> Self {
        Self {
            all_count: measure.warm_up == SimTime::ZERO && measure.deadline.is_none(),
            measure,
            latencies: Latencies::default(),
            tally: Tally::default(),
            steps: StepTotals::default(),
            fleet: FleetReport::default(),
            tenants: Tenants::default(),
            retries: 0,
            timeline: Timeline::default(),
            gaps: Vec::new(),
        }
    }

    /// Tells requests apart by tenant too; the names by the number that requests carry.
    pub fn with_tenants(mut self, tenants: Vec<(String, Option<Slo>)>) -> Self {
        self.tenants = Tenants::named(tenants);
        self
    }

    pub fn summary(self) -> Summary {
        Summary::of(&self)
    }

    /// How far the run can be trusted, whose steps were priced by numbers of these grades.
    pub fn trusted(&self, grades: &TermGrades) -> Trusted {
        Trusted::of(self.steps.time_by_kind(), grades)
    }

    /// TTFT, TPOT, ITL and E2E latency at a percentile, in milliseconds; of answered requests.
    pub fn latencies_at(&self, percent: f64) -> [Option<f64>; 4] {
        let quantile = self.measure.convention.quantile();
        self.searched_latencies()
            .map(|values| Some(values.figures_by(quantile, &[percent])?.percentiles[0] / 1e6))
    }

    /// Their means.
    pub fn mean_latencies(&self) -> [Option<f64>; 4] {
        self.searched_latencies().map(|values| Some(values.figures(&[])?.mean / 1e6))
    }

    fn searched_latencies(&self) -> [&Distribution; 4] {
        let Latencies { ttft, tpot, e2el, .. } = &self.latencies;
        [ttft, tpot, self.itl(), e2el]
    }

    /// The inter-token latencies of the convention.
    pub(super) const fn itl(&self) -> &Distribution {
        if self.measure.convention.pools_gaps() {
            &self.latencies.itl
        } else {
            &self.latencies.mean_gap
        }
    }

    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Steps of all replicas so far.
    pub fn steps(&self) -> u64 {
        self.steps.steps()
    }

    /// Output tokens generated so far, those of unanswered requests included.
    pub fn output_tokens(&self) -> u64 {
        self.steps.tokens
    }

    /// When the last step or request ended.
    pub fn end(&self) -> SimTime {
        self.steps.end.max(self.tally.last_reply.unwrap_or_default())
    }

    fn before_deadline(&self, at: SimTime) -> bool {
        self.measure.deadline.is_none_or(|deadline| at <= deadline)
    }

    /// `tokens` tokens left the engine at `at`.
    fn count_tokens(&mut self, at: SimTime, tokens: u64) {
        self.steps.tokens += tokens;
        if at > self.measure.warm_up && self.before_deadline(at) {
            self.tally.by_deadline.generated += tokens;
        }
    }

    fn fail(&mut self, reason: FinishReason) {
        if let Some(place) = Tally::FAILURES.iter().position(|&r| r == reason) {
            self.tally.failed[place] += 1;
        }
    }

    fn answer(&mut self, record: &RequestRecord) {
        let in_time = self.before_deadline(record.ended);
        let convention = self.measure.convention;
        let (tally, latencies) = (&mut self.tally, &mut self.latencies);
        tally.completed += 1;
        stretch(&mut tally.first_answered, &mut tally.last_answer, record);
        tally.input_tokens += u64::from(record.prompt_tokens);
        tally.output_tokens += u64::from(record.output_tokens);
        tally.cached_tokens += u64::from(record.cached_tokens);
        let e2e = record.e2e();
        latencies.e2el.record(e2e, 1);
        if record.output_tokens > 0 {
            latencies.normalized.record(divide(e2e, record.output_tokens.into()), 1);
        }
        if in_time || !convention.leaves_out_late_answers() {
            if let Some(ttft) = record.ttft() {
                latencies.ttft.record(ttft, 1);
            }
            if let Some((tpot, weight)) = convention.tpot(record) {
                latencies.tpot.record(tpot, weight);
            }
            if let Some((gap, weight)) = convention.itl(record) {
                latencies.mean_gap.record(gap, weight);
            }
        }
        if let Some(queue) = record.queue() {
            latencies.queue.record(queue, 1);
        }
        if in_time {
            self.tally.by_deadline.answered += 1;
            self.tally.by_deadline.answered_tokens += u64::from(record.output_tokens);
        }
    }
}

/// Widens the span from the first arrival to the last end by a request.
fn stretch(first: &mut Option<SimTime>, last: &mut Option<SimTime>, record: &RequestRecord) {
    *first = Some(first.map_or(record.arrival, |at| at.min(record.arrival)));
    *last = Some(last.map_or(record.ended, |at| at.max(record.ended)));
}

impl Observer for Recorder {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        // Here and not when the step has ended: by then the engine may have jumped over its end.
        self.steps.preemptions += step.step.preempted.len() as u64;
        if !(step.step.admitted.is_empty() && step.step.preempted.is_empty()) {
            self.timeline.sample_kv(step.decided, &step.occupancy);
        }
    }

    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.steps.add(step.step.kind, 1, (step.start, step.end), step.time);
        self.steps.occupy(step.start, step.end, self.measure.warm_up, &step.occupancy);
        self.timeline.add(step.start, step.end, &step.occupancy);
        self.count_tokens(step.end, step.outcome.tokens());
        if !(step.outcome.ended.is_empty() && step.outcome.first_tokens.is_empty()) {
            self.timeline.sample_kv(step.end, &step.occupancy);
        }
        let warm = step.end > self.measure.warm_up;
        if !self.gaps.is_empty() {
            for (gap, sequences) in self.gaps.drain(..) {
                if warm {
                    self.latencies.itl.record(gap, sequences.into());
                }
            }
        }
        self.all_count = warm && self.measure.deadline.is_none();
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        self.steps.add(StepKind::Decode, run.steps.into(), (run.start, run.end), &run.time);
        self.steps.occupy(run.start, run.end, self.measure.warm_up, &run.occupancy);
        self.timeline.add(run.start, run.end, &run.occupancy);
        let tokens = u64::from(run.seqs) * u64::from(run.steps);
        if run.start >= self.measure.warm_up && self.before_deadline(run.end) {
            self.count_tokens(run.end, tokens);
            for (gap, sequences) in self.gaps.drain(..) {
                self.latencies.itl.record(gap, sequences.into());
            }
            return;
        }
        // The stretch lies across the end of the warm-up or the deadline. Walking back from its end
        // finds the instant of each gap: the gaps of one step add up to its sequences, and the last
        // of them, that of the sequences which decode together, is the time since the step before.
        let (mut at, mut left, mut since) = (run.end, run.seqs, SimDuration::ZERO);
        for (gap, sequences) in std::mem::take(&mut self.gaps).into_iter().rev() {
            if left == 0 {
                at = SimTime::from_nanos(at.as_nanos().saturating_sub(since.as_nanos()));
                left = run.seqs;
            }
            if left == run.seqs {
                since = gap;
            }
            if at > self.measure.warm_up {
                self.latencies.itl.record(gap, sequences.into());
            }
            self.count_tokens(at, sequences.into());
            left = left.saturating_sub(sequences);
        }
    }

    #[inline]
    fn on_token_gap(&mut self, gap: SimDuration, sequences: u32) {
        if self.all_count {
            self.latencies.itl.record(gap, sequences.into());
        } else {
            self.gaps.push((gap, sequences));
        }
    }

    fn on_token_gaps(&mut self, gaps: &[SimDuration], sequences: u32) {
        if self.all_count {
            self.latencies.itl.record_each(gaps, sequences.into());
        } else {
            self.gaps.extend(gaps.iter().map(|&gap| (gap, sequences)));
        }
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let first_token = record.first_token;
        if record.arrival < self.measure.warm_up {
            self.tally.in_warm_up += 1;
            return;
        }
        if first_token.is_some_and(|at| self.before_deadline(at)) {
            self.tally.by_deadline.prefilled += u64::from(record.prompt_tokens);
        }
        stretch(&mut self.tally.first_sent, &mut self.tally.last_end, record);
        let in_time = self.before_deadline(record.ended);
        self.tenants.add(record, self.measure.convention, in_time);
        let Outcome::Ended(reason) = record.outcome else {
            self.tally.unfinished += 1;
            return;
        };
        let tally = &mut self.tally;
        stretch(&mut tally.first_arrival, &mut tally.last_reply, record);
        if let Some(slo) = &self.measure.slo {
            tally.slo.add(slo, record);
        }
        if reason.is_success() {
            self.answer(record);
        } else {
            self.fail(reason);
        }
    }

    fn on_lost_attempt(&mut self, _: &RequestRecord) {
        self.retries += 1;
    }

    fn on_fleet(&mut self, report: &FleetReport) {
        self.fleet = report.clone();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cost::{CostTerm, StepTime};
    use crate::request::RequestTable;
    use crate::scheduler::{Occupancy, Step, StepOutcome};

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> SimTime {
        SimTime::from_nanos(ms * MS)
    }

    /// A request that was answered; instants in ms.
    pub fn answered(arrival: u64, first_token: u64, ended: u64, tokens: u32) -> RequestRecord {
        RequestRecord {
            uid: 0,
            client: 0,
            replica: 0,
            priority: 0,
            tenant: 0,
            arrival: at(arrival),
            first_scheduled: Some(at(arrival)),
            first_token: Some(at(first_token)),
            ended: at(ended),
            prompt_tokens: 100,
            output_tokens: tokens,
            cached_tokens: 0,
            preemptions: 0,
            retries: 0,
            outcome: Outcome::Ended(FinishReason::Length),
        }
    }

    fn took(ms: u64) -> StepTime {
        let mut time = StepTime::ZERO;
        time.set(CostTerm::Linear, SimDuration::from_millis(ms));
        time
    }

    fn occupancy(running: u32) -> Occupancy {
        Occupancy { running, waiting: 1, kv_used: 10, kv_total: 40 }
    }

    /// A pure decode step of `seqs` sequences, one by one.
    pub fn decode_step(recorder: &mut Recorder, start: u64, end: u64, seqs: u32) {
        let step = Step { kind: StepKind::Decode, ..Step::default() };
        let outcome = StepOutcome { decode_tokens: seqs, ..StepOutcome::default() };
        recorder.on_token_gap(SimDuration::from_millis(end - start), seqs);
        recorder.on_completed(&CompletedStep {
            replica: 0,
            index: 0,
            start: at(start),
            end: at(end),
            step: &step,
            time: &took(end - start),
            outcome: &outcome,
            occupancy: occupancy(seqs),
            occupancy_after: occupancy(seqs),
            requests: &RequestTable::default(),
        });
    }

    /// The same steps of `each` ms, at once.
    fn decode_stretch(recorder: &mut Recorder, start: u64, steps: u32, each: u64, seqs: u32) {
        for _ in 0..steps {
            recorder.on_token_gap(SimDuration::from_millis(each), seqs);
        }
        stretch(recorder, start, steps, each, seqs);
    }

    fn stretch(recorder: &mut Recorder, start: u64, steps: u32, each: u64, seqs: u32) {
        let end = start + u64::from(steps) * each;
        recorder.on_steady(&SteadyRun {
            replica: 0,
            index: 0,
            steps,
            seqs,
            start: at(start),
            end: at(end),
            time: took(end - start),
            occupancy: occupancy(seqs),
        });
    }

    #[test]
    fn a_stretch_counts_as_its_steps_one_by_one() {
        // Warm-up and deadline lie within the stretch, on and off a step's end.
        for (warm_up, deadline) in [(0, None), (30, Some(90)), (35, Some(85)), (200, Some(210))] {
            let measure =
                Measure { warm_up: at(warm_up), deadline: deadline.map(at), ..Measure::default() };
            let (mut jumped, mut stepped) =
                (Recorder::new(measure.clone()), Recorder::new(measure));
            decode_stretch(&mut jumped, 0, 10, 10, 3);
            for i in 0..10 {
                decode_step(&mut stepped, 10 * i, 10 * i + 10, 3);
            }
            let by_deadline = jumped.tally.by_deadline.generated;
            let expected = (0..10).map(|i| 10 * i + 10);
            let expected =
                3 * expected.filter(|&e| e > warm_up && deadline.is_none_or(|d| e <= d)).count();
            assert_eq!(by_deadline, expected as u64);
            assert!(jumped.timeline().points().eq(stepped.timeline().points()));
            assert_eq!(jumped.summary(), stepped.summary());
        }
    }

    #[test]
    fn a_sequence_that_had_waited_does_not_move_the_instants_of_a_stretch() {
        let mut recorder = Recorder::new(Measure { warm_up: at(15), ..Measure::default() });
        // Ends at 10 and 20 ms; in the first step one sequence got its last token long ago.
        recorder.on_token_gap(SimDuration::from_millis(500), 1);
        recorder.on_token_gap(SimDuration::from_millis(10), 1);
        recorder.on_token_gap(SimDuration::from_millis(10), 2);
        stretch(&mut recorder, 0, 2, 10, 2);
        assert_eq!(recorder.tally.by_deadline.generated, 2);
    }

    #[test]
    fn requests_that_arrive_in_the_warm_up_are_left_out() {
        let mut recorder = Recorder::new(Measure { warm_up: at(100), ..Measure::default() });
        recorder.on_request(&answered(99, 150, 400, 10));
        recorder.on_request(&answered(100, 150, 300, 10));
        let summary = recorder.summary();
        assert_eq!((summary.completed.get(), summary.warm_up_requests.get()), (1.0, 1.0));
        assert_eq!(summary.ttft_ms.mean, Some(50.0));
    }

    #[test]
    fn failures_are_counted_by_reason_and_leave_no_latency() {
        let mut recorder = Recorder::new(Measure::default());
        for reason in [FinishReason::OutOfMemory, FinishReason::Refused, FinishReason::Refused] {
            let mut record = answered(0, 50, 100, 10);
            record.outcome = Outcome::Ended(reason);
            recorder.on_request(&record);
        }
        let mut record = answered(0, 50, 100, 10);
        record.outcome = Outcome::Unfinished;
        recorder.on_request(&record);
        let summary = recorder.summary();
        assert_eq!(
            (summary.completed.get(), summary.failed.get(), summary.unfinished.get()),
            (0.0, 3.0, 1.0)
        );
        assert_eq!(summary.failed_by_reason["refused"].get(), 2.0);
        assert_eq!(summary.failed_by_reason["out-of-memory"].get(), 1.0);
        assert_eq!(summary.ttft_ms.mean, None);
    }

    #[test]
    fn the_terms_add_up_to_the_busy_time() {
        let mut recorder = Recorder::new(Measure { replicas: 2, ..Measure::default() });
        decode_step(&mut recorder, 0, 10, 4);
        decode_stretch(&mut recorder, 20, 5, 12, 4);
        let summary = recorder.summary();
        assert_eq!(summary.time.busy_s, 0.07);
        assert_eq!(summary.time.terms_s.values().sum::<f64>(), 0.07);
        // Two replicas for 80 ms, of which one did nothing.
        assert!((summary.time.idle_s - 0.09).abs() < 1e-12);
        assert_eq!(summary.steps["decode"].get(), 6.0);
    }

    #[test]
    fn batch_size_is_weighted_by_time_and_leaves_idle_time_out() {
        let mut recorder = Recorder::new(Measure::default());
        decode_step(&mut recorder, 0, 10, 2);
        decode_step(&mut recorder, 1000, 1030, 6);
        let summary = recorder.summary();
        assert_eq!((summary.batch_size.mean, summary.batch_size.max.get()), (Some(5.0), 6.0));
        assert_eq!((summary.kv_blocks_total.get(), summary.kv_usage_peak), (40.0, 0.25));
    }
}
