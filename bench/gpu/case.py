"""What a kernel's benchmark gives the frame: its problems, how to check them, and how to run them on either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from dilu_core.kernels.backend import RunRecord

Operation = Literal["int32", "fp32", "fp64"]


@dataclass(frozen=True)
class Case:
    """One kernel on one set of problems. Each module `bench/gpu/<kernel>.py` offers `case(small: bool) -> Case`.

    `prepare()` builds the problems once (not timed). `validate()` compares the CUDA path with the CPU path (and, where
    small enough, brute force) and returns a sentence of what agreed; it raises `AssertionError` where they differ.
    `cuda()` runs the launcher end to end, host arrays in and out. `on_device()`, called after `prepare()`, copies the
    inputs to the device once and returns a function that only launches the kernel: that one is timed with events.
    `cpu()` runs the CPU path on the same problems, on `cpu_threads()` threads.

    `work` counts `unit`s per run ("problems", "grid points"...). `operations` and `bytes_moved` per run are counted,
    not measured, after `validate()`: arithmetic of the type `operation`, and bytes that must cross the device's memory.
    `pruned` is the fraction of the search space never looked at (`None`: nothing is pruned).
    """

    name: str
    unit: str
    work: float
    prepare: Callable[[], None]
    validate: Callable[[], str]
    cuda: Callable[[], RunRecord]
    on_device: Callable[[], Callable[[], None]]
    cpu: Callable[[], None]
    cpu_threads: Callable[[], int]
    operations: Callable[[], float]
    bytes_moved: Callable[[], float]
    operation: Operation = "fp32"
    pruned: Callable[[], float | None] = field(default=lambda: None)
