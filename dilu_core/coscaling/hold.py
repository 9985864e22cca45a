"""For how long a peak of the load is held: the longest window, or the one that would have paid best.

A long window is cheap insurance for a function whose bursts return, and waste for one whose load moves slowly or never
does the same twice. So where `late_weight` is above 0, each of `HELD_STRETCHES` is weighed by what it would have done.
With x[t] the load of bucket t (see `dilu_core.coscaling.forecast`; one bucket covers a cold start), a window of w
buckets would have met x[t] with instances for y[t] = max(x[t - w], ..., x[t - 1]), or for what a trusted period
expected; would have kept y[t] / lean of capacity, and as much again of what it launched, because an instance that
starts serves nothing; and would have been late with all of x[t] where that exceeds y[t] by more than bursting makes up
for. Of a window's sums, older ones fading within `LAGS` buckets,

    loss = kept / (buckets * greatest load remembered) + late_weight * missed load / load,

the part of a fixed fleet for the peak plus the part of late requests at its price. All but the longest window begin as
if they had missed the greatest load once, which fades like the rest: nothing is let go sooner before the load has shown
that nothing comes of it. The longest window that loses at most `_LEAST_SAVING` more than the best one counts from the
next bucket on, so that more load now never shortens it where every bucket is observed (one observation that spans
several may put in force what its first one chose). Instances are not rounded to whole ones here: a load in other units
leads to the same window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dilu_core._checks import fail, finite, integer, shown
from dilu_core.coscaling.params import HELD_STRETCHES, LAGS, HorizontalParams

FADING = 1.0 - 1.0 / LAGS
_LONGEST = len(HELD_STRETCHES) - 1
_EQUAL = 1.0 + 1e-9  # a load that just fits does so in spite of rounding
_LEAST_SAVING = 0.05  # of the loss, for the sake of which a shorter window is worth its changes
_MOST = 1e21  # faded sums of rates below 10^15, over a lean of at least a tenth
_MOST_BUCKETS = LAGS * _EQUAL  # what a faded sum of ones approaches


class Hold(NamedTuple):
    """What each window of `HELD_STRETCHES` would have done, shortest first; of constant size.

    `held_rps` is the capacity that each kept in the latest bucket (empty: none weighed yet), `kept_rps` and
    `missed_rps` are the faded sums of kept capacity with launches, and of loads that would have been late; `load_rps`
    and `buckets` those of loads and of ones. `window` is the position of the window in force, `next_window` of the one
    that is in force after the next bucket.
    """

    held_rps: tuple[float, ...] = ()
    kept_rps: tuple[float, ...] = ()
    missed_rps: tuple[float, ...] = ()
    load_rps: float = 0.0
    buckets: float = 0.0
    window: int = _LONGEST
    next_window: int = _LONGEST

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the sums back, bit for bit."""
        return {**self._asdict(), **{name: list(getattr(self, name)) for name in _COLUMNS}}

    @classmethod
    def from_dict(cls, argument: str, data: object) -> Hold:
        """The sums that `to_dict` wrote. Raises `InvalidArgumentError` for anything else, and names `argument`."""
        if not isinstance(data, Mapping) or data.keys() != set(cls._fields):
            fail(argument, f"is {shown(data, 80)}; expected what Hold.to_dict wrote.")
        held, kept, missed = (_column(f"{argument}[{name!r}]", data[name]) for name in _COLUMNS)
        if not len(held) == len(kept) == len(missed):
            fail(argument, "has columns of different lengths; expected all or none of the windows.")
        load = finite(f"{argument}['load_rps']", data["load_rps"], at_least=0.0, at_most=_MOST)
        buckets = finite(f"{argument}['buckets']", data["buckets"], at_least=0.0, at_most=_MOST_BUCKETS)
        window, following = (
            integer(f"{argument}[{name!r}]", data[name], at_least=0, at_most=_LONGEST)
            for name in ("window", "next_window")
        )
        return cls(held, kept, missed, load, buckets, window, following)


_COLUMNS = ("held_rps", "kept_rps", "missed_rps")


class Carried(NamedTuple):
    """The load over capacity that an instance is trusted with just now, and the one that it could burst to."""

    lean: float
    full: float


def stretches_held(params: HorizontalParams, hold: Hold) -> int:
    """How many full stretches of the window count, besides the running one."""
    return HELD_STRETCHES[hold.window if params.late_weight > 0.0 else _LONGEST]


def window_held_s(params: HorizontalParams, hold: Hold) -> int:
    """The window in force."""
    return min(params.window_s, stretches_held(params, hold) * params.stretch_s)


def weighed(
    params: HorizontalParams,
    hold: Hold,
    history_rps: Sequence[float],
    load_rps: float,
    soon_rps: float,
    carried: Carried,
) -> Hold:
    """`hold` with one more bucket of `load_rps` behind `history_rps`, of which a forecast expected `soon_rps`."""
    if not history_rps or params.late_weight == 0.0:
        return hold
    lean, full = carried
    held = tuple(max(*history_rps[-buckets:], soon_rps) / lean for buckets in params.held_buckets)
    launched = (max(0.0, now - before) for now, before in zip(held, hold.held_rps or held, strict=True))
    missed = (load_rps if load_rps > each * full * _EQUAL else 0.0 for each in held)
    nothing = (0.0,) * len(held)
    kept_rps = tuple(
        kept * FADING + now + more for kept, now, more in zip(hold.kept_rps or nothing, held, launched, strict=True)
    )
    missed_rps = tuple(sum_ * FADING + late for sum_, late in zip(hold.missed_rps or nothing, missed, strict=True))
    load_sum, buckets = hold.load_rps * FADING + load_rps, hold.buckets * FADING + 1.0
    peak = max(*history_rps, load_rps)
    best = hold.next_window
    if peak > 0.0:
        at_first = peak * max(0.0, 1.0 - buckets / LAGS)
        presumed = (*(late + at_first for late in missed_rps[:-1]), missed_rps[-1])
        losses = [
            kept / (buckets * peak) + (params.late_weight * late / load_sum if load_sum > 0.0 else 0.0)
            for kept, late in zip(kept_rps, presumed, strict=True)
        ]
        best = max(k for k, loss in enumerate(losses) if loss <= min(losses) * (1.0 + _LEAST_SAVING))
    return Hold(held, kept_rps, missed_rps, load_sum, buckets, hold.next_window, best)


def _column(argument: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) not in (0, len(HELD_STRETCHES)):
        fail(argument, f"is {shown(values, 80)}; expected a list of {len(HELD_STRETCHES)} numbers, or of none.")
    return tuple(finite(f"{argument}[{i}]", each, at_least=0.0, at_most=_MOST) for i, each in enumerate(values))
