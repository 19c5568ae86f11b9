//! What `servesim run --out` left in a folder, read back: the records from which a run is drawn.
//!
//! Latencies are of all rows. What is drawn one by one (requests, steps) is of one seed and of a
//! window of time in which there are few enough of them, so that a report of ten million requests
//! takes no more memory than one of a thousand.

use std::collections::BinaryHeap;
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cost::CostTerm;
use crate::metrics::Distribution;
use crate::request::FinishReason;
use crate::time::SimDuration;

/// Requests that are drawn one by one; more than a screen can show, and a page opens at once.
pub const MOST_REQUESTS: usize = 2_000;
/// The same of steps.
pub const MOST_STEPS: usize = 10_000;

/// Part of a run, in nanoseconds from its start: from the first instant up to before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: u64,
    pub until: u64,
}

impl Window {
    pub const ALL: Self = Self { from: 0, until: u64::MAX };

    const fn meets(&self, start: u64, end: u64) -> bool {
        start < self.until && end >= self.from
    }
}

/// A row of `requests.csv`; instants in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RequestRow {
    pub seed: u64,
    pub request: u64,
    pub client: u32,
    /// None where no replica took it.
    pub replica: Option<u16>,
    pub outcome: String,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    pub cached_tokens: u32,
    pub preemptions: u32,
    pub arrival_ns: u64,
    pub first_scheduled_ns: Option<u64>,
    pub first_token_ns: Option<u64>,
    pub ended_ns: u64,
    #[serde(default)]
    pub tenant: String,
    #[serde(default)]
    pub retries: u16,
}

impl RequestRow {
    fn is_answered(&self) -> bool {
        [FinishReason::Stop, FinishReason::Length]
            .iter()
            .any(|reason| reason.name() == self.outcome)
    }
}

/// In the order in which requests came, for the window: the latest is the first to be left out.
#[derive(Debug, PartialEq, Eq)]
struct ByArrival(RequestRow);

impl Ord for ByArrival {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.arrival_ns, self.0.request).cmp(&(other.0.arrival_ns, other.0.request))
    }
}

impl PartialOrd for ByArrival {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A row of `steps.csv`; instants and terms in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StepRow {
    pub seed: u64,
    pub replica: u16,
    pub step: u64,
    pub kind: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub prefill_seqs: u32,
    pub prefill_tokens: u64,
    pub decode_seqs: u32,
    pub decode_context: u64,
    pub running: u32,
    pub waiting: u32,
    pub kv_used: u64,
    pub kv_total: u64,
    pub admitted: u32,
    pub preempted: u32,
    pub ended: u32,
    pub linear_ns: u64,
    pub dequantise_ns: u64,
    pub lm_head_ns: u64,
    pub attention_ns: u64,
    pub elementwise_ns: u64,
    pub sampling_ns: u64,
    pub all_reduce_ns: u64,
    pub kv_copy_ns: u64,
    pub host_ns: u64,
    pub serial_ns: u64,
}

impl StepRow {
    /// Nanoseconds by term, in the order of [`CostTerm::ALL`].
    pub const fn terms(&self) -> [u64; CostTerm::COUNT] {
        [
            self.linear_ns,
            self.dequantise_ns,
            self.lm_head_ns,
            self.attention_ns,
            self.elementwise_ns,
            self.sampling_ns,
            self.all_reduce_ns,
            self.kv_copy_ns,
            self.host_ns,
            self.serial_ns,
        ]
    }
}

/// A row of `timeline.csv`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TimelineRow {
    pub seed: u64,
    pub start_s: f64,
    pub end_s: f64,
    pub batch_size: f64,
    pub waiting: f64,
    pub kv_usage: Option<f64>,
}

/// Latencies of all answered requests.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    pub ttft: Distribution,
    pub tpot: Distribution,
    pub e2el: Distribution,
    pub queue: Distribution,
}

