//! Machines behind a router, as they are written.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::engine::fleet::autoscaling::ScalingMetric;
use crate::engine::fleet::rules::LostRequests;
use crate::engine::router::RouterPolicy;
use crate::time::SimDuration;

/// Machines behind a router, of one kind or in pools of several.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawFleet {
    /// Machines as in [hardware] at the start, each with engine.replicas replicas (default 1, or
    /// autoscaling.min-machines).
    #[schemars(range(min = 1, max = 1000))]
    pub machines: Option<u32>,
    /// How requests are spread over the replicas (default least-outstanding).
    pub router: Option<RouterPolicy>,
    /// When the router prefix-aware follows the cache, and when the load.
    pub prefix_aware: Option<RawPrefixAware>,
    /// When the router turns requests away with status 429 (default: never).
    pub admission: Option<RawAdmission>,
    /// What becomes of the requests on a machine that fails: fail tells the client, who may try
    /// again; retry sends them to another machine at once (default fail).
    pub lost_requests: Option<LostRequests>,
    /// Failures at given times by name, as in [fleet.outages.first].
    pub outages: BTreeMap<String, RawOutage>,
    /// Failures at random times.
    pub failures: Option<RawFailures>,
    /// Machines that come and go with the load.
    pub autoscaling: Option<RawAutoscaling>,
    /// Machines of several kinds, or for several models, by name, as in [fleet.pools.large].
    pub pools: BTreeMap<String, RawPool>,
}

/// Machines of one kind: [model], [hardware] and [engine] with the pool's own keys laid over them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawPool {
    /// Machines of it at the start (default 1, or autoscaling.min-machines).
    #[schemars(range(min = 1, max = 1000))]
    pub machines: Option<u32>,
    /// What a replica takes relative to those of the other pools; the router gives it as much more
    /// (default 1).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub weight: Option<f64>,
    /// Failures at random times (default: those of the fleet).
    pub failures: Option<RawFailures>,
    /// Machines of it that come and go with its load.
    pub autoscaling: Option<RawAutoscaling>,
    /// What it serves; over the keys of [model].
    #[schemars(with = "SameAsModel")]
    pub model: IgnoredAny,
    /// What it is made of; over the keys of [hardware].
    #[schemars(with = "SameAsHardware")]
    pub hardware: IgnoredAny,
    /// What runs on it; over the keys of [engine].
    #[schemars(with = "SameAsEngine")]
    pub engine: IgnoredAny,
}

/// A table of a pool has the keys of the scenario's, which are described once, those of custom
/// engines included.
macro_rules! same_as {
    ($($Type:ident, $table:literal;)*) => {$(
        struct $Type;

        impl JsonSchema for $Type {
            fn schema_name() -> Cow<'static, str> {
                $table.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "$ref": concat!("#/properties/", $table) })
            }
        }
    )*};
}

same_as! {
    SameAsModel, "model";
    SameAsHardware, "hardware";
    SameAsEngine, "engine";
}

/// Limits per replica that takes requests; the fleet's sums are held against them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawAdmission {
    /// Requests sent to a replica and not answered.
    #[schemars(range(min = 1))]
    pub max_outstanding: Option<u32>,
    /// Requests that wait in a replica's queue.
    #[schemars(range(min = 1))]
    pub max_waiting: Option<u32>,
}

/// A machine that fails once; the requests and caches of all replicas on it are lost.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawOutage {
    /// Its number, from 0; of its pool, where there are several.
    pub machine: Option<u32>,
    /// The pool that it is of, where there are several.
    pub pool: Option<String>,
    /// In place of machine, the number of a replica on it; the replicas of the first machine come
    /// first.
    pub replica: Option<u32>,
    /// From the start of the run.
    pub at: Option<SimDuration>,
    /// Until it takes requests again.
    pub duration: Option<SimDuration>,
}

/// Machines that fail by themselves, each with random numbers of its own.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawFailures {
    /// Mean time from coming up to failing, exponentially distributed.
    pub mtbf: Option<SimDuration>,
    /// Mean time from failing to coming up, exponentially distributed.
    pub mttr: Option<SimDuration>,
}

/// The rule of the Kubernetes Horizontal Pod Autoscaler, with its defaults.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawAutoscaling {
    /// What is compared with the target, on average over the replicas: requests outstanding or
    /// waiting, or the share of the KV cache in use (default outstanding).
    pub metric: Option<ScalingMetric>,
    /// What the metric should be.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1_000_000))]
    pub target: Option<f64>,
    /// Never fewer machines (default 1).
    #[schemars(range(min = 1, max = 1000))]
    pub min_machines: Option<u32>,
    /// Never more machines.
    #[schemars(range(min = 1, max = 1000))]
    pub max_machines: Option<u32>,
    /// Between two looks at the metric (default 15s).
    pub interval: Option<SimDuration>,
    /// From ordering a machine to its first request; it is paid for from the order on (default
    /// 120s).
    pub start_up_delay: Option<SimDuration>,
    /// How long fewer machines must have been enough before one goes (default 300s).
    pub scale_down_delay: Option<SimDuration>,
}

/// Thresholds of the router prefix-aware, named as in SGLang's router.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawPrefixAware {
    /// Share of the prompt above which the replica with the longest match is taken (default 0.3).
    #[schemars(range(min = 0, max = 1))]
    pub cache_threshold: Option<f64>,
    /// The load decides where the busiest replica has more unanswered requests than the idlest by
    /// more than this (default 64) and by more than balance-rel-threshold.
    pub balance_abs_threshold: Option<u32>,
    /// The same as a factor (default 1.5).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub balance_rel_threshold: Option<f64>,
}
