//! The script of clients that go away, joined with the requests that have arrived.

use std::collections::BTreeMap;

use crate::request::RequestId;
use crate::scheduler::Ended;
use crate::time::SimTime;

use super::replica::Replica;

/// Aborts still to be applied. An engine notices them only at its own boundaries.
#[derive(Debug, Default)]
pub(super) struct AbortScript {
    /// (time, uid), in order of time.
    pending: Vec<(SimTime, u64)>,
    /// The replica and its number there, by `uid`.
    live: BTreeMap<u64, (u16, RequestId)>,
    arrived: u64,
}

impl AbortScript {
    pub(super) fn new(script: &[(SimTime, u64)]) -> Self {
        debug_assert!(script.is_sorted_by_key(|&(time, _)| time), "the script is in order of time");
        Self { pending: script.to_vec(), ..Self::default() }
    }

    pub(super) fn arrived(&mut self, uid: u64, replica: u16, id: RequestId) {
        if !self.pending.is_empty() {
            self.live.insert(uid, (replica, id));
            self.arrived = uid + 1;
        }
    }

    pub(super) fn ended(&mut self, uid: u64) {
        if !self.live.is_empty() {
            self.live.remove(&uid);
        }
    }

    /// The next abort that has not been applied.
    pub(super) fn next_time(&self) -> Option<SimTime> {
        self.pending.first().map(|&(time, _)| time)
    }

    /// Tells the scheduler of `replica` about its clients that have gone by `now`. A request that
    /// is still in the inbox is aborted after it has been enqueued; one that has ended is left.
    #[inline]
    pub(super) fn apply(&mut self, now: SimTime, replica: &mut Replica, ended: &mut Vec<Ended>) {
        if self.pending.first().is_some_and(|&(time, _)| time <= now) {
            self.apply_due(now, replica, ended);
        }
    }

    fn apply_due(&mut self, now: SimTime, replica: &mut Replica, ended: &mut Vec<Ended>) {
        self.pending.retain(|&(time, uid)| {
            if time > now {
                return true;
            }
            match self.live.get(&uid) {
                None => uid >= self.arrived,
                Some(&(other, _)) if other != replica.id => true,
                Some((_, id)) if replica.inbox.contains(id) => true,
                // Two clients may wait for one answer, but it ends once.
                Some(&(_, id)) if ended.iter().any(|e| e.id == id) => false,
                Some(&(_, id)) => {
                    replica.scheduler.abort(now, id, ended);
                    false
                }
            }
        });
    }
}
