//! A GPU's profile from operator tables: its own rows where there are enough, else those of the GPU
//! nearest to it, scaled by nominal figures and marked as transferred, else nominal figures.

use crate::cost::profile::{
    AttentionSurfaces, DecodeSurface, ElementwiseSurface, FORMAT, Fit, GemmSurface, GpuProfile,
    MixedMemorySurface, MixedSurface, PrefillSurface, SamplerSurface, SkewSurface,
};
use crate::cost::sourced::{Coefficient, Provenance, Seconds, Sourced, significant};
use crate::hardware::{self, Gpu};
use crate::units::{Bandwidth, Bytes, FlopRate};

use super::surfaces::{self, Dropped, Surface};
use super::table::{Timing, catalogue_gpu};

/// What an import came to.
#[derive(Clone, Debug)]
pub struct Import {
    pub profile: GpuProfile,
    /// Rows of this GPU that do not count, by reason.
    pub dropped: Dropped,
    /// Rows of this GPU in the tables.
    pub rows: usize,
    /// Surfaces that were carried over, and from where.
    pub transferred: Vec<(&'static str, String)>,
}

/// Whose surfaces stand for those that a GPU has no rows of: first the same chip or architecture.
struct Kin {
    gpu: &'static str,
    gemm: &'static str,
    prefill: &'static str,
    decode: &'static str,
    small: &'static str,
}

/// The A10G's attention was never timed. Its decode is taken to be that of the L40S, whose cache
/// hierarchy is nearer than the A100's; its prefill that of the A100, with the same instructions.
const KIN: [Kin; 10] = [
    Kin { gpu: "a10", gemm: "a10g", prefill: "a100-80gb", decode: "l40s", small: "a40" },
    Kin { gpu: "a10g", gemm: "a40", prefill: "a100-80gb", decode: "l40s", small: "a40" },
    Kin { gpu: "a40", gemm: "a10g", prefill: "a100-80gb", decode: "l40s", small: "a100-80gb" },
    Kin {
        gpu: "a100-40gb",
        gemm: "a100-80gb",
        prefill: "a100-80gb",
        decode: "a100-80gb",
        small: "a100-80gb",
    },
    Kin { gpu: "l4", gemm: "l40s", prefill: "l40s", decode: "l40s", small: "rtx-4090" },
    Kin {
        gpu: "l40s",
        gemm: "rtx-4090",
        prefill: "rtx-4090",
        decode: "rtx-4090",
        small: "rtx-4090",
    },
    Kin {
        gpu: "h100-80gb",
        gemm: "h200-141gb",
        prefill: "a100-80gb",
        decode: "a100-80gb",
        small: "a100-80gb",
    },
    Kin {
        gpu: "h200-141gb",
        gemm: "h100-80gb",
        prefill: "h100-80gb",
        decode: "h100-80gb",
        small: "a100-80gb",
    },
    Kin { gpu: "rtx-4090", gemm: "l40s", prefill: "l40s", decode: "l40s", small: "l40s" },
    Kin {
        gpu: "rtx-pro-6000",
        gemm: "rtx-4090",
        prefill: "rtx-4090",
        decode: "rtx-4090",
        small: "rtx-4090",
    },
];

/// Whose 8-bit GEMMs stand for those of a GPU without rows of them.
const FP8_KIN: &str = "l40s";

/// Floor and time per sequence of the sampler at a vocabulary of 128,256, in microseconds: two
/// runs of vLLM 0.19 (`../shared/physics/operator-surfaces.md` 4.5).
const SAMPLERS: [(&str, f64, f64); 2] = [("rtx-4090", 8.4, 1.0), ("rtx-pro-6000", 18.0, 0.5)];

pub(super) const HALF: [&str; 4] = ["fp16", "bf16", "float16", "bfloat16"];

/// Builds the profile of `gpu` from all rows of the tables.
pub fn import(rows: &[Timing], gpu: &Gpu) -> Import {
    Importer { rows, gpu, dropped: Dropped::default(), fits: Vec::new(), transferred: Vec::new() }
        .run()
}

struct Importer<'a> {
    rows: &'a [Timing],
    gpu: &'a Gpu,
    dropped: Dropped,
    fits: Vec<Fit>,
    transferred: Vec<(&'static str, String)>,
}

/// A surface with how it was come by.
struct Origin<F> {
    form: F,
    provenance: Provenance,
    source: String,
}

impl<F> Origin<F> {
    fn scaled<T: Coefficient>(&self, value: f64, how: &str) -> Sourced<T> {
        let source = match &self.provenance {
            Provenance::Fitted => self.source.clone(),
            _ => format!("{}; {how}", self.source),
        };
        Sourced::new(T::from_base(significant(value)), self.provenance.clone(), source)
    }
}

impl Importer<'_> {
    fn rows_of(&self, gpu: &str) -> Vec<&Timing> {
        self.rows.iter().filter(|row| catalogue_gpu(&row.gpu) == Some(gpu)).collect()
    }

