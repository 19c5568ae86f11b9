//! How long prompts and outputs are.

mod distribution;

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use crate::named::named_enum;
use crate::random::{self, Use};

pub use distribution::LengthDistribution;
use distribution::Sampler;

/// Tokens of one prompt and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LengthPair {
    pub input: u32,
    pub output: u32,
}

named_enum! {
    /// In which order a data set is gone through.
    pub enum LengthOrder as "order" {
        /// Each client its own random permutation, walked round and round: what the ghz-based load
        /// tester of 2023 did (llm-load-test 705fef5). An open loop has one client.
        PerClientShuffle = "per-client-shuffle",
        /// One random permutation that all clients share.
        Shuffle = "shuffle",
        /// As it stands in the file, shared by all clients.
        InOrder = "in-order",
        /// Independent draws with replacement.
        Sample = "sample",
    }
}

/// Where lengths come from.
#[derive(Clone, Debug, PartialEq)]
pub enum LengthSource {
    /// Pairs that were measured or made up, never none; a fixed length is a list of one.
    Pairs { pairs: Arc<[LengthPair]>, order: LengthOrder },
    /// Prompt and output, each drawn by itself.
    Drawn { input: LengthDistribution, output: LengthDistribution },
}

/// The lengths that `clients` clients of one tenant ask for, one after the other.
#[derive(Debug)]
pub struct Lengths(Walk);

#[derive(Debug)]
enum Walk {
    PerClient(Arc<[LengthPair]>, Vec<Permutation>),
    Shared(Arc<[LengthPair]>, Permutation),
    Sample(Arc<[LengthPair]>, Vec<ChaCha8Rng>),
    Drawn {
        input: Sampler,
        output: Sampler,
        /// For each client one for prompts and one for outputs.
        rngs: Vec<[ChaCha8Rng; 2]>,
    },
}

#[derive(Debug)]
struct Permutation {
    order: Vec<u32>,
    next: usize,
}

impl Permutation {
    fn identity(len: usize) -> Self {
        let len = u32::try_from(len).expect("a data set has fewer than 2^32 rows");
        Self { order: (0..len).collect(), next: 0 }
    }

    fn shuffled(len: usize, mut rng: ChaCha8Rng) -> Self {
        let mut permutation = Self::identity(len);
        permutation.order.shuffle(&mut rng);
        permutation
    }

    fn advance(&mut self) -> usize {
        let row = self.order[self.next];
        self.next = (self.next + 1) % self.order.len();
        row as usize
    }
}

impl Lengths {
    pub fn new(source: &LengthSource, clients: u32, seed: u64, tenant: u16) -> Self {
        let stream = |purpose| random::tenant_stream(seed, tenant, purpose);
        Self(match source {
            LengthSource::Drawn { input, output } => Walk::Drawn {
                input: Sampler::new(input),
                output: Sampler::new(output),
                rngs: (0..clients).map(|c| [Use::Client(c), Use::Outputs(c)].map(stream)).collect(),
            },
            LengthSource::Pairs { pairs, order } => {
                assert!(!pairs.is_empty(), "a data set has at least one pair");
                let len = pairs.len();
                let shared = |permutation| Walk::Shared(Arc::clone(pairs), permutation);
                match order {
                    // One pair is the same in any order, and then no client needs a permutation.
                    _ if len == 1 => shared(Permutation::identity(1)),
                    LengthOrder::PerClientShuffle => Walk::PerClient(
                        Arc::clone(pairs),
                        (0..clients)
                            .map(|c| Permutation::shuffled(len, stream(Use::Client(c))))
                            .collect(),
                    ),
                    LengthOrder::Shuffle => {
                        shared(Permutation::shuffled(len, stream(Use::Lengths)))
                    }
                    LengthOrder::InOrder => shared(Permutation::identity(len)),
                    LengthOrder::Sample => Walk::Sample(
                        Arc::clone(pairs),
                        (0..clients).map(|c| stream(Use::Client(c))).collect(),
                    ),
                }
            }
        })
    }

    /// The lengths of the next request of `client`.
    pub fn next(&mut self, client: u32) -> LengthPair {
        let client = client as usize;
        match &mut self.0 {
            Walk::PerClient(pairs, walks) => pairs[walks[client].advance()],
            Walk::Shared(pairs, walk) => pairs[walk.advance()],
            Walk::Sample(pairs, rngs) => pairs[rngs[client].random_range(0..pairs.len())],
            Walk::Drawn { input, output, rngs } => {
                let [inputs, outputs] = &mut rngs[client];
                LengthPair { input: input.sample(inputs), output: output.sample(outputs) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(n: u32, order: LengthOrder) -> LengthSource {
        let pairs = (0..n).map(|i| LengthPair { input: i + 1, output: 1 }).collect();
        LengthSource::Pairs { pairs, order }
    }

    #[test]
    fn each_client_walks_its_own_permutation_round_and_round() {
        let mut lengths = Lengths::new(&pairs(32, LengthOrder::PerClientShuffle), 2, 1, 0);
        let mut walk = |client| (0..32).map(|_| lengths.next(client).input).collect::<Vec<_>>();
        let (first, other, again) = (walk(0), walk(1), walk(0));
        assert_eq!(first, again);
        assert_ne!(first, other);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (1..=32).collect::<Vec<_>>());
    }

    #[test]
    fn more_clients_leave_the_walks_of_the_others_alone() {
        let walk = |clients| {
            let source = pairs(32, LengthOrder::PerClientShuffle);
            let mut lengths = Lengths::new(&source, clients, 1, 0);
            (0..40).map(|_| lengths.next(0).input).collect::<Vec<_>>()
        };
        assert_eq!(walk(1), walk(7));
    }

    #[test]
    fn shared_orders_hand_out_each_row_once_a_round() {
        for order in [LengthOrder::Shuffle, LengthOrder::InOrder] {
            let mut lengths = Lengths::new(&pairs(8, order), 3, 1, 0);
            let mut seen: Vec<u32> = (0..8).map(|i| lengths.next(i % 3).input).collect();
            seen.sort_unstable();
            assert_eq!(seen, (1..=8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn other_outputs_leave_the_prompts_and_the_other_clients_alone() {
        let uniform = |max| LengthDistribution::Uniform { min: 1, max };
        let draw = |clients, max| {
            let source = LengthSource::Drawn { input: uniform(500), output: uniform(max) };
            let mut lengths = Lengths::new(&source, clients, 1, 0);
            (0..20).map(|_| lengths.next(0).input).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 10), draw(9, 90));
        let mut tenants = [0, 1].map(|tenant| {
            let source = LengthSource::Drawn { input: uniform(500), output: uniform(500) };
            Lengths::new(&source, 1, 1, tenant)
        });
        let [a, b] = tenants.each_mut().map(|l| (0..9).map(|_| l.next(0)).collect::<Vec<_>>());
        assert_ne!(a, b, "tenants draw from streams of their own");
    }
}
