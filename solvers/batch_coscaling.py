"""BatchCoScaler: the horizontal policy of thousands of functions in one call, for a controller that serves them all.

The answers are those of one `CoScaler` per function. Observations and answers are columns `(n,)`, one entry per
function; NaN says "not known". The step is compiled (`kernels.policy_step`), so ten thousand functions take
milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import fail, instances_of, integer, read_only, shown
from dilu_core.coscaling.columns import known_column
from dilu_core.coscaling.forecast import MOST_RPS
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import ScalingReason
from dilu_core.kernels import policy_columns as at
from dilu_core.kernels.cpu.policy_batch import decide_rows, first_unfit, forget_rows
from dilu_core.solvers.policy_replay import parameter_rows

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_VERSION = 2
_STEP_S = 1.0  # a row of parameters counts cold starts in steps, which decisions do not look at
_REASONS = tuple(ScalingReason(name) for name in at.REASONS)


class BatchState(NamedTuple):
    """The memory of n policies: columns of `kernels.policy_columns`, for `BatchCoScaler` alone to read and to write.

    `state` (n, STATE), `samples` (n, most samples), `peaks` (n, MOST_PEAKS), `forecast` (n, FORECAST) and
    `season` (n, 2 LAGS), or (n, 0) where no function forecasts.
    """

    state: Floats
    samples: Floats
    peaks: Floats
    forecast: Floats
    season: Floats

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `BatchCoScaler.restored` gives the state back, bit for bit."""
        columns = {name: _without_nan(column) for name, column in self._asdict().items()}
        return {"version": _VERSION, "lags": at.LAGS, **columns}


@dataclass(frozen=True, eq=False)
class BatchDecision:
    """What to do now, as read-only columns `(n,)`.

    `instances`: how many should exist, -1: not known, leave them. `change`: launch (> 0) or remove (< 0) that many.
    `reason_codes` are positions in `REASONS`, and `clip_codes` in `BOUNDS`, of the bound that kept the policy from
    going further.
    """

    instances: Integers
    change: Integers
    reason_codes: Integers
    clip_codes: Integers

    REASONS = _REASONS
    BOUNDS = at.BOUNDS

    @property
    def reasons(self) -> tuple[ScalingReason, ...]:
        """Why each decision is what it is."""
        return tuple(_REASONS[code] for code in self.reason_codes.tolist())

    @property
    def clipped_by(self) -> tuple[str | None, ...]:
        """The name of the bound that clipped each decision."""
        return tuple(at.BOUNDS[code] for code in self.clip_codes.tolist())


