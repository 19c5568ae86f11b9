//! What a run amounts to: latencies, throughput, occupancy, time by cause.
//!
//! [`Recorder`] watches the engine and accumulates while the run goes; [`Recorder::summary`] turns
//! that into a [`Summary`] under a [`Convention`]. Memory does not grow with the number of requests:
//! percentiles are exact up to [`EXACT_LIMIT`] entries, and above that come from a histogram with a
//! stated error bound, which the summary then shows.
//!
//! Every accumulator is an integer sum, a maximum or a multiset. So it does not matter in which
//! order replicas report, nor whether the engine shows a stretch of steps one by one or at once:
//! the summary has the same bytes.

pub mod blame;
pub mod confidence;
pub mod convention;
pub mod distribution;
pub mod fleet;
pub mod histogram;
pub mod pools;
pub mod quantile;
pub mod recorder;
pub mod slo;
pub mod steps;
pub mod summary;
pub mod tenants;
pub mod timeline;
pub mod trust;

pub use blame::Blame;
pub use confidence::{Band, Interval};
pub use convention::Convention;
pub use distribution::{Distribution, EXACT_LIMIT};
pub use fleet::{FleetSummary, ReplicaSummary, Served};
pub use pools::{PoolMeasure, PoolSteps, PoolSummary};
pub use recorder::{Measure, Recorder};
pub use slo::Slo;
pub use summary::{Stats, Summary};
pub use timeline::Timeline;
pub use trust::Trusted;
