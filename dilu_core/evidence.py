"""What stands behind a latency: a measurement of that very cell, the measurements around it, or the fit."""

from __future__ import annotations

from typing import Literal

Evidence = Literal["measured", "interpolated", "model"]
EVIDENCE: tuple[Evidence, ...] = ("measured", "interpolated", "model")
"""Strongest first."""


def weakest(*kinds: Evidence) -> Evidence:
    """What stands behind a sum of latencies: the weakest of what stands behind its parts."""
    return max(kinds, key=EVIDENCE.index)
