// What a block does before it branches: the reductions, prices and sorting of kernels/cpu/joint_prepare.py.
//
// Prices, and with them losses and the order of levels, may differ from the CPU's by rounding; the answer does not depend
// on them, since the search proves it in integers. A warp takes the functions warp, warp + warps, ...; a lane the options
// lane and lane + 32. Losses are scaled to `UNIT` per one of value in 64 bits and kept shifted down to 32: a sum of
// numbers rounded down is at most their sum rounded down, so no answer is lost.
#pragma once

#include "joint_warp.cuh"

constexpr int LOSS_BITS = 26, STEPS = 60, PATIENCE = 4;

struct Workspace {
    float top[2][MOST_FUNCTIONS];  // two copies in turn: one is read while the other is written
    int pick[2][MOST_FUNCTIONS];
    u64 rise[2][MOST_WARPS];
    long long tops[MOST_FUNCTIONS];
    int runner_up[MOST_FUNCTIONS];
};

// Whether the lightest of all functions fit together; what they leave goes to `room`.
__device__ bool together(const Problem& problem, u64& room) {
    room = problem.capacity;
    for (int i = 0; i < problem.functions; i++) {
        if (!fits(room, problem.least[i])) return false;
        room -= problem.least[i];
    }
    return true;
}

// Drops options that do not fit beside the lightest of all other functions. False: nothing fits.
__device__ bool reachable(const Rows& rows, Problem& problem) {
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    for (;;) {
        for (int i = warp; i < problem.functions; i += warps) {
            const u64 a = rows.load[i * MOST_OPTIONS + lane], b = rows.load[i * MOST_OPTIONS + LANES + lane];
            const unsigned first = warp_min(min(field(a, 0), field(b, 0)));
            const unsigned second = warp_min(min(field(a, SECOND), field(b, SECOND)));
            const unsigned third = warp_min(min(field(a, THIRD), field(b, THIRD)));
            const bool any = __any_sync(ALL_LANES, a != DROPPED || b != DROPPED);
            if (lane == 0) problem.least[i] = any ? packed(first, second, third) : DROPPED;
        }
        __syncthreads();
        u64 room;
        if (!together(problem, room)) return false;
        bool dropped = false;
        for (int at = threadIdx.x; at < problem.functions * MOST_OPTIONS; at += blockDim.x) {
            if (rows.load[at] == DROPPED || fits(room + problem.least[at / MOST_OPTIONS], rows.load[at])) continue;
            rows.load[at] = DROPPED;
            dropped = true;
        }
        if (!__syncthreads_or(dropped)) return true;
    }
}

