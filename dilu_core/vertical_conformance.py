"""What every vertical policy must do, as tests that its author can run: see `dilu_core.testing`."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from dilu_core.coscaling.gpu import KINDS, GpuInstance, GpuObservation
from dilu_core.host_conformance import require
from dilu_core.units import FULL_GPU_MILLI

_ODD: tuple[Any, ...] = (None, math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300, "x", True, [])


class VerticalConformance:
    """Tests of a vertical policy: `initial_state()` and `decide(state, GpuObservation) -> (grants, state)`.

    `grants` is a mapping from instance name to milli-GPU. Override `make_policy`.
    """

    seed = 0
    """Of the random GPUs that the tests run on."""

    def make_policy(self) -> Any:
        """A fresh policy."""
        raise NotImplementedError("override make_policy() to give the policy under test")

    def restore_state(self, policy: Any, data: Any) -> Any:
        """The state whose `to_dict`, through JSON, is `data`."""
        return type(policy.initial_state()).from_dict(data)

    def test_the_same_question_has_the_same_answer(self) -> None:
        """Asked twice, and asked of a second policy of its kind, the same state and GPU give the same grants."""
        policy, other = self.make_policy(), self.make_policy()
        state, twin = policy.initial_state(), other.initial_state()
        for seen in self._gpus():
            first, again, of_other = (
                dict(self._grants(each, one, seen)[0])
                for each, one in ((policy, state), (policy, state), (other, twin))
            )
            require(first == again, f"asked twice about {seen}, the policy granted {first} and then {again}")
            require(first == of_other, f"two policies alike granted {first} and {of_other} for {seen}")
            state, twin = policy.decide(state, seen)[1], other.decide(twin, seen)[1]

    def test_the_state_is_never_changed_in_place(self) -> None:
        """A state given to `decide` is the same value afterwards."""
        policy = self.make_policy()
        state = policy.initial_state()
        for seen in self._gpus():
            before = copy.deepcopy(state)
            after = policy.decide(state, seen)[1]
            require(state == before, f"decide changed its state in place, from {before!r:.200} to {state!r:.200}")
            state = after

    def test_odd_measurements_never_raise(self) -> None:
        """Whatever sensors report as demand and cycle, every instance gets its entry and nothing is raised."""
        policy = self.make_policy()
        state = policy.initial_state()
        for seen in self._gpus(odd=0.7):
            try:
                grants, state = self._grants(policy, state, seen)
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(
                    f"{type(error).__name__} ({error}) for {seen}; odd readings count as unknown"
                ) from error
            names = {one.name for one in seen.instances}
            require(set(grants) == names, f"granted to {sorted(grants)}; expected an entry for each of {sorted(names)}")

    def test_grants_are_whole_and_fit_the_gpu(self) -> None:
        """Shares are ints of at least 0 and add up to at most one GPU."""
        for seen, grants in self._run(odd=0.2):
            for name, share in grants.items():
                require(type(share) is int and share >= 0, f"{name} got {share!r}; expected an int of at least 0")
            total = sum(grants.values())
            require(
                total <= FULL_GPU_MILLI, f"granted {total} of {FULL_GPU_MILLI} milli-GPU for {seen}: {dict(grants)}"
            )

    def test_active_instances_get_their_request(self) -> None:
        """While the requests of active instances fit the GPU, each gets at least its own."""
        for seen, grants in self._run(odd=0.2):
            active = [one for one in seen.instances if one.active]
            if sum(one.request_milli for one in active) > FULL_GPU_MILLI:
                continue
            for one in active:
                require(
                    grants[one.name] >= one.request_milli,
                    f"{one.name} is active and got {grants[one.name]} of its request {one.request_milli} for {seen}",
                )

    def test_nobody_gets_more_than_the_limit(self) -> None:
        """The limit is the most any instance gets."""
        for seen, grants in self._run(odd=0.2):
            for one in seen.instances:
                require(
                    grants[one.name] <= one.limit_milli,
                    f"{one.name} got {grants[one.name]}, above its limit {one.limit_milli}, for {seen}",
                )

    def test_a_lone_busy_instance_bursts(self) -> None:
        """With the rest of the GPU idle, a busy latency-bound instance gets its limit within twenty periods."""
        busy = GpuObservation(
            (GpuInstance("busy", "slo", 300, 700, 1000.0, 10.0), GpuInstance("idle", "slo", 500, 900, 0.0, None))
        )
        grants = self._repeated(busy)
        require(grants["busy"] == 700, f"alone and busy with a limit of 700 the instance got {grants['busy']}")

    def test_latency_bound_instances_come_before_best_effort(self) -> None:
        """What is spare goes to the latency-bound instance that wants it; best effort keeps its request."""
        pair = GpuObservation(
            (
                GpuInstance("train", "best-effort", 400, 1000, 1000.0, 10.0),
                GpuInstance("serve", "slo", 300, 600, 1000.0, 10.0),
            )
        )
        grants = self._repeated(pair)
        require(
            grants["serve"] == 600 and grants["train"] == 400,
            f"serve (slo, 300 to 600) and train (best effort, 400 to 1000) both want all; they got {dict(grants)}",
        )

    def test_a_restart_changes_no_grant(self) -> None:
        """The state taken through JSON text in mid-run leads to the same grants."""
        policy = self.make_policy()
        kept = restored = policy.initial_state()
        for i, seen in enumerate(self._gpus()):
            if i % 7 == 3:
                restored = self.restore_state(policy, json.loads(json.dumps(restored.to_dict(), allow_nan=False)))
            first, kept = policy.decide(kept, seen)
            second, restored = policy.decide(restored, seen)
            require(
                dict(first) == dict(second), f"after a restart {seen} was granted {dict(second)}, not {dict(first)}"
            )

    def _repeated(self, seen: GpuObservation) -> Mapping[str, int]:
        policy = self.make_policy()
        state = policy.initial_state()
        grants: Mapping[str, int] = {}
        for _ in range(20):
            grants, state = self._grants(policy, state, seen)
        return grants

    def _run(self, odd: float) -> Iterator[tuple[GpuObservation, Mapping[str, int]]]:
        policy = self.make_policy()
        state = policy.initial_state()
        for seen in self._gpus(odd=odd):
            grants, state = self._grants(policy, state, seen)
            yield seen, grants

    def _grants(self, policy: Any, state: Any, seen: GpuObservation) -> tuple[Mapping[str, int], Any]:
        answer = policy.decide(state, seen)
        require(
            isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Mapping),
            f"decide answered {answer!r:.120}; expected (grants by name, state)",
        )
        found: tuple[Mapping[str, int], Any] = answer
        return found

    def _gpus(self, odd: float = 0.0) -> Iterator[GpuObservation]:
        """A hundred periods of GPUs whose instances come and go; a part `odd` of the measurements is odd."""
        rng = random.Random(self.seed)

        def measured(value: float) -> Any:
            return rng.choice(_ODD) if rng.random() < odd else value

        shares: dict[str, tuple[str, int, int]] = {}
        for _ in range(100):
            if not shares or rng.random() < 0.1:
                most = rng.choice((200, 400, 1000))
                requests = {f"i{i}": rng.randint(1, most) for i in range(rng.randint(1, 7))}
                shares = {name: (rng.choice(KINDS), low, rng.randint(low, 1000)) for name, low in requests.items()}
            yield GpuObservation(
                tuple(
                    GpuInstance(
                        name, *each, measured(rng.choice((0.0, rng.uniform(0, 1200)))), measured(rng.uniform(5, 30))
                    )
                    for name, each in shares.items()
                )
            )
