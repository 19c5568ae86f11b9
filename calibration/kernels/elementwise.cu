// The small kernels between a layer's products.
#include "common.cuh"

// Sum over a block of 256 threads; every thread gets it.
DEVICE float block_sum(float x, float* shared) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    sync_block();
    float total = 0;
    for (int warp = 0; warp < 8; warp++) total += shared[warp];
    return total;
}

// residual += x; x = residual / rms(residual) * weight: one block a token, hidden a multiple of 8.
KERNEL(256) add_rms_norm(u16* x, u16* residual, const u16* weight, int hidden, float epsilon) {
    DYNAMIC_SHARED(memory);
    float* partial = (float*)memory;
    Quad* row = (Quad*)(x + (u64)blockIdx.x * hidden);
    Quad* carried = (Quad*)(residual + (u64)blockIdx.x * hidden);
    float squares = 0;
    for (int i = threadIdx.x; i < hidden / 8; i += 256) {
        Quad a = row[i], b = carried[i];
        u32 words[4] = {a.x, a.y, a.z, a.w}, adds[4] = {b.x, b.y, b.z, b.w};
        for (int j = 0; j < 4; j++) {
            float low = low_half(words[j]) + low_half(adds[j]);
            float high = high_half(words[j]) + high_half(adds[j]);
            squares += low * low + high * high;
            words[j] = pack_halves(low, high);
        }
        Quad sum = {words[0], words[1], words[2], words[3]};
        carried[i] = sum;
    }
    float scale = rsqrt_fast(block_sum(squares, partial) / (float)hidden + epsilon);
    for (int i = threadIdx.x; i < hidden / 8; i += 256) {
        // Each thread reads back what it wrote itself.
        Quad a = carried[i], b = ((const Quad*)weight)[i];
        u32 words[4] = {a.x, a.y, a.z, a.w}, weights[4] = {b.x, b.y, b.z, b.w};
        for (int j = 0; j < 4; j++)
            words[j] = pack_halves(low_half(words[j]) * scale * low_half(weights[j]),
                                   high_half(words[j]) * scale * high_half(weights[j]));
        Quad normed = {words[0], words[1], words[2], words[3]};
        row[i] = normed;
    }
}

// Rotates the two halves of each head (NeoX order) by angles whose cosines, then sines, stand in
// `table` [positions][dim]; one block a token, `heads` counts queries and keys, which lie together.
KERNEL(256) rotary(u16* heads_of_token, const float* table, const int* positions, int heads, int dim, int stride) {
    u16* token = heads_of_token + (u64)blockIdx.x * stride;
    const float* angles = table + (u64)positions[blockIdx.x] * dim;
    int half = dim / 2;
    for (int i = threadIdx.x; i < heads * half; i += 256) {
        u16* first = token + (i / half) * dim + i % half;
        float cosine = angles[i % half], sine = angles[half + i % half];
        float a = half_to_float(first[0]), b = half_to_float(first[half]);
        first[0] = float_to_half(a * cosine - b * sine);
        first[half] = float_to_half(b * cosine + a * sine);
    }
}

// out = silu(gate) * up, with gate and up beside each other in a row of 2 ffn.
KERNEL(256) silu_and_mul(u16* out, const u16* gate_up, int ffn) {
    const Quad* gate = (const Quad*)(gate_up + (u64)blockIdx.x * 2 * ffn);
    const Quad* up = gate + ffn / 8;
    Quad* row = (Quad*)(out + (u64)blockIdx.x * ffn);
    for (int i = threadIdx.x; i < ffn / 8; i += 256) {
        Quad a = gate[i], b = up[i];
        u32 gates[4] = {a.x, a.y, a.z, a.w}, ups[4] = {b.x, b.y, b.z, b.w};
        for (int j = 0; j < 4; j++) {
            float low = low_half(gates[j]), high = high_half(gates[j]);
            low = low / (1.0f + exp2_fast(-1.44269504f * low)) * low_half(ups[j]);
            high = high / (1.0f + exp2_fast(-1.44269504f * high)) * high_half(ups[j]);
            gates[j] = pack_halves(low, high);
        }
        Quad product = {gates[0], gates[1], gates[2], gates[3]};
        row[i] = product;
    }
}

// Writes a token's keys and values, which lie together, to its slot of the paged caches.
KERNEL(256) write_kv(u16* keys, u16* values, const u16* from, const int* slots, int width) {
    const Quad* token = (const Quad*)(from + (u64)blockIdx.x * 2 * width);
    Quad* key = (Quad*)(keys + (u64)slots[blockIdx.x] * width);
    Quad* value = (Quad*)(values + (u64)slots[blockIdx.x] * width);
    for (int i = threadIdx.x; i < width / 8; i += 256) {
        key[i] = token[i];
        value[i] = token[width / 8 + i];
    }
}

// Greedy sampling: the index of the largest logit of a row, the first of equals.
KERNEL(256) argmax(int* out, const u16* logits, int vocabulary) {
    DYNAMIC_SHARED(memory);
    float* best_of = (float*)memory;
    int* place_of = (int*)(best_of + 256);
    const u32* row = (const u32*)(logits + (u64)blockIdx.x * vocabulary);
    float best = -1e30f;
    int place = 0;
    for (int i = threadIdx.x; i < vocabulary / 2; i += 256) {
        u32 pair = row[i];
        float low = low_half(pair), high = high_half(pair);
        if (low > best) { best = low; place = 2 * i; }
        if (high > best) { best = high; place = 2 * i + 1; }
    }
    best_of[threadIdx.x] = best;
    place_of[threadIdx.x] = place;
    for (int step = 128; step > 0; step /= 2) {
        sync_block();
        if ((int)threadIdx.x < step) {
            float other = best_of[threadIdx.x + step];
            int there = place_of[threadIdx.x + step];
            if (other > best || (other == best && there < place)) {
                best = other;
                place = there;
                best_of[threadIdx.x] = best;
                place_of[threadIdx.x] = place;
            }
        }
    }
    if (threadIdx.x == 0) out[blockIdx.x] = place;
}
