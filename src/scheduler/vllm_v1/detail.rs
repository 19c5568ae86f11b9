//! The newest step as a recorded schedule shows it.

use crate::request::RequestId;
use crate::scheduler::{Admission, ScheduledSeq, StepDetail};

use super::VllmV1;
use super::flight::Flight;
use super::sequence::Phase;

impl VllmV1 {
    /// The step that `flight` stands for, right after it was decided. O(batch).
    pub(super) fn describe(&self, flight: &Flight) -> StepDetail {
        let mut chunks = flight.chunks.iter().peekable();
        let mut scheduled = Vec::new();
        for &id in &self.running {
            let seq = &self.seqs[id.index()];
            let member = (seq.order, id);
            if let Some(chunk) = chunks.next_if(|chunk| chunk.member == member) {
                let admission = match (chunk.admitted, seq.preempted) {
                    (true, true) => Admission::Resumed,
                    (true, false) => Admission::New,
                    (false, _) => Admission::Running,
                };
                scheduled.push(self.show(id, chunk.past, chunk.new, admission));
            } else if flight.decodes(member, seq) {
                let computed = match seq.phase {
                    Phase::Decode => self.lockstep.computed(seq),
                    _ => seq.computed,
                };
                scheduled.push(self.show(id, computed - 1, 1, Admission::Running));
            }
        }
        StepDetail {
            scheduled,
            free_queue_hash: self.kv.free_queue_hash(),
            free_blocks: u64::from(self.kv.free_blocks()),
            ..StepDetail::default()
        }
    }

    fn show(&self, id: RequestId, past: u32, new: u32, admission: Admission) -> ScheduledSeq {
        let table = self.seqs[id.index()].table.blocks();
        let known = match admission {
            Admission::Running => self.kv.blocks_for(past) as usize,
            _ => 0,
        };
        let blocks = table[known..].to_vec();
        ScheduledSeq { id, new_tokens: new, computed_tokens: past, admission, blocks }
    }
}