impl Latencies {
    fn add(&mut self, row: &RequestRow) {
        let since = |start: u64, end: u64| SimDuration::from_nanos(end.saturating_sub(start));
        let e2el = since(row.arrival_ns, row.ended_ns);
        self.e2el.record(e2el, 1);
        if let Some(at) = row.first_scheduled_ns {
            self.queue.record(since(row.arrival_ns, at), 1);
        }
        let Some(first) = row.first_token_ns else { return };
        self.ttft.record(since(row.arrival_ns, first), 1);
        if row.output_tokens > 1 {
            let gaps = u64::from(row.output_tokens - 1);
            let decode = row.ended_ns.saturating_sub(first);
            self.tpot.record(SimDuration::from_nanos((decode + gaps / 2) / gaps), 1);
        }
    }
}

/// `requests.csv`.
#[derive(Clone, Debug)]
pub struct Requests {
    pub latencies: Latencies,
    /// Rows of all seeds.
    pub rows: u64,
    /// The seed of the first row, of which the window shows the requests.
    pub seed: u64,
    /// Requests of that seed which lie in the window that was asked for.
    pub in_window: u64,
    /// The first of them in order of arrival.
    pub drawn: Vec<RequestRow>,
}

/// `steps.csv`, of one seed and within a window.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    pub in_window: u64,
    pub drawn: Vec<StepRow>,
}

/// Why a file is not what a run writes.
#[derive(Debug)]
pub struct NotARun {
    /// Of the row, counted from 1, if it is one row.
    pub line: Option<u64>,
    pub cause: String,
}

impl fmt::Display for NotARun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl From<::csv::Error> for NotARun {
    fn from(error: ::csv::Error) -> Self {
        let line = error.position().map(::csv::Position::line);
        let cause = match error.kind() {
            ::csv::ErrorKind::Deserialize { err, .. } => match err.kind() {
                ::csv::DeserializeErrorKind::Message(text) => text.clone(),
                kind => kind.to_string(),
            },
            ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} fields where the header has {expected_len}")
            }
            _ => error.to_string(),
        };
        Self { line, cause }
    }
}

fn rows<T: DeserializeOwned>(file: impl Read) -> impl Iterator<Item = Result<T, NotARun>> {
    ::csv::Reader::from_reader(file).into_deserialize().map(|row| row.map_err(NotARun::from))
}

impl Requests {
    /// Reads `requests.csv`; of its first seed, keeps the first [`MOST_REQUESTS`] in `window`.
    pub fn read(file: impl Read, window: Window) -> Result<Self, NotARun> {
        let mut latencies = Latencies::default();
        let (mut count, mut in_window, mut seed) = (0, 0, None);
        let mut kept: BinaryHeap<ByArrival> = BinaryHeap::new();
        for row in rows::<RequestRow>(file) {
            let row = row?;
            count += 1;
            if row.is_answered() {
                latencies.add(&row);
            }
            if *seed.get_or_insert(row.seed) != row.seed
                || !window.meets(row.arrival_ns, row.ended_ns)
            {
                continue;
            }
            in_window += 1;
            kept.push(ByArrival(row));
            if kept.len() > MOST_REQUESTS {
                kept.pop();
            }
        }
        let drawn = kept.into_sorted_vec().into_iter().map(|ByArrival(row)| row).collect();
        Ok(Self { latencies, rows: count, seed: seed.unwrap_or(1), in_window, drawn })
    }

    /// The window in which all requests are drawn.
    pub fn window(&self, asked: Window) -> Window {
        let cut = self.in_window > self.drawn.len() as u64;
        let last = self.drawn.last().map(|row| row.arrival_ns);
        let until = last.filter(|_| cut).map_or(asked.until, |at| at.min(asked.until));
        Window { from: asked.from, until }
    }
}

impl Steps {
    /// Reads `steps.csv`; of `seed`, keeps the first [`MOST_STEPS`] in `window`.
    pub fn read(file: impl Read, seed: u64, window: Window) -> Result<Self, NotARun> {
        let mut this = Self::default();
        for row in rows::<StepRow>(file) {
            let row = row?;
            if row.seed != seed || !window.meets(row.start_ns, row.end_ns) {
                continue;
            }
            this.in_window += 1;
            if this.drawn.len() < MOST_STEPS {
                this.drawn.push(row);
            }
        }
        Ok(this)
    }
}

