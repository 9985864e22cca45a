// The roofline at one point of a quota grid: `kernels/cpu/quota_point.py`, operation by operation.
#pragma once

#include "elementary.cuh"

namespace quota {

using elementary::exp_of;
using elementary::log_of;

constexpr double LOG_ZERO = -1e18, NEAR = 1e-9, SLACK = 1e-12, TIE = 1e-9, LOSES = 1.0 - 2e-9;
constexpr double WIDEST_BUDGET_MS = 1e290;
constexpr int TRIANGLE = 21;

__device__ __forceinline__ double log_or_zero(double x) { return x > 0.0 ? log_of(x) : LOG_ZERO; }

__device__ __forceinline__ double log_norm_of(double sharpness, double root, double log_x, double log_y) {
    const double apart = exp_of(sharpness * (fmin(log_x, log_y) - fmax(log_x, log_y)));
    return fmax(log_x, log_y) + log_of(1.0 + apart) * root;
}

// A function on a GPU type: its parameters (L, h, m, w, d, p) as the cells use them.
struct Row {
    double host, fixed, compute, bandwidth, sharpness, log_launch, root;

    __device__ __forceinline__ explicit Row(const double* model)
        : host(model[1]), fixed(model[2]), compute(model[3]), bandwidth(model[4]), sharpness(model[5]),
          log_launch(log_or_zero(model[0])), root(1.0 / model[5]) {}
};

// One batch of a row, with the logs of its work and of its floor.
struct Batch {
    double size, log_work, log_floor;

    __device__ __forceinline__ Batch(const Row& row, double batch)
        : size(batch), log_work(log_or_zero(row.fixed + row.compute * batch)),
          log_floor(log_norm_of(row.sharpness, row.root, row.log_launch, log_or_zero(row.bandwidth * batch))) {}
    __device__ __forceinline__ Batch(double batch, double work, double floor)
        : size(batch), log_work(work), log_floor(floor) {}
};

__device__ __forceinline__ double latency_at(const Row& row, const Batch& batch, double log_share) {
    return row.host * batch.size
         + exp_of(log_norm_of(row.sharpness, row.root, batch.log_floor, batch.log_work - log_share));
}

__device__ __forceinline__ double least_share_at(const Row& row, const Batch& batch, double budget_ms) {
    const double rest = (budget_ms - row.host * batch.size) + budget_ms * SLACK;
    const double log_rest = log_of(rest);
    const double left = (1.0 - exp_of(row.sharpness * (batch.log_floor - log_rest))) + SLACK;
    const double share = exp_of((batch.log_work - log_rest) - log_of(left) * row.root) * (1.0 - NEAR);
    return fmin(rest, left) > 0.0 ? share : __longlong_as_double(0x7ff0000000000000ll);
}

// What the upper bound rests on: the packed covariance (none where the mean decides), the level k, and the spread's terms.
struct Bound {
    const double* covariance;
    double level, scatter, cap, floor;

    __device__ __forceinline__ Bound(const double* packed, double k, const double* error)
        : covariance(packed), level(k), scatter(error[0]), cap(error[1]), floor(error[2]) {}

    __device__ __forceinline__ double least_factor() const {
        if (covariance == nullptr) return 1.0;
        if (level >= 0.0) return exp_of(level * floor) * (1.0 - 1e-12);
        const double widest = sqrt((scatter * scatter) * cap + floor * floor);
        return exp_of(level * widest) * (1.0 - 1e-12);
    }
};

__device__ inline double bound_factor_at(const Row& row, const Bound& bound, const Batch& batch, double log_share) {
    const double launch = row.log_launch, scaled = batch.log_work - log_share;
    const double stream = log_or_zero(row.bandwidth * batch.size);
    const double top = fmax(fmax(launch, scaled), stream);
    const double p = row.sharpness;
    const double of_launch = exp_of(p * (launch - top));
    const double of_scaled = exp_of(p * (scaled - top));
    const double of_stream = exp_of(p * (stream - top));
    const double total = (of_launch + of_scaled) + of_stream;
    const double log_norm = top + log_of(total) * row.root;
    const double norm = exp_of(log_norm), host = row.host * batch.size;
    const double latency = host + norm;
    const double part = (norm / latency) / total;
    const double work = row.fixed + row.compute * batch.size;
    const double of_fixed = work > 0.0 ? row.fixed / work : 0.0;
    const double bend =
        (of_launch * (launch - log_norm) + of_scaled * (scaled - log_norm)) + of_stream * (stream - log_norm);
    const double d0 = part * of_launch, d1 = host / latency, d4 = part * of_stream, d5 = part * bend;
    const double d2 = (part * of_scaled) * of_fixed;
    const double d3 = (part * of_scaled) * (1.0 - of_fixed);
    const double* c = bound.covariance;
    double v = (c[0] * d0) * d0;
    v = v + (c[1] * d0 + c[2] * d1) * d1;
    v = v + ((c[3] * d0 + c[4] * d1) + c[5] * d2) * d2;
    v = v + (((c[6] * d0 + c[7] * d1) + c[8] * d2) + c[9] * d3) * d3;
    double sum = ((c[10] * d0 + c[11] * d1) + c[12] * d2) + c[13] * d3;
    v = v + (sum + c[14] * d4) * d4;
    sum = ((c[15] * d0 + c[16] * d1) + c[17] * d2) + c[18] * d3;
    v = v + ((sum + c[19] * d4) + c[20] * d5) * d5;
    const double spread = sqrt((bound.scatter * bound.scatter) * fmin(fmax(v, 0.0), bound.cap) + bound.floor * bound.floor);
    return exp_of(bound.level * spread);
}

__device__ __forceinline__ double upper_at(
    const Row& row, const Bound& bound, const Batch& batch, double log_share, double latency) {
    return bound.covariance == nullptr ? latency : latency * bound_factor_at(row, bound, batch, log_share);
}

// Index of the first of the ascending `milli` that is at least `wanted`, or `count`.
__device__ __forceinline__ int first_at_least(double wanted, const double* milli, int count) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (milli[middle] < wanted) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Index of the least limit at which throughput reaches `saturation` of a whole GPU's, or -1.
__device__ __forceinline__ int saturating_limit(
    const Row& row, const Batch& batch, double saturation, const double* limits, const double* log_limits, int n_limits) {
    const double enough = latency_at(row, batch, 0.0) / saturation * (1.0 + TIE);
    for (int k = first_at_least(1000.0 * least_share_at(row, batch, enough), limits, n_limits); k < n_limits; k++)
        if (latency_at(row, batch, log_limits[k]) <= enough) return k;
    return -1;
}

}  // namespace quota
