//! The small kernels of a layer (norms, rotary embedding, activation, KV write) and the sampler.

/// `f + bytes / B`, with bytes beyond the cache at DRAM speed.
///
/// `../shared/physics/operator-surfaces.md` 4.5; written so that it is continuous in the bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ElementwiseForm {
    /// Seconds of one layer's kernels without any tokens.
    pub floor: f64,
    pub cache_bandwidth: f64,
    pub dram_bandwidth: f64,
    /// Bytes that the cache holds.
    pub cache: f64,
}

impl ElementwiseForm {
    /// Seconds of one layer for kernels that move `bytes` in all.
    pub fn seconds(&self, bytes: f64) -> f64 {
        let beyond = (bytes - self.cache).max(0.0);
        self.floor + (bytes - beyond) / self.cache_bandwidth + beyond / self.dram_bandwidth
    }
}

/// Bytes that the small kernels of one layer move per token on one rank, in 16 bits: rotary
/// reads and writes queries and keys, the activation reads gate and up and writes their product,
/// two norms with their residual additions read and write the hidden state, and further norms
/// without an addition half as much.
pub fn layer_bytes_per_token(
    (heads, kv_heads, head_dim): (f64, f64, f64),
    ffn: f64,
    hidden: f64,
    norms: u64,
) -> f64 {
    let further_norms = norms.saturating_sub(2) as f64;
    4.0 * head_dim * (heads + kv_heads) + 6.0 * ffn + (16.0 + 4.0 * further_norms) * hidden
}

/// The vocabulary of Llama 3, over which the sampler was measured.
const MEASURED_VOCABULARY: f64 = 128_256.0;

/// Turning logits into tokens: a floor and a part per sequence that grows with the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerForm {
    pub floor: f64,
    /// Seconds per sequence at a vocabulary of 128,256.
    pub per_sequence: f64,
}

impl SamplerForm {
    pub fn seconds(&self, sequences: f64, vocabulary: f64) -> f64 {
        if sequences == 0.0 {
            return 0.0;
        }
        self.floor + self.per_sequence * sequences * vocabulary / MEASURED_VOCABULARY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_bends_at_the_cache_without_a_jump() {
        let form = ElementwiseForm {
            floor: 9e-6,
            cache_bandwidth: 3.5e12,
            dram_bandwidth: 1.35e12,
            cache: 100e6,
        };
        let below = form.seconds(100e6 - 1.0);
        let above = form.seconds(100e6 + 1.0);
        assert!(above > below && above - below < 1e-11);
        assert!((form.seconds(0.0) - 9e-6).abs() < 1e-18);
    }

    #[test]
    fn llama_3_8b_moves_the_stated_bytes_per_token() {
        // 4 * 128 * (32 + 8) + 6 * 14336 + 16 * 4096
        assert_eq!(layer_bytes_per_token((32.0, 8.0, 128.0), 14336.0, 4096.0, 2), 172_032.0);
    }

    #[test]
    fn a_step_that_samples_nothing_runs_no_sampler() {
        let sampler = SamplerForm { floor: 8.4e-6, per_sequence: 1e-6 };
        assert_eq!(sampler.seconds(0.0, 32000.0), 0.0);
        assert!(sampler.seconds(1.0, 32000.0) > 8.4e-6);
    }
}
