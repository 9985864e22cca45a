"""exp and log by IEEE 754 operations alone, so that every back end computes the same bits.

A library's `exp` and `log` differ in the last place between a CPU and a GPU, and a search that compares latencies would
then, once in a while, choose differently. These use only + - * / and moves of bits, each rounded the same everywhere,
in the order written here; `kernels/cuda/elementary.cuh` repeats them operation by operation. They hold no branch, so
that a loop over them is vectorised.

The polynomials are Taylor's: exp on [-ln2/2, ln2/2] to degree 13 (remainder 4e-18), log m = 2 atanh((m - 1) / (m + 1))
for m in [sqrt(1/2), sqrt(2)) to degree 21 (remainder 4e-18). Errors stay below 2 units in the last place.
"""

from __future__ import annotations

import numpy as np

from dilu_core.kernels.cpu.compiled import inlined

LEAST, GREATEST = 1e-300, 1e300
"""`log_of` takes arguments in between, and others as the nearer of the two."""

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693147180369123816490  # 32 bits, so that its product with an exponent is exact
LN2_LOW = 1.90821492927058770002e-10
ROUNDING = 6755399441055744.0  # 1.5 * 2^52: adding it leaves the nearest integer in the low bits
TO_DOUBLE = 4503599627370496.0  # 2^52: its low bits hold an integer below 2^52


@inlined
def exp_of(x: float) -> float:
    """e^x for x in [-708, 708]; beyond, that of the nearer end."""
    within = min(max(x, -708.0), 708.0)
    shifted = within * LOG2_E + ROUNDING
    whole = shifted - ROUNDING
    r = (within - whole * LN2_HIGH) - whole * LN2_LOW
    q = r * r
    even = 1.0 + q * (1 / 2 + q * (1 / 24 + q * (1 / 720 + q * (1 / 40320 + q * (1 / 3628800 + q * (1 / 479001600))))))
    odd = 1 / 6 + q * (1 / 120 + q * (1 / 5040 + q * (1 / 362880 + q * (1 / 39916800 + q * (1 / 6227020800)))))
    value = even + (r + r * q * odd)
    bits = np.float64(value).view(np.int64) + (np.float64(shifted).view(np.int64) << 52)
    return np.int64(bits).view(np.float64)


@inlined
def log_of(x: float) -> float:
    """The natural logarithm of x in [1e-300, 1e300]; of any other number, that of the nearer end."""
    bits = np.float64(min(max(x, LEAST), GREATEST)).view(np.int64)
    exponent = ((bits - 4604544271217802189 + 4607182418800017408) >> 52) & 2047  # of x / sqrt(1/2), biased by 1023
    m = np.int64(bits - ((exponent - 1023) << 52)).view(np.float64)
    k = np.int64(exponent | 4841369599423283200).view(np.float64) - (TO_DOUBLE + 1023.0)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    tail = z * (
        1 / 3
        + z
        * (
            1 / 5
            + z
            * (
                1 / 7
                + z * (1 / 9 + z * (1 / 11 + z * (1 / 13 + z * (1 / 15 + z * (1 / 17 + z * (1 / 19 + z * (1 / 21)))))))
            )
        )
    )
    return k * LN2_HIGH + ((s + s) + ((s + s) * tail + k * LN2_LOW))
