//! Text Generation Inference: a router that interrupts decoding for prefills, or chunks them into
//! it, over shards with paged attention.
//!
//! One loop serves v1.x and the v2 back-end, and the v3 back-end without and with prefill chunking;
//! [`TgiRules`] names what differs. Everything that a request may need is reserved before its
//! prefill, so nothing is ever preempted. Rules in words: `engines/tgis-tgi.md` part B.

mod audit;
mod batch;
mod blocks;
mod call;
mod describe;
mod prompt;
mod radix;
mod rules;
mod take;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::request::{FinishReason, Request, RequestId};
use crate::time::SimTime;

use super::audit::{Audit, Depth};
use super::{Ended, Occupancy, Refusal, Scheduler, Step, StepOutcome};
use batch::{Batch, Member, Rows};
use blocks::{Allocation, BlockAllocator};
use call::Call;
use prompt::Run;
use rules::Reservation;
pub use rules::{ShardLayout, TgiConfig, TgiRules, TgiStartError};
use take::{Look, Standstill};

/// Where the router's loop stands (`batching_task` in `backend.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No batch on the shards.
    Idle,
    /// About to look for newcomers, else to decode.
    Look,
    /// Newcomers were prefilled: a decode call follows in the same iteration.
    MustDecode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Prefilling,
    /// The first token came at this tick of the batch.
    Decoding {
        joined: u64,
    },
}

/// A request that waits or runs.
#[derive(Clone, Debug)]
struct Entry {
    member: Member,
    ends_by: FinishReason,
    client_gone: bool,
    progress: Progress,
    allocation: Allocation,
    /// The prompt's tokens, only with the prefix cache.
    prompt: Box<[Run]>,
}

impl Entry {
    /// Prompt tokens that need not be computed: of a prompt that is cached whole, all but one.
    fn cached(&self) -> u32 {
        self.allocation.cached.min(self.member.input - 1)
    }
}

/// The TGI router and the state of its shards.
pub struct Tgi {
    config: TgiConfig,
    reservation: Reservation,
    entries: Vec<Option<Entry>>,
    queue: VecDeque<RequestId>,
    batch: Batch,
    /// The router's own, in v3; before, the shard takes blocks for what the router has let in.
    allocator: Option<BlockAllocator>,
    next_order: u64,
    phase: Phase,
    call: Option<Call>,
    /// Decode calls since the last prefill, plus 1 (`waiting_tokens`).
    waited: u32,
    standstill: Option<Standstill>,
    /// Members whose clients have gone; they are dropped with their next token.
    gone: Vec<RequestId>,
    in_flight: u32,
    record: bool,
    /// What the last look has taken, with the first chunk of each prompt.
    taken: Vec<(RequestId, u32)>,
    done: Vec<(u64, RequestId, FinishReason)>,
}

impl Tgi {
    pub fn new(config: TgiConfig) -> Self {
        let reservation = config.rules.reservation(config.requires_padding);
        let allocator = (reservation == Reservation::FreeBlocks).then(|| {
            BlockAllocator::new(
                config.max_batch_total_tokens,
                config.block_size,
                config.rules.caches_prefixes(),
            )
        });
        assert!(
            config.shard == ShardLayout::Paged || config.requires_padding,
            "a router that does not pad drives no padded shard"
        );
        Self {
            batch: Batch::new(config.shard),
            config,
            reservation,
            entries: Vec::new(),
            queue: VecDeque::new(),
            allocator,
            next_order: 0,
            phase: Phase::Idle,
            call: None,
            waited: 0,
            standstill: None,
            gone: Vec::new(),
            in_flight: 0,
            record: false,
            taken: Vec::new(),
            done: Vec::new(),
        }
    }

    fn entry(&self, id: RequestId) -> &Entry {
        self.entries[id.index()].as_ref().expect("an entry of this scheduler")
    }

    fn entry_mut(&mut self, id: RequestId) -> &mut Entry {
        self.entries[id.index()].as_mut().expect("an entry of this scheduler")
    }

    fn generated_by(&self, entry: &Entry) -> u32 {
        match entry.progress {
            Progress::Waiting | Progress::Prefilling => 0,
            Progress::Decoding { joined } => {
                u32::try_from(self.batch.tick() - joined + 1).expect("an output fits u32")
            }
        }
    }

