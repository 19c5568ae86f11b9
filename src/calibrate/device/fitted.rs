//! From a device's measurements to a GPU file that holds its calibration.

use crate::calibrate::fit::{Parameter, least_squares};
use crate::calibrate::table::{AttentionBatch, Operator, Timing, catalogue_gpu};
use crate::cost::StepShape;
use crate::cost::attention::AttentionShape;
use crate::cost::gemm::GemmWork;
use crate::cost::profile::{Fit, GpuProfile, ProfileError, RaggedSurface};
use crate::cost::sourced::significant;
use crate::hardware::{self, ComputeCapability, Gpu, GpuChip, GpuLinks, GpuMemory, GpuPeak};
use crate::units::{Bandwidth, Bytes, FlopRate};

use super::session::Measurement;
use super::statistics::quantile;
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

/// Fits surfaces to what was measured; `name` is what the GPU will be called.
pub fn calibrated(
    name: &str,
    description: &Description,
    measured: &[Measurement],
    source: &str,
) -> Result<Calibrated, ProfileError> {
    let rows = rows(description, measured, source);
    let bandwidth = bandwidth(description, measured);
    let rate = |row: &Timing| match row.operator {
        Operator::Gemm { m, n, k } => 2.0 * (m * n * k) as f64 / row.seconds,
        _ => 0.0,
    };
    let own = |row: &&Timing| row.dtype == description.dtype;
    let peak = rows.iter().filter(own).map(rate).fold(1.0, f64::max);
    let gpu = gpu(name, description, bandwidth, peak);
    let mut profile = GpuProfile::from_datasheet(&gpu);
    profile.note = Some(match &description.not_representative {
        Some(why) => format!("{}; products not representative: {why}", description.conditions),
        None => description.conditions.clone(),
    });
    let own: Vec<&Timing> = rows.iter().filter(own).collect();
    Fitter { gpu: &gpu, rows: &own, source }.all(&mut profile)?;
    let (bandwidth, peak) =
        (Bandwidth::from_gb_per_s(1e-9 * bandwidth), FlopRate::from_tflops(1e-12 * peak));
    Ok(Calibrated { gpu, profile, rows, bandwidth, peak })
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

/// Bytes of one element.
fn width(dtype: &str) -> f64 {
    if dtype == "fp32" { 4.0 } else { 2.0 }
}

/// One coefficient: name, guess, and the factor that it may be off either way.
type Coefficient = (&'static str, f64, f64);

struct Fitter<'a> {
    gpu: &'a Gpu,
    rows: &'a [&'a Timing],
    source: &'a str,
}

