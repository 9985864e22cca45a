"""The measured table on disk: rows appended as they come, so that a run that was cut short goes on where it stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiling_gpu.plan import Cell
from profiling_gpu.timing import Timing

COLUMNS = (
    "function", "gpu_type", "batch", "sm_milli", "latency_ms", "memory_mib", "note",
    "p95_ms", "least_ms", "host_ms", "repeats", "sms",
)  # fmt: skip
"""What `dilu_core.read_profiles` reads (up to `note`), then what it passes over."""


class Table:
    """A canonical profile CSV at `path`, and beside it `path` with `.json`: the machine, failures, checks."""

    def __init__(self, path: Path, gpu_type: str) -> None:
        self.path = path
        self.gpu_type = gpu_type
        self.done: set[Cell] = set()
        self.facts: dict[str, Any] = {"failures": {}}
        if self.facts_path.exists():
            self.facts.update(json.loads(self.facts_path.read_text(encoding="utf-8")))
        if path.exists():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as out:
                csv.writer(out, lineterminator="\n").writerow(COLUMNS)
        for name in self.facts["failures"]:
            function, batch, sms = name.rsplit(" ", 2)
            if is_final(self.facts["failures"][name]):
                self.done.add(Cell(function, int(batch), int(sms)))

    @property
    def facts_path(self) -> Path:
        return self.path.with_suffix(".json")

    def _read(self) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
        for row in rows:
            if row["gpu_type"] != self.gpu_type:
                raise SystemExit(f"{self.path} holds rows of {row['gpu_type']}, this is {self.gpu_type}: name another")
            self.done.add(Cell(row["function"], int(row["batch"]), int(row["sms"])))

    def add(self, cell: Cell, sm_milli: int, timing: Timing, memory_mib: float, note: str) -> None:
        """Append one measurement; it is on disk when this returns."""
        memory = "" if memory_mib <= 0 else f"{memory_mib:.0f}"
        with self.path.open("a", encoding="utf-8", newline="") as out:
            csv.writer(out, lineterminator="\n").writerow(
                (
                    cell.function, self.gpu_type, cell.batch, sm_milli, f"{timing.median_ms:.4f}", memory, note,
                    f"{timing.p95_ms:.4f}", f"{timing.least_ms:.4f}", f"{timing.host_ms:.4f}", timing.repeats, cell.sms,
                )
            )  # fmt: skip
        self.done.add(cell)
        self.facts["failures"].pop(_name(cell), None)

    def failed(self, cell: Cell, error: str) -> None:
        """Note why a cell has no row. It is tried again by the next run, unless it `is_final`."""
        self.facts["failures"][_name(cell)] = error
        self.save()

    def save(self, facts: Mapping[str, Any] | None = None) -> None:
        """Write the JSON, with `facts` added to it."""
        self.facts.update(facts or {})
        self.facts_path.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")


def is_final(error: str) -> bool:
    """Whether trying again would fail again, or break the CUDA context again: memory ran out, or a kernel crashed."""
    return any(words in error.lower() for words in ("out of memory", *STICKY))


STICKY = ("illegal memory access", "device-side assert triggered", "unspecified launch failure", "misaligned address")
"""CUDA errors that leave a process without a usable context (every CUDA error speaks of device-side assertions)."""


def _name(cell: Cell) -> str:
    return f"{cell.function} {cell.batch} {cell.sms}"
