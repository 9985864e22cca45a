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

Each step is tried with every configuration of the instance, its own first, before the next step: a GPU in use comes
before a better configuration, and that before fit. Partitioned GPUs (MIG) compete with whole ones by the share of their
slices left over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dilu_core.cluster import Configuration, Instance
from dilu_core.kernels.cpu.ledger import ACTIVE, BESIDE_GANG, NEUTRAL, REACH, prefer
from dilu_core.kernels.cpu.packing import (
    BOOK,
    NOWHERE,
    ON_ACTIVE,
    ON_OPENED,
    ON_SPLIT,
    SPECIAL,
    TRY_ACTIVE,
    TRY_OPENING,
    TRY_SPLIT,
    TRY_SPLIT_OPENING,
    best_active,
    best_empty,
    place_gang,
    place_one,
)
from dilu_core.kernels.cpu.slicing import best_slice
from dilu_core.mig import MigSlice
from dilu_core.solvers.placement.bookings import Booking, Bookings, booked
from dilu_core.solvers.placement.choice import Choice, Rule, chosen, demands_of

if TYPE_CHECKING:
    from dilu_core.solvers.placement.gradient import Gradient
    from dilu_core.solvers.placement.spreading import Spreading

PUBLISHED_WEIGHTS = (0.6, 0.0, 0.4)
"""Price of a whole GPU left over in request, limit and memory, as Dilu published it; for comparisons."""

WEIGHTS = (0.5, 0.3, 0.2)
"""Price of a whole GPU left over in request, limit and memory."""


_RULE_OF = {ON_ACTIVE: Rule.BEST_FIT, ON_SPLIT: Rule.SPLIT, ON_OPENED: Rule.OPENED}


