//! The machines: GPUs, the instances that hold them, what links them, and what they cost.

pub mod catalog;
mod gpu;
mod instance;
mod price;

pub use catalog::{CatalogError, gpu, gpu_names, instance, instance_names};
pub use gpu::{ComputeCapability, Gpu, GpuChip, GpuLinks, GpuMemory, GpuPeak};
pub use instance::{Cpu, InstanceType, Interconnect, LinkKind};
pub use price::{Price, PriceDate, PriceKind};

#[cfg(test)]
mod tests;
