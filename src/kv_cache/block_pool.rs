//! Blocks with identities: the free queue and the reference counts.

use std::collections::VecDeque;

/// Where freed blocks enter the free queue; they leave it at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FreeOrder {
    /// Blocks without a content key go to the front, so that nothing cached is evicted for them;
    /// keyed ones to the back. vLLM 0.24.0 and later (`block_pool.py`, `free_blocks`).
    UnkeyedToFront,
    /// All go to the back. vLLM up to 0.22.0.
    AllToBack,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Sequences that hold the block.
    refs: u32,
    /// Which of its entries in the free queue counts.
    ticket: u32,
}

/// A place in the free queue. It counts as long as the block's ticket is the same: a block that is
/// taken from the middle leaves its place behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    id: u32,
    ticket: u32,
}

/// All blocks of a replica. Taking, freeing and taking from the middle of the free queue are O(1).
/// Places lie one behind the other, so that taking a hundred blocks does not wait a hundred times for
/// memory, as following a list of blocks does.
#[derive(Debug)]
pub struct BlockPool {
    /// By id.
    blocks: Vec<Block>,
    /// From front to back; some places may not count any more.
    free: VecDeque<Place>,
    order: FreeOrder,
}

impl BlockPool {
    /// Blocks 0 to `count - 1`, of which 0 is the null block; the others are free in order of id.
    pub fn new(count: u32, order: FreeOrder) -> Self {
        let mut blocks = vec![Block::default(); count as usize];
        if let Some(null) = blocks.first_mut() {
            null.refs = 1;
        }
        Self { blocks, free: (1..count).map(|id| Place { id, ticket: 0 }).collect(), order }
    }

    /// Whether a sequence holds the block.
    pub fn is_held(&self, id: u32) -> bool {
        self.blocks[id as usize].refs > 0
    }

    /// Sequences that hold the block.
    pub(super) fn references(&self, id: u32) -> u32 {
        self.blocks[id as usize].refs
    }

    /// Takes `count` blocks from the front of the queue and appends their ids to `table`. There must
    /// be that many.
    pub fn take(&mut self, count: u32, table: &mut Vec<u32>) {
        let mut left = count;
        while left > 0 {
            let Place { id, ticket } = self.free.pop_front().expect("the queue is long enough");
            let block = &mut self.blocks[id as usize];
            if block.ticket == ticket {
                block.refs = 1;
                table.push(id);
                left -= 1;
            }
        }
    }

    /// One more sequence holds the block; if nobody did, it leaves the queue from wherever it is.
    pub fn hold(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        if block.refs == 0 {
            block.ticket = block.ticket.wrapping_add(1);
            if self.free.len() > 2 * self.blocks.len() {
                self.forget_empty_places();
            }
        }
        self.blocks[id as usize].refs += 1;
    }

    /// Each place left behind has cost a hold, so this adds O(1) to each of those.
    fn forget_empty_places(&mut self) {
        let blocks = &self.blocks;
        self.free.retain(|place| blocks[place.id as usize].ticket == place.ticket);
    }

    /// A sequence gives its blocks back, of which the first `keyed` carry a content key. Returns
    /// how many are free now that were not.
    ///
    /// Blocks are freed from the last to the first, so that of a cached chain the tail is evicted
    /// before the head (vLLM 0.32.0 `single_type_kv_cache_manager.py`, `free`).
    pub fn release(&mut self, table: &[u32], keyed: usize) -> u32 {
        let to_back = match self.order {
            FreeOrder::UnkeyedToFront => keyed,
            FreeOrder::AllToBack => table.len(),
        };
        let (keyed, unkeyed) = table.split_at(to_back);
        let mut freed = 0;
        // The run of unkeyed blocks starts with the tail: put in front one by one, it comes last.
        for &id in unkeyed {
            if let Some(place) = self.drop_reference(id) {
                self.free.push_front(place);
                freed += 1;
            }
        }
        for &id in keyed.iter().rev() {
            if let Some(place) = self.drop_reference(id) {
                self.free.push_back(place);
                freed += 1;
            }
        }
        freed
    }

    /// The place that the block gets in the queue, if that was the last reference.
    fn drop_reference(&mut self, id: u32) -> Option<Place> {
        let block = &mut self.blocks[id as usize];
        block.refs = block.refs.checked_sub(1).expect("a block is freed by those who hold it");
        (block.refs == 0).then_some(Place { id, ticket: block.ticket })
    }

    /// Free blocks, from front to back.
    pub fn free_queue(&self) -> impl Iterator<Item = u32> + '_ {
        let counts = |place: &&Place| {
            let block = self.blocks[place.id as usize];
            block.refs == 0 && block.ticket == place.ticket
        };
        self.free.iter().filter(counts).map(|place| place.id)
    }

    pub(super) fn free_queue_hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for id in self.free_queue() {
            for byte in id.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(pool: &BlockPool) -> Vec<u32> {
        pool.free_queue().collect()
    }

    fn take(pool: &mut BlockPool, count: u32) -> Vec<u32> {
        let mut table = Vec::new();
        pool.take(count, &mut table);
        table
    }

    #[test]
    fn blocks_leave_in_order_of_id_and_the_null_block_never() {
        let mut pool = BlockPool::new(4, FreeOrder::UnkeyedToFront);
        assert_eq!(take(&mut pool, 1), [1]);
        assert_eq!(take(&mut pool, 2), [2, 3]);
        assert!(queue(&pool).is_empty());
        assert!(queue(&BlockPool::new(1, FreeOrder::AllToBack)).is_empty());
    }

    #[test]
    fn unkeyed_blocks_return_to_the_front_tail_first_and_keyed_ones_to_the_back() {
        let mut pool = BlockPool::new(7, FreeOrder::UnkeyedToFront);
        let table = take(&mut pool, 4);
        assert_eq!(pool.release(&table, 2), 4);
        assert_eq!(queue(&pool), [4, 3, 5, 6, 2, 1]);
    }

    #[test]
    fn under_the_old_rule_every_block_returns_to_the_back_tail_first() {
        let mut pool = BlockPool::new(7, FreeOrder::AllToBack);
        let table = take(&mut pool, 4);
        assert_eq!(pool.release(&table, 2), 4);
        assert_eq!(queue(&pool), [5, 6, 4, 3, 2, 1]);
    }

    #[test]
    fn a_shared_block_is_freed_by_its_last_holder_and_a_free_one_is_taken_from_the_middle() {
        let mut pool = BlockPool::new(5, FreeOrder::UnkeyedToFront);
        let table = take(&mut pool, 2);
        pool.hold(table[0]);
        assert_eq!(pool.release(&table, 2), 1);
        assert_eq!(queue(&pool), [3, 4, 2]);
        pool.hold(4);
        assert_eq!(queue(&pool), [3, 2]);
        assert_eq!(pool.release(&[1], 1), 1);
        assert_eq!(queue(&pool), [3, 2, 1]);
    }

    #[test]
    fn the_hash_of_the_queue_is_fnv_1a_over_little_endian_ids() {
        assert_eq!(
            BlockPool::new(1, FreeOrder::AllToBack).free_queue_hash(),
            0xcbf2_9ce4_8422_2325
        );
        let mut expected = 0xcbf2_9ce4_8422_2325_u64;
        for byte in [1u8, 0, 0, 0] {
            expected = (expected ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        assert_eq!(BlockPool::new(2, FreeOrder::AllToBack).free_queue_hash(), expected);
    }
}
