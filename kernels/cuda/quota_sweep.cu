// The quota sweep of kernels/cpu/quota_sweep.py: one warp per search (row, quantile, budget), one lane per batch.
//
// Each lane inverts the roofline at its batch, which prunes the row of the grid below, and walks up from there to its
// first feasible share. The warp keeps the best efficacy found; a lane that falls behind it by more than a tie stops.
// Every comparison is made on the bits that the CPU path computes, so both choose the same cell (quota_point.cuh).
//
// models (R, 6); covariances (R, 21) or null where the mean decides; errors (R, 3); levels (R, Q); budgets (R, N);
// searches are numbered (row * Q + quantile) * N + budget, of which this launch does [first, first + count).

#include "quota_point.cuh"

using namespace quota;

constexpr unsigned ALL = 0xffffffffu;
constexpr int WARP = 32;

__device__ __forceinline__ double warp_max(double value) {
    for (int step = WARP / 2; step > 0; step /= 2) value = fmax(value, __shfl_xor_sync(ALL, value, step));
    return value;
}

// The row and the question of one search.
struct Search {
    int row;
    double level, budget;

    __device__ __forceinline__ Search(long long search, const double* levels, const double* budgets, int Q, int N)
        : row(static_cast<int>(search / (static_cast<long long>(Q) * N))),
          level(levels[search / N]),
          budget(budgets[static_cast<long long>(row) * N + search % N]) {}
};

