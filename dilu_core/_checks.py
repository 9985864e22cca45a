"""Argument checks shared by every value: all at the door, before any work, with messages that name the argument."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from dilu_core.errors import InvalidArgumentError
from dilu_core.units import FULL_GPU_MILLI

T = TypeVar("T")

LARGEST = 2**53
"""Integers are kept exact in float64 columns, and their sums within int64."""


def fail(argument: str, message: str) -> NoReturn:
    """Raise the error that names `argument`; `message` continues the sentence."""
    raise InvalidArgumentError(argument, message)


def shown(value: object, most: int = 120) -> str:
    """`value` as messages print it: its repr, cut to `most` characters, or its type where it has none.

    An int of more digits than Python prints has none, nor a list nested too deep, nor an object whose own fails.
    """
    try:
        return f"{value!r:.{most}}"
    except Exception:  # whatever a foreign repr raises, the message must still name its argument
        return f"a value of type {type(value).__name__} that cannot be printed"


def integer(argument: str, value: object, *, at_least: int, at_most: int | None = None) -> int:
    """`value` as an int within bounds. Integral floats (2.0) pass; booleans and 2.5 do not."""
    span = f"at least {at_least}" if at_most is None else f"between {at_least} and {at_most}"
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        fail(argument, f"is {shown(value)}; expected an integer {span}.")
    whole = int(number)
    if abs(whole) > LARGEST:
        fail(argument, f"is {shown(value)}, beyond what integers of this library hold ({LARGEST}).")
    if whole < at_least or (at_most is not None and whole > at_most):
        fail(argument, f"is {shown(value)}; expected an integer {span}.")
    return whole


def share_milli(argument: str, value: object) -> int:
    """`value` as a share in milli-GPU, 1..1000."""
    return integer(argument, value, at_least=1, at_most=FULL_GPU_MILLI)


def finite(
    argument: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> float:
    """`value` as a finite float, optionally `> above`, `>= at_least`, `<= at_most`."""
    wanted = "a finite number"
    if above is not None:
        wanted += f" above {above:g}"
    if at_least is not None:
        wanted += f" of at least {at_least:g}"
    if at_most is not None:
        wanted += f" and at most {at_most:g}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.integer | np.floating):
        fail(argument, f"is {shown(value)}; expected {wanted}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    bad = (
        not math.isfinite(number)
        or (above is not None and number <= above)
        or (at_least is not None and number < at_least)
        or (at_most is not None and number > at_most)
    )
    if bad:
        fail(argument, f"is {shown(value)}; expected {wanted}.")
    return number


def text(argument: str, value: object, *, empty: bool = False) -> str:
    """`value` as a string (any Unicode), not empty unless `empty`."""
    if not isinstance(value, str):
        fail(argument, f"is {shown(value)}; expected a string.")
    if not empty and not value.strip():
        fail(argument, "is empty; expected a name.")
    return value


def choice(argument: str, value: object, choices: Sequence[str]) -> str:
    """`value` as one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        fail(argument, f"is {shown(value)}; expected one of {', '.join(choices)}.")
    return value


def names(argument: str, value: object) -> tuple[str, ...]:
    """`value` as a tuple of distinct names. A bare string is refused: it would be read letter by letter."""
    found = tuple(text(f"{argument}[{i}]", item) for i, item in enumerate(listed(argument, value, "names")))
    distinct(argument, found)
    return found


def listed(argument: str, value: object, what: str) -> tuple[Any, ...]:
    """`value` as a tuple of whatever it holds; strings are refused. `what` says in plural what should stand in it."""
    if not isinstance(value, str | bytes) and isinstance(value, Iterable):
        try:
            return tuple(value)
        except TypeError:  # an array without dimensions claims to be iterable
            pass
    fail(argument, f"is {shown(value)}; expected a sequence of {what}.")


def distinct(argument: str, items: Sequence[str]) -> None:
    """Refuse a name that stands twice in `items`."""
    seen: dict[str, int] = {}
    for i, item in enumerate(items):
        if item in seen:
            fail(f"{argument}[{i}]", f"repeats the name {item!r} of {argument}[{seen[item]}]; names must be distinct.")
        seen[item] = i


def instances_of(argument: str, value: object, kind: type[T]) -> tuple[T, ...]:
    """`value` as a tuple of `kind` objects."""
    found = listed(argument, value, kind.__name__)
    for i, item in enumerate(found):
        if not isinstance(item, kind):
            fail(f"{argument}[{i}]", f"is {shown(item)}; expected a {kind.__name__}.")
    return found


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """`array` with writing switched off (a copy where it is somebody else's)."""
    owned = array.copy() if array.base is not None or array.flags.writeable else array
    owned.flags.writeable = False
    return owned


