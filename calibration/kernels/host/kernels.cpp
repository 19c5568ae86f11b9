// The kernels as a library for the CPU: memory with guard pages, and launches by name.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "../stream.cu"
#include "../elementwise.cu"
#include "../gemm.cu"
#include "../attention.cu"

Place threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

u8* shared_memory;

struct Copy {
    void* to;
    const void* from;
    bool there;
};

struct Fiber {
    // Its stack and first instruction; later switches jump, which needs no system call.
    ucontext_t context;
    jmp_buf here;
    bool started, running, blocked;
    unsigned index;
    std::vector<Copy> fresh;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    unsigned arrived = 0;
    Meeting what = SYNC;
    void* data[32];
};

static const size_t STACK = 64 << 10, MAX_THREADS = 256;
static Fiber fibers[MAX_THREADS];
static Warp warps[MAX_THREADS / 32];
static jmp_buf scheduler;
static Fiber* current;
static unsigned at_barrier, alive;
static size_t shared_bytes;
static std::string failure;
static void (*body)(void*);
static void* body_data;

// Back to the scheduler, until it resumes this fiber.
static void leave() {
    if (_setjmp(current->here) == 0) _longjmp(scheduler, 1);
}

static void resume() {
    if (_setjmp(scheduler) != 0) return;
    if (current->started) _longjmp(current->here, 1);
    current->started = true;
    setcontext(&current->context);
}

static void fail(const char* message) {
    if (failure.empty()) {
        char place[128];
        std::snprintf(place, sizeof place, " (thread %u of block %u, %u, %u)", threadIdx.x, blockIdx.x, blockIdx.y, blockIdx.z);
        failure = std::string(message) + place;
    }
    // The block is abandoned: nothing resumes this fiber.
    leave();
}

static void yield() {
    current->blocked = true;
    leave();
}

float widen(u16 half) {
    u32 sign = (u32)(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
    float f;
    if (exponent == 0) {
        f = std::ldexp((float)mantissa, -24);
        return sign ? -f : f;
    }
    u32 bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    std::memcpy(&f, &bits, 4);
    return f;
}

// To nearest, ties to even.
u16 narrow(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    u16 sign = bits >> 16 & 0x8000;
    u32 size = bits & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;
    if (size >= 0x477ff000) return sign | 0x7c00;
    if (size < 0x38800000) {
        // Subnormal: a multiple of 2^-24.
        return sign | (u16)std::nearbyint(std::ldexp(std::fabs(x), 24));
    }
    u32 half = (size - 0x38000000) >> 13, rest = size & 0x1fff;
    half += rest > 0x1000 || (rest == 0x1000 && (half & 1));
    return sign | (u16)half;
}

float exp2(float x) { return std::exp2(x); }
float rsqrt(float x) { return 1.0f / std::sqrt(x); }

static void act(Warp& warp) {
    switch (warp.what) {
        case SYNC:
            break;
        case SHUFFLE:
            for (int lane = 0; lane < 32; lane++) {
                Shuffle* own = (Shuffle*)warp.data[lane];
                own->result = ((Shuffle*)warp.data[lane ^ own->mask])->value;
            }
            break;
        case LOAD:
            for (int matrix = 0; matrix < 4; matrix++) {
                for (int lane = 0; lane < 32; lane++) {
                    MatrixLoad* own = (MatrixLoad*)warp.data[lane];
                    u16 pair[2];
                    for (int i = 0; i < 2; i++) {
                        // Lane l holds row l / 4, columns 2 (l % 4) and the next; or their mirror.
                        int row = lane / 4, column = lane % 4 * 2 + i;
                        if (own->transposed) std::swap(row, column);
                        const u8* start = ((MatrixLoad*)warp.data[matrix * 8 + row])->row;
                        if ((uintptr_t)start % 16) return fail("a row of a matrix is not aligned to 16 bytes");
                        std::memcpy(&pair[i], start + column * 2, 2);
                    }
                    own->registers[matrix] = pair[0] | (u32)pair[1] << 16;
                }
            }
            break;
        case MULTIPLY: {
            float a[16][16], b[16][8];
            auto spread = [](u32 pair, float& low, float& high) {
                low = widen(pair & 0xffff);
                high = widen(pair >> 16);
            };
            for (int lane = 0; lane < 32; lane++) {
                Multiply* own = (Multiply*)warp.data[lane];
                int g = lane / 4, q = lane % 4 * 2;
                spread(own->a[0], a[g][q], a[g][q + 1]);
                spread(own->a[1], a[g + 8][q], a[g + 8][q + 1]);
                spread(own->a[2], a[g][q + 8], a[g][q + 9]);
                spread(own->a[3], a[g + 8][q + 8], a[g + 8][q + 9]);
                spread(own->b0, b[q][g], b[q + 1][g]);
                spread(own->b1, b[q + 8][g], b[q + 9][g]);
            }
            for (int lane = 0; lane < 32; lane++) {
                Multiply* own = (Multiply*)warp.data[lane];
                for (int e = 0; e < 4; e++) {
                    int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
                    double sum = own->c[e];
                    for (int i = 0; i < 16; i++) sum += (double)a[row][i] * b[i][column];
                    own->c[e] = (float)sum;
                }
            }
            break;
        }
    }
}

void meet(Meeting what, void* data) {
    unsigned lane = current->index % 32;
    Warp& warp = warps[current->index / 32];
    if (warp.arrived > 0 && warp.what != what) fail("lanes of one warp meet at different places");
    warp.what = what;
    warp.data[lane] = data;
    if (++warp.arrived < 32) return yield();
    warp.arrived = 0;
    act(warp);
    for (unsigned i = 0; i < 32; i++) fibers[current->index / 32 * 32 + i].blocked = false;
}

void barrier() {
    if (++at_barrier < alive) return yield();
    at_barrier = 0;
    for (unsigned i = 0; i < blockDim.x; i++) fibers[i].blocked = false;
}

void copy(void* to, const void* from, bool there) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) fail("an asynchronous copy is not aligned to 16 bytes");
    if ((u8*)to < shared_memory || (u8*)to + 16 > shared_memory + shared_bytes) fail("an asynchronous copy leaves shared memory");
    current->fresh.push_back({to, from, there});
}

