//! The running batch: decoding sequences are lazy, what their step costs is kept as sums.

use std::collections::{BTreeMap, BTreeSet};

use crate::cost::StepShape;
use crate::request::RequestId;

use super::rules::ShardLayout;

/// What the batch needs to know of a sequence to let it join and leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// Position in the batch; newcomers come last.
    pub order: u64,
    pub input: u32,
    pub max_new: u32,
    /// Tokens after which it ends by itself; at least 1.
    pub ends_at: u32,
    pub blocks: u32,
}

/// A sequence whose prompt is not complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefilling {
    pub id: RequestId,
    /// Prompt tokens in the cache.
    pub computed: u32,
    /// What the next forward pass adds to them.
    pub chunk: u32,
    pub input: u32,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Decode steps taken: a sequence's tokens follow from it.
    tick: u64,
    decoding: u32,
    /// Sum over decoding sequences of prompt and output at `tick`: what the next step walks.
    context: u64,
    /// Decoding sequences by the tick that ends them, then by position.
    endings: BTreeMap<(u64, u64), RequestId>,
    /// In order of position.
    pub(super) prefilling: Vec<Prefilling>,
    /// Blocks of all members.
    blocks: u64,
    rectangle: Option<Rectangle>,
}

/// What the padded shard keeps besides: the longest sequence, and the tokens that it reports as
/// reserved (`max_tokens` in `causal_lm.py`).
#[derive(Debug, Default)]
struct Rectangle {
    /// Length minus tick of each decoding sequence, then position: constant, so that the longest
    /// stays the longest.
    lengths: BTreeSet<(i64, u64)>,
    /// Sum of the output tokens still allowed.
    to_come: u64,
    reserved: u64,
}

impl Batch {
    pub(super) fn new(shard: ShardLayout) -> Self {
        let rectangle = (shard == ShardLayout::Padded).then(Rectangle::default);
        Self { rectangle, ..Self::default() }
    }

    pub(super) fn decoding(&self) -> u32 {
        self.decoding
    }

    pub(super) fn size(&self) -> u32 {
        self.decoding + u32::try_from(self.prefilling.len()).expect("a batch fits u32")
    }

    pub(super) fn tick(&self) -> u64 {
        self.tick
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Tokens that the next forward pass computes for the members.
    pub(super) fn next_tokens(&self) -> u32 {
        self.decoding + self.prefilling.iter().map(|p| p.chunk).sum::<u32>()
    }

    /// Tokens of the members without padding; an incomplete prompt counts in full.
    pub(super) fn tokens(&self) -> u64 {
        self.context + self.prefilling.iter().map(|p| u64::from(p.input)).sum::<u64>()
    }

    /// The context of the next decode step, padding included.
    pub(super) fn decode_context(&self) -> u64 {
        match &self.rectangle {
            None => self.context,
            Some(rectangle) => u64::from(self.decoding) * rectangle.longest(self.tick),
        }
    }

    /// Tokens of the decoding sequences, without padding.
    pub(super) fn context(&self) -> u64 {
        self.context
    }

    /// The next tick at which a sequence ends.
    pub(super) fn next_ending(&self) -> Option<u64> {
        self.endings.first_key_value().map(|(&(tick, _), _)| tick)
    }

    /// The decoding sequences that end at this tick.
    pub(super) fn due(&self) -> impl Iterator<Item = (u64, RequestId)> + '_ {
        let due = self.endings.range(..=(self.tick, u64::MAX));
        due.map(|(&(_, order), &id)| (order, id))
    }

    pub(super) fn reserve(&mut self, blocks: u32) {
        self.blocks += u64::from(blocks);
    }

    /// The first token of a sequence has come; from now on it decodes.
    pub(super) fn start_decoding(&mut self, id: RequestId, member: &Member) {
        self.decoding += 1;
        self.context += u64::from(member.input) + 1;
        let ends = self.tick + u64::from(member.ends_at) - 1;
        self.endings.insert((ends, member.order), id);
        if let Some(rectangle) = &mut self.rectangle {
            rectangle.lengths.insert((width_key(member, self.tick), member.order));
            rectangle.to_come += u64::from(member.max_new) - 1;
        }
    }

    /// A decoding sequence, which got its first token at tick `joined`, leaves.
    pub(super) fn leave(&mut self, member: &Member, joined: u64) {
        let generated = self.tick - joined + 1;
        self.decoding -= 1;
        self.context -= u64::from(member.input) + generated;
        self.endings.remove(&(joined + u64::from(member.ends_at) - 1, member.order));
        self.blocks -= u64::from(member.blocks);
        if let Some(rectangle) = &mut self.rectangle {
            rectangle.lengths.remove(&(width_key(member, joined), member.order));
            rectangle.to_come -= u64::from(member.max_new) - generated;
        }
    }

