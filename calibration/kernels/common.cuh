// What all kernels share: half precision, warp operations, asynchronous copies and tensor cores.
//
// No CUDA header is included, since NVRTC's packages ship none: types are plain words and the
// instructions are inline PTX. Half precision numbers are their 16 bits (u16), pairs of them a u32
// with the first number in the low half. With SERVESIM_HOST the same names come from
// host/shim.h, which runs the kernels as C++ on the CPU.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(16) Quad {
    u32 x, y, z, w;
};

#ifdef SERVESIM_HOST
#include "host/shim.h"
#else

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
// With registers for two blocks on a multiprocessor; Turing's shared memory has no room for two.
#if __CUDA_ARCH__ >= 800
#define KERNEL_2(threads) extern "C" __global__ void __launch_bounds__(threads, 2)
#else
#define KERNEL_2(threads) KERNEL(threads)
#endif
#define DEVICE __device__ __forceinline__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) u8 name[]

DEVICE float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

DEVICE u16 float_to_half(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

DEVICE u32 pack_halves(float low, float high) {
    u32 pair;
#if __CUDA_ARCH__ >= 800
    // The first source goes to the upper half.
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
    asm("mov.b32 %0, {%1, %2};" : "=r"(pair) : "h"(float_to_half(low)), "h"(float_to_half(high)));
#endif
    return pair;
}

DEVICE u32 sub_halves(u32 a, u32 b) {
    u32 d;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

DEVICE u32 mul_halves(u32 a, u32 b) {
    u32 d;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

// Bytes of b:a (a holds bytes 0-3), one selector digit for each byte of the result.
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) {
    u32 d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float rsqrt_fast(float x) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float shuffle_xor(float x, int mask) {
    float y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(mask));
    return y;
}

DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

DEVICE u32 shared_address(const void* p) {
    u32 address;
    asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(address) : "l"(p));
    return address;
}

// Four 8x8 matrices of halves: lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

DEVICE void load_matrices_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Sixteen bytes from global to shared memory, zeros where `there` is false. Asynchronous from
// sm_80 on; before, the copy is done at once and commit and wait are empty.
DEVICE void copy_async(void* shared, const void* global, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(there ? 16 : 0)
                 : "memory");
#else
    Quad zero = {0, 0, 0, 0};
    *(Quad*)shared = there ? *(const Quad*)global : zero;
#endif
}

DEVICE void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most N of the latest groups of this thread are under way.
template <int N>
DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// c += a b with a 16x16 (rows), b 16x8 (columns), c 16x8 in single precision. With g = lane / 4 and
// q = lane % 4: a[0], a[1] are rows g, g+8 at columns 2q and 2q+1, a[2], a[3] the same 8 columns on;
// b0 is rows 2q, 2q+1 of column g, b1 8 rows on; c[0..2] is row g, columns 2q, 2q+1, c[2..4] row g+8.
DEVICE void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    // Turing has half the depth: the same fragments in two steps.
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#endif

DEVICE float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

DEVICE float low_half(u32 pair) { return half_to_float((u16)(pair & 0xffff)); }
DEVICE float high_half(u32 pair) { return half_to_float((u16)(pair >> 16)); }

// Adding and multiplying 32-bit words: numbers that look random, the same on every machine
// (the finaliser of MurmurHash3, public domain).
DEVICE u32 scramble(u32 x) {
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ (x >> 16);
}

DEVICE float smaller(float a, float b) { return a < b ? a : b; }
DEVICE float larger(float a, float b) { return a > b ? a : b; }
DEVICE int at_most(int a, int b) { return a < b ? a : b; }
