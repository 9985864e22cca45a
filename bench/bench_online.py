"""One event at a time: our `ClusterState` beside a plain-Python best fit, on the recorded logs."""

from __future__ import annotations

from typing import Any

import pytest
from placement_data import LOG_CLUSTER, Event, PlainBestFit, data_dir, read_events

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.online import ClusterState


def events(size: int, most: int) -> list[Event]:
    """The first events of a log, or a skip that says why."""
    folder = data_dir()
    if folder is None:
        pytest.skip("no measured data: neither DILU_DATA nor ../shared/data beside the checkout is a folder")
    return read_events(folder, size)[:most]


def replay_ours(log: list[Event]) -> int:
    """Peak GPUs."""
    state, peak = ClusterState(LOG_CLUSTER), 0
    for event in log:
        if isinstance(event, Instance):
            state.place(event)
        else:
            state.remove(event)
        peak = max(peak, state.gpus_used)
    return peak


def replay_plain(log: list[Event]) -> int:
    """Peak GPUs."""
    state, peak = PlainBestFit(1000, 4), 0
    for event in log:
        if isinstance(event, Instance):
            state.start(event)
        else:
            state.remove(event)
        peak = max(peak, state.gpus_used)
    return peak


@pytest.mark.parametrize("size", [400, 3200])
@pytest.mark.parametrize("replay", [replay_ours, replay_plain])
def test_replay(benchmark: Any, replay: Any, size: int) -> None:
    """A log's first 600 events."""
    log = events(size, 600)
    benchmark.group = f"online events, log {size}"
    if replay is replay_ours:
        replay(log)
    peak = benchmark.pedantic(replay, (log,), rounds=3)
    benchmark.extra_info.update(events=len(log), peak_gpus=peak)
