//! A small workload under which two schedules part: a trace that shows it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::request::{PromptContent, RequestSpec};
use crate::time::{SimDuration, SimTime};
use crate::workload::{Replay, ReplayRules, Taken, TraceRow, TraceSource, Workload};

use super::schedule::{Contest, Parting};
use super::shrink::{AllSimpler, Simpler, shrink};

/// Tokens that one id of a shared prompt stands for in the trace.
pub const BLOCK_TOKENS: u32 = 16;
/// Requests simulated in the search for a smaller workload, all tries together.
const WORK: u64 = 100_000;

/// Requests that make two schedules part.
#[derive(Clone, Debug, Serialize)]
pub struct Witness {
    /// Where they part under these.
    pub parting: Parting,
    #[serde(serialize_with = "rows_as_json")]
    pub requests: Vec<TraceRow>,
}

impl Witness {
    /// Shrinks `requests`, under which the two part at `parting`; nothing if a trace of them does not
    /// make them part, as where prompts go on with earlier answers.
    pub fn find(contest: &Contest<'_>, requests: &Taken, parting: &Parting) -> Option<Self> {
        let mut ids = BTreeMap::new();
        let mut rows: Vec<TraceRow> =
            requests.iter().map(|(at, spec)| row(*at, spec, &mut ids)).collect();
        // Fewer requests part no later: what comes then need not be simulated.
        let first = rows.first()?.at;
        let horizon = parting.until().map(|until| SimTime::ZERO + until.since(first));
        begin_at_zero(&mut rows);
        let parts = |rows: &[TraceRow]| contest.parts(&|| replay(rows), horizon, parting);
        if !parts(&rows) {
            return None;
        }
        let mut rows = shrink(rows, &EACH, &ALL, WORK, parts);
        number_again(&mut rows);
        let parting = contest.parting(&|| replay(&rows), None)?;
        Some(Self { parting, requests: rows })
    }

    /// The trace, one request a line.
    pub fn trace(&self) -> Vec<u8> {
        let lines = self.requests.iter().map(|row| format!("{}\n", row_as_json(row)));
        lines.collect::<String>().into_bytes()
    }

    /// Whether requests share prompts, so that the trace means what it says only with
    /// [`BLOCK_TOKENS`].
    pub fn shares_prompts(&self) -> bool {
        self.requests.iter().any(|row| !row.blocks.is_empty())
    }
}

/// A request as a line of a trace, in our own format.
fn row_as_json(row: &TraceRow) -> Value {
    let mut json = json!({
        // Divided, so that what is a short decimal is written as one.
        "arrival_s": row.at.as_nanos() as f64 / 1e9,
        "input_tokens": row.input,
        "output_tokens": row.output,
    });
    if row.priority != 0 {
        json["priority"] = row.priority.into();
    }
    if !row.blocks.is_empty() {
        json["hash_ids"] = json!(row.blocks);
    }
    json
}

fn rows_as_json<S: serde::Serializer>(rows: &[TraceRow], ser: S) -> Result<S::Ok, S::Error> {
    ser.collect_seq(rows.iter().map(row_as_json))
}

/// A request as a row of a trace. Blocks of equal tokens have equal ids.
fn row(at: SimTime, spec: &RequestSpec, ids: &mut BTreeMap<Vec<(u64, u32)>, u64>) -> TraceRow {
    let blocks = spec.content.as_deref().map_or_else(Vec::new, |content| blocks(content, ids));
    TraceRow {
        at,
        input: spec.prompt_tokens,
        output: spec.max_output_tokens.min(spec.stop_at),
        priority: spec.priority,
        blocks,
        ..TraceRow::default()
    }
}

/// Ids of the whole blocks of a prompt.
fn blocks(content: &PromptContent, ids: &mut BTreeMap<Vec<(u64, u32)>, u64>) -> Vec<u64> {
    let mut blocks = Vec::new();
    let (mut block, mut room) = (Vec::new(), BLOCK_TOKENS);
    for run in &content.runs {
        let (mut first, mut left) = (run.first, run.len);
        while left > 0 {
            let part = left.min(room);
            block.push((first, part));
            (first, left, room) = (first + u64::from(part), left - part, room - part);
            if room == 0 {
                let new = ids.len() as u64;
                blocks.push(*ids.entry(std::mem::take(&mut block)).or_insert(new));
                room = BLOCK_TOKENS;
            }
        }
    }
    blocks
}

