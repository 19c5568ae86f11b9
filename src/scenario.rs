//! Scenarios: a deployment, a workload and what to measure, valid by construction.
//!
//! A scenario comes from a TOML file, from flags, or from both. Four passes turn text into a
//! [`Scenario`] and collect everything that is wrong instead of stopping at the first error:
//!
//! 1. `document`: text -> a tree in which each key and value knows its place; all syntax errors.
//! 2. `overrides`: flags replace values in the tree.
//! 3. `shape`: the tree against the JSON Schema; unknown keys, types, units, bounds.
//! 4. `validate`: what one key means for another; names against catalogues; data files.
//!
//! Only [`load`] reads files, and only through [`ReadFile`]. What comes out needs no further
//! checks: the engine has no "invalid configuration" error.

pub mod defaults;
pub mod diagnostic;
pub mod document;
mod fleet;
mod lengths;
mod load;
mod overrides;
mod raw;
mod refused;
pub mod registry;
pub mod schema;
pub mod settings;
mod shape;
mod validate;

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::ser::SerializeMap;

use crate::cost::profile::DeploymentProfile;
use crate::engine::fleet::rules::Patience;
use crate::hardware::{Gpu, InstanceType, Price};
use crate::metrics::Convention;
use crate::model::{KvCacheDtype, ModelConfig, WeightPrecision};
use crate::time::{SimDuration, SimTime};
use crate::trace::{FileRows, Scan, TimeUnit, TraceFile};
use crate::units::UsdPerHour;
use crate::workload::{
    ArrivalProcess, LengthSource, Replay, ReplayRules, Sessions, SharedPrefix, Tenant,
};

pub use defaults::EffectiveSettings;
pub use diagnostic::Diagnostics;
pub use fleet::{FleetSpec, Kind, KindSpec, PoolSpec};
pub use load::{
    DEFAULT_SCENARIO, DiskFiles, MemoryFiles, ReadFile, Source, Template, embedded, embedded_names,
    load, load_with, open,
};
pub use overrides::{Assignment, Override, shared_settings};
pub use registry::{CustomEngine, EngineId, Registry};
pub use settings::EngineSettings;
pub use shape::check_value;

/// What to simulate, complete and consistent. As JSON it has the keys of the file, with the
/// defaults filled in. Of a fleet with pools, model, machine and engine are those of the first:
/// [`Scenario::kinds`] has all.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scenario {
    pub name: String,
    pub model: ModelConfig,
    pub precision: WeightPrecision,
    pub kv_cache_dtype: KvCacheDtype,
    pub hardware: HardwareSpec,
    pub engine: EngineSpec,
    /// `None`: one machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetSpec>,
    pub workload: WorkloadSpec,
    pub measure: MeasureSpec,
    /// What was assumed where the scenario says nothing, and what is probably not meant.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HardwareSpec {
    pub instance: InstanceType,
    /// `None` for a machine of one's own without a price.
    pub price: Option<PriceSpec>,
    /// The environment whose measured profile applies, `auto`, or the file of `profile`.
    pub deployment: String,
    /// A deployment profile of the scenario's own.
    #[serde(skip)]
    pub profile: Option<Arc<DeploymentProfile>>,
}

impl HardwareSpec {
    pub fn gpu(&self) -> &Gpu {
        &self.instance.gpu
    }
}

/// What the whole machine costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PriceSpec {
    pub usd: UsdPerHour,
    /// The catalogue's entry with region, date and source; `None` for the scenario's own price.
    pub catalogue: Option<Price>,
}

#[derive(Clone, Debug)]
pub struct EngineSpec {
    pub name: EngineId,
    pub tensor_parallel_size: u32,
    pub replicas: u32,
    /// What the scenario sets in the table of the engine's family.
    pub settings: EngineSettings,
    /// What the engine then runs with. A custom engine has only the
    /// [`registry::inherited_settings`] of them.
    pub effective: EffectiveSettings,
    /// A custom engine with its own settings read.
    pub custom: Option<Arc<dyn registry::Configured>>,
}