// Subgradient steps to good prices (see kernels/cpu/joint_multipliers.py). Every warp follows the same steps. Lane i
// receives the position chosen for function i; returns its gain, or -1 where no choice that fits was met.
__device__ int tighten(const Rows& rows, const Problem& problem, Workspace& work, float prices[3], int& chosen) {
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    const int n = problem.functions;
    const unsigned c0 = field(problem.capacity, 0), c1 = field(problem.capacity, SECOND), c2 = field(problem.capacity, THIRD);
    const float s0 = c0 ? 1.0f / float(c0) : 0.0f, s1 = c1 ? 1.0f / float(c1) : 0.0f, s2 = c2 ? 1.0f / float(c2) : 0.0f;
    float p0 = 0.0f, p1 = 0.0f, p2 = 0.0f, least = __int_as_float(0x7f800000), known = 0.0f, length = 1.0f;
    prices[0] = prices[1] = prices[2] = 0.0f;
    chosen = -1;
    int best = -1, failed = 0;
    for (int step = 0; step < STEPS; step++) {
        const float q0 = p0 * s0, q1 = p1 * s1, q2 = p2 * s2;
        for (int i = warp; i < n; i += warps) {
            const int at = i * MOST_OPTIONS + lane;
            const u64 a = rows.load[at], b = rows.load[at + LANES];
            const float none = __int_as_float(0xff800000);
            const float reduced_a = a == DROPPED ? none : float(rows.gain[at]) - q0 * float(field(a, 0)) -
                                                              q1 * float(field(a, SECOND)) - q2 * float(field(a, THIRD));
            const float reduced_b = b == DROPPED ? none : float(rows.gain[at + LANES]) - q0 * float(field(b, 0)) -
                                                              q1 * float(field(b, SECOND)) - q2 * float(field(b, THIRD));
            const float mine = reduced_b > reduced_a ? reduced_b : reduced_a;
            const unsigned key = ordered(mine);
            const unsigned owners = __ballot_sync(ALL_LANES, key == warp_max(key));
            if (lane == __ffs(owners) - 1) {
                work.top[step & 1][i] = mine;
                work.pick[step & 1][i] = reduced_b > reduced_a ? lane + LANES : lane;
            }
        }
        __syncthreads();
        const bool present = lane < n;
        const int pick = present ? work.pick[step & 1][lane] : 0;
        const u64 load = present ? rows.load[lane * MOST_OPTIONS + pick] : 0;
        const float bound = p0 + p1 + p2 + warp_sum(present ? work.top[step & 1][lane] : 0.0f);
        const unsigned used0 = warp_add(field(load, 0)), used1 = warp_add(field(load, SECOND)), used2 = warp_add(field(load, THIRD));
        if (used0 <= c0 && used1 <= c1 && used2 <= c2) {
            const int total = warp_add(present ? rows.gain[lane * MOST_OPTIONS + pick] : 0);
            if (total > best) {
                best = total;
                known = float(total);
                chosen = pick;
            }
        }
        failed = bound < least - 1e-4f * (least - known) ? 0 : failed + 1;
        if (bound < least) {
            least = bound;
            prices[0] = p0, prices[1] = p1, prices[2] = p2;
        }
        if (failed == PATIENCE) {
            length *= 0.6f;
            failed = 0;
            p0 = prices[0], p1 = prices[1], p2 = prices[2];
            continue;
        }
        float g0 = 1.0f - float(used0) * s0, g1 = 1.0f - float(used1) * s1, g2 = 1.0f - float(used2) * s2;
        if (g0 > 0.0f && p0 == 0.0f) g0 = 0.0f;
        if (g1 > 0.0f && p1 == 0.0f) g1 = 0.0f;
        if (g2 > 0.0f && p2 == 0.0f) g2 = 0.0f;
        const float norm = g0 * g0 + g1 * g1 + g2 * g2;
        if (norm < 1e-12f || bound <= known) break;
        const float far = length * (bound - known) / norm;
        p0 = fmaxf(0.0f, p0 - far * g0), p1 = fmaxf(0.0f, p1 - far * g1), p2 = fmaxf(0.0f, p2 - far * g2);
    }
    __syncthreads();
    return best;
}

// Changes one function at a time for the greatest rise in gain that fits. Every warp follows the same changes.
__device__ int improve(const Rows& rows, const Problem& problem, Workspace& work, int best, int& chosen) {
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    const int n = problem.functions;
    for (int round = 0;; round++) {
        const u64 mine = lane < n ? rows.load[lane * MOST_OPTIONS + chosen] : 0;
        const u64 used = packed(warp_add(field(mine, 0)), warp_add(field(mine, SECOND)), warp_add(field(mine, THIRD)));
        const u64 room = problem.capacity - used;
        u64 rise = 0;  // gain above the present, then the earliest function and option
        for (int i = warp; i < n; i += warps) {
            const int present = i * MOST_OPTIONS + __shfl_sync(ALL_LANES, chosen, i);
            const u64 within = room + rows.load[present];
            for (int k = lane; k < MOST_OPTIONS; k += LANES) {
                const int at = i * MOST_OPTIONS + k, more = rows.gain[at] - rows.gain[present];
                if (more <= 0 || !fits(within, rows.load[at])) continue;
                const u64 key = u64(more) << 16 | unsigned(MOST_FUNCTIONS - 1 - i) << 8 | unsigned(MOST_OPTIONS - 1 - k);
                if (key > rise) rise = key;
            }
        }
        rise = warp_greatest(rise);
        if (lane == 0) work.rise[round & 1][warp] = rise;
        __syncthreads();
        for (int w = 0; w < warps; w++)
            if (work.rise[round & 1][w] > rise) rise = work.rise[round & 1][w];
        if (rise == 0) break;
        best += int(rise >> 16);
        if (lane == MOST_FUNCTIONS - 1 - int(rise >> 8 & 255)) chosen = MOST_OPTIONS - 1 - int(rise & 255);
    }
    __syncthreads();
    return best;
}

