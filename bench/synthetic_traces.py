"""Arrival traces of many shapes from seeds: half an hour each, Poisson counts around a rate that a shape gives.

Every shape draws its own level, timing and contrast from the seed, so two seeds give two different functions of one
kind. `traces(seed)` is one of each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dilu_core.traces import ArrivalTrace

Floats = NDArray[np.float64]
Random = np.random.Generator

SECONDS = 1800


def traces(seed: int, seconds: int = SECONDS) -> list[ArrivalTrace]:
    """One trace of each shape."""
    made = []
    for number, (name, shape) in enumerate(SHAPES.items()):
        random = np.random.default_rng([seed, number])
        rates = np.maximum(shape(random, np.arange(seconds, dtype=float)), 0.0)
        made.append(ArrivalTrace(random.poisson(rates).astype(float), name=f"{name} {seed}"))
    return made


def diurnal(random: Random, t: Floats) -> Floats:
    """A compressed day: a sine with a second harmonic."""
    period, phase = random.uniform(400, 900), random.uniform(0, 2 * np.pi)
    wave = 0.5 + 0.4 * np.sin(2 * np.pi * t / period + phase) + 0.15 * np.sin(4 * np.pi * t / period)
    return random.uniform(40, 120) * wave


def bursts(random: Random, t: Floats) -> Floats:
    """A level with bursts of a few times that at random moments."""
    calm = random.uniform(15, 40)
    rates = np.full(t.size, calm)
    for start in np.cumsum(random.exponential(random.uniform(120, 250), 40)).astype(int):
        here = slice(start, start + random.integers(10, 60))
        rates[here] = np.maximum(rates[here], calm * random.uniform(2, 5))
    return rates


def flash_crowd(random: Random, t: Floats) -> Floats:
    """A calm level and one crowd that comes within seconds and loses interest slowly."""
    start, rise, decay = random.uniform(400, 1000), random.uniform(3, 20), random.uniform(100, 300)
    crowd = np.where(t < start, 0.0, (1 - np.exp(-(t - start) / rise)) * np.exp(-(t - start) / decay))
    return random.uniform(10, 25) * (1 + random.uniform(5, 10) * crowd)


def sporadic(random: Random, t: Floats) -> Floats:
    """Mostly nothing; now and then a few seconds of requests."""
    rates = np.full(t.size, 0.2)
    for start in np.cumsum(random.exponential(random.uniform(30, 70), 120)).astype(int):
        rates[start : start + random.integers(2, 12)] += random.uniform(5, 30)
    return rates


def ramps(random: Random, t: Floats) -> Floats:
    """Straight lines between random levels."""
    knots = np.concatenate([[0.0], np.cumsum(random.uniform(100, 350, 20))])
    return np.interp(t, knots, random.uniform(5, 100, knots.size))


def random_walk(random: Random, t: Floats) -> Floats:
    """A level whose logarithm walks, pulled back to its mean."""
    level, steps = 0.0, random.normal(0, random.uniform(0.03, 0.06), t.size)
    walk = np.empty(t.size)
    for i, step in enumerate(steps):
        walk[i] = level = 0.995 * level + step
    return random.uniform(30, 60) * np.exp(walk)


def on_off(random: Random, t: Floats) -> Floats:
    """A square wave: a batch job that calls on the minute."""
    period, part = random.uniform(100, 300), random.uniform(0.2, 0.5)
    return np.where(np.mod(t + random.uniform(0, period), period) < part * period, random.uniform(60, 120), 5.0)


def mmpp(random: Random, t: Floats) -> Floats:
    """A Markov-modulated Poisson process of three rates."""
    levels, rates, k, i = random.uniform(5, 110, 3), np.empty(t.size), 0, 0
    while i < t.size:
        stay = int(random.exponential(random.uniform(30, 120))) + 1
        rates[i : i + stay] = levels[k]
        i, k = i + stay, (k + random.integers(1, 3)) % 3
    return rates


def saw_tooth(random: Random, t: Floats) -> Floats:
    """Slow rises that break off: a queue that is drained at intervals."""
    period = random.uniform(150, 500)
    return 10 + random.uniform(50, 120) * np.mod(t / period + random.uniform(), 1.0)


def constant(random: Random, t: Floats) -> Floats:
    """One rate all the time."""
    return np.full(t.size, random.uniform(20, 120))


SHAPES: dict[str, Callable[[Random, Floats], Floats]] = {
    each.__name__.replace("_", " "): each
    for each in (diurnal, bursts, flash_crowd, sporadic, ramps, random_walk, on_off, mmpp, saw_tooth, constant)
}
