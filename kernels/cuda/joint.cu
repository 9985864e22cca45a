// The exact joint search on a GPU: one block per problem, its warps share the tree. Same answers as kernels/cpu.
//
// joint_prepare.cuh reduces, prices and sorts; then warps draw tasks, a task being a pair of options of the first two
// levels, and search the tree below depth first. A node is expanded by all lanes at once, two options each; the state of
// the node of level d waits in the registers of lane d. The last two levels are one step: each lane holds an option of the
// last but one, and all run down the last level, sorted by descending gain, until their first that fits.
//
// Of equal answers the first in lexicographic order of original option numbers wins, whatever order warps find them in:
// a node that can at best tie is followed only while its first completion precedes the incumbent.

#include "joint_prepare.cuh"

// Nodes of a task that can only tie before the problem goes to the CPU, which has a way to the first of many ties.
constexpr unsigned TIE_LIMIT = 1000;

// The slack that an incumbent of gain `best` leaves.
__device__ __forceinline__ int slack_beside(const Problem& problem, int best) {
    return int((problem.bound - static_cast<long long>(best) * (1ll << UNIT_BITS)) >> problem.shift);
}

// Lane 0 reads for all, so that no two lanes act on different values.
__device__ __forceinline__ int read_by_all(const int* where) {
    int value = 0;
    if (threadIdx.x % LANES == 0) value = *reinterpret_cast<const volatile int*>(where);
    return __shfl_sync(ALL_LANES, value, 0);
}

__device__ __forceinline__ void lock(Incumbent& incumbent) {
    if (threadIdx.x % LANES == 0)
        while (atomicCAS(&incumbent.lock, 0, 1) != 0) {
        }
    __syncwarp();
    __threadfence_block();
}

__device__ __forceinline__ void unlock(Incumbent& incumbent) {
    __threadfence_block();
    __syncwarp();
    if (threadIdx.x % LANES == 0) atomicExch(&incumbent.lock, 0);
    __syncwarp();
}

// What a warp knows: the incumbent it last saw, and the node it stands at.
struct Walk {
    int best, slack;
    int held_best, held_choice;  // an incumbent, lane i holding the choice of function i
    int current;                 // the choice of function i at this node, or its first option where still open
};

__device__ void hold_incumbent(Walk& walk, Incumbent& incumbent) {
    const int lane = threadIdx.x % LANES;
    lock(incumbent);
    walk.held_best = read_by_all(&incumbent.best);
    walk.held_choice = lane < MOST_FUNCTIONS ? *static_cast<volatile int*>(&incumbent.choice[lane]) : 0;
    unlock(incumbent);
}

// Whether this lane's `option` of `function` can complete to a choice that precedes the incumbent of equal gain.
__device__ bool precedes(const Walk& walk, int functions, int function, int option) {
    const int lane = threadIdx.x % LANES;
    const unsigned less = __ballot_sync(ALL_LANES, lane < functions && walk.current < walk.held_choice);
    const unsigned more = __ballot_sync(ALL_LANES, lane < functions && walk.current > walk.held_choice);
    const int held = __shfl_sync(ALL_LANES, walk.held_choice, function);
    const unsigned differs = less | more, before = differs & ((1u << function) - 1), after = differs & ~((2u << function) - 1);
    if (before) return less & (before & (0u - before));
    if (option != held) return option < held;
    return less & (after & (0u - after));
}

// A choice of gain `total`, lane i holding that of function i, becomes the incumbent where it is better.
__device__ void offer(Walk& walk, const Problem& problem, Incumbent& incumbent, int total, int choice) {
    const int lane = threadIdx.x % LANES;
    lock(incumbent);
    const int best = read_by_all(&incumbent.best);
    int held = lane < MOST_FUNCTIONS ? *static_cast<volatile int*>(&incumbent.choice[lane]) : 0;
    const unsigned less = __ballot_sync(ALL_LANES, lane < problem.functions && choice < held);
    const unsigned more = __ballot_sync(ALL_LANES, lane < problem.functions && choice > held);
    const unsigned differs = less | more;
    if (total > best || (total == best && (less & (differs & (0u - differs))))) {
        held = choice;
        if (lane < problem.functions) *static_cast<volatile int*>(&incumbent.choice[lane]) = choice;
        if (lane == 0) *static_cast<volatile int*>(&incumbent.best) = total;
    }
    walk.best = walk.held_best = max(total, best);
    walk.held_choice = held;
    unlock(incumbent);
    walk.slack = slack_beside(problem, walk.best);
}

