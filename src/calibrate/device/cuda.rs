//! An NVIDIA GPU as a device.
//!
//! Nothing of it has run on a GPU of this project: kernels, launches and the memory they are given
//! are those that `tests/kernels.rs` runs on the CPU, and this file adds the driver's part.

mod all_reduce;
mod driver;
mod libraries;

use std::ffi::c_void;

use cudarc::driver::result;

use super::kernels::check::{self, Checked};
use super::kernels::gemm::Problem;
use super::kernels::work::{self, Setup, Work, weights_of};
use super::kernels::{RunnerError, small};
use super::probe::{CopyKind, GPU_SHAPES, streams};
use super::{Description, Device, DeviceError, Effort, Probe, Sample};
use crate::calibrate::table::Operator;
use all_reduce::Ring;
use driver::{Attributes, Driver};
use libraries::{Cublas, Nvml};

const DTYPE: &str = "fp16";

/// Turing: the first with `ldmatrix` and `mma.m16n8k8`.
const OLDEST: (u32, u32) = (7, 5);
/// Hopper, whose tensor cores reach their peak only through `wgmma`, which our products lack.
const HOPPER: (u32, u32) = (9, 0);

/// What the largest probe takes, with room.
const LEAST_FREE: u64 = 3 << 30;

pub struct Cuda {
    description: Description,
    setup: Setup,
    free_bytes: u64,
    nvml: Option<Nvml>,
    // Before the driver whose stream and memory it uses.
    cublas: Option<Cublas>,
    driver: Driver,
    ring: Option<Ring>,
}

/// A failure while probing; what to do about it is the same for all of them.
fn lost(error: RunnerError) -> DeviceError {
    DeviceError::new(
        error.0,
        "timings so far are kept and the calibration goes on from them; if it fails at the same \
         place, see whether another process uses the GPU's memory (nvidia-smi) and what the \
         kernel's log says (dmesg | grep NVRM)",
    )
}

impl Cuda {
    pub fn open(index: u32) -> Result<Self, DeviceError> {
        let count = driver::start()?;
        if index >= count {
            return Err(DeviceError::new(
                format!("there is no GPU {index}: the driver has {count}"),
                "give --device-index from 0 on; CUDA_VISIBLE_DEVICES may hide GPUs",
            ));
        }
        let found = driver::attributes(index)?;
        let Attributes { name, compute_capability, .. } = &found;
        suitable(name, *compute_capability)?;
        let driver = Driver::open(index, *compute_capability)?;
        let free = driver.free_bytes().map_err(lost)?;
        if free < LEAST_FREE {
            return Err(DeviceError::new(
                format!(
                    "{name} has {} MiB of memory free; the probes need {} MiB",
                    free >> 20,
                    LEAST_FREE >> 20
                ),
                "end what else uses it (see nvidia-smi); a GPU with less memory altogether is too \
                 small to calibrate: use --from-tables",
            ));
        }
        let nvml = Nvml::open(&found.bus_id);
        let cublas = Cublas::open(&driver);
        let not_representative = (cublas.is_none() && *compute_capability >= HOPPER).then(|| {
            "no cuBLAS was found, and the kernel at hand reaches part of this GPU's peak".to_owned()
        });
        let description = Description {
            product: name.clone(),
            conditions: conditions(nvml.as_ref(), cublas.is_some()),
            multiprocessors: found.multiprocessors,
            compute_capability: *compute_capability,
            clock_mhz: Some(found.clock_mhz),
            memory_bytes: found.memory_bytes,
            cache_bytes: found.l2_bytes,
            cache_assumed: false,
            // Kernels are timed by events on the GPU itself.
            waits_unknown: false,
            dtype: DTYPE,
            not_representative,
        };
        let setup = Setup {
            multiprocessors: found.multiprocessors as usize,
            rotation_bytes: (2 * found.l2_bytes).min(free / 4),
        };
        // Peers of the first GPU only: NCCL counts ranks from there.
        let ring = (index == 0 && count > 1).then(|| Ring::open(count)).transpose()?;
        driver.enter().map_err(lost)?;
        Ok(Self { description, setup, free_bytes: free, nvml, cublas, driver, ring })
    }

