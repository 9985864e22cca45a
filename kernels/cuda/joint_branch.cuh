// Branch and bound by warps that share the work of all problems: what one warp does with one item of a queue.
//
// An item is a node of a problem's tree. A warp searches the tree below it depth first. It expands a node with all lanes at
// once, two options each; the state of the node of level d waits in the registers of lane d. The last two levels are one
// step: for each option left of the last but one, every lane tests its options of the last level, which are sorted by
// descending gain, so the first that fits is the best. A warp that has expanded `budget` nodes gives the open nodes of
// its upper levels to the queue of the next round, where any warp of the GPU takes them.
//
// Of equal answers the first in lexicographic order of original option numbers wins, whatever order warps find them in:
// a node that can at best tie is followed only while its first completion precedes the incumbent.
#pragma once

#include "joint_warp.cuh"

// Nodes of a problem that can only tie before it goes to the CPU, which has a way to the first of many ties.
constexpr unsigned TIE_LIMIT = 1000;

// Levels above the last whose nodes are worth an item: the first time that a warp shares, and after.
constexpr int SHARED_FIRST = 5, SHARED_NEXT = 4;

// Items of the next round.
struct Queue {
    Item* items;
    unsigned* count;  // may exceed the capacity
    unsigned capacity;
};

// What a warp knows of the problem of its item.
struct Walk {
    const Tree* tree;      // in shared memory
    Incumbent* incumbent;  // in global memory
    int best, slack;             // gain of the incumbent it last saw, and the loss that leaves
    int held_best, held_choice;  // an incumbent, lane i holding the choice of function i
    int position;                // of the option chosen on level `lane`
    u64 last_load[2];            // the last level, places lane and lane + 32
    int last_gain[2];
};

__device__ __forceinline__ int lane_id() { return threadIdx.x % LANES; }

__device__ __forceinline__ int read_now(const int* where) { return *reinterpret_cast<const volatile int*>(where); }

// Lane 0 reads for all, so that no two lanes act on different values.
__device__ __forceinline__ int read_by_all(const int* where) {
    return __shfl_sync(ALL_LANES, lane_id() == 0 ? read_now(where) : 0, 0);
}

__device__ __forceinline__ void take_best(Walk& walk, int best) {
    walk.best = best;
    walk.slack = int((walk.tree->bound - static_cast<long long>(best) * (1ll << UNIT_BITS)) >> walk.tree->shift);
}

__device__ __forceinline__ void lock(Incumbent& incumbent) {
    if (lane_id() == 0)
        while (atomicCAS(&incumbent.lock, 0, 1) != 0) {
        }
    __syncwarp();
    __threadfence();
}

__device__ __forceinline__ void unlock(Incumbent& incumbent) {
    __threadfence();
    __syncwarp();
    if (lane_id() == 0) atomicExch(&incumbent.lock, 0);
    __syncwarp();
}

// Whether the choice that lanes hold comes before another: lexicographic, lane i being function i.
__device__ __forceinline__ bool comes_before(int choice, int other, int functions) {
    const unsigned less = __ballot_sync(ALL_LANES, lane_id() < functions && choice < other);
    const unsigned more = __ballot_sync(ALL_LANES, lane_id() < functions && choice > other);
    const unsigned differs = less | more;
    return less & (differs & (0u - differs));
}

__device__ void hold_incumbent(Walk& walk) {
    lock(*walk.incumbent);
    walk.held_best = read_by_all(&walk.incumbent->best);
    walk.held_choice = lane_id() < MOST_FUNCTIONS ? read_now(&walk.incumbent->choice[lane_id()]) : 0;
    unlock(*walk.incumbent);
}

// The choice of a node of `level`, lane i holding that of function i: its first option where still open.
__device__ __forceinline__ int choice_above(const Walk& walk, const Rows& rows, int level) {
    const int lane = lane_id();
    const bool present = lane < walk.tree->functions;
    const int own_level = present ? walk.tree->level[lane] : 0;
    const int position = __shfl_sync(ALL_LANES, walk.position, own_level);
    if (!present) return 0;
    return own_level < level ? rows.option[own_level * MOST_OPTIONS + position] : walk.tree->first_option[lane];
}

