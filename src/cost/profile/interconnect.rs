//! The links of one machine in one environment.

use serde::{Deserialize, Serialize};

use crate::cost::collectives::{CollectiveForm, CustomForm, Line, Protocols};
use crate::cost::sourced::{Coefficient, Provenance, Seconds, Sourced};
use crate::embedded::Value;
use crate::units::{Bandwidth, Bytes, rounded};

use super::{Bound, Fit, ProfileError, read_embedded, read_toml};

/// All-reduce among the GPUs of a machine, by NCCL and by the engine's own kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InterconnectProfile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The nominal bandwidth of the links that were measured, where the profile stands for a kind
    /// of link: on faster or slower ones of that kind the bus bandwidth scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominal: Option<Bandwidth>,
    pub nccl: AllReduceSurface,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<AllReduceSurface>,
    /// What it was fitted to, and how well.
    #[serde(default, rename = "fit", skip_serializing_if = "Vec::is_empty")]
    pub fits: Vec<Fit>,
}

/// `a0 + a1 p + 2 (p - 1) / p * bytes / bus bandwidth`, the bandwidth by number of ranks; two such
/// lines where long messages go another way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AllReduceSurface {
    pub latency_base: Sourced<Seconds>,
    pub latency_per_rank: Sourced<Seconds>,
    /// The longest message that the engine's own kernel takes; needed under `[custom]` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_message: Option<Sourced<Bytes>>,
    pub bus_bandwidth: Vec<RankBandwidth>,
    /// The way for long messages, taken where it is faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk: Option<Box<AllReduceSurface>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RankBandwidth {
    pub ranks: u32,
    pub value: Bandwidth,
    pub provenance: Provenance,
    pub source: String,
}

impl AllReduceSurface {
    fn latency(&self, ranks: u32) -> f64 {
        self.latency_base.value.get() + self.latency_per_rank.value.get() * f64::from(ranks)
    }

    /// The entry for `ranks`, or for the next larger group, or for the largest.
    fn bandwidth(&self, ranks: u32) -> &RankBandwidth {
        let at_least = self.bus_bandwidth.iter().filter(|entry| entry.ranks >= ranks);
        at_least
            .min_by_key(|entry| entry.ranks)
            .or_else(|| self.bus_bandwidth.iter().max_by_key(|entry| entry.ranks))
            .expect("checked on reading: at least one entry")
    }

    fn protocols(&self, ranks: u32) -> Protocols {
        let line = |surface: &Self| Line {
            latency: surface.latency(ranks),
            bus_bandwidth: surface.bandwidth(ranks).value.bytes_per_s(),
        };
        Protocols { short: line(self), bulk: self.bulk.as_deref().map(line) }
    }

    fn provenance(&self, ranks: u32) -> Provenance {
        let latency = &self.latency_base.provenance;
        let own = latency.max(&self.latency_per_rank.provenance);
        let own = own.max(&self.bandwidth(ranks).provenance).clone();
        self.bulk.as_ref().map_or(own.clone(), |bulk| own.max(bulk.provenance(ranks)))
    }

    /// Changes it and its way for long messages.
    fn each(&mut self, change: &mut impl FnMut(&mut Self)) {
        if let Some(bulk) = &mut self.bulk {
            change(bulk);
        }
        change(self);
    }

    fn check(&self, profile: &str, table: &str) -> Result<(), ProfileError> {
        let fault = |field: &str, value: String, expected| {
            let field = format!("{table}.{field}");
            Err(ProfileError::Value { name: profile.to_owned(), field, value, expected })
        };
        if self.bus_bandwidth.is_empty() {
            return fault(
                "bus-bandwidth",
                "empty".into(),
                "given for at least one number of ranks",
            );
        }
        for entry in &self.bus_bandwidth {
            if entry.ranks < 2 {
                return fault("bus-bandwidth.ranks", entry.ranks.to_string(), "at least 2");
            }
            if let Some(expected) = Bound::AboveZero.fault(entry.value.bytes_per_s()) {
                return fault("bus-bandwidth.value", entry.value.to_string(), expected);
            }
        }
        match &self.bulk {
            None => Ok(()),
            Some(bulk) if bulk.bulk.is_some() || bulk.largest_message.is_some() => {
                fault("bulk", "more than a line".into(), "latencies and bandwidths alone")
            }
            Some(bulk) => bulk.check(profile, &format!("{table}.bulk")),
        }
    }
}

