// Executes CUDA C++ kernels on a CPU, for tests: one fibre per thread, one block after another.
//
// A fibre runs until it waits at a barrier or a warp collective; which fibre runs next is the schedule: in order, in
// reverse, or random from a seed (random also interrupts at atomics and fences). Code that is right gives the same
// answer under all three. Shared memory is poisoned before each block. Reported as errors, never as a hang or a guess:
//   - a barrier that not all threads of the block reach, or that they reach at different statements;
//   - a warp collective that lanes of its mask reach at different statements, or never, or after exiting;
//   - a shuffle that reads a lane outside its mask; a lane that is not in its own mask;
//   - writes past the dynamic shared memory that the launch asked for.
// __activemask() answers the calling lane alone, which the hardware may too. Not here: cooperative groups, textures,
// asynchronous copies, launches from a kernel. Shared variables belong in kernels and plain __device__ functions (a
// template's would not be poisoned and does not compile).
#pragma once

#include <csetjmp>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <ucontext.h>
#include <utility>

#define CUDA_ON_CPU 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static __attribute__((section("cuda_shared")))
#define __constant__ static
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 { unsigned x, y, z; };
#define CUDA_ON_CPU_VECTOR(type, base)                                                                          \
    struct alignas(2 * sizeof(base)) type##2 { base x, y; };                                                    \
    struct alignas(sizeof(base) < 8 ? 4 * sizeof(base) : 16) type##4 { base x, y, z, w; };                      \
    inline type##2 make_##type##2(base x, base y) { return {x, y}; }                                            \
    inline type##4 make_##type##4(base x, base y, base z, base w) { return {x, y, z, w}; }
CUDA_ON_CPU_VECTOR(char, signed char)
CUDA_ON_CPU_VECTOR(uchar, unsigned char)
CUDA_ON_CPU_VECTOR(short, short)
CUDA_ON_CPU_VECTOR(ushort, unsigned short)
CUDA_ON_CPU_VECTOR(int, int)
CUDA_ON_CPU_VECTOR(uint, unsigned)
CUDA_ON_CPU_VECTOR(float, float)
CUDA_ON_CPU_VECTOR(double, double)
CUDA_ON_CPU_VECTOR(longlong, long long)
CUDA_ON_CPU_VECTOR(ulonglong, unsigned long long)

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

// The linker marks the ends of the section that holds every static __shared__ variable.
extern "C" char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

