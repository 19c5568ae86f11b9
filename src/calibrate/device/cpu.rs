//! The host's processor as a device: 32-bit arithmetic on threads that stay where they are.
//!
//! It makes the whole path from kernel to prediction checkable on any machine. Its kernels stand
//! for those of an engine that computes in 32 bits with a good BLAS.

mod compute;
mod machine;

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::kernels::check::Checked;
use super::probe::{CPU_SHAPES, streams};
use super::{Description, Device, DeviceError, Effort, Probe, Sample, StreamKind};
use crate::calibrate::table::{AttentionBatch, Operator};
use compute::{Attention, Caches, Matrix};
use machine::Books;

const DTYPE: &str = "fp32";

/// The host's threads.
pub struct Cpu {
    description: Description,
    pool: rayon::ThreadPool,
    threads: usize,
    books: Books,
    /// Weights and caches are rotated over at least this many bytes, so that none stays in cache.
    rotation_bytes: u64,
}

impl Cpu {
    /// `threads` of those that the process may use; all without a number.
    pub fn open(threads: Option<usize>) -> Result<Self, DeviceError> {
        let machine = machine::Machine::look().ok_or_else(|| {
            DeviceError::new(
                "the system does not say how much memory there is (/proc/meminfo)",
                "calibrate on Linux with /proc mounted, or use --from-tables",
            )
        })?;
        let all = machine.cpus.len();
        let threads = threads.unwrap_or(all);
        if threads == 0 || threads > all {
            return Err(DeviceError::new(
                format!("{threads} threads are asked for and this process may use {all}"),
                format!("give --threads from 1 to {all}, or leave it out for all of them"),
            ));
        }
        // Streams go over an eighth of memory and must reach twice the cache.
        let least = (16 * machine.cache_to_exceed()).max(1 << 30);
        if machine.memory_bytes < least {
            return Err(DeviceError::new(
                format!(
                    "the host has {} MiB of memory; the probes need {} MiB",
                    machine.memory_bytes >> 20,
                    least >> 20
                ),
                "run on a machine (or in a container) with more memory",
            ));
        }
        let cpus: Vec<usize> = machine.cpus[..threads].to_vec();
        let pinned = cpus.clone();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .start_handler(move |i| machine::pin_to(pinned[i]))
            .build()
            .map_err(|error| {
                DeviceError::new(
                    format!("cannot start {threads} threads: {error}"),
                    "allow the process more threads (ulimit -u), or give --threads",
                )
            })?;
        let numbers = pool.broadcast(|_| machine::thread_number());
        let books = Books::new(numbers.into_iter().flatten().collect());
        let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
        let waits_unknown = books.turns().is_none();
        let cache_bytes = machine.cache_to_exceed();
        let mut conditions = format!(
            "32-bit; threads pinned to CPUs {}, waits for other processes {}",
            list.join(", "),
            if waits_unknown { "unknown, and not taken off" } else { "taken off" }
        );
        if machine.clock_mhz.is_none() {
            conditions.push_str("; clock unknown");
        }
        if machine.cache_bytes.is_none() {
            let assumed = cache_bytes >> 20;
            conditions
                .push_str(&format!("; cache unknown, {assumed} MiB assumed to stay beyond it"));
        }
        let description = Description {
            product: format!("{}, {threads} threads", machine.product),
            conditions,
            multiprocessors: u32::try_from(threads).unwrap_or(u32::MAX),
            compute_capability: (0, 0),
            clock_mhz: machine.clock_mhz,
            memory_bytes: machine.memory_bytes,
            cache_bytes,
            cache_assumed: machine.cache_bytes.is_none(),
            waits_unknown,
            dtype: DTYPE,
            not_representative: None,
        };
        let rotation_bytes = (2 * cache_bytes).min(machine.memory_bytes / 16);
        Ok(Self { description, pool, threads, books, rotation_bytes })
    }

    /// Copies of something of `bytes` that together leave the cache.
    fn copies(&self, bytes: u64) -> usize {
        usize::try_from(self.rotation_bytes.div_ceil(bytes.max(1)).clamp(1, 256)).unwrap_or(1)
    }

