"""Measures one cell at a time on a device: builds modules once, makes inputs once per batch, captures, times."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from profiling_gpu.models import Function
from profiling_gpu.plan import Cell, share_milli, timing_s
from profiling_gpu.shares import Lane, graph_of
from profiling_gpu.steps import Prepared, Step
from profiling_gpu.table import STICKY, Table
from profiling_gpu.timing import CpuClock, CudaClock, Timing, measure

MIB = 2**20
Launch = Literal["auto", "graph", "eager"]
_TRACEBACKS = 3  # of one function, printed in full


class Measurer(Protocol):
    """What `run` needs of a device."""

    def measure(self, cell: Cell, target_s: float) -> tuple[Timing, float, str]:
        """(timing, memory in MiB or 0 where unknown, note) of one cell; raises whatever goes wrong."""
        ...

    def recover(self) -> None:
        """Free what a failed measurement may have left."""
        ...


def run(
    cells: Sequence[Cell],
    measurer: Measurer,
    table: Table,
    *,
    device_sms: int,
    deadline: float,
    now: Callable[[], float],
    say: Callable[[str], None] = print,
) -> str:
    """Measure `cells` in order into `table` until `deadline` (a time of `now`, in seconds); why it stopped.

    A cell that fails is noted with its error and the next one tried; only a CUDA context that is lost ends the run.
    """
    failures: dict[str, int] = {}
    for index, cell in enumerate(cells):
        left_s = deadline - now()
        if left_s <= 0:
            return f"out of time with {len(cells) - index} of {len(cells)} cells left"
        try:
            timing, memory_mib, note = measurer.measure(cell, timing_s(left_s, len(cells) - index))
        except Exception as error:
            message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            table.failed(cell, message)
            failures[cell.function] = failures.get(cell.function, 0) + 1
            if failures[cell.function] <= _TRACEBACKS:
                say(f"FAILED {cell}\n{traceback.format_exc()}")
            if any(words in message.lower() for words in STICKY):
                return f"lost the CUDA context at {cell}: {message}"
            measurer.recover()
            continue
        milli = share_milli(cell.sms, device_sms)
        table.add(cell, milli, timing, memory_mib, note)
        say(
            f"{cell.function:<20} batch {cell.batch:>4}  {cell.sms:>3} SMs ({milli / 10:5.1f} %)  "
            f"{timing.median_ms:9.3f} ms  p95 {timing.p95_ms:9.3f}  host {timing.host_ms:8.3f}  x{timing.repeats:<3}"
            f" {memory_mib:7.0f} MiB  {note}{'  HOST-BOUND' if timing.host_bound else ''}"
        )
    return "finished"


class TorchMeasurer:
    """Functions on the lanes of one CUDA device, or on the CPU for a dry run (`device` "cpu", tiny modules).

    Inference is replayed from a CUDA graph, as serving engines do, and training issued step by step; `launch` sets one
    way for all. A function whose capture fails is issued step by step, and its note says so.
    Memory is what one instance alone would hold: weights, inputs and caches, peak of what a run adds, CUDA context.
    """

    def __init__(
        self, functions: Sequence[Function], lanes: Mapping[int, Lane], device: str, *, launch: Launch = "auto"
    ) -> None:
        self._functions = {function.name: function for function in functions}
        self._lanes = lanes
        self._device = device
        self._launch = launch
        self._modules: dict[str, tuple[Any, int]] = {}
        self._prepared: dict[str, Prepared] = {}
        self._current: tuple[str, int] | None = None
        self._step: Step | None = None
        self._input_bytes = 0
        self._eager_grown = 0
        self._eager: set[str] = set()
        self._unbuilt: dict[str, str] = {}
        self.context_mib = self._context_mib()

    def measure(self, cell: Cell, target_s: float) -> tuple[Timing, float, str]:
        function = self._functions[cell.function]
        if function.weights in self._unbuilt:
            raise RuntimeError(f"{function.weights} could not be built: {self._unbuilt[function.weights]}")
        try:
            return self._measured(function, cell, target_s)
        except Exception as error:
            if "out of memory" not in str(error).lower() or len(self._modules) < 2:
                raise
        self._keep_only(function.weights)
        return self._measured(function, cell, target_s)

    def recover(self) -> None:
        self._current = self._step = None
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _measured(self, function: Function, cell: Cell, target_s: float) -> tuple[Timing, float, str]:
        step = self._ready(function, cell.batch)
        if self._device == "cpu":
            return measure(step, CpuClock(), target_s=target_s, warm_ups=1), 0.0, "dry-run"
        import torch

        lane = self._lanes[cell.sms]
        self._clear()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        graph = self._graph(function, step, lane)
        timed = step if graph is None else graph.replay
        timing = measure(timed, CudaClock(lane.stream), target_s=target_s, warm_ups=2)
        grown = torch.cuda.max_memory_reserved() - before
        if function.trains:  # a captured step keeps its gradients in the graph's pool: the step by itself tells more
            grown = self._eager_grown
        own = self._modules[function.weights][1] + self._input_bytes + grown
        return timing, own / MIB + self.context_mib, "eager" if graph is None else "cuda-graph"

    def _graph(self, function: Function, step: Step, lane: Lane) -> Any:
        if self._launch == "eager" or function.name in self._eager:
            return None
        try:
            return graph_of(step, lane.stream)
        except Exception as error:
            if "out of memory" in str(error).lower():
                raise
            self._eager.add(function.name)
            print(f"{function.name}: no CUDA graph, issued step by step\n{traceback.format_exc()}")
            return None

    def _ready(self, function: Function, batch: int) -> Step:
        """The step of a function at a batch size, run once so that lazily made state is there."""
        if self._current == (function.name, batch) and self._step is not None:
            return self._step
        self._current = self._step = None
        module = self._module(function)
        self._clear()
        before = self._allocated()
        if function.name not in self._prepared:
            self._prepared[function.name] = function.prepare(module, self._device)
        step = self._prepared[function.name](batch)
        reserved = self._reserved()
        step()
        self._eager_grown = self._most_reserved() - reserved
        self._clear()
        self._input_bytes = max(self._allocated() - before, 0)
        self._current, self._step = (function.name, batch), step
        return step

    def _module(self, function: Function) -> Any:
        if function.weights not in self._modules:
            before = self._allocated()
            try:
                module = function.build(self._device, self._device == "cpu")
            except Exception as error:
                if "out of memory" not in str(error).lower():
                    self._unbuilt[function.weights] = f"{type(error).__name__}: {error}"
                raise
            self._modules[function.weights] = (module, self._allocated() - before)
        return self._modules[function.weights][0]

    def _keep_only(self, weights: str) -> None:
        """Forget all modules but one, with the steps that hold them."""
        self._current = self._step = None
        for key in [key for key in self._modules if key != weights]:
            del self._modules[key]
        for name in [name for name in self._prepared if self._functions[name].weights != weights]:
            del self._prepared[name]
        self._clear()

    def _allocated(self) -> int:
        if self._device == "cpu":
            return 0
        import torch

        torch.cuda.synchronize()
        return int(torch.cuda.memory_allocated())

    def _reserved(self) -> int:
        """Bytes reserved now, from which on the peak counts."""
        if self._device == "cpu":
            return 0
        import torch

        self._clear()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_reserved())

    def _most_reserved(self) -> int:
        if self._device == "cpu":
            return 0
        import torch

        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_reserved())

    def _clear(self) -> None:
        """Give unused memory back, cuBLAS workspaces included, so that the next peak is one run's own."""
        if self._device == "cpu":
            return
        import torch

        torch.cuda.synchronize()
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()
        torch.cuda.empty_cache()

    def _context_mib(self) -> float:
        """MiB in use on the device beyond what tensors hold: the CUDA context and libraries, lanes included."""
        if self._device == "cpu":
            return 0.0
        import torch

        self._clear()
        free, total = torch.cuda.mem_get_info()
        return float((total - free - torch.cuda.memory_reserved()) / MIB)
