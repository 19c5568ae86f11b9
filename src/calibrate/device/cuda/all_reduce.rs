//! Several GPUs: copies between two of them, and sums over all.

use std::time::Instant;

use cudarc::driver::result;
use cudarc::driver::sys;
use half::f16;

use super::driver::{self, Driver};
use super::libraries::Nccl;
use crate::calibrate::device::kernels::check::{Checked, compare};
use crate::calibrate::device::kernels::pack::half_noise;
use crate::calibrate::device::kernels::{Buffer, Runner, RunnerError, downloaded, small, uploaded};
use crate::calibrate::device::probe::{CopyKind, Probe};
use crate::calibrate::device::{DeviceError, Effort, Sample};
use crate::calibrate::table::Operator;

/// How a sum is done, as the column `impl` of an operator table has it.
const NCCL: &str = "NCCL";
const COPIES: &str = "peer-copies";

/// The first GPUs of a machine.
pub struct Ring {
    ranks: Vec<Driver>,
    /// One for each number of ranks from two on that NCCL can do.
    nccl: Vec<(usize, Nccl)>,
    link: &'static str,
}

/// Buffers of a sum by copies: each rank's data, and room for the others' part of its chunk.
struct Parts {
    data: Vec<Buffer>,
    gathered: Vec<Buffer>,
}

impl Ring {
    pub fn open(count: u32) -> Result<Self, DeviceError> {
        let mut ranks = Vec::new();
        for index in 0..count.min(8) {
            let found = driver::attributes(index)?;
            // What the kernels are not for takes no part.
            if found.compute_capability >= super::OLDEST {
                ranks.push(Driver::open(index, found.compute_capability)?);
            }
        }
        let link = if connect(&ranks) { "peer-to-peer" } else { "host-memory" };
        let sizes = (2..=ranks.len()).filter(|ranks| ranks.is_power_of_two());
        let nccl = sizes.filter_map(|size| Some((size, Nccl::open(size)?))).collect();
        Ok(Self { ranks, nccl, link })
    }

    pub fn probes(&self, effort: Effort) -> Vec<Probe> {
        let mut probes: Vec<Probe> = [1 << 20, 64 << 20]
            .map(|bytes| Probe::Copy { kind: CopyKind::Peer, bytes })
            .into_iter()
            .filter(|_| self.ranks.len() > 1)
            .collect();
        let step = if effort == Effort::Quick { 4 } else { 2 };
        for ranks in (2..=self.ranks.len()).filter(|ranks| ranks.is_power_of_two()) {
            let implementations = self.nccl.iter().filter(|(size, _)| *size == ranks).map(|_| NCCL);
            for implementation in implementations.chain([COPIES]) {
                // 8 KiB, one token of a hidden size of 4096, to 64 MiB.
                for bytes in (13..=26).step_by(step).map(|power| 1u64 << power) {
                    probes.push(Probe::Operator {
                        dtype: super::DTYPE.to_owned(),
                        operator: Operator::AllReduce {
                            link: self.link.to_owned(),
                            implementation: implementation.to_owned(),
                            ranks: u32::try_from(ranks).unwrap_or(u32::MAX),
                            bytes,
                        },
                    });
                }
            }
        }
        probes
    }

    /// Copies from the first GPU to the second.
    pub fn copy(&self, bytes: u64, effort: Effort) -> Result<Sample, RunnerError> {
        let [from, to] = &self.ranks[..2] else {
            return Err(RunnerError("there is a single GPU".into()));
        };
        let marks = self.marks();
        let (source, target) = (from.allocate(bytes)?, to.allocate(bytes)?);
        from.launch(&small::fill_words(source, 1))?;
        from.wait()?;
        let sample = wall_clock(effort, || {
            copy_between(from, source.address, to, target.address, bytes, from.stream)?;
            from.wait()
        });
        self.release(&marks)?;
        sample
    }

