//! The host and the engine of a deployment: what no kernel measurement shows.

use serde::{Deserialize, Serialize};

use crate::cost::host::HostModel;
use crate::cost::sourced::Seconds;
use crate::embedded::Value;

use super::{InterconnectProfile, ProfileError, coefficients, read_embedded, read_toml};

coefficients! {
    /// Host times and engine effects on one instance (or family of instances) and engine.
    pub struct DeploymentProfile {
        /// Launching the kernels of one layer one by one.
        host_per_layer: Seconds = "host-per-layer", Any,
        /// Launching a step captured in CUDA graphs.
        graph_replay: Seconds = "graph-replay", Any,
        /// Scheduling, sampling loops, detokenising, RPC: once per step.
        serial_per_step: Seconds = "serial-per-step", Any,
        serial_per_sequence: Seconds = "serial-per-sequence", Any,
        /// Tokenising, building inputs, concatenating batches: once per step with prefill.
        serial_per_prefill: Seconds = "serial-per-prefill", Any,
        /// From a client's last token to the server having its next request.
        client_turn_round: Seconds = "client-turn-round", Any,
        /// Fraction of the DRAM bandwidth at which a KV tensor is rebuilt.
        copy_efficiency: f64 = "copy-efficiency", AboveZero,
    } beside {
        note: String,
        /// The machine's links, where the same measurements show them: collectives are a matter of
        /// NCCL and shared memory, and so of the deployment.
        links: InterconnectProfile,
        /// How the fitted ones of these numbers came about.
        fit: FitRecord,
    }
}

/// What a fit to serving measurements had, and how near it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FitRecord {
    /// The measurements.
    pub source: String,
    pub rows: u32,
    /// Mean absolute error on them in per cent.
    pub mean_percent: f64,
    /// The same of each row by a fit to the others.
    pub left_out_percent: f64,
    #[serde(rename = "constant")]
    pub constants: Vec<FittedConstant>,
}

/// A constant before and after the fit. The prior is kept so that a later fit to more rows starts
/// from it: rows that have made a number must not count once more as its prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FittedConstant {
    pub name: String,
    /// GPUs in the group that the values are of, for a constant of the links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u32>,
    /// Of the values.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    pub value: f64,
    pub prior: f64,
    /// One standard deviation before and after, as a factor up and down.
    pub prior_factor: f64,
    pub posterior_factor: f64,
}

impl FitRecord {
    pub fn constant(&self, name: &str) -> Option<&FittedConstant> {
        self.constants.iter().find(|constant| constant.name == name)
    }

    fn check(&self, profile: &str) -> Result<(), ProfileError> {
        for constant in &self.constants {
            let fields = [
                ("prior", constant.prior, constant.prior > 0.0),
                ("prior-factor", constant.prior_factor, constant.prior_factor > 1.0),
            ];
            for (field, value, sound) in fields {
                if !sound || !value.is_finite() {
                    return Err(ProfileError::Value {
                        name: profile.to_owned(),
                        field: format!("fit.constant.{}.{field}", constant.name),
                        value: value.to_string(),
                        expected: "a finite number above zero; a factor above one",
                    });
                }
            }
        }
        Ok(())
    }
}

impl DeploymentProfile {
    /// Reads a profile; `name` is what messages call it.
    pub fn from_toml(name: &str, bytes: &[u8]) -> Result<Self, ProfileError> {
        read_toml::<Self>(name, bytes)?.checked(name)
    }

    /// Reads a profile that comes with the program.
    pub fn from_embedded(name: &str, file: Value) -> Result<Self, ProfileError> {
        read_embedded::<Self>(name, file)?.checked(name)
    }

    fn checked(self, name: &str) -> Result<Self, ProfileError> {
        self.check(name, "")?;
        if let Some(links) = &self.links {
            links.check(name, "links.")?;
        }
        if let Some(fit) = &self.fit {
            fit.check(name)?;
        }
        Ok(self)
    }

    /// The host's times for a model of so many layers.
    pub fn host_model(&self, layers: u32) -> HostModel {
        HostModel {
            eager: self.host_per_layer.value.get() * f64::from(layers),
            replay: self.graph_replay.value.get(),
            serial_per_step: self.serial_per_step.value.get(),
            serial_per_sequence: self.serial_per_sequence.value.get(),
            serial_per_prefill: self.serial_per_prefill.value.get(),
        }
    }
}