// The best way to end the search below this lane's `option` of `function` (-1: the last level is the only one).
__device__ void finish(Walk& walk, const Rows& rows, const Problem& problem, Incumbent& incumbent, bool active, u64 room,
                       int gained, int function, int option) {
    const int lane = threadIdx.x % LANES, last = problem.function[problem.last];
    const int row = last * MOST_OPTIONS, count = problem.count[last];
    int total = -1, end = 0;
    for (int k = 0; k < count; k++) {
        const int reached = gained + rows.gain[row + k];
        active = active && reached >= walk.best;
        if (!__any_sync(ALL_LANES, active)) break;
        if (active && fits(room, rows.load[row + k])) {
            total = reached;
            end = rows.option[row + k];
            active = false;
        }
    }
    const int most = warp_max(total);
    if (most < 0) return;
    const unsigned key = last < function ? unsigned(end << 8 | option) : unsigned(option << 8 | end);
    const unsigned first = warp_min(total == most ? key : 0xffffffffu);
    const int winner = __ffs(__ballot_sync(ALL_LANES, total == most && key == first)) - 1;
    option = __shfl_sync(ALL_LANES, option, winner);
    end = __shfl_sync(ALL_LANES, end, winner);
    offer(walk, problem, incumbent, most, lane == last ? end : lane == function ? option : walk.current);
}

// Searches the tree below the first `split` levels, at whose end a node with `room` and so on stands. Adds to `steps`.
__device__ void descend(Walk& walk, const Rows& rows, const Problem& problem, Incumbent& incumbent, int split, u64 room,
                        int lost, int gained, unsigned& steps, unsigned step_limit) {
    const int lane = threadIdx.x % LANES;
    const int initial = lane < problem.functions ? problem.first_option[lane] : 0;
    unsigned kept_low = 0, kept_high = 0, low = 0, high = 0;
    u64 kept_room = 0;
    int kept_lost = 0, kept_gained = 0, level = split;
    unsigned ties = 0;
    bool fresh = true;
    for (;;) {
        const int function = problem.function[level], row = function * MOST_OPTIONS;
        if (fresh) {
            fresh = false;
            const int best = read_by_all(&incumbent.best);
            if (best != walk.best) {
                walk.best = best;
                walk.slack = slack_beside(problem, best);
            }
            ties += lost > walk.slack - problem.unit;
            if (++steps > step_limit || ties > TIE_LIMIT) {
                if (lane == 0) atomicExch(&incumbent.stopped, 1);
                return;
            }
            const int count = problem.count[function];
            for (int half = 0; half * LANES < count; half++) {
                const int k = half * LANES + lane;
                bool open = k < count && lost + rows.loss[row + k] <= walk.slack && fits(room, rows.load[row + k]);
                const bool may_tie = open && lost + rows.loss[row + k] > walk.slack - problem.unit;
                if (__any_sync(ALL_LANES, may_tie)) {
                    if (walk.held_best != walk.best) hold_incumbent(walk, incumbent);
                    const bool first = precedes(walk, problem.functions, function, open ? rows.option[row + k] : 0);
                    if (may_tie && walk.held_best == walk.best && !first) open = false;
                }
                if (level == problem.last - 1) {
                    const u64 least = problem.least[problem.function[problem.last]];
                    finish(walk, rows, problem, incumbent, open, open ? room - rows.load[row + k] + least : 0,
                           open ? gained + rows.gain[row + k] : 0, function, open ? rows.option[row + k] : 0);
                } else {
                    const unsigned opened = __ballot_sync(ALL_LANES, open);
                    if (half == 0) low = opened;
                    else high = opened;
                }
            }
        }
        const int k = low ? __ffs(low) - 1 : LANES - 1 + __ffs(high);
        if (!(low | high) || lost + rows.loss[row + k] > walk.slack) {  // by ascending loss: nothing after k either
            if (level == split) return;
            level--;
            low = __shfl_sync(ALL_LANES, kept_low, level), high = __shfl_sync(ALL_LANES, kept_high, level);
            room = __shfl_sync(ALL_LANES, kept_room, level);
            lost = __shfl_sync(ALL_LANES, kept_lost, level), gained = __shfl_sync(ALL_LANES, kept_gained, level);
            if (lane == problem.function[level]) walk.current = initial;
            continue;
        }
        if (k < LANES) low &= low - 1;
        else high &= high - 1;
        if (lane == level) kept_low = low, kept_high = high, kept_room = room, kept_lost = lost, kept_gained = gained;
        level++;
        room = room - rows.load[row + k] + problem.least[problem.function[level]];
        lost += rows.loss[row + k];
        gained += rows.gain[row + k];
        if (lane == function) walk.current = rows.option[row + k];
        low = high = 0;
        fresh = true;
    }
}

