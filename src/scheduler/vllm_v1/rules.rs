//! The rules of the V1 scheduler that have changed between versions.

use crate::kv_cache::block_pool::FreeOrder;

/// What distinguishes one version of the V1 scheduler from another. Everything else is common to
/// 0.10.0 and later; a version is a value of this type, not a copy of the scheduler.
///
/// Two changes need no rule, because at the pipeline depth of 2 that we model they cannot be
/// observed: since 0.28.0 output placeholders are reset on preemption and late outputs are
/// accounted as stale, where 0.13.0 let the placeholders drain. The output of the step in flight
/// arrives before the request can be admitted again either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VllmV1Rules {
    /// Freed blocks without a content key go to the front of the free queue and are reused first
    /// (since 0.24.0); before, every freed block goes to the back (up to 0.22.0).
    pub unkeyed_blocks_freed_to_front: bool,
    /// A waiting request is admitted only if its whole present sequence fits into the free blocks,
    /// although only a chunk may be scheduled (`scheduler_reserve_full_isl`, since 0.20.0 and by
    /// default on; absent up to 0.18.0).
    pub reserve_full_isl: bool,
    /// `long_prefill_token_threshold` does not apply to a request that is alone (since 0.32.0; up
    /// to 0.30.0 it always applies).
    pub lone_request_exempt_from_threshold: bool,
    /// After the preemption of a priority victim that stands before the request being scheduled,
    /// the running loop steps back by one in any case (by 0.32.0). In 0.13.0 only if the victim had
    /// been scheduled in this step; otherwise the loop passes over the next request.
    pub any_earlier_victim_moves_cursor: bool,
}

impl VllmV1Rules {
    /// vLLM 0.13.0: the classic rules.
    pub const V0_13: Self = Self {
        unkeyed_blocks_freed_to_front: false,
        reserve_full_isl: false,
        lone_request_exempt_from_threshold: false,
        any_earlier_victim_moves_cursor: false,
    };

    /// vLLM 0.32.0.
    pub const V0_32: Self = Self {
        unkeyed_blocks_freed_to_front: true,
        reserve_full_isl: true,
        lone_request_exempt_from_threshold: true,
        any_earlier_victim_moves_cursor: true,
    };

    pub(super) fn free_order(&self) -> FreeOrder {
        if self.unkeyed_blocks_freed_to_front {
            FreeOrder::UnkeyedToFront
        } else {
            FreeOrder::AllToBack
        }
    }
}
