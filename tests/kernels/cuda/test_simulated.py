"""The numba-cuda kernels run in the simulator, where each thread is a Python thread, as the CPU kernels do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_kernels_agree_in_the_simulator() -> None:
    """Fits and replays, with more threads than work, in a process that chose the simulator before numba came."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: there is no simulator")
    program = Path(__file__).with_name("simulated.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["fits: 2 functions agree", "replays: 14 pairs agree"]
