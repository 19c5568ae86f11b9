//! KV-cache memory: how much of it a deployment has.

pub mod memory_plan;
