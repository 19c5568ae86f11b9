//! Peak memory of one step: the live tensors of a layer, and the logits.

use crate::model::{ModelConfig, WeightFormat, WeightPrecision};
use crate::units::Bytes;

use super::constants::{Constant, Provenance};

/// A peak, and how it comes about.
pub(super) struct Peak {
    pub bytes: Bytes,
    pub provenance: Provenance,
    pub detail: String,
}

/// Bytes that stand on one rank, per token, in the two halves of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerBytes {
    /// Hidden state and residual; Q, K, V and the attention's output.
    pub attention: Bytes,
    /// Hidden state and residual; gate, up and their product. A mixture holds the latter, and an
    /// output, for each of a token's experts.
    pub mlp: Bytes,
}

impl LayerBytes {
    /// Only one half stands at a time.
    pub fn widest(self) -> Bytes {
        self.attention.max(self.mlp)
    }
}

pub(super) fn layer_bytes_per_token(
    model: &ModelConfig,
    precision: &WeightPrecision,
    tp: u32,
) -> LayerBytes {
    let hidden = u64::from(model.hidden_size);
    let heads = u64::from(model.heads_per_rank(tp));
    let kv_heads = u64::from(model.kv_heads_per_rank(tp));
    let attention = 2 * (heads + kv_heads) * u64::from(model.head_dim);
    let columns = |ffn: u32| 3 * u64::from(ffn.div_ceil(tp.max(1)));
    let mlp = match &model.moe {
        Some(moe) => {
            let expert = columns(moe.expert_intermediate_size) + hidden;
            u64::from(moe.experts_per_token) * expert
        }
        None => columns(model.intermediate_size),
    };
    let bytes = |elements| Bytes::new(2 * hidden + elements) * precision.dtype.bytes();
    LayerBytes { attention: bytes(attention), mlp: bytes(mlp) }
}

/// The widest point of a layer with `tokens` tokens. The 4-bit formats unpack a whole matrix to 16
/// bits before they multiply many tokens.
pub(super) fn layers(
    model: &ModelConfig,
    precision: &WeightPrecision,
    tp: u32,
    tokens: u32,
) -> Peak {
    let layer = layer_bytes_per_token(model, precision, tp);
    let tensors = layer.widest() * u64::from(tokens);
    let unpacked = match precision.format {
        WeightFormat::Awq
        | WeightFormat::Gptq
        | WeightFormat::BitsandbytesNf4
        | WeightFormat::BitsandbytesFp4 => model
            .layer_gemms(tp)
            .iter()
            .map(|gemm| Bytes::new(gemm.n * gemm.k) * precision.dtype.bytes())
            .max()
            .unwrap_or_default(),
        _ => Bytes::ZERO,
    };
    let extra =
        if unpacked > Bytes::ZERO { format!(", {unpacked} unpacked") } else { String::new() };
    Peak {
        bytes: tensors + unpacked,
        provenance: Provenance::Computed,
        detail: format!("one layer with {tokens} tokens{extra}"),
    }
}

/// Logits and sampling of `rows` sequences; each engine rank holds the whole vocabulary's.
pub(super) fn sampler(model: &ModelConfig, rows: u32, copies: &Constant) -> Peak {
    let unit = Bytes::new(u64::from(rows) * u64::from(model.vocab_size) * 4);
    Peak {
        bytes: unit.scale(copies.value),
        provenance: copies.provenance,
        detail: format!(
            "{rows} rows x {} vocabulary x 4 B x {}, less the activations reused",
            model.vocab_size, copies.value
        ),
    }
}

/// Logits of all `tokens` prompt tokens, in the activations' dtype.
pub(super) fn prompt_logits(
    model: &ModelConfig,
    precision: &WeightPrecision,
    tokens: u32,
    copies: &Constant,
) -> Peak {
    let unit =
        Bytes::new(u64::from(tokens) * u64::from(model.vocab_size)) * precision.dtype.bytes();
    Peak {
        bytes: unit.scale(copies.value),
        provenance: copies.provenance,
        detail: format!(
            "{tokens} prompt tokens x {} vocabulary x {} B x {}, less the activations reused",
            model.vocab_size,
            precision.dtype.bytes(),
            copies.value
        ),
    }
}