// chosen[2 * k]: indices of batch and share of search first + k, or -1; evaluated[row] grows by the evaluations made.
// Shared memory: a double and an int per warp and batch.
extern "C" __global__ void __launch_bounds__(128) sweep_best(
    const double* __restrict__ models, const double* __restrict__ covariances, const double* __restrict__ errors,
    const double* __restrict__ levels, const double* __restrict__ budgets, const double* __restrict__ batches,
    const double* __restrict__ shares, const double* __restrict__ log_shares, int with_bound, int Q, int N, int n_batches,
    int n_shares, long long first, long long count, int* __restrict__ chosen, unsigned long long* __restrict__ evaluated) {
    extern __shared__ double held[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    double* efficacy = held + warp * n_batches;
    int* least = reinterpret_cast<int*>(held + warps * n_batches) + warp * n_batches;
    const long long k = static_cast<long long>(blockIdx.x) * warps + warp;
    if (k >= count) return;  // the whole warp

    const Search search(first + k, levels, budgets, Q, N);
    const Row row(models + 6ll * search.row);
    const Bound bound(
        with_bound ? covariances + static_cast<long long>(TRIANGLE) * search.row : nullptr, search.level,
        errors + 3ll * search.row);
    const double mean_budget = fmin(search.budget / bound.least_factor(), WIDEST_BUDGET_MS);
    double best = 0.0;
    unsigned looked = 0;
    for (int base = 0; base < n_batches; base += WARP) {
        const int i = base + lane;
        const bool exists = i < n_batches;
        const Batch batch(row, batches[exists ? i : 0]);
        const double first_milli = 1000.0 * least_share_at(row, batch, mean_budget);
        const double most = first_milli > shares[n_shares - 1] ? 0.0 : 1e6 * batch.size / (mean_budget * first_milli);
        bool walking = exists && most != 0.0 && !(most < best * LOSES);
        int j = first_at_least(first_milli, shares, n_shares);
        if (exists) {
            efficacy[i] = 0.0;
            least[i] = -1;
            looked += 1;
        }
        while (__any_sync(ALL, walking)) {
            if (walking) {
                if (j >= n_shares) {
                    walking = false;
                } else {
                    const double latency = latency_at(row, batch, log_shares[j]);
                    const double gain = 1e6 * batch.size / (latency * shares[j]);
                    looked += 1;
                    if (gain < best * LOSES) {
                        walking = false;
                    } else if (
                        latency <= mean_budget && upper_at(row, bound, batch, log_shares[j], latency) <= search.budget) {
                        least[i] = j;
                        efficacy[i] = gain;
                        walking = false;
                    } else {
                        j += 1;
                    }
                }
            }
            best = fmax(best, warp_max(exists ? efficacy[i] : 0.0));
        }
    }

    int key = 0x7fffffff;  // the least share, then the smallest batch, of those that tie with the best
    for (int i = lane; i < n_batches; i += WARP)
        if (least[i] >= 0 && efficacy[i] >= best * (1.0 - TIE)) key = min(key, least[i] * n_batches + i);
    for (int step = WARP / 2; step > 0; step /= 2) {
        key = min(key, __shfl_xor_sync(ALL, key, step));
        looked += __shfl_xor_sync(ALL, looked, step);
    }
    if (lane == 0) {
        const bool found = key != 0x7fffffff;
        chosen[2 * k] = found ? key % n_batches : -1;
        chosen[2 * k + 1] = found ? key / n_batches : -1;
        atomicAdd(evaluated + search.row, static_cast<unsigned long long>(looked));
    }
}

// One thread per search, after sweep_best: limit[k], the index of the limit at which the chosen batch saturates, or -1.
extern "C" __global__ void __launch_bounds__(128) sweep_limit(
    const double* __restrict__ models, const double* __restrict__ batches, const double* __restrict__ limits,
    const double* __restrict__ log_limits, double saturation, int Q, int N, int n_limits, long long first, long long count,
    const int* __restrict__ chosen, int* __restrict__ limit) {
    const long long k = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (k >= count) return;
    const int i = chosen[2 * k];
    int saturates = -1;
    if (i >= 0) {
        const Row row(models + 6 * ((first + k) / (static_cast<long long>(Q) * N)));
        saturates = saturating_limit(row, Batch(row, batches[i]), saturation, limits, log_limits, n_limits);
    }
    limit[k] = saturates;
}

// One thread per search, after sweep_best: predicted[2 * k], latency and upper bound of the chosen cell.
extern "C" __global__ void __launch_bounds__(128, 5) sweep_predict(
    const double* __restrict__ models, const double* __restrict__ covariances, const double* __restrict__ errors,
    const double* __restrict__ levels, const double* __restrict__ budgets, const double* __restrict__ batches,
    const double* __restrict__ log_shares, int with_bound, int Q, int N, long long first, long long count,
    const int* __restrict__ chosen, double* __restrict__ predicted) {
    const long long k = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (k >= count) return;
    const int i = chosen[2 * k];
    double latency = __longlong_as_double(0x7ff8000000000000ll), upper = latency;
    if (i >= 0) {
        const Search search(first + k, levels, budgets, Q, N);
        const Row row(models + 6ll * search.row);
        const Batch batch(row, batches[i]);
        const Bound bound(
            with_bound ? covariances + static_cast<long long>(TRIANGLE) * search.row : nullptr, search.level,
            errors + 3ll * search.row);
        const double log_share = log_shares[chosen[2 * k + 1]];
        latency = latency_at(row, batch, log_share);
        upper = upper_at(row, bound, batch, log_share, latency);
    }
    predicted[2 * k] = latency;
    predicted[2 * k + 1] = upper;
}

// What a walk down the batches of one share finds: the front's batch (-1: none), its latency and throughput, the
// greatest feasible throughput, and the least throughput that the walk went past.
struct Rung {
    int batch;
    double latency, throughput, most, lowest;
};

// The smallest batch that ties with the greatest feasible throughput at share j, if that exceeds `top`.
__device__ __forceinline__ Rung walk_down(
    const Row& row, const Bound& bound, const double* batches, const double* log_work, const double* log_floor,
    const double* first_milli, double mean_budget, double budget, double share, double log_share, double top, int n_batches,
    unsigned& looked) {
    Rung rung{-1, 0.0, 0.0, 0.0, 1e300};
    for (int i = n_batches - 1; i >= 0; i--) {
        if (first_milli[i] > share) continue;
        const Batch batch(batches[i], log_work[i], log_floor[i]);
        const double latency = latency_at(row, batch, log_share);
        const double throughput = 1000.0 * batch.size / latency;
        looked += 1;
        if (throughput < rung.most * (1.0 - TIE) || throughput <= top * (1.0 + TIE)) break;
        rung.lowest = fmin(rung.lowest, throughput);
        if (latency > mean_budget || upper_at(row, bound, batch, log_share, latency) > budget) continue;
        rung.batch = i;
        rung.latency = latency;
        rung.throughput = throughput;
        rung.most = fmax(rung.most, throughput);
    }
    return rung;
}

// The Pareto front of throughput over request of each search: fronts[k * n_shares + j], the batch at share j or -1, and
// latencies[...] there. One warp per search, one lane per share: the lanes walk their shares side by side from the
// throughput reached before; then each in turn joins the front, walking anew where that throughput matters.
// Shared memory: three doubles per warp and batch.
extern "C" __global__ void __launch_bounds__(128) sweep_fronts(
    const double* __restrict__ models, const double* __restrict__ covariances, const double* __restrict__ errors,
    const double* __restrict__ levels, const double* __restrict__ budgets, const double* __restrict__ batches,
    const double* __restrict__ shares, const double* __restrict__ log_shares, int with_bound, int Q, int N, int n_batches,
    int n_shares, long long first, long long count, short* __restrict__ fronts, double* __restrict__ latencies,
    unsigned long long* __restrict__ evaluated) {
    extern __shared__ double held[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    double* log_work = held + 3 * warp * n_batches;
    double *log_floor = log_work + n_batches, *first_milli = log_floor + n_batches;
    const long long k = static_cast<long long>(blockIdx.x) * warps + warp;
    if (k >= count) return;  // the whole warp

    const Search search(first + k, levels, budgets, Q, N);
    const Row row(models + 6ll * search.row);
    const Bound bound(
        with_bound ? covariances + static_cast<long long>(TRIANGLE) * search.row : nullptr, search.level,
        errors + 3ll * search.row);
    const double mean_budget = fmin(search.budget / bound.least_factor(), WIDEST_BUDGET_MS);
    unsigned looked = 0;
    for (int i = lane; i < n_batches; i += WARP) {
        const Batch batch(row, batches[i]);
        log_work[i] = batch.log_work;
        log_floor[i] = batch.log_floor;
        first_milli[i] = 1000.0 * least_share_at(row, batch, mean_budget);
        looked += 1;
    }
    __syncwarp();
    double top = 0.0;
    for (int base = 0; base < n_shares; base += WARP) {
        const int j = base + lane;
        const double share = j < n_shares ? shares[j] : 0.0, log_share = j < n_shares ? log_shares[j] : 0.0;
        Rung mine{-1, 0.0, 0.0, 0.0, 1e300};
        if (j < n_shares)
            mine = walk_down(
                row, bound, batches, log_work, log_floor, first_milli, mean_budget, search.budget, share, log_share, top,
                n_batches, looked);
        for (int turn = 0; turn < WARP; turn++) {
            if (__shfl_sync(ALL, mine.most, turn) <= top * (1.0 + TIE)) {
                if (lane == turn) mine.batch = -1;
                continue;
            }
            if (__shfl_sync(ALL, mine.lowest, turn) <= top * (1.0 + TIE) && lane == turn)
                mine = walk_down(
                    row, bound, batches, log_work, log_floor, first_milli, mean_budget, search.budget, share, log_share,
                    top, n_batches, looked);
            __syncwarp();
            if (__shfl_sync(ALL, mine.batch, turn) >= 0) top = __shfl_sync(ALL, mine.throughput, turn);
        }
        if (j < n_shares) {
            fronts[k * n_shares + j] = static_cast<short>(mine.batch);
            latencies[k * n_shares + j] = mine.batch < 0 ? __longlong_as_double(0x7ff8000000000000ll) : mine.latency;
        }
    }
    for (int step = WARP / 2; step > 0; step /= 2) looked += __shfl_xor_sync(ALL, looked, step);
    if (lane == 0) atomicAdd(evaluated + search.row, static_cast<unsigned long long>(looked));
}

// One thread per row and batch: saturating[row * n_batches + i], the index of the limit at which it saturates, or -1.
extern "C" __global__ void __launch_bounds__(128) sweep_saturation(
    const double* __restrict__ models, const double* __restrict__ batches, const double* __restrict__ limits,
    const double* __restrict__ log_limits, double saturation, int n_batches, int n_limits, long long count,
    short* __restrict__ saturating) {
    const long long k = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (k >= count) return;
    const Row row(models + 6ll * (k / n_batches));
    const Batch batch(row, batches[k % n_batches]);
    saturating[k] = static_cast<short>(saturating_limit(row, batch, saturation, limits, log_limits, n_limits));
}
