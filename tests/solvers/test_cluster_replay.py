"""A cluster replay keeps the books: by hand on one GPU for every system, and against plain loops on random ones."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType
from dilu_core.correlation import LoadCorrelation
from dilu_core.errors import InvalidArgumentError
from dilu_core.performance import RooflineModel
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.quota import QuotaGrid
from dilu_core.slots import Slot
from dilu_core.solvers.cluster_fleet import Fleet
from dilu_core.solvers.cluster_measures import late_requests
from dilu_core.solvers.cluster_pools import Pools
from dilu_core.solvers.cluster_quotas import most_efficient, one_per_batch
from dilu_core.solvers.cluster_replay import replay_cluster
from dilu_core.solvers.cluster_systems import (
    CLUSTER_SYSTEMS,
    DILU,
    EXCLUSIVE,
    FAST_GSHARE,
    INFLESS,
    MPS_LIMIT,
    MPS_REQUEST,
    OURS,
    Replan,
)
from dilu_core.solvers.cluster_waiting import WaitingLine
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.traces import ArrivalTrace

SHARES = tuple(range(100, 1001, 100))
LINEAR = RooflineModel(0.0, 0.0, 0.0, 1.0)  # serves one request per second and milli-GPU, at any batch
GPU = GpuType("A", 1000)
MOVING = replace(OURS, name="moving", replan=Replan(every_s=10.0))
SYSTEMS = (*CLUSTER_SYSTEMS, MOVING)
BY_NAME = pytest.mark.parametrize("system", SYSTEMS, ids=[each.name for each in SYSTEMS])


def serving(name="f", rates=(150.0,) * 30, **changes):
    """Batches of 1, 2 and 4 on tenths of a GPU; 50 ms to execute."""
    given = {"kind": "inference", "model": LINEAR, "memory_mib": 100, "slo_ms": 100.0, **changes}
    return ClusterFunction(name=name, grid=QuotaGrid((1, 2, 4), SHARES), trace=ArrivalTrace(rates), **given)


def training(name="t", **changes):
    """A step of 8 samples; 70 % of full speed at 700, 98 % at 1000."""
    given = {"model": LINEAR, "memory_mib": 100, "leaves_s": 30.0, **changes}
    return ClusterFunction(name=name, kind="training", grid=QuotaGrid((8,), SHARES), **given)


def one_gpu(gpus=1, nodes=1):
    return Cluster.homogeneous(nodes, gpus, GPU)


def verified(cluster, system):
    """An observer that checks every placement with the independent checker."""

    def check(moment):
        problem = PlacementProblem(cluster, moment.instances, system.oversubscription)
        assert verify_placement(problem, moment.placement, require_all=True) == ()

    return check


@pytest.mark.parametrize(
    ("system", "booked", "late"),
    [
        (EXCLUSIVE, 1000, 0.5),  # the whole GPU for one, and no place for the other
        (MPS_LIMIT, 400, 0.0),  # one instance each, at the limit of 200, twice the request
        (MPS_REQUEST, 400, 0.0),  # two each at 100
        (FAST_GSHARE, 400, 0.0),
        (INFLESS, 400, 0.0),
        (DILU, 400, 0.0),
        (OURS, 400, 0.0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_two_constant_loads_on_one_gpu(system, booked, late):
    """150 requests per second each take two instances of 100, or one of 200, or one GPU that the other then lacks."""
    result = replay_cluster([serving("f"), serving("g")], one_gpu(), system, observer=verified(one_gpu(), system))
    assert result.gpu_seconds == pytest.approx(30.0)
    assert result.request_free == pytest.approx(1.0 - booked / 1000.0)
    assert result.idle == pytest.approx(0.85 if system is EXCLUSIVE else 0.70)
    assert result.violation_rate == pytest.approx(late)
    assert result.requests == pytest.approx(9000.0)
    assert result.goodput_per_gpu_hour == pytest.approx(9000.0 * (1.0 - late) * 120.0)
    assert result.memory_free == pytest.approx({EXCLUSIVE: 0.9, MPS_LIMIT: 0.8}.get(system, 0.6))


@pytest.mark.parametrize(
    ("system", "absorbs"),
    [(EXCLUSIVE, True), (MPS_LIMIT, True), (MPS_REQUEST, False), (FAST_GSHARE, False), (INFLESS, False), (DILU, True),
     (OURS, True)],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_a_surge_is_absorbed_by_share_or_waits_for_a_cold_start(system, absorbs):
    """From 70 to 140 requests per second: shares that burst or are ample serve it, static requests wait for a start.

    Then 40 more wait in each of the 11 s until the second instance is ready, which clears 60 per second: late are those
    that come from about 10.1 s to 28.1 s.
    """
    surge = serving(rates=[70.0] * 10 + [140.0] * 50)
    result = replay_cluster([surge], one_gpu(), system)
    assert result.violation_rate == pytest.approx(0.0 if absorbs else 18.0 * 140.0 / 7700.0, abs=0.01)
    assert (result.cold_starts == 0) == (absorbs and system is not DILU)


def test_training_beside_inference_takes_what_is_left():
    """At 80 requests per second a training job of 700..1000 gets 920 where shares are lent, 700 where they are not."""
    loads = [serving(rates=[80.0] * 30), training()]
    speed = {each.name: replay_cluster(loads, one_gpu(), each).training_speed for each in CLUSTER_SYSTEMS}
    assert speed[EXCLUSIVE.name] == pytest.approx(0.0)  # no GPU is left for it
    assert speed[MPS_LIMIT.name] == pytest.approx(0.0)  # nor for a worker that books it whole
    for static in (MPS_REQUEST, FAST_GSHARE, INFLESS):
        assert speed[static.name] == pytest.approx(0.7)
    assert speed[DILU.name] == pytest.approx(0.92)
    assert speed[OURS.name] == pytest.approx(0.92)
    alone = replay_cluster(loads, one_gpu(gpus=2), EXCLUSIVE)
    assert alone.training_speed == pytest.approx(1.0)
    assert alone.training_per_gpu == pytest.approx(0.5)


def test_a_gang_goes_at_the_pace_of_its_slowest_worker():
    """Two workers, one beside inference that uses 200: both train at 800, though one could have the whole GPU."""
    loads = [serving(rates=[200.0] * 30), training(gpus=2)]
    result = replay_cluster(loads, one_gpu(gpus=2), DILU)
    assert result.gpus_peak == 2
    assert result.training_speed == pytest.approx(0.8)


@BY_NAME
def test_an_empty_workload_uses_nothing(system):
    """No function, no GPU, and no ratio pretends to be a number."""
    result = replay_cluster([], one_gpu(), system, duration_s=5.0)
    assert (result.gpu_seconds, result.gpus_peak, result.request_free, result.idle) == (0.0, 0, 0.0, 0.0)
    assert math.isnan(result.violation_rate)
    assert math.isnan(result.mean_violation_rate)
    assert math.isnan(result.training_speed)
    assert result.goodput_per_gpu_hour == result.training_per_gpu == 0.0
    assert result.timeline.gpus.tolist() == [0] * 5


@BY_NAME
def test_a_function_larger_than_the_cluster_waits_in_vain(system):
    """It is refused in every period, its requests are late, and the others do not suffer."""
    loads = [serving("huge", memory_mib=5000), serving("fits"), training("wide", gpus=3)]
    result = replay_cluster(loads, one_gpu(gpus=2), system, observer=verified(one_gpu(gpus=2), system))
    huge, fits, wide = result.functions
    assert huge.violation_rate == 1.0
    assert huge.refused >= 30
    assert fits.late == 0.0
    assert wide.trained_s == 0.0
    assert result.waiting_s >= 60.0


@BY_NAME
def test_a_load_beyond_any_cluster_fills_it_and_the_rest_is_refused(system):
    """10^15 requests per second on four GPUs, for a while: no more wait than the requests of empty GPUs could hold."""
    loads = [serving("huge", rates=[1e15] * 3 + [10.0] * 30), serving("small", arrives_s=2.0)]
    result = replay_cluster(loads, one_gpu(gpus=4), system, observer=verified(one_gpu(gpus=4), system))
    assert result.gpus_peak == 4
    assert result.functions[0].refused > 1e10
    assert result.functions[0].violation_rate > 0.99
    assert 1 <= result.timeline.waiting.max() <= 80  # two functions of at least 100 on 4 GPUs of 1000


@BY_NAME
def test_an_objective_that_no_share_keeps_leaves_the_function_without_a_quota(system):
    """1 ms of execution needs half of a millisecond's budget at most: it is reported, and all is late."""
    result = replay_cluster([serving(slo_ms=1.0)], one_gpu(), system)
    assert result.unconfigured == ("f",)
    assert result.violation_rate == 1.0
    assert result.gpu_seconds == 0.0


