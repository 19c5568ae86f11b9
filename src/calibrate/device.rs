//! Probes on a device at hand: micro-kernels, timed and checked.

pub mod kernels;
