"""Vertical co-scaling of many GPUs in one call: who is remembered, what is refused, what the horizontal policy reads.

That the grants are those of `VerticalScaler` is tested in tests/kernels/test_vertical_kernel.py.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.vertical import VerticalMode, VerticalParams
from dilu_core.errors import InvalidArgumentError
from dilu_core.kernels.cpu.vertical import vertical_period
from dilu_core.solvers.batch_vertical import MODES, BatchVerticalScaler, SharedGpus, spare_by_function
from dilu_core.solvers.batch_vertical_state import BatchVerticalState


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


def pairs(count, **kwargs):
    """On every GPU one SLO instance (300 to 600) and one training (200 to 900)."""
    return SharedGpus(
        np.repeat(np.arange(count), 2), ["slo", "best-effort"] * count, [300, 200] * count, [600, 900] * count, **kwargs
    )


def test_an_emergency_on_one_gpu_leaves_the_others_alone():
    """Doubled cycles on GPU 1 of 3 cut its training at once, and nothing on GPUs 0 and 2."""
    scaler, shared = BatchVerticalScaler(), pairs(3)
    state = scaler.initial_state()
    demand = [300.0, np.nan] * 3
    for cycle in ([10.0] * 6, [10.0, 10.0, 20.0, 10.0, 10.0, 10.0]):
        grants, state = scaler.decide(state, shared, demand, cycle)
    assert [MODES[mode] for mode in grants.mode] == [
        VerticalMode.RECOVERY,
        VerticalMode.EMERGENCY,
        VerticalMode.RECOVERY,
    ]
    assert grants.milli.tolist() == [300, 700, 300, 350, 300, 700]
    assert grants.headroom.tolist() == [300, 0] * 3
    assert grants.inflation == pytest.approx([1.0, 2.0, 1.0], rel=1e-4)


def test_baselines_follow_ids_through_any_order_and_end_with_a_move():
    """Reordered rows keep their baselines; an instance that left, or moved to another GPU, starts without one."""
    scaler = BatchVerticalScaler()
    shares = ([300] * 3, [600] * 3)
    here = SharedGpus([0, 0, 1], ["slo"] * 3, *shares, ids=[7, 8, 9])
    _, state = scaler.decide(scaler.initial_state(), here, None, [10.0, 20.0, 30.0])
    later = SharedGpus([1, 1, 0], ["slo"] * 3, *shares, ids=[9, 8, 7])
    grants, state = scaler.decide(state, later, None, [60.0, 60.0, 10.0])
    assert state.baselines_ms[[0, 2]] == pytest.approx([30.0, 10.0], rel=1e-4)
    assert state.baselines_ms[1] == 60.0
    assert grants.inflation == pytest.approx([1.0, 2.0], rel=1e-4)


def test_gpus_may_appear_and_fall_empty():
    """A GPU beyond those known starts afresh; one that the columns do not reach any more keeps its cap and recovers."""
    scaler = BatchVerticalScaler(VerticalParams(recovery_every=1))
    _, state = scaler.decide(scaler.initial_state(), pairs(1), None, [10.0, np.nan])
    grants, state = scaler.decide(state, pairs(2), None, [20.0, np.nan, 10.0, np.nan])
    assert grants.best_effort_cap_milli.tolist() == [200, 1000]
    grants, state = scaler.decide(state, pairs(0))
    assert grants.milli.size == 0
    assert grants.best_effort_cap_milli.tolist() == [260, 1000]
    assert SharedGpus([], [], [], []).gpus == 0
    assert pairs(1, gpus=4).gpus == 4


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(st.floats(), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(0, 5))
def test_a_restart_changes_no_grant(cycles, at):
    """The state taken through JSON or pickled at any moment leads to the same grants as the state kept in memory."""
    scaler, shared = BatchVerticalScaler(), pairs(2)
    kept = restored = scaler.initial_state()
    for i, cycle in enumerate(cycles):
        if i == at:
            restored = BatchVerticalState.from_dict(json.loads(json.dumps(restored.to_dict(), allow_nan=False)))
            restored = pickle.loads(pickle.dumps(restored))
        first, kept = scaler.decide(kept, shared, None, cycle)
        second, restored = scaler.decide(restored, shared, None, cycle)
        assert pickle.dumps(first) == pickle.dumps(second)
        assert kept.to_dict() == restored.to_dict()


def test_state_and_grants_are_values():
    """No call changes what an earlier one returned, and nobody else can."""
    scaler, shared = BatchVerticalScaler(), pairs(2)
    grants, state = scaler.decide(scaler.initial_state(), shared, None, [10.0] * 4)
    before = state.to_dict()
    scaler.decide(state, shared, None, [50.0] * 4)
    assert state.to_dict() == before
    for column in (*vars(grants).values(), *vars(state).values()):
        with pytest.raises(ValueError, match="read-only"):
            column[:] = 0


def test_one_compiled_form_serves_all_callers():
    """Lists, read-only, strided and single-precision columns are brought to the form the kernel is compiled for."""
    scaler, shared = BatchVerticalScaler(), pairs(2)
    state = scaler.initial_state()
    kinds = ["slo", "best-effort"]
    strided = SharedGpus(
        np.zeros(4)[::2], np.array(kinds), np.array([1, 2]), [3, 4.0], weight=[1, 2], solo_cycle_ms=[1, 2]
    )
    for demand in ([1.0] * 4, np.ones(8)[::2], np.ones(4, np.float32), np.broadcast_to(1.0, 4), None):
        _, after = scaler.decide(state, shared, demand, demand)
    scaler.decide(after, strided, np.ones(2), None)
    assert len(getattr(vertical_period, "signatures", [1])) == 1  # none where kernels are interpreted


def test_the_mean_headroom_of_a_function_is_its_spare_share():
    """Over periods and rows; -1 is nobody's, and without rows or periods it is not known."""
    scaler, shared = BatchVerticalScaler(), pairs(2)
    state, periods = scaler.initial_state(), []
    for demand in (300.0, np.nan):
        grants, state = scaler.decide(state, shared, [demand, 0.0, 0.0, 0.0], None)
        periods.append(grants)
    assert periods[0].headroom.tolist() == [300, 0, 300, 0]
    assert spare_by_function(periods, [0, -1, 2, -1]) == pytest.approx([300.0, np.nan, 300.0], nan_ok=True)
    assert spare_by_function(periods, [0, 0, -1, -1]).tolist() == [150.0]
    assert np.isnan(spare_by_function([], [0, 1])).all()


