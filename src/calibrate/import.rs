//! A GPU's profile from operator tables: its own rows where there are enough, else those of the GPU
//! nearest to it, scaled by nominal figures and marked as transferred, else nominal figures.

mod kin;
mod links;
mod text;
mod weight_kernels;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::cost::attention::{DecodeForm, RaggedForm};
use crate::cost::elementwise::ElementwiseForm;
use crate::cost::gemm::GemmForm;
use crate::cost::profile::{
    AttentionSurfaces, DecodeSurface, ElementwiseSurface, Fit, GemmSurface, GpuProfile,
    RaggedSurface, SamplerSurface, SkewSurface,
};
use crate::cost::sourced::{Coefficient, Provenance, Seconds, Sourced, significant};
use crate::hardware::{self, Gpu};
use crate::units::Bandwidth;

use super::surfaces::{self, Dropped, Origin, Precision, Rows, Surface};
use super::table::{Timing, catalogue_gpu};
use kin::Kin;

pub use links::links_names;
pub use text::{links_to_toml, to_toml, weight_kernel_to_toml};
pub use weight_kernels::weight_kernel_names;

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

/// Floor and time per sequence of the sampler at a vocabulary of 128,256, in microseconds: two
/// runs of vLLM 0.19 (`../shared/physics/operator-surfaces.md` 4.5).
const SAMPLERS: [(&str, f64, f64); 2] = [("rtx-4090", 8.4, 1.0), ("rtx-pro-6000", 18.0, 0.5)];

/// Rows by GPU, with the surfaces through them.
///
/// A surface is fitted when it is first asked for, and once: several GPUs may have it carried over.
pub struct Tables<'a> {
    gpus: BTreeMap<&'static str, Own<'a>>,
}

/// The profile of `gpu` from probes of it: the same fits, and nominal figures where it has no rows.
pub fn of_probes(gpu: &Gpu, timings: Vec<&Timing>) -> Import {
    let own = Own::new(gpu.clone(), timings, Origin::Probes);
    let tables = Tables { gpus: BTreeMap::new() };
    Importer::new(&tables, gpu, Some(&own)).run()
}

/// What the rows of one GPU give.
struct Own<'a> {
    gpu: Gpu,
    timings: Vec<&'a Timing>,
    origin: Origin,
    /// What the products of a 16-bit step are computed in.
    native: &'static Precision,
    gemm: OnceLock<Option<Surface<GemmForm>>>,
    gemm_fp8: OnceLock<Option<Surface<GemmForm>>>,
    prefill: OnceLock<Option<Surface<RaggedForm>>>,
    decode: OnceLock<Option<Surface<DecodeForm>>>,
    elementwise: OnceLock<Option<Surface<ElementwiseForm>>>,
}

impl<'a> Own<'a> {
    fn new(gpu: Gpu, timings: Vec<&'a Timing>, origin: Origin) -> Self {
        let (gemm, gemm_fp8, prefill) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let (decode, elementwise) = (OnceLock::new(), OnceLock::new());
        // Others time no products in 32 bits; a host has no others.
        let half = timings.iter().any(|timing| Precision::HALF.dtypes.contains(&&*timing.dtype));
        let native = match origin {
            Origin::Probes if !half => &Precision::SINGLE,
            _ => &Precision::HALF,
        };
        Self { gpu, timings, origin, native, gemm, gemm_fp8, prefill, decode, elementwise }
    }

    fn rows(&self) -> Rows<'_> {
        Rows { gpu: &self.gpu, timings: &self.timings, origin: self.origin }
    }

    fn gemm(&self) -> Option<&Surface<GemmForm>> {
        self.gemm.get_or_init(|| surfaces::gemm(&self.rows(), self.native)).as_ref()
    }

    fn gemm_fp8(&self) -> Option<&Surface<GemmForm>> {
        self.gemm_fp8.get_or_init(|| surfaces::gemm(&self.rows(), &Precision::FP8)).as_ref()
    }

    fn prefill(&self) -> Option<&Surface<RaggedForm>> {
        self.prefill.get_or_init(|| surfaces::prefill(&self.rows())).as_ref()
    }

    fn decode(&self) -> Option<&Surface<DecodeForm>> {
        self.decode.get_or_init(|| surfaces::decode(&self.rows())).as_ref()
    }

    fn elementwise(&self) -> Option<&Surface<ElementwiseForm>> {
        self.elementwise.get_or_init(|| surfaces::elementwise(&self.rows())).as_ref()
    }
}

impl<'a> Tables<'a> {
    /// All rows whose GPU the catalogue has.
    pub fn new(rows: &'a [Timing]) -> Self {
        let mut timings: BTreeMap<&str, Vec<&Timing>> = BTreeMap::new();
        for row in rows {
            if let Some(name) = catalogue_gpu(&row.gpu) {
                timings.entry(name).or_default().push(row);
            }
        }
        let own = |(name, timings)| {
            let gpu = hardware::gpu(name).expect("a name of the catalogue");
            (name, Own::new(gpu, timings, Origin::Tables))
        };
        Self { gpus: timings.into_iter().map(own).collect() }
    }

