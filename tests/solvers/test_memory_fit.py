"""fit_memory: a bound over every measurement, and the least one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from dilu_core.errors import InvalidArgumentError
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.memory_fit import fit_memory

tables = st.lists(st.tuples(st.integers(1, 512), st.floats(1, 80_000)), min_size=1, max_size=15)


def measured(table: list[tuple[int, float]]) -> ProfileSamples:
    batch, memory = zip(*table, strict=True)
    return ProfileSamples(batch, [500] * len(table), [1.0] * len(table), memory_mib=memory)


@given(tables)
def test_bound_covers_every_measurement_and_is_least(table: list[tuple[int, float]]) -> None:
    """Feasible for the linear programme, and as good as what a general solver of it finds."""
    model = fit_memory(measured(table))
    batch, memory = np.array(table).T
    assert all(model.memory_mib(int(b)) >= m * (1 - 1e-6) for b, m in table)
    solved = linprog([1.0, batch.mean()], A_ub=-np.stack([np.ones_like(batch), batch], axis=1), b_ub=-memory)
    assert model.base_mib + model.per_sample_mib * batch.mean() == pytest.approx(solved.fun, rel=1e-6)


def test_an_affine_table_is_recovered() -> None:
    """1500 MiB and 12.5 MiB a sample come back, outliers below them notwithstanding."""
    table = [(b, 1500 + 12.5 * b) for b in (1, 2, 4, 8, 16, 32)] + [(16, 900.0)]
    model = fit_memory(measured(table))
    assert model.base_mib == pytest.approx(1500)
    assert model.per_sample_mib == pytest.approx(12.5)
    assert model.memory_mib(64) == 2300


def test_memory_that_falls_with_the_batch_is_bounded_by_a_constant() -> None:
    """No negative slope: a smaller batch elsewhere must not need more than the model says."""
    model = fit_memory(measured([(1, 900.0), (8, 700.0)]))
    assert (model.base_mib, model.per_sample_mib) == (900.0, 0.0)


def test_rows_without_memory_are_left_out_and_none_at_all_is_an_error() -> None:
    """NaN rows do not count; if nothing was measured the error names memory_mib."""
    samples = ProfileSamples([1, 2], [500, 500], [1.0, 1.0], memory_mib=[float("nan"), 640])
    assert fit_memory(samples).memory_mib(2) == 640
    for empty in (None, [float("nan"), float("nan")]):
        with pytest.raises(InvalidArgumentError, match="memory_mib was not measured"):
            fit_memory(ProfileSamples([1, 2], [500, 500], [1.0, 1.0], memory_mib=empty))
    with pytest.raises(InvalidArgumentError, match="samples"):
        fit_memory([1, 2, 3])  # type: ignore[arg-type]
