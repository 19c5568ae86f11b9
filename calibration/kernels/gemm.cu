// C[m,n] = A[m,k] W[n,k]^T in half precision with single-precision sums, as linear layers store
// their weights; and the same with int8 and 4-bit weights that are widened on the way to the
// tensor cores.
//
// A block computes a tile of C over a range of k, in slices of 32 that STAGES copies keep in
// flight. A range that is not all of k writes single-precision partial sums, which `join_splits`
// adds up. k must be a multiple of 32 (128 for 4-bit weights) and n of 8.
#include "common.cuh"

// Weights are stored so that a lane of the tensor cores finds its part of a slice in one word.
//
// Half: rows of k numbers.
// Int8 (scale per row, added 128): within each 16, in the order 0 1 8 9, 2 3 10 11, 4 5 12 13,
// 6 7 14 15, so that word q is what lane q needs.
// 4-bit (value - 8 times the scale of its group of 128): word q of each 32 holds, for the pairs
// (2q, 2q+1), (2q+8, 2q+9), (2q+16, ..), (2q+24, ..) numbered i = 0..3, the first number in bits
// 4i and the second in bits 16+4i.
struct HalfWeights {
    static const int SLICE_BYTES = 64;
    static const bool GROUP_SCALES = false;
    static const bool ROW_SCALES = false;
};
struct Int8Weights {
    static const int SLICE_BYTES = 32;
    static const bool GROUP_SCALES = false;
    static const bool ROW_SCALES = true;
};
struct Int4Weights {
    static const int SLICE_BYTES = 16;
    static const bool GROUP_SCALES = true;
    static const bool ROW_SCALES = false;
};

// Where 16-byte chunk `chunk` of row `row` lies in a tile of rows of 64 bytes: eight rows of one
// chunk fall on different banks.
DEVICE int at_64(int row, int chunk) { return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4); }
// The same for rows of 32 bytes, of which lanes read words.
DEVICE int at_32(int row, int chunk) { return row * 32 + ((chunk ^ ((row >> 2) & 1)) << 4); }

template <class Weights>
DEVICE int weight_at(int row, int chunk) {
    if (Weights::SLICE_BYTES == 64) return at_64(row, chunk);
    if (Weights::SLICE_BYTES == 32) return at_32(row, chunk);
    return row * 16;
}

