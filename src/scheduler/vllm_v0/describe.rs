//! The rules of vLLM V0 in words.

use super::{VllmV0Config, VllmV0Rules, WATERMARK};
use crate::scheduler::rules::RuleTexts;

impl VllmV0Config {
    pub fn describe(&self) -> RuleTexts {
        let Self {
            max_model_len,
            max_num_seqs,
            max_num_batched_tokens,
            max_paddings,
            num_gpu_blocks: _,
            block_size: _,
            enable_chunked_prefill,
            rules,
        } = self;
        let VllmV0Rules { prompts_padded, ignoring_is_a_step, chunked_prefill_exists } = rules;
        let dropped = if *ignoring_is_a_step { ", in a step of its own" } else { "" };
        let opt_in = if *chunked_prefill_exists && !enable_chunked_prefill {
            "; with enable-chunked-prefill cut to what decodes leave of the budget"
        } else {
            ""
        };
        RuleTexts {
            door: format!(
                "nobody; a prompt over {max_model_len} tokens or the budget is dropped when its \
                 turn comes{dropped}"
            ),
            order: "first come, preempted ones in front; nobody passes one that does not fit"
                .into(),
            room: "blocks of its whole prompt".into(),
            batching: match enable_chunked_prefill {
                true => "decodes first, then pieces of prompts".into(),
                false => "prompts alone, before any decode".into(),
            },
            interruption: match enable_chunked_prefill {
                true => "never: prompts join".into(),
                false => "whenever a prompt can start".into(),
            },
            budget: match prompts_padded {
                true => format!(
                    "{max_num_batched_tokens}, each prompt as long as the longest; at most \
                     {max_paddings} of padding"
                ),
                false => format!("{max_num_batched_tokens}"),
            },
            chunking: match enable_chunked_prefill {
                true => "cut to what decodes leave of the budget".into(),
                false => format!("never cut{opt_in}"),
            },
            seats: format!("{max_num_seqs}"),
            watermark: format!("{} % of the blocks", WATERMARK * 100.0),
            preemption:
                "the one that came last goes back to the queue's front and is computed again".into(),
            prefix_cache: "none".into(),
            free_order: "only counted".into(),
            depth: "1".into(),
            deadline: "none".into(),
            abort: "ends at once".into(),
        }
    }
}
