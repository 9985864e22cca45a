"""Arrival traces: requests per second over time, as one read-only column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import fail, finite, float_column, integer, text
from dilu_core.errors import FileFormatError

_VERSION = 1
_MOST_PERIODS = 100_000_000  # what memory of a GiB holds
_LONGEST_S = 1e15  # of a period; for the same reason as MOST_RPS
_NARROW = 16  # periods; wider windows are cheaper from a running total

MOST_RPS = 1e15
"""Greatest arrival rate: beyond any service, and sums over the longest trace stay finite and accurate."""


@dataclass(frozen=True, eq=False)
class ArrivalTrace:
    """Mean arrival rates of consecutive periods: `rates_rps[i]` holds from `i * period_s` to `(i + 1) * period_s`.

    `rates_rps` is a read-only column `(n,)` of n >= 1 rates from 0 to 10^15, in requests per second.
    Raises `InvalidArgumentError` for an empty column, any other rate, or a period that is not above 0.
    """

    rates_rps: NDArray[np.float64]
    _: KW_ONLY
    period_s: float = 1.0
    name: str = ""

    if TYPE_CHECKING:  # the column is stored as an array, and made from anything array-like

        def __init__(self, rates_rps: ArrayLike, *, period_s: float = 1.0, name: str = "") -> None: ...

    def __post_init__(self) -> None:
        rates = float_column("rates_rps", self.rates_rps)
        if rates.size == 0:
            fail("rates_rps", "is empty; expected at least one rate.")
        bad = ~((rates >= 0.0) & (rates <= MOST_RPS))  # NaN is neither
        if bad.any():
            i = int(np.argmax(bad))
            fail(f"rates_rps[{i}]", f"is {rates[i]}; expected a rate between 0 and {MOST_RPS:g}. Fill gaps first.")
        object.__setattr__(self, "rates_rps", rates)
        object.__setattr__(self, "period_s", finite("period_s", self.period_s, above=0.0, at_most=_LONGEST_S))
        text("name", self.name, empty=True)

    @classmethod
    def constant(cls, rate_rps: float, *, duration_s: float, period_s: float = 1.0, name: str = "") -> ArrivalTrace:
        """The same rate throughout; the duration is rounded to whole periods, at least one."""
        period_s = finite("period_s", period_s, above=0.0)
        duration_s = finite("duration_s", duration_s, above=0.0)
        if duration_s / period_s > _MOST_PERIODS:
            fail("duration_s", f"is {duration_s}, more than {_MOST_PERIODS} periods of period_s, {period_s}.")
        periods = max(1, round(duration_s / period_s))
        rate_rps = finite("rate_rps", rate_rps, at_least=0.0)
        return cls(np.full(periods, rate_rps), period_s=period_s, name=name)

    @property
    def duration_s(self) -> float:
        """Seconds covered."""
        return self.rates_rps.size * self.period_s

    @property
    def mean_rps(self) -> float:
        """Mean rate over the whole trace."""
        return float(self.rates_rps.mean())

    @property
    def requests(self) -> float:
        """Requests that arrive in all (a fluid count, so not always whole)."""
        return float(self.rates_rps.sum() * self.period_s)

    def peak_rps(self, window_s: float | None = None) -> float:
        """The greatest mean rate over any `window_s` seconds (one period if `None`).

        The window is rounded to whole periods, at least one and at most the trace.
        """
        if window_s is None:
            return float(self.rates_rps.max())
        width = self._periods("window_s", finite("window_s", window_s, above=0.0))
        width = min(max(width, 1), self.rates_rps.size)
        if width <= _NARROW:  # summed window by window: no rounding error grows along the trace
            return float(np.lib.stride_tricks.sliding_window_view(self.rates_rps, width).mean(axis=1).max())
        total = np.concatenate(([0.0], np.cumsum(self.rates_rps)))
        return float((total[width:] - total[:-width]).max() / width)

    def scaled(self, factor: float) -> ArrivalTrace:
        """Every rate times `factor` (finite, >= 0)."""
        factor = finite("factor", factor, at_least=0.0)
        if float(self.rates_rps.max()) * factor > MOST_RPS:
            fail("factor", f"is {factor}; that takes rates of up to {self.rates_rps.max():g} beyond {MOST_RPS:g} rps.")
        return ArrivalTrace(self.rates_rps * factor, period_s=self.period_s, name=self.name)

    def shifted(self, seconds: float) -> ArrivalTrace:
        """The same load `seconds` later (earlier if negative), wrapped around the ends; rounded to whole periods."""
        periods = self._periods("seconds", finite("seconds", seconds))
        return ArrivalTrace(np.roll(self.rates_rps, periods), period_s=self.period_s, name=self.name)

    def slice(self, start_s: float, stop_s: float | None = None) -> ArrivalTrace:
        """The part from `start_s` to `stop_s` (the end if `None`), rounded to whole periods; must not be empty."""
        start = self._periods("start_s", finite("start_s", start_s, at_least=0.0))
        stop = self.rates_rps.size
        if stop_s is not None:
            stop = min(stop, self._periods("stop_s", finite("stop_s", stop_s, at_least=0.0)))
        if start >= stop:
            fail("start_s", f"is {start_s} and stop_s is {stop_s}; that holds none of the {self.duration_s} s covered.")
        return ArrivalTrace(self.rates_rps[start:stop], period_s=self.period_s, name=self.name)

    def resampled(self, period_s: float) -> ArrivalTrace:
        """The same arrivals in periods of `period_s`; the last period is filled with no arrivals if it is not whole."""
        period_s = finite("period_s", period_s, above=0.0)
        if period_s == self.period_s:
            return self
        if self.duration_s / period_s > _MOST_PERIODS:
            fail("period_s", f"is {period_s}; {self.duration_s:g} s would take more than {_MOST_PERIODS} periods.")
        arrived = np.concatenate(([0.0], np.cumsum(self.rates_rps) * self.period_s))
        clock = np.arange(arrived.size) * self.period_s
        count = max(1, int(np.ceil(self.duration_s / period_s - 1e-9)))
        edges = np.arange(count + 1) * period_s
        # interpolation may leave the bounds by one rounding; rates never do
        rates = np.clip(np.diff(np.interp(edges, clock, arrived)) / period_s, 0.0, MOST_RPS)
        return ArrivalTrace(rates, period_s=period_s, name=self.name)

    def poisson(self, seed: int, *, period_s: float = 0.1) -> ArrivalTrace:
        """The load of single requests that come at random: counts of a Poisson process with these rates, one draw.

        Mean rates hide that requests bunch; in periods as short as the step of a replay, counts show it. The same
        `seed` gives the same draw.
        """
        mean = self.resampled(period_s)
        counts = mean.rates_rps * mean.period_s
        if float(counts.max()) > MOST_RPS:
            fail("period_s", f"is {period_s}; {counts.max():g} requests in one are too many to draw.")
        random = np.random.default_rng(integer("seed", seed, at_least=0))
        rates = np.minimum(random.poisson(counts) / mean.period_s, MOST_RPS)
        return ArrivalTrace(rates, period_s=mean.period_s, name=self.name)

    def _periods(self, argument: str, seconds: float) -> int:
        periods = seconds / self.period_s
        if abs(periods) > 2**53:
            fail(argument, f"is {seconds}; that is too many periods of {self.period_s} s to count.")
        return round(periods)

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the trace back."""
        return {
            "version": _VERSION,
            "rates_rps": self.rates_rps.tolist(),
            "period_s": self.period_s,
            "name": self.name,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> ArrivalTrace:
        """The trace that `to_dict` wrote. Raises `InvalidArgumentError` for anything else."""
        if not isinstance(data, Mapping) or data.get("version") != _VERSION:
            fail("data", f"is not an arrival trace of version {_VERSION}: {data!r:.80}.")
        missing = [key for key in ("rates_rps", "period_s", "name") if key not in data]
        if missing:
            fail("data", f"lacks {', '.join(missing)}; expected the value that ArrivalTrace.to_dict wrote.")
        return cls(data["rates_rps"], period_s=data["period_s"], name=data["name"])  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrivalTrace):
            return NotImplemented
        same_labels = self.period_s == other.period_s and self.name == other.name
        return same_labels and np.array_equal(self.rates_rps, other.rates_rps)

    def __hash__(self) -> int:
        return hash((self.rates_rps.tobytes(), self.period_s, self.name))