    /// GPUs that have rows.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.gpus.keys().copied()
    }

    /// The rows of a GPU, if it has any.
    pub fn rows(&self, name: &str) -> Option<Rows<'_>> {
        self.gpus.get(name).map(Own::rows)
    }

    /// The profile of `gpu` from its own rows, and from its kin's where they do not suffice.
    pub fn import(&self, gpu: &Gpu) -> Import {
        Importer::new(self, gpu, self.gpus.get(gpu.name.as_str())).run()
    }

    /// The same as if it had no rows of its own.
    pub fn transfer(&self, gpu: &Gpu) -> Import {
        Importer::new(self, gpu, None).run()
    }
}

struct Importer<'a> {
    tables: &'a Tables<'a>,
    own: Option<&'a Own<'a>>,
    gpu: &'a Gpu,
    dropped: Dropped,
    fits: Vec<Fit>,
    transferred: Vec<(&'static str, String)>,
}

/// A surface with how it was come by.
struct ComeBy<F> {
    form: F,
    provenance: Provenance,
    source: String,
}

impl<F> ComeBy<F> {
    fn scaled<T: Coefficient>(&self, value: f64, how: &str) -> Sourced<T> {
        let source = match &self.provenance {
            Provenance::Fitted => self.source.clone(),
            _ => format!("{}; {how}", self.source),
        };
        Sourced::new(T::from_base(significant(value)), self.provenance.clone(), source)
    }
}

impl<'a> Importer<'a> {
    fn new(tables: &'a Tables<'a>, gpu: &'a Gpu, own: Option<&'a Own<'a>>) -> Self {
        let (dropped, fits, transferred) = (Dropped::default(), Vec::new(), Vec::new());
        Self { tables, own, gpu, dropped, fits, transferred }
    }

    /// Takes a surface through the GPU's own rows.
    fn fitted<F: Copy>(&mut self, surface: &Surface<F>) -> ComeBy<F> {
        self.dropped.join(&surface.dropped);
        self.fits.extend(surface.fits.iter().cloned());
        ComeBy {
            form: surface.form,
            provenance: Provenance::Fitted,
            source: surface.source.clone(),
        }
    }

