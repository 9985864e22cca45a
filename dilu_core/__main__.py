"""`python -m dilu_core plan WORKLOAD.toml`: from a workload file to quotas, a placement and its cost, as tables."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from dilu_core import _checks as checks
from dilu_core.errors import BackendUnavailableError, DiluError, FileFormatError, InvalidArgumentError
from dilu_core.plans import Plan
from dilu_core.workload import PLAN_OPTIONS, read_workload

EXIT_BAD_INPUT = 2
EXIT_INCOMPLETE = 1

EXAMPLE_NOTICE = (
    "Embedded example. Its profile table was measured on one NVIDIA H100 (dilu_core/example/README.md); its loads and\n"
    "SLOs are invented.\n"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 incomplete with --require-complete, 2 bad input."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        if options.plot:
            from dilu_core.plotting import check_picture

            check_picture(options.plot, "plot")
        if options.example:
            print(EXAMPLE_NOTICE)
            with as_file(files("dilu_core.example")) as folder:
                made = _plan(folder / "workload.toml", options)
        else:
            made = _plan(options.workload, options)
        print(made.summary())
        _write(made, options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DiluError, BackendUnavailableError, OSError, ImportError) as error:
        print(f"dilu_core: {_one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_INCOMPLETE if options.require_complete and not made.complete else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dilu_core", description="Plan GPU quotas and placements.")
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser("plan", help="plan the functions of a workload file on its cluster")
    source = plan.add_mutually_exclusive_group(required=True)
    source.add_argument("workload", nargs="?", type=Path, metavar="WORKLOAD.toml", help="see dilu_core/workload.py")
    source.add_argument("--example", action="store_true", help="plan the example inside the package")
    plan.add_argument("--json", type=Path, metavar="FILE", help="write the plan as JSON")
    plan.add_argument("--plot", type=Path, metavar="FILE.png", help="draw each GPU with its instances (matplotlib)")
    plan.add_argument("--time-limit", type=float, metavar="SECONDS", help="for the placement (default 10)")
    plan.add_argument("--seed", type=int, help="of the placement (default 0)")
    plan.add_argument("--require-complete", action="store_true", help="exit with 1 if something could not be planned")
    return parser


def _plan(path: Path, options: argparse.Namespace) -> Plan:
    from dilu_core.solvers.planner import plan

    workload = read_workload(path)
    settings: dict[str, Any] = {"time_limit_s": 10.0, **workload.options}
    if options.time_limit is not None:
        settings["time_limit_s"] = options.time_limit
    if options.seed is not None:
        settings["seed"] = options.seed
    with _naming(path):
        limit_s = checks.finite("time_limit_s", settings["time_limit_s"], at_least=0.0)
    with _progress(limit_s) as report, _naming(path):
        return plan(
            workload.functions,
            workload.cluster,
            oversubscription=workload.oversubscription,
            price_per_gpu_hour=workload.price_per_gpu_hour,
            progress=report,
            **settings,
        )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of planning name the file whose options or functions they are about."""
    try:
        yield
    except InvalidArgumentError as error:
        where = f"plan.{error.argument}" if error.argument in PLAN_OPTIONS else error.argument
        raise FileFormatError(str(path), f"{where} {error.message}") from error


@contextmanager
def _progress(limit_s: float) -> Iterator[Callable[[int, int, float], None] | None]:
    """A progress bar on work longer than two seconds; none without tqdm or where nobody watches."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=round(limit_s, 1), desc="placing", unit="s", delay=2.0, disable=None, leave=False) as bar:

        def report(incumbent: int, bound: int, seconds: float) -> None:
            bar.set_postfix_str(f"{incumbent} GPUs, at least {bound}", refresh=False)
            bar.update(max(0.0, min(seconds, limit_s) - bar.n))

        yield report


def _write(made: Plan, options: argparse.Namespace) -> None:
    if options.json:
        options.json.write_text(made.to_json(indent=1) + "\n", encoding="utf-8")
        print(f"  wrote {options.json}")
    if options.plot:
        from dilu_core.plotting import plot_plan

        plot_plan(made, options.plot)
        print(f"  wrote {options.plot}")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
