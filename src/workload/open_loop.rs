//! Requests that arrive whatever becomes of the earlier ones.

use crate::engine::observer::RequestRecord;
use crate::request::RequestSpec;
use crate::time::SimTime;

use super::{Arrivals, LengthPair, Lengths, Workload};

/// An open loop: arrivals of a process, each with the next lengths.
#[derive(Debug)]
pub struct OpenLoop {
    arrivals: Arrivals,
    lengths: Lengths,
}

impl OpenLoop {
    pub const fn new(arrivals: Arrivals, lengths: Lengths) -> Self {
        Self { arrivals, lengths }
    }
}

impl Workload for OpenLoop {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.arrivals.peek()
    }

    fn take(&mut self) -> RequestSpec {
        self.arrivals.advance();
        let LengthPair { input, output } = self.lengths.next(0);
        RequestSpec::fixed(input, output)
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}