@BY_NAME
def test_all_arrive_at_once_and_leave_again(system):
    """What finds no place waits until others leave; at the end nothing is left on the cluster."""
    loads = [serving(f"f{i}", memory_mib=400, leaves_s=10.0 + i, rates=[80.0] * 40) for i in range(9)]
    cluster, waiting = one_gpu(gpus=2), []

    def watch(moment):
        verified(cluster, system)(moment)
        waiting.append(moment.waiting)

    result = replay_cluster(loads, cluster, system, duration_s=40.0, observer=watch)
    assert waiting[0] >= 5  # 400 of 1000 MiB: two a GPU, one where it is exclusive
    assert waiting[-1] == 0
    assert result.timeline.gpus[-1] == result.timeline.instances[-1] == 0
    assert result.gpus_peak == 2
    assert sum(each.cold_starts for each in result.functions) >= 3
    expected = [80.0 * (10 + i) for i in range(9)]
    assert [each.requests for each in result.functions] == pytest.approx(expected)


@BY_NAME
def test_the_same_replay_twice_is_the_same(system):
    """No clock, no chance: all figures and columns agree bit for bit."""
    wave = 150.0 + 140.0 * np.sin(np.arange(60) / 7.0)
    loads = [serving(f"f{i}", rates=np.roll(wave, 9 * i), arrives_s=3.0 * i) for i in range(4)] + [training(gpus=2)]
    cluster = one_gpu(gpus=2, nodes=2)
    first, second = (replay_cluster(loads, cluster, system, observer=verified(cluster, system)) for _ in range(2))
    for name, column in vars(first.timeline).items():
        np.testing.assert_array_equal(column, getattr(second.timeline, name))
    assert first.functions == second.functions
    assert replace(first, timeline=second.timeline, stats=second.stats, termination=second.termination).gpu_seconds == (
        second.gpu_seconds
    )


