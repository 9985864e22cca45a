"""The choice of a host against its words in plain Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.hosts import PER_MILLI, least_hurt

SMALL = st.integers(0, 6)
GPUS = st.lists(st.integers(0, 4).map(lambda quarters: 250 * quarters), min_size=1, max_size=3)
PER_CPU, PER_MEMORY = st.sampled_from([0.0, 0.002, 0.004, 0.01]), st.sampled_from([0.0, 0.001, 0.008])


@given(
    st.lists(st.tuples(GPUS, SMALL, SMALL), min_size=1, max_size=6),
    st.data(),
    SMALL,
    SMALL,
    st.tuples(PER_CPU, PER_MEMORY),
)
def test_the_host_is_the_one_by_the_rule(
    nodes: list[tuple[list[int], int, int]],
    data: st.DataObject,
    cpu: int,
    memory: int,
    per_milli: tuple[float, float],
) -> None:
    """Least share stranded, then least free share, then least CPU, then the first of the candidates."""
    candidates = data.draw(st.lists(st.sampled_from(range(len(nodes))), unique=True))

    def stranded(share: int, cpu_left: int, memory_left: int) -> Fraction:
        served = [
            Fraction(left) / Fraction(each)
            for left, each in zip((cpu_left, memory_left), per_milli, strict=True)
            if each
        ]
        return max(Fraction(0), share - min(served)) if served else Fraction(0)

    def key(n: int) -> tuple[int, int, int]:
        gpus, cpu_left, memory_left = nodes[n]
        share = sum(gpus)
        lost = stranded(share, cpu_left - cpu, memory_left - memory) - stranded(share, cpu_left, memory_left)
        return round(lost * int(PER_MILLI)), share, cpu_left

    found = least_hurt(
        np.array([[milli, 0, 0] for gpus, _, _ in nodes for milli in gpus], np.int64),
        np.cumsum([0, *(len(gpus) for gpus, _, _ in nodes)]),
        np.array([[cpu_left, memory_left] for _, cpu_left, memory_left in nodes], np.int64),
        np.array(candidates, np.int64),
        cpu,
        memory,
        np.array(per_milli),
    )
    assert found == (min(candidates, key=key) if candidates else -1)
