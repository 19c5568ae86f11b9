//! The prefix cache of TGI's v3 back-end: a radix trie over prompt tokens, edges in whole blocks.
//!
//! Source: `backends/v3/src/radix.rs` at db931fc; in words `engines/tgis-tgi.md` B3. Only block
//! counts are kept: which block holds a prefix has no influence on any decision.

use std::collections::{BTreeMap, BTreeSet};

use super::prompt::{Run, Tokens};

/// A node of the trie, by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// The empty prefix. It is never evicted, so nobody counts references to it.
    pub(super) const ROOT: Self = Self(0);

    const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug)]
struct Node {
    /// The tokens of the edge that leads here, and how many blocks they fill.
    key: Vec<Run>,
    blocks: u32,
    parent: NodeId,
    /// By the fingerprint of the first block on the edge; TGI hashes that block too.
    children: BTreeMap<u64, NodeId>,
    /// Children, and requests that hold exactly this node.
    references: u32,
    /// Requests that hold this node or one below it.
    holders: u32,
    last_access: u64,
}

/// Prompts whose requests have ended, for later ones to share.
#[derive(Clone, Debug)]
pub(super) struct RadixCache {
    block_size: u32,
    nodes: Vec<Node>,
    /// Slots of removed nodes; the last freed is reused first, which matters because equal times
    /// are evicted in order of slot.
    free_slots: Vec<NodeId>,
    /// Nodes without references, in order of eviction.
    leaves: BTreeSet<(u64, NodeId)>,
    /// Counts look-ups and insertions.
    clock: u64,
    blocks: u64,
    held_blocks: u64,
}

impl RadixCache {
    pub(super) fn new(block_size: u32) -> Self {
        let root = Node {
            key: Vec::new(),
            blocks: 0,
            parent: NodeId::ROOT,
            children: BTreeMap::new(),
            references: 0,
            holders: 0,
            last_access: 0,
        };
        Self {
            block_size,
            nodes: vec![root],
            free_slots: Vec::new(),
            leaves: BTreeSet::new(),
            clock: 0,
            blocks: 0,
            held_blocks: 0,
        }
    }