impl Fitter<'_> {
    fn all(&self, profile: &mut GpuProfile) -> Result<(), ProfileError> {
        self.gemm(profile)?;
        self.prefill(profile)?;
        self.decode(profile)?;
        self.mixed(profile)?;
        self.elementwise(profile)?;
        self.sampler(profile)
    }

    /// Fits `coefficients` of one surface to `rows` and says how well it went.
    fn surface<R>(
        &self,
        (profile, surface): (&mut GpuProfile, &str),
        coefficients: &[Coefficient],
        rows: &[(R, f64)],
        set: impl Fn(&mut GpuProfile, &str, f64) -> Result<(), ProfileError>,
        predict: impl Fn(&GpuProfile, &R) -> f64,
    ) -> Result<(), ProfileError> {
        if rows.len() < coefficients.len() {
            return Ok(());
        }
        let parameters: Vec<Parameter> = coefficients
            .iter()
            .map(|&(name, guess, factor)| Parameter {
                name: name.to_owned(),
                guess,
                start: guess,
                spread: f64::ln(factor),
                bounds: match name {
                    "blend" => (1.0, 20.0),
                    _ => (guess / factor.powi(3), guess * factor.powi(3)),
                },
            })
            .collect();
        let with = |values: &[f64]| {
            let mut trial = profile.clone();
            for ((name, ..), value) in coefficients.iter().zip(values) {
                set(&mut trial, name, *value)?;
            }
            Ok::<_, ProfileError>(trial)
        };
        let residuals = |values: &[f64]| match with(values) {
            Ok(trial) => {
                rows.iter().map(|(row, seconds)| (predict(&trial, row) / seconds).ln()).collect()
            }
            Err(_) => vec![f64::MAX.sqrt(); rows.len()],
        };
        let fit = least_squares(&parameters, 0.05, residuals);
        let rounded: Vec<f64> = fit.values.iter().map(|&value| significant(value)).collect();
        *profile = with(&rounded)?;
        let mut errors: Vec<f64> = fit.residuals.iter().map(|r| 100.0 * r.exp_m1().abs()).collect();
        errors.sort_by(f64::total_cmp);
        let tenths = |percent: f64| (percent * 10.0).round() / 10.0;
        profile.fits.push(Fit {
            surface: surface.to_owned(),
            rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            median_percent: tenths(quantile(&errors, 0.5)),
            p90_percent: tenths(quantile(&errors, 0.9)),
            on: "the rows that it was fitted to".into(),
            source: self.source.to_owned(),
        });
        Ok(())
    }

    fn gemm(&self, profile: &mut GpuProfile) -> Result<(), ProfileError> {
        let rows: Vec<(GemmWork, f64)> = self
            .rows
            .iter()
            .filter_map(|row| match row.operator {
                Operator::Gemm { m, n, k } => {
                    let [m, n, k] = [m, n, k].map(|x| x as f64);
                    Some((GemmWork::dense(m, n, k, width(&row.dtype)), row.seconds))
                }
                _ => None,
            })
            .collect();
        let (peak, dram) = (self.gpu.peak.fp16, self.gpu.memory.bandwidth.bytes_per_s());
        let coefficients = [
            ("peak", peak.per_s(), 2.0),
            ("bandwidth", 0.8 * dram, 1.6),
            ("floor", 4e-6, 4.0),
            ("blend", 3.0, 2.0),
            ("tile-loss", 0.15, 3.0),
            ("start-up", 2e-6, 4.0),
            ("row-loss", 0.1, 4.0),
        ];
        self.surface(
            (profile, "gemm"),
            &coefficients,
            &rows,
            |profile, name, value| profile.gemm.set(name, value, "set by a fit"),
            |profile, work| profile.gemm.form(self.gpu, peak).seconds(work),
        )
    }

    fn batches(
        &self,
        wanted: impl Fn(&AttentionBatch) -> bool,
    ) -> Vec<((AttentionShape, StepShape), f64)> {
        let row = |row: &&Timing| match &row.operator {
            Operator::Attention(batch) if wanted(batch) => Some((shapes(batch), row.seconds)),
            _ => None,
        };
        self.rows.iter().filter_map(row).collect()
    }

    fn prefill(&self, profile: &mut GpuProfile) -> Result<(), ProfileError> {
        let rows = self.batches(|batch| batch.sequences == 0);
        let guess = profile.attention.prefill.clone();
        let coefficients = [
            ("floor", guess.floor.value.get(), 4.0),
            ("peak", 0.6 * self.gpu.peak.fp16.per_s(), 2.0),
            ("start-up", guess.start_up.value.get(), 4.0),
            ("tail", guess.tail.value, 2.0),
            ("blend", 1.3, 1.5),
            ("bandwidth", guess.bandwidth.value.bytes_per_s(), 2.0),
        ];
        self.surface(
            (profile, "attention.prefill"),
            &coefficients,
            &rows,
            |profile, name, value| profile.attention.prefill.set(name, value, "set by a fit"),
            |profile, (shape, step)| profile.attention.form(self.gpu).with_prefill(shape, step),
        )
    }

    fn decode(&self, profile: &mut GpuProfile) -> Result<(), ProfileError> {
        let rows = self.batches(|batch| batch.chunks == 0);
        let guess = profile.attention.decode.clone();
        let coefficients = [
            ("floor", guess.floor.value.get(), 4.0),
            ("per-sequence", guess.per_sequence.value.get(), 6.0),
            ("bandwidth", guess.bandwidth.value.bytes_per_s(), 2.0),
            ("per-sqrt-context", guess.per_sqrt_context.value.get(), 6.0),
        ];
        self.surface(
            (profile, "attention.decode"),
            &coefficients,
            &rows,
            |profile, name, value| profile.attention.decode.set(name, value, "set by a fit"),
            |profile, (shape, step)| {
                let curve = profile.attention.form(self.gpu).decode_curve(shape, step.decode_seqs);
                curve.at(step.decode_context).as_secs_f64()
            },
        )
    }

    /// From rows where there are some; otherwise the kernel of the chunks at decode's bandwidth.
    fn mixed(&self, profile: &mut GpuProfile) -> Result<(), ProfileError> {
        let guess = RaggedSurface::of_pure(&profile.attention.prefill, &profile.attention.decode);
        profile.attention.mixed = guess.clone();
        let rows = self.batches(|batch| batch.chunks > 0 && batch.sequences > 0);
        let coefficients = [
            ("floor", guess.floor.value.get(), 4.0),
            ("peak", guess.peak.value.per_s(), 6.0),
            ("start-up", guess.start_up.value.get(), 6.0),
            ("tail", guess.tail.value, 2.0),
            ("blend", 1.3, 1.5),
            ("bandwidth", guess.bandwidth.value.bytes_per_s(), 2.0),
        ];
        self.surface(
            (profile, "attention.mixed"),
            &coefficients,
            &rows,
            |profile, name, value| profile.attention.mixed.set(name, value, "set by a fit"),
            |profile, (shape, step)| profile.attention.form(self.gpu).with_prefill(shape, step),
        )
    }

    /// One layer: two norms, the rotary embedding and the activation.
    fn elementwise(&self, profile: &mut GpuProfile) -> Result<(), ProfileError> {
        let seconds = |wanted: &str, at: (u64, u64, u64)| {
            self.rows.iter().find_map(|row| match &row.operator {
                Operator::Elementwise { op, tokens, hidden, ffn, .. }
                    if op == wanted && (*tokens, *hidden, *ffn) == at =>
                {
                    Some(row.seconds)
                }
                _ => None,
            })
        };
        let mut rows = Vec::new();
        for row in self.rows {
            let Operator::Elementwise { op, tokens, hidden, ffn, .. } = &row.operator else {
                continue;
            };
            let at = (*tokens, *hidden, *ffn);
            if op != "layernorm" {
                continue;
            }
            let (Some(rotary), Some(activation)) =
                (seconds("rotary_emb", at), seconds("act_fn", at))
            else {
                continue;
            };
            // Bytes as `layer_bytes_per_token` counts them, with queries and keys of `hidden`.
            let numbers = tokens * (2 * hidden + 3 * ffn + 8 * hidden);
            let bytes = numbers as f64 * width(&row.dtype);
            rows.push((bytes, 2.0 * row.seconds + rotary + activation));
        }
        let guess = profile.elementwise.clone();
        let coefficients = [
            ("floor", guess.floor.value.get(), 4.0),
            ("cache-bandwidth", guess.cache_bandwidth.value.bytes_per_s(), 3.0),
            ("dram-bandwidth", guess.dram_bandwidth.value.bytes_per_s(), 2.0),
            ("cache", guess.cache.value.as_f64(), 3.0),
        ];
        self.surface(
            (profile, "elementwise"),
            &coefficients,
            &rows,
            |profile, name, value| profile.elementwise.set(name, value, "set by a fit"),
            |profile, bytes| profile.elementwise.form().seconds(*bytes),
        )
    }

    fn sampler(&self, profile: &mut GpuProfile) -> Result<(), ProfileError> {
        let row = |row: &&Timing| match &row.operator {
            Operator::Elementwise { op, tokens, hidden, .. } if op == "sampler" => {
                Some(((*tokens as f64, *hidden as f64), row.seconds))
            }
            _ => None,
        };
        let rows: Vec<_> = self.rows.iter().filter_map(row).collect();
        let guess = profile.sampler.clone();
        let coefficients = [
            ("floor", guess.floor.value.get(), 6.0),
            ("per-sequence", guess.per_sequence.value.get(), 6.0),
        ];
        self.surface(
            (profile, "sampler"),
            &coefficients,
            &rows,
            |profile, name, value| profile.sampler.set(name, value, "set by a fit"),
            |profile, (sequences, vocabulary)| {
                profile.sampler.form().seconds(*sequences, *vocabulary)
            },
        )
    }
}

