"""GPU-hours and money: a shared placement against one whole GPU for every instance."""

from __future__ import annotations

from dataclasses import dataclass

from dilu_core import _checks as checks


@dataclass(frozen=True)
class CostReport:
    """What the GPUs of a plan cost per hour beside whole-GPU allocation of the same load.

    `gpus_used` are the GPUs that the plan keeps active; `whole_gpu_gpus` those needed when every instance has its GPUs
    to itself, each running the feasible batch with the greatest throughput on a whole GPU. Prices are in any currency,
    per GPU and hour.
    """

    gpus_used: int
    whole_gpu_gpus: int
    price_per_gpu_hour: float

    def __post_init__(self) -> None:
        checks.integer("gpus_used", self.gpus_used, at_least=0)
        checks.integer("whole_gpu_gpus", self.whole_gpu_gpus, at_least=0)
        checks.finite("price_per_gpu_hour", self.price_per_gpu_hour, at_least=0.0)

    @property
    def per_hour(self) -> float:
        return self.gpus_used * self.price_per_gpu_hour

    @property
    def whole_gpu_per_hour(self) -> float:
        return self.whole_gpu_gpus * self.price_per_gpu_hour

    @property
    def saving_per_hour(self) -> float:
        """Positive where sharing is cheaper."""
        return self.whole_gpu_per_hour - self.per_hour

    @property
    def saving_fraction(self) -> float:
        """Saving as a part of the whole-GPU cost; 0 where that is nothing."""
        return 1.0 - self.gpus_used / self.whole_gpu_gpus if self.whole_gpu_gpus else 0.0
