//! Collectives of tensor parallelism, from the profile of one machine's links.
//!
//! The bandwidth is that of the deployment, not of the datasheet: two environments on one instance
//! type differ by 3-5 times (NCCL version, shared memory), see `../shared/physics/model-notes.md`.

/// The time of one all-reduce among a fixed number of ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectiveForm {
    pub ranks: f64,
    pub general: Protocols,
    /// The engine's own kernel, where it has one.
    pub custom: Option<CustomForm>,
}

/// How a library sends messages: whichever way is faster. NCCL has one with little latency and part
/// of the bandwidth (LL, LL128) and one for bulk (Simple); vLLM's kernel reads all peers at once, or
/// has each rank add up a part and collects those.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocols {
    pub short: Line,
    /// Absent: the one serves all lengths.
    pub bulk: Option<Line>,
}

/// Seconds that grow with the bytes which each rank moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Seconds for an empty message: `a0 + a1 p`.
    pub latency: f64,
    /// Bytes per second that one rank exchanges, as nccl-tests counts it.
    pub bus_bandwidth: f64,
}

/// A kernel that reads its peers' buffers directly (vLLM's custom all-reduce).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CustomForm {
    pub protocols: Protocols,
    /// The longest message that it takes, in bytes.
    pub largest: f64,
}

impl Protocols {
    /// Seconds of a message of which each rank moves so many bytes.
    pub fn seconds(&self, moved: f64) -> f64 {
        let line = |line: Line| line.latency + moved / line.bus_bandwidth;
        let short = line(self.short);
        self.bulk.map_or(short, |bulk| short.min(line(bulk)))
    }
}

impl CollectiveForm {
    /// Seconds to add up `bytes` held by every rank: each rank moves `2 (p - 1) / p` of them.
    pub fn all_reduce(&self, bytes: f64) -> f64 {
        let each = 2.0 * (self.ranks - 1.0) / self.ranks;
        let general = |bytes: f64| self.general.seconds(each * bytes);
        match self.custom {
            None => general(bytes),
            Some(custom) => {
                let own = |bytes: f64| custom.protocols.seconds(each * bytes);
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
        self.general.seconds((self.ranks - 1.0) / self.ranks * bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_published_formula_comes_out() {
        // 4 ranks, 40 us, 3.6 GB/s, one decode token of Llama-2-13B: 10,240 bytes.
        let short = Line { latency: 40e-6, bus_bandwidth: 3.6e9 };
        let general = Protocols { short, bulk: None };
        let form = CollectiveForm { ranks: 4.0, general, custom: None };
        let seconds = form.all_reduce(10_240.0);
        assert!((seconds - (40e-6 + 1.5 * 10_240.0 / 3.6e9)).abs() < 1e-15);
        assert!(form.all_gather(1e6) < form.all_reduce(1e6));
    }

    #[test]
    fn a_message_goes_whichever_way_is_faster() {
        let short = Line { latency: 10e-6, bus_bandwidth: 50e9 };
        let bulk = Some(Line { latency: 40e-6, bus_bandwidth: 200e9 });
        let form = CollectiveForm { ranks: 2.0, general: Protocols { short, bulk }, custom: None };
        // With two ranks each moves as many bytes as there are.
        assert!((form.all_reduce(500e3) - 20e-6).abs() < 1e-12);
        assert!((form.all_reduce(20e6) - 140e-6).abs() < 1e-12);
        let one_way = CollectiveForm { general: Protocols { short, bulk: None }, ..form };
        assert_eq!(one_way.all_reduce(500e3), form.all_reduce(500e3));
        assert!(one_way.all_reduce(20e6) > 2.0 * form.all_reduce(20e6));
    }

    proptest! {
        #[test]
        fn longer_messages_are_never_cheaper(bytes in 0.0f64..64e6, more in 0.0f64..16e6) {
            let line = |latency, bus_bandwidth| Line { latency, bus_bandwidth };
            let protocols = |short, bulk| Protocols { short, bulk: Some(bulk) };
            let form = CollectiveForm {
                ranks: 8.0,
                general: protocols(line(23e-6, 108e9), line(60e-6, 215e9)),
                custom: Some(CustomForm {
                    protocols: protocols(line(6e-6, 40e9), line(14e-6, 230e9)),
                    largest: 8e6,
                }),
            };
            prop_assert!(form.all_reduce(bytes + more) >= form.all_reduce(bytes));
        }
    }
}
