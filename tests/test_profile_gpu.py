"""The GPU profiler without a GPU: order, budget, resuming and the table, with a device that only pretends."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core import read_profiles
from dilu_core.workload import read_workload
from tests.bench_modules import bench_module

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture(scope="module")
def profiler() -> ModuleType:
    """bench/profile_gpu.py, which loads no torch before it measures."""
    return bench_module("profile_gpu")


class PretendedDevice:
    """A clock that advances by each measurement; latency follows a roofline, and named functions fail."""

    def __init__(self, profiler: ModuleType, *, cell_s: float = 1.0, broken: dict[str, str] | None = None) -> None:
        self.timing = sys.modules["profiling_gpu.timing"]
        self.now_s = 0.0
        self.cell_s = cell_s
        self.broken = broken or {}
        self.measured: list[object] = []
        self.targets: list[float] = []
        self.recoveries = 0

    def measure(self, cell: object, target_s: float) -> tuple[object, float, str]:
        self.now_s += self.cell_s
        self.targets.append(target_s)
        if cell.function in self.broken:  # type: ignore[attr-defined]
            raise RuntimeError(self.broken[cell.function])  # type: ignore[attr-defined]
        self.measured.append(cell)
        latency = 1.0 + cell.batch * 13.2 / cell.sms  # type: ignore[attr-defined]
        return self.timing.summarised([latency] * 5, [0.1] * 5), 700.0, "pretended"

    def recover(self) -> None:
        self.recoveries += 1


def _run(profiler: ModuleType, path: Path, device: PretendedDevice, deadline: float) -> str:
    table = profiler.Table(path, "pretended")
    batches = {"a": (1, 2, 4, 8), "b": (1, 2, 4, 8)}
    cells = profiler.plan.ordered_cells(batches, [8, 24, 64, 132], table.done)
    return profiler.measurer.run(
        cells,
        device,
        table,
        device_sms=132,
        deadline=deadline,
        now=lambda: device.now_s,
        say=lambda line: None,
    )


def test_a_run_that_was_cut_short_goes_on_where_it_stopped(profiler: ModuleType, tmp_path: Path) -> None:
    """Two short runs and a long one measure every cell once, and the file reads as a profile table."""
    path = tmp_path / "deep" / "table.csv"
    devices = [PretendedDevice(profiler) for _ in range(3)]
    first = _run(profiler, path, devices[0], deadline=5)
    assert first == "out of time with 27 of 32 cells left"
    assert _run(profiler, path, devices[1], deadline=7).startswith("out of time")
    assert _run(profiler, path, devices[2], deadline=1000) == "finished"
    measured = [cell for device in devices for cell in device.measured]
    assert len(measured) == len(set(measured)) == 32
    samples = read_profiles(path)["b"]
    assert samples.gpu_type == "pretended"
    assert sorted(set(samples.sm_milli.tolist())) == [61, 182, 485, 1000]
    assert samples.memory_mib is not None
    assert len(samples) == 16
    assert "1 of" not in profiler.summary.laws(samples).__repr__()
    assert profiler.summary.laws(samples).worst == 0


def test_a_function_that_fails_stops_no_other(profiler: ModuleType, tmp_path: Path) -> None:
    """All cells of the sound function are measured; the errors of the other stand in the JSON, not in the table."""
    path = tmp_path / "table.csv"
    broken = PretendedDevice(profiler, broken={"a": "no such model"})
    assert _run(profiler, path, broken, deadline=1000) == "finished"
    assert list(read_profiles(path)) == ["b"]
    assert broken.recoveries == 16
    failures = json.loads(path.with_suffix(".json").read_text())["failures"]
    assert failures["a 1 132"] == "RuntimeError: no such model"
    mended = PretendedDevice(profiler)
    assert _run(profiler, path, mended, deadline=1000) == "finished"
    assert {cell.function for cell in mended.measured} == {"a"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", ["CUDA out of memory. Tried to allocate", "an illegal memory access was encountered"])
def test_what_would_fail_again_is_not_tried_again(profiler: ModuleType, tmp_path: Path, error: str) -> None:
    """A cell for which memory ran out, or that broke the CUDA context, is passed over by the next run."""
    path = tmp_path / "table.csv"
    stopped = _run(profiler, path, PretendedDevice(profiler, broken={"a": error}), deadline=1000)
    assert stopped.startswith("lost the CUDA context" if "illegal" in error else "finished")
    again = PretendedDevice(profiler)
    _run(profiler, path, again, deadline=1000)
    failed = {tuple(name.rsplit(" ", 2)) for name in json.loads(path.with_suffix(".json").read_text())["failures"]}
    assert failed
    measured = {(c.function, str(c.batch), str(c.sms)) for c in again.measured}  # type: ignore[attr-defined]
    assert not failed & measured


def test_rows_of_another_gpu_are_not_mixed_in(profiler: ModuleType, tmp_path: Path) -> None:
    """A table of one GPU type is not gone on with on another."""
    path = tmp_path / "table.csv"
    _run(profiler, path, PretendedDevice(profiler), deadline=3)
    with pytest.raises(SystemExit, match="holds rows of pretended"):
        profiler.Table(path, "other")


@given(batches=st.integers(1, 9), shares=st.integers(1, 20))
def test_the_plan_is_every_cell_once_corners_first(profiler: ModuleType, batches: int, shares: int) -> None:
    """Nothing is left out or doubled, and every function's corners come before any refinement."""
    sizes = {name: [2**i for i in range(batches)] for name in "ab"}
    counts = [8 * (i + 1) for i in range(shares)]
    cells = profiler.plan.ordered_cells(sizes, counts)
    assert len(cells) == len(set(cells)) == 2 * batches * shares
    coarse = cells[: 2 * min(batches, 3) * min(shares, 3)]
    for name in "ab":
        for batch in (sizes[name][0], sizes[name][-1]):
            for sms in (counts[0], counts[-1]):
                assert profiler.plan.Cell(name, batch, sms) in coarse
    assert sorted(set(profiler.plan.levels(batches))) == list(range(max(profiler.plan.levels(batches)) + 1))


