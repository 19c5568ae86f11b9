//! The decoding sequences, which all advance by one token at every turn.
//!
//! None of them is touched while it decodes. A turn counter stands for the progress of all, and what
//! a step needs to know of them is kept in aggregates: how many there are, the sum of their computed
//! tokens, how many stand in each residue class modulo the block size (and so need a block at which
//! turn), and who finishes when. Joining, leaving and missing a turn cost O(log batch).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::request::RequestId;

use super::sequence::{Phase, Sequence};

#[derive(Debug)]
pub(super) struct Lockstep {
    /// Turns scheduled so far.
    turn: u64,
    seqs: u32,
    /// Sum of their computed tokens after the newest turn.
    computed: u64,
    /// Sequences by `(computed - turn) mod block size`, which is constant while they advance.
    classes: Vec<u32>,
    /// The class whose members have filled their blocks and start a new one at the next turn.
    crossing: usize,
    /// (turn of the last token, sequence), earliest first. An entry may be early or dead: turns
    /// missed and departures are noticed when it comes up.
    calendar: BinaryHeap<Reverse<(u64, RequestId)>>,
}

impl Lockstep {
    pub(super) fn new(block_size: u32) -> Self {
        Self {
            turn: 0,
            seqs: 0,
            computed: 0,
            classes: vec![0; block_size as usize],
            crossing: 0,
            calendar: BinaryHeap::new(),
        }
    }

    pub(super) fn seqs(&self) -> u32 {
        self.seqs
    }

    /// Sum of the tokens of all that are computed after the newest turn.
    pub(super) fn computed_sum(&self) -> u64 {
        self.computed
    }

    /// Tokens of one of them that are computed after the newest turn.
    pub(super) fn computed(&self, seq: &Sequence) -> u32 {
        let tokens = u64::from(seq.final_computed()) + self.turn - seq.finish_turn;
        u32::try_from(tokens).expect("a sequence is no longer than its limit")
    }

    /// Whether it needs a new block at the next turn.
    pub(super) fn crosses(&self, seq: &Sequence) -> bool {
        self.class(seq) == self.crossing
    }

    /// How many need one.
    pub(super) fn crossing_seqs(&self) -> u32 {
        self.classes[self.crossing]
    }

    /// Blocks that the next `turns` turns take.
    pub(super) fn blocks_for_turns(&self, turns: u32) -> u64 {
        let size = self.classes.len();
        let (cycles, rest) = (turns as usize / size, turns as usize % size);
        let rest: u64 = (0..rest).map(|i| u64::from(self.classes[self.class_after(i)])).sum();
        cycles as u64 * u64::from(self.seqs) + rest
    }

    /// How many of the next `most` turns take no more than `free` blocks in all.
    pub(super) fn turns_within(&self, free: u32, most: u32) -> u32 {
        let size = u32::try_from(self.classes.len()).expect("made from a u32");
        // Each takes one block in as many turns as a block has tokens.
        if (u64::from(most / size) + 1) * u64::from(self.seqs) <= u64::from(free) {
            return most;
        }
        let cycles = (most / size).min(free / self.seqs);
        let mut left = free - cycles * self.seqs;
        let mut turns = cycles * size;
        for ahead in 0..self.classes.len() {
            let need = self.classes[self.class_after(ahead)];
            if turns == most || need > left {
                break;
            }
            left -= need;
            turns += 1;
        }
        turns
    }

    /// The class that crosses `ahead` turns after the next; `ahead` is below the block size.
    fn class_after(&self, ahead: usize) -> usize {
        let size = self.classes.len();
        (self.crossing + size - ahead) % size
    }

    fn class(&self, seq: &Sequence) -> usize {
        let size = self.classes.len() as u64;
        let class = (u64::from(seq.final_computed()) + size - seq.finish_turn % size) % size;
        usize::try_from(class).expect("below the block size")
    }

    /// All sequences get `turns` tokens.
    pub(super) fn tick(&mut self, turns: u32) {
        let size = self.classes.len();
        self.turn += u64::from(turns);
        self.computed += u64::from(turns) * u64::from(self.seqs);
        self.crossing = (self.crossing + size - turns as usize % size) % size;
    }

    /// A sequence whose last prompt token was computed in the step that has just ended, and which
    /// got a token for it, decodes from now on.
    pub(super) fn join(&mut self, id: RequestId, seq: &mut Sequence) {
        seq.phase = Phase::Decode;
        seq.finish_turn = self.turn + u64::from(seq.limit - seq.outputs);
        self.seqs += 1;
        self.computed += u64::from(self.computed(seq));
        let class = self.class(seq);
        self.classes[class] += 1;
        self.calendar.push(Reverse((seq.finish_turn, id)));
    }

    /// A sequence decodes no more.
    pub(super) fn leave(&mut self, seq: &mut Sequence) {
        debug_assert_eq!(seq.phase, Phase::Decode, "it was in lockstep");
        let class = self.class(seq);
        self.classes[class] -= 1;
        self.computed -= u64::from(self.computed(seq));
        self.seqs -= 1;
        seq.phase = Phase::Waiting;
    }

    /// A sequence gets no token in the newest turn.
    pub(super) fn miss(&mut self, seq: &mut Sequence) {
        let class = self.class(seq);
        self.classes[class] -= 1;
        seq.finish_turn += 1;
        self.computed -= 1;
        let class = self.class(seq);
        self.classes[class] += 1;
    }

    /// How many more turns finish nobody, the newest one included.
    pub(super) fn turns_to_finish(&self) -> u32 {
        let next = self.calendar.peek().map_or(u64::MAX, |&Reverse((turn, _))| turn);
        u32::try_from(next.saturating_sub(self.turn)).unwrap_or(u32::MAX)
    }

    /// The next sequence to which the newest turn has given its last token, if there is one, in no
    /// particular order. The caller lets it leave.
    pub(super) fn next_finished(&mut self, seqs: &[Sequence]) -> Option<RequestId> {
        while let Some(&Reverse((turn, id))) = self.calendar.peek() {
            if turn > self.turn {
                return None;
            }
            self.calendar.pop();
            let seq = &seqs[id.index()];
            if seq.phase != Phase::Decode {
                continue;
            }
            if seq.finish_turn == self.turn {
                return Some(id);
            }
            debug_assert!(seq.finish_turn > self.turn, "nobody finishes unnoticed");
            self.calendar.push(Reverse((seq.finish_turn, id)));
        }
        None
    }
}