    /// A sum of `bytes` on each of the first `ranks`, in place.
    pub fn all_reduce(
        &self,
        ranks: usize,
        bytes: u64,
        implementation: &str,
        effort: Effort,
    ) -> Result<Sample, RunnerError> {
        let marks = self.marks();
        let parts =
            self.parts(ranks, bytes, |rank| half_noise((bytes / 2) as usize, rank, 1e-3))?;
        // Ten sums between two looks at the clock: the host enqueues while the GPUs work.
        const SUMS: u32 = 10;
        let sample = wall_clock(effort, || {
            (0..SUMS).try_for_each(|_| self.sum(&parts, implementation))?;
            self.ranks[..ranks].iter().try_for_each(Driver::wait)
        });
        self.release(&marks)?;
        let Sample { seconds, spread, repeats } = sample?;
        Ok(Sample { seconds: seconds / f64::from(SUMS), spread, repeats })
    }

    /// Every way to add up, on every number of ranks, against a plain sum.
    pub fn check(&self) -> Result<Vec<Checked>, RunnerError> {
        let mut checked = Vec::new();
        let sizes = (2..=self.ranks.len()).filter(|ranks| ranks.is_power_of_two());
        for ranks in sizes {
            let nccl = self.nccl.iter().any(|(size, _)| *size == ranks);
            for implementation in [Some(COPIES), nccl.then_some(NCCL)].into_iter().flatten() {
                let marks = self.marks();
                let count = 4_100;
                let numbers = |rank: u32| half_noise(count, rank, 1.0);
                let parts = self.parts(ranks, count as u64 * 2, numbers)?;
                self.sum(&parts, implementation)?;
                self.ranks[..ranks].iter().try_for_each(Driver::wait)?;
                let all: Vec<Vec<f16>> = (0..ranks as u32).map(numbers).collect();
                let want: Vec<f64> =
                    (0..count).map(|i| all.iter().map(|row| row[i].to_f64()).sum()).collect();
                for (rank, data) in self.ranks.iter().zip(&parts.data) {
                    let got: Vec<f64> =
                        downloaded::<f16>(rank, *data)?.iter().map(|x| x.to_f64()).collect();
                    let what = format!("4100 numbers on {ranks} GPUs");
                    // NCCL rounds to half precision on its way.
                    let tolerance = 1e-3 * ranks as f64;
                    checked.push(compare("all-reduce", what, (&got, &want), tolerance));
                }
                self.release(&marks)?;
            }
        }
        Ok(checked)
    }

    fn marks(&self) -> Vec<usize> {
        self.ranks.iter().map(Driver::mark).collect()
    }

    fn release(&self, marks: &[usize]) -> Result<(), RunnerError> {
        self.ranks.iter().zip(marks).try_for_each(|(rank, &mark)| rank.release(mark))
    }

    fn parts(
        &self,
        ranks: usize,
        bytes: u64,
        numbers: impl Fn(u32) -> Vec<f16>,
    ) -> Result<Parts, RunnerError> {
        let (mut data, mut gathered) = (Vec::new(), Vec::new());
        for (i, rank) in self.ranks[..ranks].iter().enumerate() {
            data.push(uploaded(rank, &numbers(i as u32))?);
            gathered.push(rank.allocate(chunk_bytes(bytes, ranks) * ranks as u64)?);
        }
        Ok(Parts { data, gathered })
    }

    /// Enqueues one sum on all ranks.
    fn sum(&self, parts: &Parts, implementation: &str) -> Result<(), RunnerError> {
        let ranks = &self.ranks[..parts.data.len()];
        if implementation == NCCL {
            let nccl = self.nccl.iter().find(|(size, _)| *size == ranks.len());
            let (_, nccl) = nccl.ok_or_else(|| RunnerError("NCCL is not there".into()))?;
            return nccl.sum(ranks, &parts.data);
        }
        sum_by_copies(ranks, parts)
    }
}

/// Bytes of the chunk that one rank adds up: a multiple of four halves.
fn chunk_bytes(bytes: u64, ranks: usize) -> u64 {
    bytes.div_ceil(ranks as u64).next_multiple_of(8)
}

