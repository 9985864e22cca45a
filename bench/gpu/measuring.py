"""One case: validated first, then timed on either side, and set against the hardware's limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from case import Case
from hardware import Limits
from timing import Times, on_device, readable, wall


def measured(case: Case, limits: Limits | None, budget_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The JSON-able row of a case; `limits` is `None` where there is no GPU, and then only the CPU runs.

    A CUDA path that disagrees with the CPU is never timed: the row then holds `wrong`, the difference. Each of the (at
    most three) timings takes about a fifth of `budget_s`, or one run where a run is longer.
    """
    started = time.perf_counter()
    case.prepare()
    row: dict[str, Any] = {"unit": case.unit, "work": case.work}
    say(f"{case.name}: {case.work:,.0f} {case.unit}, prepared in {readable(time.perf_counter() - started)}")
    if limits is not None:
        try:
            row["validated"] = case.validate()
        except AssertionError as error:
            row["wrong"] = str(error) or "differs"
            say(f"  WRONG: {row['wrong']}")
            return row
        say(f"  validated: {row['validated']}")
        row["gpu"] = _gpu(case, limits, budget_s / 5, say)
    cpu = wall(case.cpu, most=10, limit_s=budget_s / 5)
    row["cpu"] = {**asdict(cpu), "threads": case.cpu_threads(), "work_per_s": case.work / cpu.median_s}
    row["pruned"] = case.pruned()
    pruned = "" if row["pruned"] is None else f"; {row['pruned']:.2%} pruned"
    say(f"  CPU, {case.cpu_threads()} threads: {cpu}; {case.work / cpu.median_s:.3g} {case.unit}/s{pruned}")
    if limits is not None:
        row["ratio"] = {name: cpu.median_s / row["gpu"][name]["median_s"] for name in ("kernel", "end_to_end")}
        say("  ratio CPU to GPU: kernel alone {kernel:.1f}, end to end {end_to_end:.1f}".format(**row["ratio"]))
    return row


def _gpu(case: Case, limits: Limits, limit_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    record = case.cuda()
    end_to_end = wall(case.cuda, limit_s=limit_s)
    kernel = on_device(case.on_device(), limit_s=limit_s)
    say(f"  kernel alone: {kernel}; {case.work / kernel.median_s:.3g} {case.unit}/s")
    say(f"  end to end: {end_to_end}; {case.work / end_to_end.median_s:.3g} {case.unit}/s; {record.chunks} chunk(s)")
    return {
        "kernel": {**asdict(kernel), "work_per_s": case.work / kernel.median_s},
        "end_to_end": {**asdict(end_to_end), "work_per_s": case.work / end_to_end.median_s},
        "chunks": record.chunks,
        "compile_s": record.compile_s,
        "limit": _distance(case, kernel, limits, say),
    }


def _distance(case: Case, kernel: Times, limits: Limits, say: Callable[[str], None]) -> dict[str, Any]:
    """Counted operations and bytes over the kernel's time, against what the GPU could do."""
    operations, moved = case.operations(), case.bytes_moved()
    least = limits.seconds(case.operation, operations, moved)
    peak = limits.operations_per_s.get(case.operation)
    found = {
        "operation": case.operation,
        "operations": operations,
        "operations_per_s": operations / kernel.median_s,
        "operations_of_peak": operations / kernel.median_s / peak if peak else None,
        "bytes": moved,
        "bytes_of_peak": moved / kernel.median_s / limits.bytes_per_s,
        "least_s": least,
        "times_least": kernel.median_s / least if least else None,
    }
    if least and peak:
        say(f"  limit: {readable(least)} for {operations:.3g} {case.operation} operations and {moved:.3g} bytes")
        say(
            f"  the kernel: {kernel.median_s / least:.1f} times that, at {found['operations_of_peak']:.1%} of peak "
            f"arithmetic, {found['bytes_of_peak']:.1%} of peak memory traffic"
        )
    return found