    /// Removes an entry for good.
    fn forget(&mut self, id: RequestId, reason: FinishReason, output_tokens: u32) -> Ended {
        let entry = self.entries[id.index()].take().expect("an entry ends once");
        self.in_flight -= u32::from(!entry.client_gone);
        Ended { id, reason, output_tokens }
    }

    /// Returns a request's blocks to the router's allocator, if it has one.
    fn free_blocks(&mut self, id: RequestId) {
        let entry = self.entries[id.index()].as_ref().expect("a request that holds blocks");
        if let Some(allocator) = &mut self.allocator {
            allocator.free(entry.allocation, &entry.prompt);
        }
    }

    /// What the router asks of its queue while a batch runs.
    fn look(&self) -> Look {
        let config = &self.config;
        let held = match self.config.shard {
            ShardLayout::Paged => self.batch.blocks() * u64::from(config.block_size),
            ShardLayout::Padded => self.batch.reserved_rectangle(),
        };
        let token_budget = u64::from(config.max_batch_total_tokens).saturating_sub(held);
        let prefill = config.max_batch_prefill_tokens;
        if config.rules.prefill_joins_decoding() {
            let prefill_budget = prefill.saturating_sub(self.batch.next_tokens());
            return Look { min: None, seats: None, prefill_budget, token_budget };
        }
        let size = self.batch.size();
        Look {
            min: config.min_waiting(size, self.waited),
            seats: config.max_batch_size.map(|most| most.saturating_sub(size)),
            prefill_budget: prefill,
            token_budget,
        }
    }

    /// The look with which a new batch begins.
    fn first_look(&self) -> Look {
        Look {
            min: None,
            seats: self.config.max_batch_size,
            prefill_budget: self.config.max_batch_prefill_tokens,
            token_budget: u64::from(self.config.max_batch_total_tokens),
        }
    }

    /// Whether a look is sure to find nothing.
    fn stands_still(&self) -> bool {
        match self.standstill {
            Some(Standstill::NoRoom) => true,
            Some(Standstill::TooFew) => self.waited < self.config.max_waiting_tokens,
            None => false,
        }
    }
}

