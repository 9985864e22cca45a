"""Which functions' loads rise together: spare share is only worth something when the neighbours are quiet.

Per period t the load x_f(t) of a function bursts by e_f(t) = max(0, x_f(t) - threshold_f), the threshold being its mean
load or what its request serves. Over the periods in which both functions were observed,

    score(f, g)          correlation of e_f and e_g, -1..1, times n / (n + shrinkage) for n periods: few say little
    burst_overlap(f, g)  part of f's burst that falls while g bursts too, 0..1:   sum e_f [e_g > 0] / sum e_f
    spare_share(f, g)    what f's burst finds unused of g's peak, 0..1:           1 - sum e_f x_g / (sum e_f peak_g)

A function that never bursts, or that nobody observed, has score 0 with all. Quiet times do not count as likeness:
two loads that are both low at night but peak at different hours score below 0, whatever a plain correlation says of
their small wiggles. Two copies of one function burst together, so score(f, f) tends to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.traces import ArrivalTrace

_VERSION = 1
_ROUNDING = 1e-9  # of the threshold: less above it is rounding, not burst
_LEAST = 1e-100  # a load, or a sum of loads, that counts as nothing: ratios and squares of more are exact enough
_MOST_CELLS = 100_000_000  # periods times functions

SHRINKAGE = 20.0
"""Periods at which a score is taken at half its value."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BurstMoments:
    """Sums over periods for every pair (row f, column g), `(n, n)` each: all that the three measures need."""

    periods: Floats  # in which both were observed
    burst: Floats  # e_f, in those periods
    square: Floats  # e_f^2
    product: Floats  # e_f e_g
    shared: Floats  # e_f where e_g > 0
    beside: Floats  # e_f x_g

    @classmethod
    def of(cls, load: Floats, burst: Floats, seen: NDArray[np.bool_]) -> BurstMoments:
        """The sums over columns `(n_periods, n)` of load and burst, 0 where not `seen`."""
        mask = seen.astype(np.float64)
        return cls(
            mask.T @ mask,
            burst.T @ mask,
            (burst * burst).T @ mask,
            burst.T @ burst,
            burst.T @ (burst > 0.0).astype(np.float64),
            burst.T @ load,
        )


def burst_above(load: Floats, threshold: Floats) -> Floats:
    """`load - threshold` where that is more than rounding, else 0."""
    above = load - threshold
    return np.where(above > _ROUNDING * np.abs(threshold), above, 0.0)


