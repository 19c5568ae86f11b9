//! Precisions: of the weights in memory, of the activations, and of the KV cache.
//!
//! Only the matrices inside the decoder layers are quantised; embeddings, the output head, norms
//! and routers stay in the activations' dtype, as all the engines modelled here keep them.

use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::units::Bytes;

named_enum! {
    /// The element type of activations and of weights that are not quantised.
    pub enum Dtype as "dtype" {
        Float32 = "float32",
        Float16 = "float16",
        BFloat16 = "bfloat16",
    }
}

impl Dtype {
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Float16 | Self::BFloat16 => 2,
        }
    }
}

named_enum! {
    /// The `dtype` key: what the user asked for, before the model's own dtype is known.
    pub enum DtypeSetting as "dtype" {
        Auto = "auto",
        Float16 = "float16",
        BFloat16 = "bfloat16",
        Float32 = "float32",
    }
}

named_enum! {
    /// The `quantize` key: how the decoder layers' matrices are stored.
    pub enum WeightFormat as "quantisation" {
        None = "none",
        Awq = "awq",
        Gptq = "gptq",
        Marlin = "marlin",
        Eetq = "eetq",
        Bitsandbytes = "bitsandbytes",
        BitsandbytesNf4 = "bitsandbytes-nf4",
        BitsandbytesFp4 = "bitsandbytes-fp4",
        Fp8 = "fp8",
    }
}

/// Weights that share one scale (and zero) in the 4-bit formats; the published checkpoints of
/// Llama-2 and Gemma under AWQ and GPTQ use 128 ("128g").
pub const GROUP_SIZE: u64 = 128;

impl WeightFormat {
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::None)
    }

    /// Bytes of one `n x k` matrix (n outputs, k inputs) stored in this format.
    ///
    /// * awq: 4-bit weights; per group of 128 a 16-bit scale and a packed 4-bit zero:
    ///   4 + 20/128 = 4.156 bits. gptq: the same and a 32-bit group index per input. Llama-2-13B
    ///   so comes to 7.25 GB; the published 4-bit 128g checkpoint has 7.26 GB.
    /// * marlin: symmetric, a scale and no zero: 4 + 16/128 = 4.125 bits.
    /// * eetq: int8 with a 16-bit scale per output. bitsandbytes: int8 with a 32-bit one.
    /// * bitsandbytes-nf4/-fp4: 4-bit with an absolute maximum per 64 weights, itself stored in 8
    ///   bits with a 32-bit scale per 256 of them (`compress_statistics`): 4 + 8/64 + 32/16384
    ///   = 4.127 bits.
    /// * fp8: one 32-bit scale per matrix.
    pub fn matrix_bytes(self, n: u64, k: u64, dtype: Dtype) -> Bytes {
        let weights = n * k;
        let groups = n * k.div_ceil(GROUP_SIZE);
        Bytes::new(match self {
            Self::None => weights * dtype.bytes(),
            Self::Awq => weights.div_ceil(2) + groups * 2 + groups.div_ceil(2),
            Self::Gptq => weights.div_ceil(2) + groups * 2 + groups.div_ceil(2) + k * 4,
            Self::Marlin => weights.div_ceil(2) + groups * 2,
            Self::Eetq => weights + n * 2,
            Self::Bitsandbytes => weights + n * 4,
            Self::BitsandbytesNf4 | Self::BitsandbytesFp4 => {
                let blocks = weights.div_ceil(64);
                weights.div_ceil(2) + blocks + blocks.div_ceil(256) * 4
            }
            Self::Fp8 => weights + 4,
        })
    }

    /// Mean bits of a weight in a large matrix; `dtype` is that of weights left unquantised.
    pub fn bits_per_weight(self, dtype: Dtype) -> f64 {
        let side = 1 << 14;
        self.matrix_bytes(side, side, dtype).as_f64() * 8.0 / (side * side) as f64
    }
}

/// How a deployment stores its weights and computes: a format and the activations' dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightPrecision {
    pub format: WeightFormat,
    pub dtype: Dtype,
}

impl WeightPrecision {
    pub const FLOAT16: Self = Self { format: WeightFormat::None, dtype: Dtype::Float16 };
    pub const BFLOAT16: Self = Self { format: WeightFormat::None, dtype: Dtype::BFloat16 };

