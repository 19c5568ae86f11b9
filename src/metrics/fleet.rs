//! The replicas of a run, one by one.

use serde::{Deserialize, Serialize};

use super::summary::Count;
use crate::engine::observer::ReplicaReport;

/// What a replica did in the whole run, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaSummary {
    /// Requests that ended on it, and those of them that were answered.
    pub requests: Count,
    pub completed: Count,
    pub output_tokens: Count,
    /// Time in steps, as a share of the time in which it took requests.
    pub utilization: f64,
    pub busy_s: f64,
    pub up_s: f64,
}

impl ReplicaSummary {
    /// A row for each, where there is more than one.
    pub(super) fn of(replicas: &[ReplicaReport]) -> Vec<Self> {
        let several = replicas.len() > 1;
        replicas.iter().filter(|_| several).map(Self::row).collect()
    }

    fn row(replica: &ReplicaReport) -> Self {
        let (busy_s, up_s) = (replica.busy.as_secs_f64(), replica.up.as_secs_f64());
        Self {
            requests: Count::new(replica.requests),
            completed: Count::new(replica.completed),
            output_tokens: Count::new(replica.output_tokens),
            utilization: if up_s > 0.0 { busy_s / up_s } else { 0.0 },
            busy_s,
            up_s,
        }
    }
}
