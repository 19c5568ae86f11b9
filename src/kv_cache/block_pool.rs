//! Blocks with identities: the free queue and the reference counts.

/// Where freed blocks enter the free queue; they leave it at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FreeOrder {
    /// Blocks without a content key go to the front, so that nothing cached is evicted for them;
    /// keyed ones to the back. vLLM 0.24.0 and later (`block_pool.py`, `free_blocks`).
    UnkeyedToFront,
    /// All go to the back. vLLM up to 0.22.0.
    AllToBack,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// Neighbours in the free queue; meaningless while the block is held.
    prev: u32,
    next: u32,
    /// Sequences that hold the block.
    refs: u32,
}

/// All blocks of a replica. The free queue is a doubly linked list in an array: taking, freeing and
/// unlinking a block from anywhere are O(1).
#[derive(Debug)]
pub struct BlockPool {
    /// By id; the last element is the queue's sentinel.
    blocks: Vec<Block>,
    order: FreeOrder,
}

impl BlockPool {
    /// Blocks 0 to `count - 1`, of which 0 is the null block; the others are free in order of id.
    pub fn new(count: u32, order: FreeOrder) -> Self {
        let sentinel = count;
        let block = |id: u32| Block {
            prev: if id <= 1 { sentinel } else { id - 1 },
            next: id + 1,
            refs: u32::from(id == 0),
        };
        let mut blocks: Vec<Block> = (0..count).map(block).collect();
        let (first, last) = if count > 1 { (1, count - 1) } else { (sentinel, sentinel) };
        blocks.push(Block { prev: last, next: first, refs: 1 });
        Self { blocks, order }
    }

    fn sentinel(&self) -> u32 {
        u32::try_from(self.blocks.len() - 1).expect("made from a u32")
    }

    fn unlink(&mut self, id: u32) {
        let Block { prev, next, .. } = self.blocks[id as usize];
        self.join(prev, next);
    }

    /// Makes `next` follow `prev` in the queue.
    fn join(&mut self, prev: u32, next: u32) {
        self.blocks[prev as usize].next = next;
        self.blocks[next as usize].prev = prev;
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
        let sentinel = self.sentinel();
        let mut id = self.blocks[sentinel as usize].next;
        for _ in 0..count {
            debug_assert_ne!(id, sentinel, "the queue is long enough");
            table.push(id);
            let block = &mut self.blocks[id as usize];
            block.refs = 1;
            id = block.next;
        }
        self.join(sentinel, id);
    }

    /// One more sequence holds the block; if nobody did, it leaves the queue from wherever it is.
    pub fn hold(&mut self, id: u32) {
        if !self.is_held(id) {
            self.unlink(id);
        }
        self.blocks[id as usize].refs += 1;
    }

    /// A sequence gives its blocks back, of which the first `keyed` carry a content key. Returns
    /// how many are free now that were not.
    ///
    /// Blocks are freed from the last to the first, so that of a cached chain the tail is evicted
    /// before the head (vLLM 0.32.0 `single_type_kv_cache_manager.py`, `free`).
    pub fn release(&mut self, table: &[u32], keyed: usize) -> u32 {
        let sentinel = self.sentinel();
        let to_back = match self.order {
            FreeOrder::UnkeyedToFront => keyed,
            FreeOrder::AllToBack => table.len(),
        };
        let (keyed, unkeyed) = table.split_at(to_back);
        let mut freed = 0;
        // The run of unkeyed blocks starts with the tail: pushed one by one, it comes last.
        let mut head = self.blocks[sentinel as usize].next;
        for &id in unkeyed {
            if self.drop_reference(id) {
                self.join(id, head);
                head = id;
                freed += 1;
            }
        }
        self.join(sentinel, head);
        let mut tail = self.blocks[sentinel as usize].prev;
        for &id in keyed.iter().rev() {
            if self.drop_reference(id) {
                self.join(tail, id);
                tail = id;
                freed += 1;
            }
        }
        self.join(tail, sentinel);
        freed
    }

    /// Whether that was the last reference.
    fn drop_reference(&mut self, id: u32) -> bool {
        let refs = &mut self.blocks[id as usize].refs;
        *refs = refs.checked_sub(1).expect("a block is freed by those who hold it");
        *refs == 0
    }

    /// Free blocks, from front to back.
    pub fn free_queue(&self) -> impl Iterator<Item = u32> + '_ {
        let sentinel = self.sentinel();
        let next = move |id: u32| {
            let next = self.blocks[id as usize].next;
            (next != sentinel).then_some(next)
        };
        std::iter::successors(next(sentinel), move |&id| next(id))
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
