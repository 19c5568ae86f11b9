//! Instance types: a machine with GPUs, its links, and its prices.

use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::units::{Bandwidth, Bytes};

use super::catalog::{self, read_toml};
use super::{CatalogError, Gpu, Price, PriceKind};

named_enum! {
    /// How GPUs of one machine reach each other.
    pub enum LinkKind as "link" {
        /// Over PCIe, copying through host memory: cloud A10G, L4 and T4 have no peer access.
        PcieHostMemory = "pcie-host-memory",
        /// Over PCIe, straight from GPU to GPU.
        PcieP2p = "pcie-p2p",
        /// Point to point: neighbours fast, others over several hops.
        Nvlink = "nvlink",
        /// All to all at full speed.
        Nvswitch = "nvswitch",
    }
}

/// What links the GPUs of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Interconnect {
    pub link: LinkKind,
    /// Nominal, from one GPU to its peers, in one direction.
    pub bandwidth: Bandwidth,
    pub numa_nodes: u32,
    pub gpus_per_numa_node: u32,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cpu {
    pub kind: String,
    pub vcpus: u32,
    pub ram: Bytes,
    pub source: String,
}

/// A machine to deploy on, a cloud's or one's own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceType {
    /// The cloud's own name, or `4 x a10g` for a custom machine.
    pub name: String,
    pub cloud: Option<String>,
    pub gpu: Gpu,
    pub num_gpus: u32,
    pub note: Option<String>,
    /// Absent on custom machines.
    pub cpu: Option<Cpu>,
    /// Absent on machines with one GPU.
    pub interconnect: Option<Interconnect>,
    pub prices: Vec<Price>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct InstanceFile {
    cloud: Option<String>,
    gpu: String,
    num_gpus: u32,
    note: Option<String>,
    cpu: Option<Cpu>,
    interconnect: Option<Interconnect>,
    #[serde(default, rename = "price")]
    prices: Vec<Price>,
}

const MAX_GPUS: u32 = 64;

impl InstanceType {
    /// Reads an instance file; its GPU comes from the embedded catalogue.
    pub fn from_toml(name: &str, bytes: &[u8]) -> Result<Self, CatalogError> {
        Self::from_toml_with(name, bytes, catalog::gpu)
    }

    /// Reads an instance file whose GPU name `gpu` resolves, for catalogues of one's own.
    pub fn from_toml_with(
        name: &str,
        bytes: &[u8],
        gpu: impl FnOnce(&str) -> Result<Gpu, CatalogError>,
    ) -> Result<Self, CatalogError> {
        Self::from_file(name, read_toml(name, bytes)?, gpu)
    }

    pub(super) fn from_file(
        name: &str,
        file: InstanceFile,
        gpu: impl FnOnce(&str) -> Result<Gpu, CatalogError>,
    ) -> Result<Self, CatalogError> {
        let fault = |key, reason| Err(CatalogError::Value { name: name.to_owned(), key, reason });
        if !(1..=MAX_GPUS).contains(&file.num_gpus) {
            return fault("num-gpus", format!("must be from 1 to {MAX_GPUS}"));
        }
        match &file.interconnect {
            None if file.num_gpus > 1 => {
                return fault("num-gpus", "above 1 needs an [interconnect]".into());
            }
            Some(link) if link.bandwidth.bytes_per_s() <= 0.0 => {
                return fault("interconnect.bandwidth", "must be above zero".into());
            }
            Some(link)
                if u64::from(link.numa_nodes) * u64::from(link.gpus_per_numa_node)
                    != u64::from(file.num_gpus) =>
            {
                return fault(
                    "interconnect.gpus-per-numa-node",
                    format!("times numa-nodes must be num-gpus ({})", file.num_gpus),
                );
            }
            _ => {}
        }
        Ok(Self {
            name: name.to_owned(),
            cloud: file.cloud,
            gpu: gpu(&file.gpu)?,
            num_gpus: file.num_gpus,
            note: file.note,
            cpu: file.cpu,
            interconnect: file.interconnect,
            prices: file.prices,
        })
    }

    /// A machine of one's own: no price, and links guessed from the GPU's.
    pub fn custom(gpu: Gpu, num_gpus: u32) -> Result<Self, CatalogError> {
        let name = format!("{num_gpus} x {}", gpu.name);
        if !(1..=MAX_GPUS).contains(&num_gpus) {
            let reason = format!("must be from 1 to {MAX_GPUS}");
            return Err(CatalogError::Value { name, key: "num-gpus", reason });
        }
        let interconnect = (num_gpus > 1).then(|| {
            let (link, bandwidth) = match gpu.links.nvlink {
                // Bridges and meshes join few GPUs; four and more sit behind switches.
                Some(both) if num_gpus >= 4 => (LinkKind::Nvswitch, both * 0.5),
                Some(both) => (LinkKind::Nvlink, both * 0.5),
                None => (LinkKind::PcieHostMemory, gpu.links.pcie_bandwidth()),
            };
            Interconnect {
                link,
                bandwidth,
                numa_nodes: 1,
                gpus_per_numa_node: num_gpus,
                source: "assumed from the GPU's own links".into(),
            }
        });
        Ok(Self {
            name,
            cloud: None,
            gpu,
            num_gpus,
            note: None,
            cpu: None,
            interconnect,
            prices: Vec::new(),
        })
    }

    /// The newest price of this kind outside named price lists.
    pub fn price(&self, kind: PriceKind) -> Option<&Price> {
        self.newest(|price| price.kind == kind && price.price_list.is_none())
    }

    /// The newest price of this kind in the named list, such as `redhat-2024-01`.
    pub fn price_in_list(&self, list: &str, kind: PriceKind) -> Option<&Price> {
        self.newest(|price| price.kind == kind && price.price_list.as_deref() == Some(list))
    }

    fn newest(&self, wanted: impl Fn(&Price) -> bool) -> Option<&Price> {
        self.prices.iter().filter(|price| wanted(price)).max_by(|a, b| a.date.cmp(&b.date))
    }
}
