//! GEMM kernels that read quantised weights: fewer bytes, more work per weight.
//!
//! Which kernel serves a format depends on the engine's age: newer ones repack GPTQ and AWQ
//! checkpoints for Marlin, older ones used kernels that lose to 16-bit weights at larger batches.

use crate::engine_name::EngineName;
use crate::hardware::Gpu;
use crate::model::WeightFormat;
use crate::named::named_enum;

use super::gemm::{GemmForm, GemmWork, Weights};

named_enum! {
    /// A kernel for quantised weights with 16-bit activations.
    pub enum WeightKernel as "weight kernel" {
        Marlin = "marlin",
        MarlinFp8 = "marlin-fp8",
        GptqExllama = "gptq-exllama",
        AwqGemm = "awq-gemm",
        Eetq = "eetq",
        BitsandbytesInt8 = "bitsandbytes-int8",
        Bitsandbytes4bit = "bitsandbytes-4bit",
    }
}

/// How the layers' matrices are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearKernel {
    /// The GPU's own 16-bit (or 32-bit) GEMM.
    Dense,
    /// 8-bit floating point on both sides, on tensor cores that have it.
    Fp8,
    Quantised(WeightKernel),
}

impl LinearKernel {
    /// What the engine runs for `format` on `gpu`.
    ///
    /// Marlin needs compute capability 8.0. vLLM repacks GPTQ for it from 0.4.2 and AWQ from
    /// 0.5.5, TGI both from 2.1 (so its v3).
    pub fn select(format: WeightFormat, engine: EngineName, gpu: &Gpu) -> Self {
        use EngineName::{TgiV3, Vllm0_4_2, Vllm0_13, Vllm0_32};
        let ampere = gpu.chip.compute_capability.major >= 8;
        let repacks_gptq = ampere && matches!(engine, Vllm0_4_2 | Vllm0_13 | Vllm0_32 | TgiV3);
        let repacks_awq = ampere && matches!(engine, Vllm0_13 | Vllm0_32 | TgiV3);
        Self::Quantised(match format {
            WeightFormat::None => return Self::Dense,
            WeightFormat::Fp8 if gpu.peak.fp8.is_some() => return Self::Fp8,
            WeightFormat::Fp8 => WeightKernel::MarlinFp8,
            WeightFormat::Marlin => WeightKernel::Marlin,
            WeightFormat::Gptq if repacks_gptq => WeightKernel::Marlin,
            WeightFormat::Gptq => WeightKernel::GptqExllama,
            WeightFormat::Awq if repacks_awq => WeightKernel::Marlin,
            WeightFormat::Awq => WeightKernel::AwqGemm,
            WeightFormat::Eetq => WeightKernel::Eetq,
            WeightFormat::Bitsandbytes => WeightKernel::BitsandbytesInt8,
            WeightFormat::BitsandbytesNf4 | WeightFormat::BitsandbytesFp4 => {
                WeightKernel::Bitsandbytes4bit
            }
        })
    }
}

/// Parameters of a kernel relative to the GPU's 16-bit GEMM surface, so that one measured GPU
/// serves the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightKernelForm {
    pub direct: DirectForm,
    /// Unpacking the weights to 16 bits and multiplying those, where the engine does so.
    pub unpack: Option<UnpackForm>,
}

/// Unpacks weights on the way to the multiplication.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DirectForm {
    /// Rate at large batches as a fraction of the GPU's peak.
    pub rate: f64,
    /// Bytes per second relative to the 16-bit GEMM's.
    pub bandwidth: f64,
    pub floor: f64,
    /// Rows are padded to a multiple of this.
    pub row_granule: f64,
    /// Going over the weights again for each few rows, where the kernel does so.
    pub passes: Option<PassForm>,
}

/// Marlin walks over all weights once for every 64 rows (`thread_m_blocks` of at most 4, 16 rows
/// each), in strips of 64 columns cut along `k` so that every multiprocessor has an equal part. Those
/// that share a strip add up their parts one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassForm {
    /// Rows of a pass.
    pub rows: f64,
    /// Seconds of each pass after the first besides its operations; the first's are in the floor.
    pub start_up: f64,
    /// Seconds that a full pass takes for each further multiprocessor to a strip.
    pub join: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnpackForm {
    /// Fraction of the DRAM bandwidth at which packed weights are read and 16-bit ones written.
    pub bandwidth: f64,
    pub floor: f64,
}

/// Columns of a strip.
const STRIP: f64 = 64.0;

impl WeightKernelForm {
    /// Seconds of `work`, whose `weight_bytes` are those of the packed weights: the part that any
    /// kernel would need for these bytes and operations, and what unpacking adds.
    pub fn seconds(&self, gemm: &mut Weights, work: &GemmWork) -> (f64, f64) {
        let mut total = self.direct(gemm.form(), work);
        if let Some(unpack) = self.unpack {
            let dense = GemmWork { weight_bytes: 2.0 * work.n * work.k, ..*work };
            let bytes = work.groups * (work.weight_bytes + dense.weight_bytes);
            let unpacking = unpack.floor + bytes / (unpack.bandwidth * gemm.form().bandwidth_limit);
            total = total.min(unpacking + gemm.seconds(&dense));
        }
        let plain = gemm.seconds(work).min(total);
        (plain, total - plain)
    }

    /// Seconds of the kernel that unpacks on the way.
    fn direct(&self, gemm: &GemmForm, work: &GemmWork) -> f64 {
        self.direct.seconds(gemm, work)
    }
}

