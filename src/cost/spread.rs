//! What if a part of the price is off: the parts whose errors go together, and factors on them.

use crate::named::named_enum;

named_enum! {
    /// A part of a step's price that one set of measurements stands for.
    pub enum Part as "part" {
        /// All matrix products, unpacking of quantised weights included.
        Gemm = "gemm",
        /// Attention in steps without decoding sequences, in steps without chunks, and in those with
        /// both.
        Prefill = "attention.prefill",
        Decode = "attention.decode",
        Mixed = "attention.mixed",
        /// Norms, activations, sampling.
        Small = "elementwise",
        /// Collectives of tensor parallelism.
        Links = "collectives",
        /// Rebuilding a contiguous KV tensor.
        Copies = "kv-copy",
        /// Launching beside the GPU.
        Host = "host",
        /// Scheduling, sampling loops, detokenising: in series with the GPU.
        Serial = "serial",
        /// Everything at once: clocks, driver, kernels that are not those that were timed.
        Step = "step",
    }
}

/// A factor on each part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales([f64; Part::ALL.len()]);

impl Scales {
    pub const ONE: Self = Self([1.0; Part::ALL.len()]);

    #[must_use]
    pub const fn with(mut self, part: Part, factor: f64) -> Self {
        self.0[part as usize] = factor;
        self
    }

    /// The factor on a part, that on the whole step included.
    pub const fn of(&self, part: Part) -> f64 {
        self.0[part as usize] * self.0[Part::Step as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_scales_all_its_parts() {
        let scales = Scales::ONE.with(Part::Gemm, 2.0).with(Part::Step, 1.5);
        assert_eq!((scales.of(Part::Gemm), scales.of(Part::Host)), (3.0, 1.5));
        assert_eq!(Scales::ONE.of(Part::Links), 1.0);
    }
}
