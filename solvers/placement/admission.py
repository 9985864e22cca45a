"""Let in the greatest GPU share of pending instances by few moves.

    direct      those that fit as things stand, the greatest share first
    hosts       those that free GPUs wait for, once what uses no GPU has left the host to them
    whole       a small cluster as one exact model
    exchange    annealing over moves, swaps and admissions at once (dilu_core.solvers.placement.exchange)
    room        for those left, the moves that would let each in, the greatest share first

A single one that waits is made room for before the exchange.

An instance let in never costs a running one its place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.exchange import exchange
from dilu_core.solvers.placement.gradient import Gradient
from dilu_core.solvers.placement.host_relief import relieve_hosts
from dilu_core.solvers.placement.layers import Newcomer, solve_layers
from dilu_core.solvers.placement.movers import everyone, is_small
from dilu_core.solvers.placement.moving import Draft
from dilu_core.solvers.placement.ordering import carry_out_all
from dilu_core.solvers.placement.pricing import Prices
from dilu_core.solvers.placement.room import demand_of, make_room

_DETERMINISTIC_S = 20.0
_SMALL_LAYERS = 4
_EXCHANGE_SHARE = 0.8  # of the time
_ROOM_S = 2.0  # for one instance
_EXCHANGED_FROM = 200  # running instances, below which neighbourhoods alone do as well


def admit(
    draft: Draft,
    pending: Sequence[Instance],
    deadline: float,
    *,
    reservations: set[str],
    may_pause: bool,
    seed: int,
) -> bool:
    """Add moves and admissions to the draft until `deadline` (of perf_counter); whether it ran to its end.

    `reservations` of host CPU and memory may be moved as well.
    """
    waiting = sorted(pending, key=lambda each: (-share_milli(each), each.name))
    small = is_small(draft.ledger)
    if not small or draft.moves_left == 0:  # a small model weighs direct places against others
        waiting = _direct(draft, waiting)
    if reservations and waiting and draft.moves_left > 0:
        if not relieve_hosts(draft, waiting, reservations, deadline):
            return False
        waiting = _still(draft, waiting)
    if not waiting or draft.moves_left <= 0:
        return True
    started = time.perf_counter()
    if started >= deadline:
        return False
    if small:
        return _whole(draft, waiting, deadline)
    if len(draft.ledger.by_name) < _EXCHANGED_FROM:
        return _one_by_one(draft, waiting, deadline, _ROOM_S)
    if len(waiting) == 1:  # room for it alone is quicker sought than by exchange
        _one_by_one(draft, waiting, min(deadline, started + _ROOM_S), _ROOM_S)
        waiting = _still(draft, waiting)
        started = time.perf_counter()
        if not waiting or started >= deadline:
            return not waiting
    until = started + _EXCHANGE_SHARE * (deadline - started)
    wanted, newcomers = exchange(draft, waiting, until, may_pause=may_pause, seed=seed)
    ended = time.perf_counter() < until
    carry_out_all(draft, wanted, newcomers, may_pause=may_pause)
    draft.fixed.update(wanted)
    waiting = _direct(draft, _still(draft, waiting))
    return not waiting or (_one_by_one(draft, waiting, deadline, _ROOM_S) and ended)


def share_milli(instance: Instance) -> int:
    """The GPU share that letting it in allocates."""
    return instance.request_milli * instance.gpus


def _still(draft: Draft, waiting: list[Instance]) -> list[Instance]:
    return [each for each in waiting if each.name not in draft.ledger.by_name]


def _direct(draft: Draft, waiting: list[Instance]) -> list[Instance]:
    """Let in what fits as things stand; returns the others."""
    gradient = None if draft.mix is None else Gradient(draft.ledger, mix=draft.mix)
    chooser = Chooser(draft.ledger, gradient=gradient)
    for instance in waiting:
        choice = chooser.choose(instance)
        if choice is not None:
            draft.admit(Booking(instance, choice.gpus, choice.memory_mib, choice.configuration, choice.mig))
    return _still(draft, waiting)


def _whole(draft: Draft, waiting: list[Instance], deadline: float) -> bool:
    """Everything in one model: the greatest share let in, then the fewest and cheapest moves."""
    ledger = draft.ledger
    found, places, _ = everyone(draft, waiting, Prices.of(draft), deadline)
    layers = min(draft.moves_left, _SMALL_LAYERS)
    dearest = 1 + layers * sum(mover.price + max(mover.way_price, default=0) for mover in found)
    dearest += sum(len(each.alternatives) for each in waiting)
    newcomers = [Newcomer(ways, dearest * share_milli(each)) for each, ways in zip(waiting, places, strict=True)]
    layout = solve_layers(
        ledger, found, newcomers, layers=layers, most_moves=draft.moves_left, gpu_price=0,
        deterministic_s=_DETERMINISTIC_S, time_limit_s=deadline - time.perf_counter(),
    )  # fmt: skip
    if layout is not None and draft.carry_out([booking for layer in layout.layers for booking in layer]):
        for booking in layout.newcomers:
            draft.admit(booking)
    _direct(draft, _still(draft, waiting))
    return layout is not None and layout.is_optimal


def _one_by_one(draft: Draft, waiting: list[Instance], deadline: float, most_s: float) -> bool:
    """Make room for one instance after another; whether time left none without a place.

    Each gets `most_s` at most, and those for whom that was too little get what is left afterwards. Of equal demands
    only one is tried once one has failed.
    """
    failed, cut = set[tuple[object, ...]](), set[tuple[object, ...]]()
    for instance in waiting:
        shape = demand_of(instance)
        if draft.moves_left <= 0:
            return True
        if shape in failed:
            continue
        now = time.perf_counter()
        if now >= deadline:
            return False
        until = min(deadline, now + most_s)
        found = make_room(draft, instance, until)
        if not draft.let_in(found.moves, found.place):
            failed.add(shape)
            if time.perf_counter() >= until:
                cut.add(shape)
    again = [each for each in _still(draft, waiting) if demand_of(each) in cut]
    return not again or _one_by_one(draft, again, deadline, math.inf)