@given(left=st.floats(0.01, 1000), cells=st.integers(1, 2000))
def test_the_time_of_a_cell_fits_the_budget(profiler: ModuleType, left: float, cells: int) -> None:
    """A cell never gets more than its part, but for the least that a measurement takes."""
    given = profiler.plan.timing_s(left, cells)
    assert 0.1 <= given <= 0.6
    assert given == 0.1 or given <= left / cells


@given(sms=st.integers(1, 200))
def test_shares_are_true_to_half_a_thousandth(profiler: ModuleType, sms: int) -> None:
    """The share written down is the granted one, rounded; asked-for counts are whole groups below the device."""
    assert abs(profiler.plan.share_milli(sms, 200) - 5 * sms) <= 0.5
    for count in profiler.shares.wanted_sms(sms):
        assert count % profiler.shares.GROUP == 0
        assert count < sms


def test_timing_by_a_clock_that_pretends(profiler: ModuleType) -> None:
    """Warm-ups do not count, quick runs fill the target, slow ones are repeated little, and the host is found out."""
    timing = sys.modules["profiling_gpu.timing"]

    class Clock:
        def __init__(self, latencies: list[float], host_ms: float = 0.0) -> None:
            self.latencies, self.host_ms, self.used = latencies, host_ms, 0

        def once(self, run: object) -> tuple[float, float]:
            self.used += 1
            return self.latencies[min(self.used - 1, len(self.latencies) - 1)], self.host_ms

    quick = timing.measure(lambda: None, Clock([99.0, 99.0, 2.0]), target_s=0.05)
    assert (quick.median_ms, quick.p95_ms, quick.repeats, quick.host_bound) == (2.0, 2.0, 25, False)
    assert timing.measure(lambda: None, Clock([0.1]), target_s=1.0).repeats == timing.GREATEST_REPEATS
    assert timing.measure(lambda: None, Clock([500.0]), target_s=0.1).repeats == 3
    assert timing.measure(lambda: None, Clock([3000.0]), target_s=0.1).repeats == 1
    assert timing.measure(lambda: None, Clock([1.0], host_ms=0.95), target_s=0.01).host_bound
    twenty = timing.summarised([float(i) for i in range(1, 21)], [0.0] * 20)
    assert (twenty.p95_ms, twenty.least_ms) == (19.0, 1.0)


def test_whether_the_limit_bites(profiler: ModuleType) -> None:
    """A lane of half the SMs or fewer has to be slowed nearly in proportion; without such a lane nothing is shown."""
    rows = [
        {"sms": 132, "ms": 1, "slowdown": 1.0, "expected": 1.0},
        {"sms": 64, "ms": 2, "slowdown": 1.9, "expected": 2.06},
    ]
    assert profiler.shares.bites(rows)
    assert not profiler.shares.bites(rows[:1])
    assert not profiler.shares.bites([*rows, {"sms": 8, "ms": 2, "slowdown": 2.0, "expected": 16.5}])


