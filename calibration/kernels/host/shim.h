// The names of common.cuh on the CPU, so that the kernels run where there is no GPU.
//
// Every thread of a block is a fiber. A fiber runs until it needs others: at a barrier, or where a
// warp acts as one (shuffles, matrix loads, tensor cores), the last lane to arrive does the work of
// all. It is stricter than a GPU:
// - asynchronous copies happen only when they are waited for, so that a missing wait is seen;
// - shared and fresh global memory holds NaNs, and a guard page follows each of them;
// - fibers run in ascending or descending order, so that a missing barrier shows in one of the two;
// - lanes of a warp that meet at different places, and threads that never meet, are errors.
#pragma once

#include <cstddef>
#include <vector>

struct Place {
    unsigned x, y, z;
};
extern Place threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

extern u8* shared_memory;

struct Shuffle {
    float value;
    int mask;
    float result;
};
struct MatrixLoad {
    u32* registers;
    const u8* row;
    bool transposed;
};
struct Multiply {
    float* c;
    const u32* a;
    u32 b0, b1;
};
enum Meeting { SYNC, SHUFFLE, LOAD, MULTIPLY };

// Lets the 32 lanes of a warp meet; on return `data` has been dealt with.
void meet(Meeting what, void* data);
void barrier();
void copy(void* to, const void* from, bool there);
void commit();
void wait(size_t groups);

float widen(u16 half);
u16 narrow(float x);
float exp2(float x);
float rsqrt(float x);

}  // namespace shim

#define KERNEL(threads) static void
#define KERNEL_2(threads) static void
#define DEVICE static inline
#define DYNAMIC_SHARED(name) u8* name = shim::shared_memory

DEVICE float half_to_float(u16 h) { return shim::widen(h); }
DEVICE u16 float_to_half(float f) { return shim::narrow(f); }
DEVICE u32 pack_halves(float low, float high) { return shim::narrow(low) | (u32)shim::narrow(high) << 16; }

DEVICE u32 sub_halves(u32 a, u32 b) {
    return pack_halves(shim::widen(a & 0xffff) - shim::widen(b & 0xffff), shim::widen(a >> 16) - shim::widen(b >> 16));
}
// The product of two halves is exact in single precision, so it is rounded once, as on the GPU.
DEVICE u32 mul_halves(u32 a, u32 b) {
    return pack_halves(shim::widen(a & 0xffff) * shim::widen(b & 0xffff), shim::widen(a >> 16) * shim::widen(b >> 16));
}
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) {
    u64 both = (u64)b << 32 | a;
    u32 d = 0;
    for (int i = 0; i < 4; i++) d |= (u32)(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return d;
}

DEVICE float exp2_fast(float x) { return shim::exp2(x); }
DEVICE float rsqrt_fast(float x) { return shim::rsqrt(x); }

DEVICE float shuffle_xor(float x, int mask) {
    shim::Shuffle data = {x, mask, 0};
    shim::meet(shim::SHUFFLE, &data);
    return data.result;
}
DEVICE void sync_block() { shim::barrier(); }
DEVICE void sync_warp() { shim::meet(shim::SYNC, nullptr); }

DEVICE void load_matrices(u32 (&r)[4], const void* row) {
    shim::MatrixLoad data = {r, (const u8*)row, false};
    shim::meet(shim::LOAD, &data);
}
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* row) {
    shim::MatrixLoad data = {r, (const u8*)row, true};
    shim::meet(shim::LOAD, &data);
}
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    shim::Multiply data = {c, a, b0, b1};
    shim::meet(shim::MULTIPLY, &data);
}

DEVICE void copy_async(void* shared, const void* global, bool there) { shim::copy(shared, global, there); }
DEVICE void copy_commit() { shim::commit(); }
template <int N>
DEVICE void copy_wait() {
    shim::wait(N);
}
