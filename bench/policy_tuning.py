"""The horizontal policy tuned on recorded traces, and what the tuned parameters do on traces held out.

    python bench/policy_tuning.py [TRACE.txt ...]

Traces, functions and neighbours are those of `coscaling_traces.py`; the neighbours' use is taken from the default
policy. Every trace is held out once: the cheapest candidate with at most 2 % of requests late and 40 cold starts an
hour on the other traces is judged on it. The package's defaults and a fixed fleet stand beside, from the same run.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
from coscaling_traces import fixed_gpu_s, function_of, recorded, settled_replay, spare_beside

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.solvers.tuning import tune
from dilu_core.traces import read_trace
from dilu_core.tuning_space import TuningSpace

CHOICES = {
    "spare_trust": (0.0, 0.25, 0.5, 0.75, 1.0),
    "scale_in_cooldown_s": (10.0, 30.0, 90.0),
    "window_s": (60, 120, 180, 240),
    "late_weight": (0.0, 1.0, 3.0),
    "scale_in_load": (0.75, 0.85, 0.9),
    "clear_s": (3.0, 10.0),
    "short_s": (1, 2, 4),
}


def main() -> int:
    """Print the front, the choice, and a line per trace held out."""
    traces = [read_trace(path) for path in ([Path(each) for each in sys.argv[1:]] or recorded())]
    if not traces:
        print("no traces: give files, or set DILU_DATA to a folder that holds traces/*.txt", file=sys.stderr)
        return 2
    functions, spare = [function_of(trace) for trace in traces], []
    for trace, params in zip(traces, functions, strict=True):
        result = settled_replay(trace, CoScaler, params, "shifted")
        spare.append(np.asarray(spare_beside(result, "shifted"))[: trace.rates_rps.size])
    found = tune(traces, TuningSpace(functions, CHOICES), spare_milli=spare)
    fixed = np.array(
        [
            fixed_gpu_s(trace) * 1000.0 * params.capacity_rps / (trace.requests * params.request_milli)
            for trace, params in zip(traces, functions, strict=True)
        ]
    )  # a fleet for the peak second, in the measure of `gpu_cost`
    replays, steps = (found.stats.counts[name] for name in ("replays", "steps"))
    print(f"{len(traces)} traces, {len(found.candidates)} candidates: {replays:,} replays, {steps:,} steps")
    print(
        f"in {found.stats.seconds:.1f} s on {found.stats.device or 'the CPU'}, "
        f"{steps / found.stats.seconds:.3g} steps/s"
    )
    print(f"{'':34s}{'GPU-s / need':>13s}{'late':>8s}{'cold/h':>8s}")
    for k in found.pareto[:: max(1, len(found.pareto) // 8)]:
        print(f"{'front':34s}{found.gpu_cost[k]:13.3f}{found.violation_rate[k]:8.2%}{found.cold_starts_per_h[k]:8.1f}")
    defaults = {each.name: each.default for each in fields(HorizontalParams) if each.name in CHOICES}
    k = found.candidates.index(defaults)
    print(f"{'defaults':34s}{found.gpu_cost[k]:13.3f}{found.violation_rate[k]:8.2%}{found.cold_starts_per_h[k]:8.1f}")
    k = found.best
    print(
        f"{'best on all':34s}{found.gpu_cost[k]:13.3f}{found.violation_rate[k]:8.2%}{found.cold_starts_per_h[k]:8.1f}"
    )
    print(f"    {found.best_choice}{'' if found.feasible else ' (limits not met)'}")
    for held in found.held_out:
        name = ", ".join(traces[t].name for t in held.traces)
        print(f"held out {name:25.25s}{held.gpu_cost:13.3f}{held.violation_rate:8.2%}{held.cold_starts_per_h:8.1f}")
    unseen = np.array([(held.gpu_cost, held.violation_rate, held.cold_starts_per_h) for held in found.held_out])
    if unseen.size:
        cost, late, cold = unseen.mean(axis=0)
        print(f"{'mean of those held out':34s}{cost:13.3f}{late:8.2%}{cold:8.1f}")
    print(f"a fleet for the peak second costs {fixed.mean():.3f} on this measure (mean over traces)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
