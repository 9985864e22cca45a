"""Place instances on a cluster on as few GPUs as can be found, with a proven bound on how few there could be.

    set aside what fits nowhere -> prove a bound -> construct -> search neighbourhoods until the bound is met

The aims, in order: most instances placed, fewest GPUs, fewest running instances moved, fewest parts of split instances,
most affinities met. Without a limit cutting it short, the answer depends on problem and seed alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from dilu_core import _checks as check
from dilu_core.placement import PlacementProblem
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.slots import Placement
from dilu_core.solvers.backends import resolved
from dilu_core.solvers.placement.attempt import Outcome, run_attempts
from dilu_core.solvers.placement.bookings import Bookings
from dilu_core.solvers.placement.bounds import Bound, lower_bound
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.reasons import why_never, why_not_now
from dilu_core.solvers.placement.task import Report, Task

Progress = Callable[[int, int, float], None]
"""Called with the GPUs of the incumbent, the bound, and seconds since the start."""


@dataclass(frozen=True)
class PlacementResult:
    """A placement and how good it is known to be.

    `unplaced` says why for each instance left out. `lower_bound` holds for the instances that are placed: no placement
    of them uses fewer GPUs, by `bound_proof`.
    """

    placement: Placement
    lower_bound: int
    bound_proof: str
    unplaced: Mapping[str, str]
    termination: Termination
    stats: SolveStats

    @property
    def gpus_used(self) -> int:
        """GPUs that hold at least one instance."""
        return self.placement.gpus_used

    @property
    def gap(self) -> float:
        """(GPUs used - bound) / bound; 0 where nothing is placed."""
        return (self.gpus_used - self.lower_bound) / self.lower_bound if self.lower_bound else 0.0


def place(
    problem: PlacementProblem,
    *,
    time_limit_s: float = 10.0,
    gap: float = 0.0,
    seed: int = 0,
    max_migrations: int | None = None,
    objective: Objective | None = None,
    backend: str = "auto",
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> PlacementResult:
    """The best placement of `problem` found within `time_limit_s`.

    The bound and the first construction are made whatever the limit, so `time_limit_s=0` gives the first construction;
    on large problems they may take longer than a short limit. Stops as soon as GPUs used are within `gap` of the bound
    (0: equal to it). With `problem.current`, running instances stay placed, and at most `max_migrations` of them get
    other slots (`None`: as many as it takes to use fewer GPUs, but no more). An instance without a place is named in
    `unplaced` with the reason. From the first construction on, an interrupt (Ctrl-C) returns the incumbent. With
    `executor`, several seeds are searched within the same limit, at once where it has workers for all, and the best is
    taken; `progress` is not called then, and an interrupt is not caught. Raises `InvalidArgumentError` for arguments
    out of range, and for an `executor` that is shut down.
    """
    started = time.perf_counter()
    if not isinstance(problem, PlacementProblem):
        check.fail("problem", f"is {problem!r:.120}; expected a PlacementProblem.")
    seconds = check.finite("time_limit_s", time_limit_s, at_least=0.0)
    gap = check.finite("gap", gap, at_least=0.0)
    seed = check.integer("seed", seed, at_least=0)
    if max_migrations is not None:
        max_migrations = check.integer("max_migrations", max_migrations, at_least=0)
    objective = Objective() if objective is None else objective
    if not isinstance(objective, Objective):
        check.fail("objective", f"is {objective!r:.120}; expected an Objective, or None for the default.")
    _check_executor(executor)
    if progress is not None and not callable(progress):
        check.fail("progress", f"is {progress!r:.120}; expected a function of incumbent, bound and seconds, or None.")
    ran_on = resolved(backend)

    never = {each.name: why_never(problem.cluster, problem.oversubscription, each) for each in problem.instances}
    hopeless = {name: reason for name, reason in never.items() if reason is not None}
    wanted = tuple(each for each in problem.instances if each.name not in hopeless)
    bound = lower_bound(problem.cluster, problem.oversubscription, wanted)
    task = Task(
        problem,
        wanted,
        bound,
        gap,
        max_migrations,
        max(0.0, started + seconds - time.perf_counter()),
        seed,
        objective,
    )
    outcome = run_attempts(task, executor, _reporter(progress, started))
    bound = outcome.bound

    ledger = Bookings(problem.cluster, problem.oversubscription)
    for each in wanted:
        if each.name in outcome.bookings:
            booking = outcome.bookings[each.name]
            ledger.book(each, booking.gpus, booking.memory_mib, booking.configuration, booking.mig)
    homeless = {each.name: why_not_now(ledger, each) for each in wanted if each.name not in ledger.by_name}
    if homeless:
        placed = [booking.instance for booking in ledger.by_name.values()]
        bound = lower_bound(problem.cluster, problem.oversubscription, placed)
    elif outcome.proves_best and objective.gpus_first and ledger.gpus_used > bound.value:
        bound = Bound(ledger.gpus_used, "exhaustive search")
    return PlacementResult(
        ledger.placement(),
        bound.value,
        bound.proof,
        hopeless | homeless,
        _termination(outcome, objective.gpus_first, ledger.gpus_used, bound, len(hopeless), len(homeless)),
        SolveStats(time.perf_counter() - started, ran_on, outcome.counts),
    )


def _check_executor(executor: Executor | None) -> None:
    """Refuse what is no executor, or one that takes no work any more."""
    if executor is None:
        return
    if not (callable(getattr(executor, "submit", None)) and callable(getattr(executor, "map", None))):
        check.fail("executor", f"is {executor!r:.120}; expected an Executor of concurrent.futures, or None.")
    try:
        executor.submit(int).cancel()
    except RuntimeError as error:  # shut down or broken
        check.fail("executor", f"takes no work: {error}. Give one that is open while place() runs.")


def _reporter(progress: Progress | None, started: float) -> Report | None:
    if progress is None:
        return None
    return lambda incumbent, bound: progress(incumbent, bound, time.perf_counter() - started)


def _termination(
    outcome: Outcome, gpus_first: bool, gpus: int, bound: Bound, hopeless: int, homeless: int
) -> Termination:
    """What is known: infeasible where some instance fits nowhere, optimal where the bound or exhaustion proves it."""
    proven = outcome.proves_best or (gpus_first and homeless == 0 and gpus == bound.value)
    known = f"fewest possible by {bound.proof}" if gpus == bound.value else f"bound {bound.value} by {bound.proof}"
    detail = f"{len(outcome.bookings)} instances on {gpus} GPUs, {known}"
    if homeless:
        detail += f"; {homeless} found no place" + (", which is proven the fewest" if outcome.proves_best else "")
    if hopeless:
        detail += f"; {hopeless} would fit nowhere even alone"
        return Termination(TerminationReason.INFEASIBLE, outcome.limit, detail)
    if homeless and outcome.proves_best:
        return Termination(TerminationReason.INFEASIBLE, outcome.limit, detail)
    return Termination(TerminationReason.OPTIMAL if proven else TerminationReason.FEASIBLE, outcome.limit, detail)
