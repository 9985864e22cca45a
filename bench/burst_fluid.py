"""Load that comes and goes on shared GPUs as a fluid: daily loads with phases, and how much burst finds no spare share.

An instance whose function sees `load` times what its request serves wants `load * request` of the GPU, at most its
limit. What it wants up to its request is guaranteed. Beyond that it bursts into what the others leave of the whole GPU:

    spare   = 1000 - sum min(wanted, request)          over the instances on a GPU, at every moment
    burst   = sum max(0, wanted - request)
    served  = min(burst, spare)                        (shared among those that burst)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.instances import Instance
from dilu_core.slots import Slot
from dilu_core.traces import ArrivalTrace

DAY_S = 86400.0


@dataclass(frozen=True)
class BurstService:
    """Milli-GPU-periods of burst wanted on all GPUs and of it served."""

    wanted: float
    served: float

    @property
    def lost(self) -> float:
        """The part of the wanted burst that found no spare share, 0..1."""
        return 1.0 - self.served / self.wanted if self.wanted else 0.0


def daily_loads(
    phases: Mapping[str, float], *, days: int, period_s: float, peak: float, seed: int
) -> dict[str, ArrivalTrace]:
    """Function -> its load in parts of what its instances serve at their requests, by its phase in parts of a day.

    A raised cosine from 0.1 at night to `peak`, narrow enough that functions half a day apart do not burst together,
    with lognormal noise of a tenth.
    """
    draw = np.random.default_rng(seed)
    clock = np.arange(round(days * DAY_S / period_s)) * period_s
    found = {}
    for name, phase in phases.items():
        hill = (0.5 + 0.5 * np.cos(2 * np.pi * (clock / DAY_S - phase))) ** 2
        noise = draw.lognormal(-0.005, 0.1, clock.size)
        found[name] = ArrivalTrace((0.1 + (peak - 0.1) * hill) * noise, period_s=period_s, name=name)
    return found


def burst_service(
    instances: Mapping[str, Instance],
    placement: Mapping[str, tuple[Slot, ...]],
    loads: Mapping[str, NDArray[np.float64]],
) -> BurstService:
    """The fluid above, over all GPUs and periods; `loads` are columns of one length by function.

    An instance of a function without a load wants its request throughout. Every slot of a gang wants and gets its own.
    """
    periods = max((column.size for column in loads.values()), default=1)
    on_gpu: dict[tuple[str, int], list[Instance]] = {}
    for name, slots in placement.items():
        for slot in slots:
            on_gpu.setdefault((slot.node, slot.gpu), []).append(instances[name])
    wanted = served = 0.0
    for held in on_gpu.values():
        kept, burst = np.zeros(periods), np.zeros(periods)
        for each in held:
            load = loads.get(each.function, np.ones(periods))
            wants = np.minimum(load * each.request_milli, each.limit_milli)
            kept += np.minimum(wants, each.request_milli)
            burst += np.maximum(wants - each.request_milli, 0.0)
        wanted += float(burst.sum())
        served += float(np.minimum(burst, np.maximum(1000.0 - kept, 0.0)).sum())
    return BurstService(wanted, served)
