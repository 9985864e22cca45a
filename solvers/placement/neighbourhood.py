"""Large neighbourhood search: clear part of a few nodes, place it again exactly, keep what is no worse.

A small problem is one neighbourhood, and CP-SAT's proof for it is a proof for the whole. In a large one,
`dilu_core.solvers.placement.destroy` draws nodes and who of them leaves; those drawn are placed again by
`dilu_core.solvers.placement.cpsat`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.result import Limit
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.cpsat import Assignment, assign
from dilu_core.solvers.placement.destroy import FEWEST_NODES, Choice, Neighbourhood
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value, is_moved, value

_WHOLE_PAIRS = 2_000  # pairs of instance and GPU that CP-SAT handles well in its time, in a problem solved as one
_HOMELESS = 8  # instances without a place that join a neighbourhood
_STALLED = 60  # neighbourhoods in a row without gain, after which more of them are not worth it
_DETERMINISTIC_S = 0.3
_DETERMINISTIC_WHOLE_S = 5.0


@dataclass
class Search:
    """The incumbent: a working `ledger`, and `best`, its last good state (whole even if the work is interrupted).

    `was_cut` says that a clock, not a count of work, ended some step on the way here.
    """

    ledger: Bookings
    wanted: Sequence[Instance]
    current: Mapping[str, Booking]
    most_moves: int | None
    objective: Objective
    value: Value = field(init=False)
    best: dict[str, Booking] = field(init=False)
    neighbourhoods: int = 0
    is_exact: bool = False
    was_cut: bool = False

    def __post_init__(self) -> None:
        self.keep()

    def keep(self) -> None:
        """Take the ledger as the incumbent."""
        self.value = value(self.ledger, self.wanted, self.current)
        self.best = dict(self.ledger.by_name)


def improve(
    search: Search,
    *,
    enough: Callable[[Value], bool],
    deadline: float,
    seed: int,
    report: Callable[[int], None] | None,
) -> Limit | None:
    """Search from the incumbent until `enough`, and say what cut the search short (`deadline` is of perf_counter).

    A small problem is solved once as a whole, also where only the lesser aims leave something to gain.
    """
    whole = _whole(search)
    if whole is not None:
        if enough(search.value) and not _leaves_lesser_aims(search):
            return None
        left = deadline - time.perf_counter()
        if left > 0:
            started = time.perf_counter()
            search.is_exact = _solve(search, Neighbourhood(whole, _on(search.ledger, whole)), True, 0.6 * left, seed)
            search.was_cut |= not search.is_exact and time.perf_counter() - started >= 0.6 * left
            search.neighbourhoods += 1
        if search.is_exact:
            return None
        if len(whole) <= FEWEST_NODES:  # a part of it would be all of it again
            return None if enough(search.value) else _limit_of(deadline)
    random = np.random.default_rng(seed)
    choice = Choice(search.objective)
    stalled = 0
    while not enough(search.value):
        left = deadline - time.perf_counter()
        if left <= 0:
            return Limit.TIME
        if stalled == _STALLED:
            return Limit.ITERATIONS
        before = search.objective.key(search.value)
        drawn = choice.draw(search.ledger, search.current, search.value, random)
        proven = _solve(search, drawn, False, left, int(random.integers(1 << 30)))
        gained = search.objective.key(search.value) < before
        choice.learn(drawn, gained=gained, proven=proven)
        search.neighbourhoods += 1
        stalled = 0 if gained else stalled + 1
        if report:
            report(search.value.gpus)
    return None


def _leaves_lesser_aims(search: Search) -> bool:
    """Whether a placement on as many GPUs could be better."""
    return any(getattr(search.value, term) for term in search.objective.terms if term != "gpus")


def _limit_of(deadline: float) -> Limit:
    return Limit.TIME if time.perf_counter() >= deadline else Limit.ITERATIONS


def is_small(search: Search) -> bool:
    """Whether the problem is small enough to be solved as one neighbourhood."""
    return _whole(search) is not None


def _whole(search: Search) -> list[int] | None:
    """Nodes that suffice to hold some best placement, where they are few enough to be solved at once.

    No placement of n instances uses more than n nodes, and none that uses no more GPUs than the incumbent's U more than
    U. Empty nodes of one shape where nobody runs now are alike: that many of every shape, and all others, are enough.
    """
    ledger = search.ledger
    most = len(search.wanted)
    if not search.value.unplaced and search.objective.weights is None and search.objective.order[:1] == ("gpus",):
        most = min(most, search.value.gpus)
    running = {int(ledger.node_of[booking.gpus[0]]) for booking in search.current.values()}
    nodes, empty = [], dict[tuple[object, ...], int]()
    for n, (start, stop) in enumerate(ledger.node_ranges()):
        if n not in running and not ledger.held[start:stop].any():
            shape = (ledger.cluster.nodes[n].gpu_type.name, stop - start, *ledger.host_free[n].tolist())
            empty[shape] = empty.get(shape, 0) + 1
            if empty[shape] > most:
                continue
        nodes.append(n)
    gpus = sum(ledger.cluster.nodes[n].gpus for n in nodes)
    return nodes if gpus * len(search.wanted) <= _WHOLE_PAIRS else None


def _on(ledger: Bookings, nodes: Sequence[int]) -> tuple[str, ...]:
    """The names of all instances on these nodes."""
    rows = (row for n in nodes for row in range(int(ledger.node_start[n]), int(ledger.node_start[n + 1])))
    return tuple(dict.fromkeys(name for row in rows for name in ledger.on_gpu[row]))


def _solve(search: Search, drawn: Neighbourhood, whole: bool, left: float, seed: int) -> bool:
    """Place the drawn instances again, keep the answer where it is no worse, and say whether it is proven best."""
    ledger = search.ledger
    held = {name: ledger.by_name[name] for name in drawn.leaving}
    homeless = [instance for instance in search.wanted if instance.name not in ledger.by_name]
    if not whole:
        start = seed % max(len(homeless), 1)
        homeless = (homeless[start:] + homeless[:start])[:_HOMELESS]
    for name in held:
        ledger.cancel(name)
    moves_left = search.most_moves
    if moves_left is not None:
        moves_left -= sum(
            is_moved(ledger.by_name[name], now) for name, now in search.current.items() if name in ledger.by_name
        )
    instances = [booking.instance for booking in held.values()] + homeless
    found = assign(
        ledger,
        drawn.nodes,
        instances,
        hint=held,
        current={each.name: search.current[each.name] for each in instances if each.name in search.current},
        objective=search.objective,
        most_moves=moves_left,
        deterministic_s=_DETERMINISTIC_WHOLE_S if whole else _DETERMINISTIC_S,
        time_limit_s=left,
        seed=seed,
    )
    _book(ledger, held if found is None else found.bookings)
    if found is not None:
        found_value = value(ledger, search.wanted, search.current)
        if search.objective.key(found_value) > search.objective.key(search.value):
            for name in found.bookings:
                ledger.cancel(name)
            _book(ledger, held)
            return False
        search.keep()
    return _is_proof(found)


def _book(ledger: Bookings, bookings: Mapping[str, Booking]) -> None:
    for booking in bookings.values():
        ledger.book(booking.instance, booking.gpus, booking.memory_mib, booking.configuration, booking.mig)


def _is_proof(found: Assignment | None) -> bool:
    return found is not None and found.is_optimal
