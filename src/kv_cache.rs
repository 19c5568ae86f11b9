//! The paged KV cache of one replica: how many blocks are free, and, where it matters, which.
//!
//! Three modes stand behind one interface. *Counted*: without prefix caching nobody can tell one
//! block from another, so only the number of free blocks exists and a block costs nothing.
//! *Unshared*: with prefix caching, but no two requests have anything in common; counted, and what
//! preempted requests left is remembered. *Identified*: block ids, reference counts, the order of
//! the free queue and content keys, as the engine has them; needed where prompts share something,
//! and for recorded schedules. How many blocks there are in the first place is [`memory_plan`]'s
//! answer.

mod audit;
pub mod block_pool;
pub mod memory_plan;
pub mod prefix;
mod unshared;

use std::sync::Arc;

use crate::request::PromptContent;

pub use audit::KvAudit;
use block_pool::{BlockPool, FreeOrder};
use prefix::{BlockKey, ContentKeys, PrefixIndex};
use unshared::{Chain, UnsharedQueue};

/// The KV blocks of one replica. Every method is O(blocks that it moves).
#[derive(Debug)]
pub struct KvCacheManager {
    block_size: u32,
    /// `log2(block_size)` where that is whole: block counts are taken at every turn.
    shift: Option<u32>,
    usable: u32,
    free: u32,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Counted,
    Unshared(UnsharedQueue),
    Identified(Identities),
}

/// What only the identified mode has.
#[derive(Debug)]
struct Identities {
    pool: BlockPool,
    /// `None`: blocks are identified, but prefix caching is off.
    index: Option<PrefixIndex>,
    /// Blocks found by the newest lookup.
    hits: Vec<u32>,
}

/// The blocks that one sequence holds, and the content that they are keyed by.
///
/// Without identities it stays empty: how many blocks a sequence holds follows from its tokens.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<u32>,
    /// Leading blocks that are known to carry a content key.
    keyed: u32,
    uid: u64,
    /// Whether a lookup may find blocks that this sequence held before it was preempted.
    remembered: bool,
    /// What the newest lookup has found of it, where nobody shares.
    found: Vec<Chain>,
    content: Option<Box<ContentKeys>>,
}

impl BlockTable {
    /// Makes this the table of request `uid`, which holds nothing yet. `content: None` means that
    /// no other request can share a block with it.
    pub fn reset(&mut self, uid: u64, content: Option<&Arc<PromptContent>>) {
        assert!(self.blocks.is_empty(), "the previous owner of a table has given its blocks back");
        self.keyed = 0;
        self.uid = uid;
        self.remembered = false;
        self.found.clear();
        self.content = content.map(|c| Box::new(ContentKeys::new(Arc::clone(c))));
    }

    /// Block ids, first to last; empty without identities.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// How many there are; 0 without identities.
    pub fn held(&self) -> u32 {
        u32::try_from(self.blocks.len()).expect("block ids are u32")
    }

    /// Whether other requests can find this one's blocks.
    pub fn is_shareable(&self) -> bool {
        self.content.is_some()
    }

    /// Leading blocks that are known to carry a content key.
    pub fn keyed(&self) -> u32 {
        self.keyed
    }
}

/// Leading blocks of a sequence that stand in the prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixHit {
    pub blocks: u32,
    /// Those of them that nobody holds: they stand in the free queue and would leave it.
    pub unreferenced: u32,
}

/// What becomes of the blocks of a sequence that gives them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The request has ended.
    Ended,
    /// It will come back for them, if they are still there.
    Preempted,
}

