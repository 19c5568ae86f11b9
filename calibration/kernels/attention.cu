// Attention in half precision with single-precision softmax (FlashAttention-2's order of work:
// one pass over the keys with a running maximum and sum, arXiv 2307.08691).
//
// Scores are multiplied by `scale`, which holds 1/sqrt(dim) and log2(e): powers are of two.
#include "common.cuh"

#define NEGATIVE (-1e30f)

// Where chunk `chunk` of 16 bytes of row `row` lies: eight rows of one chunk on different banks.
template <int DIM>
DEVICE int at(int row, int chunk) {
    return row * DIM * 2 + ((chunk ^ (row & 7)) << 4);
}

// The scores of 16 queries against 16 keys of a tile, as two fragments of 8 keys.
template <int DIM>
DEVICE void score(float (&left)[4], float (&right)[4], const u32 (&queries)[DIM / 16][4], const u8* keys, int key0, int lane) {
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        u32 kf[4];
        load_matrices(kf, keys + at<DIM>(key0 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
        multiply_add(left, queries[step], kf[0], kf[1]);
        multiply_add(right, queries[step], kf[2], kf[3]);
    }
}

// out += weights (16 queries x 16 keys) values (16 keys x DIM).
template <int DIM>
DEVICE void mix(float (&out)[DIM / 8][4], const u32 (&weights)[4], const u8* values, int key0, int lane) {
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        u32 vf[4];
        load_matrices_transposed(vf, values + at<DIM>(key0 + lane % 16, step * 2 + lane / 16));
        multiply_add(out[step * 2], weights, vf[0], vf[1]);
        multiply_add(out[step * 2 + 1], weights, vf[2], vf[3]);
    }
}

// Takes new scores into the running softmax of a row pair (g and g + 8): turns scores into
// weights and rescales what has been summed. FRAGMENTS fragments of 8 keys.
template <int DIM, int FRAGMENTS>
DEVICE void soften(float (&scores)[FRAGMENTS][4], float (&maximum)[2], float (&sum)[2], float (&out)[DIM / 8][4], float scale) {
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float top = maximum[side];
#pragma unroll
        for (int j = 0; j < FRAGMENTS; j++) {
            scores[j][side * 2] *= scale;
            scores[j][side * 2 + 1] *= scale;
            top = larger(top, larger(scores[j][side * 2], scores[j][side * 2 + 1]));
        }
        // The four lanes that share a row.
        top = larger(top, shuffle_xor(top, 1));
        top = larger(top, shuffle_xor(top, 2));
        float shrink = exp2_fast(maximum[side] - top);
        maximum[side] = top;
        float added = 0;
#pragma unroll
        for (int j = 0; j < FRAGMENTS; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float x = scores[j][side * 2 + e];
                // Hidden keys weigh nothing, also where a row has seen no other yet.
                float weight = x > 0.5f * NEGATIVE ? exp2_fast(x - top) : 0.0f;
                scores[j][side * 2 + e] = weight;
                added += weight;
            }
        }
        sum[side] = sum[side] * shrink + added;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) {
            out[j][side * 2] *= shrink;
            out[j][side * 2 + 1] *= shrink;
        }
    }
}

// Two fragments of weights as the left operand of a product with 16 values.
DEVICE void as_left(u32 (&f)[4], const float (&a)[4], const float (&b)[4]) {
    f[0] = pack_halves(a[0], a[1]);
    f[1] = pack_halves(a[2], a[3]);
    f[2] = pack_halves(b[0], b[1]);
    f[3] = pack_halves(b[2], b[3]);
}