template <int ROWS, int COLUMNS, int WARP_ROWS, int WARP_COLUMNS, int STAGES, class Weights>
DEVICE void gemm_tile(const u16* a, const u8* w, const u16* scales, u16* c, float* partial, int m, int n, int k,
                      int slices_of_split) {
    const int THREADS = 32 * (ROWS / WARP_ROWS) * (COLUMNS / WARP_COLUMNS);
    const int A_BYTES = ROWS * 64, W_BYTES = COLUMNS * Weights::SLICE_BYTES;
    const int SCALE_BYTES = Weights::GROUP_SCALES ? COLUMNS * 2 : 0;
    const int STAGE_BYTES = A_BYTES + W_BYTES + SCALE_BYTES;
    const int ROW_STEPS = WARP_ROWS / 16, COLUMN_STEPS = WARP_COLUMNS / 16;
    DYNAMIC_SHARED(memory);

    // Tiles in bands of eight rows of tiles, so that blocks that run together share operands in L2.
    const int BAND = 8;
    int tiles_m = (m + ROWS - 1) / ROWS, tiles_n = (n + COLUMNS - 1) / COLUMNS;
    int band = blockIdx.x / (BAND * tiles_n), within = blockIdx.x % (BAND * tiles_n);
    int height = at_most(tiles_m - band * BAND, BAND);
    int row0 = (band * BAND + within % height) * ROWS, column0 = within / height * COLUMNS;

    int slices = k / 32;
    int first = blockIdx.z * slices_of_split;
    int count = at_most(slices - first, slices_of_split);

    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int warp_row = warp / (COLUMNS / WARP_COLUMNS) * WARP_ROWS;
    int warp_column = warp % (COLUMNS / WARP_COLUMNS) * WARP_COLUMNS;
    int g = lane / 4, q = lane % 4;

    auto fetch = [&](int index) {
        if (index < count) {
            u8* stage = memory + index % STAGES * STAGE_BYTES;
            int slice = first + index;
            for (int i = thread; i < ROWS * 4; i += THREADS) {
                int row = i / 4, chunk = i % 4;
                bool there = row0 + row < m;
                const u16* from = a + (u64)(there ? row0 + row : 0) * k + slice * 32 + chunk * 8;
                copy_async(stage + at_64(row, chunk), from, there);
            }
            const int CHUNKS = Weights::SLICE_BYTES / 16;
            u64 row_bytes = (u64)slices * Weights::SLICE_BYTES;
            for (int i = thread; i < COLUMNS * CHUNKS; i += THREADS) {
                int row = i / CHUNKS, chunk = i % CHUNKS;
                bool there = column0 + row < n;
                const u8* from = w + (there ? column0 + row : 0) * row_bytes + (u64)slice * Weights::SLICE_BYTES + chunk * 16;
                copy_async(stage + A_BYTES + weight_at<Weights>(row, chunk), from, there);
            }
            if (Weights::GROUP_SCALES) {
                for (int i = thread; i < COLUMNS / 8; i += THREADS) {
                    bool there = column0 + i * 8 < n;
                    const u16* from = scales + (u64)(slice / 4) * n + (there ? column0 + i * 8 : 0);
                    copy_async(stage + A_BYTES + W_BYTES + i * 16, from, there);
                }
            }
        }
        copy_commit();
    };

    float sums[ROW_STEPS][COLUMN_STEPS * 2][4];
    for (int i = 0; i < ROW_STEPS; i++)
        for (int j = 0; j < COLUMN_STEPS * 2; j++)
            for (int e = 0; e < 4; e++) sums[i][j][e] = 0;

    for (int index = 0; index < STAGES - 1; index++) fetch(index);
    for (int index = 0; index < count; index++) {
        copy_wait<STAGES - 2>();
        // The slice has arrived for all, and all have left the one that is overwritten next.
        sync_block();
        fetch(index + STAGES - 1);
        const u8* stage = memory + index % STAGES * STAGE_BYTES;
        const u8* weights = stage + A_BYTES;
#pragma unroll
        for (int step = 0; step < 2; step++) {
            u32 af[ROW_STEPS][4];
#pragma unroll
            for (int i = 0; i < ROW_STEPS; i++)
                load_matrices(af[i], stage + at_64(warp_row + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < COLUMN_STEPS; j++) {
                u32 bf[4];
                int column = warp_column + j * 16;
                if (Weights::SLICE_BYTES == 64) {
                    load_matrices(bf, weights + at_64(column + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
                } else {
#pragma unroll
                    for (int side = 0; side < 2; side++) {
                        int row = column + side * 8 + g;
                        if (Weights::SLICE_BYTES == 32) {
                            // 0x6400 + v is the half 1024 + v, exactly.
                            u32 word = *(const u32*)(weights + at_32(row, step) + q * 4);
                            bf[side * 2] = sub_halves(permute_bytes(word, 0x64646464u, 0x4140), 0x64806480u);
                            bf[side * 2 + 1] = sub_halves(permute_bytes(word, 0x64646464u, 0x4342), 0x64806480u);
                        } else {
                            u32 word = *(const u32*)(weights + row * 16 + q * 4) >> (step * 8);
                            u32 scale = *(const u16*)(weights + W_BYTES + row * 2);
                            scale |= scale << 16;
                            u32 low = sub_halves((word & 0x000f000fu) | 0x64006400u, 0x64086408u);
                            u32 high = sub_halves((word >> 4 & 0x000f000fu) | 0x64006400u, 0x64086408u);
                            bf[side * 2] = mul_halves(low, scale);
                            bf[side * 2 + 1] = mul_halves(high, scale);
                        }
                    }
                }
#pragma unroll
                for (int i = 0; i < ROW_STEPS; i++) {
                    multiply_add(sums[i][j * 2], af[i], bf[0], bf[1]);
                    multiply_add(sums[i][j * 2 + 1], af[i], bf[2], bf[3]);
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < ROW_STEPS; i++) {
#pragma unroll
        for (int j = 0; j < COLUMN_STEPS * 2; j++) {
            int column = column0 + warp_column + j * 8 + q * 2;
            if (column >= n) continue;
            float left = 1, right = 1;
            if (Weights::ROW_SCALES) {
                left = half_to_float(scales[column]);
                right = half_to_float(scales[column + 1]);
            }
#pragma unroll
            for (int side = 0; side < 2; side++) {
                int row = row0 + warp_row + i * 16 + side * 8 + g;
                if (row >= m) continue;
                float x = sums[i][j][side * 2] * left, y = sums[i][j][side * 2 + 1] * right;
                u64 place = (u64)row * n + column;
                if (partial) {
                    float* out = partial + (u64)blockIdx.z * m * n + place;
                    out[0] = x;
                    out[1] = y;
                } else {
                    *(u32*)(c + place) = pack_halves(x, y);
                }
            }
        }
    }
}

#define GEMM(name, threads, rows, columns, warp_rows, warp_columns, stages, Weights)                                 \
    KERNEL_2(threads) name(const u16* a, const u8* w, const u16* scales, u16* c, float* partial, int m, int n, int k,  \
                         int slices_of_split) {                                                                      \
        gemm_tile<rows, columns, warp_rows, warp_columns, stages, Weights>(a, w, scales, c, partial, m, n, k,        \
                                                                           slices_of_split);                         \
    }

// Rows x columns of a tile. Shared memory stays at 48 KiB, so that two blocks fit beside each
// other and no kernel asks for more than a GPU grants without being told.
GEMM(gemm_f16_128x128, 256, 128, 128, 64, 32, 3, HalfWeights)
GEMM(gemm_f16_64x64, 128, 64, 64, 32, 32, 4, HalfWeights)
GEMM(gemm_f16_16x64, 128, 16, 64, 16, 16, 8, HalfWeights)
GEMM(gemm_i8_128x64, 128, 128, 64, 64, 32, 4, Int8Weights)
GEMM(gemm_i8_16x64, 128, 16, 64, 16, 16, 8, Int8Weights)
GEMM(gemm_i4_128x64, 128, 128, 64, 64, 32, 4, Int4Weights)
GEMM(gemm_i4_16x64, 128, 16, 64, 16, 16, 8, Int4Weights)

// Adds the partial sums of all splits; `count` is m n, an even number.
KERNEL(256) join_splits(u16* c, const float* partial, u64 count, int splits) {
    for (u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * 2; i < count; i += (u64)gridDim.x * blockDim.x * 2) {
        float left = 0, right = 0;
        for (int split = 0; split < splits; split++) {
            left += partial[split * count + i];
            right += partial[split * count + i + 1];
        }
        *(u32*)(c + i) = pack_halves(left, right);
    }
}
