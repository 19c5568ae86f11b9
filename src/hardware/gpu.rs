//! One GPU model: the numbers of its datasheet and of its driver, each group with its source.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::Dtype;
use crate::units::{Bandwidth, Bytes, FlopRate};

use super::CatalogError;
use super::catalog::read_toml;

/// A GPU model. Peaks and bandwidths are nominal: what kernels reach of them is calibration's
/// business.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// Preset name, such as `a100-40gb`.
    pub name: String,
    /// The vendor's name, such as `NVIDIA A100-SXM4-40GB`.
    pub product: String,
    pub note: Option<String>,
    pub memory: GpuMemory,
    pub peak: GpuPeak,
    pub chip: GpuChip,
    pub links: GpuLinks,
    /// Its calibration profile, where the file brings one; `cost::profile` reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<toml::Table>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GpuMemory {
    /// What the driver reports (`nvidia-smi`).
    pub total: Bytes,
    /// What PyTorch sees (`total_memory`), of which the engines' utilisation is a fraction. It
    /// differs by 1-2 % between drivers.
    pub usable: Bytes,
    pub bandwidth: Bandwidth,
    pub l2: Bytes,
    pub source: String,
}

/// Dense rates with 32-bit accumulation; structured sparsity, which datasheets like to print, is
/// left out. An absent type is one the tensor cores do not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GpuPeak {
    pub fp32: FlopRate,
    pub fp16: FlopRate,
    pub bf16: Option<FlopRate>,
    pub fp8: Option<FlopRate>,
    pub int8: Option<FlopRate>,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GpuChip {
    pub compute_capability: ComputeCapability,
    pub streaming_multiprocessors: u32,
    /// Absent where a measured machine does not tell.
    pub boost_clock_mhz: Option<u32>,
    pub tdp_watts: u32,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GpuLinks {
    pub pcie_generation: u32,
    pub pcie_lanes: u32,
    /// Of all links in both directions together, as datasheets count; absent without NVLink.
    pub nvlink: Option<Bandwidth>,
    pub source: String,
}

impl GpuLinks {
    /// One direction, after 128b/130b encoding (generations 3 to 5).
    pub fn pcie_bandwidth(&self) -> Bandwidth {
        let giga_transfers = f64::from(1u32 << self.pcie_generation.clamp(1, 6));
        Bandwidth::from_gb_per_s(giga_transfers * f64::from(self.pcie_lanes) / 8.0 * 128.0 / 130.0)
    }
}

/// CUDA compute capability, written `"8.6"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComputeCapability {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for ComputeCapability {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for ComputeCapability {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let text = String::deserialize(de)?;
        text.split_once('.')
            .and_then(|(major, minor)| {
                Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
            })
            .ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "{text:?} is not a compute capability; write \"8.6\""
                ))
            })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct GpuFile {
    product: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    memory: GpuMemory,
    peak: GpuPeak,
    chip: GpuChip,
    links: GpuLinks,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<toml::Table>,
}

impl Gpu {
    /// Reads a GPU file; `name` is what the GPU is called from then on.
    pub fn from_toml(name: &str, bytes: &[u8]) -> Result<Self, CatalogError> {
        Self::from_file(name, read_toml(name, bytes)?)
    }

    pub(super) fn from_file(name: &str, file: GpuFile) -> Result<Self, CatalogError> {
        let GpuFile { product, note, memory, peak, chip, links, calibration } = file;
        let name = name.to_owned();
        let gpu = Self { name, product, note, memory, peak, chip, links, calibration };
        match gpu.fault() {
            Some((key, reason)) => {
                Err(CatalogError::Value { name: gpu.name, key, reason: reason.to_owned() })
            }
            None => Ok(gpu),
        }
    }

    /// Bytes of data that all multiprocessors read which L2 holds. That of A100 and H100 is in two
    /// halves, each of which caches for the multiprocessors next to it: such data stand in both (NVIDIA
    /// A100 Tensor Core GPU Architecture, 2020, "A100 L2 cache").
    pub fn shared_l2(&self) -> Bytes {
        let ComputeCapability { major, minor } = self.chip.compute_capability;
        let halves = matches!((major, minor), (8, 0) | (9, 0));
        if halves { self.memory.l2.scale(0.5) } else { self.memory.l2 }
    }

    /// Whether it is a host's processor, which `calibrate --device cpu` describes as of compute
    /// capability 0.0.
    pub fn is_processor(&self) -> bool {
        self.chip.compute_capability == ComputeCapability { major: 0, minor: 0 }
    }

    /// The text of a GPU file, from which [`Gpu::from_toml`] makes this GPU again.
    pub fn to_toml(&self) -> String {
        let Self { name: _, product, note, memory, peak, chip, links, calibration } = self.clone();
        let file = GpuFile { product, note, memory, peak, chip, links, calibration };
        toml::to_string(&file).expect("a GPU has only plain values")
    }

    /// The key that is wrong, and what it must be.
    fn fault(&self) -> Option<(&'static str, &'static str)> {
        let Self { memory, peak, chip, links, .. } = self;
        let rates = [
            ("peak.fp32", Some(peak.fp32)),
            ("peak.fp16", Some(peak.fp16)),
            ("peak.bf16", peak.bf16),
            ("peak.fp8", peak.fp8),
            ("peak.int8", peak.int8),
        ];
        let idle = |(_, rate): &(_, Option<FlopRate>)| rate.is_some_and(|rate| rate.per_s() <= 0.0);
        if let Some((key, _)) = rates.into_iter().find(idle) {
            return Some((key, "must be above zero; leave out a type that the GPU does not have"));
        }
        let faults = [
            (
                memory.usable > memory.total || memory.usable == Bytes::ZERO,
                "memory.usable",
                "must be above zero and at most memory.total",
            ),
            (memory.total > Bytes::new(1 << 50), "memory.total", "must be at most 1024 TiB"),
            (memory.bandwidth.bytes_per_s() <= 0.0, "memory.bandwidth", "must be above zero"),
            (
                !(1..=1024).contains(&chip.streaming_multiprocessors),
                "chip.streaming-multiprocessors",
                "must be from 1 to 1024",
            ),
            (
                !(1..=7).contains(&links.pcie_generation),
                "links.pcie-generation",
                "must be from 1 to 7",
            ),
            (!(1..=32).contains(&links.pcie_lanes), "links.pcie-lanes", "must be from 1 to 32"),
        ];
        faults.into_iter().find(|(wrong, ..)| *wrong).map(|(_, key, reason)| (key, reason))
    }

    /// The dense rate for matrices of this dtype; `None` where the GPU cannot compute in it.
    pub fn peak_for(&self, dtype: Dtype) -> Option<FlopRate> {
        match dtype {
            Dtype::Float32 => Some(self.peak.fp32),
            Dtype::Float16 => Some(self.peak.fp16),
            Dtype::BFloat16 => self.peak.bf16,
        }
    }
}
