//! The plan under construction, and the steps that engines have in common.

use crate::units::Bytes;

use super::constants::{Constant, NCCL_GIB, Provenance};
use super::{
    MemoryPlan, MemoryRequest, MemoryTerm, Refusal, RefusalKind, ResolvedSettings, TermName,
    Verdict, activations, support,
};

/// A plan under construction: the engine's file adds terms and refusals in its own order.
pub(super) struct Draft<'r, 'a> {
    pub request: &'r MemoryRequest<'a>,
    pub plan: MemoryPlan,
}

impl<'r, 'a> Draft<'r, 'a> {
    pub fn new(request: &'r MemoryRequest<'a>) -> Self {
        let plan = MemoryPlan {
            engine: request.engine,
            model: request.model.name.clone(),
            precision: request.precision,
            kv_cache_dtype: request.kv_cache_dtype,
            gpu: request.gpu.name.clone(),
            tensor_parallel_size: request.tensor_parallel_size,
            settings: ResolvedSettings::default(),
            gpu_memory: request.gpu.memory.usable,
            terms: Vec::new(),
            kv_budget: Bytes::ZERO,
            shortfall: Bytes::ZERO,
            kv_bytes_per_token: request.kv_bytes_per_token(),
            block_size: 1,
            kv_blocks: 0,
            usable_kv_blocks: 0,
            kv_tokens: 0,
            tgis_memory_model: None,
            notes: Vec::new(),
            verdict: Verdict::default(),
        };
        let mut draft = Self { request, plan };
        draft.common_refusals();
        draft.note_unsupported();
        draft
    }

    fn common_refusals(&mut self) {
        let request = self.request;
        let tp = request.tensor_parallel_size;
        if let Err(error) = request.model.check_tensor_parallel(tp) {
            self.refuse(RefusalKind::TensorParallel, error.to_string());
        } else if tp > request.instance_gpus {
            self.refuse(
                RefusalKind::TensorParallel,
                format!(
                    "tensor-parallel-size {tp} needs {tp} GPUs; there are {}",
                    request.instance_gpus
                ),
            );
        }
        if request.gpu.peak_for(request.precision.dtype).is_none() {
            self.refuse(
                RefusalKind::Dtype,
                format!(
                    "{} cannot compute in {} (compute capability {}); use dtype float16",
                    request.gpu.product,
                    request.precision.dtype,
                    request.gpu.chip.compute_capability
                ),
            );
        }
    }

    /// A what-if may ask for more than the engine's generation had: planned, and said.
    fn note_unsupported(&mut self) {
        let request = self.request;
        let (engine, format) = (request.engine, request.precision.format);
        if !support::loads(engine, format) {
            self.plan.notes.push(format!("{engine} could not load {format}: planned as if it did"));
        }
        if !support::stores_kv(engine, request.kv_cache_dtype) {
            let kv = request.kv_cache_dtype;
            self.plan.notes.push(format!("{engine} had no {kv} KV cache: planned as if it had"));
        }
    }

    /// Only the first refusal counts: the engine stops there.
    pub fn refuse(&mut self, kind: RefusalKind, message: String) {
        self.plan.verdict.refusal.get_or_insert(Refusal { kind, message });
    }

    pub fn term(&mut self, name: TermName, bytes: Bytes, provenance: Provenance, detail: String) {
        self.plan.terms.push(MemoryTerm { name, bytes, provenance, detail });
    }

    pub fn weights(&mut self) {
        let request = self.request;
        let tp = request.tensor_parallel_size;
        let bytes = request.model.weight_bytes(&request.precision, tp);
        let detail = format!(
            "{} parameters in {}{}",
            request.model.parameter_count(),
            request.precision,
            if tp > 1 { format!(", {tp} ranks") } else { String::new() }
        );
        self.term(TermName::Weights, bytes, Provenance::Computed, detail);
    }

    pub fn constant(&mut self, name: TermName, constant: &Constant) {
        let bytes = Bytes::from_gib_f64(constant.value);
        self.term(name, bytes, constant.provenance, constant.source.to_owned());
    }

    /// NCCL's buffers, where there is more than one rank.
    pub fn nccl(&mut self) {
        if self.request.tensor_parallel_size > 1 {
            self.constant(TermName::Nccl, &NCCL_GIB);
        }
    }

    /// Layers and logits share the allocator's cache, so the larger of the two is the peak.
    pub fn peak(&mut self, layers: activations::Peak, logits: activations::Peak) {
        let beyond = logits.bytes.saturating_sub(layers.bytes);
        self.term(TermName::Activations, layers.bytes, layers.provenance, layers.detail);
        self.term(TermName::Logits, beyond, logits.provenance, logits.detail);
    }

    pub fn spent(&self) -> Bytes {
        self.plan.terms.iter().map(|term| term.bytes).sum()
    }

    /// Sets the budget to what the terms leave.
    pub fn settle_budget(&mut self) {
        let (memory, spent) = (self.plan.gpu_memory, self.spent());
        self.plan.kv_budget = memory.saturating_sub(spent);
        self.plan.shortfall = spent.saturating_sub(memory);
    }

    /// Cuts the budget into whole blocks, of which `kept` are the engine's own.
    pub fn settle_blocks(&mut self, block_size: u32, kept: u64) {
        let block = self.plan.kv_bytes_per_token * u64::from(block_size);
        self.plan.block_size = block_size;
        self.plan.kv_blocks = self.plan.kv_budget / block;
        self.keep_blocks(kept);
    }

    pub fn keep_blocks(&mut self, kept: u64) {
        self.plan.usable_kv_blocks = self.plan.kv_blocks.saturating_sub(kept);
        self.plan.kv_tokens = self.plan.usable_kv_blocks * u64::from(self.plan.block_size);
    }

    /// Refuses if what must be resident at once is more than the whole GPU.
    pub fn refuse_unless_resident(&mut self, kind: RefusalKind, what: &str, bytes: Bytes) -> bool {
        let memory = self.plan.gpu_memory;
        let fits = bytes <= memory;
        if !fits {
            self.refuse(kind, format!("out of memory: {what} take {bytes} of {memory}"));
        }
        fits
    }

    pub fn refuse_unless_weights_load(&mut self) -> bool {
        let held = [TermName::Weights, TermName::CudaContext, TermName::NonTorch, TermName::Nccl]
            .into_iter()
            .map(|name| self.plan.term(name))
            .sum();
        self.refuse_unless_resident(RefusalKind::Weights, "weights and CUDA context", held)
    }

    pub fn finish(mut self) -> MemoryPlan {
        let plan = &mut self.plan;
        let mut sum = format!("{}", plan.gpu_memory);
        for term in plan.terms.iter().filter(|term| term.bytes > Bytes::ZERO) {
            sum.push_str(&format!(" - {} {}", term.bytes, term.name));
        }
        let outcome = if plan.shortfall > Bytes::ZERO {
            format!(" = {} too little", plan.shortfall)
        } else {
            format!(
                " = {} for KV cache = {} blocks of {} tokens x {} = {} tokens",
                plan.kv_budget,
                plan.kv_blocks,
                plan.block_size,
                plan.kv_bytes_per_token,
                plan.kv_tokens
            )
        };
        sum.push_str(&outcome);
        plan.verdict.arithmetic = sum;
        plan.verdict.fits = plan.verdict.refusal.is_none();
        self.plan
    }
}
