//! Parameters, bytes, matrix shapes and operations of a model, whole or per tensor-parallel rank.

use crate::units::{Bytes, Flops};

use super::{Dtype, KvCacheDtype, ModelConfig, WeightPrecision};

/// One matrix multiplication of a decoder layer on one rank: `m` tokens times an `n x k` weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerGemm {
    /// `qkv`, `o`, `gate_up`, `down`, or `router`.
    pub name: &'static str,
    pub n: u64,
    pub k: u64,
    /// The shape is that of one expert: a step runs as many as it has distinct experts, and each
    /// token passes through `experts_per_token` of them.
    pub experts: bool,
    /// How many of the model's layers hold this matrix.
    pub layers: u32,
}

impl ModelConfig {
    /// Parameters of the whole model as checkpoints publish them: a tied head counts once.
    pub fn parameter_count(&self) -> u64 {
        u64::try_from(self.parameters_wide()).unwrap_or(u64::MAX)
    }

    /// Wide enough for any product of bounded fields, so that the reader can refuse monsters.
    pub(super) fn parameters_wide(&self) -> u128 {
        let wide = u128::from;
        let hidden = wide(self.hidden_size);
        let embedding = wide(self.vocab_size) * hidden;
        let tables = if self.tie_word_embeddings { embedding } else { 2 * embedding };
        let matrices: u128 = self
            .layer_gemms(1)
            .iter()
            .map(|gemm| {
                let copies = match &self.moe {
                    Some(moe) if gemm.experts => wide(moe.num_experts),
                    _ => 1,
                };
                u128::from(gemm.n) * u128::from(gemm.k) * copies * wide(gemm.layers)
            })
            .sum();
        let small = u128::from(self.norm_and_bias_parameters(1)) * wide(self.num_hidden_layers);
        tables + matrices + small + hidden
    }

    /// Norms and biases of one layer on one rank. Norms are replicated; the bias of a matrix cut
    /// by columns is cut with it, that of one cut by rows is not.
    fn norm_and_bias_parameters(&self, tp: u32) -> u64 {
        let hidden = u64::from(self.hidden_size);
        let head_dim = u64::from(self.head_dim);
        let mut parameters = self.architecture.norms_per_layer() * hidden;
        if self.qk_norm {
            parameters += 2 * head_dim;
        }
        if self.qkv_bias {
            parameters += self.qkv_columns(tp);
        }
        if self.o_bias {
            parameters += hidden;
        }
        if self.mlp_bias {
            parameters += 2 * u64::from(self.intermediate_size.div_ceil(tp.max(1))) + hidden;
        }
        parameters
    }

    fn qkv_columns(&self, tp: u32) -> u64 {
        let heads = self.heads_per_rank(tp) + 2 * self.kv_heads_per_rank(tp);
        u64::from(heads) * u64::from(self.head_dim)
    }

    /// Bytes of weights that one rank holds: matrices cut `tp` ways in their own format,
    /// embedding and head cut by vocabulary and never quantised, norms on every rank.
    pub fn weight_bytes(&self, precision: &WeightPrecision, tp: u32) -> Bytes {
        let own = |parameters: u64| Bytes::new(parameters) * precision.dtype.bytes();
        let hidden = u64::from(self.hidden_size);
        let table = own(u64::from(self.vocab_per_rank(tp)) * hidden);
        let tables = if self.tie_word_embeddings { table } else { table * 2 };
        let layers: Bytes = self
            .layer_gemms(tp)
            .iter()
            .map(|gemm| self.gemm_weight_bytes(gemm, precision) * u64::from(gemm.layers))
            .sum();
        let small = own(self.norm_and_bias_parameters(tp)) * u64::from(self.num_hidden_layers);
        tables + layers + small + own(hidden)
    }

    /// Bytes of one layer's copy of `gemm`'s matrix, all experts included.
    pub fn gemm_weight_bytes(&self, gemm: &LayerGemm, precision: &WeightPrecision) -> Bytes {
        match (&self.moe, gemm.name) {
            (_, "router") => Bytes::new(gemm.n * gemm.k * precision.dtype.bytes()),
            (Some(moe), _) if gemm.experts => {
                precision.format.matrix_bytes(gemm.n, gemm.k, precision.dtype)
                    * u64::from(moe.num_experts)
            }
            _ => precision.format.matrix_bytes(gemm.n, gemm.k, precision.dtype),
        }
    }