impl Serialize for EngineSpec {
    fn serialize<S: serde::Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        let error = serde::ser::Error::custom;
        let set = settings::only_set(&self.settings).map_err(error)?;
        let mut effective = serde_json::to_value(&self.effective).map_err(error)?;
        let mut map = ser.serialize_map(None)?;
        map.serialize_entry("name", self.name.name())?;
        if let (Some(_), Some(keys)) = (&self.custom, effective.as_object_mut()) {
            let inherited = registry::inherited_settings(self.name.family());
            keys.retain(|key, _| inherited.contains(&key.as_str()));
            map.serialize_entry("like", &self.name.base())?;
        }
        map.serialize_entry("tensor-parallel-size", &self.tensor_parallel_size)?;
        map.serialize_entry("replicas", &self.replicas)?;
        map.serialize_entry("settings", &set)?;
        map.serialize_entry("effective", &effective)?;
        if let Some(custom) = &self.custom {
            map.serialize_entry("custom", &custom.settings())?;
        }
        map.end()
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WorkloadSpec {
    pub arrivals: ArrivalSpec,
    /// `None` where every tenant has its own, or a trace says them.
    pub lengths: Option<LengthSpec>,
    pub shared_prefix: Option<SharedPrefix>,
    pub sessions: Option<Sessions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<Patience>,
    /// In the order of their names; none where all requests are of one kind. Complete: what the
    /// file leaves to `[workload]` has been filled in.
    pub tenants: Vec<TenantSpec>,
    /// When clients stop sending. At least one of this and `num_requests` is set; with both, what
    /// comes first.
    pub duration: Option<SimDuration>,
    pub num_requests: Option<u64>,
    pub seed: u64,
    /// Whether the system serves what is in flight when arrivals stop; never so in a closed loop
    /// with a duration.
    pub drain: bool,
}

impl WorkloadSpec {
    /// Whether runs with different seeds may differ.
    pub fn is_random(&self) -> bool {
        match (&self.arrivals, &self.lengths) {
            (ArrivalSpec::Trace(_), _) => false,
            (ArrivalSpec::ClosedLoop { .. }, Some(lengths)) if self.tenants.is_empty() => {
                let one = matches!(&lengths.source, LengthSource::Pairs { pairs, .. } if pairs.len() == 1);
                !one || self.sessions.is_some()
            }
            _ => true,
        }
    }

    /// Names of the tenants by the number that requests carry; none where there are no tenants.
    pub fn tenant_names(&self) -> Vec<String> {
        if let ArrivalSpec::Trace(trace) = &self.arrivals {
            return trace.scan.tenants.clone();
        }
        self.tenants.iter().map(|tenant| tenant.name.clone()).collect()
    }

    /// Why a run did not get all of its trace, if that is so: it was there when it was checked.
    pub fn trace_failure(&self) -> Option<String> {
        let ArrivalSpec::Trace(trace) = &self.arrivals else { return None };
        let why = trace.failure.get()?;
        Some(format!("cannot read the trace {}: {why}", trace.file))
    }

    /// Whether any two requests may have a prefix in common.
    pub fn prompts_share(&self) -> bool {
        let of_askers = |asker: &Tenant| asker.prefix.is_some() || asker.sessions.is_some();
        match &self.arrivals {
            ArrivalSpec::Trace(trace) => trace.scan.shares,
            _ => self.askers().iter().any(of_askers),
        }
    }

