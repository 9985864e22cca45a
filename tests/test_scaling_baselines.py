"""The peers' rules in bench/ against cases worked out by hand from their documentation, or of their own tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation
from tests.bench_modules import bench_module

ONE = HorizontalParams(10.0, 300, 600, base_latency_ms=100.0, min_instances=0)
"""One instance serves 10 rps, or holds one request: the targets are 7 rps and 0.7 requests."""


def _module() -> Any:
    """The module in bench/, which is no package."""
    return bench_module("scaling_baselines")


peers = _module()


KPA_TESTS = "https://github.com/knative/serving/blob/main/pkg/autoscaler/scaling/autoscaler_test.go"
KPA_SAMPLE = "https://knative.dev/docs/serving/autoscaling/autoscale-go/"
KPA_RATES = "https://knative.dev/docs/serving/autoscaling/kpa-specific/"


@pytest.mark.parametrize(
    ("stable", "panic", "target", "ready", "expected", "source"),
    [
        (50, 50, 10, 5, 5, KPA_SAMPLE),  # 50 in flight, 10 each
        (50, 10, 10, 1, 5, KPA_TESTS),  # TestAutoscalerStableModeIncreaseWithConcurrencyDefault
        (100, 10, 10, 1, 10, KPA_TESTS),
        (50, 100, 10, 1, 10, KPA_TESTS),  # TestAutoscalerScale: panic takes precedence
        (1, 0, 10, 1, 1, KPA_TESTS),  # TestAutoscalerStableModeNoTrafficScaleToZero
        (0, 0, 10, 1, 0, KPA_TESTS),
        (50, 50, 10, 8, 5, KPA_TESTS),  # TestAutoscalerStableModeDecrease
        (21, 26, 181, 1, 1, KPA_TESTS),
        (1, 1, 10, 100, 50, KPA_RATES),  # a scale-down rate of 2: from N to N/2 at most
        (1, 1, 10, 3, 1, KPA_RATES),  # by one is always permitted: floor(3 / 2)
        (0, 0, 10, 0, 0, KPA_RATES),
        (1e6, 1e6, 1, 2, 2000, KPA_RATES),  # a scale-up rate of 1000
    ],
)
def test_kpa_ticks(stable: float, panic: float, target: float, ready: int, expected: int, source: str) -> None:
    """One tick from stable mode, with the default rates."""
    assert peers.kpa_desired(stable, panic, target, ready, 0.0)[0] == expected, source


@pytest.mark.parametrize(
    ("stable", "panic", "target", "ready", "up", "down", "expected"),
    [
        (3, 3.1, 1, 2, 1.1, 10, 3),  # ceil(1.1 * 2)
        (1, 1, 10, 100, 10, 1.1, 90),  # floor(100 / 1.1)
        (1000, 1001, 10, 1, 10, 10, 10),
        (1000, 1001, 10, 10, 10, 10, 100),
        (1, 1, 10, 100, 10, 10, 10),
        (1000, 888, 10, 0, 10, 10, 10),  # no ready pod counts as one
    ],
)
def test_kpa_rates(
    stable: float, panic: float, target: float, ready: int, up: float, down: float, expected: int
) -> None:
    """Rate limits, as in Knative's TestAutoscalerScale, ...RateLimitScaleUp and ...RateLimitScaleDown."""
    rates = {"scale_up_rate": up, "scale_down_rate": down}
    assert peers.kpa_desired(stable, panic, target, ready, 0.0, **rates)[0] == expected, KPA_TESTS


@pytest.mark.parametrize(
    ("target", "ticks"),
    [
        # TestAutoscalerUnpanicAfterSlowIncrease: (time, stable, panic, ready, expected)
        (1, [(0, 11, 25, 10, 25), (30, 30, 41, 40, 41), (62, 50, 56, 55, 50)]),
        # TestAutoscalerExtendPanicWindow, and what follows from it: at 62 s the panic of 30 s still holds
        (1, [(0, 11, 25, 10, 25), (30, 30, 80, 40, 80), (62, 30, 30, 80, 80), (92, 45, 30, 80, 45)]),
        # TestAutoscalerPanicThenUnPanicScaleDown; floor(10 / 2) with the default rate
        (10, [(0, 100, 100, 1, 10), (1, 100, 1000, 10, 100), (31, 1, 1, 10, 100), (62, 1, 1, 10, 5)]),
        # TestAutoscalerPanicModeExponentialTrackAndStabilize
        (1, [(0, 6, 6, 1, 6), (1, 36, 36, 6, 36), (2, 216, 216, 36, 216), (3, 1296, 1296, 216, 1296)]),
        # TestAutoscalerScale, PanicStableLargerThanPanic: the greater of the two windows counts
        (1, [(0, 5, 10, 5, 10), (5, 50, 30, 16, 50)]),
    ],
)
def test_kpa_panics_and_calms_down(target: float, ticks: list[tuple[float, float, float, int, int]]) -> None:
    """Panic begins at twice what is ready, never scales down, and ends 60 s after the last tick that was over it."""
    mode = peers.STABLE
    for now, stable, panic, ready, expected in ticks:
        desired, mode = peers.kpa_desired(stable, panic, target, ready, float(now), mode)
        assert desired == expected, (now, KPA_TESTS)