class BatchCoScaler:
    """The horizontal policies of n functions: pure, deterministic, at peace with any observation, like `CoScaler`."""

    def __init__(self, params_list: Iterable[HorizontalParams]) -> None:
        self.params = instances_of("params_list", params_list, HorizontalParams)
        if not self.params:
            fail("params_list", "is empty; expected at least one.")
        self._rows = parameter_rows(self.params, _STEP_S)
        lazy = self._rows[:, at.IS_LAZY] > 0.0
        self._samples = int(np.where(lazy, self._rows[:, at.LAZY_SAMPLES], self._rows[:, at.SHORT_S]).max())
        self._season = 2 * at.LAGS if self._rows[:, at.FORECASTS].any() else 0

    def __len__(self) -> int:
        return len(self.params)

    def initial_state(self) -> BatchState:
        """Nothing seen yet."""
        state = BatchState(*(np.zeros((len(self), width)) for width in self._widths))
        forget_rows(state.state, state.forecast)
        return state

    def decide(
        self,
        state: BatchState,
        time_s: ArrayLike,
        arrivals_rps: ArrayLike,
        ready: ArrayLike,
        starting: ArrayLike,
        in_flight: ArrayLike | None = None,
        spare_milli: ArrayLike | None = None,
        latency_p95_ms: ArrayLike | None = None,
        *,
        in_place: bool = False,
    ) -> tuple[BatchDecision, BatchState]:
        """The decisions for one observation of every function, and the state to pass with the next ones.

        The arguments after `state` are the fields of `Observation` as columns `(n,)`, or one reading for all; NaN, or
        `None` for a whole column, says "not known", and so does any reading that no sensor could have meant, as with
        `CoScaler`. `in_place` uses `state` up, and the state it was made from: their memory becomes that of the new
        state, which saves copying it. Raises `InvalidArgumentError` for columns of another length, never for odd
        readings.
        """
        self._check(state, in_place)
        told = np.empty((7, len(self)))  # one layout, hence one compiled kernel, for whatever comes
        for row, name, values in zip(
            told,
            ("time_s", "arrivals_rps", "ready", "starting", "in_flight", "spare_milli", "latency_p95_ms"),
            (time_s, arrivals_rps, ready, starting, in_flight, spare_milli, latency_p95_ms),
            strict=True,
        ):
            row[:] = known_column(name, values, len(self))
        after = state if in_place else self._copied(state, told[0])
        answers = np.empty((len(self), 4), dtype=np.int64)
        arguments: list[Any] = [self._rows, *after, *told, answers]
        decide_rows(*arguments)
        columns = (read_only(np.ascontiguousarray(column)) for column in answers.T)
        return BatchDecision(*columns), after

    def restored(self, data: Mapping[str, Any]) -> BatchState:
        """The state that `BatchState.to_dict` wrote. Raises `InvalidArgumentError` for anything else."""
        if not isinstance(data, Mapping) or data.get("version") != _VERSION or data.get("lags") != at.LAGS:
            fail("data", f"is no BatchState of version {_VERSION}: {shown(data, 80)}.")
        columns = []
        for name, width in zip(BatchState._fields, self._widths, strict=True):
            try:
                column = np.array(data[name], dtype=np.float64).reshape(len(self), -1 if width else 0)
            except (KeyError, TypeError, ValueError):
                fail(f"data[{name!r}]", f"is no table of numbers with {len(self)} rows.")
            if column.shape[1] != width or np.isinf(column).any():
                fail(
                    f"data[{name!r}]",
                    f"has {column.shape[1]} columns, some infinite perhaps; expected {width} finite ones.",
                )
            columns.append(column)
        state = BatchState(*columns)
        self._check_entries(state)
        for row, forecast in zip(self._rows, state.forecast, strict=True):
            if row[at.FORECASTS] == 0.0:
                at.forget_forecast(forecast)  # of other parameters, it would rule for ever
        return state

    @property
    def _widths(self) -> tuple[int, ...]:
        return at.STATE, self._samples, at.MOST_PEAKS, at.FORECAST, self._season

    def _check(self, state: object, in_place: bool) -> None:
        """Refuse what the kernel could not work on, or not without leaving its arrays."""
        if not isinstance(state, BatchState) or not self._fits(state):
            fail(
                "state", f"is {shown(state, 80)}; expected a BatchState of {len(self)} functions with these parameters."
            )
        if in_place and not all(column.flags.writeable for column in state):
            fail("state", "is read-only; expected one that may be written to, or in_place=False.")

    def _fits(self, state: BatchState) -> bool:
        columns = all(
            isinstance(column, np.ndarray)
            and column.shape == (len(self), width)
            and column.dtype == np.float64
            and column.flags.c_contiguous
            for column, width in zip(state, self._widths, strict=True)
        )
        return columns and first_unfit(self._rows, state.state, state.forecast) < 0

    def _check_entries(self, state: BatchState) -> None:
        """Refuse positions outside of their rings, and rates that no policy remembers."""
        kept = np.where(self._rows[:, at.IS_LAZY] > 0.0, self._rows[:, at.LAZY_SAMPLES], self._rows[:, at.SHORT_S])
        stretches = self._rows[:, at.KEPT_PEAKS]
        for name, entry, least, greatest in (
            ("state", at.SAMPLES, 0, kept), ("state", at.OLDEST, 0, kept - 1),
            ("state", at.PEAKS, 0, stretches), ("state", at.RUNNING, -1, stretches - 1),
            ("state", at.HELD_OVER, -1, at.STRETCHES),
            ("forecast", at.SEEN, 0, 2 * at.LAGS), ("forecast", at.NEWEST, -1, at.LAGS - 1),
            ("forecast", at.LAG, 0, at.LAGS), ("forecast", at.PENDING, 0, 2),
            ("forecast", at.WINDOW, 0, at.WINDOWS - 1), ("forecast", at.NEXT_WINDOW, 0, at.WINDOWS - 1),
        ):  # fmt: skip
            most = np.broadcast_to(greatest, len(self)).tolist()
            for i, value in enumerate(getattr(state, name)[:, entry].tolist()):
                integer(f"data[{name!r}][{i}][{entry}]", value, at_least=least, at_most=int(most[i]))
        for name, entries in (
            ("state", (at.PARTIAL_REQUESTS, at.HELD)),
            ("forecast", (at.BUCKET_RPS, at.NEWEST_RPS, at.SOON_RPS, at.AHEAD_RPS, at.BEHIND_RPS, at.DRIFT_RPS)),
            ("samples", range(self._samples)),
            ("peaks", range(at.MOST_PEAKS)),
            ("season", range(min(at.LAGS, self._season))),
        ):
            column = getattr(state, name)[:, list(entries)]
            wrong = np.argwhere((column < 0.0) | (column > MOST_RPS))  # False where not known
            if wrong.size:
                i, k = (int(each) for each in wrong[0])
                where = f"data[{name!r}][{i}][{list(entries)[k]}]"
                fail(where, f"is {float(column[i, k]):g}; expected 0 to {MOST_RPS:g}.")

    def _copied(self, state: BatchState, time_s: Floats) -> BatchState:
        """A copy of what the next decisions may change: the long column only where a bucket may end."""
        small = (state.state.copy(), state.samples.copy(), state.peaks.copy(), state.forecast.copy())
        writable = state.season.flags.writeable
        if not self._season or (writable and not self._bucket_may_end(state, time_s)):
            return BatchState(*small, state.season)
        return BatchState(*small, state.season.copy())

    def _bucket_may_end(self, state: BatchState, time_s: Floats) -> bool:
        before_s = state.state[:, at.TIME_S]
        elapsed = np.where(np.isnan(before_s), 1.0, time_s - before_s)
        age = state.forecast[:, at.AGE_S] + state.state[:, at.PARTIAL_S] + elapsed
        return bool((age >= self._rows[:, at.BUCKET_S] - 1e-6).any())


def _without_nan(column: Floats) -> list[list[float | None]]:
    """Rows of numbers, with `None` where JSON has no word for "not known"."""
    return [[None if value != value else value for value in row] for row in column.tolist()]
