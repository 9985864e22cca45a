"""The roofline of `kernels.cpu.quota_point` at every batch of a row.

Each loop takes one exp or log. In a single loop they would wait for each other: their chain of operations is longer
than what a core looks ahead, while iterations of a short one overlap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_ieee
from dilu_core.kernels.cpu.elementary import exp_of, log_of
from dilu_core.kernels.cpu.quota_point import (
    BANDWIDTH,
    COMPUTE,
    FIXED,
    HOST,
    LOG_LAUNCH,
    ROOT,
    SHARPNESS,
    fill_constants,
    left_of,
    log_or_zero,
    rest_of,
    share_of,
)

Floats = NDArray[np.float64]


@compiled_ieee
def prepare_row(
    model: Floats,
    batches: Floats,
    constants: Floats,
    log_work: Floats,
    log_floor: Floats,
    log_stream: Floats,
    apart: Floats,
) -> None:
    """What the cells of a row share: constants of the model, and of each batch the logs of its work and floor.

    Of the floor also the log of what it takes to stream, and the lesser of its two powers as a part of the greater.
    """
    fill_constants(model, constants)
    fixed, compute, bandwidth = constants[FIXED], constants[COMPUTE], constants[BANDWIDTH]
    log_launch, sharpness, root = constants[LOG_LAUNCH], constants[SHARPNESS], constants[ROOT]
    count = batches.shape[0]
    for i in range(count):
        log_stream[i] = log_or_zero(bandwidth * batches[i])
    for i in range(count):  # log_norm_of
        apart[i] = exp_of(sharpness * (min(log_launch, log_stream[i]) - max(log_launch, log_stream[i])))
    for i in range(count):
        log_floor[i] = max(log_launch, log_stream[i]) + log_of(1.0 + apart[i]) * root
    for i in range(count):
        log_work[i] = log_or_zero(fixed + compute * batches[i])


@compiled_ieee
def invert_all(
    constants: Floats,
    batches: Floats,
    log_work: Floats,
    log_floor: Floats,
    budget_ms: float,
    first_milli: Floats,
    most: Floats,
    scratch: Floats,
) -> None:
    """Of each batch the share in milli-GPU below which no latency is within the budget, and the efficacy there.

    `least_share_at` of all batches.
    """
    host, sharpness, root = constants[HOST], constants[SHARPNESS], constants[ROOT]
    count = batches.shape[0]
    for i in range(count):
        scratch[i] = log_of(rest_of(host, batches[i], budget_ms))
    for i in range(count):
        most[i] = left_of(sharpness, log_floor[i], scratch[i])
    for i in range(count):
        first_milli[i] = log_of(most[i])
    for i in range(count):
        share = share_of(log_work[i], scratch[i], first_milli[i], root)
        possible = min(rest_of(host, batches[i], budget_ms), most[i]) > 0.0
        first_milli[i] = 1000.0 * share if possible else np.inf
    for i in range(count):
        most[i] = 1e6 * batches[i] / (budget_ms * first_milli[i])
