"""The parts of Kubernetes objects, as plain dictionaries and lists, checked on the way in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dilu_core import _checks as check


def mapping(argument: str, value: object) -> Mapping[str, Any]:
    """`value` as a mapping; what is missing (`None`) is empty."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        check.fail(argument, f"is {value!r:.80}; expected a mapping.")
    return value


def strings(argument: str, value: object) -> dict[str, str]:
    """A copy of `value` as a mapping of strings to strings, as labels are; what is missing (`None`) is empty."""
    given = mapping(argument, value)
    for key, each in given.items():
        check.text(f"{argument} key", key)
        check.text(f"{argument}[{key!r}]", each, empty=True)
    return dict(given)


def listed(argument: str, value: object) -> list[Mapping[str, Any]]:
    """`value` as a list of mappings; what is missing (`None`) is empty."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        check.fail(argument, f"is {value!r:.80}; expected a list.")
    return [mapping(f"{argument}[{i}]", each) for i, each in enumerate(value)]
