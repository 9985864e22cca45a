"""Measure real models over batch size x SM share on the GPU at hand, into a profile table that `read_profiles` reads.

    python bench/profile_gpu.py --quick                                   # a minute: does everything run here?
    python bench/profile_gpu.py --out FILE.csv --budget-s 300             # goes on where FILE.csv stops
    python bench/profile_gpu.py --out FILE.csv --fits-only                # what the table says; needs no GPU
    python bench/profile_gpu.py --dry-run --out FILE.csv --budget-s 30    # tiny modules on the CPU

Needs torch, torchvision and transformers. Models are built from their configuration with random weights; nothing is
downloaded (`profiling_gpu/models.py`). SM shares are green contexts, or the MPS active-thread percentage of child
processes where green contexts do not work or do not bite; a matrix product on every share tells. Each cell is warmed
up and timed by CUDA events with a synchronisation after every run; the table holds the median, and beside it the 95th
percentile, the least, the host's time to issue a run, and the number of repeats. `FILE.json` holds the machine, the
check of the shares and what failed. Exit status: 1 where measuring failed or the table is empty, 2 where packages or
the GPU are missing.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from profiling_gpu import machine, measurer, plan, shares, summary
from profiling_gpu.models import FUNCTIONS, Function
from profiling_gpu.table import Table

START = time.monotonic()
_RESERVE_S = 8.0  # to write and leave
_LEAST_RESTART_S = 60.0
_MPS_PERCENTAGES = (100, 25, 10, 50, 75, 35, 15, 6, 60, 90)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, summarise; the exit status is that of the command."""
    options = _options(arguments)
    functions = _functions(options)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed is seen even if the run is killed
    out = Path(options.out) if options.out else _default_out(options)
    stopped = ""
    if not options.fits_only:
        missing = _missing(options, functions)
        if missing:
            print(missing)
            return 2
        try:
            stopped = _measure(options, functions, out)
        except Exception:
            traceback.print_exc()
            stopped = "failed"
        print(f"\n{stopped}, {time.monotonic() - START:.0f} s after the start; table in {out}")
        if stopped.startswith("lost the CUDA context"):
            _restart(options, arguments)
    if stopped == "checked":
        return 0
    if not out.is_file() or len(out.read_text(encoding="utf-8").splitlines()) < 2:
        print(f"no measurements in {out}")
        return 1
    if not options.no_fits:
        try:
            print("\n".join(summary.summary_lines(out)))
        except (ImportError, ValueError) as error:  # what was measured is on disk
            print(f"no fits: {error}")
    return 1 if stopped == "failed" else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", help="CSV to write or go on with; default bench/results/profile_GPU.csv")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds from start to end")
    parser.add_argument("--quick", action="store_true", help="two cells of every function, and MPS tried as well")
    parser.add_argument("--dry-run", action="store_true", help="tiny modules on the CPU; shares have no effect")
    parser.add_argument("--only", help="functions, by comma")
    parser.add_argument("--shares", choices=("auto", "green", "mps", "inherited", "none"), default="auto")
    parser.add_argument("--launch", choices=("auto", "eager"), default="auto")
    parser.add_argument("--device-sms", type=int, help="SMs of the whole device, where an MPS limit hides them")
    parser.add_argument("--gpu-type", help="name in the table; default by the device's name")
    parser.add_argument("--check-only", action="store_true", help="check the shares and stop")
    parser.add_argument("--no-fits", action="store_true", help="do not fit the table afterwards")
    parser.add_argument("--fits-only", action="store_true", help="fit the table that is there")
    return parser.parse_args(arguments)


def _default_out(options: argparse.Namespace) -> Path:
    if options.quick or options.check_only or options.dry_run:
        return Path(tempfile.mkdtemp(prefix="profile_gpu_")) / "quick.csv"
    return Path(__file__).resolve().parent / "results" / "profile_gpu.csv"