impl Scheduler for Tgi {
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        let limit = self.config.max_concurrent_requests;
        if self.in_flight >= limit {
            return Err(Refusal::TooManyRequests { limit });
        }
        let spec = &request.spec;
        if spec.prompt_tokens > self.config.max_input_tokens {
            let (prompt, limit) = (spec.prompt_tokens, self.config.max_input_tokens);
            return Err(Refusal::PromptTooLong { prompt, limit });
        }
        // Refused, never cut (`validation.rs`).
        let total = spec.prompt_tokens.saturating_add(spec.max_output_tokens);
        if total > self.config.max_total_tokens {
            return Err(Refusal::TotalTooLong { total, limit: self.config.max_total_tokens });
        }
        // The permit is held until the answer is complete or the client gone.
        self.in_flight += 1;
        Ok(())
    }

    fn enqueue(&mut self, id: RequestId, request: &Request) {
        let spec = &request.spec;
        let (ends_at, ends_by) = if spec.stop_at <= spec.max_output_tokens {
            (spec.stop_at, FinishReason::Stop)
        } else {
            (spec.max_output_tokens, FinishReason::Length)
        };
        if self.entries.len() <= id.index() {
            self.entries.resize(id.index() + 1, None);
        }
        // The server accepts neither an empty prompt nor an empty output.
        let (input, max_new) = (spec.prompt_tokens.max(1), spec.max_output_tokens.max(1));
        let tokens = self.config.tokens_reserved(input, max_new);
        let caches = self.config.rules.caches_prefixes();
        self.entries[id.index()] = Some(Entry {
            member: Member { order: 0, input, max_new, ends_at: ends_at.max(1), blocks: 0 },
            ends_by,
            client_gone: false,
            progress: Progress::Waiting,
            allocation: Allocation::private(tokens.div_ceil(self.config.block_size)),
            prompt: if caches { prompt::prompt_runs(request) } else { Box::default() },
        });
        self.queue.push_back(id);
        if self.standstill == Some(Standstill::TooFew) {
            self.standstill = None;
        }
    }

    fn abort(&mut self, _: SimTime, id: RequestId, _: &mut Vec<Ended>) {
        let entry = self.entry_mut(id);
        if std::mem::replace(&mut entry.client_gone, true) {
            return;
        }
        let waiting = entry.progress == Progress::Waiting;
        self.in_flight -= 1;
        if waiting {
            self.standstill = None;
        } else {
            self.gone.push(id);
        }
    }

    fn schedule(&mut self, _: SimTime, step: &mut Step) -> bool {
        let look = match self.phase {
            Phase::Idle if self.queue.is_empty() => return false,
            Phase::Idle => Some(self.first_look()),
            Phase::Look if self.queue.is_empty() || self.stands_still() => None,
            Phase::Look => Some(self.look()),
            Phase::MustDecode => None,
        };
        if let Some(look) = look {
            self.take(&look, &mut step.ended);
            if !self.taken.is_empty() {
                self.plan_prefill(step);
                return true;
            }
        }
        if self.phase == Phase::Idle {
            return false;
        }
        self.plan(Call::Decode, step);
        true
    }

    fn complete(&mut self, _: SimTime, _: SimTime, outcome: &mut StepOutcome) {
        let call = self.call.take().expect("a call is on the shards");
        let joint = self.includes_decoding(call);
        let first_order = match call {
            Call::Prefill { first_order, .. } if !joint => first_order,
            _ => 0,
        };
        let prompts = !self.batch.prefilling.is_empty();
        let size = self.batch.size();
        let old = self.batch.rows();
        if joint {
            outcome.decode_tokens = self.batch.decoding();
            self.batch.decode(1);
        }
        let complete = if prompts { self.advance_prompts(size, outcome) } else { Rows::default() };
        self.end_sequences(first_order, outcome);
        if complete.count > 0 {
            let left = self.rows_left(outcome);
            self.batch.reserve_after_prefill(old, complete, left);
        } else if !outcome.ended.is_empty() {
            self.batch.reserve_after_filter();
        }
        if prompts || !outcome.ended.is_empty() {
            self.standstill = None;
        }
        self.waited += u32::from(call == Call::Decode);
        self.phase = match call {
            _ if self.batch.size() == 0 => Phase::Idle,
            Call::Prefill { first: false, .. } => Phase::MustDecode,
            Call::Prefill { first: true, .. } | Call::Decode => Phase::Look,
        };
    }

    fn steady_turns(&self) -> u32 {
        let plain = self.call == Some(Call::Decode) && self.batch.prefilling.is_empty();
        if !plain || !self.gone.is_empty() {
            return 0;
        }
        let Some(next_end) = self.batch.next_ending() else { return 0 };
        // The step in flight is `tick + 1`; the one that ends a sequence must be taken singly.
        let until_end = next_end.saturating_sub(self.batch.tick() + 1);
        let turns = u32::try_from(until_end).unwrap_or(u32::MAX);
        if self.queue.is_empty() {
            return turns;
        }
        // While requests wait, the look before each step must be sure to find nothing.
        match self.standstill {
            Some(Standstill::NoRoom) => turns,
            Some(Standstill::TooFew) => {
                turns.min(self.config.max_waiting_tokens.saturating_sub(self.waited + 1))
            }
            None => 0,
        }
    }

    fn advance(&mut self, turns: u32) {
        self.batch.decode(turns);
        self.waited = self.waited.saturating_add(turns);
    }

    fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.phase != Phase::Idle
    }

    fn generated(&self, id: RequestId) -> u32 {
        self.entries[id.index()].as_ref().map_or(0, |entry| self.generated_by(entry))
    }

    fn occupancy(&self) -> Occupancy {
        let total = self.config.max_batch_total_tokens;
        let (kv_used, kv_total) = match (&self.allocator, self.config.shard) {
            (Some(allocator), _) => (allocator.in_use(), allocator.usable()),
            (None, ShardLayout::Paged) => {
                (self.batch.blocks(), u64::from(total / self.config.block_size))
            }
            // Without the padding, which the router's budget does not foresee.
            (None, ShardLayout::Padded) => (self.batch.tokens(), u64::from(total)),
        };
        Occupancy {
            running: self.batch.size(),
            waiting: u32::try_from(self.queue.len()).expect("a queue fits u32"),
            kv_used,
            kv_total,
        }
    }

    fn record_detail(&mut self) {
        self.record = true;
    }

    fn audit(&self, _: Depth) -> Option<Audit> {
        Some(self.take_audit())
    }
}
