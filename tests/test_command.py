"""The command line: a plan on standard output, files where asked, and one line with status 2 for bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dilu_core.__main__ as command
from dilu_core.kernels.cuda.device import probe
from dilu_core.plans import Plan

ROOT = Path(__file__).resolve().parents[1]


def test_the_example_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded example is planned, written as JSON and drawn, and says that its numbers are not measured."""
    plan_json, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    status = command.main(["plan", "--example", "--json", str(plan_json), "--plot", str(picture), "--require-complete"])
    out = capsys.readouterr().out
    assert status == 0
    assert "nothing in it was measured" in out
    for heading in ("Quotas", "Placement", "Result", "GPUs used", "fragmentation", "cost", "gap"):
        assert heading in out
    made = Plan.from_json(plan_json.read_text(encoding="utf-8"))
    assert made.complete
    assert made.gpus_used < made.whole_gpu_gpus
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(plan_json.read_text(encoding="utf-8"))["gpus_used"] == made.gpus_used


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[plan", "is not valid TOML"),
        (b"\x00\xff", "UTF-8"),
        (b"[[functions]]\nname = 'a'\n", "profile is 'a'"),
        (b"[plan]\nquantile = 2\n[gpu_types.A]\nmemory_mib = 1\n", "plan.quantile is 2"),
        (b"[plan]\ntime_limit_s = '10'\n[gpu_types.A]\nmemory_mib = 1\n", "plan.time_limit_s is '10'"),
        (b"[plan]\ntime_limit_s = [1]\n[gpu_types.A]\nmemory_mib = 1\n", "plan.time_limit_s is [1]"),
        (b"a = " + b"[" * 5000, "is not valid TOML"),
        (b"a = " + b"9" * 5000, "TOML"),
        (b'profiles = ["a\\u0000"]', "NUL"),
        (None, "No such file"),
    ],
)
def test_bad_files_get_one_line_and_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, says: str
) -> None:
    """Whatever is wrong with the file, standard error has one line about it and standard output nothing."""
    path = tmp_path / "workload.toml"
    if content is not None:
        path.write_bytes(content)
    assert command.main(["plan", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert says in captured.err


def test_an_unwritable_output_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON path in a folder that does not exist is an error about that path."""
    assert command.main(["plan", "--example", "--json", str(tmp_path / "no" / "plan.json")]) == 2
    assert "plan.json" in capsys.readouterr().err


def test_an_incomplete_plan_can_be_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An SLO nothing can meet is printed as a result with status 0, or 1 where completeness is required."""
    (tmp_path / "t.csv").write_text("function,batch,sm_milli,latency_ms,memory_mib\nf,1,500,10,100\nf,2,1000,9,100\n")
    path = tmp_path / "workload.toml"
    path.write_text(
        'profiles = "t.csv"\n[gpu_types.A]\nmemory_mib = 1000\n[[nodes]]\nname = "n"\ngpu_type = "A"\ngpus = 1\n'
        '[[functions]]\nname = "f"\nkind = "inference"\nslo_ms = 0.1\nload_rps = 1\n'
    )
    assert command.main(["plan", str(path)]) == 0
    assert "not planned    f:" in capsys.readouterr().out
    assert command.main(["plan", str(path), "--require-complete"]) == 1


def test_missing_matplotlib_is_one_line_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without matplotlib, --plot fails at once and says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command.main(["plan", "--example", "--plot", "plan.png"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "dilu_core[plot]" in captured.err


@pytest.mark.parametrize("ending", ["", ".xyz", ".png.bak"])
def test_an_unknown_picture_format_is_refused_before_any_work(capsys: pytest.CaptureFixture[str], ending: str) -> None:
    """A name that does not end in a known format is one line, and no plan is printed."""
    assert command.main(["plan", "--example", "--plot", f"picture{ending}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ".png, .svg, .pdf" in captured.err


def test_a_back_end_that_cannot_run_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DILU_BACKEND=cuda without CUDA ends with status 2 and the reason."""
    found = probe()
    if found.device is not None:
        pytest.skip(f"there is a GPU: {found.found}")
    monkeypatch.setenv("DILU_BACKEND", "cuda")
    assert command.main(["plan", "--example"]) == 2
    assert f"DILU_BACKEND is 'cuda', but {found.found}" in capsys.readouterr().err


def test_any_terminal_can_show_the_plan(tmp_path: Path) -> None:
    """Names beyond the terminal's encoding are replaced, and dollar signs are no mathematics in pictures."""
    (tmp_path / "t.csv").write_text("function,batch,sm_milli,latency_ms,memory_mib\nf,1,500,10,100\nf,2,1000,9,100\n")
    (tmp_path / "w.toml").write_text(
        'profiles = "t.csv"\n[gpu_types.A]\nmemory_mib = 1000\n[[nodes]]\nname = "n"\ngpu_type = "A"\ngpus = 2\n'
        '[[functions]]\nname = "$\\\\frac$ 語"\nprofile = "f"\nkind = "inference"\nslo_ms = 100\nload_rps = 1\n',
        encoding="utf-8",
    )
    picture = str(tmp_path / "p.svg")
    done = subprocess.run(
        [sys.executable, "-m", "dilu_core", "plan", str(tmp_path / "w.toml"), "--plot", picture],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "frac$ ?" in done.stdout


def test_a_closed_pipe_is_no_error() -> None:
    """A reader that stops early, such as `head`, ends the command quietly."""
    line = f'"{sys.executable}" -m dilu_core plan --example | head -n 1'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == ""


def test_as_a_program() -> None:
    """`python -m dilu_core` without arguments is a usage error with status 2 that names the command."""
    done = subprocess.run([sys.executable, "-m", "dilu_core"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "plan" in done.stderr
