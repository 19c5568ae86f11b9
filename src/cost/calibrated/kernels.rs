//! The GPU side of a step on one rank.

use crate::cost::attention::{AttentionForm, AttentionShape, PrefillAlone};
use crate::cost::collectives::CollectiveForm;
use crate::cost::elementwise::{ElementwiseForm, SamplerForm, layer_bytes_per_token};
use crate::cost::gemm::{GemmForm, GemmWork, Weights};
use crate::cost::profile::lookup;
use crate::cost::sourced::Provenance;
use crate::cost::spread::{Part, Scales};
use crate::cost::trust::TermGrades;
use crate::cost::weight_kernel::{LinearKernel, WeightKernelForm};
use crate::cost::{ContextCost, CostTerm, StepShape};
use crate::model::{Dtype, LayerGemm, Moe};
use crate::time::SimDuration;

use super::{CostError, CostInputs, HeadPart, LayerPart};

/// Forms and shapes of one rank, ready to be evaluated.
#[derive(Clone, Debug)]
pub(super) struct Kernels {
    linear: Linear,
    matrices: Vec<Matrix>,
    moe: Option<Moe>,
    /// Columns and depth of the output head, and its products.
    head: (f64, f64, Weights),
    /// Bytes of an activation.
    element: f64,
    attention: AttentionForm,
    shape: AttentionShape,
    elementwise: ElementwiseForm,
    /// Number of layers and bytes per token of their small kernels.
    small: Vec<(f64, f64)>,
    sampler: SamplerForm,
    vocabulary: f64,
    hidden: f64,
    /// `None` on a single rank.
    links: Option<CollectiveForm>,
    linear_provenance: Provenance,
    scales: Scales,
}

/// The kernel that quantised layers go through.
#[derive(Clone, Copy, Debug)]
enum Linear {
    Dense,
    Fp8(GemmForm),
    Quantised(WeightKernelForm),
}

#[derive(Clone, Debug)]
struct Matrix {
    gemm: LayerGemm,
    /// Bytes of one matrix (of one expert) as the engine stores it.
    bytes: f64,
    quantised: bool,
    /// In 8 bits where the layers are, else in 16 (or 32).
    weights: Weights,
}

impl Matrix {
    /// Its product with `m` tokens of `element` bytes each.
    fn work(&self, m: f64, moe: Option<&Moe>, element: f64) -> GemmWork {
        let (rows, groups) = match moe {
            Some(moe) if self.gemm.experts => {
                let touched = moe.distinct_experts(m);
                (m * f64::from(moe.experts_per_token) / touched, touched)
            }
            _ => (m, 1.0),
        };
        GemmWork {
            m: rows,
            n: self.gemm.n as f64,
            k: self.gemm.k as f64,
            groups,
            weight_bytes: self.bytes,
            input_bytes: element,
        }
    }

    /// Seconds of one layer's product: reading and multiplying, and what the format adds.
    fn seconds(
        &mut self,
        work: &GemmWork,
        linear: &Linear,
        elementwise: &ElementwiseForm,
    ) -> (f64, f64) {
        match linear {
            Linear::Fp8(_) if self.quantised => {
                let narrow = GemmWork { input_bytes: 1.0, ..*work };
                // Activations are read in 16 bits and written in 8 before the product.
                let bytes = 3.0 * work.m * work.k * work.groups;
                let converting = elementwise.seconds(bytes) - elementwise.floor;
                (self.weights.seconds(&narrow), converting)
            }
            Linear::Quantised(kernel) if self.quantised => kernel.seconds(&mut self.weights, work),
            _ => (self.weights.seconds(work), 0.0),
        }
    }
}

