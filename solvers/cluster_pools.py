"""The columns between a fleet and the kernel that runs its GPUs: one queue per function and configuration.

A pool is a function in one configuration. Arrivals, and what waits, are dispatched to the pools of a function in
proportion to what their ready instances serve at their requests; where none is ready, to the first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.shared_gpus import SharedInstances, advance_shared
from dilu_core.solvers.cluster_fleet import Fleet
from dilu_core.solvers.cluster_systems import SHARINGS
from dilu_core.units import FULL_GPU_MILLI

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Pools:
    """Runs the instances of `fleet` period by period, and keeps their queues.

    `backlog` and `trained` are by function: requests that wait, samples trained. The others describe the last period:
    `spare_milli` the mean share that each ready instance of a function could have borrowed beyond its request (NaN
    where none was ready), `used_milli` and `borrowed_milli` the mean share in use on the whole cluster, and that beyond
    requests.
    """

    def __init__(self, fleet: Fleet, step_s: float) -> None:
        functions = len(fleet.functions)
        self.fleet = fleet
        self.step_s = step_s
        self.backlog = np.zeros(functions)
        self.trained = np.zeros(functions)
        self.spare_milli = np.full(functions, np.nan)
        self.used_milli = self.borrowed_milli = 0.0
        self._tier = [int(each.is_training) for each in fleet.functions]  # best effort
        self._sharing = SHARINGS.index(fleet.system.sharing)
        self._pools: list[list[int]] = [[-1] * len(menu) for menu in fleet.menus]
        self._function_of: list[int] = []  # of each pool
        self._capacity: list[float] = []
        self._rates = np.zeros((0, FULL_GPU_MILLI + 1))
        self._execution = np.zeros((0, FULL_GPU_MILLI + 1))
        self._queued = np.zeros(0)
        self._tables: dict[tuple[int, int], tuple[Floats, Floats]] = {}
        self._version = -1
        self._next_ready = -1
        self._rows = self._columns(0)

    def drop(self, function: int) -> None:
        """The function leaves, and the requests that still waited are lost."""
        self.backlog[function] = 0.0

    def advance(self, step: int, arrivals: Floats) -> tuple[Floats, Floats]:
        """Run `(functions, steps)` arrivals from `step` on; what was served and its mean execution time in ms, alike.

        Instances are ready for the whole of a period or not at all.
        """
        if self._version != self.fleet.version or self._next_ready <= step:
            self._rows = self._columns(step)
        functions, steps = arrivals.shape
        served, execution = np.zeros(arrivals.shape), np.zeros(arrivals.shape)
        pools = len(self._function_of)
        self.spare_milli[:] = np.nan
        self.used_milli = self.borrowed_milli = 0.0
        if pools == 0:
            self.backlog += arrivals.sum(axis=1)
            return served, execution
        owner = np.array(self._function_of)
        part = self._dispatch(owner)
        queued = part * self.backlog[owner]
        by_pool = part[:, None] * arrivals[owner]
        training = np.array([self._tier[f] for f in self._function_of], np.int64)
        trained, rows = np.zeros(pools), self._rows
        out, execution_ms = np.zeros(by_pool.shape), np.zeros(by_pool.shape)
        used, borrowed, spare = np.zeros((3, rows.gpu_of.size))
        gpus = int(rows.gpu_of.max(initial=-1)) + 1
        advance_shared(
            0, steps, self.step_s, self._sharing, gpus, by_pool, self._rates[:pools], self._execution[:pools], training,
            rows, queued, trained, out, execution_ms, used, borrowed, spare,
        )  # fmt: skip
        np.add.at(served, owner, out)
        np.add.at(execution, owner, out * execution_ms)
        np.divide(execution, served, out=execution, where=served > 0.0)
        has_pool = np.zeros(functions, np.bool_)
        has_pool[owner] = True
        self.backlog = np.where(has_pool, 0.0, self.backlog + arrivals.sum(axis=1))
        np.add.at(self.backlog, owner, queued)
        np.add.at(self.trained, owner, trained)
        self.used_milli, self.borrowed_milli = float(used.sum()) / steps, float(borrowed.sum()) / steps
        self._note_spare(owner, spare / steps)
        return served, execution

    def _dispatch(self, owner: Integers) -> Floats:
        """The part of its function's load that each pool gets."""
        weight = np.zeros(owner.size)
        ready = self._rows.ready.astype(np.float64) / self._parts
        np.add.at(weight, self._rows.function_of, ready)
        weight *= np.array(self._capacity)
        total = np.zeros(len(self.fleet.functions))
        np.add.at(total, owner, weight)
        first = np.zeros(owner.size)
        first[np.unique(owner, return_index=True)[1]] = 1.0
        return np.where(total[owner] > 0.0, weight / np.maximum(total[owner], 1e-300), first)

    def _note_spare(self, owner: Integers, spare: Floats) -> None:
        """The mean over the ready rows of each function."""
        rows, functions = self._rows, len(self.fleet.functions)
        of_row, is_ready = owner[rows.function_of], rows.ready > 0
        counted = np.bincount(of_row[is_ready], minlength=functions)
        total = np.bincount(of_row[is_ready], weights=spare[is_ready], minlength=functions)
        np.divide(total, counted, out=self.spare_milli, where=counted > 0)

    def _columns(self, step: int) -> SharedInstances:
        """The rows of all instances as they stand at `step`; pools are opened as configurations are first used."""
        listed: list[tuple[int, ...]] = []
        parts: list[int] = []
        self._next_ready = np.iinfo(np.int64).max
        for number, member in enumerate(self.fleet.members.values()):
            gpus = member.booking.gpus
            is_ready = member.ready_at <= step
            if not is_ready:
                self._next_ready = min(self._next_ready, member.ready_at)
            pool = self._pool(member.function, member.configuration)
            gang = number if len(gpus) > 1 else -1
            tier = self._tier[member.function]
            for gpu in gpus:
                listed.append((pool, gpu, member.request_milli, member.limit_milli, tier, gang, int(is_ready)))
                parts.append(len(gpus))
        table = np.array(listed, np.int64).reshape(-1, 7)
        self._parts = np.array(parts, np.float64)
        self._version = self.fleet.version
        return SharedInstances(*(np.ascontiguousarray(table[:, column]) for column in range(7)))

    def _pool(self, function: int, configuration: int) -> int:
        pool = self._pools[function][configuration]
        if pool >= 0:
            return pool
        pool = self._pools[function][configuration] = len(self._function_of)
        config = self.fleet.menus[function][configuration]
        self._function_of.append(function)
        self._capacity.append(config.throughput_rps)
        if pool == self._rates.shape[0]:
            more = ((0, max(16, pool)), (0, 0))
            self._rates, self._execution = np.pad(self._rates, more), np.pad(self._execution, more)
        asked = self.fleet.functions[function]
        key = (id(asked.model), config.batch)
        if key not in self._tables:
            self._tables[key] = asked.tables(config.batch)
        self._rates[pool], self._execution[pool] = self._tables[key]
        return pool