// Drops what loses more than the slack or is dominated, and sorts each row by loss. Function by function.
__device__ void sort_rows(const Rows& rows, Problem& problem, Workspace& work, const long long integer_price[3], long long slack) {
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    for (int i = warp; i < problem.functions; i += warps) {
        u64 load[2];
        int gain[2], loss[2], option[2], rank[2] = {0, 0};
        unsigned near[2], kept[2];
        for (int half = 0; half < 2; half++) {
            const int at = i * MOST_OPTIONS + half * LANES + lane;
            load[half] = rows.load[at], gain[half] = rows.gain[at], option[half] = half * LANES + lane;
            const long long paid = integer_price[0] * field(load[half], 0) + integer_price[1] * field(load[half], SECOND) +
                                   integer_price[2] * field(load[half], THIRD);
            const long long lacking = work.tops[i] - ((static_cast<long long>(gain[half]) << UNIT_BITS) - paid);
            near[half] = __ballot_sync(ALL_LANES, load[half] != DROPPED && lacking <= slack);
            loss[half] = int(lacking >> problem.shift);
        }
        bool keep[2] = {bool(near[0] >> lane & 1), bool(near[1] >> lane & 1)};
        for (int half = 0; half < 2; half++)
            for (unsigned rest = near[half]; rest; rest &= rest - 1) {
                const int source = __ffs(rest) - 1;
                const u64 other_load = __shfl_sync(ALL_LANES, load[half], source);
                const int other_gain = __shfl_sync(ALL_LANES, gain[half], source), other = half * LANES + source;
                for (int own = 0; own < 2; own++)
                    if ((other_gain > gain[own] || (other_gain == gain[own] && other < option[own])) && fits(load[own], other_load))
                        keep[own] = false;
            }
        kept[0] = __ballot_sync(ALL_LANES, keep[0]), kept[1] = __ballot_sync(ALL_LANES, keep[1]);
        for (int half = 0; half < 2; half++)
            for (unsigned rest = kept[half]; rest; rest &= rest - 1) {
                const int source = __ffs(rest) - 1, other = half * LANES + source;
                const int other_loss = __shfl_sync(ALL_LANES, loss[half], source);
                for (int own = 0; own < 2; own++)
                    rank[own] += other_loss < loss[own] || (other_loss == loss[own] && other < option[own]);
            }
        const u64 a = keep[0] ? load[0] : DROPPED, b = keep[1] ? load[1] : DROPPED;
        const unsigned first = warp_min(min(field(a, 0), field(b, 0)));
        const unsigned second = warp_min(min(field(a, SECOND), field(b, SECOND)));
        const unsigned third = warp_min(min(field(a, THIRD), field(b, THIRD)));
        if (lane == 0) {
            problem.count[i] = __popc(kept[0]) + __popc(kept[1]);
            problem.first_option[i] = kept[0] ? __ffs(kept[0]) - 1 : LANES + __ffs(kept[1]) - 1;
            problem.least[i] = packed(first, second, third);
            work.runner_up[i] = 0x7fffffff;
        }
        __syncwarp();
        for (int own = 0; own < 2; own++) {
            if (!keep[own]) continue;
            const int at = i * MOST_OPTIONS + rank[own];
            rows.load[at] = load[own], rows.gain[at] = gain[own], rows.loss[at] = loss[own];
            rows.option[at] = static_cast<unsigned char>(option[own]);
            if (rank[own] == 1) work.runner_up[i] = loss[own];
        }
    }
    __syncthreads();
}