@dataclass(frozen=True, eq=False)
class LoadCorrelation:
    """Pairwise scores, overlaps and spare shares of some functions, as read-only matrices `(n, n)` in their order."""

    functions: tuple[str, ...]
    matrix: Floats
    overlap: Floats
    spare: Floats

    def __post_init__(self) -> None:
        functions = check.names("functions", self.functions)
        object.__setattr__(self, "functions", functions)
        for name, least in (("matrix", -1.0), ("overlap", 0.0), ("spare", 0.0)):
            table = check.float_table(name, getattr(self, name), (len(functions), len(functions)))
            if not ((table >= least) & (table <= 1.0)).all():
                check.fail(name, f"has numbers outside {least:g}..1.")
            object.__setattr__(self, name, table)
        if not np.array_equal(self.matrix, self.matrix.T):
            check.fail("matrix", "is not symmetric; score(f, g) and score(g, f) are the same thing.")

    @classmethod
    def of(
        cls,
        traces: Mapping[str, ArrivalTrace],
        *,
        period_s: float | None = None,
        thresholds_rps: Mapping[str, float] | None = None,
        shrinkage: float = SHRINKAGE,
    ) -> LoadCorrelation:
        """The correlation of these traces, which all begin at the same time and may end at different ones.

        Loads are averaged over periods of `period_s` (the longest period of any trace if `None`); what does not fill
        the last period is left out. Choose it near the time a burst lasts: within it, who borrows first is luck.
        `thresholds_rps` says above which load a function bursts, such as what its instances serve at their request;
        the mean of its trace where it says nothing.
        """
        if not isinstance(traces, Mapping):
            check.fail("traces", f"is {traces!r:.120}; expected a mapping of functions to arrival traces.")
        for name, trace in traces.items():
            if not isinstance(trace, ArrivalTrace):
                check.fail(f"traces[{name!r}]", f"is {trace!r:.120}; expected an ArrivalTrace.")
        shrinkage = check.finite("shrinkage", shrinkage, at_least=0.0)
        thresholds = thresholds_rps or {}
        if period_s is None:
            period_s = max((trace.period_s for trace in traces.values()), default=1.0)
        period_s = check.finite("period_s", period_s, above=0.0)
        rates = [_whole_periods(trace, period_s) for trace in traces.values()]
        longest = max((each.size for each in rates), default=0)
        if longest * len(rates) > _MOST_CELLS:
            check.fail("period_s", f"is {period_s}; {len(rates)} traces of {longest} such periods are too many.")
        load, burst = np.zeros((longest, len(rates))), np.zeros((longest, len(rates)))
        seen, peak = np.zeros((longest, len(rates)), np.bool_), np.zeros(len(rates))
        for i, (name, rate) in enumerate(zip(traces, rates, strict=True)):
            if not rate.size:
                continue
            threshold = thresholds.get(name)
            level = rate.mean() if threshold is None else check.finite(f"thresholds_rps[{name!r}]", threshold)
            peak[i] = rate.max()
            scale = peak[i] or 1.0  # loads as parts of the peak: squares of any rate stay finite
            load[: rate.size, i] = rate / scale
            burst[: rate.size, i] = burst_above(rate, np.full(1, level)) / scale
            seen[: rate.size, i] = True
        moments = BurstMoments.of(load, burst, seen)
        return cls.from_moments(tuple(traces), moments, (peak > 0.0).astype(np.float64), shrinkage=shrinkage)

    @classmethod
    def from_moments(
        cls, functions: tuple[str, ...], moments: BurstMoments, peak: Floats, *, shrinkage: float = SHRINKAGE
    ) -> LoadCorrelation:
        """The measures from the sums over periods and each function's peak, in the unit of the loads summed."""
        n = np.maximum(moments.periods, np.finfo(np.float64).tiny)
        mean = moments.burst / n
        variance = moments.square / n - mean * mean
        varies = variance > np.maximum(1e-12 * moments.square / n, _LEAST**2)  # what is less came from rounding
        deviation = np.sqrt(np.where(varies, variance, 1.0))
        together = (moments.product / n - mean * mean.T) / (deviation * deviation.T)
        certainty = moments.periods / (moments.periods + shrinkage) if shrinkage else np.ones_like(n)
        score = np.where(varies & varies.T, np.clip(together, -1.0, 1.0) * certainty, 0.0)
        bursts = moments.burst > _LEAST
        total = np.where(bursts, moments.burst, 1.0)
        overlap = np.where(bursts, np.clip(moments.shared / total, 0.0, 1.0), 0.0)
        used = moments.beside / (total * np.where(peak > _LEAST, peak, 1.0))
        spare = np.where(bursts, 1.0 - np.clip(used, 0.0, 1.0), 1.0)
        return cls(functions, (score + score.T) / 2.0, overlap, spare)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Function -> its row and column."""
        return {name: i for i, name in enumerate(self.functions)}

    def score(self, f: str, g: str) -> float:
        """How much the bursts of two functions coincide, -1..1; 0 where one of them is not known."""
        i, j = self.numbers.get(f), self.numbers.get(g)
        return 0.0 if i is None or j is None else float(self.matrix[i, j])

    def burst_overlap(self, f: str, g: str) -> float:
        """The part of f's burst that falls while g bursts too, 0..1; 0 where one of them is not known."""
        i, j = self.numbers.get(f), self.numbers.get(g)
        return 0.0 if i is None or j is None else float(self.overlap[i, j])

    def spare_share(self, f: str, g: str) -> float:
        """The part of g's peak load that is not in use, on average over f's burst, 0..1; 1 where one is not known."""
        i, j = self.numbers.get(f), self.numbers.get(g)
        return 1.0 if i is None or j is None else float(self.spare[i, j])

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        tables = {name: getattr(self, name).tolist() for name in ("matrix", "overlap", "spare")}
        return {"version": _VERSION, "functions": list(self.functions), **tables}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LoadCorrelation:
        """The correlation `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = dict(check.document("correlation", data, version=_VERSION))
        if check.item("correlation", document, "functions") == []:  # an empty list has lost its second dimension
            document |= {name: np.zeros((0, 0)) for name in ("matrix", "overlap", "spare")}
        return check.build("correlation", document, cls, required=[each.name for each in fields(cls)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LoadCorrelation):
            return NotImplemented
        tables = ((getattr(self, name), getattr(other, name)) for name in ("matrix", "overlap", "spare"))
        return self.functions == other.functions and all(np.array_equal(a, b) for a, b in tables)

    def __hash__(self) -> int:
        return hash((self.functions, self.matrix.tobytes()))

    def __repr__(self) -> str:
        return f"LoadCorrelation({len(self.functions)} functions)"


def _whole_periods(trace: ArrivalTrace, period_s: float) -> Floats:
    """The mean rates over the periods that the trace fills."""
    whole = int(np.floor(trace.duration_s / period_s + 1e-9))
    return trace.resampled(period_s).rates_rps[:whole]
