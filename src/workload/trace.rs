//! Requests as a recorded trace has them: when they came, how long they were, what they shared.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::observer::RequestRecord;
use crate::request::{PromptContent, RequestSpec, TokenRun};
use crate::time::{SimDuration, SimTime};

use super::Workload;

/// One request of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceRow {
    /// On the trace's own clock.
    pub at: SimTime,
    /// Above zero, as is `output`.
    pub input: u32,
    pub output: u32,
    /// Requests of one session have prompts that begin alike: each goes on where the last one and its
    /// answer ended.
    pub session: Option<u64>,
    /// The prompt's first `prefix_tokens` tokens are the same in all requests with this id.
    pub prefix: Option<u64>,
    pub prefix_tokens: u32,
    /// Ids of the prompt's blocks of tokens; equal ids are equal blocks after equal blocks.
    pub blocks: Vec<u64>,
    pub priority: i32,
    pub tenant: u16,
}

/// The rows of a trace in order of time, again and again.
pub trait TraceSource {
    /// `None` at the end.
    fn next_row(&mut self) -> Option<TraceRow>;

    /// Back to the first row.
    fn rewind(&mut self);
}

/// What of a trace is sent, and how fast. Times on the trace's own clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplayRules {
    pub start: SimTime,
    /// Rows from here on are left out.
    pub end: SimTime,
    /// Times from `start` on are multiplied by this; above zero.
    pub time_scale: f64,
    /// Requests for each row, on average; above zero. Of n rows exactly floor(n x rate_scale) requests
    /// come: below one some rows are left out, above one some are sent several times, evenly spread
    /// over the time to the next row.
    pub rate_scale: f64,
    /// After this the trace begins anew.
    pub repeat_after: Option<SimDuration>,
    /// Tokens that one id in `blocks` stands for.
    pub block_tokens: u32,
}

/// A trace that is sent.
pub struct Replay<S> {
    source: S,
    rules: ReplayRules,
    left: u64,
    until: SimTime,
    /// Rows seen in the window, all passes together.
    rows: u64,
    pass: u64,
    /// Requests of this pass.
    sent_in_pass: u64,
    /// The next row of this pass, read ahead.
    ahead: Option<TraceRow>,
    /// What the last row made: (time, copy, row).
    ready: VecDeque<(SimTime, u64, TraceRow)>,
    taken: u64,
}

impl<S: TraceSource> Replay<S> {
    /// Ends with the trace, after `requests` or at `duration`, whichever comes first.
    pub fn new(
        source: S,
        rules: ReplayRules,
        requests: Option<u64>,
        duration: Option<SimDuration>,
    ) -> Self {
        let mut this = Self {
            source,
            rules,
            left: requests.unwrap_or(u64::MAX),
            until: duration.map_or(SimTime::MAX, |d| SimTime::ZERO + d),
            rows: 0,
            pass: 0,
            sent_in_pass: 0,
            ahead: None,
            ready: VecDeque::new(),
            taken: 0,
        };
        this.ahead = this.read();
        this.fill();
        this
    }

    /// The next row of the window.
    fn read(&mut self) -> Option<TraceRow> {
        loop {
            let row = self.source.next_row()?;
            if row.at >= self.rules.end {
                return None;
            }
            if row.at >= self.rules.start {
                return Some(row);
            }
        }
    }

    /// When a row of this pass arrives.
    fn arrival(&self, at: SimTime) -> SimTime {
        let passed = match self.rules.repeat_after {
            Some(period) => u128::from(self.pass) * u128::from(period.as_nanos()),
            None => 0,
        };
        let ns = passed + u128::from(at.since(self.rules.start).as_nanos());
        let ns = if self.rules.time_scale == 1.0 {
            u64::try_from(ns).unwrap_or(u64::MAX)
        } else {
            // The cast saturates.
            (ns as f64 * self.rules.time_scale).round() as u64
        };
        SimTime::from_nanos(ns)
    }

    /// Makes requests of rows until one is ready, or nothing more comes.
    fn fill(&mut self) {
        while self.ready.is_empty() {
            let Some(row) = self.ahead.take() else {
                // A pass that sends nothing would be followed by others like it.
                if self.rules.repeat_after.is_none() || self.sent_in_pass == 0 {
                    return;
                }
                self.source.rewind();
                self.pass += 1;
                self.sent_in_pass = 0;
                self.ahead = self.read();
                continue;
            };
            let requests = |rows: u64| (rows as f64 * self.rules.rate_scale) as u64;
            let copies = requests(self.rows + 1) - requests(self.rows);
            self.rows += 1;
            let at = self.arrival(row.at);
            self.ahead = self.read();
            let gap = self
                .ahead
                .as_ref()
                .map_or(SimDuration::ZERO, |next| self.arrival(next.at).since(at));
            for copy in 0..copies {
                let shift = u128::from(gap.as_nanos()) * u128::from(copy) / u128::from(copies);
                let at = at + SimDuration::from_nanos(shift as u64);
                self.ready.push_back((at, copy, row.clone()));
            }
            self.sent_in_pass += copies;
        }
    }

    /// The request of a row. Copies of a row and later passes are other people's requests: they share
    /// with each other what the rows share, and nothing with the original.
    fn request(&self, copy: u64, row: &TraceRow) -> RequestSpec {
        let world = mix(self.pass) ^ mix(copy.wrapping_add(1 << 32));
        let id = |space: u64, id: u64| mix(mix(id ^ mix(space)) ^ world);
        let mut left = row.input;
        let mut runs = Vec::new();
        let mut push = |first: u64, len: u32| {
            let len = len.min(left);
            left -= len;
            if len > 0 {
                runs.push(TokenRun { first, len });
            }
        };
        for block in &row.blocks {
            push(id(1, *block), self.rules.block_tokens);
        }
        if let Some(prefix) = row.prefix {
            push(id(2, prefix), row.prefix_tokens);
        }
        let shares = row.session.is_some() || row.prefix.is_some() || !row.blocks.is_empty();
        // What nobody shares, and the answer after it.
        let own = match row.session {
            Some(session) => id(3, session),
            None => mix(id(4, self.taken)),
        };
        push(own, u32::MAX);
        let in_own_run = runs.last().filter(|run| run.first == own).map_or(0, |run| run.len);
        let content = PromptContent { runs, output_base: own.wrapping_add(u64::from(in_own_run)) };
        RequestSpec {
            priority: row.priority,
            tenant: row.tenant,
            content: shares.then(|| Arc::new(content)),
            ..RequestSpec::fixed(row.input, row.output)
        }
    }
}

/// The finaliser of splitmix64: ids of all spaces spread over 64 bits, where two runs of tokens meet
/// with a probability that nobody need think of.
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl<S: TraceSource> Workload for Replay<S> {
    fn next_arrival(&mut self) -> Option<SimTime> {
        let (at, ..) = self.ready.front().filter(|_| self.left > 0)?;
        (*at < self.until).then_some(*at)
    }

    fn take(&mut self) -> RequestSpec {
        let (_, copy, row) = self.ready.pop_front().expect("a request was announced");
        self.left -= 1;
        let spec = self.request(copy, &row);
        self.taken += 1;
        self.fill();
        spec
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}

#[cfg(test)]
mod tests;
