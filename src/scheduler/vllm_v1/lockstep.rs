//! The decoding sequences, which all advance by one token at every turn.
//!
//! None of them is touched while it decodes. A turn counter stands for the progress of all; what a
//! step needs to know of them is kept in aggregates: how many there are, the sum of their computed
//! tokens, how many stand in each residue class modulo the block size (and so need a block at which
//! turn), and who finishes when. Joining, leaving and missing a turn cost O(log batch), and a copy of at most half the calendar.

use std::collections::VecDeque;

use crate::request::RequestId;

use super::sequence::{Phase, Sequence};

/// A sequence that decodes, by admission number and slot. Slots are reused, numbers are not.
pub(super) type Member = (u64, RequestId);

#[derive(Debug)]
pub(super) struct Lockstep {
    block_size: u64,
    /// `block_size - 1` where that is a power of two: classes are taken often.
    mask: Option<u64>,
    /// Turns scheduled so far.
    turn: u64,
    seqs: u32,
    /// Sum of computed tokens after the newest turn.
    computed: u64,
    /// Sums of (computed - turn) and of its square, which change only when members do.
    offsets: i64,
    squares: i128,
    /// The class whose members start a new block at the next turn.
    crossing: usize,
    /// Sequences by `(computed - turn) mod block_size`.
    class_sizes: Vec<u32>,
    /// The same as lists in running order, where blocks have identities; else empty.
    class_members: Vec<Vec<Member>>,
    /// (turn of the last token, member), earliest first: who joins later mostly finishes later, so
    /// that entries come in near the end. An entry may be early or dead: turns missed and departures
    /// are noticed when it comes up.
    calendar: VecDeque<(u64, Member)>,
}

impl Lockstep {
    pub(super) fn new(block_size: u32, with_members: bool) -> Self {
        let classes = block_size as usize;
        Self {
            block_size: u64::from(block_size),
            mask: block_size.is_power_of_two().then(|| u64::from(block_size - 1)),
            turn: 0,
            seqs: 0,
            computed: 0,
            offsets: 0,
            squares: 0,
            crossing: 0,
            class_sizes: vec![0; classes],
            class_members: vec![Vec::new(); if with_members { classes } else { 0 }],
            calendar: VecDeque::new(),
        }
    }

    /// The newest turn scheduled; the first is 1.
    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    /// Sequences in lockstep.
    pub(super) fn seqs(&self) -> u32 {
        self.seqs
    }

    /// Sum of their computed tokens after the newest turn.
    pub(super) fn computed_sum(&self) -> u64 {
        self.computed
    }

    /// Sum of the squares of their computed tokens after the newest turn.
    pub(super) fn computed_squares(&self) -> u128 {
        let turn = i128::from(self.turn);
        let cross = 2 * turn * i128::from(self.offsets);
        let sum = self.squares + cross + turn * turn * i128::from(self.seqs);
        u128::try_from(sum).expect("a sum of squares")
    }

    /// Adds an offset to the sums `times` times: once to join, minus once to leave.
    fn count_offset(&mut self, seq: &Sequence, times: i64) {
        let turn = i64::try_from(seq.finish_turn).expect("turns are counted from 0");
        let offset = i64::from(seq.final_computed()) - turn;
        self.offsets += times * offset;
        self.squares += i128::from(times) * i128::from(offset) * i128::from(offset);
    }

    /// Tokens of one of them that are computed after the newest turn.
    pub(super) fn computed(&self, seq: &Sequence) -> u32 {
        let tokens = u64::from(seq.final_computed()) + self.turn - seq.finish_turn;
        u32::try_from(tokens).expect("a sequence is no longer than the model allows")
    }

    /// Sequences that need a new block at the next turn.
    pub(super) fn crossing_seqs(&self) -> u32 {
        self.class_sizes[self.crossing]
    }

    /// Those sequences in running order.
    pub(super) fn crossing_members(&self) -> &[Member] {
        &self.class_members[self.crossing]
    }

    /// Sequences that fill their newest block at the next turn, in running order.
    pub(super) fn filling_members(&self) -> &[Member] {
        &self.class_members[self.class_after(1)]
    }

    /// The blocks that the next `turns` turns take.
    pub(super) fn blocks_for_turns(&self, turns: u32) -> u64 {
        let classes = self.class_sizes.len();
        let (cycles, rest) = (turns as usize / classes, turns as usize % classes);
        let whole = cycles as u64 * u64::from(self.seqs);
        let partial: u64 =
            (0..rest).map(|i| u64::from(self.class_sizes[self.class_after(i)])).sum();
        whole + partial
    }

    /// How many of the next `most` turns need no more than `free` blocks in all.
    pub(super) fn turns_within(&self, free: u32, most: u32) -> u32 {
        let classes = u32::try_from(self.class_sizes.len()).expect("made from a u32");
        if u64::from(most / classes + 1) * u64::from(self.seqs) <= u64::from(free) {
            return most;
        }
        let cycles = (most / classes).min(free / self.seqs);
        let mut left = free - cycles * self.seqs;
        let mut turns = cycles * classes;
        for i in 0.. {
            let need = self.class_sizes[self.class_after(i)];
            if turns == most || need > left {
                break;
            }
            left -= need;
            turns += 1;
        }
        turns
    }

