//! Several machines behind a router.

use serde::Serialize;

use super::{ArrivalSpec, Scenario};
use crate::engine::fleet::autoscaling::Autoscaling;
use crate::engine::fleet::rules::{
    Admission, FleetRules, LostRequests, Outage, PoolRules, RandomFailures,
};
use crate::engine::router::{PrefixAwareSettings, RouterPolicy, RouterSettings};

/// Machines of one kind behind a router.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FleetSpec {
    /// At the start, each as in `hardware`, with `engine.replicas` replicas.
    pub machines: u16,
    pub router: RouterPolicy,
    pub prefix_aware: PrefixAwareSettings,
    pub admission: Admission,
    pub lost_requests: LostRequests,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outages: Vec<Outage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<RandomFailures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

impl FleetSpec {
    /// Those that may be there at once.
    pub fn most_machines(&self) -> u16 {
        self.autoscaling.map_or(self.machines, |rule| rule.max_machines)
    }
}

impl Scenario {
    /// Machines that are there from the start.
    pub fn machines(&self) -> u16 {
        self.fleet.as_ref().map_or(1, |fleet| fleet.machines)
    }

    /// Replicas of all machines that may be there.
    pub fn replicas(&self) -> u16 {
        let machines = self.fleet.as_ref().map_or(1, FleetSpec::most_machines);
        machines * self.replicas_per_machine()
    }

    fn replicas_per_machine(&self) -> u16 {
        u16::try_from(self.engine.replicas).expect("the schema bounds it")
    }

    /// The router, before replicas whose KV caches hold `kv_tokens` tokens, the last also those that
    /// follow.
    pub fn router(&self, kv_tokens: Vec<u64>) -> RouterSettings {
        let settings = RouterSettings { kv_tokens, ..RouterSettings::default() };
        let Some(fleet) = &self.fleet else { return settings };
        RouterSettings {
            policy: fleet.router,
            prefix_aware: fleet.prefix_aware,
            sessions: self.workload.has_sessions(),
            ..settings
        }
    }

    /// What surrounds the replicas in a run with `seed`; `None` where nothing does.
    pub fn fleet_rules(&self, seed: u64) -> Option<FleetRules> {
        let workload = &self.workload;
        let patient = workload.patience.is_none()
            && workload.tenants.iter().all(|tenant| tenant.patience.is_none());
        let pool = PoolRules {
            replicas_per_machine: self.replicas_per_machine(),
            ..PoolRules::of(self.machines())
        };
        let rules = FleetRules {
            patience: workload.tenants.iter().map(|tenant| tenant.patience).collect(),
            patience_of_all: workload.patience,
            seed,
            ..FleetRules::default()
        };
        let Some(fleet) = &self.fleet else {
            return (!patient).then(|| FleetRules { pools: vec![pool], ..rules });
        };
        let steady = fleet.admission == Admission::default()
            && fleet.outages.is_empty()
            && fleet.failures.is_none()
            && fleet.autoscaling.is_none();
        (!patient || !steady).then(|| FleetRules {
            pools: vec![PoolRules {
                most_machines: fleet.most_machines(),
                failures: fleet.failures,
                autoscaling: fleet.autoscaling,
                ..pool
            }],
            admission: fleet.admission,
            lost_requests: fleet.lost_requests,
            outages: fleet.outages.clone(),
            ..rules
        })
    }
}

impl super::WorkloadSpec {
    /// Whether requests tell who they are of: clients of a closed loop, or conversations.
    pub fn has_sessions(&self) -> bool {
        match self.arrivals {
            ArrivalSpec::ClosedLoop { .. } => true,
            ArrivalSpec::Trace(_) => false,
            ArrivalSpec::Open(_) => self.askers().iter().any(|asker| asker.sessions.is_some()),
        }
    }
}