def test_kpa_starts_in_panic_where_several_pods_run() -> None:
    """TestStartInPanicMode: a restart keeps two pods, for the stable window, and not a single one."""
    assert _counts(peers.KnativeRps(ONE), 58, ready=2)[-1] == 2
    assert _counts(peers.KnativeRps(ONE), 64, ready=2)[-1] == 1
    assert _counts(peers.KnativeRps(ONE), 2, ready=1)[-1] == 0


def test_kpa_windows_are_sixty_and_six_seconds_every_other_second() -> None:
    """A load of 14 rps after 60 s of 7: the panic mean is 14 after 6 s, the stable mean only after 60."""
    policy = peers.KnativeRps(ONE)
    state, counts = policy.initial_state(), []
    for second in range(130):
        rate = 7.0 if second < 60 else 14.0
        decision, state = policy.decide(state, Observation(float(second), rate, 1, 0))
        counts.append(decision.instances)
    assert counts[59] == 1
    # at 61 s the stable mean is above 7 for the first time, and the panic mean (7 * 5 + 14) / 6 is so as well
    assert counts[60:64] == [1, 2, 1, 2]  # between ticks it leaves the one instance that is there
    assert counts[129] == 2


RAY_CODE = "https://github.com/ray-project/ray/blob/master/python/ray/serve/autoscaling_policy.py"
RAY_GUIDE = "https://docs.ray.io/en/latest/serve/advanced-guides/advanced-autoscaling.html"


@pytest.mark.parametrize(
    ("ongoing", "running", "target", "factors", "expected", "source"),
    [
        (3, 2, 1, {}, 3, RAY_GUIDE),  # 30 QPS of 100 ms: at 3 replicas one ongoing request each
        (10, 1, 2, {}, 5, RAY_CODE),
        (9, 1, 2, {}, 5, RAY_CODE),  # ceil(4.5)
        (0, 4, 2, {}, 0, RAY_CODE),
        (20, 2, 2, {"upscaling_factor": 0.5}, 6, RAY_CODE),  # 2 + 0.5 * (10 - 2)
        (2, 5, 2, {"downscaling_factor": 0.5}, 3, RAY_CODE),  # 5 + 0.5 * (1 - 5)
        (2, 2, 2, {"downscaling_factor": 0.1}, 1, RAY_CODE),  # ceil(1.9) would be stuck at 2: one less
        (2.1, 10, 0.3, {}, 7, RAY_CODE),  # 2.1 / 0.3 is 7.000000000000001 in floating point
    ],
)
def test_ray_replicas(
    ongoing: float, running: int, target: float, factors: dict[str, float], expected: int, source: str
) -> None:
    """Ongoing requests over the target per replica, moved by the factors."""
    assert peers.ray_desired(ongoing, running, target, **factors) == expected, source


def _counts(
    policy: Any, seconds: int, *, ready: int, starting: int = 0, arrivals_rps: float = 0.0, in_flight: float = 0.0
) -> list[int]:
    """What a policy asks for at every second of a constant observation."""
    state, counts = policy.initial_state(), []
    for second in range(seconds):
        observation = Observation(float(second), arrivals_rps, ready, starting, in_flight=in_flight)
        decision, state = policy.decide(state, observation)
        counts.append(decision.instances)
    return counts


def test_ray_waits_thirty_seconds_up_and_six_hundred_down() -> None:
    """Reports come every 10 s, the first at second 10; from then on the delay must pass without a break."""
    up = _counts(peers.RayServe(ONE), 60, ready=1, in_flight=2.1)
    assert up[:39] == [1] * 39
    assert up[39] == 3  # second 40: 10 + 30
    down = _counts(peers.RayServe(ONE), 640, ready=4, in_flight=0.7)
    assert set(down[:609]) == {4}
    assert down[609] == 1  # second 610: 10 + 600