    /// The class that crosses `turns` turns after the next; `turns` is below the block size.
    fn class_after(&self, turns: usize) -> usize {
        let classes = self.class_sizes.len();
        if turns <= self.crossing { self.crossing - turns } else { self.crossing + classes - turns }
    }

    /// The blocks that the last of the next `turns` turns takes.
    pub(super) fn blocks_for_turn(&self, turns: u32) -> u32 {
        let last = (turns as usize - 1) % self.class_sizes.len();
        self.class_sizes[self.class_after(last)]
    }

    /// The class of a sequence: constant as long as it misses no turn.
    fn class(&self, seq: &Sequence) -> usize {
        let (tokens, b) = (u64::from(seq.final_computed()), self.block_size);
        let class = match self.mask {
            Some(mask) => tokens.wrapping_sub(seq.finish_turn) & mask,
            None => (tokens + b - seq.finish_turn % b) % b,
        };
        usize::try_from(class).expect("below the block size")
    }

    fn enter_class(&mut self, member: Member, class: usize) {
        self.class_sizes[class] += 1;
        if let Some(members) = self.class_members.get_mut(class) {
            let at = members.partition_point(|&(order, _)| order < member.0);
            members.insert(at, member);
        }
    }

    fn leave_class(&mut self, member: Member, class: usize) {
        self.class_sizes[class] -= 1;
        if let Some(members) = self.class_members.get_mut(class) {
            let at = members.binary_search(&member).expect("a sequence stands in its class");
            members.remove(at);
        }
    }

    /// Another turn is scheduled; all sequences get one token.
    pub(super) fn tick(&mut self) {
        self.turn += 1;
        self.computed += u64::from(self.seqs);
        self.crossing = if self.crossing == 0 { self.class_sizes.len() } else { self.crossing } - 1;
    }

    /// `turns` turns at once.
    pub(super) fn tick_many(&mut self, turns: u32) {
        let classes = self.class_sizes.len();
        self.turn += u64::from(turns);
        self.computed += u64::from(turns) * u64::from(self.seqs);
        self.crossing = (self.crossing + classes - turns as usize % classes) % classes;
    }

    /// A sequence whose last prompt token was computed in the newest turn decodes from now on.
    pub(super) fn join(&mut self, id: RequestId, seq: &mut Sequence) {
        seq.phase = Phase::Decode;
        seq.joined = self.turn;
        seq.finish_turn = self.turn + u64::from(seq.limit - seq.outputs - 1);
        self.seqs += 1;
        self.computed += u64::from(self.computed(seq));
        self.count_offset(seq, 1);
        self.enter_class((seq.order, id), self.class(seq));
        self.enter_calendar((seq.finish_turn, (seq.order, id)));
    }

    fn enter_calendar(&mut self, entry: (u64, Member)) {
        if self.calendar.back().is_none_or(|last| *last <= entry) {
            self.calendar.push_back(entry);
        } else {
            let at = self.calendar.partition_point(|other| *other <= entry);
            self.calendar.insert(at, entry);
        }
    }

    /// A sequence decodes no more; the caller gives it its next phase.
    pub(super) fn leave(&mut self, id: RequestId, seq: &Sequence) {
        debug_assert_eq!(seq.phase, Phase::Decode, "it was in lockstep");
        self.seqs -= 1;
        self.computed -= u64::from(self.computed(seq));
        self.count_offset(seq, -1);
        self.leave_class((seq.order, id), self.class(seq));
    }

    /// A sequence got no token in the newest turn, and its last one is still to come.
    pub(super) fn miss(&mut self, id: RequestId, seq: &mut Sequence) {
        self.leave_class((seq.order, id), self.class(seq));
        self.count_offset(seq, -1);
        seq.finish_turn += 1;
        self.count_offset(seq, 1);
        self.computed -= 1;
        self.enter_class((seq.order, id), self.class(seq));
    }

    /// The earliest turn that may compute the last token of a sequence.
    pub(super) fn next_finish(&self) -> Option<u64> {
        self.calendar.front().map(|&(turn, _)| turn)
    }

    /// Takes a sequence whose last token the newest turn computes out of the calendar; it stays in
    /// lockstep until the caller takes it out.
    pub(super) fn pop_finishing(&mut self, seqs: &[Sequence]) -> Option<Member> {
        while let Some(&(turn, member)) = self.calendar.front() {
            if turn > self.turn {
                return None;
            }
            self.calendar.pop_front();
            let seq = &seqs[member.1.index()];
            if seq.order != member.0 || seq.phase != Phase::Decode {
                continue;
            }
            if seq.finish_turn == self.turn {
                return Some(member);
            }
            debug_assert!(seq.finish_turn > self.turn, "nobody finishes unnoticed");
            self.enter_calendar((seq.finish_turn, member));
        }
        None
    }
}
