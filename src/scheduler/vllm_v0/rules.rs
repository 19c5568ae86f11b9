//! The rules of the V0 scheduler that differ between versions.

/// What distinguishes one version of the V0 scheduler from another. Everything else is common to
/// 0.2.7 and 0.4.2; a version is a value of this type, not a copy of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VllmV0Rules {
    /// The prompts of a step are padded to the longest of them, computed so, and billed so: the
    /// token limit applies to `prompts * longest`, and `max_paddings` to the difference (0.2.7,
    /// `core/scheduler.py` and `worker/model_runner.py`). In 0.4.2 prompts are laid end to end and
    /// counted as they are.
    pub prompts_padded: bool,
    /// A call that only drops requests that can never run is a step of its own, without tokens
    /// (0.2.7). 0.4.2 goes on to decode in the same call.
    pub ignoring_is_a_step: bool,
    /// `enable_chunked_prefill` exists (0.4.2).
    pub chunked_prefill_exists: bool,
}

impl VllmV0Rules {
    /// vLLM 0.2.7.
    pub const V0_2_7: Self =
        Self { prompts_padded: true, ignoring_is_a_step: true, chunked_prefill_exists: false };

    /// vLLM 0.4.2.
    pub const V0_4_2: Self =
        Self { prompts_padded: false, ignoring_is_a_step: false, chunked_prefill_exists: true };
}