    /// Each decoding sequence gets `steps` tokens.
    pub(super) fn decode(&mut self, steps: u32) {
        let tokens = u64::from(steps) * u64::from(self.decoding);
        self.tick += u64::from(steps);
        self.context += tokens;
        if let Some(rectangle) = &mut self.rectangle {
            rectangle.to_come -= tokens;
        }
    }

    /// Hands out the chunks of the next forward pass after one over `size` sequences: from the
    /// newest prompt to the oldest, each at least one token, with one token of the budget set aside
    /// for each of the others (`flash_causal_lm.py` of v3, `generate_token`).
    pub(super) fn hand_out_chunks(&mut self, budget: u32, size: u32) {
        let mut left = i64::from(budget) - (i64::from(size) - 1);
        for prompt in self.prefilling.iter_mut().rev() {
            let rest = i64::from(prompt.input - prompt.computed);
            let chunk = rest.min(left).max(1);
            left -= chunk;
            prompt.chunk = u32::try_from(chunk).expect("a chunk is part of a prompt");
        }
    }

    /// The forward pass over the prompts, and with `joint` over the decoding sequences too.
    ///
    /// Flash models compute logits of one position per sequence, complete or not; padded ones of
    /// every position (`prefill_head_indices` in `flash_causal_lm.py`, `causal_lm.py`).
    pub(super) fn shape(&self, joint: bool) -> StepShape {
        let decoding = if joint { self.decoding } else { 0 };
        let context = if joint { self.decode_context() } else { 0 };
        let mut shape = StepShape::decode(decoding, context);
        if self.rectangle.is_some() {
            let seqs = u64::try_from(self.prefilling.len()).expect("a batch fits u64");
            let longest = self.prefilling.iter().map(|p| u64::from(p.input)).max().unwrap_or(0);
            shape.prefill_seqs = u32::try_from(seqs).expect("a batch fits u32");
            shape.prefill_tokens = seqs * longest;
            shape.prefill_pairs = seqs * longest * longest;
            shape.prefill_context = seqs * longest;
            shape.logits_rows += shape.prefill_tokens;
            shape.sampled_seqs += shape.prefill_seqs;
            return shape;
        }
        for prompt in &self.prefilling {
            shape.push_prefill(prompt.computed, prompt.chunk);
            shape.logits_rows += 1;
            shape.sampled_seqs += u32::from(prompt.computed + prompt.chunk == prompt.input);
        }
        shape
    }
}

fn width_key(member: &Member, joined: u64) -> i64 {
    i64::from(member.input) + 1 - i64::try_from(joined).expect("fewer than 2^63 steps")
}

/// Some rows of a padded batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rows {
    pub count: u64,
    /// Length of the longest.
    pub width: u64,
    /// Sum of the output tokens still allowed.
    pub to_come: u64,
}

impl Rectangle {
    fn longest(&self, tick: u64) -> u64 {
        let tick = i64::try_from(tick).expect("fewer than 2^63 steps");
        let longest = self.lengths.last().map_or(0, |&(key, _)| key + tick);
        u64::try_from(longest).expect("a sequence has a length")
    }
}

impl Batch {
    pub(super) fn rows(&self) -> Rows {
        self.rectangle.as_ref().map_or_else(Rows::default, |rectangle| Rows {
            count: u64::from(self.decoding),
            width: rectangle.longest(self.tick),
            to_come: rectangle.to_come,
        })
    }

    pub(super) fn reserved_rectangle(&self) -> u64 {
        self.rectangle.as_ref().map_or(0, |rectangle| rectangle.reserved)
    }

    /// What a padded batch reports as reserved after it has lost rows (`filter`).
    pub(super) fn reserve_after_filter(&mut self) {
        let rows = self.rows();
        if let Some(rectangle) = &mut self.rectangle {
            rectangle.reserved = rows.count * rows.width + rows.to_come;
        }
    }

    /// The same after a prefill: `prompts` were prefilled beside `old` rows, and `left` of them are
    /// left (`from_pb`, `filter`, `concatenate`). A batch that has lost no row claims the whole
    /// output of all its rows for each of them.
    pub(super) fn reserve_after_prefill(&mut self, old: Rows, prompts: Rows, left: Rows) {
        let Some(rectangle) = &mut self.rectangle else { return };
        let kept = if old.count == 0 { 0 } else { rectangle.reserved };
        let new = if left.count == prompts.count {
            prompts.count * (prompts.width + prompts.to_come)
        } else {
            left.count * left.width + left.to_come
        };
        let width = old.width.max(left.width);
        rectangle.reserved = match (old.count, left.count) {
            (_, 0) => kept,
            (0, _) => new,
            _ => kept + new + (width - old.width) * old.count + (width - left.width) * left.count,
        };
    }
}