    fn timed(&self, work: &Work, effort: Effort) -> Result<Sample, RunnerError> {
        if let (Some(cublas), Some((problem, operands))) = (&self.cublas, &work.product)
            && problem.weights == super::kernels::gemm::Weights::Half
        {
            let rotation = operands.len();
            return self
                .driver
                .time(effort, rotation, |i| cublas.multiply(problem, &operands[i % rotation]));
        }
        let time = |calls: &work::Calls, effort| {
            self.driver.time(effort, calls.len(), |i| {
                use super::kernels::Runner;
                calls[i % calls.len()].iter().try_for_each(|launch| self.driver.launch(launch))
            })
        };
        let mut best: Option<(f64, &work::Calls)> = None;
        if work.variants.len() > 1 {
            for calls in &work.variants {
                let seconds = time(calls, Effort::Quick)?.seconds;
                if best.is_none_or(|(fastest, _)| seconds < fastest) {
                    best = Some((seconds, calls));
                }
            }
        }
        let calls = best.map(|(_, calls)| calls).or(work.variants.first());
        time(calls.ok_or_else(|| RunnerError("nothing to time".into()))?, effort)
    }

    /// Page-locked memory to the GPU or back.
    fn host_copy(&self, kind: CopyKind, bytes: u64, effort: Effort) -> Result<Sample, RunnerError> {
        use super::kernels::Runner;
        let buffer = self.driver.allocate(bytes)?;
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: freed below, after the copies are done.
        let host = unsafe { result::malloc_host(length, 0) }
            .map_err(|error| driver::failed("no page-locked memory", error))?;
        let slice = || {
            // SAFETY: the allocation has `length` bytes and is filled before the first copy.
            unsafe { std::slice::from_raw_parts_mut(host.cast::<u8>(), length) }
        };
        slice().fill(0x5a);
        let sample = self.driver.time(effort, 1, |_| {
            // SAFETY: both ends hold `length` bytes until all copies are done.
            let copied = unsafe {
                match kind {
                    CopyKind::HostToDevice => {
                        result::memcpy_htod_async(buffer.address, slice(), self.driver.stream)
                    }
                    _ => result::memcpy_dtoh_async(slice(), buffer.address, self.driver.stream),
                }
            };
            copied.map_err(|error| driver::failed("cannot copy", error))
        });
        let waited = self.driver.wait();
        // SAFETY: nothing copies any more.
        let _ = unsafe { result::free_host(host.cast::<c_void>()) };
        waited.and(sample)
    }

    /// Seconds of starting one kernel that does nothing.
    fn launch_latency(&self, graph: bool) -> Result<Sample, RunnerError> {
        use super::kernels::Runner;
        const LAUNCHES: u32 = 500;
        let empty = small::empty();
        let all = || (0..LAUNCHES).try_for_each(|_| self.driver.launch(&empty));
        all()?;
        let recorded = graph.then(|| self.driver.capture(all)).transpose()?;
        let mut times = Vec::new();
        for _ in 0..21 {
            let seconds = self.driver.seconds(|| match &recorded {
                Some(recorded) => self.driver.replay(recorded),
                None => all(),
            })?;
            times.push(seconds / f64::from(LAUNCHES));
        }
        Ok(Sample::of(&times))
    }

    fn sample(&self, probe: &Probe, effort: Effort) -> Result<Sample, RunnerError> {
        match probe {
            Probe::Launch { graph } => self.launch_latency(*graph),
            Probe::Stream { kind, bytes } => {
                self.timed(&work::stream(&self.driver, *kind, *bytes, self.setup)?, effort)
            }
            Probe::Copy { kind: CopyKind::Peer, bytes } => self.ring()?.copy(*bytes, effort),
            Probe::Copy { kind, bytes } => self.host_copy(*kind, *bytes, effort),
            Probe::Operator {
                operator: Operator::AllReduce { ranks, bytes, implementation, .. },
                ..
            } => self.ring()?.all_reduce(*ranks as usize, *bytes, implementation, effort),
            Probe::Operator { dtype, operator } => {
                self.timed(&work::operator(&self.driver, dtype, operator, self.setup)?, effort)
            }
        }
    }

    fn ring(&self) -> Result<&Ring, RunnerError> {
        self.ring.as_ref().ok_or_else(|| RunnerError("there is a single GPU".into()))
    }

    /// cuBLAS on a problem of odd shape, like our own kernels.
    fn check_cublas(&self, cublas: &Cublas) -> Result<Checked, RunnerError> {
        let problem =
            Problem { m: 37, n: 136, k: 256, weights: super::kernels::gemm::Weights::Half };
        check::one_product(&self.driver, "cublasGemmEx", problem, |operands| {
            cublas.multiply(&problem, operands)
        })
    }
}

