//! The rules of TGIS in words.

use super::batch::ABORT_NOTICE_TOKENS;
use super::select::OVERTAKING_WINDOW;
use super::{BatchType, TgisConfig, WeightRules};
use crate::scheduler::rules::RuleTexts;

impl TgisConfig {
    pub fn describe(&self) -> RuleTexts {
        let Self {
            batch_type,
            rules,
            max_batch_size,
            max_waiting_tokens,
            max_sequence_length,
            max_new_tokens,
            max_concurrent_requests,
            memory,
        } = self;
        let after_prefill = match rules {
            WeightRules::Tgis2023 { .. } => "",
            WeightRules::Tgis2024 { .. } => {
                ", and half of the last add-on prefill's time has passed"
            }
        };
        let (room, budget) = match rules {
            WeightRules::Tgis2023 { .. } => (
                "the batch's projected peak below max-batch-weight, in tokens (padded: squares)",
                "prompts up to max-prefill-weight, scaled by the batch's free share; at a share of \
                 0 no limit",
            ),
            WeightRules::Tgis2024 { .. } => (
                "the batch's projected peak below the memory model's budget, in bytes",
                "prompts up to the memory model's budget, scaled by the batch's free share; at a \
                 share of 0 none",
            ),
        };
        let padding = match (rules, batch_type) {
            (WeightRules::Tgis2024 { max_prefill_padding, .. }, BatchType::Padded) => {
                format!("; at most {:.0} % padding", max_prefill_padding * 100.0)
            }
            _ => String::new(),
        };
        let out_of_memory = match memory.decode_tokens {
            Some(_) => "a prefill that fails loses its newcomers, a decode everybody; no retry",
            None => "it never does",
        };
        RuleTexts {
            door: format!(
                "more than {max_concurrent_requests} in flight, output over {max_new_tokens}, \
                 prompt from {max_sequence_length}; a longer sum is cut"
            ),
            order: format!(
                "first come; those queued within {} s after one that does not fit may pass it",
                OVERTAKING_WINDOW.as_secs_f64()
            ),
            room: room.into(),
            batching: "a prefill alone, decoding stalls; then at least one decode".into(),
            interruption: format!(
                "as many wait as a share of the batch that falls from 1 to 0 over \
                 {max_waiting_tokens} steps{after_prefill}"
            ),
            budget: format!("{budget}{padding}"),
            chunking: "never cut".into(),
            seats: format!("{max_batch_size}"),
            watermark: "nothing".into(),
            preemption: out_of_memory.into(),
            prefix_cache: "none".into(),
            free_order: "no blocks: one tensor, copied as it grows".into(),
            depth: "1".into(),
            deadline:
                "answered with what there is: waiting ones at the next step, running ones at \
                       their next token"
                    .into(),
            abort: format!("noticed while waiting, and at every {ABORT_NOTICE_TOKENS}th token"),
        }
    }
}