// Causal attention of `fresh` new tokens behind `past` cached ones, the same for every sequence.
// q, out: [batch][fresh][heads][DIM]; keys, values: [batch][past + fresh][kv_heads][DIM].
// One block takes 64 queries of one head: grid (ceil(fresh / 64), heads, batch), 128 threads.
template <int DIM>
DEVICE void prefill(const u16* q, const u16* keys, const u16* values, u16* out, int fresh, int past, int heads, int kv_heads, float scale) {
    DYNAMIC_SHARED(memory);
    u8* query_tile = memory;
    u8* key_tile = memory + 64 * DIM * 2;
    u8* value_tile = key_tile + 64 * DIM * 2;
    const int CHUNKS = DIM / 8;
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int g = lane / 4, quarter = lane % 4;
    // The last queries see the most keys: begin with them.
    int query0 = (gridDim.x - 1 - blockIdx.x) * 64;
    int head = blockIdx.y, kv_head = head / (heads / kv_heads);
    int context = past + fresh;
    u64 sequence = blockIdx.z;

    auto fetch = [&](u8* tile, const u16* from, int rows, int row0, int all_heads, int this_head) {
        for (int i = thread; i < 64 * CHUNKS; i += 128) {
            int row = i / CHUNKS, chunk = i % CHUNKS;
            bool there = row0 + row < rows;
            u64 token = sequence * rows + (there ? row0 + row : 0);
            copy_async(tile + at<DIM>(row, chunk), from + (token * all_heads + this_head) * DIM + chunk * 8, there);
        }
        copy_commit();
    };

    fetch(query_tile, q, fresh, query0, heads, head);
    fetch(key_tile, keys, context, 0, kv_heads, kv_head);
    copy_wait<1>();
    sync_block();
    u32 queries[DIM / 16][4];
#pragma unroll
    for (int step = 0; step < DIM / 16; step++)
        load_matrices(queries[step], query_tile + at<DIM>(warp * 16 + lane % 16, step * 2 + lane / 16));

    float sums[DIM / 8][4];
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
        for (int e = 0; e < 4; e++) sums[j][e] = 0;
    float maximum[2] = {NEGATIVE, NEGATIVE}, total[2] = {0, 0};

    int seen = at_most(past + query0 + 64, context);
    int tiles = (seen + 63) / 64;
    for (int tile = 0; tile < tiles; tile++) {
        fetch(value_tile, values, context, tile * 64, kv_heads, kv_head);
        copy_wait<1>();
        sync_block();
        float scores[8][4];
#pragma unroll
        for (int j = 0; j < 8; j++)
            for (int e = 0; e < 4; e++) scores[j][e] = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) score<DIM>(scores[j * 2], scores[j * 2 + 1], queries, key_tile, j * 16, lane);
        // Only tiles on the diagonal or at the end hide keys from a query.
        if (tile * 64 + 63 > past + query0 + warp * 16) {
#pragma unroll
            for (int j = 0; j < 8; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int key = tile * 64 + j * 8 + quarter * 2 + e % 2;
                    int query = query0 + warp * 16 + g + e / 2 * 8;
                    if (key > past + query) scores[j][e] = NEGATIVE / scale;
                }
            }
        }
        soften<DIM, 8>(scores, maximum, total, sums, scale);
        sync_block();
        if (tile + 1 < tiles) {
            fetch(key_tile, keys, context, (tile + 1) * 64, kv_heads, kv_head);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        sync_block();
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 weights[4];
            as_left(weights, scores[j * 2], scores[j * 2 + 1]);
            mix<DIM>(sums, weights, value_tile, j * 16, lane);
        }
        sync_block();
    }

#pragma unroll
    for (int side = 0; side < 2; side++) {
        float all = total[side] + shuffle_xor(total[side], 1);
        all += shuffle_xor(all, 2);
        int query = query0 + warp * 16 + g + side * 8;
        if (query >= fresh) continue;
        u16* row = out + ((sequence * fresh + query) * heads + head) * DIM;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
            *(u32*)(row + j * 8 + quarter * 2) = pack_halves(sums[j][side * 2] / all, sums[j][side * 2 + 1] / all);
    }
}

KERNEL(128) prefill_64(const u16* q, const u16* keys, const u16* values, u16* out, int fresh, int past, int heads, int kv_heads, float scale) {
    prefill<64>(q, keys, values, out, fresh, past, heads, kv_heads, scale);
}
KERNEL(128) prefill_128(const u16* q, const u16* keys, const u16* values, u16* out, int fresh, int past, int heads, int kv_heads, float scale) {
    prefill<128>(q, keys, values, out, fresh, past, heads, kv_heads, scale);
}

// One new token of each sequence over a paged cache with blocks of 16 tokens.
// q, out: [sequences][heads][DIM]; keys, values: [blocks][16][kv_heads][DIM]; table:
// [sequences][table_width] numbers of blocks; contexts: tokens of each sequence, with the new one.
// At most 16 query heads share a key-value head; they are the rows of one product, so that keys and
// values are read once. A block takes one part of one sequence's blocks, its four warps every
// fourth of them: grid (splits, kv_heads, sequences), 128 threads. With several splits `partial`
// gets [sequences][heads][splits][DIM + 2] sums, their maximum and their total for `join_decode`.
template <int DIM>
DEVICE void decode(const u16* q, const u16* keys, const u16* values, const int* table, const int* contexts, u16* out, float* partial,
                   int heads, int kv_heads, int table_width, float scale) {
    DYNAMIC_SHARED(memory);
    const int CHUNKS = DIM / 8, TILE = 16 * DIM * 2;
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int g = lane / 4, quarter = lane % 4;
    int group = heads / kv_heads, kv_head = blockIdx.y, sequence = blockIdx.z;
    int context = contexts[sequence], blocks = (context + 15) / 16;
    int of_split = (blocks + gridDim.x - 1) / gridDim.x;
    int first = blockIdx.x * of_split, end = at_most(first + of_split, blocks);
    u8* key_tile = memory + warp * 2 * TILE;
    u8* value_tile = key_tile + TILE;

    // The queries, through the tile of the keys; rows beyond the group are zeros.
    const u16* own = q + ((u64)sequence * heads + kv_head * group) * DIM;
    for (int i = lane; i < 16 * CHUNKS; i += 32) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        bool there = row < group;
        copy_async(key_tile + at<DIM>(row, chunk), own + (there ? row : 0) * DIM + chunk * 8, there);
    }
    copy_commit();
    copy_wait<0>();
    sync_warp();
    u32 queries[DIM / 16][4];