    fn stream(&self, kind: StreamKind, bytes: u64, effort: Effort) -> Sample {
        let count = usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        let part = count.div_ceil(self.threads).max(1);
        let mut to = vec![1u64; count];
        let from = if kind == StreamKind::Copy { vec![2u64; count] } else { Vec::new() };
        time(&self.books, effort, |i| {
            self.pool.install(|| match kind {
                StreamKind::Read => {
                    black_box(to.par_chunks(part).map(compute::sum_of_words).sum::<u64>());
                }
                StreamKind::Write => {
                    to.par_chunks_mut(part).for_each(|part| part.fill(i as u64));
                }
                StreamKind::Copy => {
                    let parts = to.par_chunks_mut(part).zip(from.par_chunks(part));
                    parts.for_each(|(to, from)| to.copy_from_slice(from));
                }
            });
        })
    }

    fn gemm(&self, (m, n, k): (usize, usize, usize), effort: Effort) -> Sample {
        let weights: Vec<Matrix> =
            (0..self.copies((n * k * 4) as u64)).map(|i| Matrix::noise(n, k, i as u32)).collect();
        let input = Matrix::noise(m, k, 99);
        let mut output = vec![0.0; m * n];
        time(&self.books, effort, |i| {
            let weights = &weights[i % weights.len()];
            self.pool.install(|| compute::product(&input, weights, &mut output, self.threads));
        })
    }

    fn attention(&self, batch: &AttentionBatch, effort: Effort) -> Result<Sample, DeviceError> {
        let attention = Attention::new(batch)?;
        let copies = self.copies(attention.cache_bytes());
        let caches: Vec<Caches> = (0..copies).map(|i| attention.caches(i as u32)).collect();
        let mut output = attention.output();
        Ok(time(&self.books, effort, |i| {
            let caches = &caches[i % copies];
            self.pool.install(|| attention.run(caches, &mut output));
        }))
    }

    fn elementwise(
        &self,
        op: &str,
        (tokens, hidden, ffn): (usize, usize, usize),
        effort: Effort,
    ) -> Result<Sample, DeviceError> {
        let rows = |width: usize| Matrix::noise(tokens, width, 5).values;
        let sample = match op {
            "layernorm" => {
                let (mut x, mut residual, weight) = (rows(hidden), rows(hidden), vec![1.0; hidden]);
                time(&self.books, effort, |_| {
                    self.pool.install(|| {
                        let rows = x.par_chunks_mut(hidden).zip(residual.par_chunks_mut(hidden));
                        rows.for_each(|(x, residual)| compute::add_rms_norm(x, residual, &weight));
                    });
                })
            }
            "rotary_emb" => {
                let (mut x, angles) = (rows(hidden), compute::angles(HEAD));
                time(&self.books, effort, |_| {
                    self.pool.install(|| {
                        x.par_chunks_mut(hidden).for_each(|row| {
                            row.chunks_exact_mut(HEAD)
                                .for_each(|head| compute::rotate(head, &angles));
                        });
                    });
                })
            }
            "act_fn" => {
                let (gate_up, mut out) = (rows(2 * ffn), rows(ffn));
                time(&self.books, effort, |_| {
                    self.pool.install(|| {
                        let rows = out.par_chunks_mut(ffn).zip(gate_up.par_chunks(2 * ffn));
                        rows.for_each(|(out, gate_up)| compute::silu_and_mul(out, gate_up));
                    });
                })
            }
            "sampler" => {
                let logits = rows(hidden);
                time(&self.books, effort, |_| {
                    self.pool.install(|| {
                        let largest = logits.par_chunks(hidden).map(compute::argmax);
                        black_box(largest.sum::<usize>());
                    });
                })
            }
            other => return Err(unknown(other)),
        };
        Ok(sample)
    }
}

/// Numbers of one head that are rotated together.
const HEAD: usize = 64;

fn unknown(what: &str) -> DeviceError {
    DeviceError::new(
        format!("the host has no kernel for {what}"),
        "this probe is for a GPU; report it, since the plan should not hold it",
    )
}

impl Device for Cpu {
    fn description(&self) -> &Description {
        &self.description
    }

    fn check(&mut self) -> Result<Vec<Checked>, DeviceError> {
        self.pool.install(|| compute::check(self.threads))
    }

