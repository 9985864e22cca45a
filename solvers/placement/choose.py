"""Which place an instance takes in a cluster as it stands: the rules online placement and every construction share.

    gang       GPUs of one node: fewest newly opened, then best fit
    one GPU    best fit over active GPUs; else split over active GPUs of one node, where it may be split;
               else open a GPU; else split over GPUs of one node, opening the fewest

Best fit leaves the least priced rest: the free request, limit and memory, each as a share of the GPU's capacity, at
0.5, 0.3 and 0.2. Dilu (Lv et al., ASPLOS 2025, doi 10.1145/3669940.3707251) prices 0.6 of the request and 0.4 of the
memory. Counting the limit too needed 1.3 % fewer GPUs on average on generated serving mixes, 0.1-0.5 % fewer on mixes
with training gangs. The weights were picked on those mixes and on the recorded logs, so expect less elsewhere.
Before fit comes preference: GPUs that hold a function named in `affinity`, then workload affinity from the same source:
an instance of a function that already shares a GPU with some gang goes to the other GPUs of that gang, so that the
gang's workers slow down together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.kernels.cpu.packing import best_active, best_empty, best_gang, best_split
from dilu_core.solvers.placement.bookings import Bookings

PUBLISHED_WEIGHTS = (0.6, 0.0, 0.4)
"""Price of a whole GPU left over in request, limit and memory, as Dilu published it; for comparisons."""

WEIGHTS = (0.5, 0.3, 0.2)
"""Price of a whole GPU left over in request, limit and memory."""

_REFUSED, _NEUTRAL, _BESIDE_GANG, _BESIDE_FRIEND = -1, 0, 1, 2


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows and memory for an instance, and the rule that chose them."""

    gpus: tuple[int, ...]
    memory_mib: tuple[int, ...]
    rule: str


class Chooser:
    """Chooses over a ledger that its owner writes in; holds scratch space but no state.

    With `split_last` an empty GPU is opened before an instance is split.
    """

    def __init__(
        self,
        bookings: Bookings,
        *,
        weights: tuple[float, float, float] = WEIGHTS,
        split_last: bool = False,
    ) -> None:
        self.bookings = bookings
        self._split_last = split_last
        self._weight = np.array(weights) / bookings.capacity
        self._preference = np.zeros(bookings.held.size, np.int64)
        self._largest_node = int(np.diff(bookings.node_start).max(initial=0))
        self._chosen = np.empty(self._largest_node, np.int64)
        self._part = np.empty(self._largest_node, np.int64)

    def choose(self, instance: Instance) -> Choice | None:
        """The place for `instance` by the rules above, or `None` where there is none."""
        special = instance.function or instance.anti_affinity or instance.affinity or instance.gpu_types is not None
        if special:
            self._prefer(instance)
        found = self._gang(instance) if instance.gpus > 1 else self._single(instance)
        if special:
            self._preference.fill(_NEUTRAL)
        return found

    def _prefer(self, instance: Instance) -> None:
        """Write what `instance` likes and must avoid into the scratch column; what is refused is written last."""
        bookings, preference = self.bookings, self._preference
        if instance.kind != "training" and instance.function and bookings.gangs_on:
            for row in bookings.gangs_on.keys() & bookings.function_on.get(instance.function, {}).keys():
                for gang in bookings.gangs_on[row].values():
                    for gpu in gang.gpus:
                        if instance.function not in bookings.functions_of(gpu):
                            preference[gpu] = _BESIDE_GANG
        for friend in instance.affinity:
            preference[list(bookings.function_on.get(friend, ()))] = _BESIDE_FRIEND
        preference[list(bookings.rows_refusing(instance))] = _REFUSED
        if instance.gpu_types is not None:
            preference[bookings.rows_of_other_types(instance.gpu_types)] = _REFUSED

    def _single(self, instance: Instance) -> Choice | None:
        b, preference = self.bookings, self._preference
        request, limit, memory = instance.request_milli, instance.limit_milli, instance.total_memory_mib
        gpu = int(best_active(b.free, self._weight, b.held, preference, request, limit, memory))
        if gpu >= 0:
            return Choice((gpu,), (memory,), "best fit among active GPUs" + _LIKED[int(preference[gpu])])
        splits = instance.splittable and memory > 1
        if splits and not self._split_last:
            found = self._split(instance, may_open=False)
            if found is not None:
                return found
        gpu = int(best_empty(b.free, b.held, preference, b.node_start, request, limit, memory))
        if gpu >= 0:
            return Choice((gpu,), (memory,), "opened an empty GPU")
        return self._split(instance, may_open=True) if splits else None

    def _split(self, instance: Instance, *, may_open: bool) -> Choice | None:
        b = self.bookings
        request, memory = instance.request_milli, instance.total_memory_mib
        count = int(
            best_split(
                b.free, b.held, self._preference, b.node_start, request, memory, may_open, self._chosen, self._part
            )
        )
        if count == 0:
            return None
        gpus = tuple(self._chosen[:count].tolist())
        opened = int((b.held[list(gpus)] == 0).sum())
        rule = f"split over {count} GPUs of one node" + (f", {opened} of them opened" if opened else "")
        return Choice(gpus, tuple(self._part[:count].tolist()), rule)

    def _gang(self, instance: Instance) -> Choice | None:
        b = self.bookings
        if instance.gpus > self._largest_node:
            return None
        memory = np.array(sorted(instance.memory_per_gpu_mib, reverse=True), np.int64)
        request, limit = instance.request_milli, instance.limit_milli
        node = best_gang(
            b.free, self._weight, b.held, self._preference, b.node_start, request, limit, memory, self._chosen
        )
        if node < 0:
            return None
        gpus = tuple(self._chosen[: instance.gpus].tolist())
        opened = int((b.held[list(gpus)] == 0).sum())
        return Choice(gpus, tuple(memory.tolist()), f"gang on one node, {opened} of {instance.gpus} GPUs opened")


_LIKED = {
    _NEUTRAL: "",
    _BESIDE_GANG: ", beside a gang its function already slows down",
    _BESIDE_FRIEND: ", beside a function of its affinity",
}