def read_trace(path: str | PathLike[str], period_s: float = 1.0) -> ArrivalTrace:
    """The trace in a text file of one rate (requests per second) a line; blank lines are skipped.

    Lines end with LF, CR LF or CR, and a rate is written without digit grouping.
    The file's stem becomes the trace's name. Raises `FileFormatError` with the line at fault, `OSError` if the file
    cannot be opened.
    """
    if not isinstance(path, str | PathLike) or not isinstance(fspath(path), str) or "\0" in fspath(path):
        fail("path", f"is {path!r:.80}; expected the path of a text file.")
    name = fspath(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise FileFormatError(name, f"is not UTF-8 text ({error.reason} at byte {error.start}).") from None
    rates = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rate = float(line.replace("_", "?"))  # Python would take 1_0 for 10
        except ValueError:
            raise FileFormatError(name, f"{line.strip()!r:.60} is not a number.", number) from None
        if not 0.0 <= rate <= MOST_RPS:
            raise FileFormatError(
                name, f"{rate} is not an arrival rate; expected a number between 0 and {MOST_RPS:g}.", number
            )
        rates.append(rate)
    if not rates:
        raise FileFormatError(name, "holds no rates; expected one number a line.")
    return ArrivalTrace(np.array(rates), period_s=period_s, name=Path(path).stem)
