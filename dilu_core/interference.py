"""InterferenceModel: how much longer a batch takes beside busy neighbours on the same GPU, with a bound.

Shares divide the SMs of a GPU, but not its memory bandwidth, its second-level cache, its launch path or its power.
What a function A loses to a neighbour B there is taken as

    slowdown(A | B) = 1 + excess(A | B),     excess(A | B) = c(A, B) (1 + k stall(A)) busy(B) (1 + u use(B)).

- stall(A), in [0, 1], is the part of A's time that goes into launches and memory traffic, which no share shortens. It
  is where A waits for what is not divided. Host time is not shortened either, but a neighbour leaves it alone.
- busy(B), in [0, 1], is the part of the time in which B executes, and use(B), in [0, 1], the part of that in which its
  work would keep a whole GPU busy, computing or reading memory. Any busy neighbour costs something, as launches of
  different processes take turns; the more of the GPU it uses, the more.
- c(A, B) is the strength of the pair, k >= 0 how much stalls matter, u >= 0 how much use does.

Excesses of several neighbours add up. That is the structure of iGniter (Xu et al., TPDS 2022,
doi 10.1109/TPDS.2022.3232715), whose scheduling delay grows with the number of co-runners and whose cache term with the
sum of their use. Both features come from the stand-alone latency fits, so that functions never measured beside each
other have them too.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.performance import RooflineModel

_VERSION = 1
STRONGEST = 50.0
"""Greatest log scale and spread: beyond it the numbers overflow, and nothing measured comes near."""

_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
_LEVELS = (-2.12, -1.47, -0.53, 0.1, 0.58, 0.97, 1.17, 1.35, 1.59)


def excess_quantile(quantile: float) -> float:
    """The calibrated quantile of log(measured excess / predicted excess) over its spread.

    Linear in logit(quantile) between the calibrated ones, and on beyond them with the slope of the last two; never
    negative from 0.5 on. Raises `InvalidArgumentError` naming `quantile` outside (0, 1). Produced by
    `python bench/interference.py` from pairs held out.
    """
    level = check.finite("quantile", quantile)
    if not 0.0 < level < 1.0:
        check.fail("quantile", f"is {quantile!r}; expected a probability strictly between 0 and 1.")
    place = math.log(level / (1.0 - level))
    right = min(max(bisect.bisect_left(_QUANTILES, level), 1), len(_QUANTILES) - 1)
    low, high = (math.log(q / (1.0 - q)) for q in _QUANTILES[right - 1 : right + 1])
    slope = (_LEVELS[right] - _LEVELS[right - 1]) / (high - low)
    value = _LEVELS[right - 1] + slope * (place - low)
    return max(value, 0.0) if level >= 0.5 else value


def stall(model: RooflineModel, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
    """The part of the latency that goes into launches and memory traffic, in [0, 1]; the arguments broadcast.

    d log t / d log L + d log t / d log d of the roofline.
    """
    gradient = model.log_gradient(batch, sm_milli)
    return np.clip(gradient[..., 0] + gradient[..., 4], 0.0, 1.0)


def gpu_use(model: RooflineModel, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
    """The part of the latency for which the batch would keep a whole GPU busy, in [0, 1]; the arguments broadcast.

    [(m + w b)^p + (d b)^p]^(1/p) / t(b, s) of the roofline: no launches, no host time, every SM. At most the share for
    a function that computes, more for one that reads memory.
    """
    latency = model.latency_ms(batch, sm_milli)
    _, _, fixed, compute, bandwidth, sharpness = model.parameters
    samples = np.asarray(batch, dtype=np.float64)
    work, traffic = fixed + compute * samples, bandwidth * samples
    top = np.maximum(work, traffic)
    scale = np.where(top > 0, top, 1.0)
    whole = top * ((work / scale) ** sharpness + (traffic / scale) ** sharpness) ** (1.0 / sharpness)
    return np.clip(whole / latency, 0.0, 1.0)


@dataclass(frozen=True)
class Tenant:
    """One instance on a shared GPU: its function, how far it waits for what is shared, how much it takes of it.

    `stall` and `use` are those of its model at its batch and share (see the functions `stall` and `gpu_use`); `busy` is
    the part of the time in which it executes. Where nothing is known of an instance, the defaults are the worst case.
    """

    function: str = ""
    stall: float = 1.0
    use: float = 1.0
    busy: float = 1.0

    def __post_init__(self) -> None:
        check.text("function", self.function, empty=True)
        for name in ("stall", "use", "busy"):
            object.__setattr__(self, name, check.finite(name, getattr(self, name), at_least=0.0, at_most=1.0))

    @classmethod
    def of(cls, function: str, model: RooflineModel, batch: int, sm_milli: int, *, busy: float = 1.0) -> Tenant:
        """The tenant that runs batches of `batch` on `sm_milli` of a GPU."""
        if not isinstance(model, RooflineModel):
            check.fail("model", f"is {model!r:.80}; expected a RooflineModel, such as the `.roofline` of a LatencyFit.")
        size, share = check.integer("batch", batch, at_least=1), check.share_milli("sm_milli", sm_milli)
        return cls(function, float(stall(model, size, share)), float(gpu_use(model, size, share)), busy)


@dataclass(frozen=True)
class InterferenceModel:
    """Slowdown beside neighbours; see the module for the formula.

    Parameters
    ----------
    functions
        (F,) names of the functions that were measured beside others. May be empty.
    log_scale
        (F + 1, F + 1) log c(A, B), rows A and columns B in the order of `functions`; the last row and column are for
        any other function.
    spread
        (F + 1, F + 1) standard deviation of log(measured excess / predicted excess): smallest for pairs measured,
        greatest for functions never seen.
    stall_weight, use_weight
        k >= 0 and u >= 0.

    Slowdown is exactly 1 without busy neighbours, never below 1, and rises with every neighbour's `use` and `busy`.
    Raises `InvalidArgumentError` naming the argument.
    """

    functions: tuple[str, ...]
    log_scale: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[float, ...], ...]
    stall_weight: float
    use_weight: float

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "functions", check.names("functions", self.functions))
        side = len(self.functions) + 1
        put(self, "log_scale", _table("log_scale", self.log_scale, side, least=-STRONGEST))
        put(self, "spread", _table("spread", self.spread, side, least=0.0))
        for name in ("stall_weight", "use_weight"):
            put(self, name, check.finite(name, getattr(self, name), at_least=0.0, at_most=1e6))

    @classmethod
    def default(cls) -> InterferenceModel:
        """The pooled model for functions never measured beside others.

        From published measurements of six pairs of four convolutional networks on a V100 (the data of iGniter, Xu et
        al., TPDS 2022), shares adding up to one GPU: constants fitted by `python bench/interference.py`. Slowdowns
        there are between 1.01 and 1.23. It says nothing of other GPUs or of language models: measure where you can.
        """
        return cls((), ((_LOG_SCALE,),), ((_SPREAD,),), _STALL_WEIGHT, _USE_WEIGHT)

    def excess(
        self,
        function: str,
        stall: ArrayLike,
        neighbour: str,
        use: ArrayLike,
        *,
        busy: ArrayLike = 1.0,
        quantile: float | None = None,
    ) -> NDArray[np.float64]:
        """What one neighbour adds to the slowdown: c (1 + k stall) busy (1 + u use); the numbers broadcast.

        Times exp(z spread) for a `quantile`, z being `excess_quantile` of it. Names that the model does not know stand
        for any other function. Raises `InvalidArgumentError` naming the argument for what is no fraction or does not
        broadcast.
        """
        a, b = self._index(function), self._index(neighbour)
        log_scale = self.log_scale[a][b]
        if quantile is not None:
            log_scale += excess_quantile(quantile) * self.spread[a][b]
        stalls, uses, parts = _fractions("stall", stall), _fractions("use", use), _fractions("busy", busy)
        _check_broadcast(stall=stalls, use=uses, busy=parts)
        presses = parts * (1.0 + self.use_weight * uses)
        return np.asarray(math.exp(log_scale) * (1.0 + self.stall_weight * stalls) * presses)

    def slowdown(self, tenant: Tenant, neighbours: Iterable[Tenant]) -> float:
        """Latency of `tenant` beside `neighbours` over its latency alone, expected: 1 + the sum of their excesses."""
        return self._slowdown(tenant, neighbours, None)

    def upper_slowdown(self, tenant: Tenant, neighbours: Iterable[Tenant], quantile: float = 0.95) -> float:
        """The slowdown that a measurement is meant to stay below with probability `quantile`: an aim, no guarantee.

        Every neighbour's excess at its own quantile: several neighbours are taken to be bad together. The levels are
        calibrated over all held-out pairs at once (`excess_quantile`). At 0.95 the bound then covered 92% of the
        measurements of pairs never seen and 95% where a whole network was unseen (93% and 95% with the pair left out of
        the calibration too), but 76% of the worst pair; of pairs half measured 93%, of the worst 78%. All of that is
        four networks on one GPU type (`python bench/interference.py`). Raises `InvalidArgumentError` naming `quantile`
        outside (0, 1).
        """
        excess_quantile(quantile)
        return self._slowdown(tenant, neighbours, quantile)

    def _slowdown(self, tenant: Tenant, neighbours: Iterable[Tenant], quantile: float | None) -> float:
        if not isinstance(tenant, Tenant):
            check.fail("tenant", f"is {tenant!r:.80}; expected a Tenant.")
        others = check.instances_of("neighbours", neighbours, Tenant)
        return 1.0 + sum(
            float(self.excess(tenant.function, tenant.stall, b.function, b.use, busy=b.busy, quantile=quantile))
            for b in others
        )

    def _index(self, function: str) -> int:
        try:
            return self.functions.index(function)
        except ValueError:
            return len(self.functions)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "functions": list(self.functions),
            "log_scale": [list(row) for row in self.log_scale],
            "spread": [list(row) for row in self.spread],
            "stall_weight": self.stall_weight,
            "use_weight": self.use_weight,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InterferenceModel:
        """The model `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("interference_model", data, version=_VERSION)
        required = ("functions", "log_scale", "spread", "stall_weight", "use_weight")
        return check.build("interference_model", document, cls, required=required)


_LOG_SCALE = -3.46
_SPREAD = 0.43
_STALL_WEIGHT = 3.58
_USE_WEIGHT = 1.81


def _fractions(argument: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        raw = np.asarray(values)
        if raw.dtype.kind not in "iufO":
            raise TypeError
        found = raw.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        check.fail(argument, f"is {values!r:.80}; expected fractions between 0 and 1.")
    if not ((found >= 0.0) & (found <= 1.0)).all():
        check.fail(argument, f"is {values!r:.80}; expected fractions between 0 and 1.")
    return found


def _check_broadcast(**columns: NDArray[np.float64]) -> None:
    shape: tuple[int, ...] = ()
    for argument, column in columns.items():
        try:
            shape = np.broadcast_shapes(shape, column.shape)
        except ValueError:
            check.fail(argument, f"has shape {column.shape}, which does not broadcast with the {shape} before it.")


def _table(argument: str, value: object, side: int, *, least: float) -> tuple[tuple[float, ...], ...]:
    try:
        table = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        check.fail(argument, f"is {value!r:.120}; expected a table of {side} by {side} numbers.")
    if table.shape != (side, side):
        check.fail(argument, f"has shape {table.shape}; expected ({side}, {side}), one more than there are functions.")
    wrong = ~((table >= least) & (table <= STRONGEST))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        span = f"between {least:g} and {STRONGEST:g}"
        check.fail(f"{argument}[{row}][{column}]", f"is {float(table[row, column])}; expected a number {span}.")
    return tuple(tuple(row) for row in table.tolist())
