"""The compiled vertical policy grants what the plain one does, to the unit, whoever comes and goes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.gpu import KINDS, GpuInstance, GpuObservation
from dilu_core.coscaling.sharing import water_fill
from dilu_core.coscaling.vertical import VerticalParams, VerticalScaler
from dilu_core.kernels.cpu import sharing as kernel
from dilu_core.solvers.batch_vertical import MODES, BatchVerticalScaler, SharedGpus
from dilu_core.solvers.batch_vertical_state import BatchVerticalState

GPUS = 3

measured = st.one_of(
    st.sampled_from([0.0, float("nan"), 1e12, 5e-324, 10.0, 25.0]), st.floats(), st.integers(1, 600).map(float)
)


@st.composite
def fleets(draw):
    """Per id: (GPU, instance without measurements). Sometimes a GPU is oversold, sometimes it is empty."""
    found = []
    for i in range(draw(st.integers(1, 9))):
        request = draw(st.integers(1, draw(st.sampled_from([60, 500]))))
        weight = draw(st.sampled_from([None, None, 1, 7, 10**6]))
        solo = draw(st.sampled_from([None, None, 8.0]))
        kind, limit = draw(st.sampled_from(KINDS)), draw(st.integers(request, 1000))
        made = GpuInstance(f"i{i}", kind, request, limit, weight=weight, solo_cycle_ms=solo)
        found.append((draw(st.integers(0, GPUS - 1)), made))
    return found


some_params = st.builds(
    VerticalParams,
    recovery_every=st.integers(1, 3),
    recovery_growth=st.sampled_from([1.3, 3.0]),
    baseline_fall=st.sampled_from([0.1, 0.9]),
    baseline_rise=st.sampled_from([1e-5, 0.3]),
    starvation_share=st.sampled_from([0.0, 0.1, 1.0]),
    starvation_periods=st.integers(0, 3),
)


def columns(fleet, present, *, start=0):
    """The rows `present` of the fleet, as the compiled policy takes them."""
    rows = [fleet[i] for i in present]
    return SharedGpus(
        np.array([gpu for gpu, _ in rows], np.int64),
        [one.kind for _, one in rows],
        np.array([one.request_milli for _, one in rows], np.int64),
        np.array([one.limit_milli for _, one in rows], np.int64),
        weight=np.array([one.weight or one.request_milli for _, one in rows], np.int64),
        solo_cycle_ms=np.array([one.solo_cycle_ms or np.nan for _, one in rows], float),
        ids=np.array([start + i for i in present], np.int64),
        gpus=GPUS,
    )


@settings(deadline=None, max_examples=150)
@given(some_params, fleets(), st.data())
def test_grants_are_those_of_the_plain_policy(params, fleet, data):
    """Over several periods, GPU by GPU: shares, headroom, mode, cap, inflation and state are equal.

    Rows change places, instances come, go and move to another GPU, and the state is taken through JSON on the way.
    """
    plain, batch = VerticalScaler(params), BatchVerticalScaler(params)
    states, state = [plain.initial_state()] * GPUS, batch.initial_state()
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.integers(0, 4)) == 0:
            moved = data.draw(st.integers(0, len(fleet) - 1))
            fleet[moved] = ((fleet[moved][0] + 1) % GPUS, fleet[moved][1])
        present = data.draw(st.permutations(range(len(fleet))))[data.draw(st.sampled_from([0, 0, 1, 2])) :]
        demand = [data.draw(measured) for _ in present]
        cycle = [data.draw(measured) for _ in present]
        if data.draw(st.booleans()):
            state = BatchVerticalState.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False)))
        found, state = batch.decide(state, columns(fleet, present), np.array(demand, float), np.array(cycle, float))
        for gpu in range(GPUS):
            rows = [row for row, i in enumerate(present) if fleet[i][0] == gpu]
            seen = GpuObservation(
                tuple(replace(fleet[present[r]][1], demand_milli=demand[r], cycle_ms=cycle[r]) for r in rows)
            )
            grants, states[gpu] = plain.decide(states[gpu], seen)
            assert found.milli[rows].tolist() == list(grants.values())
            headroom = [grants.headroom.get(one.name, 0) for one in seen.instances]
            assert found.headroom[rows].tolist() == headroom
            assert MODES[found.mode[gpu]] is grants.mode
            assert found.best_effort_cap_milli[gpu] == grants.best_effort_cap_milli
            assert (found.oversold[gpu], found.relieved[gpu]) == (grants.oversold, grants.relieved)
            inflation = None if np.isnan(found.inflation[gpu]) else found.inflation[gpu]
            assert inflation == grants.inflation
            assert (state.cap_milli[gpu], state.owed_milli[gpu]) == (states[gpu].cap_milli, states[gpu].owed_milli)
            assert state.period[gpu] == states[gpu].period
            kept = {one.name: state.baselines_ms[r] for r, one in zip(rows, seen.instances, strict=True)}
            assert {name: one for name, one in kept.items() if not np.isnan(one)} == dict(states[gpu].baselines_ms)


claims = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 1000)), min_size=0, max_size=30)


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 1500), claims)
def test_rounds_fill_as_sorting_does(budget, pairs):
    """Meeting claimants in rounds leads to the shares that meeting them in the order of their wants leads to."""
    wants, weights = [w for w, _ in pairs], [g for _, g in pairs]
    shares, unmet, keys = (np.empty(len(pairs), np.int64) for _ in range(3))
    taken = kernel.water_fill(
        budget, np.array(wants, np.int64), np.array(weights, np.int64), len(pairs), shares, unmet, keys
    )
    assert shares.tolist() == water_fill(budget, wants, weights)
    assert taken == shares.sum()
