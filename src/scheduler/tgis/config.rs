//! The settings of a TGIS server, and those with which it does not start.

use super::weights::{BatchStats, BatchType, WeightRules, Weights};

/// The settings of a TGIS server. Lengths and limits are in tokens.
#[derive(Clone, Debug)]
pub struct TgisConfig {
    pub batch_type: BatchType,
    pub rules: WeightRules,
    pub max_batch_size: u32,
    /// Decode steps after which a single waiting request is enough for a prefill.
    pub max_waiting_tokens: u32,
    pub max_sequence_length: u32,
    pub max_new_tokens: u32,
    pub max_concurrent_requests: u32,
    pub memory: ShardMemory,
}

/// Limits under which a TGIS router panics at start: a request of the greatest length could wait
/// forever (A7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TgisStartError {
    #[error(
        "the batch limit of {limit} is below {weight}, the weight of one request of \
         max-sequence-length; raise max-batch-weight or lower max-sequence-length"
    )]
    BatchWeight { limit: u64, weight: u64 },
    #[error(
        "the prefill limit of {limit} is below {weight}, the prefill weight of one request of \
         max-sequence-length; raise max-prefill-weight (0 turns it off) or lower max-sequence-length"
    )]
    PrefillWeight { limit: u64, weight: u64 },
}

impl TgisConfig {
    /// The router's own checks at start.
    pub fn check(&self) -> Result<(), TgisStartError> {
        let weights = Weights { batch: self.batch_type, rules: self.rules };
        let mut longest = BatchStats::default();
        longest.push(u64::from(self.max_sequence_length), 0);
        let (limit, weight) = (self.rules.weight_limit(), weights.max_weight(&longest, 1));
        if weight > limit {
            return Err(TgisStartError::BatchWeight { limit, weight });
        }
        let (limit, weight) = (self.rules.prefill_limit(), weights.prefill_weight(&longest, 1));
        if limit > 0 && weight > limit {
            return Err(TgisStartError::PrefillWeight { limit, weight });
        }
        Ok(())
    }
}

/// When the shard runs out of memory; without limits it never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardMemory {
    /// A prefill fails if the tokens resident and those of the new prompts are more than this.
    pub prefill_tokens: Option<u64>,
    /// A decode fails if the context and one token a sequence are more than this. The cache is
    /// rebuilt at every step of 2023, so old and new stand side by side: half of what fits.
    pub decode_tokens: Option<u64>,
}