/// Each rank gathers its chunk from all, adds it up, and hands the sum to all.
fn sum_by_copies(ranks: &[Driver], parts: &Parts) -> Result<(), RunnerError> {
    let bytes = parts.data[0].bytes;
    let chunk = chunk_bytes(bytes, ranks.len());
    let part = |i: usize| {
        let start = (i as u64 * chunk).min(bytes);
        (start, chunk.min(bytes - start))
    };
    // What a rank reads of the others was written by their earlier work.
    meet(ranks)?;
    for (i, own) in ranks.iter().enumerate() {
        let (start, length) = part(i);
        for (j, other) in ranks.iter().enumerate() {
            let (from, to) =
                (parts.data[j].address + start, parts.gathered[i].address + j as u64 * chunk);
            copy_between(other, from, own, to, length, own.stream)?;
        }
    }
    // Nobody's chunk is overwritten before all have read it.
    meet(ranks)?;
    for (i, own) in ranks.iter().enumerate() {
        let (start, length) = part(i);
        if length == 0 {
            continue;
        }
        let mine = Buffer { address: parts.data[i].address + start, bytes: length };
        own.launch(&small::add_rows(mine, parts.gathered[i], length / 2, chunk / 2, ranks.len()))?;
        for (j, other) in ranks.iter().enumerate().filter(|(j, _)| *j != i) {
            let to = parts.data[j].address + start;
            copy_between(own, mine.address, other, to, length, own.stream)?;
        }
    }
    Ok(())
}

/// Every rank's stream waits for what all have enqueued so far.
fn meet(ranks: &[Driver]) -> Result<(), RunnerError> {
    let broken = |error| driver::failed("GPUs cannot wait for each other", error);
    let mut events = Vec::new();
    for rank in ranks {
        rank.enter()?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let event = result::event::create(flags).map_err(broken)?;
        // SAFETY: event and stream were made in the rank's context.
        unsafe { result::event::record(event, rank.stream) }.map_err(broken)?;
        events.push(event);
    }
    for rank in ranks {
        rank.enter()?;
        for &event in &events {
            let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            // SAFETY: streams may wait for events of other contexts.
            unsafe { result::stream::wait_event(rank.stream, event, flags) }.map_err(broken)?;
        }
    }
    for event in events {
        // SAFETY: the driver keeps an event until those who wait for it have seen it.
        unsafe { result::event::destroy(event) }.map_err(broken)?;
    }
    Ok(())
}

fn copy_between(
    from: &Driver,
    source: u64,
    to: &Driver,
    target: u64,
    bytes: u64,
    stream: sys::CUstream,
) -> Result<(), RunnerError> {
    if bytes == 0 {
        return Ok(());
    }
    // The copy is enqueued where its stream was made.
    let owner = if stream == from.stream { from } else { to };
    owner.enter()?;
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    // SAFETY: both ends hold that many bytes until the stream is waited for.
    unsafe { result::memcpy_peer_async(to.context, target, from.context, source, length, stream) }
        .map_err(|error| driver::failed("cannot copy between GPUs", error))
}

/// Lets the GPUs reach each other's memory; whether all of them can.
fn connect(ranks: &[Driver]) -> bool {
    let mut all = true;
    for own in ranks {
        for other in ranks.iter().filter(|other| other.context != own.context) {
            all &= own.reaches(other);
        }
    }
    all
}

/// Times `call`, which waits for what it enqueues.
fn wall_clock(
    effort: Effort,
    mut call: impl FnMut() -> Result<(), RunnerError>,
) -> Result<Sample, RunnerError> {
    let repeats = if effort == Effort::Quick { 7 } else { 21 };
    (0..3).try_for_each(|_| call())?;
    let times: Result<Vec<f64>, RunnerError> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            call().map(|()| start.elapsed().as_secs_f64())
        })
        .collect();
    Ok(Sample::of(&times?))
}