// Draws tasks until none is left. Returns the nodes that this warp expanded.
__device__ unsigned search(const Rows& rows, const Problem& problem, Incumbent& incumbent, unsigned step_limit) {
    const int lane = threadIdx.x % LANES, split = min(2, max(0, problem.last - 1));
    const int first = problem.function[0], second = problem.function[split == 2 ? 1 : 0];
    const int firsts = split > 0 ? problem.count[first] : 1, seconds = split == 2 ? problem.count[second] : 1;
    const int initial = lane < problem.functions ? problem.first_option[lane] : 0;
    u64 root = problem.capacity;
    for (int level = 1; level <= problem.last; level++) root -= problem.least[problem.function[level]];
    Walk walk{-1, slack_beside(problem, -1), -2, 0, initial};
    unsigned steps = 0;
    while (!read_by_all(&incumbent.stopped)) {
        int task = 0;
        if (lane == 0) task = atomicAdd(&incumbent.next_task, 1);
        task = __shfl_sync(ALL_LANES, task, 0);
        if (task >= firsts * seconds) break;
        walk.best = read_by_all(&incumbent.best);
        walk.slack = slack_beside(problem, walk.best);
        walk.current = initial;
        u64 room = root;
        int lost = 0, gained = 0;
        bool open = true;
        for (int level = 0; level < split && open; level++) {
            const int function = level ? second : first;
            const int at = function * MOST_OPTIONS + (level ? task % seconds : task / seconds);
            lost += rows.loss[at];
            if (lost > walk.slack && level == 0 && lane == 0) atomicMax(&incumbent.next_task, firsts * seconds);
            open = lost <= walk.slack && fits(room, rows.load[at]);
            room = room - rows.load[at] + problem.least[problem.function[level + 1]];
            gained += rows.gain[at];
            if (lane == function) walk.current = rows.option[at];
        }
        if (!open) continue;
        if (problem.last == 0) finish(walk, rows, problem, incumbent, lane == 0, root, 0, -1, 0);
        else descend(walk, rows, problem, incumbent, split, room, lost, gained, steps, step_limit);
    }
    return steps;
}

// Problem p has functions[p] functions of options[p] options each, whose `gains` (above the least of their function) and
// `loads` (packed weights; DROPPED where an option does not fit alone) start at starts[p]. Out: best[p] the greatest gain
// or -1, choices[p] (MOST_FUNCTIONS per problem; -1: none), steps[p] nodes expanded, stopped[p] 1 if a limit was
// reached and the answer is not proven. Dynamic shared memory: 17 bytes per place, 64 places per function.
extern "C" __global__ void __launch_bounds__(256, 4)
joint_search(const int* __restrict__ functions, const int* __restrict__ options, const long long* __restrict__ starts,
             const int* __restrict__ gains, const u64* __restrict__ loads, const u64* __restrict__ capacities,
             unsigned step_limit, int* __restrict__ best, signed char* __restrict__ choices, unsigned* __restrict__ steps,
             unsigned char* __restrict__ stopped) {
    extern __shared__ u64 places[];
    __shared__ Problem problem;
    __shared__ Workspace work;
    __shared__ Incumbent incumbent;
    __shared__ unsigned expanded;
    const int p = blockIdx.x, n = functions[p], k = options[p];
    const long long start = starts[p];
    Rows rows;
    rows.load = places;
    rows.gain = reinterpret_cast<int*>(rows.load + n * MOST_OPTIONS);
    rows.loss = rows.gain + n * MOST_OPTIONS;
    rows.option = reinterpret_cast<unsigned char*>(rows.loss + n * MOST_OPTIONS);
    for (int at = threadIdx.x; at < n * MOST_OPTIONS; at += blockDim.x) {
        const int i = at / MOST_OPTIONS, option = at % MOST_OPTIONS;
        const bool present = option < k;
        rows.load[at] = present ? loads[start + i * k + option] : DROPPED;
        rows.gain[at] = present ? gains[start + i * k + option] : 0;
    }
    if (threadIdx.x < MOST_FUNCTIONS) incumbent.choice[threadIdx.x] = -1;
    if (threadIdx.x == 0) {
        problem.functions = n;
        problem.capacity = capacities[p];
        incumbent.best = -1;
        incumbent.lock = incumbent.next_task = incumbent.stopped = 0;
        expanded = 0;
    }
    __syncthreads();
    if (prepare(rows, problem, work, incumbent)) {
        const unsigned mine = search(rows, problem, incumbent, step_limit);
        if (threadIdx.x % LANES == 0) atomicAdd(&expanded, mine);
    }
    __syncthreads();
    if (threadIdx.x < MOST_FUNCTIONS)
        choices[p * MOST_FUNCTIONS + threadIdx.x] = static_cast<signed char>(incumbent.choice[threadIdx.x]);
    if (threadIdx.x == 0) {
        best[p] = incumbent.best;
        steps[p] = expanded;
        stopped[p] = static_cast<unsigned char>(incumbent.stopped);
    }
}
