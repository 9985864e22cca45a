// CUDA's built-in functions for cuda_on_cpu.h, under their own names.
#pragma once

#define CUDA_ON_CPU_SITE (::cuda_on_cpu::Site{__LINE__, __COUNTER__})
#define __syncthreads() ((void)::cuda_on_cpu::barrier(CUDA_ON_CPU_SITE, 0))
#define __syncthreads_count(predicate) (int(::cuda_on_cpu::barrier(CUDA_ON_CPU_SITE, (predicate) != 0)))
#define __syncthreads_or(predicate) (::cuda_on_cpu::barrier(CUDA_ON_CPU_SITE, (predicate) != 0) != 0)
#define __syncthreads_and(predicate) (::cuda_on_cpu::barrier(CUDA_ON_CPU_SITE, (predicate) != 0) == ::cuda_on_cpu::count)
#define __syncwarp(...) ::cuda_on_cpu::sync_warp(CUDA_ON_CPU_SITE __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...) ::cuda_on_cpu::shuffle_to(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) ::cuda_on_cpu::shuffle_xor(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) ::cuda_on_cpu::shuffle_down(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) ::cuda_on_cpu::shuffle_up(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __ballot_sync(...) ::cuda_on_cpu::ballot(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __any_sync(...) ::cuda_on_cpu::any(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __all_sync(...) ::cuda_on_cpu::all(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __match_any_sync(...) ::cuda_on_cpu::match_any(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __reduce_add_sync(...) ::cuda_on_cpu::reduce<::cuda_on_cpu::ADD>(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __reduce_min_sync(...) ::cuda_on_cpu::reduce<::cuda_on_cpu::MIN>(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __reduce_max_sync(...) ::cuda_on_cpu::reduce<::cuda_on_cpu::MAX>(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __reduce_and_sync(...) ::cuda_on_cpu::reduce<::cuda_on_cpu::AND>(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __reduce_or_sync(...) ::cuda_on_cpu::reduce<::cuda_on_cpu::OR>(CUDA_ON_CPU_SITE, __VA_ARGS__)
#define __reduce_xor_sync(...) ::cuda_on_cpu::reduce<::cuda_on_cpu::XOR>(CUDA_ON_CPU_SITE, __VA_ARGS__)

inline unsigned __activemask() { return 1u << cuda_on_cpu::lane_id(); }
inline void __threadfence() { cuda_on_cpu::interrupt(); }
inline void __threadfence_block() { cuda_on_cpu::interrupt(); }
inline void __nanosleep(unsigned) { cuda_on_cpu::interrupt(); }
[[noreturn]] inline void __trap() { cuda_on_cpu::fail("thread %u traps", cuda_on_cpu::current); }

// Atomics: the second argument converts to the first's type, as in CUDA's overloads.
template <class T> struct CudaOnCpuSame { using type = T; };
template <class T> using CudaOnCpuArgument = typename CudaOnCpuSame<T>::type;
#define CUDA_ON_CPU_ATOMIC(name, result, condition)                                                             \
    template <class T> T name(T* address, CudaOnCpuArgument<T> value) {                                         \
        static_assert(condition, #name " has no overload of this type");                                        \
        cuda_on_cpu::interrupt();                                                                               \
        T old = *address;                                                                                       \
        *address = T(result);                                                                                   \
        return old;                                                                                             \
    }
CUDA_ON_CPU_ATOMIC(atomicAdd, old + value, std::is_arithmetic<T>::value && !(std::is_signed<T>::value &&
                   std::is_integral<T>::value && sizeof(T) == 8))
CUDA_ON_CPU_ATOMIC(atomicSub, old - value, std::is_integral<T>::value && sizeof(T) == 4)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old, std::is_integral<T>::value && sizeof(T) >= 4)
CUDA_ON_CPU_ATOMIC(atomicMax, old < value ? value : old, std::is_integral<T>::value && sizeof(T) >= 4)
CUDA_ON_CPU_ATOMIC(atomicAnd, old & value, std::is_integral<T>::value && sizeof(T) >= 4)
CUDA_ON_CPU_ATOMIC(atomicOr, old | value, std::is_integral<T>::value && sizeof(T) >= 4)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ value, std::is_integral<T>::value && sizeof(T) >= 4)
CUDA_ON_CPU_ATOMIC(atomicExch, value, sizeof(T) == 4 || std::is_unsigned<T>::value)
CUDA_ON_CPU_ATOMIC(atomicInc, old >= value ? T(0) : T(old + 1), (std::is_same<T, unsigned>::value))
CUDA_ON_CPU_ATOMIC(atomicDec, old == 0 || old > value ? value : T(old - 1), (std::is_same<T, unsigned>::value))
template <class T> T atomicCAS(T* address, CudaOnCpuArgument<T> expected, CudaOnCpuArgument<T> value) {
    static_assert(std::is_integral<T>::value && (sizeof(T) == 4 || std::is_unsigned<T>::value), "no such atomicCAS");
    cuda_on_cpu::interrupt();
    T old = *address;
    if (old == expected) *address = value;
    return old;
}

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> void __stcs(T* address, CudaOnCpuArgument<T> value) { *address = value; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (x >> bit & 1u) << (31 - bit);
    return reversed;
}
inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

template <class A, class B> std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value) return std::fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B> std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

inline int __float_as_int(float x) { return cuda_on_cpu::decoded<int>(cuda_on_cpu::encoded(x)); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu::decoded<unsigned>(cuda_on_cpu::encoded(x)); }
inline float __int_as_float(int x) { return cuda_on_cpu::decoded<float>(cuda_on_cpu::encoded(x)); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::decoded<float>(cuda_on_cpu::encoded(x)); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::decoded<long long>(cuda_on_cpu::encoded(x)); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::decoded<double>(cuda_on_cpu::encoded(x)); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }
inline float __saturatef(float a) { return a < 1.0f ? (a > 0.0f ? a : 0.0f) : 1.0f; }

#define CUDA_ON_CPU_TO_INTEGER(from, type)                                                                      \
    inline int __##from##2int_rz(type x) { return int(x); }                                                     \
    inline int __##from##2int_rn(type x) { return int(std::nearbyint(x)); }                                     \
    inline int __##from##2int_rd(type x) { return int(std::floor(x)); }                                         \
    inline int __##from##2int_ru(type x) { return int(std::ceil(x)); }                                          \
    inline long long __##from##2ll_rn(type x) { return (long long)std::nearbyint(x); }                          \
    inline long long __##from##2ll_rd(type x) { return (long long)std::floor(x); }                              \
    inline long long __##from##2ll_ru(type x) { return (long long)std::ceil(x); }
CUDA_ON_CPU_TO_INTEGER(float, float)
CUDA_ON_CPU_TO_INTEGER(double, double)