@pytest.mark.parametrize(("system", "left"), [(OURS, 1), (DILU, 2)], ids=["least useful", "newest"])
def test_scale_in_empties_a_gpu_where_the_system_cares(system, left):
    """Of an older instance alone on its GPU and a younger one beside another function, the system says which goes."""
    functions = (serving("mine", memory_mib=600), serving("leaves", memory_mib=400), serving("stays", memory_mib=300))
    fleet = Fleet(one_gpu(gpus=2), functions, [most_efficient(each) for each in functions], system)
    for f in (0, 1, 2, 0):
        assert fleet.launch(f, 0, 0)
    fleet.dissolve(1)
    assert fleet.bookings.gpus_used == 2
    fleet.give_up(0, 0, 1, step=10)
    assert fleet.bookings.gpus_used == left
    assert fleet.planned == [[1], [0], [1]]


def test_functions_whose_load_rises_together_are_kept_apart():
    """Told so, placement takes the GPU without the one that bursts with it, though best fit would take the other."""
    together = [serving(name) for name in ("a", "b")]
    fillers = [serving("c", memory_mib=600), serving("d", memory_mib=550)]
    functions = (*together, *fillers)
    rising = {"a": ArrivalTrace([1.0, 9.0] * 50), "b": ArrivalTrace([1.0, 9.0] * 50)}
    shared = []
    for told in (False, True):
        fleet = Fleet(one_gpu(gpus=2), functions, [most_efficient(each) for each in functions], OURS)
        if told:
            fleet.keep_apart(LoadCorrelation.of(rising))
        for f in (2, 3, 0, 1):
            assert fleet.launch(f, 0, 0)
        (a,), (b,) = (fleet.of(f).values() for f in (0, 1))
        shared.append(a.booking.gpus == b.booking.gpus)
    assert shared == [True, False]


def lonely():
    """On two GPUs: `stays` on the first; on the second `goes`, whose neighbour `leaves` after 5 s."""
    names = {"stays": 600, "leaves": 700, "goes": 300}
    return [
        serving(name, rates=[50.0] * 30, memory_mib=mib, leaves_s=5.0 if name == "leaves" else None)
        for name, mib in names.items()
    ]


@pytest.mark.parametrize(
    ("replan", "moves", "gpu_seconds"),
    [(None, 0, 60.0), (Replan(every_s=10.0), 1, 50.0), (Replan(every_s=10.0, most_moves=0), 0, 60.0),
     (Replan(every_s=10.0, horizon_s=0.9), 0, 60.0), (Replan(every_s=10.0, horizon_s=1.1), 1, 50.0)],
    ids=["never", "one move", "no budget", "not worth it", "worth it"],
)  # fmt: skip
def test_a_move_frees_a_gpu_once_the_copy_has_started(replan, moves, gpu_seconds):
    """Planned at 10 s, over at 20 s: a tenth of a GPU twice for 10 s is 1 GPU-second. Nobody notices."""
    cluster, system = one_gpu(gpus=2), replace(OURS, replan=replan)
    booked = []

    def watch(moment):
        verified(cluster, system)(moment)
        booked.append(sum(each.request_milli for each in moment.instances))

    result = replay_cluster(lonely(), cluster, system, observer=watch)
    assert (result.moves, result.gpu_seconds) == (moves, pytest.approx(gpu_seconds))
    assert booked == [300] * 5 + [200] * 5 + [200 + 100 * moves] * 10 + [200] * 10
    assert result.violation_rate == 0.0
    assert result.cold_starts == 0


