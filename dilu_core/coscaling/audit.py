"""A log of decisions as plain records: strict JSON, whatever a policy or a sensor put into them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from os import PathLike, fspath
from typing import Any, NoReturn

from dilu_core._checks import fail, integer, shown, text
from dilu_core.coscaling.policy import ScalingDecision

_DEEPEST = 16  # levels of a record; a state within an audit needs six
_WIDEST_BITS = 2048  # of an integer that stays one: Python refuses to print some of more than 640 digits


def plain(value: Any) -> Any:
    """`value` as strict JSON holds it: what is no number, text, list or mapping becomes text, and so do NaN and inf.

    So do integers of more than 600 digits, what contains itself, and what is nested deeper than 16 levels; what cannot
    be turned into text leaves its type. Never raises.
    """
    return _plain(value, ())


def _plain(value: Any, within: tuple[int, ...]) -> Any:
    """`value`, which stands within the containers of these ids."""
    try:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _WIDEST_BITS else str(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return str(value)
        if id(value) in within or len(within) >= _DEEPEST:
            return str(value)
        inside = (*within, id(value))
        columns = getattr(value, "_asdict", None)  # of a NamedTuple
        if isinstance(value, tuple) and columns is not None:
            value = columns()
        elif is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, Mapping):
            return {_key(key): _plain(each, inside) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(each, inside) for each in value]
        scalar = getattr(value, "item", None)  # of numpy, where the value has no dimensions
        return _plain(scalar(), inside) if scalar is not None and getattr(value, "ndim", 1) == 0 else str(value)
    except Exception:  # an object of the host's own may fail in any way, and the log must go on
        return f"<{type(value).__name__}>"


def _key(key: Any) -> str:
    try:
        return str(key)
    except Exception:
        return f"<{type(key).__name__}>"


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The latest decisions as JSON lines, oldest first, at most `capacity`; `dropped` older ones were let go.

    A value: `append` gives a new log and leaves this one alone. Nothing is written anywhere but by `write_jsonl`.
    """

    lines: tuple[str, ...] = ()
    capacity: int = 1000
    dropped: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "capacity", integer("capacity", self.capacity, at_least=1))
        object.__setattr__(self, "dropped", integer("dropped", self.dropped, at_least=0))
        if not isinstance(self.lines, tuple) or len(self.lines) > self.capacity:
            fail("lines", f"is no tuple of at most {self.capacity} JSON lines: {shown(self.lines, 80)}.")
        for i, line in enumerate(self.lines):
            if not _is_record(line):
                fail(f"lines[{i}]", f"is {shown(line, 80)}; expected a JSON object on one line.")

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records as dictionaries, oldest first."""
        return (json.loads(line) for line in self.lines)

    def append(self, decision: ScalingDecision, *, function: str = "") -> AuditLog:
        """This log with one more record: the decision, the `function` it is about, and its audit's entries beside.

        Where the audit has an entry of the same name, that of the decision stands, and `function`.
        """
        if not isinstance(decision, ScalingDecision):
            fail("decision", f"is {shown(decision, 80)}; expected a ScalingDecision.")
        audit = plain({} if decision.audit is None else decision.audit)
        if not isinstance(decision.audit, Mapping | None) or not isinstance(audit, dict):
            fail("decision.audit", f"is {shown(decision.audit, 80)}; expected a mapping or None.")
        name = text("function", function, empty=True)
        own = {field.name: getattr(decision, field.name) for field in fields(decision) if field.name != "audit"}
        record = {"function": name} | audit | plain(own) | {"function": name}
        kept = (*self.lines, json.dumps(record, allow_nan=False))[-self.capacity :]
        dropped = self.dropped + len(self.lines) + 1 - len(kept)
        return _log(lines=kept, capacity=self.capacity, dropped=dropped)

    def records(self) -> tuple[str, ...]:
        """One JSON object per decision, as text without line breaks, oldest first."""
        return self.lines

    def write_jsonl(self, path: str | PathLike[str]) -> None:
        """Write the records to `path`, one a line, in place of what was there."""
        if not isinstance(path, str | PathLike) or not isinstance(fspath(path), str) or "\0" in fspath(path):
            fail("path", f"is {shown(path, 80)}; expected a path.")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.lines)


def _log(**checked: Any) -> AuditLog:
    """A log of fields that are known to be right: to parse every line again at every record would cost milliseconds."""
    log = object.__new__(AuditLog)
    for name, value in checked.items():
        object.__setattr__(log, name, value)
    return log


def _is_record(line: object) -> bool:
    """Whether `line` is one JSON object, strictly, without line breaks."""
    if not isinstance(line, str) or "\n" in line or "\r" in line:
        return False
    try:
        return isinstance(json.loads(line, parse_constant=_refuse), dict)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