    fn kin(&self) -> Option<&'static Kin> {
        KIN.iter().find(|kin| kin.gpu == self.gpu.name)
    }

    /// The surface from the GPU's own rows, or from its kin's.
    fn find<F>(
        &mut self,
        what: &'static str,
        kin: Option<&'static str>,
        fit: impl Fn(&[&Timing], &Gpu) -> Option<Surface<F>>,
    ) -> Option<(Origin<F>, Gpu)> {
        if let Some(surface) = fit(&self.rows_of(&self.gpu.name), self.gpu) {
            self.dropped.join(&surface.dropped);
            self.fits.extend(surface.fits);
            let origin = Origin {
                form: surface.form,
                provenance: Provenance::Fitted,
                source: surface.source,
            };
            return Some((origin, self.gpu.clone()));
        }
        let kin = kin?;
        let other = hardware::gpu(kin).expect("kin is in the catalogue");
        let surface = fit(&self.rows_of(kin), &other)?;
        self.transferred.push((what, kin.to_owned()));
        let origin = Origin {
            form: surface.form,
            provenance: Provenance::TransferredFrom(kin.to_owned()),
            source: surface.source,
        };
        Some((origin, other))
    }

    fn run(mut self) -> Import {
        let nominal = GpuProfile::from_datasheet(self.gpu);
        let kin = self.kin();
        let gemm = self
            .gemm("gemm", kin.map(|kin| kin.gemm), &HALF, 2.0, |gpu| Some(gpu.peak.fp16))
            .unwrap_or_else(|| self.nominal("gemm", nominal.gemm));
        let gemm_fp8 = self.gpu.peak.fp8.and(
            self.gemm("gemm-fp8", Some(FP8_KIN), &["fp8"], 1.0, |gpu| gpu.peak.fp8)
                .or(nominal.gemm_fp8),
        );
        let prefill = self
            .prefill(kin)
            .unwrap_or_else(|| self.nominal("attention.prefill", nominal.attention.prefill));
        let decode = self
            .decode(kin)
            .unwrap_or_else(|| self.nominal("attention.decode", nominal.attention.decode));
        let (mixed, mixed_memory) = self.mixed(&prefill, &decode);
        let elementwise = self
            .elementwise(kin)
            .unwrap_or_else(|| self.nominal("elementwise", nominal.elementwise));
        let note = (!self.transferred.is_empty()).then(|| {
            let parts: Vec<String> =
                self.transferred.iter().map(|(what, from)| format!("{what} from {from}")).collect();
            format!("transferred: {}", parts.join(", "))
        });
        let sampler = sampler(self.gpu);
        Import {
            rows: self.rows_of(&self.gpu.name).len(),
            profile: GpuProfile {
                note,
                gemm,
                gemm_fp8,
                attention: AttentionSurfaces {
                    prefill,
                    decode,
                    mixed,
                    mixed_memory,
                    skew: Some(SkewSurface::published(self.gpu)),
                },
                elementwise,
                sampler,
                fits: self.fits,
            },
            dropped: self.dropped,
            transferred: self.transferred,
        }
    }

    fn nominal<S>(&mut self, what: &'static str, surface: S) -> S {
        self.transferred.push((what, "the datasheet".into()));
        surface
    }

    fn gemm(
        &mut self,
        what: &'static str,
        kin: Option<&'static str>,
        dtypes: &[&str],
        element: f64,
        peak: fn(&Gpu) -> Option<FlopRate>,
    ) -> Option<GemmSurface> {
        let own_peak = peak(self.gpu)?.per_s();
        let (o, other) = self.find(what, kin, |rows, gpu| {
            surfaces::gemm(rows, gpu, dtypes, element, peak(gpu)?.per_s())
        })?;
        let faster = own_peak / peak(&other)?.per_s();
        let wider = bandwidth_ratio(self.gpu, &other);
        let same = "same kernels";
        Some(GemmSurface {
            peak: o.scaled(o.form.peak * faster, "scaled by nominal peaks"),
            bandwidth: o.scaled(o.form.bandwidth * wider, "scaled by nominal bandwidths"),
            floor: o.scaled(o.form.floor, same),
            blend: o.scaled(o.form.blend, same),
            tile_loss: o.scaled(o.form.tile_loss, same),
            start_up: o.scaled(o.form.start_up, same),
            row_loss: o.scaled(o.form.row_loss, same),
        })
    }

    fn prefill(&mut self, kin: Option<&'static Kin>) -> Option<PrefillSurface> {
        let kin = kin.map(|kin| kin.prefill);
        let (o, other) = self.find("attention.prefill", kin, surfaces::prefill)?;
        let faster = self.gpu.peak.fp16.per_s() / other.peak.fp16.per_s();
        Some(PrefillSurface {
            floor: o.scaled(o.form.floor, "as there"),
            peak: o.scaled(o.form.peak * faster, "scaled by nominal peaks"),
            walk: o.scaled(o.form.walk / clock_ratio(self.gpu, &other), "scaled by clocks"),
            blend: o.scaled(o.form.blend, "as there"),
            bandwidth: o.scaled(
                o.form.bandwidth * bandwidth_ratio(self.gpu, &other),
                "scaled by nominal bandwidths",
            ),
        })
    }

    fn decode(&mut self, kin: Option<&'static Kin>) -> Option<DecodeSurface> {
        let kin = kin.map(|kin| kin.decode);
        let (o, other) = self.find("attention.decode", kin, surfaces::decode)?;
        let slower = 1.0 / clock_ratio(self.gpu, &other);
        Some(DecodeSurface {
            floor: o.scaled(o.form.floor, "as there"),
            per_sequence: o.scaled(o.form.per_sequence * slower, "scaled by clocks"),
            bandwidth: o.scaled(
                o.form.bandwidth * bandwidth_ratio(self.gpu, &other),
                "scaled by nominal bandwidths",
            ),
            per_sqrt_context: o.scaled(o.form.per_sqrt_context, "as there"),
        })
    }

    /// Mixed batches were timed on two GPUs only. Elsewhere a row in them costs what form M3 says
    /// of the pure surfaces (`../shared/physics/operator-surfaces.md` 4.4).
    fn mixed(
        &mut self,
        prefill: &PrefillSurface,
        decode: &DecodeSurface,
    ) -> (MixedSurface, Option<MixedMemorySurface>) {
        let surfaces = AttentionSurfaces {
            prefill: prefill.clone(),
            decode: decode.clone(),
            mixed: GpuProfile::from_datasheet(self.gpu).attention.mixed,
            mixed_memory: None,
            skew: None,
        };
        let form = surfaces.form(self.gpu);
        let fitted = self.find("attention.mixed", None, |rows, gpu| {
            surfaces::mixed(rows, gpu, form.prefill, form.decode)
        });
        if let Some((o, _)) = fitted {
            let memory = o.form.memory.map(|memory| MixedMemorySurface {
                bandwidth: o.scaled(memory.bandwidth, ""),
                cache: o.scaled(memory.cache, ""),
            });
            let mixed = MixedSurface {
                floor: o.scaled(o.form.floor, ""),
                peak: o.scaled(o.form.peak, ""),
                walk: o.scaled(o.form.walk, ""),
                blend: o.scaled(o.form.blend, ""),
                per_sequence: o.scaled(o.form.per_sequence, ""),
            };
            return (mixed, memory);
        }
        let two = "rtx-4090 and rtx-pro-6000";
        self.transferred.push(("attention.mixed", two.into()));
        let from = |origin: &str| Provenance::TransferredFrom(origin.to_owned());
        let untested = "that of the pure surface; untested on this GPU";
        let mixed = MixedSurface {
            floor: Sourced::new(Seconds::from_micros(8.0), from(two), "between those of the two"),
            peak: Sourced::new(prefill.peak.value, from("prefill"), untested),
            walk: Sourced::new(prefill.walk.value, from("prefill"), untested),
            blend: Sourced::new(1.6, from(two), "between those of the two"),
            per_sequence: Sourced::new(Seconds::from_micros(1.0), from(two), "of that order"),
        };
        let memory = MixedMemorySurface {
            bandwidth: Sourced::new(decode.bandwidth.value, from("decode"), untested),
            cache: Sourced::new(
                Bytes::from_base(significant(self.gpu.memory.l2.as_f64() * 1.5)),
                from(two),
                "1.5 x L2",
            ),
        };
        (mixed, Some(memory))
    }

    fn elementwise(&mut self, kin: Option<&'static Kin>) -> Option<ElementwiseSurface> {
        let kin = kin.map(|kin| kin.small);
        let (o, other) = self.find("elementwise", kin, surfaces::elementwise)?;
        let chip = |gpu: &Gpu| f64::from(gpu.chip.streaming_multiprocessors);
        let wider = chip(self.gpu) / chip(&other) * clock_ratio(self.gpu, &other);
        let cache = self.gpu.memory.l2.as_f64() / other.memory.l2.as_f64();
        Some(ElementwiseSurface {
            floor: o.scaled(o.form.floor, "as there"),
            cache_bandwidth: o
                .scaled(o.form.cache_bandwidth * wider, "scaled by multiprocessors and clocks"),
            dram_bandwidth: o.scaled(
                o.form.dram_bandwidth * bandwidth_ratio(self.gpu, &other),
                "scaled by nominal bandwidths",
            ),
            cache: o.scaled(o.form.cache * cache, "scaled by L2"),
        })
    }
}

