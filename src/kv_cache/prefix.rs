//! Content keys of full blocks, and the index from keys to blocks.
//!
//! As in vLLM the key of a block is a hash over the previous block's key and the block's own
//! tokens, so equal keys mean equal prefixes (vLLM 0.32.0 `kv_cache_utils.py`,
//! `hash_block_tokens`). It has 127 bits: among 2^30 blocks two different prefixes collide with a
//! probability below 2^-67, and the hash has no seed, so equal runs give equal results.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::request::{PromptContent, TokenRun};

/// Identifies the content of a full block and of everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey(u128);

impl BlockKey {
    /// Set in keys of content that nobody shares, clear in hashes.
    const UNSHARED: u128 = 1 << 127;

    /// Block `index` of request `uid`, whose content nobody else has.
    pub fn unshared(uid: u64, index: u32) -> Self {
        Self(Self::UNSHARED | u128::from(uid) << 32 | u128::from(index))
    }
}

/// A hash chain over runs of token ids in two independent lanes.
///
/// Each lane is a chain of bijections of its 64-bit state: chains that differ in a single value
/// never meet in that value's step, others meet as random ones would.
#[derive(Clone, Copy, Debug)]
struct ChainHash([u64; 2]);

impl ChainHash {
    const START: Self = Self([0x9ae1_6a3b_2f90_404f, 0xc3a5_c85c_97cb_3127]);
    const STRIDE: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];

    fn absorb(&mut self, value: u64) {
        for (lane, stride) in self.0.iter_mut().zip(Self::STRIDE) {
            // The finaliser of splitmix64 (Steele, Lea, Flood 2014).
            let mut x = (*lane ^ value).wrapping_add(stride);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *lane = x ^ (x >> 31);
        }
    }

    fn key(self) -> BlockKey {
        let bits = u128::from(self.0[0]) << 64 | u128::from(self.0[1]);
        BlockKey(bits & !BlockKey::UNSHARED)
    }
}

/// The keys of one request's blocks, computed as they are asked for.
#[derive(Debug)]
pub struct ContentKeys {
    content: Arc<PromptContent>,
    keys: Vec<BlockKey>,
    chain: ChainHash,
    /// The next token to be hashed: an index into the runs (one past them is the output) and an
    /// offset.
    run: usize,
    offset: u64,
}

impl ContentKeys {
    pub fn new(content: Arc<PromptContent>) -> Self {
        Self { content, keys: Vec::new(), chain: ChainHash::START, run: 0, offset: 0 }
    }

    /// The key of block `index`, which must be full of known tokens.
    pub fn key(&mut self, index: u32, block_size: u32) -> BlockKey {
        while self.keys.len() <= index as usize {
            self.hash_block(block_size);
        }
        self.keys[index as usize]
    }

    /// Hashes the next block as its runs of consecutive ids, merged where one goes on where the
    /// other stopped: the same tokens have the same key however they were written down.
    fn hash_block(&mut self, block_size: u32) {
        let mut left = u64::from(block_size);
        let mut pending: Option<(u64, u64)> = None;
        while left > 0 {
            let (first, len) = match self.content.runs.get(self.run) {
                Some(&TokenRun { first, len }) => (first, u64::from(len)),
                None => (self.content.output_base, u64::MAX),
            };
            let taken = left.min(len - self.offset);
            let start = first.wrapping_add(self.offset);
            if taken > 0 {
                pending = Some(match pending {
                    Some((s, n)) if s.wrapping_add(n) == start => (s, n + taken),
                    Some((s, n)) => {
                        self.chain.absorb(s);
                        self.chain.absorb(n);
                        (start, taken)
                    }
                    None => (start, taken),
                });
            }
            left -= taken;
            self.offset += taken;
            if self.offset == len {
                self.run += 1;
                self.offset = 0;
            }
        }
        let (s, n) = pending.expect("a block holds at least one token");
        self.chain.absorb(s);
        self.chain.absorb(n);
        self.keys.push(self.chain.key());
    }
}

/// Keys are hashes already, or made of consecutive numbers: one multiplication spreads both.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a block key is hashed as one u128");
    }

    fn write_u128(&mut self, key: u128) {
        let folded = (key as u64) ^ (key >> 64) as u64;
        let spread = u128::from(folded).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = (spread as u64) ^ (spread >> 64) as u64;
    }
}

const NONE: u32 = u32::MAX;

/// What the index knows of a block.
#[derive(Clone, Copy, Debug)]
struct Entered {
    key: Option<BlockKey>,
    /// Blocks with the same key, in order of registration.
    prev: u32,
    next: u32,
}

