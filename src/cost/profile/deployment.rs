//! The host and the engine of a deployment: what no kernel measurement shows.

use crate::cost::host::HostModel;
use crate::cost::sourced::Seconds;

use super::{ProfileError, coefficients, read_toml};

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
    }
}

impl DeploymentProfile {
    /// Reads a profile; `name` is what messages call it.
    pub fn from_toml(name: &str, bytes: &[u8]) -> Result<Self, ProfileError> {
        let profile: Self = read_toml(name, bytes)?;
        profile.check(name, "")?;
        Ok(profile)
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