/// Reads `timeline.csv`, the points of one seed.
pub fn timeline(file: impl Read, seed: u64) -> Result<Vec<TimelineRow>, NotARun> {
    let of_seed =
        |row: &Result<TimelineRow, NotARun>| row.as_ref().map_or(true, |r| r.seed == seed);
    rows::<TimelineRow>(file).filter(of_seed).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::requests::REQUESTS_HEADER;
    use crate::report::steps::steps_header;

    /// A request of replica 0: arrival, first step, first token and end in milliseconds.
    pub fn request(uid: u64, [arrival, scheduled, first, ended]: [u64; 4]) -> String {
        let ns = |ms: u64| ms * 1_000_000;
        format!(
            "1,{uid},0,0,0,length,100,11,0,0,{},{},{},{},,,,,,,0\n",
            ns(arrival),
            ns(scheduled),
            ns(first),
            ns(ended)
        )
    }

    pub fn requests(rows: &[String]) -> Requests {
        let text = format!("{REQUESTS_HEADER}{}", rows.concat());
        Requests::read(text.as_bytes(), Window::ALL).unwrap()
    }

    /// A decode step of replica 0, in milliseconds.
    pub fn step(index: u64, start: u64, end: u64) -> String {
        let ns = |ms: u64| ms * 1_000_000;
        let (start, end) = (ns(start), ns(end));
        let rest = end - start - 5;
        format!(
            "1,0,{index},decode,{start},{end},0,0,3,300,3,1,40,100,0,0,0,3,5,0,0,0,0,0,0,0,0,{rest}\n"
        )
    }

    pub fn steps(rows: &[String]) -> Steps {
        let text = format!("{}{}", steps_header(), rows.concat());
        Steps::read(text.as_bytes(), 1, Window::ALL).unwrap()
    }

    #[test]
    fn latencies_are_those_of_the_rows() {
        let read = requests(&[request(0, [0, 10, 50, 150])]);
        let mean = |values: &Distribution| values.figures(&[]).unwrap().mean / 1e6;
        let Latencies { ttft, tpot, e2el, queue } = &read.latencies;
        assert_eq!([ttft, tpot, e2el, queue].map(mean), [50.0, 10.0, 150.0, 10.0]);
    }

    #[test]
    fn the_first_requests_by_arrival_are_drawn_and_the_window_says_up_to_where() {
        // In the file they stand in order of their ends.
        let n = MOST_REQUESTS as u64 + 10;
        let rows: Vec<String> = (0..n).rev().map(|i| request(i, [i, i, i + 1, 9_000])).collect();
        let read = requests(&rows);
        assert_eq!((read.in_window, read.drawn.len()), (n, MOST_REQUESTS));
        assert!(read.drawn.is_sorted_by_key(|row| row.arrival_ns));
        let last = (MOST_REQUESTS as u64 - 1) * 1_000_000;
        assert_eq!(read.window(Window::ALL), Window { from: 0, until: last });
        // Few enough: nothing is cut.
        let few = requests(&rows[..5]);
        assert_eq!(few.window(Window::ALL), Window::ALL);
    }

    #[test]
    fn a_window_keeps_what_it_meets_of_the_first_seed() {
        let mut rows: Vec<String> = (0..10).map(|i| step(i, 10 * i, 10 * i + 10)).collect();
        rows.push(step(10, 20, 30).replacen('1', "2", 1));
        let text = format!("{}{}", steps_header(), rows.concat());
        let window = Window { from: 25_000_000, until: 50_000_000 };
        let read = Steps::read(text.as_bytes(), 1, window).unwrap();
        let numbers: Vec<u64> = read.drawn.iter().map(|row| row.step).collect();
        assert_eq!(numbers, [2, 3, 4]);
        assert_eq!(read.drawn[0].terms().iter().sum::<u64>(), 10_000_000, "the terms of a step");
    }

    #[test]
    fn a_row_that_no_run_writes_is_named() {
        let text = format!("{REQUESTS_HEADER}{}1,2,3\n", request(0, [0, 1, 2, 3]));
        let error = Requests::read(text.as_bytes(), Window::ALL).unwrap_err();
        assert_eq!(
            (error.line, error.cause.as_str()),
            (Some(3), "3 fields where the header has 21")
        );
        let error = Requests::read("a,b\n1,2\n".as_bytes(), Window::ALL).unwrap_err();
        assert_eq!(error.cause, "missing field `seed`");
    }
}
