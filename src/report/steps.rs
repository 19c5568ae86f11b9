//! `steps.csv`: one row per engine step.

use std::io::{self, Write};

use crate::cost::CostTerm;
use crate::engine::observer::{CompletedStep, Observer};

use super::row::Row;

/// Columns of `steps.csv` before the cost terms.
const COLUMNS: &str = "seed,replica,step,kind,start_ns,end_ns,prefill_seqs,prefill_tokens,\
decode_seqs,decode_context,running,waiting,kv_used,kv_total,admitted,preempted,ended,tokens";

/// The header, with one column in nanoseconds for each cost term; they add up to the step.
pub fn steps_header() -> String {
    let terms = CostTerm::ALL.iter().map(|term| format!(",{}_ns", term.name()));
    std::iter::once(COLUMNS.to_owned()).chain(terms).chain(std::iter::once("\n".into())).collect()
}

/// Writes a row as each step ends. It must see them all, so the engine does not jump.
#[derive(Debug)]
pub struct StepsCsv<W> {
    seed: u64,
    writer: W,
    /// The first failure; nothing is written after it.
    error: Option<io::Error>,
    row: Row,
}

impl<W: Write> StepsCsv<W> {
    /// Rows only; see [`steps_header`].
    pub const fn new(seed: u64, writer: W) -> Self {
        Self { seed, writer, error: None, row: Row::new() }
    }

    /// Flushes and gives the writer back, or the first failure of any row.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.writer.flush()?;
        Ok(self.writer)
    }
}

impl<W: Write> Observer for StepsCsv<W> {
    fn on_completed(&mut self, s: &CompletedStep<'_>) {
        if self.error.is_some() {
            return;
        }
        let (step, shape, occupancy) = (s.step, &s.step.shape, &s.occupancy);
        let tokens = s.outcome.tokens();
        self.row.clear();
        self.row
            .whole(self.seed)
            .whole(s.replica)
            .whole(s.index)
            .text(step.kind.name())
            .whole(s.start.as_nanos())
            .whole(s.end.as_nanos())
            .whole(shape.prefill_seqs)
            .whole(shape.prefill_tokens)
            .whole(shape.decode_seqs)
            .whole(shape.decode_context)
            .whole(occupancy.running)
            .whole(occupancy.waiting)
            .whole(occupancy.kv_used)
            .whole(occupancy.kv_total)
            .whole(step.admitted.len())
            .whole(step.preempted.len())
            .whole(s.outcome.ended.len())
            .whole(tokens);
        for (_, time) in s.time.terms() {
            self.row.whole(time.as_nanos());
        }
        self.error = self.writer.write_all(self.row.line()).err();
    }

    fn needs_every_step(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{StepShape, StepTime};
    use crate::request::RequestTable;
    use crate::scheduler::{Occupancy, Step, StepKind, StepOutcome};
    use crate::time::{SimDuration, SimTime};

    #[test]
    fn the_terms_of_a_row_add_up_to_its_span() {
        let mut time = StepTime::ZERO;
        time.set(CostTerm::Linear, SimDuration::from_nanos(700));
        time.set(CostTerm::Host, SimDuration::from_nanos(300));
        let step =
            Step { kind: StepKind::Decode, shape: StepShape::decode(4, 900), ..Step::default() };
        let mut csv = StepsCsv::new(1, steps_header().into_bytes());
        assert!(csv.needs_every_step());
        csv.on_completed(&CompletedStep {
            replica: 0,
            index: 9,
            start: SimTime::from_nanos(5000),
            end: SimTime::from_nanos(6000),
            step: &step,
            time: &time,
            outcome: &StepOutcome { decode_tokens: 4, ..StepOutcome::default() },
            occupancy: Occupancy { running: 4, waiting: 2, kv_used: 60, kv_total: 100 },
            occupancy_after: Occupancy::default(),
            requests: &RequestTable::default(),
        });
        let bytes = csv.finish().unwrap();
        let mut reader = ::csv::Reader::from_reader(bytes.as_slice());
        let header = reader.headers().unwrap().clone();
        let row = reader.records().next().unwrap().unwrap();
        let cell = |key: &str| &row[header.iter().position(|h| h == key).unwrap()];
        assert_eq!((cell("step"), cell("kind"), cell("tokens")), ("9", "decode", "4"));
        let terms: u64 = CostTerm::ALL
            .iter()
            .map(|term| cell(&format!("{}_ns", term.name())).parse::<u64>().unwrap())
            .sum();
        assert_eq!(terms, 1000);
    }
}
