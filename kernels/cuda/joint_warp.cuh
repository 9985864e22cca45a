// Words and warp reductions shared by the preparation and the search of joint.cu.
#pragma once

typedef unsigned long long u64;

constexpr int LANES = 32, MOST_FUNCTIONS = 16, MOST_OPTIONS = 64, MOST_WARPS = 16, UNIT_BITS = 20;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Three weights in one word: 20 bits each and a clear guard bit above (see kernels/cpu/joint_packing.py).
constexpr int SECOND = 21, THIRD = 42;
constexpr unsigned FIELD = (1u << 20) - 1;
constexpr u64 GUARDS = 1ull << 20 | 1ull << 41 | 1ull << 62;
constexpr u64 DROPPED = ((1ull << 62) - 1) & ~GUARDS;  // all fields full, which fits no room, since capacities are less

__device__ __forceinline__ bool fits(u64 room, u64 weight) { return (((room | GUARDS) - weight) & GUARDS) == GUARDS; }
__device__ __forceinline__ unsigned field(u64 weight, int shift) { return unsigned(weight >> shift) & FIELD; }
__device__ __forceinline__ u64 packed(unsigned first, unsigned second, unsigned third) {
    return u64(first) | u64(second) << SECOND | u64(third) << THIRD;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define WARP_REDUCTION(name, operation)                                                            \
    template <class T> __device__ __forceinline__ T name(T value) {                                \
        for (int bits = 16; bits; bits >>= 1) {                                                    \
            const T other = __shfl_xor_sync(ALL_LANES, value, bits);                               \
            value = operation;                                                                     \
        }                                                                                          \
        return value;                                                                              \
    }
WARP_REDUCTION(warp_add, value + other)
WARP_REDUCTION(warp_min, value < other ? value : other)
WARP_REDUCTION(warp_max, value < other ? other : value)
#else
template <class T> __device__ __forceinline__ T warp_add(T value) { return __reduce_add_sync(ALL_LANES, value); }
template <class T> __device__ __forceinline__ T warp_min(T value) { return __reduce_min_sync(ALL_LANES, value); }
template <class T> __device__ __forceinline__ T warp_max(T value) { return __reduce_max_sync(ALL_LANES, value); }
#endif

__device__ __forceinline__ float warp_sum(float value) {  // the same order of additions in every lane
    for (int bits = 16; bits; bits >>= 1) value += __shfl_xor_sync(ALL_LANES, value, bits);
    return value;
}
template <class T> __device__ __forceinline__ T warp_greatest(T value) {  // of 64-bit integers
    for (int bits = 16; bits; bits >>= 1) {
        const T other = __shfl_xor_sync(ALL_LANES, value, bits);
        if (other > value) value = other;
    }
    return value;
}

// An order-preserving map from floats to unsigned integers.
__device__ __forceinline__ unsigned ordered(float value) {
    const unsigned bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Options of all functions of a problem in shared memory, 64 places per function.
struct Rows {
    u64* load;              // packed weight
    int* gain;              // value above the least of its function
    int* loss;              // see joint_prepare.cuh
    unsigned char* option;  // original number
};

// What a block prepares, in shared memory.
struct Problem {
    int functions;
    u64 capacity;
    long long bound;  // L of joint_prepare.cuh, on the scale of UNIT
    int shift;        // losses are kept >> shift
    int function[MOST_FUNCTIONS];      // of each level
    int count[MOST_FUNCTIONS];         // options of each function
    int first_option[MOST_FUNCTIONS];  // least option number of each function
    u64 least[MOST_FUNCTIONS];         // least weights of each function
};

// A prepared problem in global memory, beside its rows; levels in the order of the search.
struct Tree {
    long long bound;
    int shift;
    int unit;  // one of value in losses; 0 where that is less than one
    int functions;
    int last;  // the last level
    u64 least[MOST_FUNCTIONS];                   // least weights of each level
    int count[MOST_FUNCTIONS];                   // options of each level
    int function[MOST_FUNCTIONS];                // of each level
    int level[MOST_FUNCTIONS];                   // of each function
    int first_option[MOST_FUNCTIONS];            // least option number of each function
};

// The best answer to a problem so far, in global memory. `choice` and a rise of `best` are written under `lock`, which a
// warp holds for a few reads and writes only.
struct Incumbent {
    int best;  // its gain; -1: none yet
    int lock;
    int stopped;     // a limit was reached: the answer is not proven
    unsigned steps;  // nodes expanded
    unsigned ties;   // nodes that could at best tie
    int choice[MOST_FUNCTIONS];  // original option numbers
};

// A node that is yet to be expanded.
struct Item {
    u64 room;     // beside the lightest of all levels below its own
    int problem;  // -1: nothing to do
    int level;
    int lost, gained;
    unsigned char position[MOST_FUNCTIONS];  // of the options chosen on the levels above
};