/// Refuses GPUs that the kernels are not for.
fn suitable(name: &str, (major, minor): (u32, u32)) -> Result<(), DeviceError> {
    if (major, minor) >= OLDEST {
        return Ok(());
    }
    Err(DeviceError::new(
        format!(
            "{name} is of compute capability {major}.{minor}; the kernels need {}.{} (Turing) or \
             later",
            OLDEST.0, OLDEST.1
        ),
        "V100 and older lack the matrix loads and products of the kernels: give operator tables \
         measured by other means (--from-tables), or leave the GPU to its datasheet",
    ))
}

fn conditions(nvml: Option<&Nvml>, cublas: bool) -> String {
    let driver = nvml.map_or("driver of unknown version".to_owned(), |nvml| {
        format!("driver {}", nvml.driver_version)
    });
    let products = if cublas { "cuBLAS" } else { "own kernels" };
    format!("{driver}; fp16; products by {products}")
}

impl Device for Cuda {
    fn description(&self) -> &Description {
        &self.description
    }

    fn check(&mut self) -> Result<Vec<Checked>, DeviceError> {
        let mark = self.driver.mark();
        let mut checked = check::all(&self.driver).map_err(lost)?;
        if let Some(cublas) = &self.cublas {
            checked.push(self.check_cublas(cublas).map_err(lost)?);
        }
        self.driver.release(mark).map_err(lost)?;
        if let Some(ring) = &self.ring {
            checked.extend(ring.check().map_err(lost)?);
            self.driver.enter().map_err(lost)?;
        }
        Ok(checked)
    }

    fn plan(&self, effort: Effort) -> Vec<Probe> {
        let cache_bytes = self.description.cache_bytes;
        let mut probes = vec![Probe::Launch { graph: false }, Probe::Launch { graph: true }];
        probes.extend(streams(cache_bytes, self.free_bytes, effort));
        probes.extend(GPU_SHAPES.probes(DTYPE, effort));
        for dtype in ["w8a16", "w4a16"] {
            probes.extend(super::probe::quantised(&GPU_SHAPES, dtype, effort));
        }
        for kind in [CopyKind::HostToDevice, CopyKind::DeviceToHost] {
            probes.extend([1 << 20, 64 << 20].map(|bytes| Probe::Copy { kind, bytes }));
        }
        if let Some(ring) = &self.ring {
            probes.extend(ring.probes(effort));
        }
        // Small GPUs go without the largest batches.
        probes.retain(|probe| probe.cache_bytes() < self.free_bytes / 2);
        probes
    }

    fn measure(&mut self, probe: &Probe, effort: Effort) -> Result<Sample, DeviceError> {
        self.driver.enter().map_err(lost)?;
        let mark = self.driver.mark();
        let sample = self.sample(probe, effort);
        // The first failure is the one that tells.
        let sample = sample.map_err(|error| lost(RunnerError(format!("{probe}: {error}"))))?;
        self.driver.release(mark).map_err(lost)?;
        debug_assert!(
            !matches!(probe, Probe::Operator { dtype, operator: Operator::Gemm { .. } } if weights_of(dtype).is_none())
        );
        Ok(sample)
    }

    fn state(&self) -> String {
        let state = self.nvml.as_ref().and_then(Nvml::state);
        state.map_or(String::new(), |(clock, temperature)| {
            format!("{clock} MHz and {temperature} C")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volta_and_older_are_refused_with_a_way_out() {
        for old in [(3, 7), (6, 0), (7, 0), (7, 2)] {
            let error = suitable("Tesla V100-SXM2-16GB", old).unwrap_err();
            assert!(error.help.contains("--from-tables"), "{error}");
        }
        for new in [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)] {
            assert!(suitable("GPU", new).is_ok(), "{new:?}");
        }
    }

    #[test]
    fn a_machine_without_a_gpu_is_told_what_is_missing_and_what_to_do() {
        // Where there is a GPU this opens it, which is just as well.
        if let Err(error) = Cuda::open(0) {
            assert!(
                error.help.contains("nvidia-smi") || error.help.contains("--device cpu"),
                "{error}"
            );
            assert!(!error.problem.is_empty());
        }
    }
}
