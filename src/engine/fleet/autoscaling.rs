//! How many machines there should be: the rule of the Kubernetes Horizontal Pod Autoscaler.
//!
//! "desiredReplicas = ceil[currentReplicas * (currentMetricValue / desiredMetricValue)]", nothing
//! within a tolerance of 10 %, and down only to the highest recommendation of the stabilisation
//! window, 5 minutes by default, evaluated every 15 s (kubernetes.io, "Horizontal Pod Autoscaling",
//! algorithm details).

use std::collections::VecDeque;

use serde::Serialize;

use crate::named::named_enum;
use crate::time::{SimDuration, SimTime};

/// No change where the ratio to the target is within this of 1.
const TOLERANCE: f64 = 0.1;

named_enum! {
    /// What is compared with the target, as a mean over the replicas that take requests.
    pub enum ScalingMetric as "metric" {
        /// Requests sent to a replica and not answered.
        Outstanding = "outstanding",
        /// Requests that wait in a replica's queue.
        Waiting = "waiting",
        /// Share of the KV cache in use.
        Kv = "kv",
    }
}

/// When machines come and go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Autoscaling {
    pub metric: ScalingMetric,
    /// Of the metric, per replica.
    pub target: f64,
    pub min_machines: u16,
    pub max_machines: u16,
    /// Between two looks at the metric.
    pub interval: SimDuration,
    /// From ordering a machine to its first request.
    pub start_up_delay: SimDuration,
    /// How long fewer machines must have been enough before one goes.
    pub scale_down_delay: SimDuration,
}

/// What the metrics of a replica say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReplicaMeasure {
    pub outstanding: u32,
    pub waiting: u32,
    pub kv: f64,
}

/// The rule with its memory.
#[derive(Debug)]
pub struct Autoscaler {
    rule: Autoscaling,
    /// What was wanted when, within the stabilisation window.
    wanted: VecDeque<(SimTime, u16)>,
}

impl Autoscaler {
    pub fn new(rule: Autoscaling) -> Self {
        Self { rule, wanted: VecDeque::new() }
    }

    pub fn rule(&self) -> &Autoscaling {
        &self.rule
    }

    /// Machines that there should be, where `machines` are there or on their way and those of
    /// `replicas` take requests, `per_machine` of them on each.
    pub fn decide(
        &mut self,
        now: SimTime,
        machines: u16,
        per_machine: u16,
        replicas: &[ReplicaMeasure],
    ) -> u16 {
        let rule = &self.rule;
        let within = |machines: u16| machines.clamp(rule.min_machines, rule.max_machines);
        if replicas.is_empty() {
            // Nothing is measured, so nothing changes.
            return within(machines);
        }
        let sum: f64 = replicas
            .iter()
            .map(|replica| match rule.metric {
                ScalingMetric::Outstanding => f64::from(replica.outstanding),
                ScalingMetric::Waiting => f64::from(replica.waiting),
                ScalingMetric::Kv => replica.kv,
            })
            .sum();
        // Those on their way will take their share.
        let all = f64::from(machines) * f64::from(per_machine);
        let ratio = sum / (all * rule.target);
        let wanted = if (ratio - 1.0).abs() <= TOLERANCE {
            machines
        } else {
            // The cast saturates.
            (sum / rule.target / f64::from(per_machine)).ceil() as u16
        };
        let wanted = within(wanted);
        self.wanted.push_back((now, wanted));
        while self.wanted.front().is_some_and(|&(at, _)| at + rule.scale_down_delay < now) {
            self.wanted.pop_front();
        }
        if wanted >= machines {
            return wanted;
        }
        let highest = self.wanted.iter().map(|&(_, wanted)| wanted).max().unwrap_or(wanted);
        within(highest.min(machines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Autoscaling {
        Autoscaling {
            metric: ScalingMetric::Outstanding,
            target: 10.0,
            min_machines: 1,
            max_machines: 8,
            interval: SimDuration::from_secs(15),
            start_up_delay: SimDuration::from_secs(60),
            scale_down_delay: SimDuration::from_secs(300),
        }
    }

    fn at(seconds: u64) -> SimTime {
        SimTime::ZERO + SimDuration::from_secs(seconds)
    }

    fn each(outstanding: u32, replicas: usize) -> Vec<ReplicaMeasure> {
        vec![ReplicaMeasure { outstanding, waiting: 1, kv: 0.5 }; replicas]
    }

    #[test]
    fn as_many_machines_as_the_load_fills_and_no_more_than_allowed() {
        let decide = |n, per_machine, replicas: &[ReplicaMeasure]| {
            Autoscaler::new(rule()).decide(at(0), n, per_machine, replicas)
        };
        assert_eq!(decide(2, 1, &each(15, 2)), 3);
        let uneven = [each(10, 1), each(11, 1)].concat();
        assert_eq!(decide(2, 1, &uneven), 2, "within the tolerance");
        assert_eq!(decide(2, 1, &each(100, 2)), 8);
        assert_eq!(decide(2, 2, &each(15, 4)), 3, "two replicas on each");
        assert_eq!(decide(4, 1, &each(20, 2)), 4, "two are on their way");
        assert_eq!(decide(3, 1, &[]), 3, "nothing is measured");
    }

    #[test]
    fn other_metrics_have_targets_of_their_own() {
        let kv = Autoscaling { metric: ScalingMetric::Kv, target: 0.25, ..rule() };
        assert_eq!(Autoscaler::new(kv).decide(at(0), 3, 1, &each(0, 3)), 6);
        let waiting = Autoscaling { metric: ScalingMetric::Waiting, target: 0.5, ..rule() };
        assert_eq!(Autoscaler::new(waiting).decide(at(0), 3, 1, &each(0, 3)), 6);
    }

    #[test]
    fn a_machine_goes_only_when_fewer_have_been_enough_for_long() {
        let mut scaler = Autoscaler::new(rule());
        assert_eq!(scaler.decide(at(0), 4, 1, &each(10, 4)), 4);
        assert_eq!(scaler.decide(at(15), 4, 1, &each(2, 4)), 4);
        assert_eq!(scaler.decide(at(300), 4, 1, &each(5, 4)), 4, "the first look still counts");
        assert_eq!(scaler.decide(at(315), 4, 1, &each(2, 4)), 2, "the busiest since wanted two");
        assert_eq!(scaler.decide(at(700), 2, 1, &each(0, 2)), 1, "never below the least");
    }
}