def test_ray_goes_to_zero_only_from_one_and_comes_back_at_once() -> None:
    """Without requests first to 1, then to 0; from 0 the first request brings one replica without a delay."""
    assert _counts(peers.RayServe(ONE), 640, ready=4)[609] == 1
    assert _counts(peers.RayServe(ONE), 640, ready=1)[609] == 0
    assert _counts(peers.RayServe(ONE), 1, ready=0, in_flight=1.0) == [1]
    assert _counts(peers.RayServe(ONE), 700, ready=0)[-1] == 0


def test_ray_starts_the_delay_anew_after_a_break() -> None:
    """A report that asks for no change in between costs the whole delay again."""
    policy = peers.RayServe(ONE)
    state, changed = policy.initial_state(), []
    for second in range(1, 130):
        calm = 10 < second <= 40
        observation = Observation(float(second), 0.0, 1, 0, in_flight=0.5 if calm else 5.0)
        decision, state = policy.decide(state, observation)
        if decision.change:
            changed.append(second)
    # over at 10 s; a mean over 30 s of calm, at 40 s, asks for one; at 50 s it is over again: 50 + 30
    assert changed[0] == 80


def test_ray_with_its_default_target_of_two() -> None:
    """DEFAULT_TARGET_ONGOING_REQUESTS: 2 since Ray 2.32."""
    assert _counts(peers.RayServeTarget2(ONE), 60, ready=1, in_flight=5.0)[39] == 3


HPA_GUIDE = "https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/"
HPA_TESTS = (
    "https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/podautoscaler/replica_calculator_test.go"
)


@pytest.mark.parametrize(
    ("total", "pods", "target", "expected", "source"),
    [
        (8600, 3, 2150, 4, HPA_TESTS),  # TestReplicaCalcScaleUpPerPodCMExternal
        (8600, 5, 2867, 3, HPA_TESTS),  # TestReplicaCalcScaleDownPerPodCMExternal
        (20000, 3, 5000, 4, HPA_TESTS),  # TestReplicaCalcScaleUpCMPerPodObject
        (6000, 5, 2000, 3, HPA_TESTS),  # TestReplicaCalcScaleDownPerPodCMObject
        (200, 1, 100, 2, HPA_GUIDE),  # twice the target doubles
        (50, 1, 100, 1, HPA_GUIDE),
        (109, 10, 10, 10, HPA_GUIDE),  # within the tolerance of 0.1
        (112, 10, 10, 12, HPA_GUIDE),
        (91, 10, 10, 10, HPA_GUIDE),
        (88, 10, 10, 9, HPA_GUIDE),
    ],
)
def test_hpa_average_values(total: float, pods: int, target: float, expected: int, source: str) -> None:
    """A metric of the whole service, divided by the pods there are, starting ones included."""
    assert peers.hpa_average_value(total, pods, target) == expected, source


@pytest.mark.parametrize(
    ("values", "target", "missing", "unready", "expected"),
    [
        ([20, 10, 30], 15, 0, 0, 4),  # TestReplicaCalcScaleUpCM
        ([12] * 5, 20, 0, 0, 3),  # TestReplicaCalcScaleDownCM
        ([500, 700], 300, 0, 1, 4),  # TestReplicaCalcScaleUpUnreadyLessScale: idle, 1200 / 900 of 3
        ([400], 300, 0, 2, 3),  # TestReplicaCalcScaleUpUnreadyNoScale: 400 / 900 turns it round
        ([100, 300, 500], 500, 0, 2, 2),  # TestReplicaCalcScaleDownIncludeUnreadyPods: 0.6 of 3
        ([100], 500, 0, 4, 1),  # TestReplicaCalcScaleDownExcludeUnscheduledPods
        ([100, 100], 200, 2, 0, 3),  # on target: (200 + 400) / 800 of 4 (guide)
        ([190], 100, 1, 0, 2),  # idle: 190 / 200, within the tolerance (guide)
        ([100], 100, 1, 0, 2),  # neither more nor fewer: as it is
        ([], 100, 2, 0, 2),  # no metric at all: an error, and nothing changes (guide)
    ],
)
def test_hpa_pods_that_do_not_report(
    values: list[float], target: float, missing: int, unready: int, expected: int
) -> None:
    """Missing metrics and pods that are not ready dampen a change, and never turn it round."""
    found = peers.hpa_pods_metric(values, target, missing=missing, unready=unready)
    assert found == expected, (HPA_TESTS, HPA_GUIDE)


