//! From a device's measurements to a GPU file that holds its calibration.

use crate::calibrate::import;
use crate::calibrate::table::{Operator, Timing, catalogue_gpu};
use crate::cost::profile::GpuProfile;
use crate::cost::sourced::significant;
use crate::hardware::{self, ComputeCapability, Gpu, GpuChip, GpuLinks, GpuMemory, GpuPeak};
use crate::units::{Bandwidth, Bytes, FlopRate};

use super::session::Measurement;
use super::{Description, Probe};

/// A GPU with its calibration, and what it was made from.
#[derive(Clone, Debug)]
pub struct Calibrated {
    pub gpu: Gpu,
    pub profile: GpuProfile,
    pub rows: Vec<Timing>,
    /// Best traffic over buffers beyond the cache.
    pub bandwidth: Bandwidth,
    /// Best rate of any product.
    pub peak: FlopRate,
}

/// Fits surfaces to what was measured, as the import of tables does; `name` is what the GPU will be
/// called.
pub fn calibrated(
    name: &str,
    description: &Description,
    measured: &[Measurement],
    source: &str,
) -> Calibrated {
    let rows = rows(description, measured, source);
    let bandwidth = bandwidth(description, measured);
    let rate = |row: &Timing| match row.operator {
        Operator::Gemm { m, n, k } => 2.0 * (m * n * k) as f64 / row.seconds,
        _ => 0.0,
    };
    let own = |row: &&Timing| row.dtype == description.dtype;
    let peak = rows.iter().filter(own).map(rate).fold(1.0, f64::max);
    let gpu = gpu(name, description, bandwidth, peak);
    let mut profile = import::of_probes(&gpu, rows.iter().filter(own).collect()).profile;
    profile.note = Some(match &description.not_representative {
        Some(why) => format!("{}; products not representative: {why}", description.conditions),
        None => description.conditions.clone(),
    });
    let (bandwidth, peak) =
        (Bandwidth::from_gb_per_s(1e-9 * bandwidth), FlopRate::from_tflops(1e-12 * peak));
    Calibrated { gpu, profile, rows, bandwidth, peak }
}

/// The catalogue's GPU of that product; drivers and datasheets do not write all names alike.
fn known(description: &Description) -> Option<Gpu> {
    let product = description.product.replace("Tesla ", "NVIDIA ");
    let mut gpus = hardware::gpu_names().filter_map(|known| hardware::gpu(known).ok());
    let alias = catalogue_gpu(&description.product).and_then(|name| hardware::gpu(name).ok());
    alias.or_else(|| gpus.find(|gpu| gpu.product == product))
}

/// Named as the catalogue names the GPU, so that `--from-tables` finds them.
fn rows(description: &Description, measured: &[Measurement], source: &str) -> Vec<Timing> {
    let gpu = known(description).map_or(description.product.clone(), |gpu| gpu.name);
    let row = |measurement: &Measurement| match &measurement.probe {
        Probe::Operator { dtype, operator } => Some(Timing {
            gpu: gpu.clone(),
            dtype: dtype.clone(),
            operator: operator.clone(),
            seconds: measurement.sample.seconds,
            source: source.to_owned(),
        }),
        _ => None,
    };
    measured.iter().filter_map(row).collect()
}

/// Bytes per second of the best stream of at least twice the cache.
fn bandwidth(description: &Description, measured: &[Measurement]) -> f64 {
    let rate = |measurement: &Measurement| match measurement.probe {
        Probe::Stream { kind, bytes } if bytes >= 2 * description.cache_bytes => {
            (bytes * kind.traffic()) as f64 / measurement.sample.seconds
        }
        _ => 0.0,
    };
    measured.iter().map(rate).fold(1.0, f64::max)
}

