//! What there is to measure, and the shapes worth measuring.

use std::fmt;

use super::Effort;
use crate::calibrate::table::{AttentionBatch, Operator};

/// One thing to time. Its text is its key in a calibration that goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A row of an operator table.
    Operator {
        dtype: String,
        operator: Operator,
    },
    /// Memory traffic over `bytes`, read and written each counted once.
    Stream {
        kind: StreamKind,
        bytes: u64,
    },
    /// Starting a kernel that does nothing: on its own, or as one of a graph.
    Launch {
        graph: bool,
    },
    Copy {
        kind: CopyKind,
        bytes: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    Read,
    Write,
    Copy,
}

impl StreamKind {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Copy];

    /// Bytes moved for each byte of a buffer.
    pub const fn traffic(self) -> u64 {
        match self {
            Self::Read | Self::Write => 1,
            Self::Copy => 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    /// From page-locked memory of the host.
    HostToDevice,
    DeviceToHost,
    /// From the first GPU to the second.
    Peer,
}

impl Probe {
    /// Bytes of keys and values that an attention batch reads, in 16 bits.
    pub fn cache_bytes(&self) -> u64 {
        match self {
            Self::Operator { operator: Operator::Attention(batch), .. } => {
                let tokens = batch.chunks * (batch.chunk_past + batch.chunk_tokens)
                    + batch.sequences * batch.context;
                tokens * batch.kv_heads * batch.head_dim * 2 * 2
            }
            _ => 0,
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { dtype, operator } => match operator {
                Operator::Gemm { m, n, k } => write!(f, "gemm {dtype} {m}x{n}x{k}"),
                Operator::Attention(batch) => {
                    let AttentionBatch { heads, kv_heads, head_dim, .. } = batch;
                    write!(f, "attention {dtype} {heads}/{kv_heads}x{head_dim}")?;
                    if batch.chunks > 0 {
                        let AttentionBatch { chunks, chunk_tokens, chunk_past, .. } = batch;
                        write!(f, " {chunks} x {chunk_tokens} behind {chunk_past}")?;
                    }
                    if batch.sequences > 0 {
                        write!(f, " {} of {}", batch.sequences, batch.context)?;
                    }
                    Ok(())
                }
                Operator::Elementwise { op, tokens, hidden, ffn, tp } => {
                    write!(f, "{op} {dtype} {tokens} x {hidden}/{ffn}/{tp}")
                }
                Operator::AllReduce { link, implementation, ranks, bytes } => {
                    write!(f, "all-reduce {dtype} {ranks} x {bytes} B {link} {implementation}")
                }
            },
            Self::Stream { kind, bytes } => {
                write!(f, "{} {bytes} B", format!("{kind:?}").to_lowercase())
            }
            Self::Launch { graph: false } => f.write_str("launch"),
            Self::Launch { graph: true } => f.write_str("launch in a graph"),
            Self::Copy { kind, bytes } => {
                let kind = match kind {
                    CopyKind::HostToDevice => "host to device",
                    CopyKind::DeviceToHost => "device to host",
                    CopyKind::Peer => "peer",
                };
                write!(f, "copy {kind} {bytes} B")
            }
        }
    }
}

type Pair = (u64, u64);

/// The models whose shapes a device is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shapes {
    /// `(n, k)` of weights, from narrow to wide.
    pub weights: &'static [(u64, u64)],
    /// Rows of a product: tokens of a step.
    pub rows: &'static [u64],
    /// Query heads, key-value heads, head size.
    pub heads: &'static [(u64, u64, u64)],
    /// New tokens and tokens before them.
    pub chunks: &'static [(u64, u64)],
    /// Sequences and context of each.
    pub decodes: &'static [(u64, u64)],
    /// A chunk (new tokens and those before) beside sequences (number and context).
    pub mixed: &'static [(Pair, Pair)],
    /// Hidden and feed-forward size of the small kernels.
    pub widths: &'static [(u64, u64)],
    pub tokens: &'static [u64],
    pub vocabulary: u64,
}

