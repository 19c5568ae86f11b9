//! Which replica a request goes to.

use crate::request::Request;

/// What a router sees of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaLoad {
    /// Requests sent to it and not yet answered.
    pub outstanding: u32,
}

/// Chooses a replica for each request, once, at its arrival.
pub trait Router {
    /// An index into `loads`, which is never empty.
    fn route(&mut self, request: &Request, loads: &[ReplicaLoad]) -> usize;
}

/// Each replica in turn.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl Router for RoundRobin {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        let chosen = self.next % loads.len();
        self.next = chosen + 1;
        chosen
    }
}

/// The replica with the fewest unanswered requests; among equals the first.
#[derive(Debug, Default)]
pub struct LeastOutstanding;

impl Router for LeastOutstanding {
    fn route(&mut self, _: &Request, loads: &[ReplicaLoad]) -> usize {
        let fewest = (0..loads.len()).min_by_key(|&i| loads[i].outstanding);
        fewest.expect("a deployment has at least one replica")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestSpec;
    use crate::time::SimTime;

    #[test]
    fn round_robin_takes_turns_and_least_outstanding_prefers_the_idle() {
        let request = Request::new(0, RequestSpec::fixed(1, 1), SimTime::ZERO);
        let loads = [2, 0, 0].map(|outstanding| ReplicaLoad { outstanding });
        let mut turns = RoundRobin::default();
        let order: Vec<usize> = (0..4).map(|_| turns.route(&request, &loads)).collect();
        assert_eq!(order, [0, 1, 2, 0]);
        assert_eq!(LeastOutstanding.route(&request, &loads), 1);
    }
}
