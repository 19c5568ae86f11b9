//! Several machines behind a router, of one kind or of several.

use serde::Serialize;

use super::{ArrivalSpec, EngineSpec, HardwareSpec, Scenario};
use crate::engine::fleet::autoscaling::Autoscaling;
use crate::engine::fleet::rules::{
    Admission, FleetRules, LostRequests, Outage, PoolRules, RandomFailures,
};
use crate::engine::router::{PrefixAwareSettings, RouterPolicy, RouterSettings};
use crate::model::{KvCacheDtype, ModelConfig, WeightPrecision};
use crate::units::UsdPerHour;

/// Machines behind a router.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FleetSpec {
    /// At the start, of all pools.
    pub machines: u16,
    pub router: RouterPolicy,
    pub prefix_aware: PrefixAwareSettings,
    pub admission: Admission,
    pub lost_requests: LostRequests,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outages: Vec<Outage>,
    /// Where all machines are of one kind; else each pool has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<RandomFailures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// In the order of their names; none where all machines are of one kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolSpec>,
}

/// Machines of one kind in a fleet of several.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolSpec {
    pub name: String,
    /// At the start.
    pub machines: u16,
    /// What a replica takes, relative to those of the other pools.
    pub weight: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<RandomFailures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    #[serde(flatten)]
    pub kind: KindSpec,
}

impl PoolSpec {
    /// That may be there at once.
    pub fn most_machines(&self) -> u16 {
        self.autoscaling.map_or(self.machines, |rule| rule.max_machines)
    }
}

/// A machine with the engine on it and what that serves.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KindSpec {
    pub model: ModelConfig,
    pub precision: WeightPrecision,
    pub kv_cache_dtype: KvCacheDtype,
    pub hardware: HardwareSpec,
    pub engine: EngineSpec,
}

/// Machines of one kind: those of a pool, or all.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a> {
    /// Of the pool, where there are pools.
    pub pool: Option<&'a str>,
    pub model: &'a ModelConfig,
    pub precision: WeightPrecision,
    pub kv_cache_dtype: KvCacheDtype,
    pub hardware: &'a HardwareSpec,
    pub engine: &'a EngineSpec,
    /// What becomes of the machines in a run.
    pub rules: PoolRules,
}

impl Kind<'_> {
    /// What the machines that are there at the start cost; `None` without a price.
    pub fn usd_per_hour(&self) -> Option<UsdPerHour> {
        let price = self.hardware.price.as_ref()?;
        Some(UsdPerHour::new(price.usd.get() * f64::from(self.rules.machines)))
    }
}

impl EngineSpec {
    fn replicas_per_machine(&self) -> u16 {
        u16::try_from(self.replicas).expect("the schema bounds it")
    }
}

impl Scenario {
    /// What machines there are, in the order of their replicas' numbers; at least one kind.
    pub fn kinds(&self) -> Vec<Kind<'_>> {
        let pools = self.fleet.iter().flat_map(|fleet| &fleet.pools);
        let kinds: Vec<Kind<'_>> = pools
            .map(|pool| Kind {
                pool: Some(&pool.name),
                model: &pool.kind.model,
                precision: pool.kind.precision,
                kv_cache_dtype: pool.kind.kv_cache_dtype,
                hardware: &pool.kind.hardware,
                engine: &pool.kind.engine,
                rules: PoolRules {
                    machines: pool.machines,
                    most_machines: pool.most_machines(),
                    replicas_per_machine: pool.kind.engine.replicas_per_machine(),
                    weight: pool.weight,
                    failures: pool.failures,
                    autoscaling: pool.autoscaling,
                },
            })
            .collect();
        if kinds.is_empty() { vec![self.only_kind()] } else { kinds }
    }

    fn only_kind(&self) -> Kind<'_> {
        let fleet = self.fleet.as_ref();
        let machines = fleet.map_or(1, |fleet| fleet.machines);
        let autoscaling = fleet.and_then(|fleet| fleet.autoscaling);
        Kind {
            pool: None,
            model: &self.model,
            precision: self.precision,
            kv_cache_dtype: self.kv_cache_dtype,
            hardware: &self.hardware,
            engine: &self.engine,
            rules: PoolRules {
                most_machines: autoscaling.map_or(machines, |rule| rule.max_machines),
                replicas_per_machine: self.engine.replicas_per_machine(),
                failures: fleet.and_then(|fleet| fleet.failures),
                autoscaling,
                ..PoolRules::of(machines)
            },
        }
    }

    /// Machines that are there from the start.
    pub fn machines(&self) -> u16 {
        self.fleet.as_ref().map_or(1, |fleet| fleet.machines)
    }

    /// Replicas of all machines that may be there.
    pub fn replicas(&self) -> u16 {
        self.kinds().iter().map(|kind| kind.rules.replicas()).sum()
    }

    /// What the machines that are there at the start cost; `None` where one has no price.
    pub fn usd_per_hour(&self) -> Option<UsdPerHour> {
        let prices =
            self.kinds().iter().map(|kind| Some(kind.usd_per_hour()?.get())).sum::<Option<f64>>();
        prices.map(UsdPerHour::new)
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
        let kinds = self.kinds();
        let rules = FleetRules {
            pools: kinds.iter().map(|kind| kind.rules).collect(),
            patience: workload.tenants.iter().map(|tenant| tenant.patience).collect(),
            patience_of_all: workload.patience,
            seed,
            ..FleetRules::default()
        };
        let Some(fleet) = &self.fleet else { return (!patient).then_some(rules) };
        let steady = fleet.admission == Admission::default()
            && fleet.outages.is_empty()
            && fleet.failures.is_none()
            && fleet.autoscaling.is_none()
            && fleet.pools.is_empty();
        (!patient || !steady).then(|| FleetRules {
            serving: self.serving(&kinds),
            admission: fleet.admission,
            lost_requests: fleet.lost_requests,
            outages: fleet.outages.clone(),
            ..rules
        })
    }

    /// By tenant, the pools that serve what it asks for.
    fn serving(&self, kinds: &[Kind<'_>]) -> Vec<Vec<u16>> {
        let tenants = self.workload.tenants.iter();
        tenants
            .map(|tenant| {
                let serves = |kind: &Kind<'_>| match &tenant.model {
                    None => true,
                    Some(model) => kind.model.name == *model,
                };
                (0u16..).zip(kinds).filter(|(_, kind)| serves(kind)).map(|(pool, _)| pool).collect()
            })
            .collect()
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
