//! Workloads written out request by request, and what must be true of every run of one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;

use servesim::engine::invariants::Invariants;
use servesim::engine::observer::{CompletedStep, Observer, Outcome, RequestRecord, ScheduledStep};
use servesim::engine::router::RoundRobin;
use servesim::engine::{RunOptions, Simulation};
use servesim::engine_name::EngineName;
use servesim::request::{PromptContent, RequestSpec, TokenRun};
use servesim::scheduler::Scheduler;
use servesim::time::{SimDuration, SimTime};
use servesim::workload::Workload;

use super::CurvedCost;
use super::engines::{Engine, engines};

/// A request, and when its client goes away, if it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub at: SimTime,
    pub spec: RequestSpec,
    pub gone: Option<SimTime>,
}

/// An engine and all that it is asked, in order of time.
#[derive(Clone, Debug)]
pub struct Script {
    pub engine: Engine,
    pub asks: Vec<Ask>,
}

/// What stands around the scheduler under test: nothing, or something that misbehaves.
pub type Wrap = dyn Fn(Box<dyn Scheduler>) -> Box<dyn Scheduler>;

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = (
        prop_oneof![2 => Just(0u64), 3 => 0u64..400_000],
        (1u32..300, 1u32..120),
        prop_oneof![3 => Just(0i32), 1 => -2i32..3],
        prop::option::weighted(0.4, (0u64..3, 1u32..300)),
        prop::option::weighted(0.3, 1u32..120),
        (prop::option::weighted(0.1, 1u64..900_000), prop::option::weighted(0.1, 1u64..900_000)),
    );
    prop::collection::vec(ask, 1..40).prop_map(|rows| {
        let mut now = SimTime::ZERO;
        let micros = |us: u64| SimDuration::from_nanos(us * 1000);
        let rows = rows.into_iter().enumerate();
        rows.map(|(uid, (gap, (input, output), priority, shared, stop, (deadline, gone)))| {
            now += micros(gap);
            let content = shared.map(|(group, len)| {
                let (shared, own) = (len.min(input), input - len.min(input));
                let unique = 1_000_000 * (uid as u64 + 1);
                let runs = vec![
                    TokenRun { first: group * 10_000, len: shared },
                    TokenRun { first: unique, len: own },
                ];
                Arc::new(PromptContent { runs, output_base: unique + 500_000 })
            });
            let spec = RequestSpec {
                priority,
                content,
                stop_at: stop.unwrap_or(u32::MAX),
                deadline: deadline.map(|us| now + micros(us)),
                ..RequestSpec::fixed(input, output)
            };
            Ask { at: now, spec, gone: gone.map(|us| now + micros(us)) }
        })
        .collect()
    })
}

pub fn scripts() -> impl Strategy<Value = Script> {
    (engines(), asks()).prop_map(|(engine, asks)| Script { engine, asks })
}

impl Script {
    pub fn aborts(&self) -> Vec<(SimTime, u64)> {
        let gone = (0u64..).zip(&self.asks).filter_map(|(uid, ask)| Some((ask.gone?, uid)));
        let mut aborts: Vec<_> = gone.collect();
        aborts.sort_unstable();
        aborts
    }

    pub fn workload(&self, seen: &Rc<RefCell<Seen>>) -> Box<dyn Workload> {
        Box::new(Asks { asks: self.asks.clone(), next: 0, seen: Rc::clone(seen) })
    }

    /// The first property that a run of it does not have.
    pub fn violated(&self, wrap: &Wrap) -> Option<String> {
        let run = || catch_unwind(AssertUnwindSafe(|| self.run(wrap)));
        let first = match run() {
            Ok(run) => run,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                return Some(format!("it panics: {}", text.unwrap_or("without a message")));
            }
        };
        let second = run().ok()?;
        first.violated(self).or_else(|| {
            let equal = first.records == second.records && first.busy == second.busy;
            (!equal).then(|| "two runs of one script differ".to_owned())
        })
    }

    fn run(&self, wrap: &Wrap) -> Run {
        let seen = Rc::<RefCell<Seen>>::default();
        let replicas = vec![(wrap(self.engine.config.scheduler()), Box::new(CurvedCost) as Box<_>)];
        let options = RunOptions { aborts: self.aborts(), ..RunOptions::default() };
        let watch = Watch { seen: Rc::clone(&seen), busy: Vec::new(), wrong: None };
        let observer = (Invariants::default(), watch);
        let router = Box::new(RoundRobin::default());
        let workload = self.workload(&seen);
        let (totals, (invariants, watch)) =
            Simulation::new(replicas, router, workload, observer, options).run();
        let Watch { busy, wrong, .. } = watch;
        let seen = seen.take();
        Run {
            broken: invariants.finish(),
            records: seen.records,
            arrivals: seen.arrivals,
            replies: seen.replies,
            busy,
            wrong,
            end: totals.end,
        }
    }
}