/// Ids from 0 in the order in which they come.
fn number_again(rows: &mut [TraceRow]) {
    let mut ids = BTreeMap::new();
    for id in rows.iter_mut().flat_map(|row| &mut row.blocks) {
        let new = ids.len() as u64;
        *id = *ids.entry(*id).or_insert(new);
    }
}

/// What makes a request simpler.
const EACH: [Simpler<TraceRow>; 6] = [
    |row| row.blocks.clear(),
    |row| row.priority = 0,
    |row| row.output = row.output.div_ceil(2),
    |row| row.output = rounded(row.output),
    // A prompt of another length has another content.
    |row| row.input = if row.blocks.is_empty() { row.input.div_ceil(2) } else { row.input },
    |row| row.input = if row.blocks.is_empty() { rounded(row.input) } else { row.input },
];

/// What makes all of them simpler.
const ALL: [AllSimpler<TraceRow>; 6] = [
    |rows| rows.iter_mut().for_each(|row| row.blocks.clear()),
    |rows| rows.iter_mut().for_each(|row| row.at = SimTime::ZERO),
    begin_at_zero,
    |rows| round_down(rows, 1_000_000_000),
    |rows| round_down(rows, 10_000_000),
    |rows| round_down(rows, 1_000_000),
];

fn begin_at_zero(rows: &mut [TraceRow]) {
    let first = rows.first().map_or(SimTime::ZERO, |row| row.at);
    for row in rows {
        row.at = SimTime::ZERO + row.at.since(first);
    }
}

/// To whole multiples of `unit` nanoseconds; the order stays.
fn round_down(rows: &mut [TraceRow], unit: u64) {
    for row in rows {
        row.at = SimTime::ZERO + SimDuration::from_nanos(row.at.as_nanos() / unit * unit);
    }
}

/// Down to one digit and zeros.
fn rounded(tokens: u32) -> u32 {
    let unit = 10u32.pow(tokens.max(1).ilog10());
    (tokens / unit * unit).max(1)
}

/// The rows as the trace of them is replayed.
fn replay(rows: &[TraceRow]) -> Box<dyn Workload> {
    let source = Rows { rows: rows.into(), next: 0 };
    let rules = ReplayRules {
        start: SimTime::ZERO,
        end: SimTime::MAX,
        time_scale: 1.0,
        rate_scale: 1.0,
        repeat_after: None,
        block_tokens: BLOCK_TOKENS,
    };
    Box::new(Replay::new(source, rules, None, None))
}

struct Rows {
    rows: Arc<[TraceRow]>,
    next: usize,
}

impl TraceSource for Rows {
    fn next_row(&mut self) -> Option<TraceRow> {
        let row = self.rows.get(self.next)?;
        self.next += 1;
        Some(row.clone())
    }

    fn rewind(&mut self) {
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::TokenRun;

    #[test]
    fn equal_blocks_of_prompts_get_equal_ids_and_a_rest_gets_none() {
        let run = |first, len| TokenRun { first, len };
        let spec = |runs: Vec<TokenRun>| RequestSpec {
            content: Some(Arc::new(PromptContent { runs, output_base: 1 << 40 })),
            ..RequestSpec::fixed(40, 5)
        };
        let mut ids = BTreeMap::new();
        let mut of = |runs| row(SimTime::ZERO, &spec(runs), &mut ids).blocks;
        assert_eq!(of(vec![run(100, 32), run(900, 8)]), [0, 1]);
        // The first block is the same, the second begins alike.
        assert_eq!(of(vec![run(100, 24), run(500, 16)]), [0, 2]);
    }

    #[test]
    fn a_row_is_read_back_as_it_was_written() {
        let row = TraceRow {
            at: SimTime::ZERO + SimDuration::from_nanos(1_234_567_891),
            input: 40,
            output: 7,
            priority: -2,
            blocks: vec![3, 4],
            ..TraceRow::default()
        };
        let line = row_as_json(&row).to_string();
        let mut reader = crate::trace::Reader::new(line.as_bytes(), None).expect("a trace");
        assert_eq!(reader.next_row().expect("a row"), Some(row));
    }

    #[test]
    fn lengths_are_rounded_to_one_digit() {
        assert_eq!([1, 9, 10, 374, 1999].map(rounded), [1, 9, 10, 300, 1000]);
    }
}
