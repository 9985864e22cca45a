"""Work cut into pieces that fit the device's memory: smaller where the device refuses, an error where none fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dilu_core.kernels.backend import DeviceMemoryError

FILL = 0.8
"""Part of the free memory that one chunk may take: the rest is for the allocator's rounding and for other processes."""


class Memory(Protocol):
    """A device's memory, as far as chunking needs it."""

    @property
    def out_of_memory(self) -> type[BaseException]:
        """What an allocation raises where nothing is left."""
        ...

    def free_bytes(self) -> int:
        """Bytes that can still be allocated."""
        ...

    def release(self) -> None:
        """Gives blocks that the process holds unused back to the device."""
        ...


class CupyMemory:
    """Memory of the current device through CuPy's default pool."""

    @property
    def out_of_memory(self) -> type[BaseException]:
        import cupy

        error: type[BaseException] = cupy.cuda.memory.OutOfMemoryError
        return error

    def free_bytes(self) -> int:
        import cupy

        free, _ = cupy.cuda.runtime.memGetInfo()
        return int(free) + int(cupy.get_default_memory_pool().free_bytes())

    def release(self) -> None:
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()


def in_chunks(count: int, bytes_each: int, run: Callable[[int, int], None], *, memory: Memory | None = None) -> int:
    """Calls `run(start, stop)` over consecutive ranges of `count` items and returns the number of ranges that ran.

    A range takes at most `FILL` of the free memory at `bytes_each` per item. Where `run` still runs out of memory, it
    is called again for the first half of the same range, so it must write only what belongs to its range. Raises
    `DeviceMemoryError` where a range of one item does not fit.
    """
    memory = CupyMemory() if memory is None else memory
    largest = max(1, int(FILL * memory.free_bytes()) // max(1, bytes_each))
    start = chunks = 0
    while start < count:
        stop = min(count, start + largest)
        if _fits(run, start, stop, memory.out_of_memory):
            start, chunks = stop, chunks + 1
            continue
        memory.release()  # after the handler has let go of the failed call's arrays
        if stop - start == 1:
            raise DeviceMemoryError(
                f"one item of the work needs {bytes_each:,} bytes on the device, which has {memory.free_bytes():,} "
                "free; free memory on the GPU or use backend='cpu'."
            )
        largest = (stop - start) // 2
    return chunks


def _fits(run: Callable[[int, int], None], start: int, stop: int, out_of_memory: type[BaseException]) -> bool:
    """Whether `run(start, stop)` came to its end; on the way out of here a failed call's arrays are freed."""
    try:
        run(start, stop)
    except out_of_memory:
        return False
    return True