/// One layer of a batch, as the cost model sees it.
fn shapes(batch: &AttentionBatch) -> (AttentionShape, StepShape) {
    let shape = AttentionShape {
        heads: batch.heads as f64,
        kv_heads: batch.kv_heads as f64,
        head_dim: batch.head_dim as f64,
        kv_bytes: width(&batch.kv_dtype),
        full_layers: 1.0,
        window_layers: 0.0,
        window: f64::INFINITY,
    };
    let small = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
    let mut step = StepShape::default();
    for _ in 0..batch.chunks {
        step.push(small(batch.chunk_past), small(batch.chunk_tokens));
    }
    step.decode_seqs = small(batch.sequences);
    step.decode_context = batch.sequences * batch.context;
    (shape, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::device::probe::{GPU_SHAPES, streams};
    use crate::calibrate::device::{Effort, Sample};

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
        let made = calibrated("mine", &description("Some GPU"), &measured(), "test").unwrap();
        for surface in ["gemm", "attention.prefill", "attention.decode"] {
            let fit = made.profile.fits.iter().find(|fit| fit.surface == surface).unwrap();
            assert!(fit.median_percent < 3.0 && fit.p90_percent < 10.0, "{fit:?}");
        }
        assert!((made.bandwidth.as_gb_per_s() - 500.0).abs() < 1.0, "{:?}", made.bandwidth);
        assert_eq!(made.gpu.chip.streaming_multiprocessors, 80);
    }

    #[test]
    fn a_gpu_file_with_its_calibration_is_read_back_as_it_was() {
        let made = calibrated("mine", &description("NVIDIA A10G"), &measured(), "test").unwrap();
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
