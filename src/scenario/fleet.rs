//! Several machines behind a router.

use serde::Serialize;

use super::{ArrivalSpec, Scenario};
use crate::engine::router::{PrefixAwareSettings, RouterPolicy, RouterSettings};

/// Machines of one kind behind a router.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FleetSpec {
    /// Each as in `hardware`, with `engine.replicas` replicas.
    pub machines: u32,
    pub router: RouterPolicy,
    pub prefix_aware: PrefixAwareSettings,
}

impl Scenario {
    /// Machines that are there from the start.
    pub fn machines(&self) -> u32 {
        self.fleet.as_ref().map_or(1, |fleet| fleet.machines)
    }

    /// Replicas of all machines.
    pub fn replicas(&self) -> u16 {
        u16::try_from(self.machines() * self.engine.replicas).expect("the schema bounds both")
    }

    /// The router, before replicas whose KV cache holds `kv_tokens` tokens.
    pub fn router(&self, kv_tokens: u64) -> RouterSettings {
        let settings = RouterSettings { kv_tokens, ..RouterSettings::default() };
        let Some(fleet) = &self.fleet else { return settings };
        RouterSettings {
            policy: fleet.router,
            prefix_aware: fleet.prefix_aware,
            sessions: self.workload.has_sessions(),
            ..settings
        }
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
