//! Readers of recorded traces: Azure, BurstGPT, Mooncake and our own, told by header or first line.
//!
//! A trace is read twice, row by row: once before a run to check every row and count them, and once
//! while it is replayed. Memory does not grow with its length.

mod csv;
mod file;
mod json;
mod scan;

use std::io::{self, BufRead};
use std::ops::Range;

use crate::named::named_enum;
use crate::time::SimTime;
use crate::workload::TraceRow;

pub use file::{FileRows, TraceFile};
pub use scan::{Hole, Scan, Window, scan};

named_enum! {
    /// The unit of times that are written as numbers.
    pub enum TimeUnit as "time unit" {
        Seconds = "s",
        Milliseconds = "ms",
        Microseconds = "us",
        Nanoseconds = "ns",
    }
}

impl TimeUnit {
    const fn nanos(self) -> f64 {
        match self {
            Self::Seconds => 1e9,
            Self::Milliseconds => 1e6,
            Self::Microseconds => 1e3,
            Self::Nanoseconds => 1.0,
        }
    }
}

/// What is wrong with a trace, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub title: String,
    /// The line with its number from 1; none where the file as a whole is wrong.
    pub line: Option<(u64, String)>,
    /// Bytes of that line, and what is there.
    pub range: Range<usize>,
    pub label: String,
    pub help: String,
    /// Whether what follows cannot be told to be rows.
    pub ends: bool,
}

impl Fault {
    fn whole(title: impl Into<String>, label: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            line: None,
            range: 0..0,
            label: label.into(),
            help: help.into(),
            ends: true,
        }
    }
}

/// What is wrong with one row, before its line is known.
#[derive(Debug)]
struct RowFault {
    title: String,
    range: Range<usize>,
    label: String,
    help: String,
}

impl RowFault {
    fn new(
        title: impl Into<String>,
        range: Range<usize>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { title: title.into(), range, label: label.into(), help: help.into() }
    }
}

/// Why a row could not be read.
#[derive(Debug)]
pub enum ReadError {
    Fault(Box<Fault>),
    Io(io::Error),
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

/// A row as it is written.
#[derive(Debug, Default)]
struct RawRow {
    time: RawTime,
    time_range: Range<usize>,
    input: u64,
    output: u64,
    session: Option<u64>,
    prefix: Option<u64>,
    prefix_tokens: u32,
    blocks: Vec<u64>,
    priority: i32,
    tenant: Option<String>,
}

/// A time as it is written, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum RawTime {
    /// From the start of the trace.
    #[default]
    Zero,
    Since(f64),
    /// On some clock of which only differences count.
    OnClock(i128),
}

#[derive(Debug)]
enum Format {
    Csv(csv::Columns),
    Json(Option<TimeUnit>),
}

/// Reads rows one by one.
pub struct Reader<R> {
    input: R,
    format: Format,
    line: String,
    number: u64,
    /// The first row's time, where times are on some clock.
    origin: Option<i128>,
    last: SimTime,
    tenants: Vec<String>,
    /// Rows without prompt or answer, such as failed requests.
    skipped: u64,
    /// A line that was read to tell the format and is a row itself.
    again: bool,
}

