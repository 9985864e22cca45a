"""Parts of the CPU's joint search against what they replace: bit sets, vectorised choice at prices, dominance."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.joint_bits import BLOCK, SETS, bit_sets, first_of, may_fit
from dilu_core.kernels.cpu.joint_multipliers import LANES, LEAST_GAIN, MOST_PRICE, SCALE, greatest_reduced
from dilu_core.kernels.cpu.joint_packing import packed
from dilu_core.kernels.cpu.joint_prepare import drop_losing


@given(st.integers(0, 62), st.integers(0, 2**62))
def test_first_of_is_the_lowest_bit(place: int, above: int) -> None:
    """Whatever is set above it."""
    bits = (1 << place) | ((above << place) & (2**63 - 1))
    assert first_of(bits) == place


@given(st.integers(0, 10**6), st.integers(1, 150), st.sampled_from([1, 50, 5000, 2**20 - 2]))
def test_bit_sets_miss_no_option_that_fits(seed: int, options: int, capacity: int) -> None:
    """Of any room within what is spare; and they leave out what exceeds it by more than a bucket."""
    generator = np.random.default_rng(seed)
    weights = np.minimum(generator.integers(0, capacity + capacity // 2 + 1, (2, options, 3)), 2**20 - 1)
    load = np.array([[packed(*each) for each in level] for level in weights.tolist()], np.int64)
    further = capacity << 21
    excess = generator.integers(0, further + further // 2, (2, options))
    spare = packed(capacity, capacity, capacity)
    sets, entries, shifts = bit_sets(np.array([options, options // 2]), load, excess, spare, further)
    for level, count in enumerate((options, options // 2)):
        room, left = generator.integers(0, capacity + 1, 3), int(generator.integers(0, further + 1))
        found = set()
        for block in range(-(-count // BLOCK)):
            bits = may_fit(sets, level * entries + block * SETS, packed(*room.tolist()), left, shifts)
            found |= {block * BLOCK + k for k in range(BLOCK) if bits >> k & 1}
        listed, beyond = weights[level, :count], excess[level, :count]
        buckets = np.array([1 << shift for shift in shifts])
        assert found >= set(np.flatnonzero((listed <= room).all(1) & (beyond <= left)).tolist())
        assert found <= set(
            np.flatnonzero((listed < room + buckets[:3]).all(1) & (beyond < left + buckets[3])).tolist()
        )


@given(st.integers(0, 10**6), st.integers(1, 150), st.sampled_from([0.0, 0.1, 1.0, 4.0]))
def test_the_vectorised_choice_is_the_greatest(seed: int, options: int, dear: float) -> None:
    """To a part of `SCALE`; what fills a row up is never chosen."""
    generator = np.random.default_rng(seed)
    width = -(-options // LANES) * LANES
    gain, part = np.full(width, LEAST_GAIN, np.float32), np.zeros((3, width), np.float32)
    gain[:options], part[:, :options] = SCALE * generator.random(options), generator.random((3, options))
    prices = np.minimum(dear * SCALE * generator.uniform(0.5, 1.0, 3), MOST_PRICE).astype(np.float32)
    reduced = gain.astype(np.float64) - prices.astype(np.float64) @ part
    chosen = greatest_reduced(gain, part, *prices)
    assert chosen < options
    assert reduced[chosen] >= reduced[:options].max() - 4


@given(st.integers(0, 10**6), st.integers(1, 70), st.sampled_from([1, 3, 40]))
def test_what_is_dropped_loses_or_is_dominated(seed: int, options: int, greatest: int) -> None:
    """By an option no heavier that gains more, or the same and comes first; the others keep their order."""
    generator = np.random.default_rng(seed)
    weights = generator.integers(0, greatest + 1, (options, 3))
    gains, losses = generator.integers(0, greatest + 1, options), generator.integers(0, 10, options)
    near = np.flatnonzero(losses <= 6).tolist()
    expected = [
        k
        for k in near
        if not any(
            (weights[j] <= weights[k]).all() and (gains[j] > gains[k] or (gains[j] == gains[k] and j < k)) for j in near
        )
    ]
    load = np.array([[packed(*each) for each in weights.tolist()]], np.int64)
    count, least, option = np.array([options]), np.zeros(1, np.int64), np.arange(options)[None].copy()
    drop_losing(6, count, option, gains[None].copy(), load.copy(), losses[None].copy(), least)
    assert option[0, : count[0]].tolist() == expected
    if expected:
        assert int(least[0]) == packed(*weights[expected].min(0).tolist())