namespace cuda_on_cpu {

constexpr unsigned MAX_THREADS = 1024, MAX_SHARED = 227 * 1024, STACK = 128 * 1024, GUARD = 64;
constexpr unsigned char POISON = 0xCB;

enum State : unsigned char { READY, AT_BARRIER, AT_COLLECTIVE, EXITED };
enum Schedule { IN_ORDER = 0, REVERSE = 1, RANDOM = 2 };
enum Operation : unsigned char { SYNC, SHUFFLE, BALLOT, MATCH, ADD, MIN, MAX, AND, OR, XOR };

struct Site { int line, id; };  // a statement: its line, and a number of its own
inline bool same(Site a, Site b) { return a.id == b.id; }

struct Thread {
    State state;
    bool started;                   // its fibre exists: it waits in suspend()
    Site site;
    unsigned mask, source;          // of a collective: its mask, the lane that a shuffle reads
    uint64_t value, result;         // of a collective or barrier: put in, taken out
    char* stack;
    jmp_buf paused;
};
struct Warp { unsigned waiting, exited; };  // its lanes at a collective, and those that are done

static Thread threads[MAX_THREADS];
static Warp warps[MAX_THREADS / 32];
static unsigned count, current, interruptions;
static jmp_buf scheduler;
static int schedule;
static uint64_t random_state;
static bool failed;
static char failure[512];
static void (*body)(void**);
static void** arguments;
alignas(1024) static char dynamic_memory[MAX_SHARED + GUARD];

inline void* dynamic_shared() { return dynamic_memory; }

static uint64_t next_random() {  // splitmix64
    uint64_t z = (random_state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static void describe(const char* format, ...) {
    if (failed) return;
    failed = true;
    int used = snprintf(failure, sizeof failure, "block (%u,%u,%u): ", blockIdx.x, blockIdx.y, blockIdx.z);
    va_list values;
    va_start(values, format);
    vsnprintf(failure + used, sizeof failure - used, format, values);
    va_end(values);
}

template <class... A> [[noreturn]] void fail(const char* format, A... values) {  // from inside a fibre
    describe(format, values...);
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void suspend() {
    if (_setjmp(threads[current].paused) == 0) _longjmp(scheduler, 1);
}

static void fibre() {  // runs its thread of one block after another
    for (;;) {
        body(arguments);
        threads[current].state = EXITED;
        warps[current / 32].exited |= 1u << current % 32;
        suspend();
    }
}

__attribute__((noinline)) static void start(Thread& thread) {
    static ucontext_t context;
    if (!thread.stack) thread.stack = static_cast<char*>(malloc(STACK));
    getcontext(&context);
    context.uc_stack.ss_sp = thread.stack;
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, fibre, 0);
    thread.started = true;
    setcontext(&context);
}

__attribute__((noinline)) static void resume(unsigned index) {
    current = index;
    unsigned plane = blockDim.x * blockDim.y;
    threadIdx = {index % blockDim.x, index % plane / blockDim.x, index / plane};
    if (_setjmp(scheduler) != 0) return;
    if (threads[index].started) _longjmp(threads[index].paused, 1);
    start(threads[index]);
}

static void interrupt() {  // at atomics and fences: often at random, seldom otherwise (so that a spinning loop ends)
    if (schedule == RANDOM ? next_random() % 4 == 0 : ++interruptions % 256 == 0) suspend();
}

inline unsigned lane_id() { return current % 32; }
inline unsigned existing(unsigned base) { return count - base >= 32 ? ~0u : (1u << (count - base)) - 1; }

static uint64_t barrier(Site site, uint64_t value) {
    Thread& me = threads[current];
    me.state = AT_BARRIER;
    me.site = site;
    me.value = value;
    suspend();
    return threads[current].result;
}

static void release_barrier() {  // when nothing can run: every thread waits here, or something is wrong
    unsigned waiting[4] = {0, 0, 0, 0};
    for (unsigned t = 0; t < count; t++) waiting[threads[t].state]++;
    if (waiting[AT_COLLECTIVE]) {
        unsigned t = 0;
        while (threads[t].state != AT_COLLECTIVE) t++;
        return describe("thread %u waits at the warp collective on line %d (mask %08x) for lanes that never reach it; %u "
                        "threads are at a barrier, %u have exited", t, threads[t].site.line, threads[t].mask,
                        waiting[AT_BARRIER], waiting[EXITED]);
    }
    unsigned first = 0;
    while (threads[first].state != AT_BARRIER) first++;
    if (waiting[EXITED])
        return describe("%u of %u threads exited without reaching the barrier on line %d", waiting[EXITED], count,
                        threads[first].site.line);
    uint64_t true_count = 0;
    for (unsigned t = 0; t < count; t++) {
        if (!same(threads[t].site, threads[0].site))
            return describe("threads 0 and %u wait at different barriers, lines %d and %d", t, threads[0].site.line,
                            threads[t].site.line);
        true_count += threads[t].value;
    }
    for (unsigned t = 0; t < count; t++) {
        threads[t].result = true_count;
        threads[t].state = READY;
    }
}

template <class T> uint64_t encoded(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a warp collective moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> T decoded(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint64_t (*combine)(uint64_t, uint64_t);  // of a reduction; every lane of it sets the same

static void complete(Thread* lanes, unsigned mask, Operation operation) {
    uint64_t joint = 0;
    bool first = true;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        unsigned k = __builtin_ctz(rest);
        if (operation == BALLOT) joint |= uint64_t(lanes[k].value != 0) << k;
        if (operation >= ADD) joint = first ? lanes[k].value : combine(joint, lanes[k].value);
        first = false;
    }
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        Thread& lane = lanes[__builtin_ctz(rest)];
        lane.result = operation == SHUFFLE ? lanes[lane.source].value : joint;
        if (operation == MATCH) {
            lane.result = 0;
            for (unsigned k = 0; k < 32; k++)
                if ((mask >> k & 1) && lanes[k].value == lane.value) lane.result |= 1u << k;
        }
        lane.state = READY;
    }
    warps[current / 32].waiting &= ~mask;
}

static uint64_t collective(Site site, Operation operation, unsigned mask, uint64_t value, unsigned source,
                           uint64_t (*how)(uint64_t, uint64_t) = nullptr) {
    Thread& me = threads[current];
    unsigned base = current - lane_id();
    if (!(mask >> lane_id() & 1))
        fail("line %d: lane %u calls a warp collective whose mask %08x does not name it", site.line, lane_id(), mask);
    if (operation == SHUFFLE && !(mask >> source & 1))
        fail("line %d: lane %u shuffles from inactive lane %u (mask %08x)", site.line, lane_id(), source, mask);
    Warp& warp = warps[current / 32];
    if (unsigned gone = mask & (warp.exited | ~existing(base)))
        fail("line %d: the mask %08x of a warp collective names lane %d, which %s", site.line, mask, __builtin_ctz(gone),
             gone & warp.exited ? "has exited" : "the block does not have");
    me.state = AT_COLLECTIVE;
    me.site = site;
    me.mask = mask;
    me.value = value;
    me.source = source;
    warp.waiting |= 1u << lane_id();
    bool all_here = (warp.waiting & mask) == mask;
    for (unsigned rest = all_here ? mask : 0; rest; rest &= rest - 1) {
        const Thread& lane = threads[base + __builtin_ctz(rest)];
        if (lane.mask != mask)
            all_here = false;
        else if (!same(lane.site, site))
            fail("divergent warp collective: lanes %u and %u of mask %08x wait on lines %d and %d", lane_id(),
                 unsigned(__builtin_ctz(rest)), mask, site.line, lane.site.line);
    }
    if (all_here) {
        combine = how;
        complete(threads + base, mask, operation);
    } else {
        suspend();
    }
    return me.result;
}

template <class T> T shuffle(Site site, unsigned mask, T value, unsigned source) {
    return decoded<T>(collective(site, SHUFFLE, mask, encoded(value), source & 31));
}
inline unsigned segment(int width) { return lane_id() & ~unsigned(width - 1); }
template <class T> T shuffle_to(Site site, unsigned mask, T value, int source, int width = 32) {
    return shuffle(site, mask, value, segment(width) | (unsigned(source) & unsigned(width - 1)));
}
template <class T> T shuffle_xor(Site site, unsigned mask, T value, int bits, int width = 32) {
    unsigned source = lane_id() ^ unsigned(bits);
    return shuffle(site, mask, value, (source & ~unsigned(width - 1)) > segment(width) ? lane_id() : source);
}
template <class T> T shuffle_down(Site site, unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned source = lane_id() + delta;
    return shuffle(site, mask, value, source >= segment(width) + unsigned(width) ? lane_id() : source);
}
template <class T> T shuffle_up(Site site, unsigned mask, T value, unsigned delta, int width = 32) {
    int source = int(lane_id()) - int(delta);
    return shuffle(site, mask, value, source < int(segment(width)) ? lane_id() : unsigned(source));
}
inline unsigned ballot(Site site, unsigned mask, int predicate) {
    return unsigned(collective(site, BALLOT, mask, predicate != 0, 0));
}
inline int any(Site site, unsigned mask, int predicate) { return ballot(site, mask, predicate) != 0; }
inline int all(Site site, unsigned mask, int predicate) { return ballot(site, mask, predicate) == mask; }
inline void sync_warp(Site site, unsigned mask = ~0u) { collective(site, SYNC, mask, 0, 0); }
template <class T> unsigned match_any(Site site, unsigned mask, T value) {
    return unsigned(collective(site, MATCH, mask, encoded(value), 0));
}
template <class T> T combined(T a, T b, Operation operation) {
    switch (operation) {
        case ADD: return T(a + b);
        case MIN: return a < b ? a : b;
        case MAX: return a < b ? b : a;
        case AND: return a & b;
        case OR: return a | b;
        default: return a ^ b;
    }
}
template <Operation operation, class T> T reduce(Site site, unsigned mask, T value) {
    static_assert(std::is_integral<T>::value && sizeof(T) == 4, "warp reductions are of 32-bit integers");
    auto how = [](uint64_t a, uint64_t b) { return encoded(combined(decoded<T>(a), decoded<T>(b), operation)); };
    return decoded<T>(collective(site, operation, mask, encoded(value), 0, how));
}

static void order_of(unsigned* order, unsigned size) {
    for (unsigned i = 0; i < size; i++) order[i] = schedule == REVERSE ? size - 1 - i : i;
    if (schedule == RANDOM)
        for (unsigned i = size; i > 1; i--) std::swap(order[i - 1], order[next_random() % i]);
}

static void run_block(unsigned shared_bytes) {
    static unsigned order[MAX_THREADS];
    if (__start_cuda_shared) memset(__start_cuda_shared, POISON, __stop_cuda_shared - __start_cuda_shared);
    memset(dynamic_memory, POISON, shared_bytes + GUARD);
    for (unsigned t = 0; t < count; t++) threads[t].state = READY;
    for (Warp& warp : warps) warp = {0, 0};
    for (unsigned live = count; live && !failed;) {
        bool ready = false;
        order_of(order, count);
        for (unsigned i = 0; i < count && !failed; i++) {
            unsigned t = order[i];
            if (threads[t].state != READY) continue;
            ready = true;
            if (schedule == RANDOM && next_random() % 4 == 0) continue;
            resume(t);
            live -= threads[t].state == EXITED;
        }
        if (!ready && !failed) release_barrier();
    }
    for (unsigned i = 0; i < GUARD && !failed; i++)
        if ((unsigned char)dynamic_memory[shared_bytes + i] != POISON)
            describe("writes past the %u bytes of dynamic shared memory that the launch asked for", shared_bytes);
}

inline bool launch(dim3 grid, dim3 block, unsigned shared_bytes, int schedule_, uint64_t seed, void (*body_)(void**),
                   void** arguments_) {
    gridDim = grid;
    blockDim = block;
    schedule = schedule_;
    random_state = seed;
    body = body_;
    arguments = arguments_;
    failed = false;
    count = block.x * block.y * block.z;
    blockIdx = {0, 0, 0};
    if (count == 0 || count > MAX_THREADS || shared_bytes > MAX_SHARED) {
        describe("a launch of %u threads and %u bytes of shared memory; at most 1024 and %u", count, shared_bytes,
                 MAX_SHARED);
        return false;
    }
    unsigned blocks = grid.x * grid.y * grid.z;
    unsigned* order = static_cast<unsigned*>(malloc(blocks * sizeof(unsigned)));
    order_of(order, blocks);
    for (unsigned i = 0; i < blocks && !failed; i++) {
        blockIdx = {order[i] % grid.x, order[i] / grid.x % grid.y, order[i] / (grid.x * grid.y)};
        run_block(shared_bytes);
    }
    free(order);
    for (unsigned t = 0; t < count && failed; t++) threads[t].started = false;  // stuck in the middle of the kernel
    return !failed;
}

// Parameter types of a kernel as "[*|&]<kind><bytes>;...": * a pointer, & a pointer to const, kinds as numpy's.
template <class T> void append_type(char*& out) {
    using Base = std::remove_cv_t<std::remove_pointer_t<T>>;
    char kind = std::is_same<Base, bool>::value           ? 'b'
                : std::is_floating_point<Base>::value     ? 'f'
                : !std::is_integral<Base>::value          ? 'V'
                : std::is_signed<Base>::value             ? 'i'
                                                          : 'u';
    const char* pointer = !std::is_pointer<T>::value ? "" : std::is_const<std::remove_pointer_t<T>>::value ? "&" : "*";
    out += sprintf(out, "%s%c%zu;", pointer, kind, sizeof(Base));
}
template <class... A> void signature(void (*)(A...), char* out) {
    *out = 0;
    (append_type<A>(out), ...);
}
template <class... A, size_t... I> void call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(values[I])...);
}
template <class... A> void call(void (*kernel)(A...), void** values) {
    call(kernel, values, std::index_sequence_for<A...>{});
}

}  // namespace cuda_on_cpu

#include "cuda_intrinsics.h"
