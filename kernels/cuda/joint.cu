// The exact joint search on a GPU. Same answers as kernels/cpu.
//
// `joint_prepare`: one block per problem reduces, prices and sorts, and leaves the problem, its first incumbent and the root
// of its tree in global memory. `joint_round`, launched several times in turn: warps draw items (nodes) of any problem from
// one queue, search below each for a budget of nodes, and leave what is open to the queue of the next round. So a problem
// with a large tree spreads over the whole GPU, and no warp waits for another. The
// last round gives nothing away.

#include "joint_branch.cuh"
#include "joint_prepare.cuh"

static_assert(sizeof(Tree) == 408 && sizeof(Incumbent) == 84 && sizeof(Item) == 40, "joint.py allocates these sizes");

// Most items that a warp draws at once. Neighbours in the queue are mostly of one problem, whose rows are then read once.
constexpr unsigned MOST_TOGETHER = 8;

// The places of `functions` functions at `at`: 17 bytes each.
__device__ __forceinline__ Rows rows_at(u64* at, int functions) {
    Rows rows;
    rows.load = at;
    rows.gain = reinterpret_cast<int*>(rows.load + functions * MOST_OPTIONS);
    rows.loss = rows.gain + functions * MOST_OPTIONS;
    rows.option = reinterpret_cast<unsigned char*>(rows.loss + functions * MOST_OPTIONS);
    return rows;
}

// Problem p has functions[p] functions of options[p] options each, whose `gains` (above the least of their function) and
// `loads` (packed weights; DROPPED where an option does not fit alone) start at starts[p]. Out: trees[p], its rows at
// p * words of `prepared`, incumbents[p] and items[p], the root. pushed[r] and drawn[r], r < rounds, count items of round
// r. Dynamic shared memory: 17 bytes per place, 64 places per function.
extern "C" __global__ void __launch_bounds__(128, 8)
joint_prepare(const int* __restrict__ functions, const int* __restrict__ options, const long long* __restrict__ starts,
              const int* __restrict__ gains, const u64* __restrict__ loads, const u64* __restrict__ capacities,
              Tree* __restrict__ trees, u64* __restrict__ prepared, int words, Incumbent* __restrict__ incumbents,
              Item* __restrict__ items, unsigned* __restrict__ pushed, unsigned* __restrict__ drawn, int rounds) {
    extern __shared__ u64 places[];
    __shared__ Problem problem;
    __shared__ Workspace work;
    __shared__ int first_best, first_choice[MOST_FUNCTIONS];
    const int p = blockIdx.x, n = functions[p], k = options[p];
    const long long start = starts[p];
    const Rows rows = rows_at(places, n);
    if (p == 0)
        for (int r = threadIdx.x; r < rounds; r += blockDim.x) {
            pushed[r] = r ? 0 : gridDim.x;
            drawn[r] = 0;
        }
    for (int at = threadIdx.x; at < n * MOST_OPTIONS; at += blockDim.x) {
        const int i = at / MOST_OPTIONS, option = at % MOST_OPTIONS;
        const bool present = option < k;
        rows.load[at] = present ? loads[start + i * k + option] : DROPPED;
        rows.gain[at] = present ? gains[start + i * k + option] : 0;
    }
    if (threadIdx.x < MOST_FUNCTIONS) first_choice[threadIdx.x] = -1;
    if (threadIdx.x == 0) {
        problem.functions = n;
        problem.capacity = capacities[p];
        first_best = -1;
    }
    __syncthreads();
    const bool possible = prepare(rows, problem, work, first_best, first_choice);
    __syncthreads();
    Incumbent& incumbent = incumbents[p];
    if (threadIdx.x < MOST_FUNCTIONS) incumbent.choice[threadIdx.x] = first_choice[threadIdx.x];
    if (threadIdx.x == 0) {
        incumbent.best = first_best;
        incumbent.lock = incumbent.stopped = 0;
        incumbent.steps = incumbent.ties = 0;
        items[p].problem = possible ? p : -1;
    }
    if (!possible) return;
    Tree& tree = trees[p];
    for (int level = threadIdx.x; level < n; level += blockDim.x) {
        const int i = problem.function[level];
        tree.function[level] = i;
        tree.level[i] = level;
        tree.count[level] = problem.count[i];
        tree.least[level] = problem.least[i];
        tree.first_option[i] = problem.first_option[i];
    }
    if (threadIdx.x == 0) {
        tree.bound = problem.bound;
        tree.shift = problem.shift;
        tree.unit = problem.shift <= UNIT_BITS ? 1 << (UNIT_BITS - problem.shift) : 0;
        tree.functions = n;
        tree.last = n - 1;
        u64 room = problem.capacity;
        for (int level = 1; level < n; level++) room -= problem.least[problem.function[level]];
        items[p].room = room;
        items[p].level = items[p].lost = items[p].gained = 0;
    }
    const Rows out = rows_at(prepared + static_cast<long long>(p) * words, n);
    for (int at = threadIdx.x; at < n * MOST_OPTIONS; at += blockDim.x) {
        const int i = problem.function[at / MOST_OPTIONS], option = at % MOST_OPTIONS, from = i * MOST_OPTIONS + option;
        if (option >= problem.count[i]) continue;
        out.load[at] = rows.load[from], out.gain[at] = rows.gain[from];
        out.loss[at] = rows.loss[from], out.option[at] = rows.option[from];
    }
}

