"""warm_up compiles what the first decisions need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_kernel_that_solvers_call_is_ready_afterwards() -> None:
    """In a fresh interpreter, warming up leaves no kernel imported by a solver uncompiled (or not loaded).

    These are CPU kernels: a DILU_BACKEND that asks for a GPU, found or not, changes nothing.
    """
    code = (
        "import pkgutil, importlib, dilu_core.solvers as solvers\n"
        "from dilu_core import warm_up\n"
        "assert warm_up().seconds > 0\n"
        "found = {}\n"
        "for each in pkgutil.walk_packages(solvers.__path__, 'dilu_core.solvers.'):\n"
        "    for name, value in vars(importlib.import_module(each.name)).items():\n"
        "        if hasattr(value, 'signatures'):\n"
        "            found[f'{value.__module__}.{value.__name__}'] = bool(value.signatures)\n"
        "print(len(found) > 30, [name for name, ready in found.items() if not ready])"
    )
    environment = {**os.environ, "DILU_BACKEND": "cuda"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env=environment
    )
    assert done.stdout.strip() == "True []"
