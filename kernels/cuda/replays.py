"""Replays of many parameter sets on many traces on the GPU, one thread per pair.

The replay is that of the CPU (`kernels.policy_replay`), compiled for the device. Threads of a warp take neighbouring
parameter sets of one trace, so they read the same arrivals; their scratch lies interleaved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numba import float64
from numpy.typing import NDArray

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.policy_replay import replay_pairs
from dilu_core.kernels.cuda.chunks import in_chunks
from dilu_core.kernels.cuda.device import require_device
from dilu_core.kernels.cuda.numba_kernels import cuda, launch, numba_kernel
from dilu_core.kernels.cuda.selftest import self_test
from dilu_core.kernels.policy_columns import FORECAST, MOST_PEAKS, STATE
from dilu_core.kernels.policy_replay import FIGURES, Memory, replay_one, sample_problem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 128

_COLUMNS = 9  # arguments of `replay_pairs`, from `params` on, that are arrays

SIGNATURE = (
    "void(int64, float64[:,::1], int64[::1], int64[::1], float64[::1], float64[::1], float64[::1], int64[::1], "
    "float64[::1], float64[::1], float64, int64, int64, float64[:,::1], float64[:,::1], float64[:,::1], "
    "float64[:,::1], int64[:,::1], int64[:,::1], float64[:,::1])"
)


def replay_kernel(
    first_pair: int,
    params: Floats,
    first: Integers,
    first_period: Integers,
    arrivals: Floats,
    arrived: Floats,
    told_rps: Floats,
    spare_milli: Integers,
    first_look_rps: Floats,
    rates: Floats,
    step_s: float,
    per_control: int,
    initial: int,
    samples: Floats,
    peaks: Floats,
    forecast: Floats,
    season: Floats,
    ready_at: Integers,
    launched: Integers,
    figures: Floats,
) -> None:
    """Row `thread` of `figures` for pair `first_pair + thread`: as `replay_pairs`, with scratch `(room, threads)`."""
    own = cuda.shared.array((STATE, BLOCK), float64)
    thread = cuda.grid(1)
    if thread >= figures.shape[0]:
        return
    sets = params.shape[0]
    t = (first_pair + thread) // sets
    low, high = first[t], first[t + 1]
    memory = Memory(
        own[:, cuda.threadIdx.x],
        samples[:, thread],
        peaks[:, thread],
        forecast[:, thread],
        season[:, thread],
        ready_at[:, thread],
        launched[:, thread],
    )
    replay_one(
        params[first_pair + thread - t * sets],
        arrivals[low:high],
        arrived[low + t : high + t + 1],
        told_rps[first_period[t] : first_period[t + 1]],
        spare_milli[low:high],
        float(first_look_rps[t]),
        rates,
        step_s,
        per_control,
        initial,
        memory,
        figures[thread],
    )


def device_kernels() -> dict[str, tuple[Callable[..., None], str]]:
    """The kernels of this module by name, with the signatures they are compiled for."""
    return {"replay": (replay_kernel, SIGNATURE)}


def replay_pairs_on_gpu(*arguments: Any) -> RunRecord:
    """All pairs of `kernels.cpu.policy_replay.replay_pairs`, arguments from `params` on; returns what they ran on.

    Raises `BackendUnavailableError` where there is no GPU, `DeviceMemoryError` where not one pair fits it.
    """
    device = require_device()
    kernel, compile_s = numba_kernel(replay_kernel, SIGNATURE)
    samples, season, launches, figures = arguments[-4:]
    columns = _copied(arguments)

    def run(start: int, stop: int) -> None:
        start_kernel, found = _prepared(kernel, arguments, columns, start, stop)
        start_kernel()
        figures[start:stop] = found.get()

    bytes_each = 8 * (samples + MOST_PEAKS + FORECAST + season + 2 * launches + FIGURES)
    chunks = in_chunks(figures.shape[0], bytes_each, run)
    return RunRecord("cuda", device.name, chunks, compile_s)


def on_device(*arguments: Any) -> Callable[[], None]:
    """A function that replays all pairs, from inputs on the device to figures that stay there."""
    require_device()
    kernel, _ = numba_kernel(replay_kernel, SIGNATURE)
    return _prepared(kernel, arguments, _copied(arguments), 0, arguments[-1].shape[0])[0]


def _copied(arguments: Sequence[Any]) -> list[Any]:
    """The parameter sets and traces on the device: every pair reads them."""
    import cupy

    return [cupy.asarray(column) for column in arguments[:_COLUMNS]]


def _prepared(
    kernel: Any, arguments: Sequence[Any], columns: Sequence[Any], start: int, stop: int
) -> tuple[Callable[[], None], Any]:
    """The launch for pairs `start` to `stop` and the device array that it will fill."""
    import cupy

    samples, season, launches = arguments[-4:-1]
    scratch = [cupy.empty((room, stop - start)) for room in (samples, MOST_PEAKS, FORECAST, max(1, season))]
    scratch += [cupy.empty((launches, stop - start), np.int64) for _ in range(2)]
    found = cupy.empty((stop - start, FIGURES))
    every = (start, *columns, *arguments[_COLUMNS:-4], *scratch, found)
    return lambda: launch(kernel, stop - start, BLOCK, every), found


@self_test("replays")
def _agrees_with_the_cpu() -> None:
    """Two noisy traces under sixteen sets of both rules: equal counts, GPU-seconds and lateness to 1e-9."""
    problem, on_cpu = sample_problem(sets=16, seconds=(300, 200)), cast(Any, replay_pairs)
    here, there = np.empty((32, FIGURES)), np.empty((32, FIGURES))
    on_cpu(0, 32, *problem, here)
    replay_pairs_on_gpu(*problem, there)
    np.testing.assert_allclose(there, here, rtol=1e-9)