def _functions(options: argparse.Namespace) -> tuple[Function, ...]:
    if not options.only:
        return FUNCTIONS
    wanted = options.only.split(",")
    unknown = sorted(set(wanted) - {function.name for function in FUNCTIONS})
    if unknown:
        raise SystemExit(f"--only names {', '.join(unknown)}; there are {', '.join(f.name for f in FUNCTIONS)}")
    return tuple(function for function in FUNCTIONS if function.name in wanted)


def _missing(options: argparse.Namespace, functions: Sequence[Function]) -> str:
    """What measuring lacks here; "" where nothing."""
    needed = ["torch", *sorted({function.package for function in functions})]
    absent = [name for name in needed if find_spec(name) is None]
    if absent:
        return f"needs {', '.join(needed)}; not installed: {', '.join(absent)}"
    if options.dry_run or options.shares == "mps":  # a context in this process would keep its children off MPS
        return ""
    import torch

    return "" if torch.cuda.is_available() else "torch finds no GPU here; --dry-run goes the same way on the CPU"


def _measure(options: argparse.Namespace, functions: Sequence[Function], out: Path) -> str:
    deadline = START + options.budget_s - _RESERVE_S
    if options.dry_run:
        table = Table(out, "dry-run")
        lanes = {sms: shares.Lane(sms, None) for sms in (1, 2, 4)}
        return _measure_here(options, functions, table, lanes, 4, "cpu", deadline)
    if options.shares == "mps":
        return _measure_by_mps(options, out, deadline)

    facts = machine.description()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    table = Table(out, options.gpu_type or machine.gpu_type(facts["device"]))
    device_sms = options.device_sms or facts["sms"]
    lanes, method = _lanes(options, facts, device_sms)
    if method == "mps":
        return _measure_by_mps(options, out, deadline)
    runs = [*table.facts.get("runs", []), {**facts, "arguments": sys.argv[1:], "method": method}]
    table.save({"device_sms": device_sms, "runs": runs})
    if options.check_only:
        return "checked"
    stopped = _measure_here(options, functions, table, lanes, device_sms, "cuda", deadline)
    table.save({"stopped": stopped, "clocks_after": machine.clocks()})
    if options.quick:
        print("\nMPS:", _mps_probe(options))
    return stopped


def _measure_here(
    options: argparse.Namespace,
    functions: Sequence[Function],
    table: Table,
    lanes: dict[int, shares.Lane],
    device_sms: int,
    device: str,
    deadline: float,
) -> str:
    batches = {function.name: function.batches for function in functions}
    if options.dry_run:
        batches = {name: sizes[:3] if len(sizes) > 1 else (2,) for name, sizes in batches.items()}
    cells = plan.quick_cells(batches, list(lanes)) if options.quick else plan.ordered_cells(batches, list(lanes))
    cells = [cell for cell in cells if cell not in table.done]
    print(f"{len(cells)} cells to measure, {len(table.done)} done; {deadline - time.monotonic():.0f} s left")
    worker = measurer.TorchMeasurer(functions, lanes, device, launch=options.launch)
    table.save({"context_mib": worker.context_mib, "launch": options.launch})
    return measurer.run(cells, worker, table, device_sms=device_sms, deadline=deadline, now=time.monotonic)


