"""What sharing a GPU costs in latency: before placement the worst that could sit beside, afterwards what does.

Before placement an inference function is configured under a margin: at every share its latency bound is multiplied with
the upper slowdown beside the heaviest neighbours that the caps leave room for. Those are a knapsack: any number of
instances of any function of the plan that may sit beside it, each at the configuration it would have alone, as many as
fit the requests and the limits that the GPU has left. On a whole GPU nothing is left, and the margin is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as checks
from dilu_core.cluster import Oversubscription
from dilu_core.functions import FunctionSpec
from dilu_core.gpu_bookings import gpu_bookings
from dilu_core.interference import InterferenceModel, Tenant, stall
from dilu_core.performance import RooflineModel
from dilu_core.placement import Placement, PlacementProblem
from dilu_core.plans import FunctionPlan
from dilu_core.quota import QuotaConfig, QuotaGrid

_TOLERANCE = 1e-9  # of a budget: float noise raises no warning


@dataclass(frozen=True)
class SharingMargin:
    """By what factor one function may be slowed where it shares a GPU.

    `heaviest[r]` is the greatest sum of excesses at stall 0 that its neighbours can have once it takes a request of r
    milli-GPU, for r up to the cap.
    """

    heaviest: NDArray[np.float64]
    stall_weight: float

    def factors(self, model: RooflineModel, grid: QuotaGrid) -> NDArray[np.float64]:
        """(batches, shares) upper slowdown of every cell of `grid`."""
        shares = np.array(grid.sm_milli)
        waits = 1.0 + self.stall_weight * stall(model, np.array(grid.batches)[:, None], shares)
        taken = np.minimum(shares, len(self.heaviest) - 1)
        return np.asarray(1.0 + self.heaviest[taken] * waits)


def interference_model(value: object) -> InterferenceModel | None:
    """The model that the planner's argument `interference` asks for."""
    if isinstance(value, str) and value == "default":
        return InterferenceModel.default()
    if value is not None and not isinstance(value, InterferenceModel):
        checks.fail("interference", f"is {value!r:.80}; expected an InterferenceModel, 'default' or None.")
    return value


def sharing_margins(
    specs: Sequence[FunctionSpec],
    configs: Sequence[QuotaConfig | None],
    tenants: Mapping[str, Tenant],
    model: InterferenceModel,
    caps: Oversubscription,
    quantile: float | None,
) -> list[SharingMargin]:
    """The margin of every function, against neighbours that run at `configs` and are described by `tenants`."""
    beside = [(spec, config) for spec, config in zip(specs, configs, strict=True) if config is not None]
    margins = []
    for victim in specs:
        others = [(spec, config) for spec, config in beside if not _apart(victim, spec)]
        excesses = np.array(
            [
                float(model.excess(victim.name, 0.0, spec.name, tenants[spec.name].use, quantile=quantile))
                for spec, _ in others
            ]
        )
        by_request = _heaviest(excesses, [config.request_milli for _, config in others], caps.request_milli)
        by_limit = _heaviest(excesses, [config.limit_milli for _, config in others], caps.limit_milli)
        taken = np.arange(caps.request_milli + 1)
        # The function's own limit is at least its request, so this is what at most is left under each cap.
        left_of_limit = np.maximum(caps.limit_milli - taken, 0)
        heaviest = np.minimum(by_request[caps.request_milli - taken], by_limit[left_of_limit])
        margins.append(SharingMargin(checks.read_only(heaviest), model.stall_weight))
    return margins


def _apart(a: FunctionSpec, b: FunctionSpec) -> bool:
    return b.name in a.anti_affinity or a.name in b.anti_affinity


def _heaviest(values: NDArray[np.float64], weights: Sequence[int], capacity: int) -> NDArray[np.float64]:
    """(capacity + 1,) greatest sum of `values` within each capacity, every item any number of times."""
    best = np.zeros(capacity + 1)
    sizes = np.array(weights, dtype=np.int64)
    for room in range(1, capacity + 1):
        fits = sizes <= room
        best[room] = max(best[room - 1], float((best[room - sizes[fits]] + values[fits]).max(initial=0.0)))
    return best


def placed_slowdowns(
    problem: PlacementProblem,
    placement: Placement,
    tenants: Mapping[str, Tenant],
    model: InterferenceModel,
    quantile: float | None,
) -> dict[str, float]:
    """Instance name -> its upper slowdown beside its actual neighbours; on several GPUs, that of the worst."""
    found: dict[str, float] = {}
    for gpu in gpu_bookings(problem, placement):
        sitting = [tenants[each.function] for each in gpu.bookings]
        for i, each in enumerate(gpu.bookings):
            others = sitting[:i] + sitting[i + 1 :]
            if quantile is None:
                slowdown = model.slowdown(sitting[i], others)
            else:
                slowdown = model.upper_slowdown(sitting[i], others, quantile)
            found[each.name] = max(found.get(each.name, 1.0), slowdown)
    return found


def with_slowdown_warnings(planned: FunctionPlan, slowdowns: Mapping[str, float]) -> FunctionPlan:
    """`planned`, with a warning where its latency bound times the slowdown of an instance exceeds the budget.

    Of an LLM with two objectives the one with less room counts.
    """
    config, budget_ms, tokens = planned.config, planned.budget_ms, planned.tokens
    placed = [name for name in planned.instances if name in slowdowns]
    if config is None or budget_ms is None or not placed:
        return planned
    bound_ms = max(config.upper_ms or config.latency_ms, planned.measured_ms or 0.0)
    if tokens is not None:
        room = [
            (max(c.upper_ms or c.latency_ms or 0.0, c.measured_ms or 0.0), c.budget_ms)
            for c in (tokens.ttft, tokens.tpot)
        ]
        bound_ms, budget_ms = max(room, key=lambda pair: pair[0] / pair[1])
    late = [name for name in placed if bound_ms * slowdowns[name] > budget_ms * (1.0 + _TOLERANCE)]
    if not late:
        return planned
    worst = max(late, key=lambda name: slowdowns[name])
    warning = (
        f"{len(late)} of {len(placed)} instances may miss the budget of {budget_ms:,.1f} ms beside their neighbours: "
        f"{worst} by its bound of {bound_ms:,.1f} ms times a slowdown of {slowdowns[worst]:.2f}."
    )
    return replace(planned, warnings=(*planned.warnings, warning))
