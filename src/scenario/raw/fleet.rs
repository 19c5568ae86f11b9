//! Machines behind a router, as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::engine::router::RouterPolicy;

/// Machines of one kind behind a router.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawFleet {
    /// Machines as in [hardware], each with engine.replicas replicas (default 1).
    #[schemars(range(min = 1, max = 1000))]
    pub machines: Option<u32>,
    /// How requests are spread over the replicas (default least-outstanding).
    pub router: Option<RouterPolicy>,
    /// When the router prefix-aware follows the cache, and when the load.
    pub prefix_aware: Option<RawPrefixAware>,
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
