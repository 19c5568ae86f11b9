//! Random numbers: one seed, and an independent ChaCha8 stream for each use.
//!
//! A stream belongs to what it is used for, not to the order of calls, so that changing the
//! scheduler, or adding a client, leaves all other draws as they were.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Times between arrivals of an open loop.
    Arrivals,
    /// Lengths of prompts and outputs.
    Lengths,
    /// Everything that one closed-loop client draws.
    Client(u32),
}

/// The stream of `seed` for one use. The same on every platform.
pub fn stream(seed: u64, purpose: Use) -> ChaCha8Rng {
    let (kind, index) = match purpose {
        Use::Arrivals => (1u64, 0),
        Use::Lengths => (2, 0),
        Use::Client(index) => (3, index),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(kind << 32 | u64::from(index));
    rng
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_by_use_and_repeat_by_seed() {
        let draw = |seed, purpose| stream(seed, purpose).next_u64();
        let all = [Use::Arrivals, Use::Lengths, Use::Client(0), Use::Client(1)];
        for (i, &a) in all.iter().enumerate() {
            assert_eq!(draw(7, a), draw(7, a));
            assert_ne!(draw(7, a), draw(8, a));
            for &b in &all[i + 1..] {
                assert_ne!(draw(7, a), draw(7, b), "{a:?} and {b:?} share numbers");
            }
        }
    }
}
