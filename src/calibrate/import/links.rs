//! Profiles of links from all-reduce rows.

use crate::cost::profile::{AllReduceSurface, Fit, InterconnectProfile, RankBandwidth};
use crate::cost::sourced::{Coefficient, Provenance, Sourced, significant};
use crate::units::{Bandwidth, Bytes};

use super::super::surfaces::{AllReduce, FittedLine, Messages, Surface};
use super::Tables;

/// A file of `calibration/fitted/interconnects` that comes from tables.
#[derive(Debug)]
struct Links {
    name: &'static str,
    note: &'static str,
    /// Whose rows.
    gpu: &'static str,
    nccl: Messages,
    custom: Option<Messages>,
    /// What the rows are of, where that is not the links that the file is for.
    from: Option<&'static str>,
    /// Whether the file is for links of any nominal bandwidth.
    scales: bool,
    /// Whether the rows' links join pairs only, and wider groups are taken to reach as much.
    pairs: bool,
}

/// A step of 4,096 tokens of a model 8,192 wide.
const LONGEST: u64 = 64 << 20;

/// vLLM's kernel takes no more: in its table the time doubles from 4 to 8 MiB, where NCCL goes on.
const LONGEST_OF_VLLM: u64 = 4 << 20;

/// Nominal, one way: NVLink 3, and 16 lanes of PCIe 4.
const NVLINK: f64 = 300e9;
const PCIE: f64 = 32e9;

const NVSWITCH_NCCL: Messages = Messages {
    surface: "nccl",
    link: "NVLink3-NVSwitch",
    implementation: "NCCL",
    source: "aic/nccl",
    largest: LONGEST,
    nominal: NVLINK,
};
const NVSWITCH_VLLM: Messages = Messages {
    surface: "custom",
    implementation: "vllm_graph",
    source: "aic/vllm",
    largest: LONGEST_OF_VLLM,
    ..NVSWITCH_NCCL
};
const PCIE_NCCL: Messages = Messages { link: "PCIe4", nominal: PCIE, ..NVSWITCH_NCCL };
/// The one version in the tables that uses peer access between GPUs on PCIe.
const PCIE_PEERS: Messages =
    Messages { implementation: "sglang_graph", source: "aic/sglang-0.5.12", ..PCIE_NCCL };

const LINKS: [Links; 6] = [
    Links {
        name: "link--nvswitch",
        note: "A100 NVSwitch; other generations scale by nominal bandwidth per direction (H100: 450/300), \
               with the same latencies",
        gpu: "a100-80gb",
        nccl: NVSWITCH_NCCL,
        custom: Some(NVSWITCH_VLLM),
        from: None,
        scales: true,
        pairs: false,
    },
    Links {
        name: "link--nvlink",
        note: "point-to-point NVLink: NVSwitch among two ranks is taken for a pair; wider groups are \
               assumed to reach as much",
        gpu: "a100-80gb",
        nccl: NVSWITCH_NCCL,
        custom: None,
        from: Some("a100-80gb NVSwitch"),
        scales: true,
        pairs: true,
    },
    Links {
        name: "link--pcie-host-memory",
        note: "GPUs that exchange through host memory; environments differ by 3-5 times",
        gpu: "l40s",
        nccl: PCIE_NCCL,
        custom: None,
        from: Some("l40s"),
        scales: false,
        pairs: false,
    },
    Links {
        name: "link--pcie-p2p",
        note: "GPUs that reach each other over PCIe directly",
        gpu: "l40s",
        nccl: PCIE_PEERS,
        custom: None,
        from: Some("l40s"),
        scales: false,
        pairs: false,
    },
    Links {
        name: "g6e",
        note: "8 x L40S: the machine that was measured is of this kind, not this cloud",
        gpu: "l40s",
        nccl: PCIE_NCCL,
        custom: None,
        from: Some("l40s on PCIe 4"),
        scales: false,
        pairs: false,
    },
    Links {
        name: "p4d--red-hat-2023",
        note: "8 x A100-40 on NVSwitch; the 80 GB machine of the tables has the same links",
        gpu: "a100-80gb",
        nccl: NVSWITCH_NCCL,
        custom: None,
        from: Some("a100-80gb NVSwitch"),
        scales: true,
        pairs: false,
    },
];

/// Names of the profiles of links that tables give.
pub fn links_names() -> impl Iterator<Item = &'static str> {
    LINKS.iter().map(|links| links.name)
}

impl Tables<'_> {
    /// The profile of links of that name; `None` without rows of it.
    pub fn links(&self, name: &str) -> Option<InterconnectProfile> {
        let links = LINKS.iter().find(|links| links.name == name)?;
        let rows = &self.gpus.get(links.gpu)?.timings;
        let nccl = links.nccl.fit(rows)?;
        let custom = match &links.custom {
            Some(messages) => Some(messages.fit(rows)?),
            None => None,
        };
        let mut fits: Vec<Fit> = nccl.fits.clone();
        fits.extend(custom.iter().flat_map(|custom| custom.fits.clone()));
        let custom = custom.map(|custom| {
            let mut surface = links.surface(&custom);
            let why =
                "the tables' vLLM 0.14: time doubles between 4 and 8 MiB, where NCCL takes over";
            let largest = Bytes::new(LONGEST_OF_VLLM);
            surface.largest_message = Some(Sourced::new(largest, Provenance::Measured, why));
            surface
        });
        Some(InterconnectProfile {
            note: Some(links.note.to_owned()),
            nominal: links.scales.then(|| Bandwidth::from_base(links.nccl.nominal)),
            nccl: links.surface(&nccl),
            custom,
            fits,
        })
    }
}

impl Links {
    fn surface(&self, fitted: &Surface<AllReduce>) -> AllReduceSurface {
        let AllReduce { ranks, short, bulk } = &fitted.form;
        let mut surface = self.line(ranks, short, &fitted.source);
        surface.bulk = Some(Box::new(self.line(ranks, bulk, &fitted.source)));
        surface
    }

    fn line(&self, ranks: &[u32], line: &FittedLine, source: &str) -> AllReduceSurface {
        let provenance = self
            .from
            .map_or(Provenance::Fitted, |from| Provenance::TransferredFrom(from.to_owned()));
        let seconds = |value: f64| {
            Sourced::new(Coefficient::from_base(significant(value)), provenance.clone(), source)
        };
        let entry = |(ranks, value): (&u32, &f64)| RankBandwidth {
            ranks: *ranks,
            value: Bandwidth::from_base(significant(*value)),
            provenance: provenance.clone(),
            source: source.to_owned(),
        };
        let mut bus_bandwidth: Vec<RankBandwidth> =
            ranks.iter().zip(&line.bandwidth).map(entry).collect();
        if self.pairs {
            bus_bandwidth.retain(|entry| entry.ranks == 2);
            let (provenance, source) = (Provenance::Assumed, "as a pair".to_owned());
            let wide: Vec<RankBandwidth> = bus_bandwidth
                .iter()
                .map(|pair| RankBandwidth {
                    ranks: 8,
                    value: pair.value,
                    provenance: provenance.clone(),
                    source: source.clone(),
                })
                .collect();
            bus_bandwidth.extend(wide);
        }
        AllReduceSurface {
            latency_base: seconds(line.base),
            latency_per_rank: seconds(line.per_rank),
            largest_message: None,
            bus_bandwidth,
            bulk: None,
        }
    }
}
