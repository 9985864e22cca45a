"""The numba-cuda kernels run in the simulator, where each thread is a Python thread, as the CPU kernels do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_kernels_agree_in_the_simulator() -> None:
    """Fits and replays through their launchers, in pieces, in a process that chose the simulator before numba came."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: there is no simulator")
    program = [sys.executable, "-m", "tests.kernels.cuda.simulated"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    agreed = ["fits: 3 functions agree in 2 chunks on simulator", "replays: 16 pairs agree in 4 chunks on simulator"]
    assert done.stdout.splitlines() == agreed
