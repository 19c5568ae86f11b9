//! Requests written down as they are taken, and sent again as they were written down.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::engine::observer::RequestRecord;
use crate::request::RequestSpec;
use crate::time::{SimDuration, SimTime};

use super::Workload;

/// Requests with the instants at which they arrive, in order of time.
pub type Taken = Vec<(SimTime, RequestSpec)>;

/// A workload whose requests are written down as they are taken.
pub struct Taped {
    workload: Box<dyn Workload>,
    taken: Rc<RefCell<Taken>>,
    /// Ends after so many.
    most: usize,
    last_reply: Option<SimTime>,
}

impl Taped {
    /// Ends after `most` requests; the second is where they are written down.
    pub fn new(workload: Box<dyn Workload>, most: usize) -> (Self, Rc<RefCell<Taken>>) {
        let taken = Rc::<RefCell<Taken>>::default();
        (Self { workload, taken: Rc::clone(&taken), most, last_reply: None }, taken)
    }
}

impl Workload for Taped {
    fn next_arrival(&mut self) -> Option<SimTime> {
        if self.taken.borrow().len() >= self.most {
            return None;
        }
        let next = self.workload.next_arrival()?;
        // A request that comes at the instant of a reply comes behind the boundary there, which an
        // instant alone cannot say.
        let behind = self.last_reply.is_some_and(|reply| next <= reply);
        Some(if behind { next + SimDuration::from_nanos(1) } else { next })
    }

    fn take(&mut self) -> RequestSpec {
        let at = self.next_arrival().expect("a request was announced");
        let spec = self.workload.take();
        self.taken.borrow_mut().push((at, spec.clone()));
        spec
    }

    fn on_reply(&mut self, record: &RequestRecord) {
        self.last_reply = Some(record.ended);
        self.workload.on_reply(record);
    }
}

/// Requests that come as they were written down, whatever is answered.
#[derive(Clone, Debug)]
pub struct Retold {
    requests: Arc<[(SimTime, RequestSpec)]>,
    next: usize,
}

impl Retold {
    pub fn new(requests: impl Into<Arc<[(SimTime, RequestSpec)]>>) -> Self {
        Self { requests: requests.into(), next: 0 }
    }
}

impl Workload for Retold {
    fn next_arrival(&mut self) -> Option<SimTime> {
        self.requests.get(self.next).map(|&(at, _)| at)
    }

    fn take(&mut self) -> RequestSpec {
        let (_, spec) = &self.requests[self.next];
        self.next += 1;
        spec.clone()
    }

    fn on_reply(&mut self, _: &RequestRecord) {}
}
