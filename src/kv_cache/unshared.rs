//! The free queue of a prefix cache in which nobody can find another's blocks.
//!
//! Then one block is like any other, but for one case: a preempted request looks for what it held
//! (vLLM 0.32.0 `kv_cache_utils.py`: keys are its own tokens'). How much of that is still there
//! depends on what has been taken from the front of the queue since. So the queue is kept as runs of
//! blocks that nobody will look for and of chains that somebody may, and only as long as there are
//! chains; a run, however long, is one entry.

use std::collections::{HashMap, VecDeque};

use super::block_pool::FreeOrder;

/// Number of a release, which is when its blocks got their keys: of two blocks with equal content the
/// one keyed earlier is found (vLLM 0.32.0 `block_pool.py`, `BlockHashToBlockMap`).
type Keyed = u64;

/// Blocks of one request that were keyed together: `count` of them from its block `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    first: u32,
    count: u32,
    keyed: Keyed,
}

impl Chain {
    pub fn blocks(&self) -> u32 {
        self.count
    }

    fn end(&self) -> u32 {
        self.first + self.count
    }

    fn holds(&self, block: u32) -> bool {
        (self.first..self.end()).contains(&block)
    }
}

/// A stretch of the free queue. Of a chain the last block stands in front.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Whom a chain belongs to.
    owner: Option<u64>,
    chain: Chain,
}

impl Run {
    fn nameless(count: u32) -> Self {
        Self { owner: None, chain: Chain { first: 0, count, keyed: 0 } }
    }
}

/// The free queue; how many blocks are free is known to its owner. Everything is O(1) while no
/// chains are in it, else O(runs) where a chain is looked for and O(runs passed) otherwise.
#[derive(Debug)]
pub(super) struct UnsharedQueue {
    order: FreeOrder,
    /// Front to back; empty if there are no chains.
    runs: VecDeque<Run>,
    /// Chains in the queue by their owner.
    chains: HashMap<u64, u32>,
    releases: Keyed,
}

impl UnsharedQueue {
    pub fn new(order: FreeOrder) -> Self {
        Self { order, runs: VecDeque::new(), chains: HashMap::new(), releases: 0 }
    }

    /// `count` blocks leave at the front.
    #[inline]
    pub fn take(&mut self, count: u32) {
        if !self.runs.is_empty() {
            self.take_from_runs(count);
        }
    }

    fn take_from_runs(&mut self, mut count: u32) {
        while count > 0 {
            let Some(run) = self.runs.front_mut() else { return };
            let taken = run.chain.count.min(count);
            run.chain.count -= taken;
            count -= taken;
            if run.chain.count == 0 {
                let owner = run.owner;
                self.runs.pop_front();
                self.forget(owner);
            }
        }
    }

    /// A chain has left the queue whole.
    fn forget(&mut self, owner: Option<u64>) {
        let Some(owner) = owner else { return };
        let left = self.chains.get_mut(&owner).expect("its chains are counted");
        *left -= 1;
        if *left == 0 {
            self.chains.remove(&owner);
            if self.chains.is_empty() {
                self.runs.clear();
            }
        }
    }

    /// Nobody will look for these any more: `unkeyed` blocks behind `keyed` others come back.
    #[inline]
    pub fn give_back(&mut self, unkeyed: u32, keyed: u32) {
        if !self.runs.is_empty() {
            self.push_unkeyed(unkeyed);
            self.push_back(Run::nameless(keyed));
        }
    }

    /// A preempted request `owner` gives back `unkeyed` blocks behind `keyed` others, which it will
    /// look for. The first of these it had found in the queue: `found`. The rest gets its keys now.
    /// `free` blocks were in the queue before.
    pub fn remember(
        &mut self,
        owner: u64,
        (unkeyed, keyed): (u32, u32),
        found: &[Chain],
        free: u32,
    ) {
        if self.runs.is_empty() {
            self.push_back(Run::nameless(free));
        }
        self.push_unkeyed(unkeyed);
        self.releases += 1;
        let known = found.last().map_or(0, Chain::end);
        let rest = Chain { first: known, count: keyed.saturating_sub(known), keyed: self.releases };
        for chain in [rest].into_iter().chain(found.iter().rev().copied()) {
            if chain.count > 0 {
                *self.chains.entry(owner).or_default() += 1;
                self.runs.push_back(Run { owner: Some(owner), chain });
            }
        }
        if self.chains.is_empty() {
            self.runs.clear();
        }
    }

    fn push_unkeyed(&mut self, count: u32) {
        match self.order {
            FreeOrder::AllToBack => self.push_back(Run::nameless(count)),
            FreeOrder::UnkeyedToFront => match self.runs.front_mut() {
                Some(Run { owner: None, chain }) => chain.count += count,
                _ if count > 0 => self.runs.push_front(Run::nameless(count)),
                _ => {}
            },
        }
    }

    fn push_back(&mut self, run: Run) {
        match self.runs.back_mut() {
            Some(Run { owner: None, chain }) => chain.count += run.chain.count,
            _ if run.chain.count > 0 => self.runs.push_back(run),
            _ => {}
        }
    }

