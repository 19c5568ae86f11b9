//! The rules of a fleet, complete.

use serde::Serialize;

use super::autoscaling::Autoscaling;
use crate::named::named_enum;
use crate::time::SimDuration;

named_enum! {
    /// What becomes of the requests on a machine that fails.
    #[derive(Default)]
    pub enum LostRequests as "lost-requests" {
        /// The client gets an error, and may try again.
        #[default]
        Fail = "fail",
        /// The router sends them to another machine at once, from their beginning.
        Retry = "retry",
    }
}

/// What surrounds the replicas of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetRules {
    /// At least one. Machines and replicas are numbered pool by pool; of each pool first come the
    /// machines that are there at the start.
    pub pools: Vec<PoolRules>,
    /// By tenant, the pools that serve its model, in order; all where a tenant has no entry.
    pub serving: Vec<Vec<u16>>,
    pub admission: Admission,
    /// Of each tenant.
    pub patience: Vec<Option<Patience>>,
    /// Of those who have none of their own.
    pub patience_of_all: Option<Patience>,
    pub lost_requests: LostRequests,
    pub outages: Vec<Outage>,
    /// Of failures and of the jitter of retries.
    pub seed: u64,
}

impl FleetRules {
    pub fn patience(&self, tenant: u16) -> Option<&Patience> {
        let own = self.patience.get(usize::from(tenant));
        own.unwrap_or(&self.patience_of_all).as_ref()
    }

    /// Replicas of all machines that may be there.
    pub fn replicas(&self) -> u16 {
        self.pools.iter().map(PoolRules::replicas).sum()
    }
}

/// Machines of one kind, which serve one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolRules {
    /// There at the start.
    pub machines: u16,
    /// At once, ever.
    pub most_machines: u16,
    pub replicas_per_machine: u16,
    /// What a replica takes, relative to those of other pools; above zero.
    pub weight: f64,
    pub failures: Option<RandomFailures>,
    pub autoscaling: Option<Autoscaling>,
}

impl PoolRules {
    /// `machines` machines that stay, with one replica each.
    pub const fn of(machines: u16) -> Self {
        Self {
            machines,
            most_machines: machines,
            replicas_per_machine: 1,
            weight: 1.0,
            failures: None,
            autoscaling: None,
        }
    }

    /// Of all machines that may be there.
    pub const fn replicas(&self) -> u16 {
        self.most_machines * self.replicas_per_machine
    }
}

/// When the router turns a request away (status 429): counts over all replicas that could take it,
/// against so many for each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Admission {
    /// Requests sent to a replica and not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_outstanding: Option<u32>,
    /// Requests that wait in a replica's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_waiting: Option<u32>,
}

/// How long clients wait, and how often they try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Patience {
    /// Of one attempt.
    pub timeout: Option<SimDuration>,
    /// Attempts after the first.
    pub retries: u32,
    /// Before the first of them; it doubles with each.
    pub retry_delay: SimDuration,
}

impl Patience {
    /// The longest pause, unless the first is longer.
    const LONGEST: SimDuration = SimDuration::from_secs(8);

    /// Before attempt `made + 1` after the first; `unit` in [0, 1) scatters it. The rule of OpenAI's
    /// client libraries: twice as long each time, at most 8 s, up to a quarter of it left out.
    pub fn delay(&self, made: u32, unit: f64) -> SimDuration {
        let first = self.retry_delay.as_secs_f64();
        let longest = Self::LONGEST.as_secs_f64().max(first);
        let delay = (first * 2f64.powi(made.min(64) as i32)).min(longest);
        SimDuration::from_secs_f64(delay * (1.0 - 0.25 * unit))
    }
}

/// A machine fails at a given time, with all replicas on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outage {
    pub machine: u16,
    /// From the start of the run.
    pub at: SimDuration,
    /// Until it takes requests again.
    pub duration: SimDuration,
}

/// Every machine fails now and then, each by itself and with all replicas on it: times between are
/// exponentially distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RandomFailures {
    /// Mean time from coming up to failing.
    pub mtbf: SimDuration,
    /// Mean time from failing to coming up.
    pub mttr: SimDuration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_scatter_downwards() {
        let half = SimDuration::from_millis(500);
        let patience = Patience { timeout: None, retries: 9, retry_delay: half };
        let seconds = |made, unit| patience.delay(made, unit).as_secs_f64();
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 90].map(|n| seconds(n, 0.0)),
            [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
        );
        assert_eq!(seconds(1, 1.0), 0.75);
        let slow = Patience { retry_delay: SimDuration::from_secs(20), ..patience };
        assert_eq!(slow.delay(3, 0.0), SimDuration::from_secs(20));
    }
}
