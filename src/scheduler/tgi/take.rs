//! Which waiting requests leave the queue for the next prefill (`queue.rs`, `next_batch`; in words
//! `engines/tgis-tgi.md` B2 to B4). First in, first out, and nobody overtakes.

use crate::request::{FinishReason, RequestId};
use crate::scheduler::Ended;

use super::Tgi;
use super::rules::Reservation;

/// A look at the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Fewer than this are not worth a prefill.
    pub min: Option<usize>,
    /// Most that may be taken.
    pub seats: Option<u32>,
    pub prefill_budget: u32,
    pub token_budget: u64,
}

/// Why a look has found nothing, where the same look would find nothing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standstill {
    /// There is no room for the head of the queue: only a change of the batch can help.
    NoRoom,
    /// Too few can be taken: an arrival may help, or that no minimum is asked for any more.
    TooFew,
}

/// Whether a request fits into the prefill that is being put together.
enum Fit {
    /// With this much of its prompt. A part is the last thing that fits.
    Takes(u32),
    /// It does not; `settled` if asking again has no effect and gives the same answer.
    No { settled: bool },
}

/// What has been put together so far.
#[derive(Default)]
struct Sums {
    longest_input: u64,
    prefill: u64,
    decode: u64,
}

impl Tgi {
    /// Fills `self.taken` with requests and the part of each prompt that is computed first.
    ///
    /// Where the result is empty, `self.standstill` says whether it will stay so. A repetition may
    /// then be left out even with the prefix cache: a look that fails for want of blocks has
    /// evicted all that can be evicted, and a second one would only renew the access times that it
    /// has just set.
    pub(super) fn take(&mut self, look: &Look, ended: &mut Vec<Ended>) {
        self.taken.clear();
        self.standstill = None;
        let no_budget = look.prefill_budget == 0 || look.token_budget == 0;
        if self.config.rules.empty_budget_ends_a_look() && no_budget {
            self.standstill = Some(Standstill::NoRoom);
            return;
        }
        if look.min.is_some_and(|min| self.queue.len() < min) {
            self.standstill = Some(Standstill::TooFew);
            return;
        }
        if look.seats == Some(0) {
            self.standstill = Some(Standstill::NoRoom);
            return;
        }
        let budget =
            u64::from(look.prefill_budget).next_multiple_of(u64::from(self.config.block_size));
        let mut sums = Sums::default();
        while let Some(&id) = self.queue.front() {
            if self.entry(id).client_gone {
                self.queue.pop_front();
                ended.push(self.forget(id, FinishReason::Aborted, 0));
                continue;
            }
            let chunk = match self.fit(id, budget, look.token_budget, &mut sums) {
                Fit::Takes(chunk) => chunk,
                Fit::No { settled } => {
                    if self.taken.is_empty() && settled {
                        self.standstill = Some(Standstill::NoRoom);
                    }
                    break;
                }
            };
            self.queue.pop_front();
            self.taken.push((id, chunk));
            let part = chunk < self.entry(id).member.input - self.entry(id).cached();
            if part || look.seats.is_some_and(|seats| self.taken.len() >= seats as usize) {
                break;
            }
        }
        if look.min.is_some_and(|min| self.taken.len() < min) && !self.taken.is_empty() {
            self.put_all_back();
        }
    }

    /// The minimum was not reached (1.1 and later): all go back, the last taken first.
    fn put_all_back(&mut self) {
        while let Some((id, _)) = self.taken.pop() {
            self.free_blocks(id);
            self.queue.push_front(id);
        }
        // With the prefix cache the next look finds these prompts cached.
        let settled = !self.config.rules.caches_prefixes();
        self.standstill = settled.then_some(Standstill::TooFew);
    }

    fn fit(&mut self, id: RequestId, budget: u64, token_budget: u64, sums: &mut Sums) -> Fit {
        let member = self.entry(id).member;
        let (input, max_new) = (u64::from(member.input), u64::from(member.max_new));
        let speculate = u64::from(self.config.speculate);
        match self.reservation {
            Reservation::Rectangle => {
                let rows = u64::try_from(self.taken.len()).expect("a batch fits u64") + 1;
                sums.longest_input = sums.longest_input.max(input);
                sums.prefill = rows * sums.longest_input;
                sums.decode += max_new;
            }
            Reservation::TokenSum => {
                let block = u64::from(self.config.block_size);
                sums.prefill += input.next_multiple_of(block);
                sums.decode += max_new.next_multiple_of(block);
            }
            Reservation::FreeBlocks => return self.fit_blocks(id, budget, sums),
        }
        let fits = sums.prefill <= budget && sums.prefill + sums.decode + speculate <= token_budget;
        if fits { Fit::Takes(member.input) } else { Fit::No { settled: true } }
    }

    /// v3: blocks first, then the prefill budget.
    fn fit_blocks(&mut self, id: RequestId, budget: u64, sums: &mut Sums) -> Fit {
        let member = self.entry(id).member;
        let tokens = self.config.tokens_reserved(member.input, member.max_new);
        let allocator = self.allocator.as_mut().expect("v3 has a block allocator");
        let entry = self.entries[id.index()].as_mut().expect("a waiting request");
        let Some(allocation) = allocator.allocate(tokens, &entry.prompt) else {
            return Fit::No { settled: true };
        };
        entry.allocation = allocation;
        let rest = member.input - entry.cached();
        let left = budget.saturating_sub(sums.prefill);
        let chunk = if u64::from(rest) <= left {
            rest
        } else if self.config.rules.prefill_joins_decoding() && left > 0 {
            u32::try_from(left).expect("less than a prompt")
        } else {
            allocator.free(allocation, &entry.prompt);
            let settled = !self.config.rules.caches_prefixes();
            return Fit::No { settled };
        };
        sums.prefill += u64::from(chunk);
        Fit::Takes(chunk)
    }
}
