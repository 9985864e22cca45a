"""The systems that a cluster replay compares, each as one value: how it chooses quotas, shares, places and scales.

Those of others are re-implementations of what their papers describe, on our placement ledger and our model of a GPU;
where they simplify, their entry says so, and their name ends in "-like". All keep one instance of each function at
least, all know the same latency model, and a batch may execute for half of its SLO in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dilu_core import _checks as check
from dilu_core.cluster import Oversubscription
from dilu_core.coscaling.horizontal import CoScaler
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Policy
from dilu_core.solvers import cluster_quotas as quotas
from dilu_core.solvers.cluster_quotas import Menu, QuotaRule
from dilu_core.solvers.cluster_scaling import (
    ResidualScaler,
    Scaler,
    UniformScaler,
    efficient_then_ideal,
    first_of,
    largest_filled_batch,
)
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.solvers.placement.choose import PUBLISHED_WEIGHTS, WEIGHTS
from dilu_core.units import FULL_GPU_MILLI

SHARINGS = ("work-conserving", "hard-caps", "time-slices")
"""How a GPU is divided while it runs, in the order of the kernel's codes: see `kernels.cpu.shared_gpus`."""

REMOVALS = ("newest", "least-useful-gpu")
"""Which instance a function gives up: the youngest, or the one whose GPU holds least else, so that it empties."""

Weights = tuple[float, float, float]
MakeScaler = Callable[[ClusterFunction, Menu], Scaler]

STATIC = Oversubscription(FULL_GPU_MILLI, FULL_GPU_MILLI)
"""Reserved shares: neither requests nor limits may exceed the GPU."""


@dataclass(frozen=True, kw_only=True)
class Replan:
    """Every `every_s` seconds, at most `most_moves` moves of running instances that free GPUs.

    Only those are made that save more GPU time than they cost, if a freed GPU stays free for `horizon_s`.
    """

    every_s: float = 60.0
    most_moves: int = 4
    horizon_s: float = 120.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "every_s", check.finite("every_s", self.every_s, above=0.0, at_most=1e9))
        object.__setattr__(self, "most_moves", check.integer("most_moves", self.most_moves, at_least=0))
        object.__setattr__(self, "horizon_s", check.finite("horizon_s", self.horizon_s, at_least=0.0))


@dataclass(frozen=True, kw_only=True)
class ClusterSystem:
    """A way to run functions on a cluster.

    Arguments:
        name: for tables.
        quotas: the configurations of a function, in order of preference (`cluster_quotas`).
        scaler: makes the horizontal side of a function from its menu (`cluster_scaling`).
        sharing: `"work-conserving"`, `"hard-caps"` or `"time-slices"`.
        oversubscription: caps on what a GPU's instances book.
        weights: price of a whole GPU left over in request, limit and memory; an instance goes where the priced rest is
            least among GPUs in use. All zero is first fit.
        beside_gangs: whether instances prefer GPUs of training gangs that their function slows down anyway.
        apart: whether functions whose load rises together are kept apart, as far as seen so far; needs `beside_gangs`.
        removal: which instance goes first.
        replan: whether and how running instances are moved; `None` leaves them where they are.
    """

    name: str
    quotas: QuotaRule
    scaler: MakeScaler
    sharing: str = "hard-caps"
    oversubscription: Oversubscription = field(default=STATIC)
    weights: Weights = WEIGHTS
    beside_gangs: bool = False
    apart: bool = False
    removal: str = "newest"
    replan: Replan | None = None

    def __post_init__(self) -> None:
        check.text("name", self.name)
        check.choice("sharing", self.sharing, SHARINGS)
        check.choice("removal", self.removal, REMOVALS)
        for argument in ("quotas", "scaler"):
            if not callable(getattr(self, argument)):
                check.fail(argument, f"is {getattr(self, argument)!r:.80}; expected a function.")
        if not isinstance(self.oversubscription, Oversubscription):
            check.fail("oversubscription", f"is {self.oversubscription!r:.80}; expected an Oversubscription.")
        if self.replan is not None and not isinstance(self.replan, Replan):
            check.fail("replan", f"is {self.replan!r:.80}; expected a Replan or None.")
        if not isinstance(self.weights, tuple) or len(self.weights) != 3:
            check.fail("weights", f"is {self.weights!r:.80}; expected three numbers: of request, limit and memory.")
        if check.flag("apart", self.apart) and not check.flag("beside_gangs", self.beside_gangs):
            check.fail("apart", "is set without beside_gangs; both need instances that name their function.")
        priced = tuple(check.finite(f"weights[{i}]", each, at_least=0.0) for i, each in enumerate(self.weights))
        object.__setattr__(self, "weights", priced)


def horizontal_params(function: ClusterFunction, menu: Menu, **fields: Any) -> HorizontalParams:
    """What a horizontal policy knows of a function that runs in the first configuration of its menu."""
    config = menu[0]
    return HorizontalParams(
        config.throughput_rps,
        config.request_milli,
        config.limit_milli,
        slo_ms=function.slo_ms,
        base_latency_ms=config.latency_ms,
        cold_start_s=function.cold_start_s,
        **fields,
    )


