"""Who acts in the event simulation of `solvers.replay_events`: functions, their servers, and how GPUs are divided."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from dilu_core.coscaling.sharing import fit_proportionally, water_fill
from dilu_core.solvers.shared_tenants import ReplayTenant
from dilu_core.units import FULL_GPU_MILLI


class Server:
    """One instance: what it executes, how much of that is left, and how fast it goes."""

    def __init__(self, function: Function, gpu: int, launched_at: float, ready_at: float) -> None:
        self.function = function
        self.gpu = gpu
        self.launched_at = launched_at
        self.ready_at = ready_at
        self.ready = False
        self.batch: list[float] = []  # arrival times of the requests in execution
        self.left = 0.0  # part of the batch still to do
        self.idle_since = ready_at
        self.share = 0
        self.could_borrow = 0.0  # milli-GPU beyond the request, if it had wanted its limit
        self.since = launched_at  # the moment up to which everything is accounted for
        self.version = 0  # of its DONE event; older ones are void

    @property
    def works(self) -> bool:
        """Whether it executes something."""
        return bool(self.batch) or (self.ready and self.function.tenant.trains)


class Function:
    """One tenant: its queue, its servers in the order of launch, and what was counted."""

    def __init__(self, tenant: ReplayTenant, gpus: Sequence[int], arrivals_s: list[float], batch: int) -> None:
        self.tenant = tenant
        self.gpus = gpus
        self.arrivals_s = arrivals_s
        self.batch = batch
        self.queue: deque[float] = deque()
        self.servers: list[Server] = []
        self.state: Any = None if tenant.policy is None else tenant.policy.initial_state()
        self.latencies_s: list[float] = []
        self.hungry = False  # whether requests wait, as its servers know
        self.arrived = 0  # in this control period
        self.spare = self.ready_s = 0.0  # milli-GPU seconds borrowable and instance-seconds ready in this period
        self.paid_before_s = self.borrowed = self.samples = self.pace = self.paced_since = 0.0
        self.launched = self.flips = self.peak = self.waiting_at_end = 0
        self.last_change = 0

    def paid_s(self, end_s: float) -> float:
        """Instance-seconds from launch to removal or the end."""
        return self.paid_before_s + sum(end_s - server.launched_at for server in self.servers)


class OwnSpare:
    """Each server apart, beside neighbours who leave `spare` milli-GPU per period of `period_s` seconds."""

    shares_gpus = False

    def __init__(self, spare: list[int], period_s: float) -> None:
        self.spare = spare
        self.period_s = period_s

    def wanted(self, server: Server) -> int:
        """While requests wait the limit, else the request."""
        params = server.function.tenant.params
        return params.limit_milli if server.function.hungry else params.request_milli

    def shares(self, servers: list[Server], wants: list[int], now: float) -> list[int]:
        """The request, and beyond it what is spare now."""
        spare = self.spare[min(int(now / self.period_s + 1e-9), len(self.spare) - 1)]
        return [
            min(want, server.function.tenant.params.request_milli + spare)
            for server, want in zip(servers, wants, strict=True)
        ]


class SharedDivision:
    """The servers of one GPU divide it by one of the rules of `replay_shared`."""

    shares_gpus = True

    def __init__(self, sharing: str) -> None:
        self.sharing = sharing

    def wanted(self, server: Server) -> int:
        """Training its limit; inference, where shares are lent by need, its request unless requests wait."""
        params = server.function.tenant.params
        if self.sharing == "time-slices":
            return params.request_milli
        hungry = server.function.tenant.trains or server.function.hungry or self.sharing == "hard-caps"
        return params.limit_milli if hungry else params.request_milli

    def shares(self, servers: list[Server], wants: list[int], now: float) -> list[int]:
        """What each gets of the GPU, in whole milli-GPU."""
        if sum(wants) <= FULL_GPU_MILLI:
            return wants
        requests = [server.function.tenant.params.request_milli for server in servers]
        if self.sharing != "work-conserving" or sum(requests) > FULL_GPU_MILLI:
            return fit_proportionally(FULL_GPU_MILLI, wants if self.sharing != "work-conserving" else requests)
        shares, left = list(requests), FULL_GPU_MILLI - sum(requests)
        for best_effort in (False, True):
            some = [i for i, server in enumerate(servers) if server.function.tenant.trains == best_effort]
            lent = water_fill(left, [wants[i] - requests[i] for i in some], [requests[i] for i in some])
            for i, extra in zip(some, lent, strict=True):
                shares[i] += extra
            left -= sum(lent)
        return shares
