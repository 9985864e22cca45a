"""A discrete-event simulation of functions on GPUs: the engine of `solvers.replay_oracle`, written to be read."""

from __future__ import annotations

import heapq
import math
from enum import IntEnum
from typing import Any

from dilu_core.coscaling.policy import Observation
from dilu_core.solvers.replay_actors import Function, OwnSpare, Server, SharedDivision
from dilu_core.solvers.replay_setup import asked
from dilu_core.units import FULL_GPU_MILLI


class _Kind(IntEnum):
    """Events, in the order in which those of one moment happen."""

    DONE = 0
    READY = 1
    CONTROL = 2
    SPARE = 3
    ARRIVAL = 4


class Simulation:
    """Events in the order of time, until the trace is over and what was begun is done."""

    def __init__(
        self, functions: list[Function], division: OwnSpare | SharedDivision, control_s: float, end_s: float
    ) -> None:
        self.functions = functions
        self.division = division
        self.control_s = control_s
        self.end_s = end_s
        self.now = 0.0
        self.gpus: dict[int, list[Server]] = {}
        self._events: list[tuple[float, int, int, Any]] = []
        self._numbers = 0

    def run(self) -> None:
        """The whole simulation."""
        for function in self.functions:
            for moment in function.arrivals_s:
                self._schedule(moment, _Kind.ARRIVAL, function)
        for tick in range(1, math.ceil(self.end_s / self.control_s - 1e-9)):
            self._schedule(tick * self.control_s, _Kind.CONTROL, None)
        if isinstance(self.division, OwnSpare):
            for tick in range(1, len(self.division.spare)):
                self._schedule(tick * self.division.period_s, _Kind.SPARE, None)
        counted = False
        while self._events:
            moment, kind, _, what = heapq.heappop(self._events)
            if moment >= self.end_s - 1e-9 and kind != _Kind.DONE:
                continue  # no arrivals, decisions or starts after the end; what is being served goes on
            if moment >= self.end_s and not counted:
                self._count_waiting()
                counted = True
            self.now = moment
            if kind == _Kind.DONE:
                self._done(*what)
            elif kind == _Kind.READY:
                self._ready(what)
            elif kind == _Kind.ARRIVAL:
                what.arrived += 1
                what.queue.append(moment)
                self._dispatch(what, set())
            else:
                self._divide(set(self.gpus))
                if kind == _Kind.CONTROL:
                    self._control()
        if not counted:
            self._count_waiting()
        self.now = max(self.now, self.end_s)
        self._divide(set(self.gpus))

    def launch(self, function: Function, count: int, *, cold: bool = True) -> int:
        """Seat up to `count` servers; return how many found room."""
        params = function.tenant.params
        for launched in range(count):
            gpu = self._seat(function)
            if gpu is None:
                return launched
            ready_at = self.now + (params.cold_start_s if cold else 0.0)
            server = Server(function, gpu, self.now, ready_at)
            function.servers.append(server)
            function.peak = max(function.peak, len(function.servers))
            self.gpus.setdefault(gpu, []).append(server)
            if ready_at <= self.now:
                self._ready(server)
            else:
                self._schedule(ready_at, _Kind.READY, server)
        return count

    def _seat(self, function: Function) -> int | None:
        """The GPU with the fewest own servers among those with room; apart from all others where none is shared."""
        if not self.division.shares_gpus:
            return max(self.gpus, default=-1) + 1
        best = None
        for gpu in function.gpus:
            here = [server for server in self.gpus.get(gpu, []) if server in server.function.servers]
            booked = sum(server.function.tenant.params.request_milli for server in here)
            if booked + function.tenant.params.request_milli <= FULL_GPU_MILLI:
                own = sum(server.function is function for server in here)
                best = min(best or (own, booked, gpu), (own, booked, gpu))
        return None if best is None else best[2]

    def _schedule(self, moment: float, kind: _Kind, what: Any) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (moment, kind, self._numbers, what))

    def _count_waiting(self) -> None:
        for function in self.functions:
            function.waiting_at_end = len(function.queue)

    def _ready(self, server: Server) -> None:
        if server not in server.function.servers:
            return  # given up before it was ready
        self._settle(server)
        server.ready = True
        server.idle_since = self.now
        self._dispatch(server.function, {server.gpu})

    def _done(self, server: Server, version: int) -> None:
        if version != server.version:
            return
        self._settle(server)
        function = server.function
        function.latencies_s += [self.now - arrived for arrived in server.batch]
        server.batch, server.left, server.idle_since = [], 0.0, self.now
        if server not in function.servers:
            self.gpus[server.gpu].remove(server)
        self._dispatch(function, {server.gpu})

    def _dispatch(self, function: Function, touched: set[int]) -> None:
        """Give what waits to idle servers, the longest idle first; divide anew the GPUs `touched` by this or before."""
        idle = sorted(
            (server for server in function.servers if server.ready and not server.batch),
            key=lambda server: server.idle_since,
        )
        for server in idle:
            if not function.queue or function.tenant.trains:
                break
            self._settle(server)
            count = min(function.batch, len(function.queue))
            server.batch = [function.queue.popleft() for _ in range(count)]
            server.left = 1.0
            touched.add(server.gpu)
        if function.hungry != bool(function.queue):  # that decides what every server of the function wants
            function.hungry = not function.hungry
            touched |= {server.gpu for server in function.servers}
        self._divide(touched)

    def _settle(self, server: Server) -> None:
        """Account for the time since the last change of anything about `server`."""
        function, elapsed = server.function, self.now - server.since
        counted = max(0.0, min(self.now, self.end_s) - server.since)
        if server.batch:
            server.left -= elapsed * float(function.tenant.rates[server.share]) / function.batch
        if server.works:
            function.borrowed += max(0, server.share - function.tenant.params.request_milli) * counted
        if server.ready and server in function.servers:
            function.spare += server.could_borrow * counted
            function.ready_s += counted
        server.since = self.now

    def _divide(self, gpus: set[int]) -> None:
        """Settle, divide and schedule anew everything on `gpus`."""
        for gpu in sorted(gpus):
            here = self.gpus.get(gpu, [])
            for server in here:
                self._settle(server)
            for function in {server.function for server in here if server.function.tenant.trains}:
                function.samples += function.pace * max(0.0, min(self.now, self.end_s) - function.paced_since)
                function.paced_since = self.now
            working = [server for server in here if server.works]
            wants = [self.division.wanted(server) for server in working]
            for server, share in zip(working, self.division.shares(working, wants, self.now), strict=True):
                server.share = share
                server.version += 1
                speed = float(server.function.tenant.rates[share]) / server.function.batch
                if server.batch and speed > 0.0:
                    done_at = self.now + max(0.0, server.left) / speed
                    self._schedule(done_at, _Kind.DONE, (server, server.version))
            for server in here:
                if server.ready and not server.function.tenant.trains:
                    server.could_borrow = self._borrowable(server, working, wants)
            for function in {server.function for server in here if server.function.tenant.trains}:
                paces = [float(function.tenant.rates[server.share]) for server in function.servers if server.ready]
                function.pace = len(paces) * min(paces) if function.tenant.gang else sum(paces)

    def _borrowable(self, server: Server, working: list[Server], wants: list[int]) -> float:
        """What `server` would get beyond its request if it wanted its limit and all others what they want."""
        params = server.function.tenant.params
        if isinstance(self.division, SharedDivision) and self.division.sharing == "time-slices":
            return 0.0
        others = [(each, want) for each, want in zip(working, wants, strict=True) if each is not server]
        servers = [server, *(each for each, _ in others)]
        asking = [params.limit_milli, *(want for _, want in others)]
        return max(0.0, self.division.shares(servers, asking, self.now)[0] - params.request_milli)

    def _control(self) -> None:
        """Ask every policy with what was seen in the control period, and carry out what it says."""
        for function in self.functions:
            policy = function.tenant.policy
            if policy is None:
                continue
            ready = sum(server.ready for server in function.servers)
            observation = Observation(
                time_s=self.now,
                arrivals_rps=function.arrived / self.control_s,
                ready=ready,
                starting=len(function.servers) - ready,
                in_flight=float(len(function.queue) + sum(len(server.batch) for server in function.servers)),
                spare_milli=function.spare / function.ready_s if function.ready_s > 0.0 else None,
            )
            function.arrived, function.spare, function.ready_s = 0, 0.0, 0.0
            change, function.state = asked("policy", policy, function.state, observation)
            change = max(change, -len(function.servers))
            function.flips += change * function.last_change < 0
            function.last_change = change or function.last_change
            if change > 0:
                function.launched += self.launch(function, change)
            for _ in range(-change):
                self._give_up(function.servers[-1])
            self._dispatch(function, set())

    def _give_up(self, server: Server) -> None:
        """The server takes nothing new and is paid no longer; what it executes it finishes."""
        self._settle(server)
        function = server.function
        function.servers.remove(server)
        function.paid_before_s += self.now - server.launched_at
        if not server.batch:
            self.gpus[server.gpu].remove(server)
        self._divide({server.gpu})
