//! The constants of a deployment that serving measurements can tell, and where they stand in its
//! profiles.

use crate::cost::profile::lookup::Profiles;
use crate::cost::profile::{DeploymentProfile, ProfileError};
use crate::cost::sourced::{Coefficient, Provenance, Seconds, significant};
use crate::named::named_enum;
use crate::units::Bandwidth;

named_enum! {
    /// A constant that no kernel's timing shows: of the host, the engine, or the links.
    pub enum Constant as "constant" {
        HostPerLayer = "host-per-layer",
        GraphReplay = "graph-replay",
        SerialPerStep = "serial-per-step",
        SerialPerSequence = "serial-per-sequence",
        SerialPerPrefill = "serial-per-prefill",
        ClientTurnRound = "client-turn-round",
        CopyEfficiency = "copy-efficiency",
        /// All latencies of the links, moved by one factor.
        AllReduceLatency = "all-reduce-latency",
        /// All bandwidths of the links, moved by one factor: that between two groups of GPUs is
        /// what the profile says that the fit begins with.
        BusBandwidth = "bus-bandwidth",
    }
}

impl Constant {
    /// Whether it is of the links: a deployment without tensor parallelism does not feel it.
    pub const fn is_of_links(self) -> bool {
        matches!(self, Self::AllReduceLatency | Self::BusBandwidth)
    }

    /// The unit of its values in reports, and how many base units that is.
    pub const fn unit(self) -> (&'static str, f64) {
        match self {
            Self::CopyEfficiency => ("", 1.0),
            Self::BusBandwidth => ("GB/s", 1e9),
            Self::AllReduceLatency => ("us", 1e-6),
            _ => ("ms", 1e-3),
        }
    }

    /// A value in base units as it is written, such as `0.463 ms`.
    pub fn show(self, value: f64) -> String {
        let (unit, base) = self.unit();
        format!("{} {unit}", significant(value / base)).trim_end().to_owned()
    }

    /// The other way round, in any unit of the kind.
    pub fn parse(self, text: &str) -> Result<f64, String> {
        let shown = |error: crate::units::ParseUnitError| error.to_string();
        match self {
            Self::CopyEfficiency => text.parse().map_err(|_| format!("{text:?} is no number")),
            Self::BusBandwidth => text.parse().map(|rate: Bandwidth| rate.base()).map_err(shown),
            _ => text.parse().map(|time: Seconds| time.base()).map_err(shown),
        }
    }

    /// Its value in base units; the links' among `ranks` GPUs. `None` where the machine has no
    /// such thing.
    pub fn get(self, profiles: &Profiles, ranks: u32) -> Option<f64> {
        let links = profiles.interconnect.as_ref().map(|found| &found.profile);
        match self {
            Self::AllReduceLatency => Some(links?.latency(ranks)),
            Self::BusBandwidth => Some(links?.bus_bandwidth(ranks)),
            _ => profiles.deployment.profile.get(self.name()),
        }
    }

    /// Replaces it, in base units; it says `fitted` and `source` from then on.
    pub fn set(
        self,
        profiles: &mut Profiles,
        ranks: u32,
        value: f64,
        source: &str,
    ) -> Result<(), ProfileError> {
        let Some(before) = self.get(profiles, ranks) else { return Ok(()) };
        match (self, &mut profiles.interconnect) {
            (Self::AllReduceLatency, Some(links)) => {
                links.profile.scale_latency(value / before, source);
            }
            (Self::BusBandwidth, Some(links)) => {
                links.profile.scale_bandwidth(value / before, source);
            }
            _ => profiles.deployment.profile.set(self.name(), value, source)?,
        }
        Ok(())
    }

    fn provenance(self, profiles: &Profiles, ranks: u32) -> Provenance {
        let links = profiles.interconnect.as_ref().map(|found| &found.profile);
        match (self, links) {
            (Self::AllReduceLatency | Self::BusBandwidth, Some(links)) => links.provenance(ranks),
            _ => of_deployment(&profiles.deployment.profile, self),
        }
    }
}

fn of_deployment(profile: &DeploymentProfile, constant: Constant) -> Provenance {
    let of = match constant {
        Constant::HostPerLayer => &profile.host_per_layer.provenance,
        Constant::GraphReplay => &profile.graph_replay.provenance,
        Constant::SerialPerStep => &profile.serial_per_step.provenance,
        Constant::SerialPerSequence => &profile.serial_per_sequence.provenance,
        Constant::SerialPerPrefill => &profile.serial_per_prefill.provenance,
        Constant::ClientTurnRound => &profile.client_turn_round.provenance,
        Constant::CopyEfficiency => &profile.copy_efficiency.provenance,
        Constant::AllReduceLatency | Constant::BusBandwidth => &Provenance::Assumed,
    };
    of.clone()
}

/// What is thought of a constant before any row is seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior {
    /// In base units; of the links among the fit's largest group of GPUs.
    pub guess: f64,
    /// One standard deviation, as a factor up and down.
    pub factor: f64,
}

impl Prior {
    /// The prior that the profile was itself fitted with, so that no row counts twice; else the
    /// profile's own number, taken for as near as its provenance promises.
    pub fn of(constant: Constant, profiles: &Profiles, ranks: u32) -> Option<Self> {
        let (_, unit) = constant.unit();
        let guess = constant.get(profiles, ranks)?;
        let before = profiles.deployment.profile.fit.as_ref();
        if let Some(known) = before.and_then(|fit| fit.constant(constant.name())) {
            // What was of another group of GPUs stands to it as the two now do.
            let other = known.ranks.and_then(|ranks| constant.get(profiles, ranks));
            let ratio = other.map_or(1.0, |other| guess / other);
            return Some(Self { guess: known.prior * unit * ratio, factor: known.prior_factor });
        }
        let factor = match constant.provenance(profiles, ranks) {
            Provenance::Measured => 1.2,
            Provenance::Fitted => 1.5,
            Provenance::TransferredFrom(_) => 2.0,
            Provenance::Datasheet | Provenance::Assumed => 3.0,
        };
        // A logarithm has no zero: a constant that is switched off stays so.
        (guess > 0.0).then(|| Self { guess: significant(guess), factor })
    }
}
