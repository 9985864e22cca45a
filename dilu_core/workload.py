"""A workload file: functions with their profiles, and the cluster to plan them on, as TOML.

profiles = ["profiles.csv"]                     # tables of read_profiles, relative to this file; $NAMES of environment
                                                # variables are replaced; one entry may also be a table:
                                                # { path = "b.csv", note = "n_proc=1", gpu_type = "A100",
                                                #   functions = ["only", "these"] }
price_per_gpu_hour = 2.5                        # optional, for the cost line

[plan]                                          # optional: any option of `dilu_core.plan`
quantile = 0.95
sm_step_milli = 50

[oversubscription]                              # optional
limit_milli = 1500

[gpu_types.A100-40GB]
memory_mib = 40960
# mig = "A100-40GB"                             # optional: partitioned as that GPU of dilu_core.mig.GEOMETRIES

[[nodes]]                                       # `count` > 1 adds -0, -1, ... to the name
name = "node"
count = 4
gpu_type = "A100-40GB"
gpus = 4

[[functions]]                                   # the fields of FunctionSpec; `profile` names rows of the tables
name = "bert"
kind = "inference"
profile = "bert_base"
slo_ms = 120
load_rps = 400
memory_mib = 3000

[[functions]]                                   # an LLM whose two phases are planned apart
name = "llama"
kind = "llm-inference"
profile = "llama_decode"                        # batch: concurrent sequences; latency: one decode step
prefill_profile = "llama_prefill"               # batch: tokens of one prompt; latency: time to first token
ttft_slo_ms = 800                               # objectives: time to first token,
tpot_slo_ms = 50                                # and mean time per further token
prompt_tokens = 500                             # of the mean request
output_tokens = 200
ttft_prompt_tokens = 1000                       # optional: the longest prompt that must keep ttft_slo_ms
load_rps = 12                                   # requests
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from dilu_core import _checks as checks
from dilu_core.cluster import MOST_NODES, Cluster, GpuType, Node, Oversubscription
from dilu_core.errors import DiluError, FileFormatError, InvalidArgumentError
from dilu_core.functions import FunctionSpec
from dilu_core.mig import GEOMETRIES
from dilu_core.profile_files import read_profiles
from dilu_core.samples import ProfileSamples

PLAN_OPTIONS = (
    "quantile", "exec_fraction", "sizing", "headroom", "sm_step_milli", "limit_factor", "interference",
    "time_limit_s", "gap", "seed",
)  # fmt: skip
"""Keys of the [plan] table, each the keyword of `dilu_core.plan` with that name."""


@dataclass(frozen=True)
class Workload:
    """What `read_workload` found: the arguments of `dilu_core.plan`, and the price of a GPU-hour if one was given."""

    functions: tuple[FunctionSpec, ...]
    cluster: Cluster
    oversubscription: Oversubscription = field(default_factory=Oversubscription)
    options: Mapping[str, Any] = field(default_factory=dict)
    price_per_gpu_hour: float | None = None


def read_workload(path: str | PathLike[str]) -> Workload:
    """The workload in the TOML file `path`.

    Raises `FileFormatError`, naming the file and the entry at fault, for anything that is missing, unknown or out of
    bounds, and `OSError` where the file itself cannot be read.
    """
    where = fspath(path)
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FileFormatError(where, f"is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # not only TOMLDecodeError: huge integers, deep nesting
        raise FileFormatError(where, f"is not valid TOML: {error}") from error
    try:
        return _workload(document, Path(path).parent)
    except FileFormatError:
        raise
    except DiluError as error:
        raise FileFormatError(where, str(error)) from error


def _workload(document: Mapping[str, Any], folder: Path) -> Workload:
    known = ("profiles", "price_per_gpu_hour", "plan", "oversubscription", "gpu_types", "nodes", "functions")
    _refuse_unknown("", document, known)
    profiles = _read_tables(document.get("profiles", []), folder)
    options = _table("plan", document.get("plan", {}), PLAN_OPTIONS)
    caps = _table("oversubscription", document.get("oversubscription", {}), ("request_milli", "limit_milli"))
    price = document.get("price_per_gpu_hour")
    return Workload(
        functions=_functions(_rows("functions", document), profiles),
        cluster=_cluster(_rows("nodes", document), document.get("gpu_types")),
        oversubscription=checks.build("oversubscription", caps, Oversubscription, required=(), optional=tuple(caps)),
        options=options,
        price_per_gpu_hour=None if price is None else checks.finite("price_per_gpu_hour", price, at_least=0.0),
    )


def _read_tables(entries: object, folder: Path) -> dict[str, ProfileSamples]:
    listed = entries if isinstance(entries, list) else [entries]
    found: dict[str, ProfileSamples] = {}
    for i, entry in enumerate(listed):
        where = f"profiles[{i}]"
        table = (
            {"path": entry}
            if isinstance(entry, str)
            else _table(where, entry, ("path", "note", "gpu_type", "functions"))
        )
        path = checks.text(f"{where}.path", checks.item(where, table, "path"))
        if "\0" in path:
            checks.fail(f"{where}.path", "holds a NUL character, which no file's name can.")
        try:
            file = folder / os.path.expandvars(path)
            tables = read_profiles(file, note=table.get("note"), gpu_type=table.get("gpu_type"))
        except OSError as error:
            checks.fail(where, f"is {path!r}, which cannot be read: {error.strerror or error}.")
        if "functions" in table:
            wanted = checks.names(f"{where}.functions", table["functions"])
            missing = [name for name in wanted if name not in tables]
            if missing:
                checks.fail(f"{where}.functions", f"names {missing[0]!r}, which {path!r} does not have.")
            tables = {name: tables[name] for name in wanted}
        twice = sorted(found.keys() & tables.keys())
        if twice:
            checks.fail(where, f"is {path!r}, which repeats the function {twice[0]!r} of an earlier table.")
        found |= tables
    return found


def _functions(rows: list[dict[str, Any]], profiles: Mapping[str, ProfileSamples]) -> tuple[FunctionSpec, ...]:
    settable = {each.name for each in fields(FunctionSpec)} - {"samples", "prefill_samples", "grid", "prior"}
    functions = []
    for i, row in enumerate(rows):
        where = f"functions[{i}]"
        _refuse_unknown(where, row, settable | {"profile", "prefill_profile"})
        values = {key: value for key, value in row.items() if key not in ("profile", "prefill_profile")}
        values["samples"] = _profile(f"{where}.profile", row.get("profile", row.get("name")), profiles)
        if "prefill_profile" in row:
            values["prefill_samples"] = _profile(f"{where}.prefill_profile", row["prefill_profile"], profiles)
        functions.append(_function(where, values))
    checks.distinct("functions", [function.name for function in functions])
    return tuple(functions)


def _function(where: str, values: Mapping[str, Any]) -> FunctionSpec:
    try:
        return checks.build(where, values, FunctionSpec, required=("name", "kind", "samples"), optional=tuple(values))
    except InvalidArgumentError as error:  # these samples have another name in this file
        here = (text.replace("prefill_samples", "prefill_profile") for text in (error.argument, error.message))
        raise InvalidArgumentError(*here) from error


def _profile(where: str, entry: object, profiles: Mapping[str, ProfileSamples]) -> ProfileSamples:
    profile = checks.text(where, entry)
    if profile not in profiles:
        checks.fail(where, f"is {profile!r}, which no table in `profiles` has{_nearest(profile, profiles)}.")
    return profiles[profile]


def _cluster(rows: list[dict[str, Any]], gpu_types: object) -> Cluster:
    if not isinstance(gpu_types, Mapping):
        checks.fail("gpu_types", "is missing; expected a table such as [gpu_types.A100-40GB] with memory_mib.")
    types = {}
    for name, entry in gpu_types.items():
        values = _table(f"gpu_types.{name}", entry, ("memory_mib", "mig"))
        named = {"name": name, **values}
        if "mig" in values:
            named["mig"] = GEOMETRIES[checks.choice(f"gpu_types.{name}.mig", values["mig"], tuple(GEOMETRIES))]
        types[name] = checks.build(
            f"gpu_types.{name}", named, GpuType, required=("name", "memory_mib"), optional=("mig",)
        )
    nodes: list[Node] = []
    for i, row in enumerate(rows):
        where = f"nodes[{i}]"
        _refuse_unknown(where, row, ("name", "count", "gpu_type", "gpus", "cpu_milli", "memory_mib"))
        gpu_type = checks.text(f"{where}.gpu_type", checks.item(where, row, "gpu_type"))
        if gpu_type not in types:
            checks.fail(
                f"{where}.gpu_type", f"is {gpu_type!r}, which [gpu_types] does not have{_nearest(gpu_type, types)}."
            )
        count = checks.integer(f"{where}.count", row.get("count", 1), at_least=0, at_most=MOST_NODES)
        values = {key: value for key, value in row.items() if key != "count"} | {"gpu_type": types[gpu_type]}
        node = checks.build(
            where, values, Node, required=("name", "gpu_type", "gpus"), optional=("cpu_milli", "memory_mib")
        )
        nodes += [node] if "count" not in row else [replace(node, name=f"{node.name}-{k}") for k in range(count)]
    return Cluster(tuple(nodes))


def _rows(key: str, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = document.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        checks.fail(key, f"is {rows!r:.80}; expected [[{key}]] tables.")
    return rows


def _table(where: str, entry: object, known: Collection[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        checks.fail(where, f"is {entry!r:.80}; expected a table [{where}].")
    _refuse_unknown(where, entry, known)
    return entry


def _refuse_unknown(where: str, entry: Mapping[str, Any], known: Collection[str]) -> None:
    for key in entry:
        if key not in known:
            near = _nearest(key, known) or f"; expected one of {', '.join(sorted(known))}"
            checks.fail(f"{where}.{key}" if where else key, f"is not a known key{near}.")


def _nearest(name: object, known: Collection[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