class Chooser:
    """Chooses over a ledger that its owner writes in; holds scratch space but no state of the cluster.

    With `split_last` an empty GPU is opened before an instance is split. `gradient` places by fragmentation gradient
    instead of best fit; `spreading` adds a penalty where load rises together.
    """

    def __init__(
        self,
        bookings: Bookings,
        *,
        weights: tuple[float, float, float] = WEIGHTS,
        split_last: bool = False,
        gradient: Gradient | None = None,
        spreading: Spreading | None = None,
    ) -> None:
        b = self.bookings = bookings
        gpus = b.held.size
        self.gradient = gradient
        self.spreading = spreading
        self.weight = np.array(weights) / b.capacity
        self.preference = np.zeros(gpus, np.int64)
        self.penalty = np.zeros(gpus)
        self._beside_slices = np.zeros(gpus, np.int64)  # preference on partitioned GPUs
        self.largest_node = int(np.diff(b.node_start).max(initial=0))
        self._chosen = np.zeros(self.largest_node + 1, np.int64)
        self._part = np.zeros(self.largest_node + 1, np.int64)
        self.gang_memory_column = np.zeros(self.largest_node + 1, np.int64)
        # views are quicker to read and fill item by item
        self._chosen_view, self._part_view = self._chosen.data, self._part.data
        self._gang_memory_view = self.gang_memory_column.data
        self._whole = TRY_ACTIVE | TRY_OPENING
        self._splits = self._whole | TRY_SPLIT_OPENING | (0 if split_last else TRY_SPLIT)
        self._always_special = b.partitions.any_there
        shared = (
            b.free, self.weight, b.held, self.preference, self.penalty, b.node_start, b.node_of, b.node_state, b.totals,
            self._chosen,
        )  # fmt: skip
        self._columns = (*shared, self._part)
        self._gang_columns = (*shared, self.gang_memory_column)

    def choose(self, instance: Instance) -> Choice | None:
        """The place for `instance` by the rules above, or `None` where there is none. Nothing is booked."""
        if self.gradient is not None:
            found = self.gradient.choose(instance, self.prepare(instance, by_row_only=True), self)  # pyright: ignore[reportArgumentType]
            if found is not None or not (instance.splittable or self.bookings.partitions.any_there):
                return found
        special = self.prepare(instance)
        if instance.gpus > 1:
            return self._gang(instance, SPECIAL if special else 0)
        if self.bookings.partitions.any_there:
            return self._among_slices(instance)
        if not instance.alternatives:
            return self._one(instance, 0, SPECIAL if special else 0, self._steps(instance))
        every = [(number, each, self._steps(instance, each)) for number, each in enumerate(demands_of(instance))]
        for step in (TRY_ACTIVE, TRY_SPLIT, TRY_OPENING, TRY_SPLIT_OPENING):
            for number, each, steps in every:
                if steps & step:
                    found = self._one(each, number, SPECIAL if special else 0, step)
                    if found is not None:
                        return found
        return None

    def place(self, instance: Instance) -> tuple[Choice, Booking] | None:
        """As `choose`, and books the place found."""
        b = self.bookings
        if instance.alternatives or self.gradient is not None or b.partitions.any_there:
            choice = self.choose(instance)
            if choice is None:
                return None
            return choice, b.book(instance, choice.gpus, choice.memory_mib, choice.configuration, choice.mig)
        flags = BOOK | SPECIAL if self.prepare(instance) else BOOK
        if instance.gpus > 1:
            choice = self._gang(instance, flags)
        else:
            choice = self._one(instance, 0, flags, self._steps(instance))
        if choice is None:
            return None
        booking = booked(instance, choice.gpus, choice.memory_mib, 0, ())
        b.note(booking)
        return choice, booking

    def prepare(self, instance: Instance, *, by_row_only: bool = False) -> bool:
        """Whether there are GPUs `instance` likes better or must avoid; then they stand in the scratch columns.

        With `by_row_only` what bars whole nodes does not make it so: GPU types, hosts and partitions.
        """
        b = self.bookings
        function = instance.function
        special = bool(instance.anti_affinity or instance.affinity) or self.spreading is not None
        if function and not special:
            special = function in b.refused_on or (bool(b.gangs_on) and function in b.function_on)
        if not special and not by_row_only:
            host = bool(instance.cpu_milli or instance.host_memory_mib)
            special = host or instance.gpu_types is not None or self._always_special
        if not special:
            return False
        prefer(
            self.preference,
            b.functions.has,
            b.functions.refuses,
            b.functions.masks(instance),
            b.node_start,
            b.host_free,
            b.nodes_barred(instance.gpu_types),
            instance.cpu_milli,
            instance.host_memory_mib,
        )
        if function and b.gangs_on and instance.kind != "training":
            for row in b.gangs_on.keys() & b.function_on.get(function, {}).keys():
                for gang in b.on_gpu[row].values():
                    for gpu in gang.gpus if gang.is_training_gang else ():
                        if self.preference[gpu] == NEUTRAL and gpu not in b.function_on[function]:
                            self.preference[gpu] = BESIDE_GANG
        if self.spreading is not None:
            self.spreading.penalise(instance, b, self.penalty)
        return True

    def _steps(self, instance: Instance, configuration: Configuration | Instance | None = None) -> int:
        """What may be tried: splitting only where there are 2 MiB to divide."""
        if not instance.splittable:
            return self._whole
        memory = (configuration or instance).memory_mib
        return self._splits if isinstance(memory, int) and memory > 1 else self._whole

    def _one(self, demand: Instance | Configuration, number: int, flags: int, steps: int) -> Choice | None:
        """The place of an instance of one GPU in the configuration `demand`, its number being `number`."""
        memory: int = demand.memory_mib  # type: ignore[assignment]  # one GPU, one number
        found, gpu, count, opened = place_one(
            *self._columns, demand.request_milli, demand.limit_milli, memory, flags | steps
        )
        if found == NOWHERE:
            return None
        if found == ON_SPLIT:
            rows, parts = tuple(self._chosen_view[:count].tolist()), tuple(self._part_view[:count].tolist())
            return chosen(rows, parts, Rule.SPLIT, opened, NEUTRAL, number, ())
        liked = int(self.preference[gpu]) if flags & SPECIAL and found == ON_ACTIVE else NEUTRAL
        return chosen((gpu,), (memory,), _RULE_OF[found], opened, liked, number, ())

    def _gang(self, instance: Instance, flags: int) -> Choice | None:
        """The gang's place that opens the fewest GPUs, in the first configuration that does.

        With `BOOK` among the `flags` it has no alternatives.
        """
        size = instance.gpus
        if size > self.largest_node:
            return None
        if self.bookings.partitions.any_there:
            self._bar_partitioned(instance)
        best: Choice | None = None
        for number, each in enumerate(demands_of(instance)):
            memory = self.gang_memory(each, size)
            found, opened = place_gang(*self._gang_columns, each.request_milli, each.limit_milli, size, flags)
            if found and (best is None or opened < best.opened):
                rows = tuple(self._chosen_view[:size].tolist())
                best = chosen(rows, memory, Rule.GANG, opened, NEUTRAL, number, ())
        return best

    def gang_memory(self, demand: Instance | Configuration, size: int) -> tuple[int, ...]:
        """Memory on each GPU of a gang, greatest first; the same is left in `gang_memory_column`."""
        memory = demand.memory_mib
        each = (memory,) * size if isinstance(memory, int) else tuple(sorted(memory, reverse=True))
        column = self._gang_memory_view
        for k, mib in enumerate(each):
            column[k] = mib
        return each

    def _bar_partitioned(self, instance: Instance) -> None:
        """Keep what needs whole GPUs off the partitioned ones."""
        b = self.bookings
        self.preference[b.nodes_barred(instance.gpu_types, partitioned=False)[b.node_of]] = -1

    def _among_slices(self, instance: Instance) -> Choice | None:
        """An instance of one GPU where some GPUs are partitioned: the steps as ever, each over both kinds of GPUs."""
        b = self.bookings
        self._beside_slices[:] = self.preference
        self._bar_partitioned(instance)
        self._beside_slices[b.nodes_barred(instance.gpu_types, whole=False)[b.node_of]] = -1
        every = [(number, each, self._steps(instance, each)) for number, each in enumerate(demands_of(instance))]
        for step in (TRY_ACTIVE, TRY_SPLIT, TRY_OPENING, TRY_SPLIT_OPENING):
            for number, each, steps in every:
                if not steps & step:
                    continue
                if step & self._whole:
                    found = self._whole_or_slice(each, number, opening=step == TRY_OPENING)
                else:
                    found = self._one(each, number, SPECIAL, step)
                if found is not None:
                    return found
        return None

    def _whole_or_slice(self, demand: Instance | Configuration, number: int, *, opening: bool) -> Choice | None:
        """The better of the best whole GPU and the best partition."""
        b, parts = self.bookings, self.bookings.partitions
        wanted: tuple[int, int, int] = (demand.request_milli, demand.limit_milli, demand.memory_mib)  # type: ignore[assignment]
        row, liked, score, profile, first = best_slice(
            b.free, b.held, self._beside_slices, self.penalty, b.node_start, b.node_type, b.node_state, parts.used,
            parts.profile_start, parts.profiles, *wanted, opening,
        )  # fmt: skip
        if opening:
            whole = best_empty(b.free, b.held, self.preference, True, b.node_start, b.node_state, b.totals, *wanted)
            keys: tuple[tuple[float, float, int], ...] = (self._opening_key(row), self._opening_key(whole))
            rule, liked, whole_liked = Rule.OPENED, NEUTRAL, NEUTRAL
        else:
            whole, whole_liked, whole_score = best_active(
                b.free, self.weight, b.held, self.preference, self.penalty, True,
                int(b.node_start[b.totals[REACH]]), *wanted,
            )  # fmt: skip
            keys = (-liked, score, row), (-whole_liked, whole_score, whole)
            rule = Rule.BEST_FIT
        if row >= 0 and (whole < 0 or keys[0] < keys[1]):
            taken = MigSlice(parts.names[profile], first)
            return Choice((row,), (wanted[2],), rule, int(opening), int(liked), number, (taken,))
        if whole < 0:
            return None
        return Choice((whole,), (wanted[2],), rule, int(opening), int(whole_liked), number)

    def _opening_key(self, row: int) -> tuple[int, int, int]:
        """Which of two GPUs to open: least memory, then the node with the fewest empty, then the first."""
        b = self.bookings
        node = int(b.node_of[row])
        empties = int(b.node_start[node + 1] - b.node_start[node] - b.node_state[node, ACTIVE])
        return int(b.capacity[row, 2]), empties, row