fn bandwidth_ratio(gpu: &Gpu, other: &Gpu) -> f64 {
    gpu.memory.bandwidth.bytes_per_s() / other.memory.bandwidth.bytes_per_s()
}

fn clock_ratio(gpu: &Gpu, other: &Gpu) -> f64 {
    f64::from(gpu.chip.boost_clock_mhz) / f64::from(other.chip.boost_clock_mhz)
}

fn sampler(gpu: &Gpu) -> SamplerSurface {
    let published = "casys-kaist/LLMServingSim (MIT), vLLM 0.19, vocabulary of 128,256";
    if let Some((_, floor, each)) = SAMPLERS.iter().find(|(name, ..)| *name == gpu.name) {
        let number =
            |us: f64| Sourced::new(Seconds::from_micros(us), Provenance::Fitted, published);
        return SamplerSurface { floor: number(*floor), per_sequence: number(*each) };
    }
    let (name, floor, each) = SAMPLERS[0];
    let nominal = Bandwidth::from_gb_per_s(1008.0);
    let slower = nominal.bytes_per_s() / gpu.memory.bandwidth.bytes_per_s();
    let from = Provenance::TransferredFrom(name.to_owned());
    SamplerSurface {
        floor: Sourced::new(Seconds::from_micros(floor), from.clone(), published),
        per_sequence: Sourced::new(
            Seconds::from_micros(significant(each * slower)),
            from,
            format!("{published}; scaled by nominal bandwidths"),
        ),
    }
}

