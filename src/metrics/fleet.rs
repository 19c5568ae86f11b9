//! The replicas of a run, one by one.

use std::iter::repeat;

use serde::{Deserialize, Serialize};

use super::pools::{self, PoolMeasure};
use super::summary::Count;
use crate::engine::observer::{FleetReport, ReplicaReport};
use crate::time::SimDuration;
use crate::units::UsdPerHour;

/// What one or more replicas did in the whole run, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Requests that ended here, and those of them that were answered.
    pub requests: Count,
    pub completed: Count,
    /// Generated here, for whatever request.
    pub output_tokens: Count,
    /// Time in steps, as a share of the time in which they were up.
    pub utilization: f64,
    pub busy_s: f64,
    pub up_s: f64,
    /// How often their machines have failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: Count,
}

impl Served {
    /// Failures are counted by machine, of which replicas may share one.
    pub(super) fn by(replicas: &[ReplicaReport], failures: u32) -> Self {
        let sum = |of: fn(&ReplicaReport) -> u64| Count::new(replicas.iter().map(of).sum());
        let seconds = |of: fn(&ReplicaReport) -> SimDuration| -> f64 {
            replicas.iter().map(|replica| of(replica).as_secs_f64()).sum()
        };
        let (busy_s, up_s) = (seconds(|replica| replica.busy), seconds(|replica| replica.up));
        Self {
            requests: sum(|replica| replica.requests),
            completed: sum(|replica| replica.completed),
            output_tokens: sum(|replica| replica.output_tokens),
            utilization: if up_s > 0.0 { busy_s / up_s } else { 0.0 },
            busy_s,
            up_s,
            failures: Count::new(failures.into()),
        }
    }
}

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaSummary {
    #[serde(flatten)]
    pub served: Served,
    /// The pool that it is of, where there are pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// Machines that come and go, and what that costs; of the whole run, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetSummary {
    /// Paid for, on average over the run, and the most at once.
    pub machines: f64,
    pub most_machines: Count,
    pub machine_hours: f64,
    /// What these cost; null without a price.
    pub usd: Option<f64>,
    /// Failures of machines.
    pub failures: Count,
    /// Attempts that were lost and followed by another.
    pub retries: Count,
}

impl FleetSummary {
    /// `price` is that of one machine, where all are of one kind.
    pub(super) fn of(
        report: &FleetReport,
        retries: u64,
        price: Option<UsdPerHour>,
        pools: &[PoolMeasure],
    ) -> Option<Self> {
        if report.pools.is_empty() {
            return None;
        }
        let paid: SimDuration = report.pools.iter().map(|pool| pool.machine_time).sum();
        let (paid_s, end_s) = (paid.as_secs_f64(), report.end.as_secs_f64());
        let machine_hours = paid_s / 3600.0;
        let usd = if pools.is_empty() {
            price.map(|price| price.get() * machine_hours)
        } else {
            let of_all = pools::usd_per_hour(report, pools);
            of_all.map(|price| price.get() * end_s / 3600.0)
        };
        Some(Self {
            machines: if end_s > 0.0 { paid_s / end_s } else { 0.0 },
            most_machines: Count::new(report.most_machines.into()),
            machine_hours,
            usd,
            failures: Count::new(report.failures.into()),
            retries: Count::new(retries),
        })
    }
}

impl ReplicaSummary {
    /// A row for each, where there is more than one.
    pub(super) fn of(report: &FleetReport, pools: &[PoolMeasure]) -> Vec<Self> {
        let several = report.replicas.len() > 1;
        let names = pools
            .iter()
            .zip(&report.pools)
            .flat_map(|(pool, done)| std::iter::repeat_n(Some(&pool.name), done.replicas.into()));
        let rows = report.replicas.iter().filter(|_| several).zip(names.chain(repeat(None)));
        let row = |(replica, pool): (&ReplicaReport, Option<&String>)| Self {
            served: Served::by(std::slice::from_ref(replica), replica.failures),
            pool: pool.cloned(),
        };
        rows.map(row).collect()
    }
}

fn is_zero(count: &Count) -> bool {
    count.get() == 0.0
}
