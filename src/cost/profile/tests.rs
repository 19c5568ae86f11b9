use proptest::prelude::*;

use super::lookup::{self, Match, Profiles};
use super::*;
use crate::cost::sourced::Provenance;
use crate::cost::weight_kernel::WeightKernel;
use crate::engine_name::EngineName;
use crate::hardware;
use crate::units::Bandwidth;

const A10G: &str = include_str!("../../../calibration/fitted/gpus/a10g.toml");
const G5: &str = include_str!("../../../calibration/fitted/interconnects/g5.toml");
const RED_HAT: &str =
    include_str!("../../../calibration/fitted/deployments/g5--tgis-2023--red-hat-2023.toml");
const TGIS: &str = include_str!("../../../calibration/fitted/deployments/tgis.toml");

#[test]
fn every_embedded_profile_is_what_its_text_says() {
    let mut read = 0;
    for (path, file) in lookup::files() {
        let text = std::fs::read(format!("calibration/fitted/{path}")).unwrap();
        match path.split_once('/').unwrap().0 {
            "gpus" => {
                let embedded = GpuProfile::from_embedded(&path, file).unwrap();
                assert_eq!(GpuProfile::from_toml(&path, &text).unwrap(), embedded);
            }
            "interconnects" => {
                let embedded = InterconnectProfile::from_embedded(&path, file).unwrap();
                assert_eq!(InterconnectProfile::from_toml(&path, &text).unwrap(), embedded);
            }
            "deployments" => {
                let embedded = DeploymentProfile::from_embedded(&path, file).unwrap();
                assert_eq!(DeploymentProfile::from_toml(&path, &text).unwrap(), embedded);
            }
            "weight-kernels" => {
                let embedded = WeightKernelProfile::from_embedded(&path, file).unwrap();
                assert_eq!(WeightKernelProfile::from_toml(&path, &text).unwrap(), embedded);
            }
            other => panic!("unknown folder {other}"),
        }
        read += 1;
    }
    assert!(read > 30, "{read}");
    for kernel in WeightKernel::ALL {
        assert!(lookup::weight_kernel(*kernel).is_ok(), "{kernel}");
    }
}

#[test]
fn no_surface_promises_more_bandwidth_than_the_gpu_has() {
    for name in hardware::gpu_names() {
        let gpu = hardware::gpu(name).unwrap();
        let profile = lookup::gpu(&gpu).unwrap().profile;
        let nominal = gpu.memory.bandwidth.bytes_per_s() * 1.001;
        // Not the small kernels: each reads from the cache what the one before it wrote.
        for bandwidth in [
            profile.gemm.bandwidth.value,
            profile.attention.prefill.bandwidth.value,
            profile.attention.decode.bandwidth.value,
        ] {
            assert!(bandwidth.bytes_per_s() <= nominal, "{name}: {bandwidth}");
        }
        assert!(profile.attention.prefill.peak.value <= gpu.peak.fp16, "{name}");
    }
}

#[test]
fn a_gpu_without_a_profile_is_priced_from_its_datasheet_and_says_so() {
    for name in ["t4", "v100-16gb"] {
        let found = lookup::gpu(&hardware::gpu(name).unwrap()).unwrap();
        assert_eq!((found.matched, found.file), (Match::Datasheet, None));
        assert_eq!(found.profile.provenance(), Provenance::Datasheet);
    }
    let found = lookup::gpu(&hardware::gpu("a10g").unwrap()).unwrap();
    assert_eq!(found.matched, Match::Exact);
    assert_eq!(found.file.as_deref(), Some("gpus/a10g.toml"));
}

#[test]
fn links_are_looked_up_by_environment_then_instance_then_kind() {
    let find = |name, environment| {
        let found = lookup::interconnect(&hardware::instance(name).unwrap(), environment).unwrap();
        found.map(|found| (found.file.unwrap(), found.matched))
    };
    let is = |file: &str, matched| Some((format!("interconnects/{file}.toml"), matched));
    assert_eq!(find("g5.2xlarge", Some("red-hat-2023")), None);
    assert_eq!(find("p4d.24xlarge", Some("red-hat-2023")), is("p4d--red-hat-2023", Match::Exact));
    // Links that were fitted with one engine are the machine's.
    let file = "deployments/g5--tgis-2023--red-hat-2023.toml".to_owned();
    assert_eq!(find("g5.48xlarge", Some("red-hat-2023")), Some((file, Match::Exact)));
    assert_eq!(find("g5.48xlarge", Some("elsewhere")), is("g5", Match::Instance));
    assert_eq!(find("p5.48xlarge", None), is("link--nvswitch", Match::Generic));
    assert_eq!(find("g6.12xlarge", None), is("link--pcie-host-memory", Match::Generic));
}

#[test]
fn faster_links_of_a_kind_scale_the_bandwidth_and_say_transferred() {
    let links = |name| {
        let instance = hardware::instance(name).unwrap();
        lookup::interconnect(&instance, None).unwrap().unwrap().profile
    };
    let (a100, h100) = (links("p4de.24xlarge"), links("p5.48xlarge"));
    assert!((h100.bus_bandwidth(8) / a100.bus_bandwidth(8) - 1.5).abs() < 1e-9);
    assert!(matches!(h100.provenance(8), Provenance::TransferredFrom(_)));
    assert_eq!(a100.provenance(8), Provenance::Fitted);
}