def scaled_by(make: Callable[[HorizontalParams], Policy[Any]], **fields: Any) -> MakeScaler:
    """Scaling by the policy that `make` builds; `fields` are further fields of `HorizontalParams`."""
    return lambda function, menu: UniformScaler(menu, make(horizontal_params(function, menu, **fields)))


def _reactive(function: ClusterFunction, menu: Menu) -> Scaler:
    """As many instances as the last second needs at 80 % of their capacity, at once; kept for a minute."""
    return ResidualScaler(menu, first_of)


def _infless(function: ClusterFunction, menu: Menu) -> Scaler:
    return ResidualScaler(menu, largest_filled_batch(function.slo_ms or 0.0))


def _fast_gshare(function: ClusterFunction, menu: Menu) -> Scaler:
    return ResidualScaler(menu, efficient_then_ideal)


EXCLUSIVE = ClusterSystem(name="Exclusive", quotas=quotas.whole_gpu, scaler=_reactive)
"""A whole GPU for each instance, and for each worker of a training job. Scaled reactively."""

MPS_LIMIT = ClusterSystem(name="MPS-l", quotas=quotas.static_at_limit, scaler=_reactive)
"""Static MPS shares at the published limits (the paper's MPS-l): fast, and mostly idle. Scaled reactively."""

MPS_REQUEST = ClusterSystem(name="MPS-r", quotas=quotas.static_at_request, scaler=_reactive)
"""Static MPS shares at the published requests (the paper's MPS-r): dense, without burst. Scaled reactively."""

FAST_GSHARE = ClusterSystem(
    name="FaST-GShare-like", quotas=quotas.throughput_front, scaler=_fast_gshare, sharing="time-slices"
)
"""Fixed quotas of space and time (Gu et al., "FaST-GShare", ICPP 2023, doi 10.1145/3605573.3605638).

After its heuristic scaling: the residual load gets the most efficient configuration while it fills one, then the
smallest that serves the rest. Approximations: a rectangle of SM partition and time quota counts as its area, so its
maximal-rectangles packing becomes best fit; model sharing is left out; instances are kept for a minute after a peak.
"""

INFLESS = ClusterSystem(name="INFless-like", quotas=quotas.one_per_batch, scaler=_infless, weights=(1.0, 0.0, 0.0))
"""Non-uniform scaling (Yang et al., "INFless", ASPLOS 2022, doi 10.1145/3503222.3507709), on static MPS partitions.

After its greedy scheduling: the largest batch that the residual load fills in time, in the share of greatest throughput
per resource, on the server it fills most (the resource-efficiency score); loads are dispatched in proportion to
capacity, and instances planned for 0.8 of it (its alpha). Approximations: GPU shares only, no CPU; its histogram of
idle times (LSTH), which pre-warms and keeps alive, is a fixed minute; training, which it does not know, runs at the
published request.
"""

DILU = ClusterSystem(
    name="Dilu (published)",
    quotas=quotas.hybrid_growth,
    scaler=scaled_by(CoScaler, rule="lazy"),
    sharing="work-conserving",
    oversubscription=Oversubscription(),
    weights=PUBLISHED_WEIGHTS,
    beside_gangs=True,
)
"""Lv et al., "Dilu", ASPLOS 2025 (doi 10.1145/3669940.3707251): hybrid growth search, best fit by 0.6 of the SM and 0.4
of the memory residual with workload affinity, requests and limits, the lazy horizontal rule (20 of 40 s, 30 of 40 s).

Approximations, all in its favour: the vertical rule divides every GPU without delay or loss, where the published one
reacts within periods of 5 ms through one cap over all GPUs; faults of its code (floats, leaks) are mended.
"""

OURS = ClusterSystem(
    name="dilu_core",
    quotas=quotas.most_efficient,
    scaler=scaled_by(CoScaler),
    sharing="work-conserving",
    oversubscription=Oversubscription(limit_milli=3 * FULL_GPU_MILLI),
    beside_gangs=True,
    apart=True,
    removal="least-useful-gpu",
)
"""This library: the exact quota search, co-scaling with its default parameters, best fit over request, limit and
memory, functions whose load rises together kept apart, and scale-in from the GPU that empties soonest.

Limits are permissions here, not reservations: an instance may burst to four times its request, and the limits on a GPU
may add up to three GPUs. (With the published caps, 2 and 1.5, the local workloads of `bench/cluster_replay.py` took 5 %
more GPUs and twice as many requests were late, on seeds 0 to 3.)
"""

CLUSTER_SYSTEMS = (EXCLUSIVE, MPS_LIMIT, MPS_REQUEST, FAST_GSHARE, INFLESS, DILU, OURS)
"""All of them."""
