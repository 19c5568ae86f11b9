//! Launches of `stream.cu` and `elementwise.cu`.

use super::{Argument, Buffer, Launch, int, uint};

fn launch(
    kernel: &'static str,
    blocks: usize,
    shared: u32,
    arguments: impl Into<Vec<Argument>>,
) -> Launch {
    let grid = [uint(blocks), 1, 1];
    Launch { kernel, grid, threads: 256, shared, arguments: arguments.into() }
}

/// Nothing, for the latency of a launch.
pub fn empty() -> Launch {
    Launch { kernel: "empty", grid: [1, 1, 1], threads: 32, shared: 0, arguments: Vec::new() }
}

/// Halves between `-scale` and `scale`, as [`half_noise`](super::pack::half_noise) has them.
pub fn fill_halves(out: Buffer, seed: u32, scale: f32) -> Launch {
    let count = out.bytes / 2;
    let arguments = [out.into(), Argument::U64(count), Argument::U32(seed), scale.into()];
    launch("fill_halves", grid_for(count), 0, arguments)
}

/// Words of any bits.
pub fn fill_words(out: Buffer, seed: u32) -> Launch {
    let count = out.bytes / 4;
    let arguments = [out.into(), Argument::U64(count), Argument::U32(seed)];
    launch("fill_words", grid_for(count), 0, arguments)
}

fn grid_for(count: u64) -> usize {
    usize::try_from(count.div_ceil(1024).clamp(1, 1 << 16)).expect("at most 65536")
}

/// Blocks of a stream: enough to fill every multiprocessor with 2048 threads.
pub fn stream_blocks(multiprocessors: usize) -> usize {
    8 * multiprocessors
}

/// Reads all of `from`; `sink` holds a word for every thread.
pub fn stream_read(from: Buffer, sink: Buffer, blocks: usize) -> Launch {
    launch("stream_read", blocks, 0, [from.into(), Argument::U64(from.bytes / 16), sink.into()])
}

pub fn stream_write(to: Buffer, word: u32, blocks: usize) -> Launch {
    let arguments = [to.into(), Argument::U64(to.bytes / 16), Argument::U32(word)];
    launch("stream_write", blocks, 0, arguments)
}

pub fn stream_copy(to: Buffer, from: Buffer, blocks: usize) -> Launch {
    let arguments = [to.into(), from.into(), Argument::U64(from.bytes / 16)];
    launch("stream_copy", blocks, 0, arguments)
}

/// `out[i]` is the sum of `rows[rank * pitch + i]` over ranks; `count` is even.
pub fn add_rows(out: Buffer, rows: Buffer, count: u64, pitch: u64, ranks: usize) -> Launch {
    let arguments =
        [out.into(), rows.into(), Argument::U64(count), Argument::U64(pitch), int(ranks).into()];
    launch("add_rows", grid_for(count), 0, arguments)
}

/// Of the root mean square, as Llama's configurations have it.
pub const EPSILON: f32 = 1e-5;

/// A row of `x` and `residual` for each token.
pub fn add_rms_norm(
    x: Buffer,
    residual: Buffer,
    weight: Buffer,
    tokens: usize,
    hidden: usize,
) -> Launch {
    let arguments = [x.into(), residual.into(), weight.into(), int(hidden).into(), EPSILON.into()];
    launch("add_rms_norm", tokens, 32, arguments)
}

/// Rotates `heads` heads of each token; tokens lie `stride` numbers apart.
pub fn rotary(
    x: Buffer,
    table: Buffer,
    positions: Buffer,
    (tokens, heads, dim, stride): (usize, usize, usize, usize),
) -> Launch {
    let arguments = [
        x.into(),
        table.into(),
        positions.into(),
        int(heads).into(),
        int(dim).into(),
        int(stride).into(),
    ];
    launch("rotary", tokens, 0, arguments)
}

pub fn silu_and_mul(out: Buffer, gate_up: Buffer, tokens: usize, ffn: usize) -> Launch {
    launch("silu_and_mul", tokens, 0, [out.into(), gate_up.into(), int(ffn).into()])
}

/// `width` numbers of keys and as many of values for each token.
pub fn write_kv(
    keys: Buffer,
    values: Buffer,
    from: Buffer,
    slots: Buffer,
    (tokens, width): (usize, usize),
) -> Launch {
    let arguments = [keys.into(), values.into(), from.into(), slots.into(), int(width).into()];
    launch("write_kv", tokens, 0, arguments)
}

/// The largest logit of each sequence.
pub fn argmax(out: Buffer, logits: Buffer, sequences: usize, vocabulary: usize) -> Launch {
    let arguments = [out.into(), logits.into(), int(vocabulary).into()];
    launch("argmax", sequences, 256 * 8, arguments)
}
