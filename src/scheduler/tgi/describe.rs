//! The rules of TGI in words.

use super::rules::Reservation;
use super::{ShardLayout, TgiConfig, TgiRules};
use crate::scheduler::rules::RuleTexts;

impl TgiConfig {
    pub fn describe(&self) -> RuleTexts {
        let Self {
            rules,
            block_size,
            max_batch_prefill_tokens,
            max_batch_total_tokens: _,
            waiting_served_ratio,
            max_waiting_tokens,
            max_batch_size,
            requires_padding,
            shard,
            speculate: _,
            max_input_tokens,
            max_total_tokens,
            max_concurrent_requests,
        } = self;
        let joins = rules.prefill_joins_decoding();
        let empty_budget = if rules.empty_budget_ends_a_look() {
            "; with nothing left of it the queue is not touched"
        } else {
            ""
        };
        let running = if joins { ", less what the running batch needs" } else { "" };
        let room = match rules.reservation(*requires_padding) {
            Reservation::Rectangle => "prompts as a rectangle and all output tokens".to_owned(),
            Reservation::TokenSum => {
                "prompt and output in whole blocks, against a sum of tokens".to_owned()
            }
            Reservation::FreeBlocks => "free blocks for prompt and output".to_owned(),
        };
        let evicted = "least recently used leaf first, once nothing is free";
        RuleTexts {
            door: format!(
                "more than {max_concurrent_requests} in flight, prompt over {max_input_tokens}, \
                 prompt and output over {max_total_tokens}"
            ),
            order: "first come; nobody passes one that does not fit".into(),
            room,
            batching: match joins {
                true => {
                    "newcomers are prefilled with the running batch, whose decodes get a token; \
                         then a decode call"
                        .into()
                }
                false => "a prefill alone, decoding stalls; then at least one decode".into(),
            },
            interruption: match joins {
                true => "at every step".into(),
                false => format!(
                    "as many wait as {waiting_served_ratio} times the batch, or one after \
                     {max_waiting_tokens} steps"
                ),
            },
            budget: match rules {
                TgiRules::V2 => format!("prompts up to {max_batch_prefill_tokens}{empty_budget}"),
                TgiRules::V3 { .. } => format!(
                    "uncached prompt tokens up to {max_batch_prefill_tokens}{running}{empty_budget}"
                ),
            },
            chunking: match joins {
                true => "cut to what the budget leaves; of those in progress the newest goes first"
                    .into(),
                false => "never cut".into(),
            },
            seats: match max_batch_size {
                Some(most) => format!("{most}"),
                None => "no limit".into(),
            },
            watermark: "nothing".into(),
            preemption: "it cannot: all that a request may need is reserved".into(),
            prefix_cache: match rules.caches_prefixes() {
                true => "prompts of requests that have ended, in a radix trie".into(),
                false => "none".into(),
            },
            free_order: match (shard, rules.caches_prefixes()) {
                (ShardLayout::Padded, _) => "no blocks: one tensor".into(),
                (ShardLayout::Paged, true) => {
                    format!("outputs at once, cached prompts {evicted}; block of {block_size}")
                }
                (ShardLayout::Paged, false) => {
                    format!("at the end, all of them; block of {block_size}")
                }
            },
            depth: "1".into(),
            deadline: "none".into(),
            abort: "discarded when its turn comes, or at its next token".into(),
        }
    }
}