GOOD = BatchVerticalState().to_dict()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SharedGpus([0.5], ["slo"], [1], [1]), r"gpu\[0\]"),
        (lambda: SharedGpus([0], ["slow"], [1], [1]), r"kind\[0\] is 'slow'"),
        (lambda: SharedGpus([0], [3], [1], [1]), r"kind\[0\]"),
        (lambda: SharedGpus([0], "slo", [1], [1]), "kind"),
        (lambda: SharedGpus([0], ["slo"], [0], [1]), r"request_milli\[0\]"),
        (lambda: SharedGpus([0], ["slo"], [1], [1, 2]), "limit_milli has 2 elements; expected 1"),
        (lambda: SharedGpus([0], ["slo"], [5], [4]), r"limit_milli\[0\] is 4"),
        (lambda: SharedGpus([0], ["slo"], [5], [5], weight=[0]), r"weight\[0\]"),
        (lambda: SharedGpus([0], ["slo"], [5], [5], solo_cycle_ms=[0.0]), r"solo_cycle_ms\[0\]"),
        (lambda: SharedGpus([0, 0], ["slo"] * 2, [5, 5], [5, 5], ids=[3, 3]), "ids are not distinct"),
        (lambda: SharedGpus([3], ["slo"], [5], [5], gpus=3), "gpus"),
        (lambda: SharedGpus(np.zeros(2**20 + 1), [], [], []), "at most 1048576 instances"),
        (lambda: BatchVerticalScaler(anything(3)), "params"),
        (lambda: BatchVerticalScaler().decide(anything(None), pairs(1)), "state is None.*from_dict"),
        (lambda: BatchVerticalScaler().decide(BatchVerticalState(), anything([])), "shared"),
        (lambda: BatchVerticalScaler().decide(BatchVerticalState(), pairs(1), [1.0]), "demand_milli has 1 elements"),
        (lambda: BatchVerticalScaler().decide(BatchVerticalState(), pairs(1), None, ["x", "y"]), "cycle_ms"),
        (lambda: spare_by_function([anything(1)], [0]), r"periods\[0\]"),
        (lambda: spare_by_function([], [-2]), r"function_of\[0\]"),
        (lambda: BatchVerticalState.from_dict({"version": 2}), "data.version"),
        (lambda: BatchVerticalState.from_dict({**GOOD, "cap_milli": 3}), "cap_milli"),
        (
            lambda: BatchVerticalState.from_dict({**GOOD, "cap_milli": [1001.0], "period": [0], "owed_milli": [0]}),
            "1000",
        ),
        (lambda: BatchVerticalState.from_dict({**GOOD, "cap_milli": [10.0]}), "period.* has 0 elements"),
        (lambda: BatchVerticalState.from_dict({**GOOD, "ids": [1]}), "gpu.* has 0 elements"),
        (
            lambda: BatchVerticalState.from_dict({**GOOD, "ids": [1, 1], "gpu": [0, 0], "baselines_ms": [None, 2.0]}),
            "not distinct",
        ),
        (lambda: BatchVerticalState.from_dict({**GOOD, "baselines_ms": [-1.0]}), "baselines_ms"),
    ],
)
def test_misuse_is_refused_by_name(make, named):
    """Whatever the host itself must know is checked at the door, by argument and element."""
    with pytest.raises(InvalidArgumentError, match=named):
        make()


def test_a_wrong_number_of_rows_for_the_spare_share_is_refused():
    """Columns of other instances than those decided."""
    scaler = BatchVerticalScaler()
    grants, _ = scaler.decide(scaler.initial_state(), pairs(1))
    with pytest.raises(InvalidArgumentError, match="function_of has 1 elements"):
        spare_by_function([grants], [0])
