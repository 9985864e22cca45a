"""Which functions' loads rise together, learnt from what is observed period by period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from dilu_core import _checks as check
from dilu_core.correlation import SHRINKAGE, BurstMoments, Floats, LoadCorrelation, burst_above
from dilu_core.traces import MOST_RPS

_VERSION = 1
_SUMS = tuple(each.name for each in fields(BurstMoments))


class CorrelationEstimator:
    """Learns a `LoadCorrelation` from arrival rates, the recent ones counting more.

    Every observation loses half its weight within `half_life_s`. A function bursts by what its rate is above its mean
    before that period, so its first period is no burst. Functions may come at any time; one that an observation does
    not name was not observed then, which is not the same as no arrivals. At most `most_functions` are remembered: the
    one seen longest ago makes room (equal ones by name). An observation costs O(n^2) for n functions. The state is a
    JSON-able value: a restored estimator goes on bit for bit.
    """

    def __init__(
        self, *, half_life_s: float = 86400.0, shrinkage: float = SHRINKAGE, most_functions: int = 1000
    ) -> None:
        self.half_life_s = check.finite("half_life_s", half_life_s, above=0.0)
        self.shrinkage = check.finite("shrinkage", shrinkage, at_least=0.0)
        self.most_functions = check.integer("most_functions", most_functions, at_least=1)
        self._functions: list[str] = []
        self._time_s: float | None = None
        self._column = np.zeros((4, 0))  # weight and sum of the loads, the peak (all fading), and when seen last
        self._sums = {name: np.zeros((0, 0)) for name in _SUMS}

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions remembered."""
        return tuple(self._functions)

    def observe(self, time_s: float, arrivals_rps: Mapping[str, float]) -> None:
        """Take in the mean arrival rates of the period that ended at `time_s`.

        A time before the latest one counts as the latest. Raises `InvalidArgumentError` for rates that are not numbers
        from 0 to 10^15, and then nothing is taken in.
        """
        now = check.finite("time_s", time_s)
        if not isinstance(arrivals_rps, Mapping):
            check.fail("arrivals_rps", f"is {arrivals_rps!r:.120}; expected a mapping of functions to rates.")
        rates = {
            check.text("arrivals_rps", name): check.finite(
                f"arrivals_rps[{name!r}]", rate, at_least=0.0, at_most=MOST_RPS
            )
            for name, rate in arrivals_rps.items()
        }
        if len(rates) > self.most_functions:
            check.fail("arrivals_rps", f"names {len(rates)} functions, more than most_functions={self.most_functions}.")
        last = now if self._time_s is None else self._time_s
        self._time_s = max(now, last)
        fade = 0.5 ** min(max(0.0, now - last) / self.half_life_s, 1000.0)
        self._column[:3] *= fade
        for table in self._sums.values():
            table *= fade
        self._admit(rates)
        load, seen = np.zeros((1, len(self._functions))), np.zeros((1, len(self._functions)), np.bool_)
        for i, name in enumerate(self._functions):
            if name in rates:
                load[0, i], seen[0, i] = rates[name], True
        weight, total, peak, at = self._column
        known = weight > 0.0
        mean = np.where(known, total / np.where(known, weight, 1.0), load[0])
        burst = np.where(seen, burst_above(load, mean), 0.0)
        moments = BurstMoments.of(load, burst, seen)
        for name, table in self._sums.items():
            table += getattr(moments, name)
        weight += seen[0]
        total += load[0]
        np.maximum(peak, load[0], out=peak)
        at[seen[0]] = self._time_s

    def _admit(self, rates: Mapping[str, float]) -> None:
        """Make rows for new functions, in the order of their names, and drop those seen longest ago if it gets full."""
        new = sorted(set(rates) - set(self._functions))
        if not new:
            return
        excess = len(self._functions) + len(new) - self.most_functions
        kept = list(range(len(self._functions)))
        if excess > 0:
            absent = [i for i in kept if self._functions[i] not in rates]
            absent.sort(key=lambda i: (self._column[3, i], self._functions[i]))
            dropped = set(absent[:excess])
            kept = [i for i in kept if i not in dropped]
        self._functions = [self._functions[i] for i in kept] + new
        self._column = np.pad(self._column[:, kept], ((0, 0), (0, len(new))))
        self._sums = {
            name: np.pad(table[np.ix_(kept, kept)], ((0, len(new)), (0, len(new))))
            for name, table in self._sums.items()
        }

    def correlation(self) -> LoadCorrelation:
        """What is known now."""
        moments = BurstMoments(**self._sums)
        return LoadCorrelation.from_moments(self.functions, moments, self._column[2], shrinkage=self.shrinkage)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "half_life_s": self.half_life_s,
            "shrinkage": self.shrinkage,
            "most_functions": self.most_functions,
            "time_s": self._time_s,
            "functions": list(self._functions),
            "columns": self._column.tolist(),
            "sums": {name: table.tolist() for name, table in self._sums.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CorrelationEstimator:
        """The estimator `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("estimator", data, version=_VERSION)
        settings = ("half_life_s", "shrinkage", "most_functions")
        found = check.build("estimator", document, cls, required=settings)
        time_s = check.item("estimator", document, "time_s")
        found._time_s = None if time_s is None else check.finite("estimator.time_s", time_s)
        found._functions = list(check.names("estimator.functions", check.item("estimator", document, "functions")))
        n = len(found._functions)
        found._column = _table("estimator.columns", check.item("estimator", document, "columns"), (4, n))
        sums = check.item("estimator", document, "sums")
        if not isinstance(sums, Mapping):
            check.fail("estimator.sums", f"is {sums!r:.120}; expected a mapping.")
        for name in _SUMS:
            found._sums[name] = _table(f"estimator.sums.{name}", check.item("estimator.sums", sums, name), (n, n))
        return found


def _table(argument: str, rows: object, shape: tuple[int, int]) -> Floats:
    """Rows of a written state as a table that may be written in."""
    if not shape[1]:
        return np.zeros(shape)
    table = check.float_table(argument, rows, shape)
    if not np.isfinite(table).all():
        check.fail(argument, "has numbers that are not finite.")
    return table.copy()
