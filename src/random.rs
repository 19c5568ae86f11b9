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
    /// Prompts that one closed-loop client draws.
    Client(u32),
    /// Outputs that one client draws, where they do not come with the prompt.
    Outputs(u32),
    /// States of a modulated arrival process.
    Modulation,
    /// Which tenant an arrival of an open loop is of.
    Tenants,
    /// Which of the shared prompt beginnings a client's conversations have.
    Prefixes(u32),
    /// Turns of a client's conversations.
    Turns(u32),
    /// Pauses between a client's turns.
    ThinkTimes(u32),
    /// Choices of a router.
    Router,
    /// When a replica fails, and for how long.
    Failures(u32),
    /// How long clients wait before they try again.
    Retries,
}

/// The stream of `seed` for one use. The same on every platform.
pub fn stream(seed: u64, purpose: Use) -> ChaCha8Rng {
    tenant_stream(seed, 0, purpose)
}

/// The same for one of several tenants, of which each draws from streams of its own.
pub fn tenant_stream(seed: u64, tenant: u16, purpose: Use) -> ChaCha8Rng {
    let (kind, index) = match purpose {
        Use::Arrivals => (1u64, 0),
        Use::Lengths => (2, 0),
        Use::Client(index) => (3, index),
        Use::Outputs(index) => (4, index),
        Use::Modulation => (5, 0),
        Use::Tenants => (6, 0),
        Use::Prefixes(index) => (7, index),
        Use::Turns(index) => (8, index),
        Use::ThinkTimes(index) => (9, index),
        Use::Router => (10, 0),
        Use::Failures(index) => (11, index),
        Use::Retries => (12, 0),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(tenant) << 48 | kind << 32 | u64::from(index));
    rng
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_by_use_and_tenant_and_repeat_by_seed() {
        let draw = |seed, (tenant, purpose)| tenant_stream(seed, tenant, purpose).next_u64();
        let all = [
            (0, Use::Arrivals),
            (0, Use::Lengths),
            (0, Use::Client(0)),
            (0, Use::Client(1)),
            (0, Use::Outputs(0)),
            (0, Use::Modulation),
            (1, Use::Lengths),
            (2, Use::Lengths),
        ];
        for (i, &a) in all.iter().enumerate() {
            assert_eq!(draw(7, a), draw(7, a));
            assert_ne!(draw(7, a), draw(8, a));
            for &b in &all[i + 1..] {
                assert_ne!(draw(7, a), draw(7, b), "{a:?} and {b:?} share numbers");
            }
        }
    }
}