    /// Blocks in the trie.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks that cannot be evicted because a request holds them or a longer prefix.
    pub(super) fn held_blocks(&self) -> u64 {
        self.held_blocks
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    fn fingerprint(&self, tokens: Tokens<'_>) -> u64 {
        tokens.first(self.block_size).fingerprint()
    }

    /// The child whose edge begins with the same block as `tokens`, and how many tokens agree, in
    /// whole blocks.
    fn child(&self, node: NodeId, tokens: Tokens<'_>) -> Option<(NodeId, u32)> {
        if tokens.len() < self.block_size {
            return None;
        }
        let child = *self.node(node).children.get(&self.fingerprint(tokens))?;
        let agree = Tokens::new(&self.node(child).key).shared_prefix(tokens);
        let whole = agree - agree % self.block_size;
        assert!(whole > 0, "different first blocks have different fingerprints");
        Some((child, whole))
    }

    /// The deepest node on the path of `tokens` and the length of the cached prefix in tokens.
    pub(super) fn find(&mut self, mut tokens: Tokens<'_>) -> (NodeId, u32) {
        self.clock += 1;
        let (mut node, mut found) = (NodeId::ROOT, 0);
        while let Some((child, agree)) = self.child(node, tokens) {
            self.touch(child);
            found += agree;
            node = child;
            if agree < self.node(child).blocks * self.block_size {
                break;
            }
            tokens = tokens.after(agree);
        }
        (node, found)
    }

    /// Keeps a prefix from eviction.
    pub(super) fn hold(&mut self, node: NodeId) {
        self.add_reference(node);
        self.for_path(node, |node, held| {
            node.holders += 1;
            if node.holders == 1 {
                *held += u64::from(node.blocks);
            }
        });
    }

    pub(super) fn release(&mut self, node: NodeId) {
        self.drop_reference(node);
        self.for_path(node, |node, held| {
            node.holders -= 1;
            if node.holders == 0 {
                *held -= u64::from(node.blocks);
            }
        });
    }

    /// Visits the path from `node` up to the root, which is left out.
    fn for_path(&mut self, mut node: NodeId, visit: impl Fn(&mut Node, &mut u64)) {
        while node != NodeId::ROOT {
            let at = &mut self.nodes[node.index()];
            visit(at, &mut self.held_blocks);
            node = at.parent;
        }
    }

    /// Caches the whole blocks of `tokens`, whose length is a multiple of the block size; returns
    /// how many tokens had been cached already.
    pub(super) fn insert(&mut self, mut tokens: Tokens<'_>) -> u32 {
        self.clock += 1;
        let (mut node, mut found) = (NodeId::ROOT, 0);
        while tokens.len() > 0 {
            let Some((child, agree)) = self.child(node, tokens) else {
                let blocks = tokens.len() / self.block_size;
                self.blocks += u64::from(blocks);
                self.add_node(node, tokens.to_runs(), blocks);
                break;
            };
            self.touch(child);
            found += agree;
            tokens = tokens.after(agree);
            let whole = agree == self.node(child).blocks * self.block_size;
            node = if whole || tokens.len() == 0 { child } else { self.split(child, agree) };
        }
        found
    }

    /// Gives up to `wanted` blocks back, the longest unused first; a leaf that is larger than
    /// needed is shortened from its tail. Returns how many blocks that were.
    pub(super) fn evict(&mut self, wanted: u64) -> u64 {
        let mut evicted = 0;
        while evicted < wanted
            && let Some((last_access, leaf)) = self.leaves.pop_first()
        {
            let (needed, node) = (wanted - evicted, self.node(leaf));
            if needed >= u64::from(node.blocks) {
                evicted += u64::from(node.blocks);
                self.remove_leaf(leaf);
            } else {
                let block_size = self.block_size;
                let node = self.node_mut(leaf);
                node.blocks -= u32::try_from(needed).expect("fewer than the blocks of a node");
                node.key = Tokens::new(&node.key).first(node.blocks * block_size).to_runs();
                self.leaves.insert((last_access, leaf));
                evicted += needed;
            }
        }
        self.blocks -= evicted;
        evicted
    }

    /// Cuts the edge to `node` after `tokens`: a new node takes the first part, so that those who
    /// hold `node` still do.
    fn split(&mut self, node: NodeId, tokens: u32) -> NodeId {
        let block_size = self.block_size;
        let old = self.node_mut(node);
        let (upper, lower) = {
            let key = Tokens::new(&old.key);
            (key.first(tokens).to_runs(), key.after(tokens).to_runs())
        };
        let (blocks, grandparent, holders) = (tokens / block_size, old.parent, old.holders);
        old.key = lower;
        old.blocks -= blocks;
        let below = self.fingerprint(Tokens::new(&self.node(node).key));
        let parent = self.add_node(grandparent, upper, blocks);
        self.node_mut(parent).holders = holders;
        self.node_mut(node).parent = parent;
        self.add_child(parent, below, node);
        parent
    }

    fn add_node(&mut self, parent: NodeId, key: Vec<Run>, blocks: u32) -> NodeId {
        let first = self.fingerprint(Tokens::new(&key));
        let node = Node {
            key,
            blocks,
            parent,
            children: BTreeMap::new(),
            references: 0,
            holders: 0,
            last_access: self.clock,
        };
        let id = match self.free_slots.pop() {
            Some(id) => {
                *self.node_mut(id) = node;
                id
            }
            None => {
                let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes"));
                self.nodes.push(node);
                id
            }
        };
        self.leaves.insert((self.clock, id));
        self.add_child(parent, first, id);
        id
    }

    fn add_child(&mut self, parent: NodeId, first: u64, child: NodeId) {
        // A split puts the new node in the old one's place: the number of children stays.
        if self.node_mut(parent).children.insert(first, child).is_none() {
            self.add_reference(parent);
        }
    }

    fn remove_leaf(&mut self, leaf: NodeId) {
        let first = self.fingerprint(Tokens::new(&self.node(leaf).key));
        let parent = self.node(leaf).parent;
        self.node_mut(leaf).key = Vec::new();
        self.node_mut(parent).children.remove(&first);
        self.free_slots.push(leaf);
        self.drop_reference(parent);
    }

    fn add_reference(&mut self, id: NodeId) {
        if id == NodeId::ROOT {
            return;
        }
        let node = self.node_mut(id);
        node.references += 1;
        let entry = (node.last_access, id);
        if node.references == 1 {
            self.leaves.remove(&entry);
        }
    }

    fn drop_reference(&mut self, id: NodeId) {
        if id == NodeId::ROOT {
            return;
        }
        let node = self.node_mut(id);
        node.references -= 1;
        let entry = (node.last_access, id);
        if node.references == 0 {
            self.leaves.insert(entry);
        }
    }

    fn touch(&mut self, id: NodeId) {
        let now = self.clock;
        let before = std::mem::replace(&mut self.node_mut(id).last_access, now);
        if self.leaves.remove(&(before, id)) {
            self.leaves.insert((now, id));
        }
    }
}
