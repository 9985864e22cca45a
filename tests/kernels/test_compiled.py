"""What is compiled without counting references must not create any: nobody would ever free it."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from numba.core import config
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError

from dilu_core import kernels, warm_up
from dilu_core.kernels.cpu.compiled import compiled_in_place

pytestmark = pytest.mark.skipif(
    bool(getattr(config, "DISABLE_JIT", 0)), reason="nothing is compiled (NUMBA_DISABLE_JIT)"
)
NUMBERS = {int, float, bool, type(None)}


def dispatchers() -> dict[str, Any]:
    """Every compiled function of the kernels that need no GPU, by name."""
    found = {}
    for module in pkgutil.walk_packages(kernels.__path__, kernels.__name__ + "."):
        if ".cuda" not in module.name:
            members = vars(importlib.import_module(module.name))
            found.update({f"{each.__module__}.{each.__name__}": each for each in members.values() if is_compiled(each)})
    return found


def is_compiled(member: object) -> bool:
    return isinstance(member, Dispatcher)


def is_in_place(function: Any) -> bool:
    return function.targetoptions.get("_nrt") is False


def gives_numbers(function: Any) -> bool:
    """Whether the annotations promise numbers, or tuples of numbers."""
    returned = get_type_hints(function.py_func)["return"]
    return {returned} <= NUMBERS or (bool(get_args(returned)) and set(get_args(returned)) <= NUMBERS)


def called(function: Any) -> Iterator[Any]:
    """The compiled functions that `function` names, and those that the inlined ones among them name in its place."""
    scope = function.py_func.__globals__
    modules = [each for each in scope.values() if isinstance(each, ModuleType)]
    for name in function.py_func.__code__.co_names:
        named: list[Any] = [scope.get(name), *(getattr(module, name, None) for module in modules)]
        for each in named:
            if is_compiled(each):
                yield each
                if each.targetoptions.get("inline") == "always":
                    yield from called(each)


def test_what_works_in_place_gives_and_gets_numbers_only() -> None:
    """Nothing compiled in place returns an array, nor calls anything compiled that does."""
    in_place = {name: each for name, each in dispatchers().items() if is_in_place(each)}
    assert {"policy_step", "divide_gpu", "find_room"} <= {name.rsplit(".", 1)[1] for name in in_place}
    wrong = [name for name, each in in_place.items() if not all(map(gives_numbers, (each, *called(each))))]
    assert not wrong


def test_a_function_that_allocates_does_not_compile_in_place() -> None:
    """It says so at its first call."""

    def total(values: Any) -> float:
        return float(np.zeros(3).sum() + values[0])

    with pytest.raises(NumbaError, match=r"NRT required|Only accept returning of array passed"):
        compiled_in_place(total)(np.ones(1))


def test_nothing_is_left_allocated() -> None:
    """A small problem of every kind leaves nothing behind that the same problem had not left before."""
    memory = pytest.importorskip("numba.core.runtime._nrt_python")

    def kept() -> int:
        """Allocations that nobody has freed, after all of them once more."""
        warm_up()
        gc.collect()
        return int(memory.memsys_get_stats_alloc() - memory.memsys_get_stats_free())

    was_on = memory.memsys_stats_enabled()
    memory.memsys_enable_stats()
    try:
        kept()  # compiled and at rest
        before, allocated = kept(), memory.memsys_get_stats_alloc()
        assert kept() == before
        assert memory.memsys_get_stats_alloc() > allocated  # they do allocate, and are counted
    finally:
        if not was_on:
            memory.memsys_disable_stats()
