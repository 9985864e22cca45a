// exp and log by IEEE 754 operations alone: `kernels/cpu/elementary.py`, operation by operation, so that both sides
// compute the same bits. Must be compiled without fused multiply-add (`modules.OPTIONS`).
#pragma once

namespace elementary {

constexpr double LEAST = 1e-300, GREATEST = 1e300;
constexpr double LOG2_E = 1.4426950408889634;
constexpr double LN2_HIGH = 0.693147180369123816490, LN2_LOW = 1.90821492927058770002e-10;
constexpr double ROUNDING = 6755399441055744.0, TO_DOUBLE = 4503599627370496.0;

__device__ __forceinline__ double exp_of(double x) {
    const double within = fmin(fmax(x, -708.0), 708.0);
    const double shifted = within * LOG2_E + ROUNDING;
    const double whole = shifted - ROUNDING;
    const double r = (within - whole * LN2_HIGH) - whole * LN2_LOW;
    const double q = r * r;
    const double even =
        1.0 + q * (1.0 / 2 + q * (1.0 / 24 + q * (1.0 / 720 + q * (1.0 / 40320 + q * (1.0 / 3628800 + q * (1.0 / 479001600))))));
    const double odd =
        1.0 / 6 + q * (1.0 / 120 + q * (1.0 / 5040 + q * (1.0 / 362880 + q * (1.0 / 39916800 + q * (1.0 / 6227020800.0)))));
    const double value = even + (r + r * q * odd);
    const unsigned long long exponent = static_cast<unsigned long long>(__double_as_longlong(shifted)) << 52;
    return __longlong_as_double(static_cast<long long>(static_cast<unsigned long long>(__double_as_longlong(value)) + exponent));
}

__device__ __forceinline__ double log_of(double x) {
    const long long bits = __double_as_longlong(fmin(fmax(x, LEAST), GREATEST));
    const long long exponent = ((bits - 4604544271217802189ll + 4607182418800017408ll) >> 52) & 2047;
    const double m = __longlong_as_double(bits - (exponent - 1023) * (1ll << 52));
    const double k = __longlong_as_double(exponent | 4841369599423283200ll) - (TO_DOUBLE + 1023.0);
    const double s = (m - 1.0) / (m + 1.0);
    const double z = s * s;
    const double tail =
        z * (1.0 / 3 + z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z * (1.0 / 11 + z * (1.0 / 13 + z * (1.0 / 15
        + z * (1.0 / 17 + z * (1.0 / 19 + z * (1.0 / 21))))))))));
    return k * LN2_HIGH + ((s + s) + ((s + s) * tail + k * LN2_LOW));
}

}  // namespace elementary
