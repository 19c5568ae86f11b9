//! Collectives of tensor parallelism, from the profile of one machine's links.
//!
//! The bandwidth is that of the deployment, not of the datasheet: two environments on one instance
//! type differ by 3-5 times (NCCL version, shared memory), see `../shared/physics/model-notes.md`.

/// The time of one all-reduce among a fixed number of ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectiveForm {
    pub ranks: f64,
    /// Seconds for an empty message: `a0 + a1 p`.
    pub latency: f64,
    /// Bytes per second that one rank exchanges, as nccl-tests counts it.
    pub bus_bandwidth: f64,
    /// The engine's own one-shot kernel and the largest message that it takes.
    pub custom: Option<CustomForm>,
}

/// A kernel that reads its peers' buffers directly (vLLM's custom all-reduce).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CustomForm {
    pub latency: f64,
    pub bus_bandwidth: f64,
    pub largest: f64,
}

impl CollectiveForm {
    /// Seconds to add up `bytes` held by every rank: each rank moves `2 (p - 1) / p` of them.
    pub fn all_reduce(&self, bytes: f64) -> f64 {
        let moved = 2.0 * (self.ranks - 1.0) / self.ranks;
        let general = |bytes: f64| self.latency + moved * bytes / self.bus_bandwidth;
        match self.custom {
            None => general(bytes),
            Some(custom) => {
                let own = |bytes: f64| custom.latency + moved * bytes / custom.bus_bandwidth;
                if bytes <= custom.largest {
                    own(bytes).min(general(bytes))
                } else {
                    // The two are separate fits: a longer message is never cheaper.
                    general(bytes).max(own(custom.largest).min(general(custom.largest)))
                }
            }
        }
    }

    /// Seconds to collect `bytes` in all from shards of equal size: half the work.
    pub fn all_gather(&self, bytes: f64) -> f64 {
        self.latency + (self.ranks - 1.0) / self.ranks * bytes / self.bus_bandwidth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_published_formula_comes_out() {
        // 4 ranks, 40 us, 3.6 GB/s, one decode token of Llama-2-13B: 10,240 bytes.
        let form =
            CollectiveForm { ranks: 4.0, latency: 40e-6, bus_bandwidth: 3.6e9, custom: None };
        let seconds = form.all_reduce(10_240.0);
        assert!((seconds - (40e-6 + 1.5 * 10_240.0 / 3.6e9)).abs() < 1e-15);
        assert!(form.all_gather(1e6) < form.all_reduce(1e6));
    }

    proptest! {
        #[test]
        fn longer_messages_are_never_cheaper(bytes in 0.0f64..64e6, more in 0.0f64..16e6) {
            let custom = CustomForm { latency: 6e-6, bus_bandwidth: 135e9, largest: 8e6 };
            let form = CollectiveForm {
                ranks: 8.0,
                latency: 23e-6,
                bus_bandwidth: 144e9,
                custom: Some(custom),
            };
            prop_assert!(form.all_reduce(bytes + more) >= form.all_reduce(bytes));
        }
    }
}