/// Llama-3 8B and 70B (one rank of eight), Qwen and Mistral lie between. About 80 products; 64
/// identify the surface (`operator-surfaces.md` 4.1).
pub const GPU_SHAPES: Shapes = Shapes {
    weights: &[
        (4096, 4096),
        (6144, 4096),
        (28672, 4096),
        (4096, 14336),
        (1280, 8192),
        (7168, 8192),
    ],
    rows: &[1, 2, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192],
    heads: &[(32, 8, 128), (32, 32, 128), (8, 1, 128)],
    chunks: &[
        (128, 0),
        (512, 0),
        (1024, 0),
        (2048, 0),
        (4096, 0),
        (256, 2048),
        (512, 8192),
        (2048, 4096),
    ],
    decodes: &[
        (1, 512),
        (1, 4096),
        (1, 16384),
        (8, 512),
        (8, 2048),
        (8, 8192),
        (32, 512),
        (32, 1024),
        (32, 4096),
        (64, 1024),
        (128, 512),
        (128, 2048),
        (256, 512),
        (256, 1024),
    ],
    // Engines run one kernel for ragged batches, which ours are not: see `RaggedForm`.
    mixed: &[],
    widths: &[(4096, 14336), (8192, 28672)],
    tokens: &[1, 16, 64, 256, 1024, 4096, 8192],
    vocabulary: 128_256,
};

/// Llamas of 0.1 to 1 billion parameters, which a host serves at a bearable pace.
pub const CPU_SHAPES: Shapes = Shapes {
    weights: &[
        (768, 2048),
        (2048, 768),
        (1024, 1024),
        (3072, 1024),
        (2048, 2048),
        (8192, 2048),
        (2048, 5632),
    ],
    rows: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    heads: &[(16, 4, 64), (12, 12, 64), (16, 2, 128)],
    chunks: &[(16, 0), (64, 0), (128, 0), (256, 0), (512, 0), (1024, 0), (128, 512), (256, 1024)],
    decodes: &[
        (1, 64),
        (1, 512),
        (1, 2048),
        (4, 128),
        (4, 512),
        (8, 256),
        (8, 1024),
        (16, 128),
        (16, 512),
        (32, 128),
        (32, 512),
    ],
    mixed: &[
        ((64, 0), (4, 128)),
        ((64, 0), (16, 512)),
        ((256, 0), (8, 256)),
        ((256, 0), (32, 512)),
        ((512, 0), (8, 1024)),
        ((128, 512), (16, 128)),
    ],
    widths: &[(1024, 3072), (2048, 5632)],
    tokens: &[1, 4, 16, 64, 256, 1024],
    vocabulary: 32_000,
};

/// Every other one where there is little time, with both ends.
fn thinned<T: Copy>(all: &[T], effort: Effort) -> Vec<T> {
    let last = all.len().saturating_sub(1);
    let keep = |(i, &item): (usize, &T)| {
        (effort == Effort::Full || i % 2 == 0 || i == last).then_some(item)
    };
    all.iter().enumerate().filter_map(keep).collect()
}

impl Shapes {
    /// Products, attention and small kernels in `dtype`.
    pub fn probes(&self, dtype: &str, effort: Effort) -> Vec<Probe> {
        let operator = |operator| Probe::Operator { dtype: dtype.to_owned(), operator };
        let mut probes = Vec::new();
        for &(n, k) in self.weights {
            for m in thinned(self.rows, effort) {
                probes.push(operator(Operator::Gemm { m, n, k }));
            }
        }
        let batch = |(heads, kv_heads, head_dim): (u64, u64, u64)| AttentionBatch {
            chunks: 0,
            chunk_tokens: 0,
            chunk_past: 0,
            sequences: 0,
            context: 0,
            heads,
            kv_heads,
            head_dim,
            kv_dtype: dtype.to_owned(),
            window: 0,
        };
        for &heads in self.heads {
            for (chunk_tokens, chunk_past) in thinned(self.chunks, effort) {
                let batch = AttentionBatch { chunks: 1, chunk_tokens, chunk_past, ..batch(heads) };
                probes.push(operator(Operator::Attention(batch)));
            }
            for (sequences, context) in thinned(self.decodes, effort) {
                let batch = AttentionBatch { sequences, context, ..batch(heads) };
                probes.push(operator(Operator::Attention(batch)));
            }
        }
        for &heads in &self.heads[..1] {
            for &((chunk_tokens, chunk_past), (sequences, context)) in self.mixed {
                let batch = AttentionBatch {
                    chunks: 1,
                    chunk_tokens,
                    chunk_past,
                    sequences,
                    context,
                    ..batch(heads)
                };
                probes.push(operator(Operator::Attention(batch)));
            }
        }
        for &(hidden, ffn) in self.widths {
            for op in ["layernorm", "rotary_emb", "act_fn"] {
                for tokens in thinned(self.tokens, effort) {
                    let op = op.to_owned();
                    probes.push(operator(Operator::Elementwise { op, tokens, hidden, ffn, tp: 1 }));
                }
            }
        }
        for tokens in [1, 4, 16, 64] {
            let (op, hidden) = ("sampler".to_owned(), self.vocabulary);
            probes.push(operator(Operator::Elementwise { op, tokens, hidden, ffn: 0, tp: 1 }));
        }
        probes
    }
}

