//! The running set, in the three orders in which it is asked for.
//!
//! A batch has a few dozen sequences: a sorted list of them is shorter than a tree's first node is
//! wide, and its next ending is its last element.

use crate::request::RequestId;

/// A sequence that runs. Nothing of it changes until it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: RequestId,
    /// Position in the batch order.
    pub(super) order: u64,
    /// The decode step that ends it.
    pub(super) ends_at: u64,
    pub(super) span: Span,
}

/// What a sequence may come to, in numbers that decode steps do not move: all sequences grow by a
/// token a step, and so each has at step `tick` `start + tick` tokens in memory and at most
/// `last - tick` to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) last: u64,
    pub(super) start: i64,
}

#[derive(Debug, Default)]
pub(super) struct Running {
    /// In batch order.
    batch: Vec<(u64, RequestId)>,
    /// By the step that ends them and then by batch order, the next one last.
    endings: Vec<(u64, u64, RequestId)>,
    /// Those that may last longest first.
    spans: Vec<Span>,
}

impl Running {
    pub(super) fn insert(&mut self, member: Member) {
        let Member { id, order, ends_at, span } = member;
        debug_assert!(self.batch.last().is_none_or(|&(last, _)| last < order), "newest last");
        self.batch.push((order, id));
        let later = self.endings.partition_point(|&(at, o, _)| (at, o) > (ends_at, order));
        self.endings.insert(later, (ends_at, order, id));
        let longer = self.spans.partition_point(|other| other.last > span.last);
        self.spans.insert(longer, span);
    }

    pub(super) fn remove(&mut self, member: Member) {
        let Member { order, ends_at, span, .. } = member;
        let present = "a sequence that runs";
        let at = self.batch.binary_search_by_key(&order, |&(order, _)| order).expect(present);
        self.batch.remove(at);
        let later = self.endings.partition_point(|&(at, o, _)| (at, o) > (ends_at, order));
        self.endings.remove(later);
        let longer = self.spans.partition_point(|other| other.last > span.last);
        let equal = self.spans[longer..].iter().position(|other| *other == span).expect(present);
        self.spans.remove(longer + equal);
    }

    pub(super) fn len(&self) -> usize {
        self.batch.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// In batch order.
    pub(super) fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.batch.iter().map(|&(_, id)| id)
    }

    /// In batch order, from this place on.
    pub(super) fn from(&self, order: u64) -> impl Iterator<Item = (u64, RequestId)> {
        let start = self.batch.partition_point(|&(earlier, _)| earlier < order);
        self.batch[start..].iter().copied()
    }

    /// The step at which the next sequence ends by itself.
    pub(super) fn next_ending(&self) -> Option<u64> {
        self.endings.last().map(|&(at, ..)| at)
    }

    /// Those that end by step `tick`, in order.
    pub(super) fn ended_by(&self, tick: u64) -> impl Iterator<Item = (u64, RequestId)> {
        let endings = self.endings.iter().rev().take_while(move |&&(at, ..)| at <= tick);
        endings.map(|&(_, order, id)| (order, id))
    }

    /// Tokens to come and tokens in memory at step `tick`, those with most to come first.
    pub(super) fn prospects(&self, tick: u64) -> impl Iterator<Item = (u64, u64)> {
        let signed = i64::try_from(tick).expect("decode steps fit i64");
        self.spans.iter().map(move |span| {
            let input = u64::try_from(span.start + signed).expect("a sequence has tokens");
            (span.last - tick, input)
        })
    }
}
