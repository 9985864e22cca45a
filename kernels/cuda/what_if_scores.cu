// The k best GPUs for each of many instances: `kernels/cpu/ranking.py`, with the same scores bit for bit.
//
// One warp per instance, eight to a block; the block stages tiles of GPU columns in shared memory. The warp keeps its
// best k <= 32 as a sorted list, one entry per lane; the lanes score 32 GPUs at a time, and those that beat the last
// entry, few after the first tiles, are moved in one by one, in order of their rows, after their equals.
//
// gpus (7, G): free request, limit and memory, the price of a unit left of each, rank to open (-1: active);
// demands (D, 4): request, limit, memory, number; those of instance i are first[i] .. first[i + 1].

constexpr unsigned ALL = 0xffffffffu;
constexpr int WARP = 32, WARPS = 8, TILE = 256, COLUMNS = 7;
constexpr double STEPS = 1073741824.0;  // 2^30

__device__ __forceinline__ double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }

__device__ __forceinline__ double score_on(
    const double (*gpus)[TILE], int g, double request, double limit, double memory, double number) {
    const double request_left = gpus[0][g] - request, limit_left = gpus[1][g] - limit, memory_left = gpus[2][g] - memory;
    if (request_left < 0.0 || limit_left < 0.0 || memory_left < 0.0) return infinity();
    const double opened = gpus[6][g];
    if (opened >= 0.0) return (1024.0 * (2048.0 + number) * STEPS + opened * STEPS) / STEPS;
    const double rest = request_left * gpus[3][g] + limit_left * gpus[4][g] + memory_left * gpus[5][g];
    return (1024.0 * number * STEPS + floor(rest * STEPS + 0.5)) / STEPS;
}

// rows and scores (n, k): the best GPUs of each instance, best first; -1 and infinity where there are no more.
extern "C" __global__ void __launch_bounds__(256) rank_gpus(
    const double* __restrict__ gpus, const double* __restrict__ demands, const long long* __restrict__ first, int n_gpus,
    int n_instances, int k, int* __restrict__ rows, double* __restrict__ scores) {
    __shared__ double tile[COLUMNS][TILE];
    const int lane = threadIdx.x % WARP;
    const int instance = blockIdx.x * WARPS + threadIdx.x / WARP;
    const bool asked = instance < n_instances;
    const long long start = asked ? first[instance] : 0, stop = asked ? first[instance + 1] : 0;
    double mine = infinity(), last = infinity();
    int row = -1;
    for (int base = 0; base < n_gpus; base += TILE) {
        const int width = min(TILE, n_gpus - base);
        __syncthreads();
        for (int at = threadIdx.x; at < COLUMNS * TILE; at += WARPS * WARP)
            if (at % TILE < width) tile[at / TILE][at % TILE] = gpus[static_cast<long long>(at / TILE) * n_gpus + base + at % TILE];
        __syncthreads();
        if (!asked) continue;  // the whole warp
        for (int offset = 0; offset < width; offset += WARP) {
            double score = infinity();
            if (offset + lane < width)
                for (long long d = start; d < stop; d++)
                    score = fmin(
                        score, score_on(tile, offset + lane, demands[4 * d], demands[4 * d + 1], demands[4 * d + 2], demands[4 * d + 3]));
            unsigned better = __ballot_sync(ALL, score < last);
            while (better) {
                const int from = __ffs(better) - 1;
                better &= better - 1;
                const double candidate = __shfl_sync(ALL, score, from);
                if (!(candidate < last)) continue;
                const int place = __popc(__ballot_sync(ALL, mine <= candidate));
                const double above = __shfl_up_sync(ALL, mine, 1);
                const int row_above = __shfl_up_sync(ALL, row, 1);
                if (lane > place) {
                    mine = above;
                    row = row_above;
                } else if (lane == place) {
                    mine = candidate;
                    row = base + offset + from;
                }
                last = __shfl_sync(ALL, mine, k - 1);
            }
        }
    }
    if (asked && lane < k) {
        rows[static_cast<long long>(instance) * k + lane] = row;
        scores[static_cast<long long>(instance) * k + lane] = mine;
    }
}
