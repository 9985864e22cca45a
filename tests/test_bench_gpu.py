"""The frame of bench/gpu: it resumes, keeps its budget, never times a wrong kernel, and says what it found."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cuda.device import Device, Probe

FOLDER = Path(__file__).resolve().parents[1] / "bench" / "gpu"
MODULES = ("case", "hardware", "measuring", "timing", "__main__")
H100 = Device("NVIDIA H100", (9, 0), 132, 80 << 30, "13.0", "13.0", "14.2.0")


@pytest.fixture
def frame(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of bench/gpu, imported as `python bench/gpu` does and forgotten after; without a GPU."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    try:
        loaded = {name: importlib.import_module(name) for name in MODULES[:-1]}
        spec = importlib.util.spec_from_file_location("bench_gpu_main", FOLDER / "__main__.py")
        assert spec is not None
        assert spec.loader is not None
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        monkeypatch.setattr(main, "probe", lambda: Probe(None, "no NVIDIA driver was found."))
        yield SimpleNamespace(main=main, **loaded)
    finally:
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(before)


@pytest.fixture
def with_gpu(frame: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The frame on a machine that seems to have an H100: events are wall times."""
    limits = frame.hardware.Limits({"fp32": 1e12}, 3e12, 2.5e12)
    monkeypatch.setattr(frame.main, "probe", lambda: Probe(H100, "NVIDIA H100"))
    monkeypatch.setattr(frame.main, "limits", lambda: limits)
    times = frame.timing.Times.of([2e-6])
    monkeypatch.setattr(frame.main, "launch_cost", lambda: {"device": times, "host": times})
    monkeypatch.setattr(frame.measuring, "on_device", lambda launch, limit_s: frame.timing.wall(launch, most=3))
    return frame


def _case(frame: Any, ran: list[str], name: str = "joint", validate: Callable[[], str] = lambda: "8 of 8 agree") -> Any:
    def note(what: str) -> Callable[[], None]:
        return lambda: ran.append(what)

    def cuda() -> RunRecord:
        ran.append("cuda")
        return RunRecord("cuda", "NVIDIA H100", 2, 0.5)

    return lambda small: frame.case.Case(
        name=name,
        unit="problems",
        work=8.0 if small else 4096.0,
        prepare=note("prepare"),
        validate=validate,
        cuda=cuda,
        on_device=lambda: note("launch"),
        cpu=note("cpu"),
        cpu_threads=lambda: 2,
        operations=lambda: 1e6,
        bytes_moved=lambda: 1e3,
        pruned=lambda: 0.75,
    )


def _run(frame: Any, out: Path, loaders: dict[str, Any], *more: str) -> int:
    return int(frame.main.main(["--out", str(out), "--only", ",".join(loaders), *more], loaders))


