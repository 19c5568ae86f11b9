//! A scheduler that is watched: after every call its state is counted anew and held against what it
//! has been told and what it has said.
//!
//! Every simulation of a debug build runs its schedulers in here and stops at the first violation;
//! `--check` does the same in release and gathers them. A plain run has no such wrapper.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::request::{Request, RequestId};
use crate::scheduler::audit::{Audit, Depth, QueueOrder, Rule};
use crate::scheduler::{Ended, Occupancy, Refusal, Scheduler, Step, StepOutcome};
use crate::time::SimTime;

use super::invariants::{Violation, Violations};

/// Steps at the start of a run after each of which every KV block is counted; later, with tens of
/// thousands of blocks, only now and then.
const COUNTED_STEPS: u64 = 64;
const COUNTED_THEN_EVERY: u64 = 32;

/// Preemptions since the last token after which nobody will ever get one.
const MOST_FRUITLESS_PREEMPTIONS: u32 = 100_000;

/// A scheduler under watch.
pub(super) struct Audited {
    inner: Box<dyn Scheduler>,
    replica: u16,
    /// Where violations go; without, the first one ends the program.
    found: Option<Rc<RefCell<Violations>>>,
    /// The `uid` of each request that has arrived here and not ended.
    live: BTreeMap<RequestId, u64>,
    /// Steps scheduled.
    steps: u64,
    now: SimTime,
    tokens_made: u64,
    /// Decoding sequences of the newest step: what a steady turn makes.
    decoding: u32,
    tokens_of_ended: u64,
    fruitless: u32,
}

impl Audited {
    pub(super) fn new(
        inner: Box<dyn Scheduler>,
        replica: u16,
        found: Option<Rc<RefCell<Violations>>>,
    ) -> Self {
        Self {
            inner,
            replica,
            found,
            live: BTreeMap::new(),
            steps: 0,
            now: SimTime::ZERO,
            tokens_made: 0,
            decoding: 0,
            tokens_of_ended: 0,
            fruitless: 0,
        }
    }

    fn broken(&self, rule: Rule, request: Option<RequestId>, what: String) {
        let request = request.map(|id| self.live.get(&id).copied().unwrap_or(u64::MAX));
        // The newest step: what is found before the first is laid to it.
        let step = self.steps.saturating_sub(1);
        let violation = Violation { rule, replica: self.replica, step: Some(step), request, what };
        match &self.found {
            Some(found) => found.borrow_mut().add(violation),
            None => panic!("invariant broken: {violation}"),
        }
    }

    fn expect(
        &self,
        holds: bool,
        rule: Rule,
        request: Option<RequestId>,
        what: impl FnOnce() -> String,
    ) {
        if !holds {
            self.broken(rule, request, what());
        }
    }

    fn time(&mut self, now: SimTime) {
        self.expect(now >= self.now, Rule::MonotoneTime, None, || {
            format!("asked at {now} after {}", self.now)
        });
        self.now = now;
    }

    /// Requests that the scheduler says have ended.
    fn end(&mut self, ended: &[Ended]) {
        for end in ended {
            if self.live.remove(&end.id).is_none() {
                self.broken(Rule::NoRequestLost, None, format!("slot {} ends twice", end.id.0));
            }
            self.tokens_of_ended += u64::from(end.output_tokens);
        }
    }

    /// Holds the scheduler's state against what must be true between any two calls.
    fn examine(&self, depth: Depth) {
        let Some(audit) = self.inner.audit(depth) else {
            // All that is known of its memory. An engine that audits itself has its blocks counted;
            // one without blocks (TGIS) may need more than there is, and runs out of memory then.
            let Occupancy { kv_used, kv_total, .. } = self.inner.occupancy();
            self.expect(kv_used <= kv_total, Rule::BlocksConserved, None, || {
                format!("{kv_used} of {kv_total} KV are used")
            });
            return;
        };
        for broken in &audit.broken {
            self.broken(broken.rule, None, broken.what.clone());
        }
        self.nobody_is_lost(&audit);
        let occupancy = self.inner.occupancy();
        let queues = [audit.running.len(), audit.waiting.len()];
        let told = [occupancy.running as usize, occupancy.waiting as usize];
        // TGIS counts a batch only once it has been prefilled.
        self.expect(
            told[0] <= queues[0] && told[1] == queues[1],
            Rule::NoRequestLost,
            None,
            || format!("{told:?} run and wait by its own account, {queues:?} by count"),
        );
        let Some(kv) = audit.kv else { return };
        self.expect(kv.free + kv.held + kv.cached == kv.total, Rule::BlocksConserved, None, || {
            format!(
                "{} free + {} held + {} cached blocks are not {}",
                kv.free, kv.held, kv.cached, kv.total
            )
        });
        for holding in &audit.running {
            let room = holding.units * u64::from(kv.unit_tokens);
            self.expect(holding.tokens <= room, Rule::BlocksForTokens, Some(holding.id), || {
                format!("{} tokens in {} blocks", holding.tokens, holding.units)
            });
        }
    }

    fn nobody_is_lost(&self, audit: &Audit) {
        // By slot: how often it is there.
        let slots = self.live.last_key_value().map_or(0, |(id, _)| id.index() + 1);
        let mut seen = vec![0u32; slots];
        let running = audit.running.iter().map(|holding| holding.id);
        for id in running.chain(audit.waiting.iter().copied()) {
            match seen.get_mut(id.index()) {
                Some(times) if self.live.contains_key(&id) => *times += 1,
                _ => self.broken(
                    Rule::NoRequestLost,
                    None,
                    format!("slot {} has ended and is still there", id.0),
                ),
            }
        }
        for &id in self.live.keys() {
            let times = seen[id.index()];
            self.expect(times == 1, Rule::NoRequestLost, Some(id), || match times {
                0 => "it neither runs nor waits".into(),
                _ => format!("it stands in {times} places"),
            });
        }
    }

