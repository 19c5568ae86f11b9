//! The rules of a fleet, complete.

use serde::Serialize;

use super::autoscaling::Autoscaling;
use crate::named::named_enum;
use crate::time::SimDuration;

named_enum! {
    /// What becomes of the requests of a replica that fails.
    #[derive(Default)]
    pub enum LostRequests as "lost-requests" {
        /// The client gets an error, and may try again.
        #[default]
        Fail = "fail",
        /// The router sends them to another replica at once, from their beginning.
        Retry = "retry",
    }
}

/// What surrounds the replicas of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetRules {
    /// Machines that are there at the start; further replicas are those of machines to come.
    pub machines: u16,
    pub replicas_per_machine: u16,
    pub admission: Admission,
    /// Of each tenant.
    pub patience: Vec<Option<Patience>>,
    /// Of those who have none of their own.
    pub patience_of_all: Option<Patience>,
    pub lost_requests: LostRequests,
    pub outages: Vec<Outage>,
    pub failures: Option<RandomFailures>,
    pub autoscaling: Option<Autoscaling>,
    /// Of failures and of the jitter of retries.
    pub seed: u64,
}

impl FleetRules {
    pub fn patience(&self, tenant: u16) -> Option<&Patience> {
        let own = self.patience.get(usize::from(tenant));
        own.unwrap_or(&self.patience_of_all).as_ref()
    }
}

/// When the router turns a request away (status 429): counts over all replicas that take requests,
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

/// A replica fails at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outage {
    pub replica: u16,
    /// From the start of the run.
    pub at: SimDuration,
    /// Until it takes requests again.
    pub duration: SimDuration,
}

/// Every replica fails now and then, each by itself: times between are exponentially distributed.
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
