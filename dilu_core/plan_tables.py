"""A plan as text: one table of quotas, one of GPUs, and a few lines that say what it amounts to."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dilu_core.gpu_bookings import gpu_bookings

if TYPE_CHECKING:
    from dilu_core.plans import FunctionPlan, Plan

_MARKS = {"measured": "", "interpolated": "~", "model": ""}


def summary_of(plan: Plan) -> str:
    """Quotas, placement and result of `plan`, each under its own heading."""
    tokens = ["", "Tokens", _token_table(plan)] if any(each.tokens for each in plan.functions) else []
    parts = ["Quotas", _quota_table(plan), *tokens, "", "Placement", _gpu_table(plan), "", "Result"]
    return "\n".join([*parts, *_result_lines(plan)])


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """Rows under a header, columns as wide as their widest cell; columns in `left` flush left, the others right."""
    widths = [max(_width(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            cell + " " * (width - _width(cell)) if i in left else " " * (width - _width(cell)) + cell
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    lines.insert(1, "  " + "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns that `text` takes in a terminal: wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(mark) else 2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in text
    )


def _quota_table(plan: Plan) -> str:
    if not plan.functions:
        return "  no functions"
    header = (
        "function", "kind", "batch", "request", "limit", "latency", "upper", "table", "budget", "slo",
        "instances", "load/s", "at request/s", "at limit/s", "memory",
    )  # fmt: skip
    return text_table(header, [_quota_row(each) for each in plan.functions], left=(0, 1))


def _quota_row(each: FunctionPlan) -> tuple[str, ...]:
    slo, budget = _ms(each.slo_ms), _ms(each.budget_ms)
    load = "" if each.kind == "training" else f"{each.load_rps:,.1f}"
    if each.config is None:
        return (each.name, each.kind, "-", "-", "-", "-", "-", "-", budget, slo, "0", load, "-", "-", "-")
    config, count = each.config, len(each.instances)
    memory = f"{(each.memory_mib or 0) / 1024:.1f} GiB" + (f" x{each.gpus}" if each.gpus > 1 else "")
    return (
        each.name,
        each.kind,
        str(config.batch),
        _percent(config.request_milli),
        _percent(config.limit_milli),
        _ms(config.latency_ms),
        _ms(config.upper_ms),
        _MARKS[each.evidence] + _ms(each.measured_ms),
        budget,
        slo,
        str(count),
        load,
        f"{each.capacity_rps:,.1f}",
        f"{(each.limit_rps or 0.0) * count:,.1f}",
        memory,
    )


def _token_table(plan: Plan) -> str:
    """The two objectives of each LLM that has them, a row each."""
    header = ("function", "objective", "prompt", "output", "sequences", "mean", "upper", "table", "budget", "slo")
    rows = []
    for each in plan.functions:
        if each.tokens is None:
            continue
        sequences = "-" if each.config is None else str(each.config.batch)
        tokens = each.tokens
        kinds = ("TTFT", tokens.ttft_prompt_tokens, tokens.ttft), ("TPOT", tokens.prompt_tokens, tokens.tpot)
        for name, prompt, of in kinds:
            table = _MARKS[of.evidence] + _ms(of.measured_ms)
            times = _ms(of.latency_ms), _ms(of.upper_ms), table, _ms(of.budget_ms), _ms(of.slo_ms)
            rows.append((each.name, name, str(prompt), str(tokens.output_tokens), sequences, *times))
    return text_table(header, rows, left=(0, 1))


def _gpu_table(plan: Plan) -> str:
    if not plan.placement:
        return "  nothing to place"
    rows = []
    for gpu in gpu_bookings(plan.problem, plan.placement):
        labels = [f"{each.name} ({each.part}/{each.parts})" if each.parts > 1 else each.name for each in gpu.bookings]
        memory = f"{gpu.booked_mib / 1024:.1f}/{gpu.memory_mib / 1024:.1f} GiB"
        shares = _percent(gpu.request_milli), _percent(gpu.limit_milli)
        rows.append((gpu.node, str(gpu.gpu), *shares, memory, ", ".join(labels)))
    return text_table(("node", "gpu", "request", "limit", "memory", "instances"), rows, left=(0, 5))


def _result_lines(plan: Plan) -> list[str]:
    proof = f", proof: {plan.bound_proof}" if plan.bound_proof else ""
    lines = [
        f"  GPUs used      {plan.gpus_used} of {plan.problem.cluster.gpus}"
        f" (at least {plan.lower_bound} needed{proof}; gap {plan.gap:.1%}; {plan.termination.reason.value})"
    ]
    if plan.whole_gpu_gpus:
        saving = plan.cost(0.0).saving_fraction
        verdict = f"{saving:.0%} fewer here" if saving >= 0 else f"{-saving:.0%} more here"
        lines.append(f"  whole GPUs     {plan.whole_gpu_gpus} with one instance per GPU: {verdict}")
    free = plan.fragmentation.cluster
    lines.append(
        f"  fragmentation  free on active GPUs: {free.request_milli.fragmentation:.1%} of SM request,"
        f" {free.limit_milli.fragmentation:.1%} of SM limit, {free.memory_mib.fragmentation:.1%} of memory"
    )
    if plan.price_per_gpu_hour is not None:
        cost = plan.cost(plan.price_per_gpu_hour)
        lines.append(
            f"  cost           {cost.per_hour:,.2f} per hour against {cost.whole_gpu_per_hour:,.2f}"
            f" with whole GPUs ({cost.price_per_gpu_hour:g} per GPU-hour)"
        )
    if plan.slowdowns:
        worst = max(plan.slowdowns, key=lambda name: plan.slowdowns[name])
        lines.append(f"  interference   neighbours may slow an instance by up to {plan.slowdowns[worst]:.2f} ({worst})")
    lines += [f"  not planned    {each.name}: {each.detail}" for each in plan.functions if each.config is None]
    lines += [
        f"  not carried    {each.name}: {each.detail}"
        for each in plan.functions
        if each.config is not None and not each.carries_load
    ]
    lines += [f"  not placed     {name}: {why}" for name, why in plan.unplaced.items()]
    lines += [f"  note           {each.name}: {warning}" for each in plan.functions for warning in each.warnings]
    lines.append("  latencies in ms per batch (per step for training), at the request; table: the profile's own value")
    if any(each.tokens is not None for each in plan.functions):
        lines.append(
            "  an LLM in the table of tokens: batch is its concurrent sequences, latency that of a request in its slot,"
            " rates are requests"
        )
    if any("interpolated" in _evidence(each) for each in plan.functions):
        lines.append("  ~: read between two measured shares or prompts")
    return lines


def _evidence(each: FunctionPlan) -> tuple[str, ...]:
    tokens = each.tokens
    return (each.evidence,) if tokens is None else (each.evidence, tokens.ttft.evidence, tokens.tpot.evidence)


def _percent(milli: int) -> str:
    return f"{milli / 10:g} %"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