def restore(value: object, state: Mapping[str, Any]) -> None:
    """Set the unpickled fields of a frozen `value`: pickling forgets that its arrays are read-only."""
    for name, field in state.items():
        if isinstance(field, np.ndarray):
            field.flags.writeable = False
        object.__setattr__(value, name, field)


def float_column(argument: str, values: object) -> NDArray[np.float64]:
    """`values` as a read-only one-dimensional float64 array; only real numbers pass, and masked ones become NaN."""
    column = float_array(argument, values, "column")
    if column.ndim != 1:
        fail(argument, f"has {column.ndim} dimensions; expected one column.")
    return column


def float_table(argument: str, values: object, shape: tuple[int, int]) -> NDArray[np.float64]:
    """`values` as a read-only float64 table of this shape; only real numbers pass, and masked ones become NaN."""
    table = float_array(argument, values, "table")
    if table.shape != shape:
        fail(argument, f"has shape {table.shape}; expected {shape}.")
    return table


def float_array(argument: str, values: object, what: str) -> NDArray[np.float64]:
    """`values` as a read-only float64 array; only real numbers pass, and masked ones become NaN. `what` names it."""
    try:
        raw = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        if raw.size and raw.dtype.kind not in "iufO":
            raise TypeError
        if raw.dtype.kind == "O" and any(isinstance(each, str | bytes | bool) for each in raw.flat):
            raise TypeError  # float() would read them
        array = np.array(np.ma.filled(raw.astype(np.float64), np.nan))
    except (TypeError, ValueError, OverflowError):
        fail(argument, f"is not a {what} of numbers: {shown(values)}.")
    array.flags.writeable = False
    return array


def knots(argument: str, values: object) -> NDArray[np.float64]:
    """`values` as the places between which a table interpolates: a read-only column, positive and ascending."""
    column = float_column(argument, values)
    if column.size == 0 or not (np.isfinite(column) & (column > 0)).all() or not (np.diff(column) > 0).all():
        fail(argument, "are no knots; expected positive numbers that ascend.")
    return column


def int_column(argument: str, values: object, *, at_least: int, at_most: int | None = None) -> NDArray[np.int64]:
    """`values` as a read-only one-dimensional int64 array within bounds; the message names the first bad element."""
    raw = float_column(argument, values)
    bad = ~np.isfinite(raw) | (raw != np.floor(raw)) | (raw < at_least) | (raw > LARGEST)
    if at_most is not None:
        bad |= raw > at_most
    if bad.any():
        i = int(np.argmax(bad))
        integer(f"{argument}[{i}]", float(raw[i]), at_least=at_least, at_most=at_most)
    column = raw.astype(np.int64)
    column.flags.writeable = False
    return column


def flag(argument: str, value: object) -> bool:
    """`value` as a bool; 0, 1 and strings are refused."""
    if not isinstance(value, bool | np.bool_):
        fail(argument, f"is {shown(value)}; expected True or False.")
    return bool(value)


def document(argument: str, value: object, *, version: int) -> Mapping[str, Any]:
    """`value` as a mapping with string keys that some `to_dict` of this `version` wrote."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        fail(argument, f"is {shown(value)}; expected a mapping as to_dict() writes it.")
    if item(argument, value, "version") != version:
        fail(f"{argument}.version", f"is {shown(value['version'])}; this version of the library reads {version}.")
    return value


def item(argument: str, data: Mapping[str, Any], key: str) -> Any:
    """`data[key]`, or an error that says `argument` lacks it."""
    if key not in data:
        fail(f"{argument}.{key}", f"is missing; found {', '.join(map(str, data)) or 'nothing'}.")
    return data[key]


def entries(argument: str, data: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The mappings in the list `data[key]`, each with the name an error about it should use."""
    found = item(argument, data, key)
    if not isinstance(found, list | tuple):
        fail(f"{argument}.{key}", f"is {shown(found)}; expected a list.")
    named = [(f"{argument}.{key}[{i}]", entry) for i, entry in enumerate(found)]
    for where, entry in named:
        if not isinstance(entry, Mapping):
            fail(where, f"is {shown(entry)}; expected a mapping.")
    return named


def build(
    argument: str,
    data: Mapping[str, Any],
    kind: Callable[..., T],
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
) -> T:
    """`kind(**data)` over the named keys alone; what it refuses is named as a part of `argument`."""
    fields = {key: item(argument, data, key) for key in required}
    fields |= {key: data[key] for key in optional if key in data}
    try:
        return kind(**fields)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{argument}.{error.argument}", error.message) from error