    fn plan(&self, effort: Effort) -> Vec<Probe> {
        let Description { cache_bytes, memory_bytes, .. } = self.description;
        let mut probes = vec![Probe::Launch { graph: false }];
        probes.extend(streams(cache_bytes, memory_bytes, effort));
        probes.extend(CPU_SHAPES.probes(DTYPE, effort));
        probes
    }

    fn measure(&mut self, probe: &Probe, effort: Effort) -> Result<Sample, DeviceError> {
        let size = |x: u64| usize::try_from(x).unwrap_or(usize::MAX);
        match probe {
            Probe::Stream { kind, bytes } => Ok(self.stream(*kind, *bytes, effort)),
            // What it costs to have every thread do something.
            Probe::Launch { graph: false } => Ok(time(&self.books, effort, |_| {
                drop(black_box(self.pool.broadcast(|thread| thread.index())))
            })),
            Probe::Operator { operator, .. } => match operator {
                Operator::Gemm { m, n, k } => Ok(self.gemm((size(*m), size(*n), size(*k)), effort)),
                Operator::Attention(batch) => self.attention(batch, effort),
                Operator::Elementwise { op, tokens, hidden, ffn, .. } => {
                    self.elementwise(op, (size(*tokens), size(*hidden), size(*ffn)), effort)
                }
                Operator::AllReduce { .. } => Err(unknown("an all-reduce")),
            },
            Probe::Launch { graph: true } | Probe::Copy { .. } => Err(unknown(&probe.to_string())),
        }
    }

    fn state(&self) -> String {
        machine::load().map_or(String::new(), |load| format!("load average {load:.1}"))
    }
}

/// Samples shorter than this are several calls together: the clock itself takes tens of nanoseconds.
const SHORTEST: Duration = Duration::from_micros(50);

/// Samples longer than this may be cut short by the scheduler in favour of other processes.
const SLICE: Duration = Duration::from_micros(500);

/// Times `call`, which is told how often it has been called. Where other processes hold the CPUs
/// meanwhile, the threads' waits for them are taken off, if the system knows them.
fn time(books: &Books, effort: Effort, mut call: impl FnMut(usize)) -> Sample {
    let (least, budget) = match effort {
        Effort::Quick => (5, Duration::from_millis(60)),
        Effort::Full => (9, Duration::from_millis(250)),
    };
    let mut calls = 0;
    let mut once = || {
        call(calls);
        calls += 1;
    };
    // Threads wake up, pages are touched, the clock of the core rises.
    once();
    let began = Instant::now();
    once();
    let first = began.elapsed().max(Duration::from_nanos(100));
    let together = SHORTEST.div_duration_f64(first).ceil().clamp(1.0, 1000.0) as u32;
    let mut times = Vec::new();
    let began = Instant::now();
    while times.len() < least || (began.elapsed() < budget && times.len() < 201) {
        let before = if first > SLICE { books.turns() } else { None };
        let start = Instant::now();
        (0..together).for_each(|_| once());
        let wall = start.elapsed().as_secs_f64() / f64::from(together);
        let waits = before.zip(books.turns());
        times.push(waits.map_or(wall, |(before, after)| after.without_waits(&before, wall)));
    }
    Sample::of(&times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_computes_what_it_should_and_times_every_probe_of_a_small_plan() {
        let mut cpu = Cpu::open(Some(1)).unwrap();
        cpu.rotation_bytes = 1 << 20;
        for checked in cpu.check().unwrap() {
            assert!(checked.passed(), "{checked:?}");
        }
        // One of each kind: the smallest.
        let mut kinds = std::collections::BTreeSet::new();
        for probe in cpu.plan(Effort::Quick) {
            let kind = probe.to_string().split(' ').next().unwrap().to_owned();
            if kinds.insert(kind) {
                let sample = cpu.measure(&probe, Effort::Quick).unwrap();
                assert!(sample.seconds > 0.0 && sample.repeats >= 5, "{probe}: {sample:?}");
            }
        }
        assert!(kinds.len() >= 9, "{kinds:?}");
    }

    #[test]
    fn more_threads_than_there_are_is_an_error_that_says_how_many_there_are() {
        let error = Cpu::open(Some(100_000)).err().unwrap();
        assert!(error.help.contains("give --threads from 1 to"), "{error}");
        assert!(Cpu::open(Some(0)).is_err());
    }
}
