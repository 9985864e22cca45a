"""How wrong a fitted latency model is on cells it has not seen: what stands behind `LatencyFit.upper_ms`.

Split-conformal calibration, pooled over functions: each was fitted from some of its cells, and every held-out cell
scored

    z = log(measured / predicted) / sqrt(sigma^2 min(v, LEVERAGE_CAP) + max(SPREAD_FLOOR, sigma)^2)

with the residual scatter sigma of the fit and the leverage v of the cell. The quantiles of z, each function weighing
the same, turn the spread that a fit states into a bound; few or badly placed samples show in v, and need no quantiles
of their own. Coverage is an average over functions like those of the calibration, not a promise for one. (Vovk,
Gammerman and Shafer, "Algorithmic Learning in a Random World", Springer 2005; Papadopoulos et al., ECML 2002, for
normalised scores.)"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from dilu_core import _checks as check

NOISE = 0.05
"""Log-latency noise of one measurement that the fit assumes, and the unit of leverage."""

NOISE_BELIEF = 4.0
"""How many samples' worth of belief stands behind NOISE where it is estimated anew from residuals."""

CORNER = 0.05
"""Log residual beyond which a sample pulls linearly, no longer quadratically (soft-L1)."""

LEVERAGE_CAP = 64.0
"""Leverage counts up to here: the samples say nothing about such a point, and more of nothing is the same."""

SPREAD_FLOOR = 0.05
"""Misfit of the model form that remains however many samples there are."""

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
"""Where `calibrate` tabulates the scores."""

_VERSION = 1
_GREATEST_LEVEL = 1e6  # a prediction wrong by all that floats can tell apart scores less than this


@dataclass(frozen=True)
class Calibration:
    """Quantiles of the normalised log error z.

    Parameters
    ----------
    quantiles
        Probabilities, ascending within (0, 1), at least two.
    levels
        z at each of them, not falling.
    functions, scores
        How many functions and held-out cells stand behind it.
    provenance
        Where they come from. Any text.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    """

    quantiles: tuple[float, ...]
    levels: tuple[float, ...]
    functions: int = 0
    scores: int = 0
    provenance: str = ""

    def __post_init__(self) -> None:
        quantiles = increasing_probabilities("quantiles", self.quantiles)
        levels = tuple(check.float_column("levels", self.levels).tolist())
        if len(levels) != len(quantiles) or not all(abs(level) <= _GREATEST_LEVEL for level in levels):
            check.fail("levels", f"are {levels!r:.80}; expected one number per quantile, within +-{_GREATEST_LEVEL:g}.")
        if any(right < left for left, right in pairwise(levels)):
            check.fail("levels", f"are {levels!r:.80}; expected them not to fall.")
        object.__setattr__(self, "quantiles", quantiles)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "functions", check.integer("functions", self.functions, at_least=0))
        object.__setattr__(self, "scores", check.integer("scores", self.scores, at_least=0))
        check.text("provenance", self.provenance, empty=True)

    def level(self, quantile: float) -> float:
        """z at `quantile`.

        Linear in logit(quantile) between the tabulated ones, and on beyond them with the slope of the last two. Not
        falling in `quantile`, never negative from 0.5 on. Raises `InvalidArgumentError` naming `quantile` outside
        (0, 1).
        """
        wanted = check.finite("quantile", quantile)
        if not 0.0 < wanted < 1.0:
            check.fail("quantile", f"is {quantile!r}; expected a probability strictly between 0 and 1.")
        right = min(max(bisect.bisect_left(self.quantiles, wanted), 1), len(self.quantiles) - 1)
        low, high = _logit(self.quantiles[right - 1]), _logit(self.quantiles[right])
        below, above = self.levels[right - 1], self.levels[right]
        value = below + (above - below) / (high - low) * (_logit(wanted) - low)
        if wanted >= self.quantiles[right - 1]:  # rounding must not step over a tabulated level
            value = max(value, below if wanted <= self.quantiles[right] else above)
        if wanted <= self.quantiles[right]:
            value = min(value, above if wanted >= self.quantiles[right - 1] else below)
        return max(value, 0.0) if wanted >= 0.5 else value

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "provenance": self.provenance,
            "functions": self.functions,
            "scores": self.scores,
            "quantiles": list(self.quantiles),
            "levels": list(self.levels),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The calibration `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("calibration", data, version=_VERSION)
        optional = ("functions", "scores", "provenance")
        return check.build("calibration", document, cls, required=("quantiles", "levels"), optional=optional)


def increasing_probabilities(argument: str, values: object) -> tuple[float, ...]:
    """`values` as two probabilities or more within (0, 1), ascending."""
    found = tuple(check.float_column(argument, values).tolist())
    if len(found) < 2 or not all(0.0 < q < 1.0 for q in found):
        check.fail(argument, f"are {found!r:.80}; expected two probabilities or more within (0, 1).")
    if any(right <= left for left, right in pairwise(map(_logit, found))):
        check.fail(argument, f"are {found!r:.80}; expected them ascending.")
    return found


@cache
def shipped_calibration() -> Calibration:
    """The calibration in the package, `dilu_core/calibration.json`; its provenance says what it rests on."""
    return Calibration.from_dict(json.loads(files("dilu_core").joinpath("calibration.json").read_text("utf-8")))


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))