void commit() {
    current->groups.push_back(std::move(current->fresh));
    current->fresh.clear();
}

void wait(size_t groups) {
    while (current->groups.size() > groups) {
        for (const Copy& copy : current->groups.front()) {
            if (copy.there) std::memcpy(copy.to, copy.from, 16);
            else std::memset(copy.to, 0, 16);
        }
        current->groups.erase(current->groups.begin());
    }
}

static void enter() {
    body(body_data);
    for (const auto& group : current->groups)
        if (!group.empty()) fail("a kernel ends with copies that nobody waited for");
    current->running = false;
    leave();
}

// Memory that ends where a page begins which must not be touched.
static u8* guarded(size_t bytes, size_t* mapped) {
    size_t page = sysconf(_SC_PAGESIZE), rounded = (bytes + 15) / 16 * 16;
    size_t body = (rounded + page - 1) / page * page;
    u8* start = (u8*)mmap(nullptr, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    mprotect(start + body, page, PROT_NONE);
    *mapped = body + page;
    std::memset(start, 0xff, body);
    return start + body - rounded;
}

static void run_block(unsigned threads, bool descending) {
    static u8* stacks = (u8*)mmap(nullptr, STACK * MAX_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(shared_memory, 0xff, shared_bytes);
    at_barrier = 0;
    alive = threads;
    for (Warp& warp : warps) warp.arrived = 0;
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks + i * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
        fiber.started = false;
        fiber.running = true;
        fiber.blocked = false;
        fiber.index = i;
        fiber.fresh.clear();
        fiber.groups.clear();
    }
    bool moved = true;
    while (alive > 0 && failure.empty()) {
        if (!moved) {
            failure = "threads of one block wait for each other at different places";
            return;
        }
        moved = false;
        for (unsigned step = 0; step < threads && failure.empty(); step++) {
            Fiber& fiber = fibers[descending ? threads - 1 - step : step];
            if (!fiber.running || fiber.blocked) continue;
            moved = true;
            current = &fiber;
            threadIdx = {fiber.index, 0, 0};
            resume();
            if (!fiber.running) alive--;
        }
    }
}

}  // namespace shim

template <class... A, std::size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

using Entry = void (*)(void**);
template <auto kernel>
struct Caller;
template <class... A, void (*kernel)(A...)>
struct Caller<kernel> {
    static void go(void** arguments) { call(kernel, arguments, std::index_sequence_for<A...>{}); }
};

#define ENTRY(name) {#name, Caller<&name>::go}
static const std::map<std::string, Entry> KERNELS = {
    ENTRY(empty), ENTRY(fill_halves), ENTRY(fill_words), ENTRY(stream_read), ENTRY(stream_write), ENTRY(stream_copy),
    ENTRY(add_rows), ENTRY(add_rms_norm), ENTRY(rotary), ENTRY(silu_and_mul), ENTRY(write_kv), ENTRY(argmax),
    ENTRY(gemm_f16_128x128), ENTRY(gemm_f16_64x64), ENTRY(gemm_f16_16x64), ENTRY(gemm_i8_128x64),
    ENTRY(gemm_i8_16x64), ENTRY(gemm_i4_128x64), ENTRY(gemm_i4_16x64), ENTRY(join_splits),
    ENTRY(prefill_64), ENTRY(prefill_128), ENTRY(decode_64), ENTRY(decode_128), ENTRY(join_decode),
};

struct Work {
    Entry entry;
    void** arguments;
};

// Bytes, or null. Freed with the process.
extern "C" void* servesim_allocate(std::size_t bytes) {
    size_t mapped;
    return shim::guarded(bytes, &mapped);
}

// Null, or what went wrong; the text stays until the next launch. `descending` is the order of the
// threads between two meetings.
extern "C" const char* servesim_launch(const char* name, const unsigned* grid, unsigned threads, std::size_t shared,
                                       void** arguments, int descending) {
    shim::failure.clear();
    auto found = KERNELS.find(name);
    if (found == KERNELS.end()) return "no such kernel";
    if (threads == 0 || threads % 32 || threads > shim::MAX_THREADS) return "threads must be whole warps, at most 8";
    size_t mapped = 0;
    shim::shared_bytes = shared;
    shim::shared_memory = shim::guarded(shared, &mapped);
    if (!shim::shared_memory) return "no memory";
    Work work = {found->second, arguments};
    shim::body = [](void* data) { ((Work*)data)->entry(((Work*)data)->arguments); };
    shim::body_data = &work;
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0] && shim::failure.empty(); x++) {
                blockIdx = {x, y, z};
                shim::run_block(threads, descending);
            }
    // The mapping ends one page behind the end of what was asked for.
    size_t rounded = (shared + 15) / 16 * 16;
    munmap(shim::shared_memory + rounded + sysconf(_SC_PAGESIZE) - mapped, mapped);
    return shim::failure.empty() ? nullptr : shim::failure.c_str();
}
