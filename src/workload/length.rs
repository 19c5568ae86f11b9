//! How long prompts and outputs are.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use crate::named::named_enum;
use crate::random::{self, Use};
use crate::request::RequestSpec;

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

/// A source of lengths for `clients` clients.
#[derive(Debug)]
pub struct Lengths {
    pairs: Arc<[LengthPair]>,
    walk: Walk,
}

#[derive(Debug)]
enum Walk {
    PerClient(Vec<Permutation>),
    Shared(Permutation),
    Sample(Vec<ChaCha8Rng>),
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
    /// `pairs` must not be empty.
    pub fn new(pairs: Arc<[LengthPair]>, order: LengthOrder, clients: u32, seed: u64) -> Self {
        assert!(!pairs.is_empty(), "a data set has at least one pair");
        let len = pairs.len();
        let walk = match order {
            // One pair is the same in any order, and then no client needs a permutation.
            _ if len == 1 => Walk::Shared(Permutation::identity(1)),
            LengthOrder::PerClientShuffle => Walk::PerClient(
                (0..clients)
                    .map(|c| Permutation::shuffled(len, random::stream(seed, Use::Client(c))))
                    .collect(),
            ),
            LengthOrder::Shuffle => {
                Walk::Shared(Permutation::shuffled(len, random::stream(seed, Use::Lengths)))
            }
            LengthOrder::InOrder => Walk::Shared(Permutation::identity(len)),
            LengthOrder::Sample => {
                Walk::Sample((0..clients).map(|c| random::stream(seed, Use::Client(c))).collect())
            }
        };
        Self { pairs, walk }
    }

    /// The next request of `client`.
    pub fn next(&mut self, client: u32) -> RequestSpec {
        let row = match &mut self.walk {
            Walk::PerClient(walks) => walks[client as usize].advance(),
            Walk::Shared(walk) => walk.advance(),
            Walk::Sample(rngs) => rngs[client as usize].random_range(0..self.pairs.len()),
        };
        let pair = self.pairs[row];
        RequestSpec { client, ..RequestSpec::fixed(pair.input, pair.output) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(n: u32) -> Arc<[LengthPair]> {
        (0..n).map(|i| LengthPair { input: i + 1, output: 1 }).collect()
    }

    #[test]
    fn each_client_walks_its_own_permutation_round_and_round() {
        let mut lengths = Lengths::new(pairs(32), LengthOrder::PerClientShuffle, 2, 1);
        let mut walk =
            |client| (0..32).map(|_| lengths.next(client).prompt_tokens).collect::<Vec<_>>();
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
            let mut lengths = Lengths::new(pairs(32), LengthOrder::PerClientShuffle, clients, 1);
            (0..40).map(|_| lengths.next(0).prompt_tokens).collect::<Vec<_>>()
        };
        assert_eq!(walk(1), walk(7));
    }

    #[test]
    fn shared_orders_hand_out_each_row_once_a_round() {
        for order in [LengthOrder::Shuffle, LengthOrder::InOrder] {
            let mut lengths = Lengths::new(pairs(8), order, 3, 1);
            let mut seen: Vec<u32> = (0..8).map(|i| lengths.next(i % 3).prompt_tokens).collect();
            seen.sort_unstable();
            assert_eq!(seen, (1..=8).collect::<Vec<_>>());
        }
    }
}
