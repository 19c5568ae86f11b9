//! What clients send and when. A workload is pulled by the engine as simulated time passes, so that
//! memory does not grow with the number of requests.

mod arrival;
mod closed_loop;
mod length;
mod open_loop;
mod profile;
mod tape;
mod tenant;
mod trace;

use crate::engine::observer::RequestRecord;
use crate::request::RequestSpec;
use crate::time::SimTime;

pub use arrival::{ArrivalProcess, Arrivals, RampStrategy};
pub use closed_loop::ClosedLoop;
pub use length::{LengthDistribution, LengthOrder, LengthPair, LengthSource, Lengths};
pub use open_loop::OpenLoop;
pub use profile::{LengthProfile, Profile, Profiler};
pub use tape::{Retold, Taken, Taped};
pub use tenant::{Mix, Sessions, SharedPrefix, Tenant, Turns};
pub use trace::{Replay, ReplayRules, TraceRow, TraceSource};

/// A source of requests. Arrival times never decrease.
pub trait Workload {
    /// When the next request arrives, as far as is known without a further reply; `None` if nothing
    /// more comes before one.
    fn next_arrival(&mut self) -> Option<SimTime>;

    /// Takes the request that `next_arrival` announced.
    fn take(&mut self) -> RequestSpec;

    /// A request of this workload has ended (answered, failed or refused) at `record.ended`.
    fn on_reply(&mut self, record: &RequestRecord);
}

impl<W: Workload + ?Sized> Workload for Box<W> {
    fn next_arrival(&mut self) -> Option<SimTime> {
        (**self).next_arrival()
    }
    fn take(&mut self) -> RequestSpec {
        (**self).take()
    }
    fn on_reply(&mut self, record: &RequestRecord) {
        (**self).on_reply(record);
    }
}
