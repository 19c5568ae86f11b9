//! servesim
pub mod cost;
pub mod engine;
pub mod request;
pub mod scheduler;
pub mod time;
pub mod units;
pub mod workload;
