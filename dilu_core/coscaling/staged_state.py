"""What a staged policy remembers: the wrapped policy's state and the counters of the stages, JSON-able."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from dilu_core import _checks as check
from dilu_core._checks import fail, integer, shown
from dilu_core.coscaling.reading import FIELDS
from dilu_core.coscaling.shadow import ShadowCounts, ShadowFleet, counts_from, fleet_from, fleet_to_dict
from dilu_core.coscaling.watch import Watch, watch_from

State = TypeVar("State")

_VERSION = 1
_NOTHING_SEEN = Watch()
_NOTHING_SHADOWED = ShadowCounts()
_ALL_KNOWN: Mapping[str, int] = {}


class StagedState(NamedTuple, Generic[State]):
    """The wrapped policy's state (`inner`), the fallback's, and what was counted; of constant size beyond those two.

    `failures` in a row of the wrapped policy until now, `failed` in all, and `distrust`: how many sound answers in a
    row it still owes before its scale-in is carried out again. `unknown` counts what the sensors left out, by field,
    without those that were always known.
    """

    inner: State
    standby: Any = None
    failures: int = 0
    failed: int = 0
    distrust: int = 0
    watch: Watch = _NOTHING_SEEN
    unknown: Mapping[str, int] = _ALL_KNOWN
    fleet: ShadowFleet | None = None
    shadow: ShadowCounts = _NOTHING_SHADOWED

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value, if the inner states have `to_dict` or are JSON-able themselves."""
        return {
            "version": _VERSION,
            "inner": _to_plain(self.inner),
            "standby": _to_plain(self.standby),
            "failures": self.failures,
            "failed": self.failed,
            "distrust": self.distrust,
            "watch": self.watch._asdict(),
            "unknown": dict(self.unknown),
            "fleet": fleet_to_dict(self.fleet),
            "shadow": self.shadow._asdict(),
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], inner: type | None = None, standby: type | None = None
    ) -> StagedState[Any]:
        """The state that `to_dict` wrote. Raises `InvalidArgumentError` for anything else.

        `inner` and `standby` are the classes of the wrapped policy's state and of the fallback's, whose `from_dict`
        reads them; `None` for a state that is plain JSON itself. `StagedPolicy.restore_state` knows them.
        """
        document = check.document("data", data, version=_VERSION)
        expected = {"version", *cls._fields}
        if document.keys() != expected:
            fail("data", f"differs in keys {sorted(document.keys() ^ expected)} from what StagedState.to_dict wrote.")
        unknown = document["unknown"]
        if not isinstance(unknown, Mapping) or not unknown.keys() <= set(FIELDS):
            fail("data.unknown", f"is {shown(unknown)}; expected counts by field of an Observation.")
        failures, failed, distrust = (
            integer(f"data.{name}", document[name], at_least=0) for name in ("failures", "failed", "distrust")
        )
        return StagedState(
            _from_plain(inner, document["inner"]),
            _from_plain(standby, document["standby"]),
            failures,
            failed,
            distrust,
            watch_from(document["watch"]),
            {name: integer(f"data.unknown.{name}", count, at_least=0) for name, count in unknown.items()},
            fleet_from(document["fleet"]),
            counts_from(document["shadow"]),
        )


def is_document(value: object) -> bool:
    """Whether `StagedState.to_dict` wrote `value`, of this version or another."""
    return isinstance(value, Mapping) and value.keys() >= {"version", "inner", "standby", "watch"}


def _to_plain(state: Any) -> Any:
    return state.to_dict() if hasattr(state, "to_dict") else state


def _from_plain(kind: type | None, data: Any) -> Any:
    read_back = getattr(kind, "from_dict", None)
    return data if data is None or read_back is None else read_back(data)