// Whether this lane's `option` of `function` can complete `current` to a choice that precedes the held one.
__device__ bool precedes(const Walk& walk, int current, int function, int option) {
    const int lane = lane_id(), functions = walk.tree->functions;
    const unsigned less = __ballot_sync(ALL_LANES, lane < functions && current < walk.held_choice);
    const unsigned more = __ballot_sync(ALL_LANES, lane < functions && current > walk.held_choice);
    const int held = __shfl_sync(ALL_LANES, walk.held_choice, function);
    const unsigned differs = less | more, before = differs & ((1u << function) - 1), after = differs & ~((2u << function) - 1);
    if (before) return less & (before & (0u - before));
    if (option != held) return option < held;
    return less & (after & (0u - after));
}

// A choice of gain `total`, lane i holding that of function i, becomes the incumbent where it is better.
__device__ void offer(Walk& walk, int total, int choice) {
    const int lane = lane_id(), functions = walk.tree->functions;
    Incumbent& incumbent = *walk.incumbent;
    lock(incumbent);
    const int best = read_by_all(&incumbent.best);
    int held = lane < MOST_FUNCTIONS ? read_now(&incumbent.choice[lane]) : 0;
    const bool first = comes_before(choice, held, functions);
    if (total > best || (total == best && first)) {
        held = choice;
        if (lane < functions) *static_cast<volatile int*>(&incumbent.choice[lane]) = choice;
        if (lane == 0) *static_cast<volatile int*>(&incumbent.best) = total;
    }
    walk.held_best = max(total, best);
    walk.held_choice = held;
    unlock(incumbent);
    take_best(walk, walk.held_best);
}

// The best option of the last level below a node of `gained` and `room`: the first that fits.
__device__ __forceinline__ void finish(Walk& walk, const Rows& rows, u64 room, int gained) {
    const int needed = walk.best - gained;
    int at = 0;
    unsigned fitting = __ballot_sync(ALL_LANES, walk.last_gain[0] >= needed && fits(room, walk.last_load[0]));
    if (!fitting) {
        at = LANES;
        fitting = __ballot_sync(ALL_LANES, walk.last_gain[1] >= needed && fits(room, walk.last_load[1]));
        if (!fitting) return;
    }
    const int last = walk.tree->last;
    at += __ffs(fitting) - 1;
    if (lane_id() == last) walk.position = at;
    const int total = gained + rows.gain[last * MOST_OPTIONS + at], choice = choice_above(walk, rows, last + 1);
    if (total == walk.best) {
        if (walk.held_best != walk.best) hold_incumbent(walk);
        if (walk.held_best > total || (walk.held_best == total && !comes_before(choice, walk.held_choice, walk.tree->functions)))
            return;
    }
    offer(walk, total, choice);
}

// The nodes waiting on the levels from..to of this warp.
struct Waiting {
    u64 open;  // places of the options of the node of level `lane` that are yet to be followed
    u64 room;
    int lost, gained;
};

// Gives the waiting nodes to the queue, as far as it has room.
__device__ __forceinline__ void share(const Walk& walk, const Rows& rows, Waiting& waiting, int problem, int from, int to, Queue queue) {
    const int lane = lane_id();
    for (int level = from; level <= to; level++) {
        u64 rest = __shfl_sync(ALL_LANES, waiting.open, level);
        const int count = __popcll(rest);
        if (count == 0) continue;
        unsigned start = 0;
        if (lane == 0) start = atomicAdd(queue.count, count);
        start = __shfl_sync(ALL_LANES, start, 0);
        const bool full = start + count > queue.capacity;
        const u64 room = __shfl_sync(ALL_LANES, waiting.room, level);
        const int lost = __shfl_sync(ALL_LANES, waiting.lost, level), gained = __shfl_sync(ALL_LANES, waiting.gained, level);
        for (unsigned at = start; rest && at < queue.capacity; rest &= rest - 1, at++) {
            const int k = __ffsll(rest) - 1, place = level * MOST_OPTIONS + k;
            Item& item = queue.items[at];
            if (lane < MOST_FUNCTIONS) item.position[lane] = static_cast<unsigned char>(lane == level ? k : walk.position);
            if (lane == 0) {
                item.problem = full ? -1 : problem;
                item.level = level + 1;
                item.room = room - rows.load[place] + walk.tree->least[level + 1];
                item.lost = lost + rows.loss[place];
                item.gained = gained + rows.gain[place];
            }
        }
        if (!full && lane == level) waiting.open = 0;
        if (full) return;
    }
}

// Adds to the counts of a problem. True: it has reached a limit, and goes to the CPU.
__device__ bool report(Incumbent& incumbent, unsigned steps, unsigned ties, unsigned step_limit) {
    int stop = 0;
    if (lane_id() == 0) {
        stop = atomicAdd(&incumbent.steps, steps) + steps > step_limit;
        if (ties) stop |= atomicAdd(&incumbent.ties, ties) + ties > TIE_LIMIT;
        if (stop) atomicExch(&incumbent.stopped, 1);
        stop |= read_now(&incumbent.stopped);
    }
    return __shfl_sync(ALL_LANES, stop, 0);
}