    /// Keys and values of one token on one rank, over all layers; `activations` is what `auto`
    /// stands for.
    pub fn kv_bytes_per_token(&self, kv: KvCacheDtype, activations: Dtype, tp: u32) -> Bytes {
        Bytes::new(kv.bytes(activations))
            * (2 * u64::from(self.kv_heads_per_rank(tp))
                * u64::from(self.head_dim)
                * u64::from(self.num_hidden_layers))
    }

    /// The matrices of the decoder layers on one rank. Fused as the engines fuse them: Q, K and V
    /// in one, gate and up in one.
    pub fn layer_gemms(&self, tp: u32) -> Vec<LayerGemm> {
        let tp = tp.max(1);
        let hidden = u64::from(self.hidden_size);
        let attention = u64::from(self.heads_per_rank(tp)) * u64::from(self.head_dim);
        let layers = self.num_hidden_layers;
        let dense = |name, n, k, layers| LayerGemm { name, n, k, experts: false, layers };
        let mut gemms = vec![
            dense("qkv", self.qkv_columns(tp), hidden, layers),
            dense("o", hidden, attention, layers),
        ];
        let moe_layers = self.moe.as_ref().map_or(0, |moe| moe.moe_layers);
        if moe_layers < layers {
            let ffn = u64::from(self.intermediate_size.div_ceil(tp));
            gemms.push(dense("gate_up", 2 * ffn, hidden, layers - moe_layers));
            gemms.push(dense("down", hidden, ffn, layers - moe_layers));
        }
        if let Some(moe) = &self.moe {
            let ffn = u64::from(moe.expert_intermediate_size.div_ceil(tp));
            let expert = |name, n, k| LayerGemm { name, n, k, experts: true, layers: moe_layers };
            // Every rank routes every token: the router is small and replicated.
            gemms.push(dense("router", u64::from(moe.num_experts), hidden, moe_layers));
            gemms.push(expert("gate_up", 2 * ffn, hidden));
            gemms.push(expert("down", hidden, ffn));
        }
        gemms
    }

    /// The output head on one rank; `layers` is 1.
    pub fn lm_head_gemm(&self, tp: u32) -> LayerGemm {
        LayerGemm {
            name: "lm_head",
            n: u64::from(self.vocab_per_rank(tp)),
            k: u64::from(self.hidden_size),
            experts: false,
            layers: 1,
        }
    }

    /// Operations to produce one token that sees `context` tokens, itself included, on all ranks
    /// together: two per weight that it meets (a token meets `experts_per_token` experts), logits
    /// included, and four per head dimension and token seen. The embedding is a look-up.
    pub fn flops_per_token(&self, context: u64) -> Flops {
        let matrices: f64 = self
            .layer_gemms(1)
            .iter()
            .chain([&self.lm_head_gemm(1)])
            .map(|gemm| {
                let copies = match &self.moe {
                    Some(moe) if gemm.experts => f64::from(moe.experts_per_token),
                    _ => 1.0,
                };
                2.0 * gemm.n as f64 * gemm.k as f64 * copies * f64::from(gemm.layers)
            })
            .sum();
        let per_seen = 4.0 * f64::from(self.num_attention_heads) * f64::from(self.head_dim);
        Flops::new(matrices + per_seen * self.seen_tokens_all_layers(context))
    }

    /// Tokens that attention looks at, summed over layers: sliding layers see their window only.
    fn seen_tokens_all_layers(&self, context: u64) -> f64 {
        let (sliding_layers, window) =
            self.sliding_window.map_or((0, u64::MAX), |s| (s.layers, u64::from(s.window)));
        let full_layers = self.num_hidden_layers.saturating_sub(sliding_layers);
        f64::from(full_layers) * context as f64
            + f64::from(sliding_layers) * context.min(window) as f64
    }
}