@pytest.mark.parametrize(
    ("wanted", "pods", "recent", "expected"),
    [
        (20, 3, (), 7),  # 4 pods are more than 100 % of 3
        (20, 6, (), 12),  # 100 % of 6 are more than 4
        (8, 6, (), 8),
        (2, 6, (6, 4, 2), 6),  # the highest of the last 5 minutes
        (2, 6, (4, 3, 2), 4),
        (2, 6, (2,), 2),  # down by as much as wanted
        (5, 6, (20, 5), 12),  # and that may even be more than there are
    ],
)
def test_hpa_default_behavior(wanted: int, pods: int, recent: tuple[int, ...], expected: int) -> None:
    """Up by 4 pods or 100 % in 15 s without stabilisation, down to the highest of 300 s."""
    assert peers.hpa_normalised(wanted, pods, recent) == expected, HPA_GUIDE + "#default-behavior"


def test_hpa_looks_every_fifteen_seconds_and_scales_in_after_five_minutes() -> None:
    """A fleet that follows: 70 rps need 10 pods; when they end, the last of the 20 recommendations must pass."""
    policy = peers.KubernetesHpa(ONE)
    state, pods, history = policy.initial_state(), 1, []
    for second in range(1, 700):
        rate = 70.0 if second <= 120 else 0.0
        decision, state = policy.decide(state, Observation(float(second), rate, pods, 0))
        pods = decision.instances
        history.append(pods)
    changes = [second for second in range(2, 700) if history[second - 1] != history[second - 2]]
    assert all(second % 15 == 0 for second in changes)
    # 30 s means, 15 s late: at 135 s that of seconds 91 to 120 still needs 10, at 150 s half the load needs 5
    assert changes[2:] == [135 + 300, 150 + 300]
    assert [history[second - 1] for second in changes] == [5, 10, 5, 1]  # 1 + 4, then 10; never below one


def test_hpa_of_pods_counts_starting_ones() -> None:
    """Two ready at their capacity of 10 rps and two that start: (20 + 0) / (7 * 4) turns the direction round: wait."""
    policy = peers.KubernetesHpaPods(ONE)
    assert _counts(policy, 15, ready=2, starting=2, arrivals_rps=90.0)[-1] == 4
    assert _counts(policy, 15, ready=2, arrivals_rps=90.0)[-1] == 3  # ceil(10 / 7 * 2)


KEDA_SPEC = "https://keda.sh/docs/latest/reference/scaledobject-spec/"


def test_keda_polls_every_thirty_seconds_and_cools_down_for_three_hundred() -> None:
    """From zero at the next poll, to one; to zero more than 300 s after the last poll with load."""
    woken = _counts(peers.Keda(ONE), 60, ready=0, arrivals_rps=5.0)
    assert (woken[:29], woken[29]) == ([0] * 29, 1), KEDA_SPEC
    policy = peers.Keda(ONE)
    state, last = policy.initial_state(), 0
    for second in range(1, 600):
        rate = 5.0 if second <= 60 else 0.0
        decision, state = policy.decide(state, Observation(float(second), rate, 1, 0))
        if decision.instances == 0:
            last = second
            break
    # polled with load for the last time at 90 s (the mean is 15 s late); 300 s later is not yet "after"
    assert last == 90 + 330, KEDA_SPEC


@pytest.mark.parametrize("name", [*peers.BASELINES, *peers.EXTRA_BASELINES])
def test_every_peer_finds_a_fleet_for_a_constant_load_and_keeps_it(name: str) -> None:
    """28 rps at 7 rps each: four instances, or what the rule keeps (more where it is told to); no change once there."""
    make: Callable[[HorizontalParams], Any] = {**peers.BASELINES, **peers.EXTRA_BASELINES}[name]
    policy = make(ONE)
    state, pods, counts = policy.initial_state(), 2, []
    for second in range(1500):
        decision, state = policy.decide(state, Observation(float(second), 28.0, pods, 0, in_flight=2.8))
        pods = decision.instances
        counts.append(pods)
    expected = {"fixed peak": ONE.max_instances, "Ray Serve (target 2)": 2}.get(name, 4)
    assert set(counts[-300:]) == {expected}
