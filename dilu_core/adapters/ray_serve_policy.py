"""The object that Ray Serve's controller asks for the number of replicas of one deployment; see `ray_serve`."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Mapping
from typing import Any

from dilu_core import _checks as check
from dilu_core.adapters.ray_serve_memory import (
    ENTRY_KEY,
    ENTRY_VERSION,
    save_snapshot,
    serve_policy_state,
    snapshot,
)
from dilu_core.adapters.ray_serve_observation import observe, queued_requests
from dilu_core.coscaling.horizontal import CoScaler
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import ScalingDecision, ScalingReason, known_count, known_number, known_time
from dilu_core.coscaling.staged import StagedPolicy, StagedState

_SAVE_EVERY_S = 10.0
_EARLY_S = 0.02
"""The control loop's period is not exact: a call this much early is on time."""
_LOG = logging.getLogger("ray.serve")


class ServePolicy:
    """Any of our horizontal policies, called by Serve's controller; made of JSON values only.

    `params` are those of a `CoScaler` (`HorizontalParams.to_dict`). Any other policy is named by the import path
    "package.module:factory", and made by `factory(**arguments)`; its state is JSON, or has `to_dict` and `from_dict`.
    It decides once every `period_s`; calls in between keep to the decision.

    In the stages "observe" and "shadow" Serve's default policy acts, and ours is recorded beside it (`StagedPolicy`);
    for "enforce", ours acts. `initial_state` is a state to begin with where neither Serve nor the cluster remembers
    one; `remember=False` leaves the cluster's store alone.

    Never raises, not even when it cannot be made: then `fault` says why, and every call holds the present target.
    """

    def __init__(
        self,
        params: Mapping[str, object] | None = None,
        *,
        policy: str | None = None,
        arguments: Mapping[str, object] | None = None,
        stage: str = "enforce",
        initial_state: Mapping[str, object] | None = None,
        period_s: float = 1.0,
        remember: bool = True,
        **unknown: object,
    ) -> None:
        self.fault: str | None = None
        self._saved_s = -math.inf
        try:
            for name in unknown:
                check.fail(name, "is no argument of ServePolicy.")
            self._period_s = check.finite("period_s", period_s, above=0.0)
            self._remember = check.flag("remember", remember)
            self._policy: StagedPolicy[Any] = StagedPolicy(_made(params, policy, arguments), stage)
            self._blank = self._policy.initial_state()
            if initial_state is not None:
                self._blank = self._restored(initial_state)
        except Exception as error:  # raised here, it would stall every application of the cluster
            self.fault = in_words(error)
            _LOG.error(
                "dilu_core holds its deployment at its present size, for its policy cannot be made: %s", self.fault
            )

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas, and the state to pass with the next context."""
        try:
            if self.fault is None:
                return self._decide(context)
            return held(context, self.fault)
        except Exception as error:  # see above
            return held(context, in_words(error))

    def _decide(self, context: Any) -> tuple[int, dict[str, Any]]:
        entry = serve_policy_state(context.policy_state)
        now, target = known_time(context.current_time), known_count(context.target_num_replicas)
        before_s = None if entry is None else known_time(entry["decided_s"])
        early = now is not None and before_s is not None and 0.0 <= now - before_s < self._period_s - _EARLY_S
        if entry is None or not early:
            entry = self._new_entry(context, entry, now, target)
        if self._policy.stage != "enforce":
            wanted = _serves_own(context)
        else:
            # a wish that Serve has not granted yet (delays of its own, a budget) stands until the next decision
            wanted = known_count(entry["wanted"]) if target == entry["target"] else target
        return bounded_replicas(context, wanted), {ENTRY_KEY: entry}

    def _new_entry(
        self, context: Any, before: dict[str, Any] | None, now: float | None, target: int | None
    ) -> dict[str, Any]:
        state = self._remembered(context) if before is None else self._restored_or_anew(before["state"])
        queued_before = None if before is None else known_number(before["queued"])
        before_s = None if before is None else known_time(before["decided_s"])
        observation = observe(
            context,
            window_s=self._period_s,
            queued_before=queued_before,
            elapsed_s=None if now is None or before_s is None else now - before_s,
        )
        decision, state = self._policy.decide(state, observation)
        wanted = target if decision.change == 0 or decision.instances is None else decision.instances
        entry = {
            "version": ENTRY_VERSION,
            "state": _plain(state),
            "decided_s": now,
            "queued": queued_requests(context),
            "target": target,
            "wanted": wanted,
            "decision": _record(decision),
        }
        self._tell(context, entry, decision, before)
        return entry

    def _remembered(self, context: Any) -> Any:
        """The state of the last snapshot, or the one to begin with."""
        try:
            found = snapshot(context.app_name, context.deployment_name) if self._remember else None
        except Exception as error:  # a store that does not answer is no memory
            _LOG.warning("dilu_core begins anew: %s", in_words(error))
            found = None
        return self._blank if found is None else self._restored_or_anew(found["state"])

    def _restored_or_anew(self, state: Any) -> StagedState[Any]:
        """The remembered state, or the one to begin with where that is another policy's, or nobody's."""
        try:
            return self._restored(state)
        except Exception as error:
            _LOG.warning("dilu_core begins anew: %s", in_words(error))
            return self._blank

    def _restored(self, state: Any) -> StagedState[Any]:
        """The state out of JSON: as `StagedPolicy` wrote it, or the wrapped policy's alone with nothing counted yet."""
        if isinstance(state, Mapping) and "inner" in state:
            return self._policy.restore_state(state)
        restore = getattr(type(self._policy.policy.initial_state()), "from_dict", None)
        return self._policy.initial_state()._replace(inner=state if restore is None else restore(state))

    def _tell(
        self, context: Any, entry: dict[str, Any], decision: ScalingDecision, before: dict[str, Any] | None
    ) -> None:
        """Log what changes, and what fails for the first time; remember changes at once and the rest now and then."""
        failed = decision.reason == ScalingReason.POLICY_FAILED
        again = before is not None and before["decision"].get("detail") == decision.detail
        if decision.change or (failed and not again):
            name = f"{context.app_name}#{context.deployment_name}"
            _LOG.log(
                logging.ERROR if failed else logging.INFO,
                "dilu_core: %s from %s to %s replicas: %s, %s",
                *(name, entry["target"], entry["wanted"], decision.reason, decision.detail),
            )
        now = entry["decided_s"]
        if self._remember and now is not None and (decision.change or not 0.0 <= now - self._saved_s < _SAVE_EVERY_S):
            self._saved_s = now
            try:
                save_snapshot(context.app_name, context.deployment_name, entry)
            except Exception as error:  # without a snapshot scaling goes on all the same
                _LOG.warning("dilu_core could not remember its state: %s", in_words(error))