def test_a_dry_run_end_to_end(
    profiler: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny modules on the CPU go the whole way: build, prepare, time, write, fit."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    path = tmp_path / "table.csv"
    monkeypatch.setattr(profiler, "START", time.monotonic())
    arguments = ["--dry-run", "--quick", "--only", "bert-base,llama2-7b-decode", "--out", str(path), "--budget-s", "60"]
    assert profiler.main(arguments) == 0
    assert set(read_profiles(path)) == {"bert-base", "llama2-7b-decode"}
    out = capsys.readouterr().out
    assert "finished" in out
    assert "held-out" in out


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [([], "torch, torchvision, transformers"), (["--dry-run", "--only", "bert-base"], "torch, transformers")],
)
def test_missing_packages_are_one_line(
    profiler: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    needed: str,
) -> None:
    """Exit 2 and nothing else: no table is made, and none that is there is fitted as if it had been measured."""
    monkeypatch.setattr(profiler, "find_spec", lambda name: None)
    path = tmp_path / "table.csv"
    assert profiler.main([*arguments, "--out", str(path)]) == 2
    assert capsys.readouterr().out == f"needs {needed}; not installed: {needed}\n"
    assert not path.exists()


def test_a_table_without_rows_is_said_to_be_one(
    profiler: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing or empty: exit 1 and one line; with rows it is fitted."""
    path = tmp_path / "table.csv"
    assert profiler.main(["--fits-only", "--out", str(path)]) == 1
    profiler.Table(path, "pretended")
    assert profiler.main(["--fits-only", "--out", str(path)]) == 1
    assert capsys.readouterr().out == 2 * f"no measurements in {path}\n"
    _run(profiler, path, PretendedDevice(profiler), deadline=1000)
    assert profiler.main(["--fits-only", "--out", str(path)]) == 0
    assert "held-out" in capsys.readouterr().out


def test_measuring_that_fails_is_no_success(
    profiler: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1 even where the table has rows of an earlier run."""
    path = tmp_path / "table.csv"
    _run(profiler, path, PretendedDevice(profiler), deadline=3)

    def broken(*_: object) -> str:
        raise RuntimeError("no such device")

    monkeypatch.setattr(profiler, "find_spec", lambda name: name)
    monkeypatch.setattr(profiler, "_measure", broken)
    assert profiler.main(["--dry-run", "--no-fits", "--out", str(path)]) == 1
    assert "failed" in capsys.readouterr().out


def test_a_measured_table_can_become_the_example(profiler: ModuleType, tmp_path: Path) -> None:
    """The adopted files are a workload that reads, from the measured rows alone; what was not measured is left out."""
    adopt = bench_module("adopt_gpu_profiles")
    path = tmp_path / "measured.csv"
    table = profiler.Table(path, "H100-SXM5-80GB")
    batches = {each.name: each.batches for each in profiler.FUNCTIONS if each.name != "gpt2-large"}
    device = PretendedDevice(profiler, cell_s=0.0)
    cells = profiler.plan.ordered_cells(batches, [8, 16, 32, 64, 132])
    profiler.measurer.run(cells, device, table, device_sms=132, deadline=1.0, now=lambda: 0.0, say=lambda line: None)
    machine = dict.fromkeys(("device", "date", "driver", "cuda", "torch", "torchvision", "transformers", "method"), "x")
    check = [{"sms": 132, "slowdown": 1.0, "expected": 1.0}, {"sms": 64, "slowdown": 2.0, "expected": 2.06}]
    run = {**machine, "memory_mib": 81559, "share_check": check}
    table.save({"device_sms": 132, "context_mib": 600.0, "runs": [run]})
    adopt.main([str(path), "--write", "--into", str(tmp_path)])
    made = read_workload(tmp_path / "workload.toml")
    assert {each.name for each in made.functions} == {each.name for each in adopt.WORKLOAD} - {"gpt2-large"}
    assert {node.gpu_type.memory_mib for node in made.cluster.nodes} == {81559}
    for name, samples in read_profiles(path).items():
        adopted = read_profiles(tmp_path / "profiles.csv")[name]
        assert adopted.merged() == samples.merged()
    assert "64 SMs 2.00x (2.06x)" in (tmp_path / "README.md").read_text(encoding="utf-8")
