//! The KV blocks counted anew, one by one, against what the bookkeeping says: for checks only.

use super::{BlockTable, Identities, KvCacheManager, Mode};

/// Where all the units of a KV cache are: blocks where the engine has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvAudit {
    /// Tokens that a unit holds.
    pub unit_tokens: u32,
    /// All that requests can hold.
    pub total: u64,
    /// Held by nobody, with nothing worth keeping.
    pub free: u64,
    /// Held by at least one request, each counted once.
    pub held: u64,
    /// Held by nobody, with content that a later request may find.
    pub cached: u64,
}

impl KvCacheManager {
    /// Counts the blocks in the tables of all live requests; `held` is how many these need by their
    /// tokens, which is all there is to count without identities. What does not hold goes to
    /// `broken`. O(blocks) with identities.
    pub fn audit<'a>(
        &self,
        tables: impl Iterator<Item = &'a BlockTable>,
        held: u64,
        broken: &mut Vec<String>,
    ) -> KvAudit {
        let mut audit = KvAudit {
            unit_tokens: self.block_size,
            total: u64::from(self.usable),
            free: u64::from(self.free),
            held,
            cached: 0,
        };
        let Identities { pool, index, .. } = match &self.mode {
            Mode::Identified(identities) => identities,
            Mode::Counted => return audit,
            Mode::Unshared(queue) => {
                let (cached, queued) = queue.count();
                if queued > 0 && queued != audit.free {
                    broken.push(format!("{} blocks are counted free, {queued} queued", audit.free));
                }
                audit.free -= cached.min(audit.free);
                audit.cached = cached;
                return audit;
            }
        };
        let mut refs = vec![0u32; self.usable as usize + 1];
        for table in tables {
            for &block in table.blocks() {
                refs[block as usize] += 1;
            }
        }
        audit.held = 0;
        for (block, &holders) in (0u32..).zip(&refs).skip(1) {
            audit.held += u64::from(holders > 0);
            let counted = pool.references(block);
            if counted != holders {
                broken.push(format!("block {block}: {counted} references, {holders} holders"));
            }
        }
        // A damaged queue may be a ring that never comes back to its start.
        let most = self.usable as usize + 1;
        let mut queued = 0;
        for block in pool.free_queue().take(most) {
            queued += 1;
            // Marks the block, so that a second visit shows.
            let seen = std::mem::replace(&mut refs[block as usize], u32::MAX);
            match seen {
                0 => {}
                u32::MAX => broken.push(format!("block {block} is free twice")),
                _ => broken.push(format!("block {block} is free and held")),
            }
            let keeps = index.as_ref().is_some_and(|index| index.contains(block));
            audit.cached += u64::from(keeps);
        }
        if queued != u64::from(self.free) {
            broken.push(format!("{} blocks are counted free, {queued} are queued", self.free));
        }
        audit.free = queued - audit.cached;
        audit
    }
}

#[cfg(test)]
mod tests {
    use super::super::Release;
    use super::super::block_pool::FreeOrder;
    use super::*;

    #[test]
    fn every_block_is_free_held_or_cached() {
        let mut kv = KvCacheManager::identified(9, 4, FreeOrder::UnkeyedToFront, true);
        let (mut stays, mut goes) = (BlockTable::default(), BlockTable::default());
        goes.reset(1, None);
        kv.grow(&mut stays, 3);
        kv.grow(&mut goes, 2);
        kv.register(&mut goes, 2);
        kv.release(&mut goes, 2, 2, Release::Preempted);
        let mut broken = Vec::new();
        let audit = kv.audit([&stays, &goes].into_iter(), 0, &mut broken);
        let expected = KvAudit { unit_tokens: 4, total: 8, free: 3, held: 3, cached: 2 };
        assert_eq!(audit, expected);
        assert_eq!(broken, [""; 0]);
    }

    #[test]
    fn a_block_that_is_freed_too_early_is_seen() {
        let mut kv = KvCacheManager::identified(4, 4, FreeOrder::UnkeyedToFront, false);
        let mut table = BlockTable::default();
        kv.grow(&mut table, 2);
        let mut copy = BlockTable { blocks: vec![1], ..BlockTable::default() };
        kv.release(&mut copy, 1, 0, Release::Ended);
        let mut broken = Vec::new();
        kv.audit([&table].into_iter(), 0, &mut broken);
        assert_eq!(broken, ["block 1: 0 references, 1 holders", "block 1 is free and held"]);
    }
}
