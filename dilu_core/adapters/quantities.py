"""Kubernetes quantities: the numbers with suffixes that resources and metrics are written in.

Grammar and suffixes: "Quantity" in k8s.io/apimachinery/pkg/api/resource
(https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/).
"""

from __future__ import annotations

import re
from fractions import Fraction

from dilu_core import _checks as check

_MIB = 2**20
_SUFFIXES = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15),
    "E": Fraction(10**18), "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
    "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d{1,2})|([A-Za-z]{0,2}))")


def parse_quantity(argument: str, value: object) -> Fraction:
    """The exact number that `value` stands for: a string such as `"1500m"`, `"12Mi"`, `"3e2"`, or a plain number.

    Raises `InvalidArgumentError` naming `argument` for anything else.
    """
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    found = _FORM.fullmatch(text.strip()) if isinstance(text, str) and len(text) < 64 else None
    if found is None or (found[3] or "") not in _SUFFIXES:
        check.fail(argument, f"is {value!r:.80}; expected a Kubernetes quantity, such as '2', '500m' or '16Gi'.")
    exponent = Fraction(10) ** int(found[2][1:]) if found[2] else Fraction(1)
    return Fraction(found[1]) * exponent * _SUFFIXES[found[3] or ""]


def _amount(argument: str, value: object) -> Fraction:
    """A quantity of something that is asked for or offered: at least 0."""
    number = parse_quantity(argument, value)
    if number < 0:
        check.fail(argument, f"is {value!r:.80}; expected a quantity of at least 0.")
    return number


def whole_quantity(argument: str, value: object) -> int:
    """A quantity that counts devices or MiB, as extended resources do: a whole number of at least 0."""
    number = parse_quantity(argument, value)
    if number.denominator != 1 or number < 0:
        check.fail(argument, f"is {value!r:.80}; expected a whole number of at least 0.")
    return int(number)


def demand_cpu_milli(argument: str, value: object) -> int:
    """CPU asked for, in thousandths of a core, rounded up."""
    return -int(-_amount(argument, value) * 1000 // 1)


def demand_mib(argument: str, value: object) -> int:
    """Bytes asked for, in MiB, rounded up."""
    return -int(-_amount(argument, value) / _MIB // 1)


def offered_cpu_milli(argument: str, value: object) -> int:
    """CPU offered, in thousandths of a core, rounded down."""
    return int(_amount(argument, value) * 1000 // 1)


def offered_mib(argument: str, value: object) -> int:
    """Bytes offered, in MiB, rounded down."""
    return int(_amount(argument, value) / _MIB // 1)