def test_an_interrupt_ends_the_replay_and_not_only_the_plan(monkeypatch):
    """The planner answers Ctrl-C with what it has; a replay that went on would swallow it."""

    def interrupted(draft, deadline):
        raise KeyboardInterrupt

    monkeypatch.setattr("dilu_core.solvers.placement.replan.drain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replay_cluster(lonely(), one_gpu(gpus=2), MOVING)


def test_who_goes_takes_the_copy_along():
    """Given up or dissolved in the middle of a move, an instance leaves nothing on the cluster."""
    functions = (serving("a"), serving("b"))
    fleet = Fleet(one_gpu(gpus=2), functions, [most_efficient(each) for each in functions], MOVING)
    for f in (0, 1):
        assert fleet.launch(f, 0, 0)
        (name,) = fleet.of(f)
        assert fleet.start_move(name, [Slot("node-0", 1, 100)], ready_at=10)
    assert fleet.bookings.gpus_used == 2
    assert not fleet.start_move(next(iter(fleet.of(0))), [Slot("node-0", 1, 1000)], ready_at=10)
    fleet.give_up(0, 0, 1, step=5)
    fleet.dissolve(1)
    fleet.finish_moves(10)
    assert (fleet.bookings.gpus_used, len(fleet.moving), fleet.moves) == (0, 0, 0)


@settings(max_examples=40)
@given(st.data())
def test_requests_are_served_or_wait(data):
    """Whatever the fleet and the order of launches: arrivals = served + backlog, and the parts of a queue agree."""
    count = data.draw(st.integers(1, 3))
    functions = tuple(serving(f"f{i}") for i in range(count))
    system = data.draw(st.sampled_from(CLUSTER_SYSTEMS))
    menus = [one_per_batch(each) for each in functions]
    fleet = Fleet(one_gpu(gpus=2), functions, menus, system)
    pools = Pools(fleet, 0.1)
    came = left = np.zeros(count)
    for step in range(0, 40, 10):
        for f, configuration, ready in data.draw(
            st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, 2), st.integers(0, 20)), max_size=4)
        ):
            fleet.launch(f, configuration, step + ready)
        if data.draw(st.booleans()):
            f = data.draw(st.integers(0, count - 1))
            for configuration, planned in enumerate(fleet.planned[f]):
                fleet.give_up(f, configuration, data.draw(st.integers(0, planned)), step)
        arrivals = np.array(data.draw(st.lists(st.floats(0.0, 60.0), min_size=10 * count, max_size=10 * count)))
        arrivals = arrivals.reshape(count, 10)
        served, execution = pools.advance(step, arrivals)
        came, left = came + arrivals.sum(axis=1), left + served.sum(axis=1)
        np.testing.assert_allclose(left + pools.backlog, came, rtol=1e-9, atol=1e-6)
        assert (served >= 0.0).all()
        assert (execution[served > 0.0] > 0.0).all()
        assert sum(map(sum, fleet.planned)) == len(fleet.members) + len(fleet.waiting)


wanted = st.tuples(st.integers(0, 2), st.integers(0, 1))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("join"), wanted, st.integers(0, 3)),
            st.tuples(st.just("leave"), wanted, st.integers(0, 4)),
            st.tuples(st.just("forget"), wanted, st.just(0)),
            st.tuples(st.just("admit"), wanted, st.integers(0, 5)),
        ),
        max_size=20,
    )
)
def test_a_line_of_runs_is_the_line_of_its_members(operations):
    """Whatever joins, leaves and is let in: as in a plain list of instances, where `room` of all but one kind fit."""
    line, plain = WaitingLine(), []
    for operation, which, number in operations:
        if operation == "join":
            line.join(which, number)
            plain += [which] * number
        elif operation == "leave":
            gone = min(number, plain.count(which))
            assert line.leave(which, number) == gone
            for _ in range(gone):
                del plain[len(plain) - 1 - plain[::-1].index(which)]
        elif operation == "forget":
            line.forget(which[0])
            plain = [each for each in plain if each[0] != which[0]]
        else:
            placed = []

            def place(each, room=number, barred=which, placed=placed):
                fits = each != barred and len(placed) < room
                placed.extend([each] * fits)
                return fits

            line.admit(place)
            let_in = [each for each in plain if each != which][:number]
            assert placed == let_in
            for each in let_in:
                plain.remove(each)
        assert len(line) == len(plain)
    order = []
    assert line.admit(lambda each: order.append(each) is None) == set()
    assert order == plain
    assert len(line) == 0


