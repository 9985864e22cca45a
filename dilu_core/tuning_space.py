"""What `tune` is given and what it gives: parameter sets to try, and how they did on all traces and on unseen ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core._checks import fail, instances_of, integer
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.result import SolveStats, Termination

_OF_THE_FUNCTION = ("capacity_rps", "request_milli", "limit_milli", "slo_ms", "base_latency_ms", "cold_start_s")


@dataclass(frozen=True)
class TuningSpace:
    """The candidates: every combination of `choices`, or `most` of them drawn at random where there are more.

    `base` describes the function behind each trace - one for all traces, or one per trace - and holds every parameter
    that `choices` leaves alone. `choices` names parameters of the policy, such as `{"lean": (1.0, 1.2, 1.5),
    "window_s": (60, 120)}`, and the values to try; what belongs to the function (its capacity, shares, latencies and
    cold start) cannot be chosen. Raises `InvalidArgumentError` for anything else; a combination that
    `HorizontalParams` refuses is left out.
    """

    base: HorizontalParams | Sequence[HorizontalParams]
    choices: Mapping[str, Sequence[Any]] = field(hash=False)
    _: KW_ONLY
    most: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        base = (self.base,) if isinstance(self.base, HorizontalParams) else self.base
        object.__setattr__(self, "base", instances_of("base", base, HorizontalParams))
        if not isinstance(self.choices, Mapping) or not self.choices or not self.base:
            fail("choices" if self.base else "base", "is empty; expected values to try by the name of a parameter.")
        tunable = [each.name for each in fields(HorizontalParams) if each.name not in _OF_THE_FUNCTION]
        for name, values in self.choices.items():
            if name not in tunable:
                fail("choices", f"names {name!r}; expected parameters of the policy: {', '.join(tunable)}.")
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                fail(f"choices[{name!r}]", f"is {values!r:.80}; expected a sequence of at least one value.")
        object.__setattr__(self, "choices", {name: tuple(values) for name, values in self.choices.items()})
        object.__setattr__(self, "most", integer("most", self.most, at_least=1))
        object.__setattr__(self, "seed", integer("seed", self.seed, at_least=0))

    def base_of(self, trace: int) -> HorizontalParams:
        """The function behind trace number `trace`."""
        functions: Sequence[HorizontalParams] = self.base  # type: ignore[assignment]
        return functions[0 if len(functions) == 1 else trace]

    @cached_property
    def candidates(self) -> tuple[dict[str, Any], ...]:
        """The combinations to try, as keywords for `dataclasses.replace`, in the order of the choices."""
        sizes = [len(values) for values in self.choices.values()]
        positions = self._drawn(sizes) if math.prod(sizes) > self.most else product(*map(range, sizes))
        tried = (
            {name: values[at] for (name, values), at in zip(self.choices.items(), each, strict=True)}
            for each in positions
        )
        valid = tuple(each for each in tried if self._is_valid(each))
        if not valid:
            fail("choices", "has no combination that HorizontalParams accepts.")
        return valid

    def sets_for(self, trace: int) -> list[HorizontalParams]:
        """The candidates as parameters of the function behind trace number `trace`."""
        base = self.base_of(trace)
        return [replace(base, **each) for each in self.candidates]

    def _drawn(self, sizes: Sequence[int]) -> list[tuple[int, ...]]:
        """`most` distinct combinations as positions in the choices: all are equally likely, however many there are."""
        drawn = np.random.default_rng(self.seed)
        chosen: dict[tuple[int, ...], None] = {}  # in the order drawn
        while len(chosen) < self.most:
            rows = drawn.integers(0, sizes, (self.most, len(sizes))).tolist()
            chosen.update(dict.fromkeys(map(tuple, rows)))
        return sorted(list(chosen)[: self.most])

    def _is_valid(self, candidate: Mapping[str, Any]) -> bool:
        functions: Sequence[HorizontalParams] = self.base  # type: ignore[assignment]
        try:
            for base in functions:
                replace(base, **candidate)
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class HeldOut:
    """What the candidate that was chosen on all other traces did on those held out: means over the traces held out."""

    traces: tuple[int, ...]
    candidate: int
    gpu_cost: float
    violation_rate: float
    cold_starts_per_h: float


@dataclass(frozen=True, eq=False)
class TuningResult:
    """How every candidate did: columns `(candidates,)`, means over traces, each of which weighs the same.

    `gpu_cost` is GPU-seconds over those that the requests need at the least, served at capacity and request share
    without a break; `violation_rate` the part of requests above the SLO; `cold_starts_per_h` and
    `direction_flips_per_h` count per hour. `pareto` holds the candidates within the limit on cold starts that no other
    such beats in cost and violations, by ascending cost. `best` is the cheapest of them within the limit on violations,
    or, where `feasible` is False, the one of fewest violations. `held_out` says how such a choice fares on traces that
    it has not seen; what it shows in violations beyond those of `best` is what the tuning has overfitted.
    """

    candidates: tuple[dict[str, Any], ...]
    gpu_cost: NDArray[np.float64]
    violation_rate: NDArray[np.float64]
    cold_starts_per_h: NDArray[np.float64]
    direction_flips_per_h: NDArray[np.float64]
    pareto: tuple[int, ...]
    best: int
    feasible: bool
    held_out: tuple[HeldOut, ...]
    termination: Termination
    stats: SolveStats = field(compare=False)

    @property
    def best_choice(self) -> dict[str, Any]:
        """The values of the best candidate, for `dataclasses.replace` on the function's parameters."""
        return dict(self.candidates[self.best])