impl Kernels {
    pub fn new(inputs: &CostInputs<'_>) -> Result<Self, CostError> {
        let CostInputs { model, precision, gpu, gpu_profile: profile, .. } = *inputs;
        let tp = inputs.tensor_parallel;
        model.check_tensor_parallel(tp)?;
        let dtype = precision.dtype;
        let peak =
            gpu.peak_for(dtype).ok_or_else(|| CostError::Dtype { gpu: gpu.name.clone(), dtype })?;
        let mut dense = profile.gemm.form(gpu, peak);
        let mut attention = profile.attention.form(gpu);
        let mut linear_provenance = profile.gemm.provenance();
        if dtype == Dtype::Float32 {
            // No table has 32-bit products: as many times slower as the nominal peaks say.
            let slower = peak.per_s() / gpu.peak.fp16.per_s();
            dense.peak *= slower;
            attention.prefill.peak *= slower;
            attention.mixed.peak *= slower;
            linear_provenance = linear_provenance.max(Provenance::Datasheet);
        }
        let kernel = LinearKernel::select(precision.format, inputs.engine.engine, gpu);
        let linear = match kernel {
            LinearKernel::Dense => Linear::Dense,
            LinearKernel::Fp8 => {
                let surface = profile
                    .gemm_fp8
                    .as_ref()
                    .ok_or_else(|| CostError::NoFp8Surface { gpu: gpu.name.clone() })?;
                linear_provenance = surface.provenance();
                Linear::Fp8(surface.form(gpu, gpu.peak.fp8.unwrap_or(peak)))
            }
            LinearKernel::Quantised(kernel) => {
                let found;
                let kernel = match inputs.weight_kernel {
                    Some(profile) => profile,
                    None => {
                        found = lookup::weight_kernel(kernel)?.profile;
                        &found
                    }
                };
                linear_provenance = linear_provenance.max(kernel.provenance());
                Linear::Quantised(kernel.form())
            }
        };
        let matrix = |gemm: LayerGemm| {
            // Routers stay in the activations' dtype.
            let quantised = gemm.name != "router" && precision.format.is_quantized();
            let bytes = if quantised {
                precision.format.matrix_bytes(gemm.n, gemm.k, dtype).as_f64()
            } else {
                (gemm.n * gemm.k * dtype.bytes()) as f64
            };
            let form = match linear {
                Linear::Fp8(form) if quantised => form,
                _ => dense,
            };
            let weights = Weights::new(form, gemm.n as f64, gemm.k as f64);
            Matrix { gemm, bytes, quantised, weights }
        };
        let links = match (tp, inputs.interconnect) {
            (1, _) => None,
            (_, Some(profile)) => Some(profile.form(tp, inputs.engine.custom_all_reduce)),
            (tensor_parallel, None) => return Err(CostError::NoInterconnect { tensor_parallel }),
        };
        let sliding = model.sliding_window;
        let window_layers = sliding.map_or(0, |s| s.layers.min(model.num_hidden_layers));
        let shape = AttentionShape {
            heads: f64::from(model.heads_per_rank(tp)),
            kv_heads: f64::from(model.kv_heads_per_rank(tp)),
            head_dim: f64::from(model.head_dim),
            kv_bytes: inputs.kv_cache.bytes(dtype) as f64,
            full_layers: f64::from(model.num_hidden_layers - window_layers),
            window_layers: f64::from(window_layers),
            window: sliding.map_or(f64::INFINITY, |s| f64::from(s.window)),
        };
        let head = model.lm_head_gemm(tp);
        let (n, k) = (head.n as f64, head.k as f64);
        Ok(Self {
            linear,
            matrices: model.layer_gemms(tp).into_iter().map(matrix).collect(),
            moe: model.moe.clone(),
            head: (n, k, Weights::new(dense, n, k)),
            element: dtype.bytes() as f64,
            attention,
            shape,
            elementwise: profile.elementwise.form(),
            small: small_kernels(inputs, &shape),
            sampler: profile.sampler.form(),
            vocabulary: f64::from(model.vocab_size),
            hidden: f64::from(model.hidden_size),
            links,
            linear_provenance,
            scales: Scales::ONE,
        })
    }

    /// The same kernels, parts of them faster or slower.
    #[must_use]
    pub fn scaled(mut self, scales: Scales) -> Self {
        self.scales = scales;
        self
    }

    pub fn layer_part(&mut self, tokens: u64) -> LayerPart {
        let m = tokens as f64;
        let (mut linear, mut dequantise) = (0.0, 0.0);
        for matrix in &mut self.matrices {
            let work = matrix.work(m, self.moe.as_ref(), self.element);
            let (plain, extra) = matrix.seconds(&work, &self.linear, &self.elementwise);
            linear += f64::from(matrix.gemm.layers) * plain;
            dequantise += f64::from(matrix.gemm.layers) * extra;
        }
        let small = |(layers, bytes): &(f64, f64)| layers * self.elementwise.seconds(bytes * m);
        let elementwise: f64 = self.small.iter().map(small).sum();
        // After the attention output and after the MLP of each layer, and after the embedding,
        // which is cut by vocabulary.
        let reductions = 2.0 * self.shape.layers() + 1.0;
        let all_reduce = self
            .links
            .map_or(0.0, |links| reductions * links.all_reduce(m * self.hidden * self.element));
        LayerPart {
            linear: self.duration(Part::Gemm, linear),
            dequantise: self.duration(Part::Gemm, dequantise),
            elementwise: self.duration(Part::Small, elementwise),
            all_reduce: self.duration(Part::Links, all_reduce),
        }
    }

