"""Grants in the forms that node agents use: tokens per period, MPS percentages, core percentages of a time-slicer.

Tokens are what a launch gate spends: each kernel launch costs some, and none goes through when they are gone (Lv et
al., ASPLOS 2025, doi 10.1145/3669940.3707251, count thread blocks; time-slicers count microseconds of the GPU). They
follow the grants of every period. The two percentages are read once, when a process starts, so that they can only mark
out the room within which tokens then move a share:

- `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE` of a client of NVIDIA's Multi-Process Service caps the part of the SMs that it may
  use and reserves nothing; it cannot be changed for a running process
  (docs.nvidia.com/deploy/mps, "Environment Variables"). Give it the limit.
- HAMi's `nvidia.com/gpucores`, in the container `CUDA_DEVICE_SM_LIMIT`, is read at start too, and takes 0 and 100 for
  "no limit" (Project-HAMi/HAMi-core, src/multiprocess/multiprocess_utilization_watcher.c). Its scheduler books them, so
  that those on one GPU should not add up to more than 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dilu_core import _checks as check
from dilu_core._checks import finite, integer, text
from dilu_core.coscaling.policy import expect
from dilu_core.coscaling.sharing import water_fill
from dilu_core.units import FULL_GPU_MILLI, demand_units

_VERSION = 1
_PARTS = 10**9
"""Parts of a token that are carried over: a thousandth for the share, a millionth for the budget."""

_MOST_TOKENS = 1e9
_PERCENT_MILLI = FULL_GPU_MILLI // 100


@dataclass(frozen=True, slots=True)
class TokenState:
    """The parts (10^-9) of a token that each instance is still owed, by name: always less than one token."""

    carried: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        carried = self.carried
        if not isinstance(carried, Mapping):
            check.fail("carried", f"is {check.shown(carried, 80)}; expected parts of a token by instance name.")
        plain = set(map(type, carried)) <= {str} and set(map(type, carried.values())) <= {int}  # as in every period
        if not plain or not 0 <= min(carried.values(), default=0) <= max(carried.values(), default=0) < _PARTS:
            checked = {text("carried", name): _parts(name, parts) for name, parts in carried.items()}
            object.__setattr__(self, "carried", checked)

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the state back."""
        return {"version": _VERSION, "carried": dict(self.carried)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> TokenState:
        """The state that `to_dict` wrote. Raises `InvalidArgumentError` for anything else."""
        carried = data.get("carried") if isinstance(data, Mapping) and data.get("version") == _VERSION else None
        if carried is None:
            check.fail("data", f"is not a TokenState of version {_VERSION}: {check.shown(data, 80)}.")
        return check.build("data", data, cls, required=("carried",))


def token_counts(
    grants: Mapping[str, int],
    state: TokenState | None = None,
    *,
    period_ms: float = 5.0,
    tokens_per_ms: float = 1000.0,
) -> tuple[dict[str, int], TokenState]:
    """Whole tokens by instance for this period, and the state to pass with the next one.

    Parameters
    ----------
    grants
        Shares in milli-GPU by instance name: `Grants`, or any mapping of integers 0..1000.
    state
        What the call for the previous period returned; `None` before the first. Who is not in `grants` is forgotten.
    period_ms
        How long the grants hold.
    tokens_per_ms
        What the whole GPU gets through in a millisecond: 1000 where a token is a microsecond of it, or the thread
        blocks counted of the kernels at hand. The budget of a period, their product, counts to a millionth of a token.

    Over any periods an instance gets the sum of share / 1000 * period_ms * tokens_per_ms to less than one token, for
    what rounding down leaves is carried over. In a single period n instances can so get up to n - 1 tokens more than
    the whole GPU's; over time they never do. Raises `InvalidArgumentError` naming the argument.
    """
    length = finite("period_ms", period_ms, above=0.0)
    whole = length * finite("tokens_per_ms", tokens_per_ms, above=0.0)
    if not 1.0 <= whole <= _MOST_TOKENS:
        check.fail(
            "tokens_per_ms", f"times period_ms is {whole:g} tokens per period; expected between 1 and {_MOST_TOKENS:g}."
        )
    before = TokenState() if state is None else state
    expect("state", before, TokenState)
    millionths = round(whole * 1e6)
    counts, carried = {}, {}
    for name, milli in _shares("grants", grants).items():
        counts[name], carried[name] = divmod(milli * millionths + before.carried.get(name, 0), _PARTS)
    return counts, TokenState(carried)


def mps_percentages(shares_milli: Mapping[str, int]) -> dict[str, int]:
    """CUDA_MPS_ACTIVE_THREAD_PERCENTAGE by instance name: whole percent, 1..100, rounded up.

    `shares_milli` are the shares that the instances must be able to reach while they run, so their limits
    (`GpuObservation.limits_milli`): the percentage is fixed when the process starts. The driver rounds it up again, to
    whole multiprocessors. Percentages of the instances on one GPU may add up to more than 100. Raises
    `InvalidArgumentError` naming a share that is not an integer 0..1000.
    """
    shares = _shares("shares_milli", shares_milli)
    return {name: max(1, demand_units(milli / _PERCENT_MILLI)) for name, milli in shares.items()}


def core_percentages(shares_milli: Mapping[str, int]) -> dict[str, int]:
    """Core percentages of a time-slicer (HAMi's `nvidia.com/gpucores`) by instance name, for the instances of one GPU.

    Whole percent 1..100 that together are the sum of the shares, rounded up: what rounding down leaves goes to the
    largest fractions. Nobody gets 0, which would mean "no limit": the others make room for that 1, and only where
    there are more instances than percent is the sum larger. `shares_milli` are what the scheduler is to book, so the
    requests, or the grants where an agent can set them at run time. Raises `InvalidArgumentError` naming a share that
    is not an integer 0..1000.
    """
    shares = _shares("shares_milli", shares_milli)
    percents = dict.fromkeys(shares, 1)
    beyond = {name: milli - _PERCENT_MILLI for name, milli in shares.items() if milli > _PERCENT_MILLI}
    budget = max(0, demand_units(sum(shares.values()) / _PERCENT_MILLI) - len(shares))
    parts = water_fill(budget, [99] * len(beyond), list(beyond.values()))
    for name, part in zip(beyond, parts, strict=True):
        percents[name] += part
    return percents


def _parts(name: object, value: object) -> int:
    return integer(f"carried[{check.shown(name)}]", value, at_least=0, at_most=_PARTS - 1)


def _shares(argument: str, shares: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(shares, Mapping):
        check.fail(argument, f"is {check.shown(shares, 80)}; expected shares in milli-GPU by instance name.")
    checked = {}
    for name, milli in shares.items():
        plain = type(milli) is int and 0 <= milli <= FULL_GPU_MILLI  # as in all grants; no message is made up for those
        checked[text(argument, name)] = (
            milli if plain else integer(f"{argument}[{name!r}]", milli, at_least=0, at_most=FULL_GPU_MILLI)
        )
    return checked