impl KvCacheManager {
    /// Blocks without identities: `usable` of them, `block_size` tokens each.
    pub fn counted(usable: u32, block_size: u32) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        let shift = block_size.is_power_of_two().then(|| block_size.trailing_zeros());
        Self { block_size, shift, usable, free: usable, mode: Mode::Counted }
    }

    /// With prefix caching, for requests of which no two share anything. It gives what identified
    /// blocks give.
    pub fn unshared(usable: u32, block_size: u32, order: FreeOrder) -> Self {
        let mode = Mode::Unshared(UnsharedQueue::new(order));
        Self { mode, ..Self::counted(usable, block_size) }
    }

    /// Blocks with identities. Of `blocks`, number 0 is the null block and never handed out
    /// (vLLM 0.32.0 `block_pool.py`).
    pub fn identified(
        blocks: u32,
        block_size: u32,
        order: FreeOrder,
        prefix_caching: bool,
    ) -> Self {
        let usable = blocks.checked_sub(1).expect("there is at least the null block");
        Self {
            mode: Mode::Identified(Identities {
                pool: BlockPool::new(blocks, order),
                index: prefix_caching.then(PrefixIndex::default),
                hits: Vec::new(),
            }),
            ..Self::counted(usable, block_size)
        }
    }

    /// Tokens per block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Blocks that sequences can hold in all.
    pub fn usable_blocks(&self) -> u32 {
        self.usable
    }

    /// Blocks that nobody holds, those with cached content included.
    pub fn free_blocks(&self) -> u32 {
        self.free
    }

    pub fn is_identified(&self) -> bool {
        matches!(self.mode, Mode::Identified(_))
    }

    pub fn caches_prefixes(&self) -> bool {
        match &self.mode {
            Mode::Counted => false,
            Mode::Unshared(_) => true,
            Mode::Identified(identities) => identities.index.is_some(),
        }
    }

    /// Blocks that `tokens` fill, the last one perhaps in part.
    #[inline]
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        match self.shift {
            Some(shift) => (tokens + self.block_size - 1) >> shift,
            None => tokens.div_ceil(self.block_size),
        }
    }

    /// Blocks that `tokens` fill completely.
    #[inline]
    pub fn full_blocks(&self, tokens: u32) -> u32 {
        match self.shift {
            Some(shift) => tokens >> shift,
            None => tokens / self.block_size,
        }
    }

    /// The leading blocks among the first `most` of a sequence that stand in the cache now. Looking
    /// changes nothing that counts: recency is refreshed only by `take_hit`.
    pub fn lookup(&mut self, table: &mut BlockTable, most: u32) -> PrefixHit {
        let block_size = self.block_size;
        let (pool, index, hits) = match &mut self.mode {
            Mode::Identified(Identities { pool, index: Some(index), hits }) => (pool, index, hits),
            Mode::Unshared(queue) if table.remembered => {
                queue.find(table.uid, most, &mut table.found);
                let blocks = table.found.iter().map(Chain::blocks).sum();
                return PrefixHit { blocks, unreferenced: blocks };
            }
            _ => return PrefixHit::default(),
        };
        hits.clear();
        if table.content.is_none() && !table.remembered {
            return PrefixHit::default();
        }
        let mut unreferenced = 0;
        for block in 0..most {
            let Some(found) = index.find(key_of(table, block, block_size)) else { break };
            unreferenced += u32::from(!pool.is_held(found));
            hits.push(found);
        }
        PrefixHit { blocks: u32::try_from(hits.len()).expect("at most `most`"), unreferenced }
    }

    /// Gives a sequence the blocks that the newest lookup found for it.
    pub fn take_hit(&mut self, table: &mut BlockTable, hit: PrefixHit) {
        if hit.blocks == 0 {
            return;
        }
        match &mut self.mode {
            Mode::Counted => return,
            Mode::Unshared(queue) => queue.take_found(table.uid, &table.found),
            Mode::Identified(Identities { pool, hits, .. }) => {
                for &block in hits.iter() {
                    pool.hold(block);
                }
                table.blocks.extend_from_slice(hits);
            }
        }
        table.keyed = hit.blocks;
        self.free -= hit.unreferenced;
    }

    /// Gives a sequence `blocks` more. There must be that many free.
    #[inline]
    pub fn grow(&mut self, table: &mut BlockTable, blocks: u32) {
        let Mode::Identified(Identities { pool, index, .. }) = &mut self.mode else {
            self.take_counted(blocks);
            return;
        };
        self.free = self.free.checked_sub(blocks).expect("the caller has tested for free blocks");
        let held = table.blocks.len();
        pool.take(blocks, &mut table.blocks);
        if let Some(index) = index.as_mut().filter(|index| !index.is_empty()) {
            // Eviction happens here and only here (vLLM 0.32.0 `get_new_blocks`).
            for &block in &table.blocks[held..] {
                index.forget(block);
            }
        }
    }

    /// Takes `blocks` at once for sequences that need no identities.
    #[inline]
    pub fn take_counted(&mut self, blocks: u32) {
        debug_assert!(!self.is_identified(), "identified blocks go to a table");
        self.free = self.free.checked_sub(blocks).expect("the caller has tested for free blocks");
        if let Mode::Unshared(queue) = &mut self.mode {
            queue.take(blocks);
        }
    }

    /// The first `blocks` of a sequence are full: whoever can share them finds them from now on.
    pub fn register(&mut self, table: &mut BlockTable, blocks: u32) {
        if blocks <= table.keyed {
            return;
        }
        match &mut self.mode {
            Mode::Unshared(_) => {}
            Mode::Identified(Identities { index: Some(index), .. }) => {
                if table.content.is_some() {
                    for block in table.keyed..blocks {
                        let key = key_of(table, block, self.block_size);
                        index.insert(key, table.blocks[block as usize]);
                    }
                }
            }
            Mode::Counted | Mode::Identified(_) => return,
        }
        table.keyed = blocks;
    }

    /// Takes back all blocks of a sequence: `held` of them, the first `keyed` with a content key.
    pub fn release(&mut self, table: &mut BlockTable, held: u32, keyed: u32, release: Release) {
        let Identities { pool, index, .. } = match &mut self.mode {
            Mode::Identified(identities) => identities,
            Mode::Unshared(queue) => {
                let blocks = (held - keyed, keyed);
                match release {
                    Release::Ended => queue.give_back(blocks.0, blocks.1),
                    Release::Preempted => {
                        queue.remember(table.uid, blocks, &table.found, self.free);
                        table.remembered = true;
                    }
                }
                table.found.clear();
                table.keyed = 0;
                self.free += held;
                return;
            }
            Mode::Counted => {
                self.free += held;
                return;
            }
        };
        debug_assert_eq!(table.blocks.len(), held as usize, "a table holds what its tokens need");
        let keyed = index.as_ref().map_or(0, |_| keyed);
        if let (Some(index), None, Release::Preempted) = (index, &table.content, release) {
            // Nobody but this request can look for these blocks, so until now they needed no entry.
            for (block, &id) in (0..keyed).zip(&table.blocks) {
                if !index.contains(id) {
                    index.insert(BlockKey::unshared(table.uid, block), id);
                }
            }
            table.remembered = true;
        }
        self.free += pool.release(&table.blocks, keyed as usize);
        table.blocks.clear();
        table.keyed = 0;
    }

    /// FNV-1a-64 over the free queue's ids from front to back, each as 4 little-endian bytes, as in
    /// the recorded schedules; `None` without identities. O(free blocks).
    pub fn free_queue_hash(&self) -> Option<u64> {
        match &self.mode {
            Mode::Identified(identities) => Some(identities.pool.free_queue_hash()),
            Mode::Counted | Mode::Unshared(_) => None,
        }
    }
}

fn key_of(table: &mut BlockTable, block: u32, block_size: u32) -> BlockKey {
    match &mut table.content {
        Some(content) => content.key(block, block_size),
        None => BlockKey::unshared(table.uid, block),
    }
}
