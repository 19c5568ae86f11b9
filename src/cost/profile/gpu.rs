//! The kernels of one GPU: surfaces of `../shared/physics/operator-surfaces.md`.

use serde::{Deserialize, Serialize};

use crate::cost::attention::{AttentionForm, DecodeForm, RaggedForm, SkewForm, TILE};
use crate::cost::elementwise::{ElementwiseForm, SamplerForm};
use crate::cost::gemm::GemmForm;
use crate::cost::sourced::{Provenance, Seconds, Sourced};
use crate::embedded::Value;
use crate::hardware::Gpu;
use crate::units::{Bandwidth, Bytes, FlopRate};

use super::{ProfileError, coefficients, read_embedded, read_toml, read_toml_table};

/// Surfaces of one GPU. What it can do at best stands in the hardware catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GpuProfile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// 16-bit weights and activations.
    pub gemm: GemmSurface,
    /// 8-bit floating point on both sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemm_fp8: Option<GemmSurface>,
    pub attention: AttentionSurfaces,
    pub elementwise: ElementwiseSurface,
    pub sampler: SamplerSurface,
    /// What the surfaces were fitted to, and how well.
    #[serde(default, rename = "fit")]
    pub fits: Vec<Fit>,
}

/// How well a surface meets the measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fit {
    /// The surface, such as `gemm` or `attention.decode`.
    pub surface: String,
    pub rows: u32,
    /// Absolute error in per cent.
    pub median_percent: f64,
    pub p90_percent: f64,
    /// Which rows the error is of: held out from the fit or not, and which were left out.
    pub on: String,
    pub source: String,
}

