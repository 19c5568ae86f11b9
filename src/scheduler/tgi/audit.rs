//! The router's state, counted request by request.

use crate::kv_cache::KvAudit;
use crate::request::RequestId;
use crate::scheduler::audit::{Audit, Holding, Limits, QueueOrder, Rule};

use super::rules::{Reservation, ShardLayout};
use super::{Progress, Tgi};

impl Tgi {
    pub(super) fn take_audit(&self) -> Audit {
        let (mut decoding, mut context, mut blocks, mut own) = (0u64, 0u64, 0u64, 0u64);
        let mut running = Vec::new();
        let live = (0u32..).map(RequestId).zip(&self.entries);
        for (id, entry) in live.filter_map(|(id, entry)| Some((id, entry.as_ref()?))) {
            if entry.progress == Progress::Waiting {
                continue;
            }
            let tokens = u64::from(entry.member.input) + u64::from(self.generated_by(entry));
            if entry.progress != Progress::Prefilling {
                decoding += 1;
                context += tokens;
            }
            blocks += u64::from(entry.member.blocks);
            let held = entry.allocation;
            own += u64::from(held.blocks - held.cached / self.config.block_size);
            let holding = Holding { id, tokens, units: u64::from(entry.member.blocks) };
            running.push((entry.member.order, holding));
        }
        running.sort_unstable_by_key(|&(order, _)| order);
        let mut audit = Audit {
            running: running.into_iter().map(|(_, holding)| holding).collect(),
            waiting: self.queue.iter().copied().collect(),
            order: QueueOrder::HeadFirst,
            limits: Limits { seqs: self.seat_limit(), prompt_tokens: None },
            ..Audit::default()
        };
        let tokens = Rule::TokensConserved;
        audit.compare(tokens, "decoding sequences", self.batch.decoding().into(), decoding);
        audit.compare(tokens, "their tokens", self.batch.context(), context);
        audit.compare(Rule::BlocksConserved, "blocks of the batch", self.batch.blocks(), blocks);
        audit.kv = self.blocks_of_all(own);
        audit
    }

    /// The limit is applied before chunks of v3 join a running batch, and not to them.
    fn seat_limit(&self) -> Option<u64> {
        let joins = self.config.rules.prefill_joins_decoding();
        self.config.max_batch_size.filter(|_| !joins).map(u64::from)
    }

    /// Before v3 a router counts tokens, and what the shard then needs in blocks may be more.
    fn blocks_of_all(&self, own: u64) -> Option<KvAudit> {
        let allocator = self.allocator.as_ref()?;
        debug_assert!(self.reservation == Reservation::FreeBlocks);
        debug_assert!(self.config.shard == ShardLayout::Paged || self.config.requires_padding);
        let (free, cached) = allocator.free_and_cached();
        Some(KvAudit {
            unit_tokens: self.config.block_size,
            total: allocator.usable(),
            free,
            held: own,
            cached,
        })
    }
}
