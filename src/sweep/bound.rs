//! What holds a deployment back: told from where its time went and from what requests waited for.

use crate::cost::{CostTerm, StepTime};
use crate::engine::observer::{CompletedStep, Observer, SteadyRun};
use crate::metrics::Summary;
use crate::named::named_enum;
use crate::scenario::defaults::EffectiveSettings;
use crate::scenario::{Kind, Scenario};
use crate::scheduler::{Occupancy, StepKind};
use crate::time::SimDuration;

named_enum! {
    /// The first thing that would have to grow for more load, or less latency.
    pub enum Bound as "bound" {
        /// Requests wait for a seat: the engine's limit on sequences.
        Seats = "queue",
        /// Requests wait for KV memory.
        Kv = "kv",
        /// Steps take what arithmetic takes: prefill, or decode of large batches.
        Compute = "compute",
        /// Steps take what reading weights and KV takes.
        Bandwidth = "bandwidth",
        /// All-reduces of tensor parallelism.
        Interconnect = "interconnect",
        /// Launching kernels, scheduling, detokenising.
        Host = "host",
        /// The machine waits for requests.
        Load = "load",
    }
}

impl Bound {
    /// In a sentence.
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Seats => "queue-bound: requests wait for a seat (the limit on sequences)",
            Self::Kv => "KV-bound: requests wait for KV memory",
            Self::Compute => "compute-bound: steps take what arithmetic takes",
            Self::Bandwidth => "bandwidth-bound: steps take what reading weights and KV takes",
            Self::Interconnect => "interconnect-bound: steps take what all-reduces take",
            Self::Host => "host-bound: steps take what the host takes",
            Self::Load => "not loaded: the machine waits for requests",
        }
    }
}

/// Where the time of a run went, and what requests waited for meanwhile; by kind of machine.
#[derive(Clone, Debug)]
pub struct Pressure {
    kinds: Vec<OfKind>,
    /// By replica; the first kind where there is nothing.
    homes: Vec<u16>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfKind {
    /// Replicas of it.
    replicas: u16,
    /// Rows of a batch from which arithmetic takes longer than reading the weights.
    ridge: f64,
    busy: SimDuration,
    /// Steps during which requests waited, by why.
    waited_for_seats: SimDuration,
    waited_for_kv: SimDuration,
    host: SimDuration,
    links: SimDuration,
    prefill: SimDuration,
    decode: SimDuration,
    /// Sequences by the time that they decoded together.
    decoded: f64,
    decoding: f64,
    /// The engine's limit on sequences.
    seats: u32,
}

/// Share of the cache from which waiting requests wait for it. Engines that reserve for the tokens
/// to come keep half of it unused on average.
const KV_SCARCE: f64 = 0.5;
/// Share of the time from which waiting is the rule.
const OFTEN: f64 = 0.25;

impl Pressure {
    pub fn new(scenario: &Scenario) -> Self {
        let kinds: Vec<OfKind> = scenario.kinds().iter().map(OfKind::new).collect();
        let homes = (0u16..).zip(&kinds);
        let homes = homes.flat_map(|(i, kind)| std::iter::repeat_n(i, kind.replicas.into()));
        let homes = if kinds.len() == 1 { Vec::new() } else { homes.collect() };
        Self { kinds, homes }
    }

    fn of(&mut self, replica: u16) -> &mut OfKind {
        let home = self.homes.get(usize::from(replica)).map_or(0, |&home| usize::from(home));
        &mut self.kinds[home]
    }

    /// What held the run back: of several kinds of machines, the busiest.
    pub fn bound(&self, summary: &Summary) -> Bound {
        if summary.time.busy_s < summary.time.idle_s {
            return Bound::Load;
        }
        let busiest = self.kinds.iter().max_by(|a, b| a.busy_each().total_cmp(&b.busy_each()));
        busiest.expect("there is a kind of machine").bound()
    }
}

impl OfKind {
    fn new(kind: &Kind<'_>) -> Self {
        let seats = match &kind.engine.effective {
            EffectiveSettings::Vllm(s) => s.max_num_seqs.min(s.max_num_active_seqs),
            EffectiveSettings::Tgi(s) => {
                s.max_batch_size.unwrap_or(u32::MAX).min(s.max_concurrent_requests)
            }
            EffectiveSettings::Tgis(s) => s.max_batch_size.min(s.max_concurrent_requests),
            EffectiveSettings::Static(s) => s.batch_size,
        };
        let gpu = kind.hardware.gpu();
        Self {
            replicas: kind.rules.replicas(),
            // Two operations for each two bytes of a 16-bit weight and row of the batch.
            ridge: gpu.peak.fp16.per_s() / gpu.memory.bandwidth.bytes_per_s(),
            seats,
            ..Self::default()
        }
    }

    fn busy_each(&self) -> f64 {
        self.busy.as_secs_f64() / f64::from(self.replicas.max(1))
    }

    fn add(&mut self, kind: StepKind, time: &StepTime, occupancy: &Occupancy) {
        let total = time.total();
        self.busy += total;
        let host = time.get(CostTerm::Host) + time.get(CostTerm::Serial);
        let links = time.get(CostTerm::AllReduce);
        self.host += host;
        self.links += links;
        let gpu = SimDuration::from_nanos(
            total.as_nanos().saturating_sub(host.as_nanos() + links.as_nanos()),
        );
        if kind == StepKind::Decode {
            self.decode += gpu;
            let seconds = total.as_secs_f64();
            self.decoding += seconds;
            self.decoded += seconds * f64::from(occupancy.running);
            if occupancy.waiting > 0 {
                let scarce = occupancy.kv_used as f64 >= KV_SCARCE * occupancy.kv_total as f64;
                if occupancy.running >= self.seats {
                    self.waited_for_seats += total;
                } else if scarce {
                    self.waited_for_kv += total;
                }
            }
        } else {
            self.prefill += gpu;
        }
    }

    fn bound(&self) -> Bound {
        let busy = self.busy.as_secs_f64();
        if busy == 0.0 {
            return Bound::Load;
        }
        let share = |time: SimDuration| time.as_secs_f64() / busy;
        if share(self.waited_for_seats) + share(self.waited_for_kv) > OFTEN {
            let seats = self.waited_for_seats > self.waited_for_kv;
            return if seats { Bound::Seats } else { Bound::Kv };
        }
        let gpu_share = share(self.prefill) + share(self.decode);
        if share(self.host) > gpu_share.max(share(self.links)) {
            return Bound::Host;
        }
        if share(self.links) > gpu_share {
            return Bound::Interconnect;
        }
        let batch = if self.decoding > 0.0 { self.decoded / self.decoding } else { 0.0 };
        if self.prefill > self.decode || batch > self.ridge {
            Bound::Compute
        } else {
            Bound::Bandwidth
        }
    }
}

impl Observer for Pressure {
    fn on_completed(&mut self, step: &CompletedStep<'_>) {
        self.of(step.replica).add(step.step.kind, step.time, &step.occupancy);
    }

    fn on_steady(&mut self, run: &SteadyRun) {
        self.of(run.replica).add(StepKind::Decode, &run.time, &run.occupancy);
    }
}
