//! The block allocator of TGI's v3 router: a plain count, or a count and a prefix cache.
//!
//! Source: `backends/v3/src/block_allocator.rs` and `radix.rs` at db931fc; in words
//! `engines/tgis-tgi.md` B3. All blocks of a request are taken when it is selected and returned when
//! it ends, is cancelled or is put back. Being returned is what makes a prompt count as cached, so
//! a request that is put back finds its own prompt cached although nobody has computed it.

use super::prompt::{Run, Tokens};
use super::radix::{NodeId, RadixCache};

/// What a request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    /// Blocks of the request, shared ones included.
    pub blocks: u32,
    /// Prompt tokens found in the prefix cache, in whole blocks.
    pub cached: u32,
    prefix: NodeId,
}

impl Allocation {
    /// Blocks that nobody shares.
    pub(super) const fn private(blocks: u32) -> Self {
        Self { blocks, cached: 0, prefix: NodeId::ROOT }
    }
}

#[derive(Clone, Debug)]
pub(super) struct BlockAllocator {
    block_size: u32,
    usable: u64,
    free: u64,
    cache: Option<RadixCache>,
}

impl BlockAllocator {
    pub(super) fn new(total_tokens: u32, block_size: u32, prefix_caching: bool) -> Self {
        // Block 0 is reserved for health checks.
        let usable = u64::from((total_tokens / block_size).saturating_sub(1));
        let cache = prefix_caching.then(|| RadixCache::new(block_size));
        Self { block_size, usable, free: usable, cache }
    }

    pub(super) fn usable(&self) -> u64 {
        self.usable
    }

    /// Blocks that no new request could have, not even by eviction.
    pub(super) fn in_use(&self) -> u64 {
        let evictable = self.cache.as_ref().map_or(0, |cache| cache.blocks() - cache.held_blocks());
        self.usable - self.free - evictable
    }

    /// Room for `tokens` tokens, the first of which are `prompt`.
    pub(super) fn allocate(&mut self, tokens: u32, prompt: &[Run]) -> Option<Allocation> {
        let (prefix, cached) = match &mut self.cache {
            None => (NodeId::ROOT, 0),
            Some(cache) => {
                let (node, cached) = cache.find(Tokens::new(prompt));
                cache.hold(node);
                (node, cached)
            }
        };
        let new = (tokens - cached).div_ceil(self.block_size);
        let wanted = u64::from(new);
        if let Some(cache) = &mut self.cache {
            // What is evicted stays free even if it does not suffice.
            self.free += cache.evict(wanted.saturating_sub(self.free));
        }
        if wanted > self.free {
            if let Some(cache) = &mut self.cache {
                cache.release(prefix);
            }
            return None;
        }
        self.free -= wanted;
        Some(Allocation { blocks: cached / self.block_size + new, cached, prefix })
    }

    /// Takes back what a request holds. The prompt's whole blocks go to the cache; those that it
    /// has already and those of the output become free.
    pub(super) fn free(&mut self, held: Allocation, prompt: &[Run]) {
        let own = u64::from(held.blocks - held.cached / self.block_size);
        let mut kept = 0;
        if let Some(cache) = &mut self.cache {
            cache.release(held.prefix);
            let prompt = Tokens::new(prompt);
            let whole = prompt.len() - prompt.len() % self.block_size;
            // A prompt that was cached to its last token is not inserted again.
            if prompt.len() > held.cached && whole > 0 {
                let found = cache.insert(prompt.first(whole));
                kept = u64::from((whole - found) / self.block_size);
            }
        }
        self.free += own - kept;
        debug_assert!(
            self.free + self.cache.as_ref().map_or(0, RadixCache::blocks) <= self.usable,
            "blocks are conserved"
        );
    }

    /// Free blocks and those of the cache.
    pub(super) fn free_and_cached(&self) -> (u64, u64) {
        (self.free, self.cache.as_ref().map_or(0, RadixCache::blocks))
    }
}
