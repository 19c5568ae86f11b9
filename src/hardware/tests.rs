use proptest::prelude::*;

use super::*;
use crate::model::Dtype;
use crate::units::{Bytes, UsdPerHour};

#[test]
fn every_gpu_and_instance_of_the_catalogue_is_readable_and_sourced() {
    for name in gpu_names() {
        let gpu = gpu(name).unwrap();
        assert_eq!(gpu.name, name);
        for source in [&gpu.memory.source, &gpu.peak.source, &gpu.chip.source, &gpu.links.source] {
            assert!(!source.is_empty(), "{name}");
        }
    }
    for name in instance_names() {
        let instance = instance(name).unwrap();
        assert_eq!(instance.name, name);
        assert!(instance.cpu.is_some_and(|cpu| cpu.vcpus > 0 && !cpu.source.is_empty()), "{name}");
        assert!(instance.prices.iter().all(|p| !p.source.is_empty() && p.usd.get() > 0.0));
    }
}

#[test]
fn the_catalogue_holds_the_gpus_that_scenarios_name() {
    let wanted = "a10 a100-40gb a100-80gb a10g a40 h100-80gb h200-141gb l4 l40s rtx-4090 \
                  rtx-pro-6000 t4 v100-16gb";
    assert_eq!(gpu_names().collect::<Vec<_>>().join(" "), wanted);
}

#[test]
fn an_a10g_is_not_an_a10() {
    let (a10g, a10) = (gpu("a10g").unwrap(), gpu("a10").unwrap());
    assert_eq!(a10g.peak.fp16.as_tflops(), 70.0);
    assert_eq!(a10.peak.fp16.as_tflops(), 125.0);
}

#[test]
fn gpus_before_ampere_have_no_bfloat16() {
    for (name, has) in [("t4", false), ("v100-16gb", false), ("a10g", true), ("l4", true)] {
        assert_eq!(gpu(name).unwrap().peak_for(Dtype::BFloat16).is_some(), has, "{name}");
    }
}

#[test]
fn the_default_price_is_the_newest_and_a_studys_prices_stay_in_their_list() {
    let list = |name: &str| {
        let instance = instance(name).unwrap();
        instance.price_in_list("redhat-2024-01", PriceKind::OnDemand).map(|p| p.usd.get())
    };
    let newest =
        |name: &str| instance(name).unwrap().price(PriceKind::OnDemand).map(|p| p.usd.get());
    assert_eq!((list("g5.2xlarge"), newest("g5.2xlarge")), (Some(1.212), Some(1.212)));
    assert_eq!((list("g5.12xlarge"), newest("g5.12xlarge")), (Some(5.672), Some(5.672)));
    // The study charged g5.24xlarge's price for g5.48xlarge.
    assert_eq!((list("g5.48xlarge"), newest("g5.48xlarge")), (Some(8.144), Some(16.288)));
    assert_eq!((list("g5.24xlarge"), newest("g5.24xlarge")), (None, Some(8.144)));
    assert_eq!((list("p4d.24xlarge"), newest("p4d.24xlarge")), (Some(32.77), Some(21.9576)));
    assert!(
        instance("p4d.24xlarge").unwrap().prices.iter().any(|p| p.usd == UsdPerHour::new(32.7726))
    );
}

#[test]
fn topologies_tell_gpus_behind_pcie_from_those_behind_a_switch() {
    let link = |name: &str| instance(name).unwrap().interconnect.map(|i| (i.link, i.numa_nodes));
    assert_eq!(link("g5.2xlarge"), None);
    assert_eq!(link("g5.12xlarge"), Some((LinkKind::PcieHostMemory, 1)));
    assert_eq!(link("g5.48xlarge"), Some((LinkKind::PcieHostMemory, 2)));
    assert_eq!(link("p4d.24xlarge"), Some((LinkKind::Nvswitch, 2)));
}

