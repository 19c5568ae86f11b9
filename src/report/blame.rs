//! `blame.csv`: one row per request, with what its time went to.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::engine::observer::{CompletedStep, Observer, RequestRecord, ScheduledStep, SteadyRun};
use crate::metrics::blame::{Blame, Cause};
use crate::time::SimTime;

use super::row::Row;

/// One column in nanoseconds for each cause; they add up to `e2el_ns`.
pub fn blame_header() -> String {
    let causes: String =
        Cause::ALL.iter().map(|cause| format!(",{}_ns", cause.name().replace('-', "_"))).collect();
    format!("seed,request,e2el_ns{causes}\n")
}

/// Writes a row as each request ends, if anybody wants rows, and keeps the mean.
#[derive(Debug)]
pub struct BlameCsv<W> {
    seed: u64,
    blame: Blame,
    writer: Option<W>,
    /// The first failure; nothing is written after it.
    error: Option<io::Error>,
    row: Row,
}

impl<W: Write> BlameCsv<W> {
    /// Rows only; see [`blame_header`].
    pub fn new(seed: u64, warm_up: SimTime, writer: Option<W>) -> Self {
        Self { seed, blame: Blame::new(warm_up), writer, error: None, row: Row::new() }
    }

    /// Mean milliseconds by cause, and the writer back; or the first failure of any row.
    pub fn finish(mut self) -> io::Result<(BTreeMap<String, f64>, Option<W>)> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if let Some(writer) = &mut self.writer {
            writer.flush()?;
        }
        Ok((self.blame.mean_ms(), self.writer))
    }
}

impl<W: Write> Observer for BlameCsv<W> {
    fn on_scheduled(&mut self, step: &ScheduledStep<'_>) {
        self.blame.on_scheduled(step);
    }

    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.blame.on_completed(step);
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        self.blame.on_steady(run);
    }

    fn on_request(&mut self, record: &RequestRecord) {
        let shares = self.blame.settle(record);
        let Some(writer) = self.writer.as_mut().filter(|_| self.error.is_none()) else { return };
        self.row.clear();
        self.row.whole(self.seed).whole(record.uid).whole(record.e2e().as_nanos());
        for share in shares.iter() {
            self.row.whole(share);
        }
        self.error = writer.write_all(self.row.line()).err();
    }

    fn on_lost_attempt(&mut self, record: &RequestRecord) {
        self.blame.on_lost_attempt(record);
    }
}