coefficients! {
    /// Form "H", see [`GemmForm`].
    pub struct GemmSurface {
        peak: FlopRate = "peak", AboveZero,
        bandwidth: Bandwidth = "bandwidth", AboveZero,
        floor: Seconds = "floor", Any,
        blend: f64 = "blend", AtLeastOne,
        tile_loss: f64 = "tile-loss", Any,
        start_up: Seconds = "start-up", Any,
        row_loss: f64 = "row-loss", Any,
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AttentionSurfaces {
    pub prefill: RaggedSurface,
    pub decode: DecodeSurface,
    /// Chunks and decoding sequences in one batch.
    pub mixed: RaggedSurface,
    /// Absent: contexts inside a batch count as equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew: Option<SkewSurface>,
}

coefficients! {
    /// See [`RaggedForm`].
    pub struct RaggedSurface {
        floor: Seconds = "floor", Any,
        peak: FlopRate = "peak", AboveZero,
        start_up: Seconds = "start-up", Any,
        tail: f64 = "tail", Any,
        blend: f64 = "blend", AtLeastOne,
        bandwidth: Bandwidth = "bandwidth", AboveZero,
    }
}

coefficients! {
    /// Form "D3", see [`DecodeForm`].
    pub struct DecodeSurface {
        floor: Seconds = "floor", Any,
        per_sequence: Seconds = "per-sequence", Any,
        bandwidth: Bandwidth = "bandwidth", AboveZero,
        per_sqrt_context: Seconds = "per-sqrt-context", Any,
    }
}

coefficients! {
    /// Unequal contexts, see [`SkewForm`].
    pub struct SkewSurface {
        decode: f64 = "decode", Any,
        mixed: f64 = "mixed", Any,
    }
}

coefficients! {
    /// See [`ElementwiseForm`].
    pub struct ElementwiseSurface {
        floor: Seconds = "floor", Any,
        cache_bandwidth: Bandwidth = "cache-bandwidth", AboveZero,
        dram_bandwidth: Bandwidth = "dram-bandwidth", AboveZero,
        cache: Bytes = "cache", Any,
    }
}

coefficients! {
    /// See [`SamplerForm`].
    pub struct SamplerSurface {
        floor: Seconds = "floor", Any,
        per_sequence: Seconds = "per-sequence", Any,
    }
}

impl GemmSurface {
    /// The surface on `gpu`, held to `peak` and to the GPU's DRAM bandwidth.
    pub fn form(&self, gpu: &Gpu, peak: FlopRate) -> GemmForm {
        GemmForm {
            peak: self.peak.value.per_s(),
            bandwidth: self.bandwidth.value.bytes_per_s(),
            floor: self.floor.value.get(),
            blend: self.blend.value,
            tile_loss: self.tile_loss.value,
            start_up: self.start_up.value.get(),
            row_loss: self.row_loss.value,
            multiprocessors: f64::from(gpu.chip.streaming_multiprocessors),
            peak_limit: peak.per_s(),
            bandwidth_limit: gpu.memory.bandwidth.bytes_per_s(),
        }
    }
}

impl AttentionSurfaces {
    /// The surfaces on `gpu`: no kernel reads KV faster than its DRAM.
    pub fn form(&self, gpu: &Gpu) -> AttentionForm {
        let dram = gpu.memory.bandwidth.bytes_per_s();
        let decode = &self.decode;
        AttentionForm {
            prefill: self.prefill.form(gpu),
            decode: DecodeForm {
                floor: decode.floor.value.get(),
                per_sequence: decode.per_sequence.value.get(),
                bandwidth: decode.bandwidth.value.bytes_per_s().min(dram),
                per_sqrt_context: decode.per_sqrt_context.value.get(),
            },
            mixed: self.mixed.form(gpu),
            skew: self.skew.as_ref().map_or_else(SkewForm::default, |skew| SkewForm {
                decode: skew.decode.value,
                mixed: skew.mixed.value,
            }),
            tile: if gpu.is_processor() { 1.0 } else { TILE },
            multiprocessors: f64::from(gpu.chip.streaming_multiprocessors.max(1)),
            cache: gpu.shared_l2().as_f64().max(1.0),
        }
    }

    pub fn provenance(&self) -> Provenance {
        self.prefill.provenance().max(self.decode.provenance()).max(self.mixed.provenance())
    }
}

impl RaggedSurface {
    /// For batches of chunks and decoding sequences where nobody timed them: the kernel of chunks
    /// alone at decode's bandwidth, since a decode row is a chunk of one token there. On the two GPUs
    /// that were timed it is 7 and 10 % off in the middle.
    pub fn of_pure(prefill: &Self, decode: &DecodeSurface) -> Self {
        fn untested<T: Copy>(origin: &str, number: &Sourced<T>) -> Sourced<T> {
            let provenance = Provenance::TransferredFrom(origin.to_owned());
            let source = "that of the pure surface; untested on this GPU";
            Sourced::new(number.value, provenance, source)
        }
        Self {
            floor: untested("prefill", &prefill.floor),
            peak: untested("prefill", &prefill.peak),
            start_up: untested("prefill", &prefill.start_up),
            tail: untested("prefill", &prefill.tail),
            blend: untested("prefill", &prefill.blend),
            bandwidth: untested("decode", &decode.bandwidth),
        }
    }

    /// The surface on `gpu`, held to its DRAM's bandwidth: what comes from L2 is counted apart.
    pub fn form(&self, gpu: &Gpu) -> RaggedForm {
        RaggedForm {
            floor: self.floor.value.get(),
            peak: self.peak.value.per_s(),
            start_up: self.start_up.value.get(),
            tail: self.tail.value,
            blend: self.blend.value,
            bandwidth: self.bandwidth.value.bytes_per_s().min(gpu.memory.bandwidth.bytes_per_s()),
        }
    }
}

impl SkewSurface {
    /// Read off the published skew grids of two GPUs under vLLM 0.19
    /// (`../shared/physics/operator-surfaces.md` 4.4); never fitted to a serving run. A thread block
    /// has a multiprocessor's share of the bandwidth, so what the longest takes alone grows with
    /// their number: 4 and 2.5 sequences are those of 158, the mean of the two GPUs.
    pub fn published(gpu: &Gpu) -> Self {
        let origin = Provenance::TransferredFrom("rtx-4090 and rtx-pro-6000".into());
        let source = "ratios in the skew grids of casys-kaist/LLMServingSim (MIT), scaled by \
                      multiprocessors";
        let number = |sequences: f64| {
            let scaled = sequences * f64::from(gpu.chip.streaming_multiprocessors) / 158.0;
            Sourced::new((scaled * 100.0).round() / 100.0, origin.clone(), source)
        };
        Self { decode: number(4.0), mixed: number(2.5) }
    }
}

impl ElementwiseSurface {
    pub fn form(&self) -> ElementwiseForm {
        ElementwiseForm {
            floor: self.floor.value.get(),
            cache_bandwidth: self.cache_bandwidth.value.bytes_per_s(),
            dram_bandwidth: self.dram_bandwidth.value.bytes_per_s(),
            cache: self.cache.value.as_f64(),
        }
    }
}

impl SamplerSurface {
    pub fn form(&self) -> SamplerForm {
        SamplerForm { floor: self.floor.value.get(), per_sequence: self.per_sequence.value.get() }
    }
}

impl GpuProfile {
    /// Reads a profile; `name` is what messages call it.
    pub fn from_toml(name: &str, bytes: &[u8]) -> Result<Self, ProfileError> {
        read_toml::<Self>(name, bytes)?.checked(name)
    }

    /// Reads the profile that a GPU file brings in its table `calibration`, if it does.
    pub fn from_gpu_file(name: &str, bytes: &[u8]) -> Result<Option<Self>, ProfileError> {
        let own: Option<Self> = read_toml_table(name, "calibration", bytes)?;
        own.map(|profile| profile.checked(name)).transpose()
    }

    /// Reads a profile that comes with the program.
    pub fn from_embedded(name: &str, file: Value) -> Result<Self, ProfileError> {
        read_embedded::<Self>(name, file)?.checked(name)
    }

    fn checked(self, name: &str) -> Result<Self, ProfileError> {
        self.gemm.check(name, "gemm")?;
        if let Some(fp8) = &self.gemm_fp8 {
            fp8.check(name, "gemm-fp8")?;
        }
        self.attention.prefill.check(name, "attention.prefill")?;
        self.attention.decode.check(name, "attention.decode")?;
        self.attention.mixed.check(name, "attention.mixed")?;
        if let Some(skew) = &self.attention.skew {
            skew.check(name, "attention.skew")?;
        }
        self.elementwise.check(name, "elementwise")?;
        self.sampler.check(name, "sampler")?;
        Ok(self)
    }

    /// A profile from nominal figures alone, with the fractions of them that the fitted GPUs reach
    /// in the middle (`../shared/physics/operator-surfaces.md` 4.1-4.5). On the two GPUs where it
    /// was tried, predictions from nominal figures were 9-15 % off end to end.
    pub fn from_datasheet(gpu: &Gpu) -> Self {
        let peak = |share: f64, why: &str| {
            let rate = FlopRate::from_tflops(gpu.peak.fp16.as_tflops() * share);
            generic(rate, &format!("{share} of the nominal 16-bit peak; {why}"))
        };
        let bandwidth = |share: f64, why: &str| {
            generic(
                gpu.memory.bandwidth * share,
                &format!("{share} of the nominal bandwidth; {why}"),
            )
        };
        let fitted = "fitted GPUs in the middle";
        let tiles = |peak: Sourced<FlopRate>| GemmSurface {
            peak,
            bandwidth: bandwidth(0.82, "fitted GPUs: 0.73-0.98"),
            floor: generic(Seconds::from_micros(4.0), fitted),
            blend: generic(3.0, fitted),
            tile_loss: generic(0.19, fitted),
            start_up: generic(Seconds::from_micros(2.0), fitted),
            row_loss: generic(0.1, fitted),
        };
        let fp8 = gpu.peak.fp8.map(|rate| {
            tiles(generic(rate, "the nominal 8-bit peak; an asymptote, with the losses below"))
        });
        let micros = |us: f64| generic(Seconds::from_micros(us), fitted);
        let ragged = || RaggedSurface {
            floor: micros(4.0),
            peak: peak(0.6, "fitted GPUs: 0.51-0.85"),
            start_up: micros(3.0),
            tail: generic(0.5, fitted),
            blend: generic(1.5, fitted),
            bandwidth: bandwidth(0.85, "fitted GPUs: 0.7-1"),
        };
        Self {
            note: Some("from the datasheet with generic efficiencies".into()),
            gemm: tiles(peak(1.0, "an asymptote, with the losses below; fitted GPUs: 0.68-1.15")),
            gemm_fp8: fp8,
            attention: AttentionSurfaces {
                prefill: ragged(),
                decode: DecodeSurface {
                    floor: micros(11.0),
                    per_sequence: micros(0.15),
                    bandwidth: bandwidth(0.8, "fitted GPUs: 0.78-0.97"),
                    per_sqrt_context: micros(0.05),
                },
                mixed: ragged(),
                skew: Some(SkewSurface::published(gpu)),
            },
            elementwise: ElementwiseSurface {
                floor: micros(12.0),
                cache_bandwidth: bandwidth(1.6, "A40"),
                dram_bandwidth: bandwidth(0.73, "A40"),
                cache: generic(gpu.memory.l2.scale(2.0), "2 x L2"),
            },
            sampler: SamplerSurface {
                floor: micros(8.4),
                per_sequence: generic(
                    Seconds(1e-6 * 1008e9 / gpu.memory.bandwidth.bytes_per_s()),
                    "RTX 4090's, scaled by bandwidth",
                ),
            },
            fits: Vec::new(),
        }
    }

    /// The least trusted number that a 16-bit step touches.
    pub fn provenance(&self) -> Provenance {
        self.gemm
            .provenance()
            .max(self.attention.provenance())
            .max(self.elementwise.provenance())
            .max(self.sampler.provenance())
    }
}

fn generic<T>(value: T, source: &str) -> Sourced<T> {
    Sourced::new(value, Provenance::Datasheet, source)
}
