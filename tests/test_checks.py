"""Whatever comes as an argument, a message can be made of it."""

from __future__ import annotations

from typing import Any

import pytest

from dilu_core import _checks as check
from dilu_core.errors import InvalidArgumentError


class Mute:
    """Cannot be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def nested() -> Any:
    """A list that is too deep to be printed."""
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize("odd", [10**5000, -(10**5000), Mute(), nested()], ids=["long", "negative", "mute", "deep"])
@pytest.mark.parametrize(
    "checked",
    [
        lambda odd: check.integer("x", odd, at_least=1, at_most=9),
        lambda odd: check.finite("x", odd, at_least=1.0),
        lambda odd: check.text("x", odd),
        lambda odd: check.choice("x", odd, ("a", "b")),
        lambda odd: check.flag("x", odd),
        lambda odd: check.names("x", [odd]),
        lambda odd: check.instances_of("x", [odd], dict),
        lambda odd: check.float_column("x", odd),
        lambda odd: check.document("x", odd, version=1),
        lambda odd: check.document("x", {"version": odd}, version=1),
        lambda odd: check.entries("x", {"a": odd}, "a"),
    ],
)
def test_what_cannot_be_printed_is_refused_by_name(checked: Any, odd: Any) -> None:
    """An integer of five thousand digits, an object without a repr and a list too deep are refused like others."""
    with pytest.raises(InvalidArgumentError, match=r"^x(\[0\]|\.version|\.a(\[0\])?)? "):
        checked(odd)


def test_what_is_shown_is_short() -> None:
    """The repr as it is, or cut; the type of what has none."""
    assert check.shown("a") == "'a'"
    assert check.shown([1] * 99, 9) == "[1, 1, 1,"
    assert check.shown(Mute()) == "a value of type Mute that cannot be printed"