/// From a key to the blocks that carry it. Duplicates are not merged; the one registered earliest
/// among those still registered is found (vLLM 0.32.0 `block_pool.py`, `BlockHashToBlockMap`).
/// All operations are O(1).
#[derive(Debug, Default)]
pub struct PrefixIndex {
    /// First and last block of each key; only looked up, never iterated.
    by_key: HashMap<BlockKey, (u32, u32), BuildHasherDefault<KeyHasher>>,
    /// By block id; as long as the highest id that was ever entered.
    blocks: Vec<Entered>,
}

impl PrefixIndex {
    /// The block registered earliest under `key`.
    pub fn find(&self, key: BlockKey) -> Option<u32> {
        self.by_key.get(&key).map(|&(first, _)| first)
    }

    /// Whether no block is entered.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether the block is entered under any key.
    pub fn contains(&self, block: u32) -> bool {
        self.blocks.get(block as usize).is_some_and(|b| b.key.is_some())
    }

    pub fn insert(&mut self, key: BlockKey, block: u32) {
        debug_assert!(!self.contains(block), "a block has one key at a time");
        let at = block as usize;
        if self.blocks.len() <= at {
            self.blocks.resize(at + 1, Entered { key: None, prev: NONE, next: NONE });
        }
        let prev = match self.by_key.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert((block, block));
                NONE
            }
            Entry::Occupied(mut entry) => {
                let last = entry.get().1;
                entry.get_mut().1 = block;
                self.blocks[last as usize].next = block;
                last
            }
        };
        self.blocks[at] = Entered { key: Some(key), prev, next: NONE };
    }

    /// The block is about to hold other content.
    #[inline]
    pub fn forget(&mut self, block: u32) {
        let Some(entered) = self.blocks.get_mut(block as usize) else { return };
        let Some(key) = entered.key.take() else { return };
        let (prev, next) = (entered.prev, entered.next);
        if prev == NONE && next == NONE {
            self.by_key.remove(&key);
            return;
        }
        if prev != NONE {
            self.blocks[prev as usize].next = next;
        }
        if next != NONE {
            self.blocks[next as usize].prev = prev;
        }
        let ends = self.by_key.get_mut(&key).expect("a key with blocks is in the map");
        if prev == NONE {
            ends.0 = next;
        }
        if next == NONE {
            ends.1 = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(runs: &[(u64, u32)], output_base: u64, blocks: u32) -> Vec<BlockKey> {
        let runs = runs.iter().map(|&(first, len)| TokenRun { first, len }).collect();
        let mut keys = ContentKeys::new(Arc::new(PromptContent { runs, output_base }));
        (0..blocks).map(|b| keys.key(b, 4)).collect()
    }

    #[test]
    fn equal_tokens_have_equal_keys_however_they_are_cut_into_runs() {
        let whole = keys(&[(10, 12)], 900, 3);
        assert_eq!(keys(&[(10, 3), (13, 6), (19, 3)], 500, 3), whole);
        assert_eq!(keys(&[(10, 3), (13, 0), (13, 5)], 18, 3), whole);
        assert_ne!(whole[0], whole[1]);
    }

    #[test]
    fn a_block_is_keyed_by_everything_before_it() {
        let (a, b) = (keys(&[(0, 4), (50, 8)], 0, 3), keys(&[(1, 4), (50, 8)], 0, 3));
        for block in 0..3 {
            assert_ne!(a[block], b[block]);
        }
    }

    #[test]
    fn the_earliest_registered_duplicate_is_found_until_it_is_forgotten() {
        let mut index = PrefixIndex::default();
        let key = BlockKey::unshared(7, 0);
        for block in [5, 3, 9] {
            index.insert(key, block);
        }
        assert_eq!(index.find(key), Some(5));
        index.forget(3);
        index.forget(5);
        assert_eq!(index.find(key), Some(9));
        index.insert(key, 3);
        assert_eq!(index.find(key), Some(9));
        index.forget(9);
        index.forget(3);
        assert_eq!(index.find(key), None);
        assert!(!index.contains(3));
    }

    proptest! {
        #[test]
        fn keys_agree_exactly_as_far_as_the_tokens_do(
            a in prop::collection::vec((0u64..3, 0u32..6), 0..8),
            b in prop::collection::vec((0u64..3, 0u32..6), 0..8),
        ) {
            let tokens = |runs: &[(u64, u32)], base: u64| -> Vec<u64> {
                runs.iter()
                    .flat_map(|&(f, n)| f..f + u64::from(n))
                    .chain(base..)
                    .take(40)
                    .collect()
            };
            let (ta, tb) = (tokens(&a, 1), tokens(&b, 2));
            let (ka, kb) = (keys(&a, 1, 10), keys(&b, 2, 10));
            for block in 0..10usize {
                let end = (block + 1) * 4;
                prop_assert_eq!(ka[block] == kb[block], ta[..end] == tb[..end]);
            }
        }
    }
}