def _made(params: Mapping[str, object] | None, policy: str | None, arguments: Mapping[str, object] | None) -> Any:
    """The policy that the JSON arguments stand for."""
    if (params is None) == (policy is None):
        check.fail("params", "and policy exclude each other; expected one of them.")
    if policy is None:
        return CoScaler(HorizontalParams.from_dict(params or {}))
    module, _, name = policy.partition(":")
    return getattr(importlib.import_module(module), name)(**(arguments or {}))


def _serves_own(context: Any) -> int | None:
    """What Serve's default policy makes of the context."""
    from ray.serve.autoscaling_policy import default_autoscaling_policy  # pyright: ignore[reportMissingImports]

    replicas, _ = default_autoscaling_policy(context)
    return known_count(math.ceil(replicas))


def bounded_replicas(context: Any, replicas: int | None) -> int:
    """`replicas`, or the present target where they are not known, within the bounds of the deployment; never raises."""
    least, most = _count(context, "capacity_adjusted_min_replicas"), _count(context, "capacity_adjusted_max_replicas")
    for known in (replicas, _count(context, "target_num_replicas"), _count(context, "current_num_replicas"), least, 1):
        if known is not None:
            return max(known if most is None else min(known, most), least or 0)
    raise AssertionError("1 is known")


def in_words(error: Exception) -> str:
    """The error's type and message; of a foreign one whose message cannot be had, the type alone."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def held(context: Any, detail: str) -> tuple[int, dict[str, Any]]:
    """The present target; our entry stays as it was, but for the reason. Never raises."""
    try:
        entry = serve_policy_state(context.policy_state)
    except Exception:  # a context that is none holds as well
        entry = None
    if entry is None:
        return bounded_replicas(context, None), {}
    entry["decision"] = {"change": 0, "reason": str(ScalingReason.POLICY_FAILED), "detail": detail}
    return bounded_replicas(context, None), {ENTRY_KEY: entry}


def _count(context: Any, name: str) -> int | None:
    try:
        return known_count(getattr(context, name, None))
    except Exception:  # a property of the context may fail in any way
        return None


def _plain(state: Any) -> Any:
    return state.to_dict() if hasattr(state, "to_dict") else state


def _record(decision: ScalingDecision) -> dict[str, Any]:
    """`decision` as JSON."""
    audit = None if decision.audit is None else dict(decision.audit)
    return {
        "instances": decision.instances,
        "change": decision.change,
        "reason": str(decision.reason),
        "detail": decision.detail,
        "clipped_by": decision.clipped_by,
        "audit": audit,
    }