#[test]
fn deployments_are_looked_up_from_the_nearest_to_the_most_general() {
    let find = |instance, engine, environment| {
        let found = lookup::deployment(instance, engine, environment).unwrap();
        (found.file.unwrap(), found.matched)
    };
    let is = |file: &str, matched| (format!("deployments/{file}.toml"), matched);
    use EngineName::{Tgis2023, Tgis2024, Vllm0_4_2, Vllm0_32};
    assert_eq!(
        find("g5.12xlarge", Tgis2023, Some("red-hat-2023")),
        is("g5--tgis-2023--red-hat-2023", Match::Exact)
    );
    assert_eq!(
        find("g5.12xlarge", Tgis2024, Some("red-hat-2023")),
        is("g5--tgis", Match::Instance)
    );
    assert_eq!(find("a2-highgpu-1g", Tgis2023, None), is("tgis", Match::Generic));
    assert_eq!(find("g5.2xlarge", Vllm0_32, None), is("vllm", Match::Generic));
    assert_eq!(find("g5.2xlarge", Vllm0_4_2, None), is("vllm-0.4.2", Match::Generic));
    for engine in EngineName::ALL {
        assert!(lookup::deployment("1 x a40", *engine, None).is_ok(), "{engine}");
    }
}

#[test]
fn the_links_of_a_fitted_deployment_go_with_it() {
    let instance = hardware::instance("g5.48xlarge").unwrap();
    let own = DeploymentProfile::from_toml("mine", RED_HAT.as_bytes()).unwrap();
    let links = own.links.clone().unwrap();
    for profiles in [
        Profiles::look_up(&instance, EngineName::Tgis2023, Some("red-hat-2023")).unwrap(),
        Profiles::with_deployment(&instance, own, "mine.toml").unwrap(),
    ] {
        let found = profiles.interconnect.unwrap();
        assert_eq!(found.profile.bus_bandwidth(8), links.bus_bandwidth(8));
        assert_eq!((found.file, found.matched), (profiles.deployment.file, Match::Exact));
    }
    let alone = hardware::instance("g5.2xlarge").unwrap();
    let profiles = Profiles::look_up(&alone, EngineName::Tgis2023, Some("red-hat-2023")).unwrap();
    assert_eq!(profiles.interconnect, None);
}

#[test]
fn one_call_finds_all_profiles_of_every_instance() {
    for name in hardware::instance_names() {
        let instance = hardware::instance(name).unwrap();
        let profiles = Profiles::look_up(&instance, EngineName::Vllm0_32, None).unwrap();
        assert_eq!(profiles.interconnect.is_some(), instance.num_gpus > 1, "{name}");
    }
}

#[test]
fn every_constant_can_be_set_by_its_name() {
    let mut deployment = DeploymentProfile::from_toml("tgis", TGIS.as_bytes()).unwrap();
    for name in DeploymentProfile::NAMES {
        deployment.set(name, 0.125, "a test").unwrap();
        assert_eq!(deployment.get(name), Some(0.125), "{name}");
    }
    assert_eq!(deployment.provenance(), Provenance::Fitted);
    let mut links = InterconnectProfile::from_toml("g5", G5.as_bytes()).unwrap();
    links.scale_latency(2.0, "a test");
    links.scale_bandwidth(0.5, "a test");
    let before = InterconnectProfile::from_toml("g5", G5.as_bytes()).unwrap();
    for ranks in [4, 8] {
        assert!((links.latency(ranks) / before.latency(ranks) - 2.0).abs() < 1e-5);
        assert!((links.bus_bandwidth(ranks) / before.bus_bandwidth(ranks) - 0.5).abs() < 1e-5);
        assert_eq!(links.provenance(ranks), Provenance::Fitted);
    }
    let unknown = deployment.set("host-per-lair", 1.0, "a test").unwrap_err().to_string();
    assert!(unknown.contains("host-per-layer"), "{unknown}");
    assert!(deployment.set("copy-efficiency", 0.0, "a test").is_err());
    assert!(deployment.set("host-per-layer", f64::NAN, "a test").is_err());
}

#[test]
fn ranks_without_an_entry_take_the_next_larger_group() {
    let links = InterconnectProfile::from_toml("g5", G5.as_bytes()).unwrap();
    assert_eq!(
        links.form(2, false).general.short.bus_bandwidth,
        links.form(4, false).general.short.bus_bandwidth
    );
    assert_eq!(
        links.form(16, false).general.short.bus_bandwidth,
        links.form(8, false).general.short.bus_bandwidth
    );
    assert!(links.knows(8) && !links.knows(2));
}

