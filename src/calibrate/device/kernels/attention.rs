//! Launches of `attention.cu`.

use super::{Buffer, Launch, RunnerError, int, uint};

/// Heads of one layer on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

impl Heads {
    pub fn check(&self) -> Result<(), RunnerError> {
        let Self { heads, kv_heads, dim } = *self;
        let grouped = kv_heads > 0 && heads.is_multiple_of(kv_heads) && heads / kv_heads <= 16;
        if !grouped || heads == 0 || ![64, 128].contains(&dim) {
            return Err(RunnerError(format!(
                "attention of {heads} heads over {kv_heads} of {dim} does not suit the kernel: \
                 heads must be 1 to 16 times the key-value heads, of 64 or 128"
            )));
        }
        Ok(())
    }

    /// Scores are powers of two in the kernel: 1 / sqrt(dim), times log2(e).
    fn scale(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.dim as f32).sqrt()
    }
}

/// `batch` chunks of `fresh` new tokens, each behind `past` cached ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    pub heads: Heads,
    pub batch: usize,
    pub fresh: usize,
    pub past: usize,
}

impl Prefill {
    /// `[batch][fresh][heads][dim]`.
    pub fn query_len(&self) -> usize {
        self.batch * self.fresh * self.heads.heads * self.heads.dim
    }

    /// `[batch][past + fresh][kv_heads][dim]`.
    pub fn key_len(&self) -> usize {
        self.batch * (self.past + self.fresh) * self.heads.kv_heads * self.heads.dim
    }

    pub fn launch(&self, q: Buffer, keys: Buffer, values: Buffer, out: Buffer) -> Launch {
        let Heads { heads, kv_heads, dim } = self.heads;
        Launch {
            kernel: if dim == 64 { "prefill_64" } else { "prefill_128" },
            grid: [uint(self.fresh.div_ceil(64)), uint(heads), uint(self.batch)],
            threads: 128,
            // Tiles of 64 queries, keys and values.
            shared: uint(3 * 64 * dim * 2),
            arguments: vec![
                q.into(),
                keys.into(),
                values.into(),
                out.into(),
                int(self.fresh).into(),
                int(self.past).into(),
                int(heads).into(),
                int(kv_heads).into(),
                self.heads.scale().into(),
            ],
        }
    }
}

/// Tokens of a block of the paged cache.
pub const PAGE: usize = 16;

/// One new token of each of `sequences`, over `context` tokens at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decode {
    pub heads: Heads,
    pub sequences: usize,
    /// Of the longest sequence, with the new token.
    pub context: usize,
}

/// Where a decode batch lies.
#[derive(Clone, Copy, Debug)]
pub struct DecodeOperands {
    pub q: Buffer,
    pub keys: Buffer,
    pub values: Buffer,
    /// `[sequences][pages()]`.
    pub table: Buffer,
    pub contexts: Buffer,
    pub out: Buffer,
    pub partial: Option<Buffer>,
}

impl Decode {
    /// `[sequences][heads][dim]`.
    pub fn query_len(&self) -> usize {
        self.sequences * self.heads.heads * self.heads.dim
    }

    /// Blocks of the longest sequence.
    pub fn pages(&self) -> usize {
        self.context.div_ceil(PAGE)
    }

    /// Numbers in one block: `[16][kv_heads][dim]`.
    pub fn page_len(&self) -> usize {
        PAGE * self.heads.kv_heads * self.heads.dim
    }

    /// Parts per sequence that fill `multiprocessors` about four times, each of at least eight
    /// blocks: two for each warp.
    pub fn splits(&self, multiprocessors: usize) -> usize {
        let blocks = self.sequences * self.heads.kv_heads;
        (4 * multiprocessors).div_ceil(blocks).min(self.pages() / 8).clamp(1, 64)
    }

    pub fn partial_bytes(&self, splits: usize) -> u64 {
        let heads = self.sequences * self.heads.heads;
        if splits > 1 { (heads * splits * (self.heads.dim + 2) * 4) as u64 } else { 0 }
    }

    pub fn launches(&self, operands: &DecodeOperands, splits: usize) -> Vec<Launch> {
        let Heads { heads, kv_heads, dim } = self.heads;
        let partial = operands.partial.filter(|_| splits > 1);
        let splits = if partial.is_some() { splits } else { 1 };
        let mut launches = vec![Launch {
            kernel: if dim == 64 { "decode_64" } else { "decode_128" },
            grid: [uint(splits), uint(kv_heads), uint(self.sequences)],
            threads: 128,
            // Keys and values of a block for four warps, then 16 maxima and sums of each.
            shared: uint(4 * 2 * PAGE * dim * 2 + 2 * 4 * 16 * 4),
            arguments: vec![
                operands.q.into(),
                operands.keys.into(),
                operands.values.into(),
                operands.table.into(),
                operands.contexts.into(),
                operands.out.into(),
                partial.into(),
                int(heads).into(),
                int(kv_heads).into(),
                int(self.pages()).into(),
                self.heads.scale().into(),
            ],
        }];
        if let Some(partial) = partial {
            launches.push(Launch {
                kernel: "join_decode",
                grid: [uint(self.sequences * heads), 1, 1],
                threads: uint(dim),
                shared: 0,
                arguments: vec![
                    operands.out.into(),
                    partial.into(),
                    int(dim).into(),
                    int(splits).into(),
                ],
            });
        }
        launches
    }
}