// Searches the `items` (at most `capacity`) of round `round`, and puts what is open after `budget` nodes into `next`, which
// has room for `next_capacity`. One warp per block. Dynamic shared memory as above.
extern "C" __global__ void __launch_bounds__(32, 20)
joint_round(const Tree* __restrict__ trees, const u64* __restrict__ prepared, int words, Incumbent* incumbents,
            const Item* __restrict__ items, unsigned capacity, Item* __restrict__ next, unsigned next_capacity,
            unsigned* pushed, unsigned* drawn, int round, unsigned budget, unsigned step_limit) {
    extern __shared__ __align__(16) u64 places[];
    __shared__ Tree tree;
    const int lane = threadIdx.x;
    const unsigned count = min(pushed[round], capacity);
    const unsigned together = min(MOST_TOGETHER, max(1u, count / (8 * gridDim.x)));
    unsigned at = 0, end = 0;
    int staged = -1;
    for (;; at++) {
        if (at == end) {
            if (lane == 0) at = atomicAdd(&drawn[round], together);
            at = __shfl_sync(ALL_LANES, at, 0);
            if (at >= count) return;
            end = min(at + together, count);
        }
        const Item& item = items[at];
        const int p = item.problem;
        if (p < 0) continue;
        if (read_by_all(&incumbents[p].stopped)) continue;
        Walk walk;
        walk.tree = &tree;
        walk.incumbent = &incumbents[p];
        const int best = read_by_all(&incumbents[p].best);
        const long long slack = trees[p].bound - static_cast<long long>(best) * (1ll << UNIT_BITS);
        if (item.lost > int(slack >> trees[p].shift)) continue;
        const int n = trees[p].functions;
        const Rows rows = rows_at(places, n);
        __syncwarp();
        if (staged != p) {
            const u64* tree_words = reinterpret_cast<const u64*>(&trees[p]);
            for (int word = lane; word < int(sizeof(Tree) / 8); word += LANES)
                reinterpret_cast<u64*>(&tree)[word] = tree_words[word];
            const ulonglong2* from = reinterpret_cast<const ulonglong2*>(prepared + static_cast<long long>(p) * words);
#pragma unroll 8
            for (int pair = lane; pair < n * (17 * MOST_OPTIONS / 16); pair += LANES)
                reinterpret_cast<ulonglong2*>(places)[pair] = from[pair];
            staged = p;
        }
        __syncwarp();
        take_best(walk, best);
        walk.held_best = -2;
        walk.held_choice = 0;
        walk.position = lane < MOST_FUNCTIONS ? item.position[lane] : 0;
        for (int half = 0; half < 2; half++) {
            const int k = half * LANES + lane, place = tree.last * MOST_OPTIONS + k;
            const bool present = k < tree.count[tree.last];
            walk.last_load[half] = present ? rows.load[place] : DROPPED;
            walk.last_gain[half] = present ? rows.gain[place] : -1;
        }
        descend(walk, rows, item, {next, &pushed[round + 1], next_capacity}, budget, step_limit);
    }
}