impl InterconnectProfile {
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
        Ok(self)
    }

    /// `within` is what stands before the names of its tables in the text.
    pub(super) fn check(&self, name: &str, within: &str) -> Result<(), ProfileError> {
        self.nccl.check(name, &format!("{within}nccl"))?;
        let Some(custom) = &self.custom else { return Ok(()) };
        custom.check(name, &format!("{within}custom"))?;
        if custom.largest_message.is_none() {
            return Err(ProfileError::Value {
                name: name.to_owned(),
                field: format!("{within}custom.largest-message"),
                value: "missing".into(),
                expected: "the longest message that the engine's own kernel takes",
            });
        }
        Ok(())
    }

    /// The collectives among `ranks` GPUs; `custom` if the engine has a kernel of its own.
    pub fn form(&self, ranks: u32, custom: bool) -> CollectiveForm {
        let own = self.custom.as_ref().filter(|_| custom);
        CollectiveForm {
            ranks: f64::from(ranks),
            general: self.nccl.protocols(ranks),
            custom: own.and_then(|own| {
                let largest = own.largest_message.as_ref()?.value.as_f64();
                Some(CustomForm { protocols: own.protocols(ranks), largest })
            }),
        }
    }

    /// Whether the bandwidth among exactly so many ranks is in the profile.
    pub fn knows(&self, ranks: u32) -> bool {
        self.nccl.bus_bandwidth.iter().any(|entry| entry.ranks == ranks)
    }

    pub fn provenance(&self, ranks: u32) -> Provenance {
        self.nccl.provenance(ranks)
    }

    fn each(&mut self, mut change: impl FnMut(&mut AllReduceSurface)) {
        self.nccl.each(&mut change);
        if let Some(custom) = &mut self.custom {
            custom.each(&mut change);
        }
    }

    /// The same links at another nominal bandwidth; latencies stay.
    pub fn scaled_to(mut self, nominal: Bandwidth) -> Self {
        let Some(measured) = self.nominal.replace(nominal) else { return self };
        let factor = nominal.bytes_per_s() / measured.bytes_per_s();
        if (factor - 1.0).abs() > 1e-9 {
            self.each(|surface| {
                for entry in &mut surface.bus_bandwidth {
                    entry.value = entry.value * factor;
                    entry.provenance =
                        Provenance::TransferredFrom(format!("links of {measured} nominal"));
                }
            });
        }
        self
    }

    /// Seconds that an empty message takes by NCCL among `ranks` GPUs.
    pub fn latency(&self, ranks: u32) -> f64 {
        self.nccl.latency(ranks)
    }

    /// Bytes per second that one rank exchanges by NCCL among `ranks` GPUs, in long messages.
    pub fn bus_bandwidth(&self, ranks: u32) -> f64 {
        let long = self.nccl.bulk.as_deref().unwrap_or(&self.nccl);
        long.bandwidth(ranks).value.bytes_per_s()
    }

    /// Makes every message start `factor` times as late, of NCCL and of the engine's own kernel.
    /// The latencies say `fitted` from then on.
    pub fn scale_latency(&mut self, factor: f64, source: &str) {
        let fitted = |latency: &mut Sourced<Seconds>| {
            let seconds = Seconds(rounded(latency.value.get() * factor, 6));
            *latency = Sourced::new(seconds, Provenance::Fitted, source);
        };
        self.each(|surface| {
            fitted(&mut surface.latency_base);
            fitted(&mut surface.latency_per_rank);
        });
        self.fits.clear();
    }

    /// Makes every link `factor` times as fast; the bandwidths say `fitted` from then on.
    pub fn scale_bandwidth(&mut self, factor: f64, source: &str) {
        self.each(|surface| {
            for entry in &mut surface.bus_bandwidth {
                let rate = entry.value.bytes_per_s() * factor;
                entry.value = Bandwidth::from_base(rounded(rate, 6));
                entry.provenance = Provenance::Fitted;
                entry.source = source.to_owned();
            }
        });
        self.fits.clear();
    }
}