#[test]
fn a_machine_of_ones_own_has_no_price_and_links_from_its_gpu() {
    let machine = InstanceType::custom(gpu("a10g").unwrap(), 4).unwrap();
    assert_eq!(machine.name, "4 x a10g");
    assert!(machine.prices.is_empty());
    assert_eq!(machine.interconnect.unwrap().link, LinkKind::PcieHostMemory);
    let machine = InstanceType::custom(gpu("h100-80gb").unwrap(), 8).unwrap();
    assert_eq!(machine.interconnect.unwrap().link, LinkKind::Nvswitch);
    assert!(InstanceType::custom(gpu("a10g").unwrap(), 0).is_err());
}

#[test]
fn a_slip_in_a_name_gets_a_suggestion() {
    let error = instance("g5.2xlage").unwrap_err().to_string();
    assert!(error.contains("did you mean \"g5.2xlarge\"?"), "{error}");
    let error = gpu("A100-80").unwrap_err().to_string();
    assert!(error.contains("did you mean \"a100-80gb\"?"), "{error}");
}

/// A whole GPU file with one line replaced.
fn edited(from: &str, to: &str) -> Result<Gpu, CatalogError> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/hardware/gpus/a10g.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    Gpu::from_toml("mine", text.replace(from, to).as_bytes())
}

#[test]
fn mistakes_in_a_gpu_file_are_pointed_at() {
    let message = |from, to| match edited(from, to).unwrap_err() {
        CatalogError::Syntax { message, span, .. } => (message, span.is_some()),
        other => panic!("{other}"),
    };
    let (text, spanned) = message("bandwidth = \"600 GB/s\"", "bandwith = \"600 GB/s\"");
    assert!(text.contains("bandwith") && spanned, "{text}");
    let (text, spanned) = message("\"600 GB/s\"", "600");
    assert!(text.contains("invalid type") && spanned, "{text}");
    let (text, _) = message("\"600 GB/s\"", "\"600\"");
    assert!(text.contains("no unit"), "{text}");
    let error = edited("\"22.19 GiB\"", "\"30 GiB\"").unwrap_err().to_string();
    assert!(error.contains("memory.usable"), "{error}");
}

#[test]
fn an_instance_file_must_say_how_its_gpus_are_linked() {
    let error = InstanceType::from_toml("mine", b"gpu = \"l4\"\nnum-gpus = 2\n").unwrap_err();
    assert!(error.to_string().contains("[interconnect]"), "{error}");
    let error = InstanceType::from_toml("mine", b"gpu = \"l5\"\nnum-gpus = 1\n").unwrap_err();
    assert!(error.to_string().contains("unknown GPU"), "{error}");
    assert!(InstanceType::from_toml("mine", b"gpu = \"l4\"\nnum-gpus = 1\n").is_ok());
}

#[test]
fn pcie_bandwidth_follows_generation_and_lanes() {
    let gbs = |name: &str| gpu(name).unwrap().links.pcie_bandwidth().as_gb_per_s();
    assert!((gbs("l4") - 31.5).abs() < 0.1);
    assert!((gbs("t4") - 15.75).abs() < 0.1);
    assert!(gpu("h100-80gb").unwrap().memory.usable > Bytes::from_gib_f64(79.0));
}

proptest! {
    #[test]
    fn reading_a_file_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Gpu::from_toml("fuzz", &bytes);
        let _ = InstanceType::from_toml("fuzz", &bytes);
    }

    #[test]
    fn reading_an_edited_file_never_panics(at in 0..2000usize, with in ".{0,4}", which in 0..60usize) {
        let names: Vec<_> = instance_names().collect();
        let path = format!(
            "{}/hardware/instances/{}.toml", env!("CARGO_MANIFEST_DIR"), names[which % names.len()]
        );
        let mut bytes = std::fs::read(path).unwrap();
        let at = at % bytes.len();
        bytes.splice(at..(at + 2).min(bytes.len()), with.bytes());
        let _ = InstanceType::from_toml("fuzz", &bytes);
        let _ = Gpu::from_toml("fuzz", &bytes);
    }
}