/// Longer lines are no rows.
const MAX_LINE: u64 = 8 << 20;
/// Beyond this a row is a mistake: the limit of a model's positions.
const MAX_TOKENS: u64 = 1 << 30;

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    pub fn new(input: R, unit: Option<TimeUnit>) -> Result<Self, ReadError> {
        let mut this = Self {
            input,
            format: Format::Json(unit),
            line: String::new(),
            number: 0,
            origin: None,
            last: SimTime::ZERO,
            tenants: Vec::new(),
            skipped: 0,
            again: false,
        };
        if !this.next_line()? {
            return Err(Fault::whole(
                "the trace is empty",
                "not one line that is not blank",
                "it needs a header line arrival_s,input_tokens,output_tokens and rows, or one JSON \
                 object a line",
            )
            .into());
        }
        if this.line.starts_with('{') {
            if let Some(fault) = json::not_a_trace(&this.line) {
                return Err(this.place(fault).into());
            }
            this.again = true;
        } else if this.line.starts_with('[') {
            let fault = json::a_list();
            return Err(this.place(fault).into());
        } else {
            let columns = csv::Columns::find(&this.line, unit);
            this.format = Format::Csv(columns.map_err(|fault| this.place(fault))?);
        }
        Ok(this)
    }

    /// Names of the tenants seen so far, by number.
    pub fn tenants(&self) -> &[String] {
        &self.tenants
    }

    /// The next row that has a prompt and an answer; `None` at the end.
    pub fn next_row(&mut self) -> Result<Option<TraceRow>, ReadError> {
        loop {
            if !std::mem::take(&mut self.again) && !self.next_line()? {
                return Ok(None);
            }
            let row = match &self.format {
                Format::Csv(columns) => columns.row(&self.line),
                Format::Json(unit) => json::row(&self.line, *unit),
            };
            let row = row.map_err(|fault| self.place(fault))?;
            let at = self.time(&row).map_err(|fault| self.place(fault))?;
            self.last = at;
            if row.input == 0 || row.output == 0 {
                self.skipped += 1;
                continue;
            }
            if let Some(tokens) = [row.input, row.output].into_iter().find(|n| *n > MAX_TOKENS) {
                return Err(self
                    .place(RowFault::new(
                        "a request is longer than any model takes",
                        0..self.line.len(),
                        format!("{tokens} tokens"),
                        format!("write a whole number up to {MAX_TOKENS}"),
                    ))
                    .into());
            }
            let tenant = match row.tenant {
                None => 0,
                Some(name) => self.tenant(name).map_err(|fault| self.place(fault))?,
            };
            return Ok(Some(TraceRow {
                at,
                input: row.input as u32,
                output: row.output as u32,
                session: row.session,
                prefix: row.prefix,
                prefix_tokens: row.prefix_tokens,
                blocks: row.blocks,
                priority: row.priority,
                tenant,
            }));
        }
    }

    /// What is wrong with the ids of the last row's blocks: there is one for each block, and the last
    /// block, which may be cut off, has one or none.
    fn blocks_fault(&self, row: &TraceRow, block_tokens: u32) -> Option<Fault> {
        let fits = |tokens: u32| {
            let (whole, any) = (row.input / tokens, row.input.div_ceil(tokens));
            (whole as usize..=any as usize).contains(&row.blocks.len())
        };
        if row.blocks.is_empty() || fits(block_tokens) {
            return None;
        }
        let blocks = match row.input.div_ceil(block_tokens) {
            1 => format!("one block of {block_tokens}"),
            more => format!("{more} blocks of {block_tokens}"),
        };
        let label = format!("{} ids, and {} tokens are {blocks}", row.blocks.len(), row.input);
        let usual = [16, 32, 64, 128, 256, 512, 1024].into_iter().find(|&tokens| fits(tokens));
        let help = match usual {
            Some(tokens) => format!(
                "does one id stand for {tokens} tokens? Say so: workload.trace.hash-block-size = {tokens}"
            ),
            None => {
                "give one id for each block of the prompt; workload.trace.hash-block-size says of \
                     how many tokens (default 512)"
                    .to_owned()
            }
        };
        let title = "`hash_ids` does not match the prompt's length";
        Some(self.place(RowFault::new(title, json::find(&self.line, "hash_ids"), label, help)))
    }

    fn time(&mut self, row: &RawRow) -> Result<SimTime, RowFault> {
        let refuse = |title: &str, label: String, help: &str| {
            Err(RowFault::new(title, row.time_range.clone(), label, help))
        };
        let ns = match row.time {
            RawTime::Zero => 0,
            RawTime::Since(ns) if !ns.is_finite() || ns > 9e18 => {
                return refuse(
                    "a time is out of range",
                    "not within 285 years".into(),
                    "are the times in another unit? (workload.trace.time-unit)",
                );
            }
            RawTime::Since(ns) if ns < 0.0 => {
                return refuse(
                    "a time is negative",
                    "before the start of the trace".into(),
                    "shift all times so that the first is zero",
                );
            }
            RawTime::Since(ns) => ns.round() as i128,
            RawTime::OnClock(ns) => ns - *self.origin.get_or_insert(ns),
        };
        let earlier = i128::from(self.last.as_nanos()) - ns;
        if earlier > 0 {
            return refuse(
                "the times of the trace are not in order",
                format!("{} s earlier than the line before", earlier as f64 / 1e9),
                "sort the file by time; it is read line by line, and cannot be sorted on the way",
            );
        }
        u64::try_from(ns).map(SimTime::from_nanos).or_else(|_| {
            refuse(
                "a time is out of range",
                "too long after the first".into(),
                "is the year right?",
            )
        })
    }

    fn tenant(&mut self, name: String) -> Result<u16, RowFault> {
        const MAX: usize = 1000;
        if let Some(known) = self.tenants.iter().position(|tenant| *tenant == name) {
            return Ok(known as u16);
        }
        if self.tenants.len() >= MAX {
            return Err(RowFault::new(
                format!("there are more than {MAX} tenants"),
                0..self.line.len(),
                "one more",
                "put those that ask alike into one, or leave the column out",
            ));
        }
        self.tenants.push(name);
        Ok((self.tenants.len() - 1) as u16)
    }

    fn place(&self, fault: RowFault) -> Fault {
        Fault {
            title: fault.title,
            line: Some((self.number, self.line.clone())),
            range: fault.range,
            label: fault.label,
            help: fault.help,
            ends: false,
        }
    }

    /// The next line that is neither blank nor a comment, without its end.
    fn next_line(&mut self) -> Result<bool, ReadError> {
        let mut bytes = std::mem::take(&mut self.line).into_bytes();
        loop {
            bytes.clear();
            self.number += 1;
            let mut limited = io::Read::take(&mut self.input, MAX_LINE);
            let read = limited.read_until(b'\n', &mut bytes).map_err(ReadError::Io)?;
            if read == 0 {
                return Ok(false);
            }
            let fault = |title: &str, label: String, help: &str| {
                let line = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
                let range = 0..line.len();
                let (title, help) = (title.into(), help.into());
                // The rest of a line that is too long would be read as the next.
                let ends = read as u64 == MAX_LINE;
                Fault { title, line: Some((self.number, line)), range, label, help, ends }
            };
            if read as u64 == MAX_LINE {
                let label = format!("longer than {} MiB", MAX_LINE >> 20);
                return Err(fault("a line is too long for a row", label, "is this a trace?").into());
            }
            let text = match std::str::from_utf8(&bytes) {
                Ok(text) => text,
                Err(error) => {
                    let label = format!("no UTF-8 at byte {} of the line", error.valid_up_to());
                    let help = "give a text file saved as UTF-8";
                    return Err(fault("the trace is not text", label, help).into());
                }
            };
            let text = text.trim_start_matches('\u{feff}').trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            // Columns are those of the line as it stands, a mark at its start aside.
            let text = text.to_owned();
            self.line = text;
            return Ok(true);
        }
    }
}

/// A number for a name, the same on every platform (FNV-1a, 64 bits).
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
