//! Whose surfaces stand for those that a GPU has no rows of.

use crate::hardware::Gpu;

/// Whose surfaces stand for those that a GPU has no rows of.
///
/// What share of its nominal peak a kernel reaches depends on how fast the tensor cores of a
/// multiprocessor are beside the rest of it (shared memory, exponentials), so products and prefill
/// are taken from a GPU with the same rate for each multiprocessor and clock: 512 operations on
/// A10G and GeForce (16 bits added up in 32), 1024 on the other chips of those families, 2048 on
/// A100, 4096 on Hopper. Decode moves memory: what counts is the memory's kind and the cache. Small
/// kernels are taken from the nearest architecture that was timed.
pub(super) struct Kin {
    gpu: &'static str,
    pub gemm: &'static str,
    pub prefill: &'static str,
    pub decode: &'static str,
    pub small: &'static str,
}

const fn kin(gpu: &'static str, [gemm, prefill, decode, small]: [&'static str; 4]) -> Kin {
    Kin { gpu, gemm, prefill, decode, small }
}

/// GEMM, prefill, decode, small kernels.
const KIN: [Kin; 10] = [
    kin("a10", ["a40", "l40s", "l40s", "a40"]),
    kin("a10g", ["rtx-4090", "rtx-4090", "l40s", "a40"]),
    kin("a40", ["l40s", "l40s", "l40s", "a100-80gb"]),
    kin("a100-40gb", ["a100-80gb", "a100-80gb", "a100-80gb", "a100-80gb"]),
    kin("l4", ["l40s", "l40s", "l40s", "rtx-4090"]),
    kin("l40s", ["a40", "rtx-pro-6000", "rtx-4090", "rtx-4090"]),
    kin("h100-80gb", ["h200-141gb", "a100-80gb", "a100-80gb", "a100-80gb"]),
    kin("h200-141gb", ["h100-80gb", "h100-80gb", "h100-80gb", "a100-80gb"]),
    kin("rtx-4090", ["a10g", "l40s", "l40s", "rtx-pro-6000"]),
    kin("rtx-pro-6000", ["l40s", "l40s", "rtx-4090", "rtx-4090"]),
];

/// Whose 8-bit GEMMs stand for those of a GPU without rows of them.
pub(super) const FP8_KIN: &str = "l40s";

pub(super) fn of(gpu: &Gpu) -> Option<&'static Kin> {
    KIN.iter().find(|kin| kin.gpu == gpu.name)
}

pub(super) fn bandwidth_ratio(gpu: &Gpu, other: &Gpu) -> f64 {
    gpu.memory.bandwidth.bytes_per_s() / other.memory.bandwidth.bytes_per_s()
}

pub(super) fn clock_ratio(gpu: &Gpu, other: &Gpu) -> f64 {
    let clock = |gpu: &Gpu| f64::from(gpu.chip.boost_clock_mhz.expect("the catalogue has it"));
    clock(gpu) / clock(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware;

    /// Operations of the tensor cores of a multiprocessor in one clock: a power of two.
    fn rate(name: &str) -> f64 {
        let gpu = hardware::gpu(name).unwrap();
        let clock = f64::from(gpu.chip.boost_clock_mhz.unwrap()) * 1e6;
        let rate = gpu.peak.fp16.per_s() / f64::from(gpu.chip.streaming_multiprocessors) / clock;
        rate.log2().round().exp2()
    }

    #[test]
    fn kin_have_the_same_tensor_cores_where_a_timed_gpu_has() {
        for kin in &KIN {
            let of_prefill = rate(kin.prefill);
            match kin.gpu {
                // Nothing else of their rate was timed.
                "h100-80gb" | "rtx-4090" => {}
                gpu => assert_eq!(rate(gpu), of_prefill, "{gpu} from {}", kin.prefill),
            }
        }
        assert_eq!([rate("a10g"), rate("rtx-4090")], [512.0; 2]);
        assert_eq!([rate("l4"), rate("l40s"), rate("a40")], [1024.0; 3]);
    }
}
