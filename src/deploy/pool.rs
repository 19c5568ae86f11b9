//! Machines of one kind, put together: memory plan, cost model, scheduler.

use super::{DeployError, EngineConfig, engine_config};
use crate::cost::calibrated::{CalibratedCost, CostInputs};
use crate::cost::host::EngineTraits;
use crate::cost::profile::lookup::Profiles;
use crate::hardware::LinkKind;
use crate::kv_cache::memory_plan::MemoryPlan;
use crate::scenario::Kind;
use crate::scheduler::Scheduler;

/// What every machine of a pool runs; a deployment without pools is one.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(super) name: Option<String>,
    /// Of all machines that may be there.
    pub(super) replicas: u16,
    pub(super) tensor_parallel: u32,
    /// Between its GPUs.
    pub(super) link: Option<LinkKind>,
    pub(super) profiles: Profiles,
    pub(super) plan: MemoryPlan,
    pub(super) engine: EngineConfig,
    pub(super) cost: CalibratedCost,
}

impl Pool {
    /// `share` is whether any two prompts may have a beginning in common.
    pub(super) fn new(
        kind: Kind<'_>,
        share: bool,
        profiles: Profiles,
    ) -> Result<Self, DeployError> {
        let name = kind.pool.map(str::to_owned);
        let plan = MemoryPlan::new(&engine_config::memory_request(&kind));
        if !plan.fits() {
            return Err(DeployError::DoesNotFit { pool: name, plan: Box::new(plan) });
        }
        let traits = EngineTraits::of(kind.engine.name.base())
            .with_graphs(engine_config::graphs(kind.engine));
        let cost = CalibratedCost::new(&CostInputs {
            model: kind.model,
            precision: kind.precision,
            kv_cache: kind.kv_cache_dtype,
            tensor_parallel: kind.engine.tensor_parallel_size,
            gpu: kind.hardware.gpu(),
            gpu_profile: &profiles.gpu.profile,
            interconnect: profiles.interconnect.as_ref().map(|found| &found.profile),
            weight_kernel: None,
            deployment: &profiles.deployment.profile,
            engine: &traits,
        });
        let cost =
            cost.map_err(|why| DeployError::Cost { pool: name.clone(), why: Box::new(why) })?;
        let engine = EngineConfig::new(&kind, share, &plan)
            .map_err(|why| DeployError::Refuses { pool: name.clone(), why: Box::new(why) })?;
        let tensor_parallel = kind.engine.tensor_parallel_size;
        let replicas = kind.rules.replicas();
        let link = kind.hardware.instance.interconnect.as_ref().map(|links| links.link);
        Ok(Self { name, replicas, tensor_parallel, link, profiles, plan, engine, cost })
    }

    /// `None` where there are no pools.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub const fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    pub const fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// GPUs that share each layer.
    pub const fn tensor_parallel(&self) -> u32 {
        self.tensor_parallel
    }

    /// Between the GPUs of a machine.
    pub const fn link(&self) -> Option<LinkKind> {
        self.link
    }

    /// The cost model that every run starts with a copy of.
    pub const fn cost(&self) -> &CalibratedCost {
        &self.cost
    }

    /// A fresh scheduler of one of its replicas.
    pub fn scheduler(&self) -> Box<dyn Scheduler> {
        self.engine.scheduler()
    }
}