    /// Whether the decision of a step kept to the limits and to the order of the queue.
    fn judge(&mut self, before: &Audit, step: &Step) {
        let limits = before.limits;
        let shape = &step.shape;
        let seqs = u64::from(shape.prefill_seqs) + u64::from(shape.decode_seqs);
        self.expect(limits.seqs.is_none_or(|most| seqs <= most), Rule::SequenceLimit, None, || {
            format!("{seqs} sequences in a step, {} allowed", limits.seqs.unwrap_or(0))
        });
        let tokens = if shape.prefill_seqs > 0 { shape.tokens() } else { 0 };
        let most = limits.prompt_tokens.unwrap_or(u64::MAX);
        self.expect(tokens <= most, Rule::TokenBudget, None, || {
            format!("{tokens} tokens in a step, {most} allowed")
        });
        if before.order == QueueOrder::HeadFirst {
            self.nobody_overtakes(before, step);
        }
        self.fruitless += u32::try_from(step.preempted.len()).unwrap_or(u32::MAX);
        let stuck = self.fruitless >= MOST_FRUITLESS_PREEMPTIONS;
        self.expect(!stuck, Rule::NoStarvation, step.preempted.first().copied(), || {
            format!("{} preemptions, and nobody has got a token", self.fruitless)
        });
        if stuck {
            self.fruitless = 0;
        }
    }

    /// Those who left the queue stood before all who are still in it, and these keep their order.
    fn nobody_overtakes(&self, before: &Audit, step: &Step) {
        let Some(after) = self.inner.audit(Depth::Queues) else { return };
        if after.waiting == before.waiting {
            return;
        }
        let waited: BTreeSet<RequestId> = before.waiting.iter().copied().collect();
        let waits: BTreeSet<RequestId> = after.waiting.iter().copied().collect();
        let mut passed_over = None;
        for id in &before.waiting {
            if waits.contains(id) {
                passed_over = passed_over.or(Some(*id));
            } else if step.ended.iter().any(|end| end.id == *id) {
                continue;
            } else if let Some(first) = passed_over {
                let first = self.live.get(&first).copied().unwrap_or(u64::MAX);
                let what = format!("it overtakes request {first}");
                self.broken(Rule::AdmissionOrder, Some(*id), what);
            }
        }
        let stayed = after.waiting.iter().filter(|id| waited.contains(id));
        let order = before.waiting.iter().filter(|id| waits.contains(id));
        self.expect(order.eq(stayed), Rule::AdmissionOrder, None, || {
            "those who wait have changed places".into()
        });
    }

    fn depth(&self) -> Depth {
        let often = self.steps <= COUNTED_STEPS || self.steps.is_multiple_of(COUNTED_THEN_EVERY);
        if often { Depth::Blocks } else { Depth::Queues }
    }
}

impl Scheduler for Audited {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        self.inner.admit(request)
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        let before = self.live.insert(id, request.uid);
        self.expect(before.is_none(), Rule::NoRequestLost, Some(id), || {
            "its slot is not free".into()
        });
        self.inner.enqueue(id, request);
    }

    fn abort(&mut self, now: SimTime, id: RequestId, ended: &mut Vec<Ended>) {
        let known = ended.len();
        self.inner.abort(now, id, ended);
        self.end(&ended[known..]);
    }

    fn schedule(&mut self, now: SimTime, step: &mut Step) -> bool {
        self.time(now);
        let before = self.inner.audit(Depth::Queues);
        let runs = self.inner.schedule(now, step);
        self.steps += u64::from(runs);
        if runs {
            self.decoding = step.shape.decode_seqs;
        }
        if let Some(before) = before {
            self.judge(&before, step);
        }
        self.end(&step.ended);
        self.examine(self.depth());
        runs
    }

    fn complete(&mut self, start: SimTime, now: SimTime, outcome: &mut StepOutcome) {
        self.time(now);
        self.inner.complete(start, now, outcome);
        let made = outcome.tokens();
        self.tokens_made += made;
        if made > 0 {
            self.fruitless = 0;
        }
        self.end(&outcome.ended);
        // Who stays is examined when the next step is decided.
        if !outcome.ended.is_empty() {
            self.examine(self.depth());
        }
        self.count_tokens();
    }

    fn steady_turns(&self) -> u32 {
        self.inner.steady_turns()
    }

    fn advance(&mut self, turns: u32) {
        self.inner.advance(turns);
        self.tokens_made += u64::from(turns) * u64::from(self.decoding);
        self.steps += u64::from(turns);
        self.count_tokens();
        self.examine(self.depth());
    }

    fn has_work(&self) -> bool {
        self.inner.has_work()
    }

    fn generated(&self, id: RequestId) -> u32 {
        self.inner.generated(id)
    }

    fn occupancy(&self) -> Occupancy {
        self.inner.occupancy()
    }

    fn pipeline_depth(&self) -> usize {
        self.inner.pipeline_depth()
    }

    fn record_detail(&mut self) {
        self.inner.record_detail();
    }

    fn audit(&self, depth: Depth) -> Option<Audit> {
        self.inner.audit(depth)
    }
}

impl Audited {
    /// Not at every step: a scheduler may walk its queue to tell what a request has got.
    fn count_tokens(&self) {
        if self.depth() == Depth::Queues {
            return;
        }
        let held: u64 = self.live.keys().map(|&id| u64::from(self.inner.generated(id))).sum();
        let counted = held + self.tokens_of_ended;
        self.expect(counted == self.tokens_made, Rule::TokensConserved, None, || {
            format!("steps made {} tokens, and requests have {counted}", self.tokens_made)
        });
    }
}