    pub fn head_part(&mut self, rows: u64) -> HeadPart {
        let rows = rows as f64;
        let (n, k, weights) = &mut self.head;
        let lm_head = weights.seconds(&GemmWork::dense(rows, *n, *k, self.element));
        let gather = self
            .links
            .filter(|_| rows > 0.0)
            .map_or(0.0, |links| links.all_gather(rows * self.vocabulary * self.element));
        HeadPart {
            lm_head: self.duration(Part::Gemm, lm_head),
            gather: self.duration(Part::Links, gather),
        }
    }

    pub fn sampling(&self, sequences: u32) -> SimDuration {
        let seconds = self.sampler.seconds(f64::from(sequences), self.vocabulary);
        self.duration(Part::Small, seconds)
    }

    fn duration(&self, part: Part, seconds: f64) -> SimDuration {
        SimDuration::from_secs_f64(seconds * self.scales.of(part))
    }

    /// The largest mean context that no layer reads beyond `measured` of: windows stop the growth.
    pub fn known_context(&self, measured: u64) -> u64 {
        let windowed = self.shape.full_layers == 0.0 && self.shape.window <= measured as f64;
        if windowed { u64::from(u32::MAX) } else { measured }
    }

    pub fn decode_attention(&self, sequences: u32) -> ContextCost {
        self.attention.decode_curve(&self.shape, sequences).times(self.scales.of(Part::Decode))
    }

    pub fn decode_per_spread(&self, sequences: u32) -> f64 {
        self.attention.decode_per_spread(&self.shape, sequences) * self.scales.of(Part::Decode)
    }

    pub fn prefill_alone(&self, shape: &StepShape) -> PrefillAlone {
        self.attention.prefill_alone(&self.shape, shape)
    }

    pub fn prefill_attention(&self, shape: &StepShape, alone: &PrefillAlone) -> SimDuration {
        let part = if shape.decode_seqs == 0 { Part::Prefill } else { Part::Mixed };
        self.duration(part, self.attention.beside_prefill(&self.shape, shape, alone))
    }

    pub fn grades(&self, inputs: &CostInputs<'_>) -> TermGrades {
        super::grades::grades(inputs, &self.linear_provenance)
    }

    /// The least trusted number behind each term.
    pub fn provenance(&self, inputs: &CostInputs<'_>) -> Vec<(CostTerm, Provenance)> {
        let CostInputs { gpu_profile: profile, deployment, .. } = *inputs;
        let mut terms = vec![
            (CostTerm::Linear, self.linear_provenance.clone()),
            (CostTerm::LmHead, profile.gemm.provenance()),
            (CostTerm::Attention, profile.attention.provenance()),
            (CostTerm::Elementwise, profile.elementwise.provenance()),
            (CostTerm::Sampling, profile.sampler.provenance()),
            (CostTerm::KvCopy, deployment.copy_efficiency.provenance.clone()),
        ];
        if let (Some(_), Some(links)) = (self.links, inputs.interconnect) {
            terms.push((CostTerm::AllReduce, links.provenance(inputs.tensor_parallel)));
        }
        let launch = if inputs.engine.graphs == crate::cost::host::Graphs::Off {
            &deployment.host_per_layer
        } else {
            &deployment.graph_replay
        };
        terms.push((CostTerm::Host, launch.provenance.clone()));
        let serial = [
            &deployment.serial_per_step,
            &deployment.serial_per_sequence,
            &deployment.serial_per_prefill,
        ];
        let worst = serial.into_iter().map(|number| number.provenance.clone()).max();
        terms.push((CostTerm::Serial, worst.expect("three numbers")));
        terms
    }
}

/// Layers and their small kernels' bytes per token: with a dense MLP, and with experts.
fn small_kernels(inputs: &CostInputs<'_>, shape: &AttentionShape) -> Vec<(f64, f64)> {
    let model = inputs.model;
    let tp = f64::from(inputs.tensor_parallel);
    let heads = (shape.heads, shape.kv_heads, shape.head_dim);
    let norms = model.architecture.norms_per_layer();
    let bytes = |ffn: f64| {
        layer_bytes_per_token(heads, ffn / tp, f64::from(model.hidden_size), norms)
            * (inputs.precision.dtype.bytes() as f64 / 2.0)
    };
    let moe_layers = model.moe.as_ref().map_or(0, |moe| moe.moe_layers);
    let dense_layers = model.num_hidden_layers.saturating_sub(moe_layers);
    let dense = (f64::from(dense_layers), bytes(f64::from(model.intermediate_size)));
    let experts = model.moe.as_ref().map(|moe| {
        let ffn = f64::from(moe.expert_intermediate_size) * f64::from(moe.experts_per_token);
        (f64::from(moe_layers), bytes(ffn))
    });
    [Some(dense), experts].into_iter().flatten().filter(|(layers, _)| *layers > 0.0).collect()
}
