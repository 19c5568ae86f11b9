//! A discrete-event simulator of GPU LLM serving.
//!
//! Requests arrive on a virtual clock, a faithful re-implementation of a real engine's scheduler
//! forms each batch over its KV cache, and a calibrated cost model says how long the step takes on
//! that hardware. `ARCHITECTURE.md` has the map; start here:
//!
//! - [`scenario`]: what to simulate, from TOML and flags;
//! - [`deploy::Deployment`]: a scenario put together, ready to run;
//! - [`scheduler::Scheduler`]: what an engine's scheduler decides;
//! - [`engine::Simulation`]: the event loop that drives it;
//! - [`metrics::Recorder`]: the observer from which every summary is made.
//!
//! ```
//! use servesim::deploy::Deployment;
//! use servesim::metrics::Recorder;
//! use servesim::scenario::{self, DiskFiles, Override};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Llama-2 7B under TGIS on one A10G, with 20 users in place of the 10 that were published.
//! let source = scenario::embedded("redhat/llama-2-7b-g5.2xlarge").expect("it is embedded");
//! let users = [Override::set("workload.closed-loop.clients=20")];
//! let scenario = scenario::load(&source, &users, &DiskFiles).map_err(|d| d.render(false))?;
//!
//! let deployment = Deployment::new(&scenario)?;
//! for pool in deployment.pools() {
//!     println!("room for {} tokens of KV cache", pool.plan().kv_tokens);
//! }
//!
//! let recorder = Recorder::new(deployment.measure());
//! let (_, recorder) = deployment.simulate(1, recorder, false);
//! let summary = recorder.summary();
//! println!("{:.0} tokens/s", summary.output_throughput);
//! # assert!(summary.output_throughput > 100.0);
//! # Ok(())
//! # }
//! ```

pub mod accuracy;
pub mod calibrate;
pub mod cli;
pub mod compare;
pub mod conformance;
pub mod cost;
pub mod deploy;
pub mod embedded;
pub mod engine;
pub mod engine_name;
pub mod hardware;
pub mod kv_cache;
pub mod load_test;
pub mod metrics;
pub mod model;
pub mod named;
pub mod random;
pub mod report;
pub mod request;
pub mod scenario;
pub mod scheduler;
pub mod sweep;
pub mod time;
pub mod trace;
pub mod uncertainty;
pub mod units;
pub mod validate;
pub mod workload;
