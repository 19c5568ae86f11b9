//! Where each request of a picture goes, so that none lies over another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::run_records::RequestRow;

/// The lane of each request, beside others of its replica: the first that is free when it arrives.
/// `requests` are in order of arrival.
pub fn lanes(requests: &[RequestRow]) -> Vec<u32> {
    #[derive(Default)]
    struct Replica {
        taken: BinaryHeap<Reverse<(u64, u32)>>,
        free: BinaryHeap<Reverse<u32>>,
        lanes: u32,
    }
    let mut replicas: BTreeMap<Option<u16>, Replica> = BTreeMap::new();
    let lane = |row: &RequestRow| {
        let here = replicas.entry(row.replica).or_default();
        while let Some(&Reverse((ended, lane))) = here.taken.peek()
            && ended <= row.arrival_ns
        {
            here.taken.pop();
            here.free.push(Reverse(lane));
        }
        let Reverse(lane) = here.free.pop().unwrap_or_else(|| {
            here.lanes += 1;
            Reverse(here.lanes - 1)
        });
        // One that is turned away at once still takes up room at its instant.
        here.taken.push(Reverse((row.ended_ns.max(row.arrival_ns + 1), lane)));
        lane
    };
    requests.iter().map(lane).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run_records::tests::{request, requests};

    #[test]
    fn no_two_requests_share_a_lane_at_a_time_and_lanes_are_used_again() {
        let rows =
            [[0, 0, 1, 30], [5, 5, 6, 10], [7, 7, 8, 20], [10, 10, 11, 40], [30, 30, 31, 32]];
        let read = requests(&rows.map(|row| request(row[0], row)));
        assert_eq!(lanes(&read.drawn), [0, 1, 2, 1, 0]);
    }
}