/// The catalogue's GPU of that product, or one that is described by what was measured.
fn gpu(name: &str, description: &Description, bandwidth: f64, peak: f64) -> Gpu {
    if let Some(gpu) = known(description) {
        return Gpu { name: name.to_owned(), ..gpu };
    }
    let source = format!("measured by servesim calibrate: {}", description.conditions);
    // A surface is an asymptote and rows scatter: the limits leave both a little room.
    let peak = FlopRate::from_tflops(significant(1.1e-12 * peak));
    let (major, minor) = description.compute_capability;
    Gpu {
        name: name.to_owned(),
        product: description.product.clone(),
        note: Some(
            "peaks are the best rate of any product measured, for all 16- and 32-bit types".into(),
        ),
        memory: GpuMemory {
            total: Bytes::new(description.memory_bytes),
            usable: Bytes::new(description.memory_bytes),
            bandwidth: Bandwidth::from_gb_per_s(significant(1.05e-9 * bandwidth)),
            l2: Bytes::new(description.cache_bytes),
            source: source.clone(),
        },
        peak: GpuPeak {
            fp32: peak,
            fp16: peak,
            bf16: Some(peak),
            fp8: None,
            int8: None,
            source: source.clone(),
        },
        chip: GpuChip {
            compute_capability: ComputeCapability { major, minor },
            streaming_multiprocessors: description.multiprocessors,
            boost_clock_mhz: description.clock_mhz,
            tdp_watts: 0,
            source,
        },
        links: GpuLinks {
            pcie_generation: 4,
            pcie_lanes: 16,
            nvlink: None,
            source: "assumed".into(),
        },
        calibration: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::device::probe::{CPU_SHAPES, GPU_SHAPES, streams};
    use crate::calibrate::device::{Effort, Sample};
    use crate::calibrate::surfaces::shapes;
    use crate::cost::gemm::{GemmForm, GemmWork};
    use crate::cost::sourced::Provenance;

    fn description(product: &str) -> Description {
        Description {
            product: product.into(),
            conditions: "made up".into(),
            multiprocessors: 80,
            compute_capability: (8, 6),
            clock_mhz: Some(1710),
            memory_bytes: 22 << 30,
            cache_bytes: 6 << 20,
            cache_assumed: false,
            waits_unknown: false,
            dtype: "fp16",
            not_representative: None,
        }
    }

    /// Timings as the embedded profile of the A10G has them.
    fn measured() -> Vec<Measurement> {
        let gpu = hardware::gpu("a10g").unwrap();
        let profile = crate::cost::profile::lookup::gpu(&gpu).unwrap().profile;
        let mut probes = GPU_SHAPES.probes("fp16", Effort::Full);
        probes.extend(streams(6 << 20, 22 << 30, Effort::Full));
        let seconds = |probe: &Probe| match probe {
            Probe::Operator { operator: Operator::Gemm { m, n, k }, .. } => {
                let [m, n, k] = [*m, *n, *k].map(|x| x as f64);
                let form = profile.gemm.form(&gpu, gpu.peak.fp16);
                form.seconds(&GemmWork::dense(m, n, k, 2.0))
            }
            Probe::Operator { operator: Operator::Attention(batch), .. } => {
                let (shape, step) = shapes(batch);
                let form = profile.attention.form(&gpu);
                if batch.chunks > 0 {
                    form.with_prefill(&shape, &step)
                } else {
                    let curve = form.decode_curve(&shape, step.decode_seqs);
                    curve.at(step.decode_context).as_secs_f64()
                }
            }
            Probe::Stream { kind, bytes } => (bytes * kind.traffic()) as f64 / 500e9,
            _ => 1e-5,
        };
        let measurement = |probe: Probe| {
            let sample = Sample { seconds: seconds(&probe), spread: 0.01, repeats: 9 };
            Measurement { probe, sample }
        };
        probes.into_iter().map(measurement).collect()
    }

    #[test]
    fn surfaces_that_made_the_timings_come_back_from_them() {
        let made = calibrated("mine", &description("Some GPU"), &measured(), "test");
        for surface in ["gemm", "attention.prefill", "attention.decode"] {
            let fit = made.profile.fits.iter().find(|fit| fit.surface == surface).unwrap();
            assert!(fit.median_percent < 3.0 && fit.p90_percent < 10.0, "{fit:?}");
        }
        assert!((made.bandwidth.as_gb_per_s() - 500.0).abs() < 1.0, "{:?}", made.bandwidth);
        assert_eq!(made.gpu.chip.streaming_multiprocessors, 80);
    }

    #[test]
    fn a_hosts_products_are_fitted_in_32_bits_and_what_it_has_no_rows_of_says_so() {
        let host = Description {
            compute_capability: (0, 0),
            multiprocessors: 2,
            cache_bytes: 32 << 20,
            dtype: "fp32",
            ..description("Some CPU")
        };
        let form = GemmForm {
            peak: 110e9,
            bandwidth: 25e9,
            floor: 2e-5,
            blend: 2.0,
            tile_loss: 0.05,
            start_up: 5e-6,
            row_loss: 0.3,
            multiprocessors: 2.0,
            peak_limit: 100e9,
            bandwidth_limit: 30e9,
        };
        let product = |probe: Probe| match &probe {
            Probe::Operator { operator: Operator::Gemm { m, n, k }, .. } => {
                let [m, n, k] = [*m, *n, *k].map(|x| x as f64);
                let seconds = form.seconds(&GemmWork::dense(m, n, k, 4.0));
                let sample = Sample { seconds, spread: 0.01, repeats: 9 };
                Some(Measurement { probe, sample })
            }
            Probe::Stream { kind, bytes } => {
                let seconds = (bytes * kind.traffic()) as f64 / 30e9;
                Some(Measurement { sample: Sample { seconds, spread: 0.01, repeats: 9 }, probe })
            }
            _ => None,
        };
        let mut probes = CPU_SHAPES.probes("fp32", Effort::Quick);
        probes.extend(streams(32 << 20, 22 << 30, Effort::Quick));
        let measured: Vec<_> = probes.into_iter().filter_map(product).collect();
        let made = calibrated("host", &host, &measured, "test");
        assert!(made.gpu.is_processor());
        let [fit] = &made.profile.fits[..] else { panic!("{:?}", made.profile.fits) };
        assert_eq!((fit.surface.as_str(), fit.rows), ("gemm", 42));
        assert!(fit.on.starts_with("42 rows, each by a fit to the others; "), "{fit:?}");
        assert!(fit.median_percent < 5.0 && fit.p90_percent < 15.0, "{fit:?}");
        assert_eq!(made.profile.gemm.provenance(), Provenance::Fitted);
        assert_eq!(made.profile.attention.prefill.provenance(), Provenance::Datasheet);
        let from_4090 = Provenance::TransferredFrom("rtx-4090".into());
        assert_eq!(made.profile.sampler.provenance(), from_4090);
    }

    #[test]
    fn a_gpu_file_with_its_calibration_is_read_back_as_it_was() {
        let made = calibrated("mine", &description("NVIDIA A10G"), &measured(), "test");
        // What the catalogue knows it need not be measured.
        assert_eq!(made.gpu.memory, hardware::gpu("a10g").unwrap().memory);
        assert!(made.rows.iter().all(|row| row.gpu == "a10g"));
        let table = toml::Table::try_from(&made.profile).unwrap();
        let gpu = Gpu { calibration: Some(table), ..made.gpu };
        let again = Gpu::from_toml("mine", gpu.to_toml().as_bytes()).unwrap();
        assert_eq!(again, gpu);
        let found = crate::cost::profile::lookup::gpu(&again).unwrap();
        // Units may cost a number its last bit.
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
        for name in crate::cost::profile::GemmSurface::NAMES {
            let numbers = [&found.profile, &made.profile].map(|profile| profile.gemm.get(name));
            assert!(near(numbers[0].unwrap(), numbers[1].unwrap()), "{name}: {numbers:?}");
        }
        assert_eq!(found.profile.fits, made.profile.fits);
        assert_eq!(found.profile.provenance(), made.profile.provenance());
    }

    #[test]
    fn drivers_names_lead_to_the_catalogue() {
        for (product, name) in [
            ("Tesla T4", "t4"),
            ("NVIDIA A10G", "a10g"),
            ("NVIDIA H100 80GB HBM3", "h100-80gb"),
            ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ] {
            let gpu = known(&description(product));
            assert_eq!(gpu.map(|gpu| gpu.name).as_deref(), Some(name), "{product}");
        }
        assert!(known(&description("Some GPU")).is_none());
    }
}