def _lanes(options: argparse.Namespace, facts: dict[str, Any], device_sms: int) -> tuple[dict[int, shares.Lane], str]:
    """The lanes by SM count, and by what they are limited; facts get the checks and the problems."""
    import torch

    torch.cuda.init()
    warm = torch.randn(512, 512, device="cuda", dtype=torch.bfloat16)
    torch.matmul(warm, warm)  # a context and a cuBLAS handle before any lane
    visible = torch.cuda.get_device_properties(0).multi_processor_count
    whole = shares.whole_lane(visible)
    if options.shares in ("inherited", "none"):
        checks = shares.check_shares([whole])
        facts["share_check"] = checks
        print(f"{visible} of {device_sms} SMs visible: matrix product {checks[0]['ms']:.3f} ms")
        return {visible: whole}, "MPS percentage" if options.shares == "inherited" else "none"
    green, problems = shares.green_lanes(shares.wanted_sms(device_sms))
    facts["share_problems"] = problems
    print("\n".join(f"PROBLEM {problem}" for problem in problems))
    lanes = [*green, whole]
    for captured in (False, True):
        name = "share_check_graph" if captured else "share_check"
        try:
            checks = shares.check_shares(lanes, captured=captured)
        except Exception as error:
            traceback.print_exc()
            facts[name] = f"{type(error).__name__}: {error}"
            continue
        facts[name] = checks
        facts[f"{name}_bites"] = shares.bites(checks)
        print(
            f"8192^3 bf16 matrix product{', from a CUDA graph' if captured else ''}; "
            f"limit bites: {facts[f'{name}_bites']}"
        )
        for row in checks:
            print(
                f"  {row['sms']:>3} SMs {row['ms']:8.3f} ms: {row['slowdown']:5.2f}x, {row['expected']:5.2f}x expected"
            )
    if not facts.get("share_check_bites") and options.shares == "auto" and not options.check_only:
        print("green contexts do not limit the SMs here: MPS instead, or nothing where there is none")
        return ({}, "mps") if shutil.which("nvidia-cuda-mps-control") else ({visible: whole}, "none")
    if options.launch == "auto" and not facts.get("share_check_graph_bites"):
        print("the limit does not hold in CUDA graphs here: everything is issued step by step")
        options.launch = "eager"
    return {lane.sms: lane for lane in lanes}, "green contexts"


def _measure_by_mps(options: argparse.Namespace, out: Path, deadline: float) -> str:
    """One child process for each percentage, under a daemon of our own, each into the same table."""
    with shares.mps_daemon() as own:
        device_sms = options.device_sms or _whole_sms()
        for index, percentage in enumerate(_MPS_PERCENTAGES):
            left_s = deadline - time.monotonic()
            if left_s < 20:
                return f"out of time before {percentage} % of the SMs"
            slice_s = left_s / (len(_MPS_PERCENTAGES) - index)
            command = _child(
                options, "--out", str(out), "--budget-s", f"{slice_s:.0f}", "--device-sms", str(device_sms)
            )
            print(f"\n--- {percentage} % of the SMs by MPS, {slice_s:.0f} s", flush=True)
            subprocess.run(command, env=shares.client_environment(own, percentage), check=False, timeout=slice_s + 60)
    return "finished"


def _mps_probe(options: argparse.Namespace, percentage: int = 25) -> str:
    """Whether MPS limits the SMs of a process here, by a matrix product in a child process."""
    try:
        with shares.mps_daemon() as own:
            done = subprocess.run(
                _child(options, "--check-only"),
                env=shares.client_environment(own, percentage),
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        found = [line for line in done.stdout.splitlines() if "visible" in line]
        return f"at {percentage} %: {found[0]}" if found else f"no answer: {done.stdout[-500:]}{done.stderr[-1500:]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _child(options: argparse.Namespace, *extra: str) -> list[str]:
    passed = ["--only", options.only] if options.only else []
    passed += ["--launch", options.launch, "--shares", "inherited", "--no-fits", *extra]
    return [sys.executable, str(Path(__file__).resolve()), *passed]


def _whole_sms() -> int:
    """SMs of the device, asked in a child so that this process keeps no CUDA context."""
    code = "import torch; print(torch.cuda.get_device_properties(0).multi_processor_count)"
    return int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    )


def _restart(options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    """Go on in a new process, as this one can no longer use the GPU; the cell that broke it is passed over."""
    left_s = options.budget_s - (time.monotonic() - START)
    if options.quick or left_s < _LEAST_RESTART_S:
        return
    print(f"starting again with {left_s:.0f} s", flush=True)
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.execv(sys.executable, [sys.executable, str(Path(__file__).resolve()), *given, "--budget-s", f"{left_s:.0f}"])


if __name__ == "__main__":
    sys.exit(main())
