"""tune(): the parameters of the horizontal policy that serve given traces cheapest, judged on traces not seen.

Every candidate is replayed on every trace (`replay_many`: one thread per pair on a GPU). The choice is the cheapest
candidate within the limits on violations and cold starts. To say what such a choice is worth, the traces are held out
in turn: a candidate is chosen on the others and judged on those.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import fail, finite, instances_of, integer, read_only
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.solvers.policy_replay import replay_many
from dilu_core.solvers.replay_setup import check_spares
from dilu_core.traces import ArrivalTrace
from dilu_core.tuning_space import HeldOut, TuningResult, TuningSpace
from dilu_core.units import FULL_GPU_MILLI

Floats = NDArray[np.float64]

COST, VIOLATIONS, COLD_STARTS, FLIPS = range(4)


def tune(
    traces: ArrivalTrace | Iterable[ArrivalTrace],
    space: TuningSpace,
    *,
    most_violations: float = 0.02,
    most_cold_starts_per_h: float = 40.0,
    folds: int | None = None,
    spare_milli: Sequence[float | ArrayLike | None] | None = None,
    step_s: float = 0.1,
    control_s: float = 1.0,
    backend: str = "auto",
) -> TuningResult:
    """The Pareto front of violations against GPU-seconds over the candidates of `space`, and the best of them.

    `folds` groups of traces are held out in turn (trace t belongs to group t mod folds), by default each trace alone;
    with one trace nothing is held out. `spare_milli`, `step_s`, `control_s` and `backend` are those of `replay_many`.
    A limit that no candidate meets is no error: the result then says `feasible=False` and names the least violations.

    Raises `InvalidArgumentError` naming the argument: a `space` of another number of functions than traces, a function
    without an SLO, a trace without requests.
    """
    started = time.perf_counter()
    every = instances_of("traces", [traces] if isinstance(traces, ArrivalTrace) else traces, ArrivalTrace)
    _check(every, space)
    most_violations = finite("most_violations", most_violations, at_least=0.0, at_most=1.0)
    most_cold_starts_per_h = finite("most_cold_starts_per_h", most_cold_starts_per_h, at_least=0.0)
    limits = most_violations, most_cold_starts_per_h
    groups = min(len(every), integer("folds", len(every) if folds is None else folds, at_least=1))
    spares = check_spares(spare_milli, every)
    figures = np.empty((len(every), len(space.candidates), 4))
    done: list[SolveStats] = []
    for t, trace in enumerate(every):
        spare = None if spares is None else [spares[t]]
        found = replay_many(
            trace, space.sets_for(t), spare_milli=spare, step_s=step_s, control_s=control_s, backend=backend
        )
        base, hours = space.base_of(t), trace.duration_s / 3600.0
        least_gpu_s = trace.requests / base.capacity_rps * base.request_milli / FULL_GPU_MILLI
        figures[t, :, COST] = found.gpu_seconds[0] / least_gpu_s
        figures[t, :, VIOLATIONS] = found.violation_rate[0]
        figures[t, :, COLD_STARTS] = found.cold_starts[0] / hours
        figures[t, :, FLIPS] = found.direction_flips[0] / hours
        done.append(found.stats)
    means = figures.mean(axis=0)
    best, feasible = choose(means, *limits)
    steps = sum(stats.counts["steps"] for stats in done)
    stats = replace(
        done[-1],
        seconds=time.perf_counter() - started,
        counts={"replays": figures.shape[0] * figures.shape[1], "steps": steps},
        chunks=sum(each.chunks for each in done),
        compile_s=sum(each.compile_s for each in done),
    )
    said = "" if feasible else f"no candidate keeps to {most_violations:.2%} of requests late within the cold starts"
    return TuningResult(
        candidates=space.candidates,
        gpu_cost=read_only(means[:, COST].copy()),
        violation_rate=read_only(means[:, VIOLATIONS].copy()),
        cold_starts_per_h=read_only(means[:, COLD_STARTS].copy()),
        direction_flips_per_h=read_only(means[:, FLIPS].copy()),
        pareto=pareto_front(means, most_cold_starts_per_h),
        best=best,
        feasible=feasible,
        held_out=_held_out(figures, groups, limits) if groups > 1 else (),
        termination=Termination(TerminationReason.FEASIBLE if feasible else TerminationReason.INFEASIBLE, detail=said),
        stats=stats,
    )


def choose(means: Floats, most_violations: float, most_cold_starts_per_h: float) -> tuple[int, bool]:
    """The cheapest row of `means` (candidates, 4) within the limits, and whether there is one.

    Where there is none: of those within the cold starts (of all, if none is) the one of fewest violations. Ties go to
    fewer violations, then cost, then the earlier candidate.
    """
    calm = means[:, COLD_STARTS] <= most_cold_starts_per_h
    good = calm & (means[:, VIOLATIONS] <= most_violations)
    if good.any():
        order = np.lexsort((means[:, VIOLATIONS], means[:, COST], ~good))
        return int(order[0]), True
    order = np.lexsort((means[:, COST], means[:, VIOLATIONS], ~calm))
    return int(order[0]), False


def pareto_front(means: Floats, most_cold_starts_per_h: float) -> tuple[int, ...]:
    """The candidates within the cold starts that none such beats in cost and violations, by ascending cost."""
    front: list[int] = []
    fewest = np.inf
    for k in np.lexsort((means[:, VIOLATIONS], means[:, COST])).tolist():
        if means[k, COLD_STARTS] <= most_cold_starts_per_h and means[k, VIOLATIONS] < fewest:
            front.append(k)
            fewest = float(means[k, VIOLATIONS])
    return tuple(front)


def _held_out(figures: Floats, groups: int, limits: tuple[float, float]) -> tuple[HeldOut, ...]:
    """For each group of traces, what the choice on the others does on it."""
    group = np.arange(figures.shape[0]) % groups
    found = []
    for g in range(groups):
        chosen, _ = choose(figures[group != g].mean(axis=0), *limits)
        unseen = figures[group == g, chosen].mean(axis=0)
        found.append(
            HeldOut(
                traces=tuple(np.flatnonzero(group == g).tolist()),
                candidate=chosen,
                gpu_cost=float(unseen[COST]),
                violation_rate=float(unseen[VIOLATIONS]),
                cold_starts_per_h=float(unseen[COLD_STARTS]),
            )
        )
    return tuple(found)


def _check(traces: Sequence[ArrivalTrace], space: object) -> None:
    if not traces:
        fail("traces", "is empty; expected at least one.")
    if not isinstance(space, TuningSpace):
        fail("space", f"is {space!r:.80}; expected a TuningSpace.")
    functions: Sequence[object] = space.base  # type: ignore[assignment]
    if len(functions) not in (1, len(traces)):
        fail("space", f"describes {len(functions)} functions for {len(traces)} traces; expected one, or one per trace.")
    for t, trace in enumerate(traces):
        if space.base_of(t).slo_ms is None:
            fail("space", f"describes a function without slo_ms for traces[{t}]; violations need an SLO.")
        if trace.requests == 0.0:
            fail(f"traces[{t}]", "holds no request; there is nothing to tune for.")