#pragma unroll
    for (int step = 0; step < DIM / 16; step++)
        load_matrices(queries[step], key_tile + at<DIM>(lane % 16, step * 2 + lane / 16));
    sync_warp();

    auto fetch = [&](u8* tile, const u16* cache, int block) {
        if (block < end) {
            u64 page = table[(u64)sequence * table_width + block];
            for (int i = lane; i < 16 * CHUNKS; i += 32) {
                int row = i / CHUNKS, chunk = i % CHUNKS;
                bool there = block * 16 + row < context;
                u64 token = page * 16 + (there ? row : 0);
                copy_async(tile + at<DIM>(row, chunk), cache + (token * kv_heads + kv_head) * DIM + chunk * 8, there);
            }
        }
        copy_commit();
    };

    float sums[DIM / 8][4];
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
        for (int e = 0; e < 4; e++) sums[j][e] = 0;
    float maximum[2] = {NEGATIVE, NEGATIVE}, total[2] = {0, 0};

    fetch(key_tile, keys, first + warp);
    for (int block = first + warp; block < end; block += 4) {
        fetch(value_tile, values, block);
        copy_wait<1>();
        sync_warp();
        float scores[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
        score<DIM>(scores[0], scores[1], queries, key_tile, 0, lane);
        sync_warp();
        fetch(key_tile, keys, block + 4);
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (block * 16 + j * 8 + quarter * 2 + e % 2 >= context) scores[j][e] = NEGATIVE / scale;
        }
        soften<DIM, 2>(scores, maximum, total, sums, scale);
        u32 weights[4];
        as_left(weights, scores[0], scores[1]);
        copy_wait<1>();
        sync_warp();
        mix<DIM>(sums, weights, value_tile, 0, lane);
        sync_warp();
    }
    copy_wait<0>();
    sync_block();

    // Four warps have seen different keys: their sums meet in shared memory, where the tiles were.
    float* warp_sums = (float*)(memory + warp * 2 * TILE);
    float* tops = (float*)(memory + 8 * TILE);
    float* totals = tops + 64;
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float all = total[side] + shuffle_xor(total[side], 1);
        all += shuffle_xor(all, 2);
        int row = g + side * 8;
        if (quarter == 0) {
            tops[warp * 16 + row] = maximum[side];
            totals[warp * 16 + row] = all;
        }
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) {
            warp_sums[row * DIM + j * 8 + quarter * 2] = sums[j][side * 2];
            warp_sums[row * DIM + j * 8 + quarter * 2 + 1] = sums[j][side * 2 + 1];
        }
    }
    sync_block();
    for (int i = thread; i < group * DIM; i += 128) {
        int row = i / DIM;
        float top = NEGATIVE, all = 0, sum = 0;
        for (int from = 0; from < 4; from++) top = larger(top, tops[from * 16 + row]);
        for (int from = 0; from < 4; from++) {
            float shrink = exp2_fast(tops[from * 16 + row] - top);
            all += totals[from * 16 + row] * shrink;
            sum += ((const float*)(memory + from * 2 * TILE))[i] * shrink;
        }
        u64 head = (u64)sequence * heads + kv_head * group + row;
        if (partial) {
            float* part = partial + (head * gridDim.x + blockIdx.x) * (DIM + 2);
            part[i % DIM] = sum;
            if (i % DIM == 0) {
                part[DIM] = top;
                part[DIM + 1] = all;
            }
        } else {
            out[head * DIM + i % DIM] = float_to_half(sum / all);
        }
    }
}

KERNEL(128) decode_64(const u16* q, const u16* keys, const u16* values, const int* table, const int* contexts, u16* out, float* partial,
                      int heads, int kv_heads, int table_width, float scale) {
    decode<64>(q, keys, values, table, contexts, out, partial, heads, kv_heads, table_width, scale);
}
KERNEL(128) decode_128(const u16* q, const u16* keys, const u16* values, const int* table, const int* contexts, u16* out, float* partial,
                       int heads, int kv_heads, int table_width, float scale) {
    decode<128>(q, keys, values, table, contexts, out, partial, heads, kv_heads, table_width, scale);
}

// Adds up the splits of a head: one block a head, a thread for each of `dim` numbers.
KERNEL(128) join_decode(u16* out, const float* partial, int dim, int splits) {
    const float* parts = partial + (u64)blockIdx.x * splits * (dim + 2);
    float top = NEGATIVE;
    for (int split = 0; split < splits; split++) top = larger(top, parts[split * (dim + 2) + dim]);
    float all = 0, sum = 0;
    for (int split = 0; split < splits; split++) {
        const float* part = parts + split * (dim + 2);
        float shrink = exp2_fast(part[dim] - top);
        all += part[dim + 1] * shrink;
        sum += part[threadIdx.x] * shrink;
    }
    out[(u64)blockIdx.x * dim + threadIdx.x] = float_to_half(sum / all);
}
