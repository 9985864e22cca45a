"""What a replay is given, checked and brought into the columns that the queue kernel takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import LARGEST, fail, finite, float_column, integer
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, Policy, fault_of
from dilu_core.traces import ArrivalTrace
from dilu_core.units import FULL_GPU_MILLI

_MOST_STEPS = 50_000_000  # what memory of a few GiB holds; a longer replay belongs in slices
_FIRST_LOOK_S = 10.0  # the initial instances fit the mean load of this long a beginning


def check_function(trace: object, policy: object, params: object) -> None:
    """Refuse by name what is no trace, no policy or no parameters."""
    if not isinstance(trace, ArrivalTrace):
        fail("trace", f"is {trace!r:.80}; expected an ArrivalTrace (see dilu_core.traces.read_trace).")
    if isinstance(policy, type):
        fail("policy", f"is the class {policy.__name__}; expected an object of it.")
    if not callable(getattr(policy, "decide", None)) or not callable(getattr(policy, "initial_state", None)):
        fail("policy", f"is {policy!r:.80}; expected an object with initial_state() and decide(state, observation).")
    if not isinstance(params, HorizontalParams):
        fail("params", f"is {params!r:.80}; expected HorizontalParams.")


def asked(argument: str, policy: Policy[Any], state: Any, observation: Observation) -> tuple[int, Any]:
    """The change that `policy` decides on, and its new state; an answer that is none is an error of `argument`."""
    answer = policy.decide(state, observation)
    fault = fault_of(answer, observation)
    if fault is not None:
        fail(argument, f"{fault}, at {observation.time_s:g} s. Wrap it in StagedPolicy to survive that.")
    decision, state = answer
    return decision.change, state


def cold_steps(params: HorizontalParams, step_s: float) -> int:
    """The steps from the launch of an instance to its first service."""
    return math.ceil(min(params.cold_start_s / step_s, LARGEST) - 1e-9)


def clock(trace: ArrivalTrace, step_s: float, control_s: float, *, tables: int = 1) -> tuple[float, int]:
    """The step, and the steps in a control period; `tables` functions are replayed at once."""
    step_s = finite("step_s", step_s, above=0.0)
    control_s = finite("control_s", control_s, above=0.0)
    if trace.duration_s / step_s * tables > _MOST_STEPS:
        fail(
            "step_s", f"is {step_s}; {trace.duration_s:g} s would take more than {_MOST_STEPS} steps. Slice the trace."
        )
    if control_s / step_s > _MOST_STEPS:
        fail("control_s", f"is {control_s}, more than {_MOST_STEPS} steps of step_s, {step_s}.")
    per_control = round(control_s / step_s)
    if per_control < 1 or abs(per_control * step_s - control_s) > 1e-9 * control_s:
        fail("control_s", f"is {control_s}; expected a whole number of steps of step_s, {step_s}.")
    return step_s, per_control


def rate_table(rate_rps: Callable[[int], float] | ArrayLike | None, params: HorizontalParams) -> NDArray[np.float64]:
    """What one instance serves at every share from 0 to its limit, `(limit + 1,)`."""
    shares = params.limit_milli + 1
    if rate_rps is None:
        return np.arange(shares, dtype=np.float64) * (params.capacity_rps / params.request_milli)
    if callable(rate_rps):
        rate_rps = [0.0] + [rate_rps(share) for share in range(1, shares)]
    table = float_column("rate_rps", rate_rps)
    if table.size != shares:
        fail("rate_rps", f"has {table.size} entries; expected {shares}, for every share from 0 to limit_milli.")
    steps = np.diff(table)
    if not np.isfinite(table).all() or table[0] != 0.0 or (steps < 0.0).any():
        fail("rate_rps", "must start with 0 at share 0, be finite and never fall as the share grows.")
    return table.copy()  # writable like every other table, or the kernel would be compiled a second time


def most_share(
    spare_milli: float | ArrayLike | None, trace: ArrivalTrace, params: HorizontalParams, steps: int, step_s: float
) -> NDArray[np.int64]:
    """The greatest share each instance may use, per step."""
    room = params.limit_milli - params.request_milli
    return params.request_milli + np.minimum(spare_steps("spare_milli", spare_milli, trace, steps, step_s), room)


def spare_steps(
    argument: str, spare_milli: float | ArrayLike | None, trace: ArrivalTrace, steps: int, step_s: float
) -> NDArray[np.int64]:
    """What neighbours leave to an instance beyond its request, in whole milli-GPU per step; `None` is a whole GPU."""
    if spare_milli is None:
        return np.full(steps, FULL_GPU_MILLI, dtype=np.int64)
    spare = _spare_column(argument, spare_milli, trace)
    whole = np.minimum(np.floor(spare), FULL_GPU_MILLI).astype(np.int64)
    if whole.size == 1:
        return np.full(steps, whole[0], dtype=np.int64)
    period = np.floor((np.arange(steps) + 0.5) * step_s / trace.period_s).astype(np.int64)
    return np.ascontiguousarray(whole[np.minimum(period, whole.size - 1)])


def check_spares(spare_milli: object, traces: Sequence[ArrivalTrace]) -> Sequence[float | ArrayLike | None] | None:
    """`spare_milli` where it has an entry for each of `traces` that `spare_steps` takes, or is `None`."""
    if spare_milli is None:
        return None
    if not isinstance(spare_milli, Sequence) or isinstance(spare_milli, str) or len(spare_milli) != len(traces):
        fail("spare_milli", f"is {spare_milli!r:.80}; expected a sequence of {len(traces)} entries, one per trace.")
    for t, (spare, trace) in enumerate(zip(spare_milli, traces, strict=True)):
        if spare is not None:
            _spare_column(f"spare_milli[{t}]", spare, trace)
    return spare_milli


def _spare_column(argument: str, spare_milli: float | ArrayLike, trace: ArrivalTrace) -> NDArray[np.float64]:
    """One share, or one per period of the trace."""
    one = np.ndim(spare_milli) == 0
    spare = float_column(argument, [spare_milli] if one else spare_milli)
    bad = ~np.isfinite(spare) | (spare < 0.0)
    if bad.any():
        i = int(np.argmax(bad))
        fail(argument if one else f"{argument}[{i}]", f"is {spare[i]}; expected a finite share of at least 0.")
    if spare.size not in (1, trace.rates_rps.size):
        fail(argument, f"has {spare.size} values; expected one, or one per period ({trace.rates_rps.size}).")
    return spare


def first_look_rps(trace: ArrivalTrace) -> float:
    """The mean load of the first seconds, which the initial instances are to carry."""
    periods = max(1, round(min(_FIRST_LOOK_S / trace.period_s, trace.rates_rps.size)))
    return float(trace.rates_rps[:periods].mean())


def given_count(initial_instances: int) -> int:
    """`initial_instances`, checked: no more than a policy takes for a fleet."""
    return integer("initial_instances", initial_instances, at_least=0, at_most=2**31 - 1)


def initial_count(initial_instances: int | None, trace: ArrivalTrace, params: HorizontalParams) -> int:
    """The instances ready at the start."""
    if initial_instances is not None:
        return given_count(initial_instances)
    needed = math.ceil(first_look_rps(trace) / params.capacity_rps - 1e-9)
    return min(max(needed, params.min_instances), params.max_instances)
