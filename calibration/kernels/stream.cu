// Memory traffic and launches: what a byte and a kernel cost.
#include "common.cuh"

// For launch latency: eager, and replayed from a graph.
KERNEL(32) empty() {}

// Halves between -1 and 1 that differ from place to place: real kernels neither see zeros nor
// repeat themselves, and both change the clocks.
KERNEL(256) fill_halves(u16* out, u64 count, u32 seed, float scale) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) {
        u32 bits = scramble((u32)i * 0x9e3779b9u + (u32)(i >> 32) + seed);
        out[i] = float_to_half(((int)(bits >> 20) - 2048) * (1.0f / 2048.0f) * scale);
    }
}

KERNEL(256) fill_words(u32* out, u64 count, u32 seed) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x)
        out[i] = scramble((u32)i * 0x9e3779b9u + (u32)(i >> 32) + seed);
}

// Reads everything, four loads of a thread in flight; what is summed only keeps the loads alive.
KERNEL(256) stream_read(const Quad* in, u64 count, u32* sink) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 sum = 0;
    for (; i + 3 * stride < count; i += 4 * stride) {
        Quad a = in[i], b = in[i + stride], c = in[i + 2 * stride], d = in[i + 3 * stride];
        sum += (a.x ^ a.y ^ a.z ^ a.w) + (b.x ^ b.y ^ b.z ^ b.w);
        sum += (c.x ^ c.y ^ c.z ^ c.w) + (d.x ^ d.y ^ d.z ^ d.w);
    }
    for (; i < count; i += stride) {
        Quad a = in[i];
        sum += a.x ^ a.y ^ a.z ^ a.w;
    }
    sink[(u64)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

KERNEL(256) stream_write(Quad* out, u64 count, u32 word) {
    Quad value = {word, word, word, word};
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x)
        out[i] = value;
}

KERNEL(256) stream_copy(Quad* out, const Quad* in, u64 count) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * stride < count; i += 4 * stride) {
        Quad a = in[i], b = in[i + stride], c = in[i + 2 * stride], d = in[i + 3 * stride];
        out[i] = a;
        out[i + stride] = b;
        out[i + 2 * stride] = c;
        out[i + 3 * stride] = d;
    }
    for (; i < count; i += stride) out[i] = in[i];
}

// Adds `ranks` rows of `count` halves, `pitch` halves apart, in single precision: the sum of an
// all-reduce, of a peer's chunks gathered by copies.
KERNEL(256) add_rows(u16* out, const u16* rows, u64 count, u64 pitch, int ranks) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count / 2; i += (u64)gridDim.x * blockDim.x) {
        float low = 0, high = 0;
        for (int rank = 0; rank < ranks; rank++) {
            u32 pair = ((const u32*)(rows + rank * pitch))[i];
            low += low_half(pair);
            high += high_half(pair);
        }
        ((u32*)out)[i] = pack_halves(low, high);
    }
}
