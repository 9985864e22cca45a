"""Which part of a placement to clear and place again: ways to draw it, chosen the more often the more they gain.

    spare     nodes whose active GPUs have most room to spare
    split     a node with a split instance, and nodes with room
    related   nodes that hold instances of functions that like or refuse each other
    sparse    nodes with fewest instances, and others with room, so that whole nodes can be freed
    moved     nodes of instances that were moved, and those where they ran
    random    any active nodes

Each with or without the gangs: a gang mostly fills its GPUs whoever else there is, so that leaving gangs where they are
lets twice as many nodes be searched for the rest. How much is cleared adapts: more where proofs come, less where not.
Ropke and Pisinger, "An adaptive large neighborhood search heuristic for the pickup and delivery problem with time
windows", Transportation Science 2006 (doi 10.1287/trsc.1050.0135), is the source of the adaptive choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value, is_moved

FEWEST_NODES = 6
_MOST_NODES = 24
_FEWEST_PAIRS, _PAIRS, _MOST_PAIRS = 300.0, 800.0, 3_000.0  # of instance that leaves and GPU
_MEMORY = 0.9  # weight of an arm's past against its last draw
_LEAST_WEIGHT = 0.05

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbourhood:
    """Nodes to place on, the instances that leave them first, and the way this was drawn."""

    nodes: Sequence[int]
    leaving: tuple[str, ...]
    arm: int = 0


@dataclass
class _Arm:
    """A way to draw, its success so far, and how many pairs of instance and GPU it takes."""

    way: str
    gangs_leave: bool
    weight: float = 1.0
    pairs: float = _PAIRS


class Choice:
    """The ways to draw that can matter under `objective`, and what was learnt of them."""

    def __init__(self, objective: Objective) -> None:
        terms = objective.terms
        ways = ["spare", "random"]
        ways += ["split"] if {"splits", "split_parts", "gpus"} & set(terms) else []
        ways += ["related"] if "affinities" in terms else []
        ways += ["sparse"] if "nodes" in terms else []
        ways += ["moved"] if "moves" in terms else []
        self._arms = [_Arm(way, gangs) for way in ways for gangs in (False, True)]
        # only where something may outweigh a GPU is it of use to open one
        self._may_open = objective.weights is not None or objective.order[:1] != ("gpus",)

    def draw(self, ledger: Bookings, current: Mapping[str, Booking], value: Value, random: Generator) -> Neighbourhood:
        """Nodes, and those on them who leave."""
        weight = np.array([arm.weight for arm in self._arms])
        number = int(random.choice(weight.size, p=weight / weight.sum()))
        arm = self._arms[number]
        active = np.flatnonzero(np.add.reduceat(ledger.held, ledger.node_start[:-1]) > 0)
        ranked = _ranked(arm.way, ledger, current, active, random)
        if self._may_open or value.unplaced:
            empty = np.setdiff1d(np.arange(ledger.node_start.size - 1), active)
            ranked = [*random.permutation(empty)[: 2 if empty.size else 0].tolist(), *ranked]
        nodes: list[int] = []
        leaving: dict[str, None] = {}
        gpus = 0
        for n in ranked:
            start, stop = int(ledger.node_start[n]), int(ledger.node_start[n + 1])
            names = [
                name
                for row in range(start, stop)
                for name, booking in ledger.on_gpu[row].items()
                if arm.gangs_leave or booking.instance.gpus == 1
            ]
            rooms = sum(1 for row in range(start, stop) if arm.gangs_leave or _is_open(ledger, row))
            full = (gpus + rooms) * (len(leaving) + len(names)) > arm.pairs
            if len(nodes) >= 2 and (full or len(nodes) >= _MOST_NODES):
                break
            if not names and ledger.held[start:stop].any() and rooms == 0:
                continue
            nodes.append(n)
            leaving |= dict.fromkeys(names)
            gpus += rooms
        return Neighbourhood(nodes, tuple(leaving), number)

    def learn(self, drawn: Neighbourhood, *, gained: bool, proven: bool) -> None:
        """Take note of what became of a draw."""
        arm = self._arms[drawn.arm]
        arm.weight = max(_LEAST_WEIGHT, _MEMORY * arm.weight + (1 - _MEMORY) * (4.0 if gained else 0.0))
        if not gained:
            arm.pairs = min(max(arm.pairs * (1.15 if proven else 0.93), _FEWEST_PAIRS), _MOST_PAIRS)


def _is_open(ledger: Bookings, row: int) -> bool:
    """Whether a GPU has anything but gangs on it, or room beside them."""
    return any(b.instance.gpus == 1 for b in ledger.on_gpu[row].values()) or bool((ledger.free[row] > 0).all())


def _ranked(way: str, ledger: Bookings, current: Mapping[str, Booking], active: Ints, random: Generator) -> list[int]:
    """Nodes in the order to be taken: those the way is after first, mixed with others that have room."""
    starts = ledger.node_start[:-1]
    room = np.where(ledger.held > 0, (ledger.free / np.maximum(ledger.capacity, 1)).min(axis=1), 0.0)
    spare = np.add.reduceat(room, starts)[active] + 1e-3
    if way == "random":
        return [int(n) for n in random.permutation(active)]
    by_room = _weighted(active, spare**2, random)
    if way == "spare":
        return by_room
    if way == "sparse":
        held = np.add.reduceat(ledger.held, starts)[active]
        first = _weighted(active, 1.0 / held**2, random)
    elif way == "split":
        first = _nodes_of(ledger, [b for b in ledger.by_name.values() if b.is_split], random)[:2]
    elif way == "moved":
        here = ledger.by_name
        changed = [now for name, now in current.items() if name in here and is_moved(here[name], now)]
        some = [changed[k] for k in random.permutation(len(changed))[:3].tolist()]
        there = [here[now.instance.name] for now in some]
        first = [int(ledger.node_of[booking.gpus[0]]) for booking in (*there, *some)]
    else:
        first = _related(ledger, random)
    half = max(FEWEST_NODES // 2, 1)
    return list(dict.fromkeys([*first[:half], *by_room, *first]))


def _related(ledger: Bookings, random: Generator) -> list[int]:
    """Nodes of the functions that some instance with affinities likes, and its own."""
    choosy = [b for b in ledger.by_name.values() if b.instance.affinity]
    if not choosy:
        return []
    one = choosy[int(random.integers(len(choosy)))]
    rows = [row for friend in one.instance.affinity for row in ledger.function_on.get(friend, ())]
    nodes = sorted({int(ledger.node_of[row]) for row in rows})
    return [int(ledger.node_of[one.gpus[0]]), *(int(n) for n in random.permutation(nodes))]


def _nodes_of(ledger: Bookings, bookings: Sequence[Booking], random: Generator) -> list[int]:
    nodes = sorted({int(ledger.node_of[booking.gpus[0]]) for booking in bookings})
    return [int(n) for n in random.permutation(nodes)] if nodes else []


def _weighted(nodes: Ints, weight: NDArray[np.float64], random: Generator) -> list[int]:
    """All nodes in an order drawn without replacement, heavier ones earlier on average."""
    return [int(n) for n in nodes[np.argsort(random.exponential(size=nodes.size) / weight, kind="stable")]]