    /// The surface from the GPU's own rows, or from its kin's.
    fn find<F: Copy + 'a>(
        &mut self,
        what: &'static str,
        kin: Option<&'static str>,
        surface: impl Fn(&'a Own<'a>) -> Option<&'a Surface<F>>,
    ) -> Option<(ComeBy<F>, &'a Gpu)> {
        if let Some(surface) = self.own.and_then(&surface) {
            return Some((self.fitted(surface), self.gpu));
        }
        let kin = kin.filter(|kin| *kin != self.gpu.name)?;
        let other = self.tables.gpus.get(kin)?;
        let surface = surface(other)?;
        self.transferred.push((what, kin.to_owned()));
        let origin = ComeBy {
            form: surface.form,
            provenance: Provenance::TransferredFrom(kin.to_owned()),
            source: surface.source.clone(),
        };
        Some((origin, &other.gpu))
    }

    fn run(mut self) -> Import {
        let nominal = GpuProfile::from_datasheet(self.gpu);
        let kin = kin::of(self.gpu);
        let gemm = self
            .gemm(&Precision::HALF, kin.map(|kin| kin.gemm), Own::gemm)
            .unwrap_or_else(|| self.nominal("gemm", nominal.gemm));
        let gemm_fp8 = self.gpu.peak.fp8.and(
            self.gemm(&Precision::FP8, Some(kin::FP8_KIN), Own::gemm_fp8).or(nominal.gemm_fp8),
        );
        let prefill = self
            .prefill(kin)
            .unwrap_or_else(|| self.nominal("attention.prefill", nominal.attention.prefill));
        let decode = self
            .decode(kin)
            .unwrap_or_else(|| self.nominal("attention.decode", nominal.attention.decode));
        let mixed = self.mixed(&prefill, &decode);
        let elementwise = self
            .elementwise(kin)
            .unwrap_or_else(|| self.nominal("elementwise", nominal.elementwise));
        let note = (!self.transferred.is_empty()).then(|| {
            let parts: Vec<String> =
                self.transferred.iter().map(|(what, from)| format!("{what} from {from}")).collect();
            format!("transferred: {}", parts.join(", "))
        });
        let sampler = self.sampler();
        Import {
            rows: self.own.map_or(0, |own| own.timings.len()),
            profile: GpuProfile {
                note,
                gemm,
                gemm_fp8,
                attention: AttentionSurfaces {
                    prefill,
                    decode,
                    mixed,
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
        precision: &'static Precision,
        kin: Option<&'static str>,
        surface: impl Fn(&'a Own<'a>) -> Option<&'a Surface<GemmForm>>,
    ) -> Option<GemmSurface> {
        let own_peak = (precision.peak)(self.gpu)?.per_s();
        let (o, other) = self.find(precision.surface, kin, surface)?;
        let faster = own_peak / (precision.peak)(other)?.per_s();
        let wider = kin::bandwidth_ratio(self.gpu, other);
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

    fn prefill(&mut self, kin: Option<&'static Kin>) -> Option<RaggedSurface> {
        let kin = kin.map(|kin| kin.prefill);
        let (o, other) = self.find("attention.prefill", kin, Own::prefill)?;
        let faster = self.gpu.peak.fp16.per_s() / other.peak.fp16.per_s();
        let slower = 1.0 / kin::clock_ratio(self.gpu, other);
        Some(RaggedSurface {
            floor: o.scaled(o.form.floor, "as there"),
            peak: o.scaled(o.form.peak * faster, "scaled by nominal peaks"),
            start_up: o.scaled(o.form.start_up * slower, "scaled by clocks"),
            tail: o.scaled(o.form.tail, "as there"),
            blend: o.scaled(o.form.blend, "as there"),
            bandwidth: o.scaled(
                o.form.bandwidth * kin::bandwidth_ratio(self.gpu, other),
                "scaled by nominal bandwidths",
            ),
        })
    }

    fn decode(&mut self, kin: Option<&'static Kin>) -> Option<DecodeSurface> {
        let kin = kin.map(|kin| kin.decode);
        let (o, other) = self.find("attention.decode", kin, Own::decode)?;
        let slower = 1.0 / kin::clock_ratio(self.gpu, other);
        Some(DecodeSurface {
            floor: o.scaled(o.form.floor, "as there"),
            per_sequence: o.scaled(o.form.per_sequence * slower, "scaled by clocks"),
            bandwidth: o.scaled(
                o.form.bandwidth * kin::bandwidth_ratio(self.gpu, other),
                "scaled by nominal bandwidths",
            ),
            per_sqrt_context: o.scaled(o.form.per_sqrt_context, "as there"),
        })
    }

    /// Mixed batches were timed on two GPUs only.
    fn mixed(&mut self, prefill: &RaggedSurface, decode: &DecodeSurface) -> RaggedSurface {
        let surfaces = AttentionSurfaces {
            prefill: prefill.clone(),
            decode: decode.clone(),
            mixed: prefill.clone(),
            skew: None,
        };
        let form = surfaces.form(self.gpu);
        let rows = self.own.map(Own::rows);
        let fitted = rows.and_then(|rows| surfaces::mixed(&rows, form.prefill, form.decode));
        if let Some(surface) = fitted {
            let o = self.fitted(&surface);
            return RaggedSurface {
                floor: o.scaled(o.form.floor, ""),
                peak: o.scaled(o.form.peak, ""),
                start_up: o.scaled(o.form.start_up, ""),
                tail: o.scaled(o.form.tail, ""),
                blend: o.scaled(o.form.blend, ""),
                bandwidth: o.scaled(o.form.bandwidth, ""),
            };
        }
        self.transferred.push(("attention.mixed", "prefill and decode".into()));
        RaggedSurface::of_pure(prefill, decode)
    }

    /// From its own rows, else as published.
    fn sampler(&mut self) -> SamplerSurface {
        let Some(surface) = self.own.and_then(|own| surfaces::sampler(&own.rows())) else {
            return sampler(self.gpu);
        };
        let o = self.fitted(&surface);
        SamplerSurface {
            floor: o.scaled(o.form.floor, ""),
            per_sequence: o.scaled(o.form.per_sequence, ""),
        }
    }

    fn elementwise(&mut self, kin: Option<&'static Kin>) -> Option<ElementwiseSurface> {
        let kin = kin.map(|kin| kin.small);
        let (o, other) = self.find("elementwise", kin, Own::elementwise)?;
        let chip = |gpu: &Gpu| f64::from(gpu.chip.streaming_multiprocessors);
        let wider = chip(self.gpu) / chip(other) * kin::clock_ratio(self.gpu, other);
        let cache = self.gpu.memory.l2.as_f64() / other.memory.l2.as_f64();
        Some(ElementwiseSurface {
            floor: o.scaled(o.form.floor, "as there"),
            cache_bandwidth: o
                .scaled(o.form.cache_bandwidth * wider, "scaled by multiprocessors and clocks"),
            dram_bandwidth: o.scaled(
                o.form.dram_bandwidth * kin::bandwidth_ratio(self.gpu, other),
                "scaled by nominal bandwidths",
            ),
            cache: o.scaled(o.form.cache * cache, "scaled by L2"),
        })
    }
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
