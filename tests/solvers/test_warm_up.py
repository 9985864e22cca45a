"""warm_up compiles what the first decisions need."""

from __future__ import annotations

from dilu_core.solvers.warm_up import warm_up


def test_it_runs_twice() -> None:
    """Warming up again is harmless, and says how long it took."""
    assert warm_up().seconds > 0
    assert warm_up().backend == "cpu"