impl DirectForm {
    /// Seconds beside the GPU's 16-bit surface; zero without rows.
    pub fn seconds(&self, gemm: &GemmForm, work: &GemmWork) -> f64 {
        if work.m <= 0.0 {
            return 0.0;
        }
        let memory = work.bytes() / (gemm.bandwidth * self.bandwidth);
        let rows = (work.m / self.row_granule).ceil() * self.row_granule;
        let passes = self.passes.map_or(0.0, |pass| {
            let sharing = (STRIP * gemm.multiprocessors / (work.n * work.groups)).max(1.0);
            let further = work.groups * ((work.m / pass.rows).ceil() - 1.0);
            pass.start_up * further + pass.join * (sharing - 1.0) * rows / pass.rows
        });
        let compute = 2.0 * rows * work.n * work.k * work.groups / (self.rate * gemm.peak_limit);
        (self.floor + memory.max(passes + compute))
            .max(work.flops() / gemm.peak_limit)
            .max(work.bytes() / gemm.bandwidth_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A10G: GemmForm = GemmForm::A10G;

    const MARLIN: WeightKernelForm = WeightKernelForm {
        direct: DirectForm {
            rate: 0.96,
            bandwidth: 1.1,
            floor: 7e-6,
            row_granule: 16.0,
            passes: Some(PassForm { rows: 64.0, start_up: 7e-6, join: 7e-6 }),
        },
        unpack: None,
    };

    fn speedup(m: f64) -> f64 {
        let (n, k) = (10240.0, 8192.0);
        let dense = GemmWork::dense(m, n, k, 2.0);
        let packed = GemmWork { weight_bytes: n * k * 4.125 / 8.0, ..dense };
        let (plain, dequantise) = MARLIN.seconds(&mut Weights::new(A10G, n, k), &packed);
        A10G.seconds(&dense) / (plain + dequantise)
    }

    #[test]
    fn marlin_gains_at_small_batches_and_loses_at_large_ones() {
        // Measured on A10-class: 3.6x at m <= 16, 1.9x at 64, break-even 128-256, 0.8x beyond.
        assert!((3.2..4.4).contains(&speedup(1.0)), "{}", speedup(1.0));
        assert!((3.2..4.4).contains(&speedup(16.0)), "{}", speedup(16.0));
        assert!((1.8..2.6).contains(&speedup(64.0)), "{}", speedup(64.0));
        assert!((0.9..1.5).contains(&speedup(128.0)), "{}", speedup(128.0));
        assert!((0.7..1.0).contains(&speedup(4096.0)), "{}", speedup(4096.0));
    }

    #[test]
    fn marlin_goes_over_the_weights_once_for_64_rows_and_joins_the_parts_of_narrow_ones() {
        let seconds = |m: f64, n: f64| {
            let work = GemmWork {
                weight_bytes: n * 8192.0 * 4.125 / 8.0,
                ..GemmWork::dense(m, n, 8192.0, 2.0)
            };
            MARLIN.direct.seconds(&A10G, &work)
        };
        // A10 with 8192 deep weights, 10240 wide: 168 us at 64 rows, 336 us at 128; 1024 wide: 57.
        assert!((seconds(64.0, 10240.0) / 168e-6 - 1.0).abs() < 0.05);
        assert!((seconds(128.0, 10240.0) / 336e-6 - 1.0).abs() < 0.05);
        assert!((seconds(64.0, 1024.0) / 57e-6 - 1.0).abs() < 0.15);
    }

    #[test]
    fn the_unpacking_path_is_taken_only_where_it_is_cheaper() {
        let slow = DirectForm { rate: 0.3, ..MARLIN.direct };
        let unpack = Some(UnpackForm { bandwidth: 0.8, floor: 5e-6 });
        let (with, without) = (
            WeightKernelForm { direct: slow, unpack },
            WeightKernelForm { direct: slow, unpack: None },
        );
        let total = |form: WeightKernelForm, m: f64| {
            let work = GemmWork {
                weight_bytes: 4096.0 * 4096.0 * 0.52,
                ..GemmWork::dense(m, 4096.0, 4096.0, 2.0)
            };
            let (plain, dequantise) = form.seconds(&mut Weights::new(A10G, work.n, work.k), &work);
            plain + dequantise
        };
        assert_eq!(total(with, 1.0), total(without, 1.0));
        assert!(total(with, 4096.0) < 0.5 * total(without, 4096.0));
    }

    #[test]
    fn engines_of_different_age_run_the_same_checkpoint_differently() {
        let gpu = crate::hardware::gpu("a10g").unwrap();
        let t4 = crate::hardware::gpu("t4").unwrap();
        let select = LinearKernel::select;
        let gptq = WeightFormat::Gptq;
        assert_eq!(
            select(gptq, EngineName::Tgis2023, &gpu),
            LinearKernel::Quantised(WeightKernel::GptqExllama)
        );
        assert_eq!(
            select(gptq, EngineName::Vllm0_32, &gpu),
            LinearKernel::Quantised(WeightKernel::Marlin)
        );
        assert_eq!(
            select(gptq, EngineName::Vllm0_32, &t4),
            LinearKernel::Quantised(WeightKernel::GptqExllama)
        );
        assert_eq!(
            select(WeightFormat::Fp8, EngineName::Vllm0_32, &gpu),
            LinearKernel::Quantised(WeightKernel::MarlinFp8)
        );
        assert_eq!(select(WeightFormat::None, EngineName::Tgis2023, &gpu), LinearKernel::Dense);
    }
}
