// Small kernels, right and wrong, on which the header itself is tested.

template <class T> __device__ T warp_sum(T value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    return value;
}

// out[b] = sum of the block's part of `in`; any block size that is a multiple of 32.
extern "C" __global__ void __launch_bounds__(1024) block_sums(const double* in, double* out) {
    __shared__ double partial[32];
    double sum = warp_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0;
        for (unsigned w = 0; w < blockDim.x / 32; w++) total += partial[w];
        out[blockIdx.x] = total;
    }
}

// The same without its barrier.
extern "C" __global__ void block_sums_without_barrier(const double* in, double* out) {
    __shared__ double partial[32];
    double sum = warp_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    if (threadIdx.x == 0) {
        double total = 0;
        for (unsigned w = 0; w < blockDim.x / 32; w++) total += partial[w];
        out[blockIdx.x] = total;
    }
}

// Reverses each block's part through dynamic shared memory.
extern "C" __global__ void reversed(int* data) {
    extern __shared__ int held[];
    unsigned base = blockIdx.x * blockDim.x;
    held[threadIdx.x] = data[base + threadIdx.x];
    __syncthreads();
    data[base + threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void barrier_for_some(int* out, int some) {
    if ((int)threadIdx.x < some) __syncthreads();
    out[threadIdx.x] = 1;
}

extern "C" __global__ void barriers_of_two_branches(int* out) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}

extern "C" __global__ void divergent_shuffle(int* out) {
    int value = threadIdx.x;
    if (threadIdx.x < 16)
        value = __shfl_sync(0xffffffffu, value, 0);
    else
        value = __shfl_sync(0xffffffffu, value, 1);
    out[threadIdx.x] = value;
}

extern "C" __global__ void shuffle_of_half_a_warp(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffffffu, 7, 0);
}

extern "C" __global__ void shuffle_from_outside(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 7, 20);
}

extern "C" __global__ void not_in_its_mask(int* out) { out[threadIdx.x] = __ballot_sync(0x0000ffffu, 1); }

extern "C" __global__ void writes_outside(int* out, int index) { out[index] = 1; }

extern "C" __global__ void too_much_shared(int* out) {
    extern __shared__ __align__(16) unsigned char bytes[];
    bytes[threadIdx.x] = 1;
    out[threadIdx.x] = bytes[threadIdx.x];
}

extern "C" __global__ void uninitialised_shared(int* out) {
    __shared__ int held;
    out[threadIdx.x] = held;
}

extern "C" __global__ void traps() { __trap(); }

// One ticket per thread; a spinning lock around a plain counter.
extern "C" __global__ void tickets(unsigned* counter, int* lock, int* plain, unsigned* ticket) {
    ticket[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
    while (atomicCAS(lock, 0, 1) != 0) {
    }
    int read = *plain;
    __threadfence();
    *plain = read + 1;
    atomicExch(lock, 0);
}

// Every warp collective, one row of `out` (32 each).
extern "C" __global__ void collectives(const int* in, int* out) {
    const unsigned all = 0xffffffffu;
    int lane = threadIdx.x, x = in[lane], row = 0;
#define ROW(expression) out[32 * row++ + lane] = int(expression)
    ROW(__shfl_sync(all, x, 5));
    ROW(__shfl_sync(all, x, 1, 8));
    ROW(__shfl_up_sync(all, x, 3));
    ROW(__shfl_up_sync(all, x, 3, 8));
    ROW(__shfl_down_sync(all, x, 2));
    ROW(__shfl_down_sync(all, x, 2, 4));
    ROW(__shfl_xor_sync(all, x, 9));
    ROW(__shfl_xor_sync(all, x, 9, 8));
    ROW(__ballot_sync(all, x & 1));
    ROW(__any_sync(all, x == in[3]));
    ROW(__all_sync(all, x >= 0));
    ROW(__match_any_sync(all, x % 4));
    ROW(__reduce_add_sync(all, x));
    ROW(__reduce_min_sync(all, x));
    ROW(__reduce_max_sync(all, (unsigned)x));
    ROW(__reduce_xor_sync(all, (unsigned)x));
    __syncwarp();
    unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    ROW(__shfl_xor_sync(half, x, 1));
    ROW(__syncthreads_count(x & 1));
    ROW(__popc(x) + 100 * __ffs(x) + 10000 * __clz(x));
#undef ROW
}

template <int FACTOR> __global__ void scaled(const float* in, float* out) {
    out[threadIdx.x] = max(in[threadIdx.x] * FACTOR, 0.0f);
}
