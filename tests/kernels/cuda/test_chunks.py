"""Work is cut to what the device's memory holds, smaller where an allocation fails, and refused where nothing fits."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import BackendUnavailableError
from dilu_core.kernels.backend import DeviceMemoryError
from dilu_core.kernels.cuda.chunks import FILL, in_chunks


class _OutOfMemoryError(MemoryError):
    pass


@dataclass
class _Device:
    """A device that claims `claimed` free bytes and fails allocations above `truth`; `bytes_each` are really needed."""

    claimed: int
    truth: int
    bytes_each: int
    done: list[int] = field(default_factory=list)
    largest: int = 0
    released: int = 0

    @property
    def out_of_memory(self) -> type[BaseException]:
        return _OutOfMemoryError

    def free_bytes(self) -> int:
        return self.claimed

    def release(self) -> None:
        self.released += 1

    def run(self, start: int, stop: int) -> None:
        if (stop - start) * self.bytes_each > self.truth:
            raise _OutOfMemoryError
        self.largest = max(self.largest, stop - start)
        self.done.extend(range(start, stop))


@given(
    count=st.integers(0, 300), bytes_each=st.integers(1, 50), claimed=st.integers(0, 5000), truth=st.integers(50, 5000)
)
def test_every_item_runs_once_in_order(count: int, bytes_each: int, claimed: int, truth: int) -> None:
    """Whatever the device claims, every item runs exactly once and no chunk exceeds what it can hold."""
    device = _Device(claimed, truth, bytes_each)
    chunks = in_chunks(count, bytes_each, device.run, memory=device)
    assert device.done == list(range(count))
    assert device.largest * bytes_each <= truth
    assert chunks >= -(-count * bytes_each // truth)
    assert (chunks == 0) == (count == 0)


def test_what_fits_is_one_chunk() -> None:
    """No cutting where the memory suffices."""
    device = _Device(claimed=1000, truth=1000, bytes_each=8)
    assert in_chunks(int(1000 * FILL) // 8, 8, device.run, memory=device) == 1
    assert device.released == 0


def test_a_refused_chunk_is_halved_and_the_pool_released() -> None:
    """100 items that claim to fit but do not: the pool is emptied and halves are tried until one does."""
    device = _Device(claimed=10_000, truth=30, bytes_each=1)
    assert in_chunks(100, 1, device.run, memory=device) == 4
    assert device.largest == 25
    assert device.released == 2


def test_one_item_that_does_not_fit_is_an_error_with_its_bytes() -> None:
    """The error is a back-end error: the caller may go on with the CPU."""
    device = _Device(claimed=64, truth=0, bytes_each=4096)
    with pytest.raises(DeviceMemoryError, match=r"needs 4,096 bytes .* has 64 free.*backend='cpu'"):
        in_chunks(5, 4096, device.run, memory=device)
    assert issubclass(DeviceMemoryError, BackendUnavailableError)


def test_other_errors_pass() -> None:
    """Only running out of memory is answered by cutting."""

    def run(_start: int, _stop: int) -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        in_chunks(5, 1, run, memory=_Device(100, 100, 1))


def test_arrays_of_a_failed_chunk_are_freed_before_the_next() -> None:
    """What a failed call held is gone when the pool is released: otherwise the halves would not fit either."""
    alive: list[bool] = []

    class Array:
        def __del__(self) -> None:
            alive.clear()

    class Pool(_Device):
        def release(self) -> None:
            assert not alive

    pool = Pool(claimed=100, truth=2, bytes_each=1)

    def run(start: int, stop: int) -> None:
        array = Array()
        alive.append(True)
        pool.run(start, stop)
        del array

    assert in_chunks(4, 1, run, memory=pool) == 2
