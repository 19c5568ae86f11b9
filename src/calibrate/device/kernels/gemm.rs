//! Launches of `gemm.cu`.

use super::{Argument, Buffer, Launch, RunnerError, int, uint};

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    Half,
    /// One scale for each row.
    Int8,
    /// One scale for 128 columns of a row.
    Int4,
}

/// Columns that share a scale of 4-bit weights.
pub const GROUP: usize = 128;

impl Weights {
    /// Of a matrix `[n][k]`.
    pub const fn bytes(self, n: usize, k: usize) -> usize {
        match self {
            Self::Half => n * k * 2,
            Self::Int8 => n * k,
            Self::Int4 => n * k / 2,
        }
    }

    /// Half-precision scales of a matrix `[n][k]`.
    pub const fn scales(self, n: usize, k: usize) -> usize {
        match self {
            Self::Half => 0,
            Self::Int8 => n,
            Self::Int4 => n * k / GROUP,
        }
    }

    /// What `k` must be a multiple of.
    const fn depth(self) -> usize {
        match self {
            Self::Half | Self::Int8 => 32,
            Self::Int4 => GROUP,
        }
    }

    const fn slice_bytes(self) -> usize {
        match self {
            Self::Half => 64,
            Self::Int8 => 32,
            Self::Int4 => 16,
        }
    }
}

/// A compiled tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub kernel: &'static str,
    pub weights: Weights,
    rows: usize,
    columns: usize,
    threads: u32,
    stages: usize,
}

const fn tile(
    kernel: &'static str,
    weights: Weights,
    rows: usize,
    columns: usize,
    threads: u32,
    stages: usize,
) -> Tile {
    Tile { kernel, weights, rows, columns, threads, stages }
}

/// All tiles, as the macros at the end of `gemm.cu` name them.
pub const TILES: [Tile; 7] = [
    tile("gemm_f16_128x128", Weights::Half, 128, 128, 256, 3),
    tile("gemm_f16_64x64", Weights::Half, 64, 64, 128, 4),
    tile("gemm_f16_16x64", Weights::Half, 16, 64, 128, 8),
    tile("gemm_i8_128x64", Weights::Int8, 128, 64, 128, 4),
    tile("gemm_i8_16x64", Weights::Int8, 16, 64, 128, 8),
    tile("gemm_i4_128x64", Weights::Int4, 128, 64, 128, 4),
    tile("gemm_i4_16x64", Weights::Int4, 16, 64, 128, 8),
];

impl Tile {
    /// Bytes of shared memory: the slices in flight.
    fn shared(&self) -> u32 {
        let scales = if self.weights == Weights::Int4 { self.columns * 2 } else { 0 };
        let stage = self.rows * 64 + self.columns * self.weights.slice_bytes() + scales;
        uint(stage * self.stages)
    }

    fn blocks(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.columns)
    }
}

/// `C[m,n] = A[m,k] W[n,k]^T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub weights: Weights,
}

/// Where the operands lie.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    pub a: Buffer,
    pub w: Buffer,
    pub scales: Option<Buffer>,
    pub c: Buffer,
    /// Room for `splits` single-precision results; unused by a single one.
    pub partial: Option<Buffer>,
}

/// A tile and the number of ranges that `k` is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub tile: Tile,
    pub splits: usize,
}

impl Problem {
    pub fn check(&self) -> Result<(), RunnerError> {
        let Self { m, n, k, weights } = *self;
        let depth = weights.depth();
        if m == 0 || n == 0 || k == 0 || !k.is_multiple_of(depth) || !n.is_multiple_of(8) {
            return Err(RunnerError(format!(
                "a {weights:?} product of {m} x {n} x {k} does not suit the kernel: k must be a \
                 multiple of {depth} and n of 8"
            )));
        }
        Ok(())
    }

    /// What is worth trying on a GPU with `multiprocessors`: every tile that is not mostly padding,
    /// whole and cut so that the GPU is filled once or twice.
    pub fn choices(&self, multiprocessors: usize) -> Vec<Choice> {
        let fits = |tile: &&Tile| {
            tile.weights == self.weights && (tile.rows == 16 || self.m * 4 >= tile.rows)
        };
        let mut choices = Vec::new();
        for &tile in TILES.iter().filter(fits) {
            choices.push(Choice { tile, splits: 1 });
            let blocks = tile.blocks(self.m, self.n);
            for fill in [1, 2, 4] {
                let splits = (fill * multiprocessors / blocks).min(self.k / 256).min(16);
                let choice = Choice { tile, splits };
                if splits > 1 && !choices.contains(&choice) {
                    choices.push(choice);
                }
            }
        }
        choices
    }

    /// Bytes of partial sums.
    pub fn partial_bytes(&self, splits: usize) -> u64 {
        if splits > 1 { (splits * self.m * self.n * 4) as u64 } else { 0 }
    }

    /// The product, and the sum of its parts where `k` is cut.
    pub fn launches(&self, operands: &Operands, choice: Choice) -> Vec<Launch> {
        let Choice { tile, splits } = choice;
        let slices = self.k / 32;
        // Splits of whole slices: the last may be shorter, and none is empty.
        let of_split = slices.div_ceil(splits);
        let splits = slices.div_ceil(of_split);
        let partial = operands.partial.filter(|_| splits > 1);
        let mut launches = vec![Launch {
            kernel: tile.kernel,
            grid: [uint(tile.blocks(self.m, self.n)), 1, uint(splits)],
            threads: tile.threads,
            shared: tile.shared(),
            arguments: vec![
                operands.a.into(),
                operands.w.into(),
                operands.scales.into(),
                operands.c.into(),
                partial.into(),
                int(self.m).into(),
                int(self.n).into(),
                int(self.k).into(),
                int(of_split).into(),
            ],
        }];
        if let Some(partial) = partial {
            let count = self.m * self.n;
            launches.push(Launch {
                kernel: "join_splits",
                grid: [uint(count.div_ceil(512).min(1 << 16)), 1, 1],
                threads: 256,
                shared: 0,
                arguments: vec![
                    operands.c.into(),
                    partial.into(),
                    Argument::U64(count as u64),
                    int(splits).into(),
                ],
            });
        }
        launches
    }
}