// The function whose second option loses most comes first; the last level stands by descending gain.
__device__ void sort_levels(const Rows& rows, Problem& problem, const Workspace& work) {
    const int lane = threadIdx.x % LANES, n = problem.functions;
    if (threadIdx.x < unsigned(n)) {
        const int mine = work.runner_up[threadIdx.x];
        int level = 0;
        for (int other = 0; other < n; other++)
            level += work.runner_up[other] > mine || (work.runner_up[other] == mine && other < int(threadIdx.x));
        problem.function[level] = threadIdx.x;
    }
    __syncthreads();
    if (threadIdx.x < LANES) {
        const int row = problem.function[n - 1] * MOST_OPTIONS, count = problem.count[problem.function[n - 1]];
        u64 load[2];
        int gain[2], option[2], rank[2] = {0, 0};
        for (int own = 0; own < 2; own++) {
            const int at = row + own * LANES + lane;
            const bool present = own * LANES + lane < count;
            load[own] = present ? rows.load[at] : 0, gain[own] = present ? rows.gain[at] : 0;
            option[own] = present ? rows.option[at] : 0;
        }
        for (int k = 0; k < count; k++) {
            const int other_gain = rows.gain[row + k], other = rows.option[row + k];
            for (int own = 0; own < 2; own++)
                rank[own] += other_gain > gain[own] || (other_gain == gain[own] && other < option[own]);
        }
        __syncwarp();
        for (int own = 0; own < 2; own++) {
            if (own * LANES + lane >= count) continue;
            const int at = row + rank[own];
            rows.load[at] = load[own], rows.gain[at] = gain[own];
            rows.option[at] = static_cast<unsigned char>(option[own]);
        }
    }
    __syncthreads();
}

// All of it. Sets the gain and the choice (in shared memory) of the first incumbent. False: nothing fits.
__device__ bool prepare(const Rows& rows, Problem& problem, Workspace& work, int& first_best, int* first_choice) {
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    const int n = problem.functions;
    if (!reachable(rows, problem)) return false;
    float prices[3];
    int chosen, greatest = 0;
    int best = tighten(rows, problem, work, prices, chosen);
    if (best >= 0) best = improve(rows, problem, work, best, chosen);
    if (threadIdx.x == 0) first_best = best;
    if (best >= 0 && threadIdx.x < unsigned(n)) first_choice[threadIdx.x] = chosen;

    for (int i = 0; i < n; i++) {
        const u64 a = rows.load[i * MOST_OPTIONS + lane], b = rows.load[i * MOST_OPTIONS + LANES + lane];
        const int gain_a = a == DROPPED ? 0 : rows.gain[i * MOST_OPTIONS + lane];
        const int gain_b = b == DROPPED ? 0 : rows.gain[i * MOST_OPTIONS + LANES + lane];
        greatest += warp_max(max(gain_a, gain_b));
    }
    // Prices are at most four times all that can be gained, so sums of losses stay below 13 n * 2^30 * UNIT < 2^58.
    long long integer_price[3], bound = 0;
    for (int d = 0; d < 3; d++) {
        const unsigned capacity = field(problem.capacity, d * SECOND);
        const double whole = fmin(double(prices[d]), 4.0 * (double(greatest) + 1.0));
        integer_price[d] = capacity ? static_cast<long long>(whole * double(1 << UNIT_BITS) / double(capacity)) : 0;
        bound += integer_price[d] * capacity;
    }
    for (int i = warp; i < n; i += warps) {
        long long top = -1ll << 62;
        for (int k = lane; k < MOST_OPTIONS; k += LANES) {
            const u64 load = rows.load[i * MOST_OPTIONS + k];
            if (load == DROPPED) continue;
            const long long reduced = (static_cast<long long>(rows.gain[i * MOST_OPTIONS + k]) << UNIT_BITS) -
                                      integer_price[0] * field(load, 0) - integer_price[1] * field(load, SECOND) -
                                      integer_price[2] * field(load, THIRD);
            if (reduced > top) top = reduced;
        }
        top = warp_greatest(top);
        if (lane == 0) work.tops[i] = top;
    }
    __syncthreads();
    for (int i = 0; i < n; i++) bound += work.tops[i];
    const long long slack = bound - static_cast<long long>(best) * (1ll << UNIT_BITS);
    if (threadIdx.x == 0) {
        problem.bound = bound;
        problem.shift = max(0, 64 - __clzll(slack) - LOSS_BITS);
    }
    __syncthreads();
    sort_rows(rows, problem, work, integer_price, slack);
    u64 room;
    if (!together(problem, room)) return false;  // no answer was known, and there is none
    sort_levels(rows, problem, work);
    return true;
}
