"""What the horizontal policy remembers: a small value of constant size that survives a JSON round trip unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dilu_core._checks import fail, finite, integer, shown
from dilu_core.coscaling.forecast import MOST_RPS, Forecast
from dilu_core.coscaling.hold import Hold

_VERSION = 3

_SINCE_VERSION_2 = {"wanted_s", "forecast"}

LEAST_DELIVERED = 0.1
"""Of the capacity; an instance that delivers less has something broken that more instances do not mend."""

_LEAST_READ = LEAST_DELIVERED * (1.0 - 1e-9)  # a mean of two values there may round to less


class HorizontalState(NamedTuple):
    """The memory of one function's horizontal policy.

    `time_s` is the clock at the last observation. Rates are kept as means over whole seconds: `samples_rps` are the
    latest, oldest first, and `partial_s` seconds with `partial_requests` arrivals make up the second not yet whole.
    `peaks` holds the greatest need (in instances) of consecutive stretches of known seconds, the running one last and
    `peak_filled_s` seconds old; `known_s` counts the known seconds up to the window. `quiet_s` is how long nothing has
    arrived, `since_change_s` how long ago the policy acted last, and `spare_milli` the smoothed spare share.
    `delivered` is what a ready instance was seen to serve, over its capacity, while requests waited since the last
    scale-in, `shown` what it has shown to carry over the whole past (`None`: nothing measured it), and `in_flight` and
    `ready` are those of the last observation. `wanted_s` is how long requests have met no instance, and `forecast` what
    the forecasts remember.
    """

    time_s: float | None = None
    samples_rps: tuple[float, ...] = ()
    partial_s: float = 0.0
    partial_requests: float = 0.0
    peaks: tuple[float, ...] = ()
    peak_filled_s: int = 0
    known_s: int = 0
    quiet_s: float = 0.0
    since_change_s: float | None = None
    spare_milli: float | None = None
    delivered: float | None = None
    shown: float | None = None
    in_flight: float | None = None
    ready: int | None = None
    wanted_s: float = 0.0
    forecast: Forecast = Forecast()

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the state back, bit for bit."""
        columns = {
            "samples_rps": list(self.samples_rps), "peaks": list(self.peaks), "forecast": self.forecast.to_dict()
        }  # fmt: skip
        return {"version": _VERSION, **self._asdict(), **columns}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> HorizontalState:
        """The state that `to_dict` wrote; forecasts, and windows to learn, that its version did not know begin anew.

        Raises `InvalidArgumentError` for anything else.
        """
        if not isinstance(data, Mapping) or data.get("version") not in (1, 2, _VERSION):
            fail("data", f"is not a HorizontalState of version 1 to {_VERSION}: {shown(data, 80)}.")
        expected = {"version", *cls._fields} - (_SINCE_VERSION_2 if data["version"] == 1 else set())
        if data.keys() != expected:
            different = sorted(str(key) for key in data.keys() ^ expected)
            fail("data", f"differs in keys {different} from what HorizontalState.to_dict wrote.")
        return cls(
            time_s=_maybe(data, "time_s", None),
            samples_rps=_column(data, "samples_rps"),
            partial_s=finite("data['partial_s']", data["partial_s"], at_least=0.0, at_most=1.0),
            partial_requests=finite(
                "data['partial_requests']", data["partial_requests"], at_least=0.0, at_most=MOST_RPS
            ),
            peaks=_column(data, "peaks"),
            peak_filled_s=integer("data['peak_filled_s']", data["peak_filled_s"], at_least=0),
            known_s=integer("data['known_s']", data["known_s"], at_least=0),
            quiet_s=finite("data['quiet_s']", data["quiet_s"], at_least=0.0),
            since_change_s=_maybe(data, "since_change_s", 0.0),
            spare_milli=_maybe(data, "spare_milli", 0.0),
            delivered=_maybe(data, "delivered", _LEAST_READ),
            shown=_maybe(data, "shown", _LEAST_READ),
            in_flight=_maybe(data, "in_flight", 0.0),
            ready=None if data["ready"] is None else integer("data['ready']", data["ready"], at_least=0),
            wanted_s=finite("data['wanted_s']", data.get("wanted_s", 0.0), at_least=0.0),
            forecast=_forecast(data),
        )


def _forecast(data: Mapping[str, object]) -> Forecast:
    forecast = data.get("forecast", Forecast().to_dict())
    if data["version"] == 2 and isinstance(forecast, Mapping):
        forecast = {"hold": Hold().to_dict(), **forecast}
    return Forecast.from_dict(forecast)


def _maybe(data: Mapping[str, object], key: str, at_least: float | None) -> float | None:
    value = data[key]
    return None if value is None else finite(f"data[{key!r}]", value, at_least=at_least)


def _column(data: Mapping[str, object], key: str) -> tuple[float, ...]:
    values = data[key]
    if not isinstance(values, list | tuple):
        fail(f"data[{key!r}]", f"is {shown(values, 80)}; expected a list of numbers.")
    return tuple(finite(f"data[{key!r}][{i}]", value, at_least=0.0, at_most=MOST_RPS) for i, value in enumerate(values))
