//! The first reading of a trace: every row is checked and counted, none is kept.

use std::io::BufRead;

use super::{Fault, ReadError, Reader, TimeUnit};
use crate::time::{SimDuration, SimTime};

/// The part of a trace that is wanted, on the trace's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub start: SimTime,
    pub end: SimTime,
}

/// What is in a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Rows with a prompt and an answer.
    pub rows: u64,
    /// Rows without, which are left out.
    pub skipped: u64,
    /// Time of the last row; none without rows.
    pub first: Option<SimTime>,
    pub last: Option<SimTime>,
    /// The same of the rows in the window.
    pub window_rows: u64,
    pub window_first: Option<SimTime>,
    pub window_last: Option<SimTime>,
    /// The longest time without a request in the window.
    pub hole: Option<Hole>,
    pub tenants: Vec<String>,
    /// Whether any prompts are known to share something.
    pub shares: bool,
}

/// A time without requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    pub from: SimTime,
    pub length: SimDuration,
}

/// Beyond this many, further faults are noise: a wrong file is wrong everywhere.
const MAX_FAULTS: usize = 10;

/// Reads all rows, or all that is wrong with them. One id of a prompt's blocks stands for
/// `block_tokens`.
pub fn scan(
    input: impl BufRead,
    unit: Option<TimeUnit>,
    window: Window,
    block_tokens: u32,
) -> Result<Scan, Result<Vec<Fault>, std::io::Error>> {
    let mut faults = Vec::new();
    let mut scan = Scan::default();
    let mut reader = match Reader::new(input, unit) {
        Ok(reader) => reader,
        Err(ReadError::Io(error)) => return Err(Err(error)),
        Err(ReadError::Fault(fault)) => return Err(Ok(vec![*fault])),
    };
    loop {
        let row = match reader.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(ReadError::Io(error)) => return Err(Err(error)),
            Err(ReadError::Fault(fault)) => {
                let ends = fault.ends;
                faults.push(*fault);
                if ends || faults.len() >= MAX_FAULTS {
                    break;
                }
                continue;
            }
        };
        if let Some(fault) = reader.blocks_fault(&row, block_tokens) {
            faults.push(fault);
            if faults.len() >= MAX_FAULTS {
                break;
            }
            continue;
        }
        scan.rows += 1;
        scan.first.get_or_insert(row.at);
        scan.last = Some(row.at);
        if row.at < window.start || row.at >= window.end {
            continue;
        }
        let before = scan.window_last.unwrap_or(window.start);
        let length = row.at.since(before);
        if scan.hole.is_none_or(|hole| length > hole.length) {
            scan.hole = Some(Hole { from: before, length });
        }
        scan.window_rows += 1;
        scan.window_first.get_or_insert(row.at);
        scan.window_last = Some(row.at);
        scan.shares |= row.session.is_some() || row.prefix.is_some() || !row.blocks.is_empty();
    }
    scan.skipped = reader.skipped;
    scan.tenants = reader.tenants().to_vec();
    if faults.is_empty() { Ok(scan) } else { Err(Ok(faults)) }
}
