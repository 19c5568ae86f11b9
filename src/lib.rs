//! servesim
pub mod calibrate;
pub mod conformance;
pub mod cost;
pub mod engine;
pub mod engine_name;
pub mod hardware;
pub mod kv_cache;
pub mod metrics;
pub mod model;
pub mod named;
pub mod random;
pub mod report;
pub mod request;
pub mod scheduler;
pub mod time;
pub mod units;
pub mod workload;