/// Products with weights of fewer bits, over every other shape: their gain is at few rows.
pub fn quantised(shapes: &Shapes, dtype: &str, effort: Effort) -> Vec<Probe> {
    let rows = thinned(shapes.rows, effort);
    let weights = shapes.weights.iter().step_by(2);
    let product = |(n, k, m)| Probe::Operator {
        dtype: dtype.to_owned(),
        operator: Operator::Gemm { m, n, k },
    };
    weights.flat_map(|&(n, k)| rows.iter().map(move |&m| product((n, k, m)))).collect()
}

/// Traffic from within the cache to well beyond it.
pub fn streams(cache_bytes: u64, memory_bytes: u64, effort: Effort) -> Vec<Probe> {
    let most = (memory_bytes / 8).min(4 << 30);
    let mut sizes: Vec<u64> =
        (0..).map(|i| (1 << 20) << (2 * i)).take_while(|&b| b <= most).collect();
    // Four times the cache, where no part of it helps.
    let beyond = (cache_bytes * 4).min(most).next_multiple_of(1 << 20);
    if !sizes.contains(&beyond) {
        sizes.push(beyond);
    }
    let kinds = StreamKind::ALL.into_iter();
    let sizes = thinned(&sizes, effort);
    kinds.flat_map(|kind| sizes.iter().map(move |&bytes| Probe::Stream { kind, bytes })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_probe_has_a_key_of_its_own() {
        for shapes in [GPU_SHAPES, CPU_SHAPES] {
            for effort in [Effort::Quick, Effort::Full] {
                let mut probes = shapes.probes("fp16", effort);
                probes.extend(streams(6 << 20, 24 << 30, effort));
                let keys: BTreeSet<String> = probes.iter().map(ToString::to_string).collect();
                assert_eq!(keys.len(), probes.len());
            }
        }
    }

    #[test]
    fn as_many_products_are_timed_as_a_surface_needs() {
        let products = |effort| {
            let probes = GPU_SHAPES.probes("fp16", effort);
            let product =
                |p: &&Probe| matches!(p, Probe::Operator { operator: Operator::Gemm { .. }, .. });
            probes.iter().filter(product).count()
        };
        assert!(products(Effort::Full) >= 64);
        assert!(products(Effort::Quick) >= 32);
    }

    #[test]
    fn the_largest_batches_read_gigabytes_of_keys_and_values() {
        let probes = GPU_SHAPES.probes("fp16", Effort::Full);
        let largest = probes.iter().map(Probe::cache_bytes).max().unwrap();
        // 256 sequences of 1024 tokens with 32 heads of 128.
        assert_eq!(largest, 256 * 1024 * 32 * 128 * 4);
    }

    #[test]
    fn streams_reach_beyond_the_cache_but_not_beyond_memory() {
        let probes = streams(96 << 20, 24 << 30, Effort::Quick);
        let largest = probes.iter().filter_map(|probe| match probe {
            Probe::Stream { bytes, .. } => Some(*bytes),
            _ => None,
        });
        let largest = largest.max().unwrap();
        assert!((384 << 20..=3 << 30).contains(&largest), "{largest}");
    }
}