    /// Those who ask: the tenants, or one that is everybody. None where a trace says it all.
    pub fn askers(&self) -> Vec<Tenant> {
        let everybody = self.lengths.iter().filter(|_| self.tenants.is_empty()).map(|lengths| {
            let (prefix, sessions) = (self.shared_prefix, self.sessions);
            Tenant { share: 1.0, priority: 0, lengths: lengths.source.clone(), prefix, sessions }
        });
        let tenants = self.tenants.iter().map(|tenant| Tenant {
            share: tenant.share,
            priority: tenant.priority,
            lengths: tenant.lengths.source.clone(),
            prefix: tenant.shared_prefix,
            sessions: tenant.sessions,
        });
        everybody.chain(tenants).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum ArrivalSpec {
    /// Each client sends its next request `think_time` after its last answer.
    ClosedLoop { clients: u32, think_time: SimDuration },
    /// A recorded trace, which has its own lengths.
    Trace(Box<TraceSpec>),
    /// Requests that wait for no answer.
    #[serde(untagged)]
    Open(ArrivalProcess),
}

/// What of a trace is replayed, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TraceSpec {
    /// As the scenario names it.
    pub file: String,
    /// What a look through it has shown.
    #[serde(skip)]
    pub scan: Scan,
    /// On the trace's own clock; `MAX` where it ends with its last row.
    pub start: SimDuration,
    #[serde(serialize_with = "unless_endless")]
    pub end: SimDuration,
    pub time_scale: f64,
    pub rate_scale: f64,
    /// From one pass to the next on the trace's own clock, if it is repeated.
    pub repeat_after: Option<SimDuration>,
    pub hash_block_size: u32,
    #[serde(skip)]
    pub time_unit: Option<TimeUnit>,
    #[serde(skip)]
    pub source: TraceFile,
    /// Set by a run during which the file could not be read any more.
    #[serde(skip)]
    pub failure: Arc<OnceLock<String>>,
}

fn unless_endless<S: serde::Serializer>(end: &SimDuration, ser: S) -> Result<S::Ok, S::Error> {
    if *end == SimDuration::MAX { ser.serialize_none() } else { end.serialize(ser) }
}

impl TraceSpec {
    /// The trace as a workload.
    pub fn replay(&self, requests: Option<u64>, duration: Option<SimDuration>) -> Replay<FileRows> {
        let (file, failure) = (self.source.clone(), Arc::clone(&self.failure));
        let rows = FileRows::new(file, self.time_unit, failure);
        let rules = ReplayRules {
            start: SimTime::ZERO + self.start,
            end: SimTime::ZERO + self.end,
            time_scale: self.time_scale,
            rate_scale: self.rate_scale,
            repeat_after: self.repeat_after,
            block_tokens: self.hash_block_size,
        };
        Replay::new(rows, rules, requests, duration)
    }

    /// Requests of one pass.
    pub fn requests(&self) -> u64 {
        (self.scan.window_rows as f64 * self.rate_scale) as u64
    }
}

impl ArrivalSpec {
    pub const fn is_closed_loop(&self) -> bool {
        matches!(self, Self::ClosedLoop { .. })
    }
}

/// One class of requests.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TenantSpec {
    pub name: String,
    /// Relative to the other tenants'; above zero.
    pub share: f64,
    pub priority: i32,
    /// The model that it asks for; `None` where there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub lengths: LengthSpec,
    pub shared_prefix: Option<SharedPrefix>,
    pub sessions: Option<Sessions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<Patience>,
    /// Its own targets, if they are not those of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloSpec>,
}

/// Prompt and output lengths; a fixed length is a list of one.
#[derive(Clone, Debug)]
pub struct LengthSpec {
    /// The embedded data set or the file, or the kind of distribution.
    pub name: String,
    pub source: LengthSource,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MeasureSpec {
    pub warm_up: SimDuration,
    pub convention: Convention,
    pub slo: Option<SloSpec>,
    /// Repetitions, with seeds `seed`, `seed + 1`, ...
    pub seeds: u32,
}

/// Latency targets; at least one is set.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SloSpec {
    pub ttft: Option<SimDuration>,
    pub tpot: Option<SimDuration>,
    pub e2el: Option<SimDuration>,
    /// Above 0, at most 100.
    pub percentile: f64,
}

#[cfg(test)]
mod tests;