// The options of a node of `level` that may lead to a better answer, and of equal ones to the first: bit k is place k.
__device__ __forceinline__ u64 open_options(Walk& walk, const Rows& rows, int level, u64 room, int lost) {
    const int row = level * MOST_OPTIONS, count = walk.tree->count[level], sure = walk.slack - walk.tree->unit;
    unsigned opened[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (half * LANES >= count) break;
        const int k = half * LANES + lane_id(), after = lost + rows.loss[row + k];
        bool open = k < count && after <= walk.slack && fits(room, rows.load[row + k]);
        if (__any_sync(ALL_LANES, open && after > sure)) {
            if (walk.held_best != walk.best) hold_incumbent(walk);
            const int current = choice_above(walk, rows, level);
            const bool first = precedes(walk, current, walk.tree->function[level], open ? rows.option[row + k] : 0);
            if (after > sure && walk.held_best == walk.best && !first) open = false;
        }
        opened[half] = __ballot_sync(ALL_LANES, open);
    }
    return u64(opened[1]) << LANES | opened[0];
}

// Searches below a node of the last level but one.
__device__ __forceinline__ void search_pairs(Walk& walk, const Rows& rows, u64 room, int lost, int gained) {
    const int level = walk.tree->last - 1, row = level * MOST_OPTIONS;
    const u64 beside = room + walk.tree->least[level + 1];
    for (u64 rest = open_options(walk, rows, level, room, lost); rest; rest &= rest - 1) {
        const int k = __ffsll(rest) - 1;
        if (lane_id() == level) walk.position = k;
        finish(walk, rows, beside - rows.load[row + k], gained + rows.gain[row + k]);
    }
}

// Searches the tree below an item whose rows and tree are in shared memory.
__device__ void descend(Walk& walk, const Rows& rows, const Item& item, Queue queue, unsigned budget, unsigned step_limit) {
    const int lane = lane_id(), last = walk.tree->last, split = item.level;
    Waiting waiting{0, 0, 0, 0};
    u64 room = item.room, open = 0;
    int lost = item.lost, gained = item.gained, level = split, shared = SHARED_FIRST;
    unsigned ties = 0, steps = 0;
    int newest = walk.best;
    bool fresh = true;
    if (last == 0) finish(walk, rows, room, gained);
    while (last > 0) {
        const int row = level * MOST_OPTIONS;
        if (fresh) {
            fresh = false;
            const int best = __shfl_sync(ALL_LANES, newest, 0);
            newest = read_now(&walk.incumbent->best);  // for the next node, so that nothing waits for it
            if (best > walk.best) take_best(walk, best);
            ties += lost > walk.slack - walk.tree->unit;
            if (++steps >= budget || ties > TIE_LIMIT) {
                if (report(*walk.incumbent, steps, ties, step_limit)) return;
                steps = ties = 0;
                share(walk, rows, waiting, item.problem, split, min(level - 1, last - shared), queue);
                shared = SHARED_NEXT;
            }
            if (level == last - 1) search_pairs(walk, rows, room, lost, gained);
            else open = open_options(walk, rows, level, room, lost);
        }
        const int k = __ffsll(open) - 1;
        if (open == 0 || lost + rows.loss[row + k] > walk.slack) {  // by ascending loss: nothing after k either
            if (level == split) break;
            level--;
            open = __shfl_sync(ALL_LANES, waiting.open, level), room = __shfl_sync(ALL_LANES, waiting.room, level);
            lost = __shfl_sync(ALL_LANES, waiting.lost, level), gained = __shfl_sync(ALL_LANES, waiting.gained, level);
            continue;
        }
        open &= open - 1;
        if (lane == level) walk.position = k;
        const u64 room_below = room - rows.load[row + k] + walk.tree->least[level + 1];
        const int lost_below = lost + rows.loss[row + k], gained_below = gained + rows.gain[row + k];
        if (level == last - 2) {
            steps++;
            search_pairs(walk, rows, room_below, lost_below, gained_below);
            continue;
        }
        if (lane == level) waiting = {open, room, lost, gained};
        level++;
        room = room_below, lost = lost_below, gained = gained_below;
        fresh = true;
    }
    report(*walk.incumbent, steps, ties, step_limit);
}
