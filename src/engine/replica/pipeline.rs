//! The steps of a replica that have been scheduled and have not ended.

use crate::cost::StepTime;
use crate::scheduler::{Occupancy, Step};
use crate::time::SimTime;

/// The deepest pipeline that any engine keeps: vLLM's asynchronous scheduling.
pub(super) const MAX_DEPTH: usize = 2;

/// A step that has been scheduled and has not ended.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    pub(super) step: Step,
    pub(super) time: StepTime,
    pub(super) index: u64,
    pub(super) start: SimTime,
    pub(super) end: SimTime,
    pub(super) occupancy: Occupancy,
}

/// The steps in flight, oldest first. They stay where they are: a step is a large thing to move, and
/// its lists are to be reused.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    slots: [InFlight; MAX_DEPTH],
    oldest: usize,
    len: usize,
}

impl Pipeline {
    /// The place of the step `behind` the oldest.
    const fn place(&self, behind: usize) -> usize {
        (self.oldest + behind) % MAX_DEPTH
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The step `behind` the oldest.
    pub(super) fn at_mut(&mut self, behind: usize) -> &mut InFlight {
        let place = self.place(behind);
        &mut self.slots[place]
    }

    pub(super) fn oldest(&self) -> Option<&InFlight> {
        (self.len > 0).then(|| &self.slots[self.oldest])
    }

    pub(super) fn newest(&self) -> Option<&InFlight> {
        self.len.checked_sub(1).map(|behind| &self.slots[self.place(behind)])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &InFlight> {
        (0..self.len).map(|behind| &self.slots[self.place(behind)])
    }

    /// Takes the oldest out; it may be read until the next is put in.
    pub(super) fn finish_oldest(&mut self) -> &InFlight {
        let place = self.oldest;
        self.oldest = self.place(1);
        self.len -= 1;
        &self.slots[place]
    }

    /// The slot of the step to come, which is put in by `commit`.
    pub(super) fn next_slot(&mut self) -> &mut InFlight {
        let place = self.place(self.len);
        &mut self.slots[place]
    }

    pub(super) fn commit(&mut self) {
        self.len += 1;
    }
}
