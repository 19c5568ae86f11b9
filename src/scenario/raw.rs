//! The scenario file as it is written: every key optional, nothing checked against anything else.
//!
//! The doc comments are the descriptions in the JSON Schema, and the attributes its types and
//! bounds; `shape` checks a file against that schema before these structs are filled, so a key is
//! described in one place only. Places in the text stay with the tree of `document`.

mod fleet;
mod workload;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::engine_name::EngineName;
use crate::hardware::PriceKind;
use crate::metrics::Convention;
use crate::model::{DtypeSetting, WeightFormat};
use crate::time::SimDuration;
use crate::units::UsdPerHour;

pub use fleet::*;
pub use workload::*;

use super::settings::{StaticSettings, TgiSettings, TgisSettings, VllmSettings};

/// A deployment, a workload and what to measure.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(title = "servesim scenario")]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawScenario {
    /// What reports call the scenario (default: model, engine and instance).
    pub name: Option<String>,
    /// What is served.
    pub model: RawModel,
    /// What it is served on.
    pub hardware: RawHardware,
    /// What serves it.
    pub engine: RawEngine,
    /// Several machines, and how requests are spread over them (default: one machine).
    pub fleet: Option<RawFleet>,
    /// What clients send, and when.
    pub workload: RawWorkload,
    /// What is measured, and how.
    pub measure: RawMeasure,
}

/// A machine, the engine on it, and what that serves.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawKind {
    pub model: RawModel,
    pub hardware: RawHardware,
    pub engine: RawEngine,
}

/// The model and its precision.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawModel {
    /// A preset (`servesim list models`).
    pub name: Option<String>,
    /// Path of a Hugging Face config.json, in place of `name`.
    pub config: Option<String>,
    /// Element type of activations and unquantised weights (default auto: the checkpoint's own;
    /// float32 becomes float16).
    pub dtype: Option<DtypeSetting>,
    /// How the weights are stored (default: as the checkpoint says, else none).
    pub quantize: Option<WeightFormat>,
}

/// The machine and its price.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawHardware {
    /// An instance type by the cloud's own name (`servesim list instances`), or the path of an
    /// instance file.
    pub instance: Option<String>,
    /// A GPU (`servesim list gpus`) in a machine of one's own, in place of `instance`, or the path
    /// of a GPU file.
    pub gpu: Option<String>,
    /// How many of them (default 1; only with `gpu`).
    #[schemars(range(min = 1, max = 64))]
    pub num_gpus: Option<u32>,
    /// Price of the whole machine, as in "1.212 USD/h" (default: the catalogue's newest).
    pub price: Option<UsdPerHour>,
    /// Which of the catalogue's prices (default on-demand).
    pub price_kind: Option<PriceKind>,
    /// A named price list, such as redhat-2024-01 (default: none).
    pub price_list: Option<String>,
    /// Environment whose measured profile of host, interconnect and engine applies (default auto),
    /// or the path of a profile that `servesim calibrate --fit-deployment` has written.
    pub deployment: Option<String>,
}

/// The engine and how it is spread over the GPUs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawEngine {
    /// An engine and its generation (`servesim list engines`).
    // Text, since a registry may know more engines than are built in; the check of the shape holds
    // it against their names.
    #[schemars(with = "Option<EngineName>")]
    pub name: Option<String>,
    /// GPUs that share each layer (default 1). GPUs left idle are still paid for.
    #[schemars(range(min = 1, max = 64))]
    pub tensor_parallel_size: Option<u32>,
    /// Independent copies of the engine on the machine (default 1).
    #[schemars(range(min = 1, max = 64))]
    pub replicas: Option<u32>,
    /// Settings of tgis-2023 and tgis-2024.
    pub tgis: Option<TgisSettings>,
    /// Settings of tgi-v2 and tgi-v3.
    pub tgi: Option<TgiSettings>,
    /// Settings of vllm-0.2.7, vllm-0.4.2, vllm-0.13 and vllm-0.32.
    pub vllm: Option<VllmSettings>,
    /// Settings of static.
    #[serde(rename = "static")]
    pub static_batch: Option<StaticSettings>,
}

/// What the summary covers and whose definitions it follows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawMeasure {
    /// Start of the run that the summary leaves out (default 0s).
    pub warm_up: Option<SimDuration>,
    /// Whose definitions of throughput and latency (default vllm).
    pub convention: Option<Convention>,
    /// Targets that a request must meet; adds goodput and attainment to the summary.
    pub slo: Option<RawSlo>,
    /// Independent repetitions with consecutive seeds (default 1); above 1 the summary carries mean
    /// and 95 % interval.
    #[schemars(range(min = 1, max = 100_000))]
    pub seeds: Option<u32>,
}

/// Latency targets; those left out do not count.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawSlo {
    /// Time to first token.
    pub ttft: Option<SimDuration>,
    /// Time per output token after the first.
    pub tpot: Option<SimDuration>,
    /// From arrival to the last token.
    pub e2el: Option<SimDuration>,
    /// Percentile of the requests at which the targets are judged (default 99).
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 100))]
    pub percentile: Option<f64>,
}
