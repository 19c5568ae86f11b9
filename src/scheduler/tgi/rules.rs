//! What differs between TGI's back-ends, each rule by name, and the settings of a server.
//!
//! Source: huggingface/text-generation-inference db931fc (2026-01-08, after v3.3.7), `backends/v2`
//! and `backends/v3`; 1.x has the rules of v2. In words: `engines/tgis-tgi.md` part B.

/// A back-end and what it has switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TgiRules {
    /// v1.x and the v2 back-end: the router counts tokens, the shard owns the blocks.
    V2,
    /// The v3 back-end: the router allocates the blocks.
    V3 {
        /// Prompts are computed in chunks next to decoding sequences. The server offers it with
        /// flashinfer and flashdecoding, and never together with speculation.
        prefill_chunking: bool,
        prefix_caching: bool,
    },
}

/// How the shard lays sequences out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardLayout {
    /// Concatenated without padding, KV in blocks (`flash_causal_lm.py`).
    Paged,
    /// A rectangle as wide as the longest sequence (`causal_lm.py`).
    Padded,
}

/// What a request must find free to leave the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reservation {
    /// Padded models, any version: prompts as a rectangle, all output tokens, against the token
    /// budget (`queue.rs`).
    Rectangle,
    /// v1.x and v2: prompt and output, each rounded up to whole blocks, against the token budget
    /// (`backends/v2/src/queue.rs`).
    TokenSum,
    /// v3: the block allocator decides; no sum of tokens is compared with the token budget, and the
    /// prefill budget is charged only with what is not cached (`backends/v3/src/queue.rs`).
    FreeBlocks,
}

impl TgiRules {
    pub(super) fn reservation(self, requires_padding: bool) -> Reservation {
        match self {
            _ if requires_padding => Reservation::Rectangle,
            Self::V2 => Reservation::TokenSum,
            Self::V3 { .. } => Reservation::FreeBlocks,
        }
    }

    /// v3: a look with no prefill or token budget left ends before the queue is touched
    /// (`backends/v3/src/queue.rs`). v2 has no such test.
    pub(super) fn empty_budget_ends_a_look(self) -> bool {
        matches!(self, Self::V3 { .. })
    }

    /// v3 with chunking: newcomers are prefilled together with the running batch, whose decoding
    /// sequences get a token in the same call; what they need is taken off the prefill budget, and
    /// `waiting_served_ratio`, `max_waiting_tokens` and `max_batch_size` are ignored meanwhile
    /// (`backends/v3/src/backend.rs`). Otherwise a prefill stands alone and decoding stalls.
    pub(super) fn prefill_joins_decoding(self) -> bool {
        matches!(self, Self::V3 { prefill_chunking: true, .. })
    }

    /// v3: prompts whose requests have ended stay in a radix trie (`backends/v3/src/radix.rs`).
    pub(super) fn caches_prefixes(self) -> bool {
        matches!(self, Self::V3 { prefix_caching: true, .. })
    }
}

/// The settings of a TGI server. Lengths and limits are in tokens.
#[derive(Clone, Debug)]
pub struct TgiConfig {
    pub rules: TgiRules,
    /// 16 with paged attention, 1 with flashinfer, 256 with flashdecoding.
    pub block_size: u32,
    pub max_batch_prefill_tokens: u32,
    /// What the KV cache holds, as warm-up has found it.
    pub max_batch_total_tokens: u32,
    /// Decoding is interrupted once this many times the running batch waits: 1.2 in 1.x, 0.3 by
    /// default in the launcher at db931fc.
    pub waiting_served_ratio: f32,
    /// Decode steps after which a single waiting request is enough.
    pub max_waiting_tokens: u32,
    pub max_batch_size: Option<u32>,
    /// Whether the router counts prompts as a rectangle.
    pub requires_padding: bool,
    /// What the shard computes; padded models have both.
    pub shard: ShardLayout,
    /// Tokens speculated a step. Only the reservations grow with it.
    pub speculate: u32,
    pub max_input_tokens: u32,
    pub max_total_tokens: u32,
    pub max_concurrent_requests: u32,
}

/// Limits with which a TGI server refuses to start (B5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TgiStartError {
    #[error(
        "max-input-tokens of {input} leaves no room for output below max-total-tokens of {total}; \
         lower max-input-tokens or raise max-total-tokens"
    )]
    NoRoomForOutput { input: u32, total: u32 },
    #[error(
        "max-batch-prefill-tokens of {prefill} is below max-input-tokens of {input}, and prompts \
         are not chunked; raise max-batch-prefill-tokens or lower max-input-tokens"
    )]
    PromptAboveBudget { prefill: u32, input: u32 },
    #[error(
        "max-batch-prefill-tokens of {prefill} is above the {capacity} tokens that the KV cache \
         holds; lower max-batch-prefill-tokens"
    )]
    PrefillAboveCapacity { prefill: u32, capacity: u32 },
    #[error(
        "max-total-tokens of {total} is above the {capacity} tokens that the KV cache holds; lower \
         max-total-tokens"
    )]
    TotalAboveCapacity { total: u32, capacity: u32 },
}

impl TgiConfig {
    /// The server's own checks at start.
    pub fn check(&self) -> Result<(), TgiStartError> {
        let (input, total) = (self.max_input_tokens, self.max_total_tokens);
        let (prefill, capacity) = (self.max_batch_prefill_tokens, self.max_batch_total_tokens);
        if input >= total {
            return Err(TgiStartError::NoRoomForOutput { input, total });
        }
        if prefill < input && !self.rules.prefill_joins_decoding() {
            return Err(TgiStartError::PromptAboveBudget { prefill, input });
        }
        if prefill > capacity {
            return Err(TgiStartError::PrefillAboveCapacity { prefill, capacity });
        }
        if total > capacity {
            return Err(TgiStartError::TotalAboveCapacity { total, capacity });
        }
        Ok(())
    }

    /// Tokens that must be kept for a request from its prefill on: all it may ever need, so that
    /// nothing is ever preempted.
    pub(super) fn tokens_reserved(&self, input: u32, max_new: u32) -> u32 {
        input + max_new.max(1) + self.speculate - 1
    }

    /// How many must wait for decoding to be interrupted, `None` once enough steps have passed
    /// (`backend.rs`, 1.0 to v3).
    pub(super) fn min_waiting(&self, batch_size: u32, waited: u32) -> Option<usize> {
        if waited >= self.max_waiting_tokens {
            return None;
        }
        // In f32 as the router does it: the product of 10 and 0.3 is 3, not 2.
        Some((batch_size as f32 * self.waiting_served_ratio).floor() as usize)
    }
}
