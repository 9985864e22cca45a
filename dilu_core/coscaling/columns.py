"""What sensors report of many functions at once, as columns of float64 in which NaN says "not known"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core._checks import fail, shown
from dilu_core.coscaling.policy import known_time

Floats = NDArray[np.float64]

_PLAIN = {float, int, np.float64}  # types that numpy reads as `known_time` does


def known_column(argument: str, values: Any, count: int) -> Floats:
    """`values` as a column `(count,)`: a sequence or an array of readings, or one reading for all.

    Each reading counts as `known_time` has it - texts, booleans and whatever else a sensor could not have meant are not
    known, and neither is what is masked, or `None` for the column. Infinities stay. Raises `InvalidArgumentError` for a
    column of another length, never for a reading.
    """
    try:
        return np.ascontiguousarray(np.broadcast_to(_read(values), (count,)))
    except (TypeError, ValueError):
        fail(argument, f"is {shown(values, 80)}; expected {count} numbers, one per function, or one for all.")


def _read(values: Any) -> Floats:
    """The readings in the shape they came in. Raises `TypeError` for a collection that is no column."""
    if hasattr(type(values), "__array__"):
        return _of_array(values if isinstance(values, np.ma.MaskedArray) else np.asarray(values))
    if values is None or isinstance(values, str | bytes | bytearray) or not isinstance(values, Iterable):
        return np.array(_number(values))
    if not isinstance(values, Sequence):
        raise TypeError
    if set(map(type, values)) <= _PLAIN:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:  # an int beyond all floats is no reading
            pass
    return np.array([_number(value) for value in values])


def _of_array(array: NDArray[Any]) -> Floats:
    if array.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # of long doubles
            return np.asarray(np.ma.filled(array.astype(np.float64), np.nan))
    if array.dtype.kind != "O":
        return np.full(array.shape, np.nan)
    return np.array([_number(value) for value in np.ma.filled(array, None).ravel()]).reshape(array.shape)


def _number(value: Any) -> float:
    number = known_time(value)
    return math.nan if number is None else number
