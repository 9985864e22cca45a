"""Active GPUs as bins and the instances that may move between them as items: the arrays that local search works on.

Movable are instances on one whole GPU that nothing but anti-affinity and GPU types ties down: no gangs, no splits, no
affinity, no demands on the host, no partitions. All others stay; they count as used room, and their functions and
refusals bar the bin. Anti-affinity is kept in bit sets, so it is limited to 62 functions that are refused; instances
that have to do with further ones stay as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.constructing import first_fit_ties
from dilu_core.solvers.placement.bookings import Booking, Bookings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MOST_BITS = 62
_NO_KIND = 1 << _MOST_BITS  # of GPU types beyond: only items that may go anywhere go there


@dataclass
class Bins:
    """Items and bins; the first `used` bins are in use, the others are empty and may be opened.

    Columns are described in `kernels.cpu.annealing`. `rows` are rows of the ledger, `stays` says which bins hold what
    does not move, `homeless` the items that have no bin now.
    """

    demand: Ints
    size: Floats
    ties: Ints
    has_ties: bool
    rows: Ints
    members: Ints
    count: Ints
    free: Ints
    bars: Ints
    stays: NDArray[np.bool_]
    used: int
    homeless: Ints

    def copy(self) -> Bins:
        """The same bins, to be changed without changing these; items are shared."""
        return replace(
            self,
            rows=self.rows.copy(),
            members=self.members.copy(),
            count=self.count.copy(),
            free=self.free.copy(),
            bars=self.bars.copy(),
            stays=self.stays.copy(),
            homeless=self.homeless.copy(),
        )

    @property
    def fill(self) -> Floats:
        """(n_bins,) size of what may move in each bin."""
        inside = np.arange(self.members.shape[1]) < self.count[:, None]
        fill: Floats = np.where(inside, self.size[self.members], 0.0).sum(axis=1)
        return fill

    def close(self, how_many: int) -> int:
        """Empty the least filled bins that hold nothing but items, which become homeless; returns how many."""
        fill = self.fill[: self.used]
        fill[self.stays[: self.used]] = np.inf
        order = np.argsort(fill, kind="stable")
        chosen = order[: min(how_many, int(np.isfinite(fill).sum()), self.used - 1)]
        if not chosen.size:
            return 0
        inside = np.arange(self.members.shape[1]) < self.count[chosen, None]
        thrown = self.members[chosen][inside]
        np.add.at(self.free, np.repeat(chosen, self.count[chosen]), self.demand[thrown])
        self.count[chosen] = 0
        kept = np.ones(self.used, np.bool_)
        kept[chosen] = False
        order = np.concatenate([np.flatnonzero(kept), chosen, np.arange(self.used, self.rows.size)])
        self.rows, self.members, self.count = self.rows[order], self.members[order], self.count[order]
        self.free, self.bars, self.stays = self.free[order], self.bars[order], self.stays[order]
        self.used -= chosen.size
        self.homeless = np.concatenate([self.homeless, thrown])
        return int(chosen.size)

    def open_for_homeless(self) -> bool:
        """Put all homeless items where they first fit, opening empty bins as needed; whether all found a place."""
        order = self.homeless[np.argsort(-self.size[self.homeless], kind="stable")]
        left = first_fit_ties(
            self.demand, self.ties, self.has_ties, order, self.members, self.count, self.free, self.bars
        )
        self.homeless = order[:left]
        opened = np.flatnonzero(self.count[self.used :]) + self.used
        rest = np.setdiff1d(np.arange(self.used, self.rows.size), opened)
        order = np.concatenate([np.arange(self.used), opened, rest])
        self.rows, self.members, self.count = self.rows[order], self.members[order], self.count[order]
        self.free, self.bars, self.stays = self.free[order], self.bars[order], self.stays[order]
        self.used += opened.size
        return left == 0


def repacked(bins: Bins, packing: list[list[int]]) -> Bins | None:
    """The same items in the bins of `packing`, lists of items that fit one bin together; the other bins are empty.

    `None` where bins are not all alike, hold what stays, or are too few, or where items are tied: a packing says
    nothing of that.
    """
    inside = np.arange(bins.members.shape[1]) < bins.count[:, None]
    capacity = bins.free.copy()
    np.add.at(capacity, np.repeat(np.arange(bins.count.size), bins.count), bins.demand[bins.members[inside]])
    alike = not bins.has_ties and not bins.stays.any() and bool((capacity == capacity[:1]).all())
    if not alike or len(packing) > bins.used or sum(map(len, packing)) != len(bins.demand):
        return None
    found = bins.copy()
    sizes = np.array([len(each) for each in packing], np.int64)
    flat = np.array([item for each in packing for item in each], np.int64)
    where = np.repeat(np.arange(sizes.size), sizes)
    found.members = np.zeros((bins.count.size, max(bins.members.shape[1], 2 * int(sizes.max(initial=0)) + 4)), np.int64)
    found.members[where, np.arange(flat.size) - (np.cumsum(sizes) - sizes)[where]] = flat
    found.count[:] = 0
    found.count[: sizes.size] = sizes
    found.free = capacity
    np.subtract.at(found.free, where, bins.demand[flat])
    found.used, found.homeless = sizes.size, np.empty(0, np.int64)
    return found if (found.free >= 0).all() else None


def bins_of(ledger: Bookings) -> tuple[Bins, list[Booking]]:
    """The active GPUs of `ledger` as bins, and the bookings that are their items."""
    bits = _bits(ledger)
    mig = np.array([node.gpu_type.mig is not None for node in ledger.cluster.nodes], np.bool_)[ledger.node_of]
    kinds = {kind.name: 1 << i for i, kind in enumerate(ledger.cluster.gpu_types[:_MOST_BITS])}
    movable = [b for b in ledger.by_name.values() if _is_movable(ledger, b, bits, kinds)]
    stay = ledger.by_name.keys() - {booking.instance.name for booking in movable}
    rows = np.flatnonzero((ledger.held > 0) & ~mig)
    number = np.full(ledger.held.size, -1, np.int64)
    number[rows] = np.arange(rows.size)
    home = number[np.array([booking.gpus[0] for booking in movable], np.int64)] if movable else np.empty(0, np.int64)
    count = np.bincount(home, minlength=rows.size).astype(np.int64)
    members = np.zeros((rows.size, 2 * int(count.max(initial=0)) + 4), np.int64)
    order = np.argsort(home, kind="stable")
    first = np.concatenate([[0], np.cumsum(count)])[:-1]
    members[home[order], np.arange(order.size) - first[home[order]]] = order
    demand = np.array([(b.request_milli, b.limit_milli, b.memory_mib[0]) for b in movable], np.int64).reshape(-1, 3)
    ties = np.array([_ties(booking, bits, kinds) for booking in movable], np.int64).reshape(-1, 3)
    bars = np.zeros((rows.size, 3), np.int64)
    kind_of = np.array([kinds.get(node.gpu_type.name, _NO_KIND) for node in ledger.cluster.nodes], np.int64)
    bars[:, 2] = kind_of[ledger.node_of[rows]]
    for name in stay:
        own, refused, _ = _ties(ledger.by_name[name], bits, kinds)
        for row in ledger.by_name[name].gpus:
            if number[row] >= 0:
                bars[number[row], 0] |= own
                bars[number[row], 1] |= refused
    has_ties = bool(bits) or any(booking.instance.gpu_types is not None for booking in movable)
    bins = Bins(
        demand, proportional_size(ledger, demand), ties, has_ties, rows, members, count, ledger.free[rows].copy(), bars,
        count < ledger.held[rows], rows.size, np.empty(0, np.int64),
    )  # fmt: skip
    return bins, movable


def proportional_size(ledger: Bookings, demand: Ints) -> Floats:
    """(n_items,) shares of a GPU, each weighed by how much of it all items take together; 1 on average."""
    share = demand / np.maximum(ledger.capacity.max(axis=0), 1)
    return normalised(share @ share.mean(axis=0)) if len(demand) else np.empty(0)


def normalised(size: Floats) -> Floats:
    """Sizes scaled to 1 on average."""
    scaled: Floats = size / max(float(size.mean()), 1e-12)
    return scaled


def write_back(ledger: Bookings, movable: list[Booking], bins: Bins) -> None:
    """Book every item where it ended up; all leave first, so that no step needs more room than there is."""
    inside = np.arange(bins.members.shape[1]) < bins.count[:, None]
    row = np.empty(len(movable), np.int64)
    row[bins.members[inside]] = np.repeat(bins.rows, bins.count)
    moving = [(b, to) for b, to in zip(movable, row.tolist(), strict=True) if to != b.gpus[0]]
    for booking, _ in moving:
        ledger.cancel(booking.instance.name)
    for booking, to in moving:
        ledger.book(booking.instance, (to,), booking.memory_mib, booking.configuration)


def _is_movable(ledger: Bookings, booking: Booking, bits: Mapping[str, int], kinds: Mapping[str, int]) -> bool:
    instance = booking.instance
    return (
        len(booking.gpus) == 1
        and instance.gpus == 1
        and not booking.mig
        and not (instance.cpu_milli or instance.host_memory_mib)
        and not instance.affinity
        and (instance.gpu_types is None or all(name in kinds for name in instance.gpu_types))
        and all(name in bits for name in instance.anti_affinity)
        and (instance.function in bits or instance.function not in ledger.refused_on)
    )


def _bits(ledger: Bookings) -> dict[str, int]:
    """Refused functions, each with a bit of its own, as far as there are bits."""
    return {function: 1 << i for i, function in enumerate(sorted(ledger.refused_on)[:_MOST_BITS])}


def _ties(booking: Booking, bits: Mapping[str, int], kinds: Mapping[str, int]) -> tuple[int, int, int]:
    instance = booking.instance
    refused = 0
    for name in instance.anti_affinity:
        refused |= bits.get(name, 0)
    types = -1 if instance.gpu_types is None else sum(kinds.get(name, 0) for name in set(instance.gpu_types))
    return bits.get(instance.function, 0), refused, types