/// The profile as text: one line for each coefficient.
pub fn to_toml(profile: &GpuProfile, gpu: &Gpu) -> String {
    let table = toml::Table::try_from(profile).expect("a profile is plain data");
    let mut text = format!("# {}, written by `servesim calibrate --from-tables`.\n", gpu.product);
    text.push_str(&format!("format = {FORMAT}\n"));
    if let Some(note) = table.get("note") {
        text.push_str(&format!("note = {note}\n"));
    }
    write_tables(&mut text, "", &table);
    for fit in table.get("fit").and_then(toml::Value::as_array).into_iter().flatten() {
        text.push_str("\n[[fit]]\n");
        for (key, value) in fit.as_table().into_iter().flatten() {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    text
}

/// The number as it was meant: a unit's factor leaves traces in the last digits.
fn rounded(value: &toml::Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let number = text.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    match (value.as_float(), number) {
        (Some(number), _) => toml::Value::Float(significant(number)).to_string(),
        (None, Some(number)) => {
            let unit = text.split_once(' ').map_or("", |(_, unit)| unit);
            format!("\"{} {unit}\"", significant(number))
        }
        (None, None) => value.to_string(),
    }
}

fn write_tables(text: &mut String, path: &str, table: &toml::Table) {
    for (name, entry) in table {
        let Some(inner) = entry.as_table() else { continue };
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let coefficients = inner.values().all(|v| v.get("value").is_some());
        if !coefficients {
            write_tables(text, &path, inner);
            continue;
        }
        text.push_str(&format!("\n[{path}]\n"));
        for (key, number) in inner {
            let part = |name: &str| &number[name];
            text.push_str(&format!(
                "{key} = {{ value = {}, provenance = {}, source = {} }}\n",
                rounded(part("value")),
                part("provenance"),
                part("source")
            ));
        }
    }
}