/// What the clients have seen.
#[derive(Debug, Default)]
pub struct Seen {
    arrivals: Vec<SimTime>,
    replies: Vec<SimTime>,
    pub records: Vec<RequestRecord>,
}

struct Asks {
    asks: Vec<Ask>,
    next: usize,
    seen: Rc<RefCell<Seen>>,
}

impl Workload for Asks {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.asks.get(self.next).map(|ask| ask.at)
    }

    fn take(&mut self) -> RequestSpec {
        let ask = &self.asks[self.next];
        self.next += 1;
        self.seen.borrow_mut().arrivals.push(ask.at);
        ask.spec.clone()
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        self.seen.borrow_mut().replies.push(record.ended);
    }
}

/// What the engine shows.
struct Watch {
    seen: Rc<RefCell<Seen>>,
    /// Begin and end of each step.
    busy: Vec<(SimTime, SimTime)>,
    wrong: Option<String>,
}

impl Observer for Watch {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        self.busy.push((step.start, step.end));
        let seen = self.seen.borrow();
        // Those that this very step has dropped have no reply yet.
        let clients = seen.arrivals.len() - seen.replies.len();
        if step.requests.len() != clients {
            let (live, at) = (step.requests.len(), step.decided);
            self.wrong.get_or_insert(format!("{live} live requests, {clients} clients at {at}"));
        }
    }

    fn on_completed(&mut self, _: &CompletedStep<'_>) {}

    fn on_request(&mut self, record: &RequestRecord) {
        self.seen.borrow_mut().records.push(*record);
    }
}

struct Run {
    broken: Vec<String>,
    records: Vec<RequestRecord>,
    arrivals: Vec<SimTime>,
    replies: Vec<SimTime>,
    busy: Vec<(SimTime, SimTime)>,
    wrong: Option<String>,
    end: SimTime,
}

impl Run {
    fn violated(&self, script: &Script) -> Option<String> {
        let broken = self.broken.first().cloned();
        broken
            .or_else(|| self.wrong.clone())
            .or_else(|| self.everybody_ends(script))
            .or_else(|| self.littles_law())
            .or_else(|| self.works_while_there_is_work(script))
    }

    /// Every request ends once, finished or for a reason.
    fn everybody_ends(&self, script: &Script) -> Option<String> {
        let by_uid: BTreeMap<u64, &RequestRecord> =
            self.records.iter().map(|record| (record.uid, record)).collect();
        if by_uid.len() != script.asks.len() || self.records.len() != script.asks.len() {
            return Some(format!("{} of {} requests end", self.records.len(), script.asks.len()));
        }
        for record in &self.records {
            let asked = &script.asks[record.uid as usize].spec;
            let most = asked.max_output_tokens.min(asked.stop_at);
            let tokens = record.output_tokens;
            if record.outcome == Outcome::Unfinished {
                return Some(format!("request {} starves", record.uid));
            }
            // Some engines cut a request to the longest sequence, here beyond 400 tokens.
            let whole = record.prompt_tokens + most <= 400;
            if record.outcome.is_success() && (tokens > most || whole && tokens < most) {
                return Some(format!("request {} gets {tokens} of {most} tokens", record.uid));
            }
        }
        None
    }

    /// The time average of the number in the system is the arrival rate times the mean time in it:
    /// with both sides times the length of the run, an equation of whole numbers. The left side
    /// comes from what clients did, the right one from what the engine wrote down.
    fn littles_law(&self) -> Option<String> {
        let mut changes: Vec<(SimTime, i64)> = Vec::new();
        changes.extend(self.arrivals.iter().map(|&at| (at, 1)));
        changes.extend(self.replies.iter().map(|&at| (at, -1)));
        changes.sort_unstable();
        let (mut area, mut inside, mut since) = (0i128, 0i64, SimTime::ZERO);
        for (at, change) in changes {
            area += i128::from(inside) * i128::from(at.since(since).as_nanos());
            (inside, since) = (inside + change, at);
        }
        area += i128::from(inside) * i128::from(self.end.max(since).since(since).as_nanos());
        let spent: i128 = self.records.iter().map(|r| i128::from(r.e2e().as_nanos())).sum();
        (area != spent).then(|| format!("{area} ns of clients, {spent} ns of requests"))
    }

    /// Between two steps nobody is there who has not just come.
    fn works_while_there_is_work(&self, script: &Script) -> Option<String> {
        // TGIS leaves a request whose client has gone in its buffer until it next looks.
        let tgis = matches!(script.engine.name, EngineName::Tgis2023 | EngineName::Tgis2024);
        let idle = self.busy.windows(2).map(|steps| (steps[0].1, steps[1].0));
        for (from, to) in idle.filter(|(from, to)| from < to) {
            let waits = |r: &&RequestRecord| r.arrival < to && r.ended > from;
            if let Some(record) = self.records.iter().find(waits)
                && !(tgis && script.asks.iter().any(|ask| ask.gone.is_some()))
            {
                return Some(format!("idle from {from} to {to} with request {}", record.uid));
            }
        }
        None
    }
}