    /// The leading blocks of `owner` among its first `most` that are still there, as they were keyed.
    pub fn find(&self, owner: u64, most: u32, found: &mut Vec<Chain>) {
        found.clear();
        if !self.chains.contains_key(&owner) {
            return;
        }
        let own = || self.runs.iter().filter(|run| run.owner == Some(owner)).map(|run| run.chain);
        let mut block = 0;
        while block < most {
            let holders = own().filter(|chain| chain.holds(block));
            let Some(earliest) = holders.min_by_key(|chain| chain.keyed) else { return };
            let keyed = earliest.keyed;
            let sooner = own().filter(|chain| chain.keyed < keyed && chain.first > block);
            let end = sooner.map(|chain| chain.first).fold(earliest.end().min(most), u32::min);
            found.push(Chain { first: block, count: end - block, keyed });
            block = end;
        }
    }

    /// What was found leaves the queue; each part of it stands in one run.
    pub fn take_found(&mut self, owner: u64, found: &[Chain]) {
        for part in found {
            self.cut_out(owner, part);
        }
    }

    fn cut_out(&mut self, owner: u64, part: &Chain) {
        let is_it = |run: &Run| {
            let chain = run.chain;
            run.owner == Some(owner) && chain.keyed == part.keyed && chain.holds(part.first)
        };
        let at = self.runs.iter().position(is_it).expect("it was found in the queue");
        let run = self.runs[at];
        let chain = run.chain;
        let behind = Chain { first: part.end(), count: chain.end() - part.end(), ..chain };
        let before = Chain { count: part.first - chain.first, ..chain };
        match (behind.count > 0, before.count > 0) {
            (true, true) => {
                self.runs[at].chain = behind;
                self.runs.insert(at + 1, Run { chain: before, ..run });
                *self.chains.entry(owner).or_default() += 1;
            }
            (true, false) => self.runs[at].chain = behind,
            (false, true) => self.runs[at].chain = before,
            (false, false) => {
                self.runs.remove(at);
                self.forget(Some(owner));
            }
        }
    }

    /// Blocks in the queue that somebody may look for, and all of them; 0 if there are no chains.
    pub fn count(&self) -> (u64, u64) {
        let (mut chained, mut all) = (0, 0);
        for run in &self.runs {
            let count = u64::from(run.chain.count);
            all += count;
            chained += if run.owner.is_some() { count } else { 0 };
        }
        (chained, all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BlockTable, KvCacheManager, Release};
    use super::*;
    use proptest::prelude::*;

    /// A request as a scheduler treats it.
    #[derive(Debug, Default)]
    struct Held {
        table: BlockTable,
        running: bool,
        blocks: u32,
    }

    const REQUESTS: usize = 5;

    /// The same moves on a cache; what each lets see.
    fn play(mut kv: KvCacheManager, moves: &[(usize, u32, u32)]) -> Vec<(u32, u32)> {
        let mut requests: [Held; REQUESTS] = Default::default();
        let mut seen = Vec::new();
        let mut uids = 0..;
        for request in &mut requests {
            request.table.reset(uids.next().unwrap(), None);
        }
        for &(who, what, size) in moves {
            let Held { table, running, blocks } = &mut requests[who];
            let mut found = 0;
            match what {
                // Comes in, with what is left of it.
                0..4 if !*running => {
                    let hit = kv.lookup(table, size);
                    found = hit.blocks;
                    let more = size + 1 - hit.blocks;
                    if more + hit.unreferenced <= kv.free_blocks() {
                        kv.take_hit(table, hit);
                        kv.grow(table, more);
                        (*running, *blocks) = (true, size + 1);
                    }
                }
                0..4 if size.min(3) <= kv.free_blocks() => {
                    kv.grow(table, size.min(3));
                    *blocks += size.min(3);
                }
                4..7 if *running => {
                    let keyed = (*blocks - size.min(2).min(*blocks)).max(table.keyed());
                    let release = if what == 4 { Release::Ended } else { Release::Preempted };
                    kv.release(table, *blocks, keyed, release);
                    if release == Release::Ended {
                        table.reset(uids.next().unwrap(), None);
                    }
                    *running = false;
                }
                _ => {}
            }
            seen.push((found, kv.free_blocks()));
            let mut broken = Vec::new();
            let running = requests.iter().filter(|request| request.running);
            let held = running.clone().map(|request| u64::from(request.blocks)).sum();
            kv.audit(running.map(|request| &request.table), held, &mut broken);
            assert_eq!(broken, [""; 0]);
        }
        seen
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_preempted_request_finds_what_it_finds_among_identified_blocks(
            moves in prop::collection::vec((0..REQUESTS, 0u32..7, 0u32..9), 1..80),
            usable in 4u32..24, to_front in any::<bool>(),
        ) {
            let order = if to_front { FreeOrder::UnkeyedToFront } else { FreeOrder::AllToBack };
            let identified = KvCacheManager::identified(usable + 1, 1, order, true);
            let unshared = KvCacheManager::unshared(usable, 1, order);
            prop_assert_eq!(play(unshared, &moves), play(identified, &moves));
        }
    }

    #[test]
    fn of_a_chain_the_last_blocks_are_taken_first_and_without_chains_nothing_is_kept() {
        let mut queue = UnsharedQueue::new(FreeOrder::AllToBack);
        let mut found = Vec::new();
        queue.take(3);
        queue.give_back(1, 2);
        queue.remember(7, (1, 4), &[], 10);
        queue.take(13);
        queue.find(7, 9, &mut found);
        assert_eq!(found, [Chain { first: 0, count: 2, keyed: 1 }]);
        queue.take(1);
        queue.take_found(7, &[Chain { first: 0, count: 1, keyed: 1 }]);
        assert!(queue.runs.is_empty() && queue.chains.is_empty(), "{queue:?}");
    }
}
