//! A progress bar for runs that last.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::observer::{CompletedStep, Observer, RequestRecord, SteadyRun};
use crate::time::SimTime;

/// Runs shorter than this show nothing.
const PATIENCE: Duration = Duration::from_millis(500);
/// Engine reports between two looks at the clock: a look takes longer than a step.
const STRIDE: u32 = 4096;

/// What "all of it" means for a run.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    Until(SimTime),
    Requests(u64),
}

/// Watches how far a run has come and shows it on standard error.
#[derive(Debug)]
pub struct Progress {
    goal: Goal,
    started: Instant,
    reports: u32,
    now: SimTime,
    requests: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `None` where standard error is no terminal: then nothing needs to be watched.
    pub fn new(goal: Goal, started: Instant) -> Option<Self> {
        let progress =
            Self { goal, started, reports: 0, now: SimTime::ZERO, requests: 0, bar: None };
        io::stderr().is_terminal().then_some(progress)
    }

    #[inline]
    fn report(&mut self) {
        self.reports += 1;
        if self.reports >= STRIDE {
            self.reports = 0;
            self.show();
        }
    }

    #[cold]
    fn show(&mut self) {
        if self.started.elapsed() < PATIENCE {
            return;
        }
        let share = match self.goal {
            Goal::Until(end) => self.now.as_secs_f64() / end.as_secs_f64(),
            Goal::Requests(all) => self.requests as f64 / all as f64,
        };
        let bar = self.bar.get_or_insert_with(new_bar);
        move_to(bar, share, self.started);
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
    bar.with_style(ProgressStyle::with_template("{bar:40} {msg}").expect("a valid template"))
}

fn move_to(bar: &ProgressBar, share: f64, started: Instant) {
    let share = share.clamp(0.0, 1.0);
    bar.set_position((share * 1000.0) as u64);
    // A run goes at an even pace from its start on, which the bar's own estimate has not seen.
    let left = started.elapsed().as_secs_f64() * (1.0 - share) / share.max(1e-9);
    bar.set_message(format!("{:.0} %, {left:.0} s left", share * 100.0));
}

/// How many of several runs are done.
#[derive(Debug)]
pub struct RunsDone {
    all: u64,
    done: AtomicU64,
    started: Instant,
    bar: OnceLock<ProgressBar>,
}

impl RunsDone {
    pub fn new(all: u64, started: Instant) -> Self {
        Self { all, done: AtomicU64::new(0), started, bar: OnceLock::new() }
    }

    /// One more is done; from any thread.
    pub fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.started.elapsed() >= PATIENCE && io::stderr().is_terminal() {
            move_to(self.bar.get_or_init(new_bar), done as f64 / self.all as f64, self.started);
        }
    }
}

/// How many points of a sweep are done, how fast that goes and when it will end.
#[derive(Debug)]
pub struct PointsDone {
    bar: ProgressBar,
    started: Instant,
}

impl PointsDone {
    /// `before` points were done in an earlier run.
    pub fn new(all: u64, before: u64, started: Instant) -> Self {
        let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
        let template = "{bar:40} {pos}/{len} points, {per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        bar.set_position(before);
        // What an earlier run did says nothing of this one's pace.
        bar.reset_eta();
        Self { bar, started }
    }

    /// One more is done; from any thread.
    pub fn one_more(&self) {
        if self.started.elapsed() >= PATIENCE {
            self.bar.inc(1);
        } else {
            self.bar.update(|state| state.set_pos(state.pos() + 1));
        }
    }
}

impl Drop for PointsDone {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for RunsDone {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    #[inline]
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.now = step.end;
        self.report();
    }

    #[inline]
    fn on_steady(&mut self, run: &SteadyRun) {
        self.now = run.end;
        self.report();
    }

    #[inline]
    fn on_request(&mut self, _: &RequestRecord) {
        self.requests += 1;
        self.report();
    }
}