def test_without_a_gpu_it_says_what_was_found(frame: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, no file, and the probe's words."""
    assert _run(frame, tmp_path / "out.json", {"joint": _case(frame, [])}) == 2
    assert "no NVIDIA driver was found" in capsys.readouterr().out
    assert not (tmp_path / "out.json").exists()


def test_the_cpu_side_can_run_alone(frame: Any, tmp_path: Path) -> None:
    """--cpu times the CPU, with its thread count, and runs nothing of CUDA."""
    ran: list[str] = []
    assert _run(frame, tmp_path / "out.json", {"joint": _case(frame, ran)}, "--cpu", "--small") == 0
    row = json.loads((tmp_path / "out.json").read_text())["cases"]["joint"]
    assert (row["cpu"]["threads"], row["work"], row["pruned"]) == (2, 8.0, 0.75)
    assert set(ran) == {"prepare", "cpu"}


def test_a_gpu_is_validated_then_timed_on_both_sides(with_gpu: Any, tmp_path: Path) -> None:
    """The row holds kernel, end to end, CPU, ratios and the distance to the limit; the report the machine."""
    ran: list[str] = []
    case = _case(with_gpu, ran, validate=lambda: ran.append("validate") or "all agree")  # type: ignore[func-returns-value]
    assert _run(with_gpu, tmp_path / "out.json", {"joint": case}) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    row = report["cases"]["joint"]
    assert ran[:2] == ["prepare", "validate"]
    assert {"cuda", "launch", "cpu"} <= set(ran)
    assert (row["validated"], row["gpu"]["chunks"], row["gpu"]["compile_s"]) == ("all agree", 2, 0.5)
    assert row["ratio"]["kernel"] == pytest.approx(row["cpu"]["median_s"] / row["gpu"]["kernel"]["median_s"])
    limit = row["gpu"]["limit"]
    assert limit["least_s"] == pytest.approx(1e-6)
    assert limit["times_least"] == pytest.approx(row["gpu"]["kernel"]["median_s"] / 1e-6)
    assert report["machine"]["device"]["name"] == "NVIDIA H100"
    assert report["launch"]["device"]["median_s"] == 2e-6


def test_a_wrong_kernel_is_never_timed(with_gpu: Any, tmp_path: Path) -> None:
    """A mismatch is exit 1 and a row without times; the next case still runs, the wrong one again next time."""

    def differs() -> str:
        raise AssertionError("problem 3: 5 instead of 6")

    ran: list[str] = []
    loaders = {"joint": _case(with_gpu, ran, validate=differs), "sweep": _case(with_gpu, [], "sweep")}
    assert _run(with_gpu, tmp_path / "out.json", loaders) == 1
    cases = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert cases["joint"]["wrong"] == "problem 3: 5 instead of 6"
    assert "gpu" in cases["sweep"]
    assert set(ran) == {"prepare"}
    assert _run(with_gpu, tmp_path / "out.json", {"joint": _case(with_gpu, ran)}) == 0
    assert "gpu" in json.loads((tmp_path / "out.json").read_text())["cases"]["joint"]


def test_a_run_resumes(with_gpu: Any, tmp_path: Path) -> None:
    """Cases in the file are skipped unless --again; a file of another size is started anew."""
    ran: list[str] = []
    loaders = {"joint": _case(with_gpu, ran)}
    for more, repeats in (((), True), ((), False), (("--again",), True), (("--small",), True)):
        ran.clear()
        assert _run(with_gpu, tmp_path / "out.json", loaders, *more) == 0
        assert bool(ran) == repeats


def test_a_figure_of_the_cpu_alone_does_not_count_as_done_on_a_gpu(with_gpu: Any, tmp_path: Path) -> None:
    """Rows without GPU times are measured once there is one."""
    assert with_gpu.main._is_done({"cpu": {}}, on_gpu=False)
    assert not with_gpu.main._is_done({"cpu": {}}, on_gpu=True)


def test_no_case_starts_after_the_budget(with_gpu: Any, tmp_path: Path) -> None:
    """Exit 3, and what was not run is said; the file is of what was."""
    ran: list[str] = []
    assert _run(with_gpu, tmp_path / "out.json", {"joint": _case(with_gpu, ran)}, "--budget-s", "0") == 3
    assert ran == []


def test_an_error_in_one_case_leaves_the_others(with_gpu: Any, tmp_path: Path) -> None:
    """A case that cannot even start is recorded as wrong."""

    def broken(_small: bool) -> Any:
        raise RuntimeError("no such file")

    loaders = {"joint": broken, "sweep": _case(with_gpu, [], "sweep")}
    assert _run(with_gpu, tmp_path / "out.json", loaders) == 1
    cases = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert cases["joint"]["wrong"] == "RuntimeError: no such file"
    assert "gpu" in cases["sweep"]


def test_limits_are_the_slower_of_arithmetic_and_memory(frame: Any) -> None:
    """1e12 operations at 1e12/s against 6e12 bytes at 3e12/s: memory decides; an unknown GPU has no limit."""
    limits = frame.hardware.Limits({"fp32": 1e12}, 3e12, 2.5e12)
    assert limits.seconds("fp32", 1e12, 6e12) == 2.0
    assert limits.seconds("fp32", 4e12, 6e12) == 4.0
    assert limits.seconds("fp64", 1, 1) is None


@pytest.mark.parametrize("only", ["nope", "joint,nope", "", ","])
def test_unknown_cases_are_refused_before_anything_runs(
    frame: Any, tmp_path: Path, only: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 with the names there are, with or without a GPU, and no file."""
    for more in ((), ("--cpu",)):
        with pytest.raises(SystemExit) as caught:
            frame.main.main(["--out", str(tmp_path / "out.json"), "--only", only, *more])
        assert caught.value.code == 2
        assert "expected some of joint, sweep, what_if, fits, replays" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"cases": 3}', "\ufffe"])
def test_a_file_that_is_no_report_is_left_alone(
    frame: Any, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, one line, and the file as it was."""
    out = tmp_path / "out.json"
    out.write_text(text, encoding="utf-8")
    assert _run(frame, out, {"joint": _case(frame, [])}, "--cpu") == 2
    assert "holds no report of this command" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == text


def test_it_runs_as_a_module() -> None:
    """`python -m bench.gpu` finds its parts as `python bench/gpu` does."""
    command = [sys.executable, "-m", "bench.gpu", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parents[1], check=True)
    assert "--budget-s" in done.stdout


def test_times_are_readable(frame: Any) -> None:
    """Three digits and a unit."""
    assert [frame.timing.readable(s) for s in (2.0, 0.0123, 4.56e-6, float("nan"))] == [
        "2 s",
        "12.3 ms",
        "4.56 us",
        "-",
    ]