    /// What the engines make of the `dtype` and `quantize` keys: `auto` takes the checkpoint's
    /// dtype, float32 checkpoints are served in float16, and AWQ and GPTQ kernels (hence their
    /// published checkpoints) compute in float16.
    pub fn resolve(setting: DtypeSetting, format: WeightFormat, checkpoint: Dtype) -> Self {
        let dtype = match setting {
            DtypeSetting::Float16 => Dtype::Float16,
            DtypeSetting::BFloat16 => Dtype::BFloat16,
            DtypeSetting::Float32 => Dtype::Float32,
            DtypeSetting::Auto => match (format, checkpoint) {
                (WeightFormat::Awq | WeightFormat::Gptq | WeightFormat::Marlin, _) => {
                    Dtype::Float16
                }
                (_, Dtype::Float32) => Dtype::Float16,
                (_, own) => own,
            },
        };
        Self { format, dtype }
    }
}

impl std::fmt::Display for WeightPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.format.is_quantized() {
            write!(f, "{} ({} activations)", self.format, self.dtype)
        } else {
            write!(f, "{}", self.dtype)
        }
    }
}

named_enum! {
    /// The `kv-cache-dtype` key; `auto` is the activations' dtype. vLLM's `fp8` is e4m3 on NVIDIA
    /// GPUs, and TGI names that type `fp8_e4m3fn`.
    pub enum KvCacheDtype as "KV-cache dtype" {
        Auto = "auto",
        Fp8E5m2 = "fp8_e5m2",
        Fp8E4m3 = "fp8_e4m3" | "fp8" | "fp8_e4m3fn",
        Int8 = "int8",
    }
}

impl KvCacheDtype {
    /// Bytes of one element; scales of the 8-bit types are per tensor and too few to count.
    pub const fn bytes(self, activations: Dtype) -> u64 {
        match self {
            Self::Auto => activations.bytes(),
            Self::Fp8E5m2 | Self::Fp8E4m3 | Self::Int8 => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantised_weight_takes_the_stated_number_of_bits() {
        let bits = |format: WeightFormat| format.bits_per_weight(Dtype::Float16);
        assert_eq!(bits(WeightFormat::None), 16.0);
        assert_eq!(bits(WeightFormat::Awq), 4.15625);
        assert_eq!(bits(WeightFormat::Marlin), 4.125);
        assert!((bits(WeightFormat::Gptq) - 4.158).abs() < 0.001);
        assert!((bits(WeightFormat::BitsandbytesNf4) - 4.127).abs() < 0.001);
        for format in [WeightFormat::Eetq, WeightFormat::Bitsandbytes, WeightFormat::Fp8] {
            assert!((bits(format) - 8.0).abs() < 0.01, "{format}");
        }
    }

    #[test]
    fn float32_checkpoints_are_served_in_float16_unless_asked_otherwise() {
        let dtype = |setting, format, own| WeightPrecision::resolve(setting, format, own).dtype;
        use {DtypeSetting as S, WeightFormat as F};
        assert_eq!(dtype(S::Auto, F::None, Dtype::Float32), Dtype::Float16);
        assert_eq!(dtype(S::Float32, F::None, Dtype::Float32), Dtype::Float32);
        assert_eq!(dtype(S::Auto, F::None, Dtype::BFloat16), Dtype::BFloat16);
        assert_eq!(dtype(S::Auto, F::Awq, Dtype::BFloat16), Dtype::Float16);
    }

    #[test]
    fn names_are_those_of_the_scenario_file() {
        assert_eq!("bitsandbytes-nf4".parse(), Ok(WeightFormat::BitsandbytesNf4));
        assert_eq!("fp8_e5m2".parse(), Ok(KvCacheDtype::Fp8E5m2));
        assert_eq!("fp8".parse(), Ok(KvCacheDtype::Fp8E4m3));
        assert_eq!(KvCacheDtype::Fp8E4m3.to_string(), "fp8_e4m3");
        let error = "awk".parse::<WeightFormat>().unwrap_err().to_string();
        assert!(error.contains("did you mean \"awq\"") && error.contains("eetq"), "{error}");
    }
}