#[test]
fn a_missing_coefficient_is_an_error_and_never_zero() {
    let without = |line: &str| -> String {
        A10G.lines().filter(|l| !l.starts_with(line)).collect::<Vec<_>>().join("\n")
    };
    for line in ["peak", "start-up", "per-sequence", "dram-bandwidth"] {
        let error = GpuProfile::from_toml("mine", without(line).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("missing field"), "{error}");
    }
    let zero = A10G.replace("\"493.2 GB/s\"", "\"0 GB/s\"");
    let error = GpuProfile::from_toml("mine", zero.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("gemm.bandwidth") && error.contains("above zero"), "{error}");
    let bare = A10G.replace("\"493.2 GB/s\"", "487");
    assert!(GpuProfile::from_toml("mine", bare.as_bytes()).is_err());
    let unknown = format!("colour = 1\n{A10G}");
    assert!(GpuProfile::from_toml("mine", unknown.as_bytes()).is_err());
    let empty = "[nccl]\nlatency-base = { value = \"1 us\", provenance = \"assumed\", source = \"\" }\n\
                 latency-per-rank = { value = \"1 us\", provenance = \"assumed\", source = \"\" }\n\
                 bus-bandwidth = []\n";
    assert!(InterconnectProfile::from_toml("mine", empty.as_bytes()).is_err());
    let certain = RED_HAT.replace("prior-factor = 3.0", "prior-factor = 1.0");
    let error = DeploymentProfile::from_toml("mine", certain.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("fit.constant.bus-bandwidth.prior-factor"), "{error}");
}

#[test]
fn a_profile_is_read_back_as_it_is_written() {
    let profile = GpuProfile::from_toml("a10g", A10G.as_bytes()).unwrap();
    let text = toml::to_string(&profile).unwrap();
    let again = GpuProfile::from_toml("again", text.as_bytes()).unwrap();
    assert_eq!(again.fits, profile.fits);
    assert_eq!(again.provenance(), profile.provenance());
    for name in GemmSurface::NAMES {
        let (old, new) = (profile.gemm.get(name).unwrap(), again.gemm.get(name).unwrap());
        assert!((old - new).abs() <= 1e-12 * old.abs(), "{name}: {old} {new}");
    }
}

#[test]
fn the_a10g_numbers_are_those_of_its_file() {
    let profile = GpuProfile::from_toml("a10g", A10G.as_bytes()).unwrap();
    assert_eq!(profile.gemm.bandwidth.value, Bandwidth::from_gb_per_s(493.2));
    assert_eq!(profile.gemm.provenance(), Provenance::Fitted);
    assert!(matches!(profile.attention.provenance(), Provenance::TransferredFrom(_)));
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..6000) {
        let _ = GpuProfile::from_toml("x", &bytes);
        let _ = InterconnectProfile::from_toml("x", &bytes);
        let _ = DeploymentProfile::from_toml("x", &bytes);
        let _ = WeightKernelProfile::from_toml("x", &bytes);
        let cut = cut.min(A10G.len());
        let _ = GpuProfile::from_toml("x", &A10G.as_bytes()[..cut]);
        let _ = InterconnectProfile::from_toml("x", &G5.as_bytes()[..cut.min(G5.len())]);
    }
}

#[test]
fn a_profile_of_another_format_is_refused_where_it_says_so() {
    let said = format!("format = {FORMAT}\n");
    assert!(A10G.contains(&said));
    let silent = A10G.replacen(&said, "", 1);
    let ours = format!("# A10G\nformat = {FORMAT} # ours\n{silent}");
    let plain = GpuProfile::from_toml("a10g", silent.as_bytes()).unwrap();
    assert_eq!(GpuProfile::from_toml("a10g", ours.as_bytes()).unwrap(), plain);

    let other = format!("# A10G\nformat = 7\n{silent}");
    let error = GpuProfile::from_toml("a10g", other.as_bytes()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("format 7") && message.contains("servesim calibrate"), "{message}");
    let ProfileError::Format { span, .. } = error else { panic!("{error}") };
    assert_eq!(other.find("format = 7").unwrap() + 9..other.find("7\n").unwrap() + 1, span);
    assert_eq!(&other[span], "7");
}

#[test]
fn a_profile_within_a_gpu_file_is_read_and_pointed_at_where_it_stands() {
    let inner = A10G.replace("\n[", "\n[calibration.").replace("[calibration.[", "[[calibration.");
    let file = |head: &str| format!("product = \"mine\"\n\n[calibration]\n{head}{inner}");
    let read = |text: &str| GpuProfile::from_gpu_file("mine.toml", text.as_bytes());
    let plain = GpuProfile::from_toml("a10g", A10G.as_bytes()).unwrap();
    assert_eq!(read(&file("")).unwrap().unwrap(), plain);
    assert_eq!(read("product = \"mine\"\n").unwrap(), None);

    let said = format!("format = {FORMAT}\n");
    let other = file("").replacen(&said, "format = 1\n", 1);
    let Err(ProfileError::Format { span, .. }) = read(&other) else { panic!("taken") };
    assert_eq!(&other[span], "1");
    let slip = file("").replacen("tile-loss", "tile-los", 1);
    let Err(ProfileError::Syntax { span, .. }) = read(&slip) else { panic!("taken") };
    assert_eq!(&slip[span.unwrap()], "tile-los");
}