def plainly_late(arrivals, served, execution, slo_ms, cut_off):
    """First in, first out, packet by packet: the middle of each is out when as many have been served."""
    step, late = 0.1, []
    for i, packet in enumerate(arrivals):
        target = sum(arrivals[:i]) + packet / 2.0
        total, latency = 0.0, math.inf
        for j, out in enumerate(served):
            if out > 0.0 and total + out >= target - 1e-9:
                leaves = j + (target - total) / out
                latency = max(0.0, (leaves - i - 0.5) * step) * 1000.0 + execution[max(j, i)]
                break
            total += out
        else:
            if served and served[-1] > 0.0 and not cut_off:
                wait = (len(served) + (target - total) / served[-1] - i - 0.5) * step
                latency = wait * 1000.0 + execution[-1]
        late.append(packet if packet > 0.0 and latency > slo_ms else 0.0)
    return late


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=14), st.booleans())
def test_late_requests_agree_with_a_walk_packet_by_packet(flow, cut_off):
    """Over any flow through a queue, and with a function that leaves while requests wait."""
    arrivals, served, waiting = [], [], 0
    for came, most in flow:
        waiting += came
        out = min(most, waiting)
        waiting -= out
        arrivals.append(float(came))
        served.append(float(out))
    execution = [20.0] * len(flow)
    slo_ms = 271.0  # no multiple of the parts of a step, so that rounding decides nothing
    found = late_requests(np.array(arrivals), np.array(served), np.array(execution), 0.1, slo_ms, cut_off=cut_off)
    assert found.tolist() == plainly_late(arrivals, served, execution, slo_ms, cut_off)


def test_ours_runs_in_the_configuration_of_the_exact_search():
    """Of equal efficacies the least share and the smaller batch, and four times the request as the limit."""
    (config,) = most_efficient(serving())
    assert (config.batch, config.request_milli, config.limit_milli) == (1, 100, 400)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("duration_s", 0.0),
        ("step_s", -1.0),
        ("control_s", 0.15),
        ("cluster", "c"),
        ("system", "s"),
        ("observer", 3),
        ("workload", [1]),
        ("workload", [serving(), serving()]),
    ],
)
def test_misuse_names_the_argument(argument, value):
    """Each argument that cannot be meant is refused by name."""
    arguments = {"workload": [serving()], "cluster": one_gpu(), "system": OURS, argument: value}
    with pytest.raises(InvalidArgumentError) as error:
        replay_cluster(**arguments)
    assert error.value.argument.startswith(argument)


def test_a_replay_without_an_end_says_so():
    """Training that never leaves, and nothing else: somebody must say how long."""
    with pytest.raises(InvalidArgumentError, match="duration_s"):
        replay_cluster([training(leaves_s=None)], one_gpu(), OURS)


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("name", {"name": ""}),
        ("kind", {"kind": "batch"}),
        ("model", {"model": 3}),
        ("grid", {"grid": 3}),
        ("slo_ms", {"slo_ms": None}),
        ("trace", {"trace": None}),
        ("gpus", {"gpus": 2}),
        ("leaves_s", {"arrives_s": 5.0, "leaves_s": 5.0}),
        ("memory_mib", {"memory_mib": -1}),
        ("trace", {"kind": "training", "slo_ms": None, "grid": QuotaGrid((8,), SHARES)}),
        ("slo_ms", {"kind": "training", "trace": None, "grid": QuotaGrid((8,), SHARES)}),
        ("grid", {"kind": "training", "slo_ms": None, "trace": None}),
        ("splittable", {"kind": "training", "slo_ms": None, "trace": None, "grid": QuotaGrid((8,), SHARES),
                        "splittable": True}),
    ],
)  # fmt: skip
def test_a_function_is_checked_at_the_door(argument, changes):
    """The error names the field."""
    with pytest.raises(InvalidArgumentError) as error:
        replace(serving(), **changes)
    assert error.value.argument == argument
