"""Errors, units and result vocabulary: what everything else stands on."""

from __future__ import annotations

import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core import units
from dilu_core.errors import DiluError, FileFormatError, InvalidArgumentError
from dilu_core.result import Limit, SolveStats, Termination, TerminationReason


def test_float_noise_never_becomes_a_unit() -> None:
    """0.59 * 1000 is 590.0000000000001 in floating point and stays 590; 0.29 * 1000 offers 290."""
    assert units.demand_milli(0.5900000000000001) == 590
    assert units.capacity_milli(0.29 * 1.0) == 290
    assert units.demand_mib_from_gib(24) == 24 * 1024


@given(st.integers(0, 10**9), st.integers(1, 1000))
def test_rounding_is_exact_on_fractions_of_a_unit(numerator: int, denominator: int) -> None:
    """Demands round up and capacities down, as exact rational arithmetic says."""
    exact = Fraction(numerator, denominator)
    assert units.demand_units(numerator / denominator) == -(-exact.numerator // exact.denominator)
    assert units.capacity_units(numerator / denominator) == exact.numerator // exact.denominator


@given(st.integers(1, 1000))
def test_milli_round_trip(milli: int) -> None:
    """A share written as a fraction comes back as the same milli-GPU in both directions."""
    assert units.demand_milli(milli / 1000) == units.capacity_milli(milli / 1000) == milli


def test_errors_say_where() -> None:
    """An argument error names the argument, a file error the file and line, and both are ValueErrors of ours."""
    argument = InvalidArgumentError("slo_ms", "is -1; expected more.")
    assert str(argument) == "slo_ms is -1; expected more."
    assert str(FileFormatError("a.csv", "bad row.", 7)) == "a.csv:7: bad row."
    assert str(FileFormatError("a.csv", "bad row.")) == "a.csv: bad row."
    assert isinstance(argument, DiluError)
    assert isinstance(argument, ValueError)


@pytest.mark.parametrize("error", [InvalidArgumentError("a", "is bad."), FileFormatError("f", "is bad.", 3)])
def test_errors_cross_process_borders(error: DiluError) -> None:
    """Errors survive pickling, so that an executor can bring them home."""
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_results_compare_and_pickle() -> None:
    """Terminations are values; reason and limit are separate and read as words."""
    ended = Termination(TerminationReason.FEASIBLE, Limit.TIME, "cut short")
    assert pickle.loads(pickle.dumps(ended)) == ended
    assert f"{ended.reason} {ended.limit}" == "feasible time"
    assert SolveStats(0.5).backend == "cpu"
