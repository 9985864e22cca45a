"""Functions as bits: which functions each GPU holds, and which those on it refuse, as words that kernels compare.

A function has a number while any instance on the cluster is of it or refuses it; then the number serves the next one.
The counts that make removal exact stay in `function_on` and `refused_on`; a bit is set while its count is above zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Instance

Bits = NDArray[np.uint64]

_WORD = 64


class FunctionBits:
    """`has` and `refuses` are (n_gpus, n_words) uint64; words are added as more functions are here at once."""

    def __init__(self, gpus: int) -> None:
        self.has: Bits = np.zeros((gpus, 1), np.uint64)
        self.refuses: Bits = np.zeros((gpus, 1), np.uint64)
        # function -> row -> how many instances there are of that function, and how many refuse it
        self.function_on: dict[str, dict[int, int]] = {}
        self.refused_on: dict[str, dict[int, int]] = {}
        self.version = 0  # of the numbers
        self.number: dict[str, int] = {}
        self._unused: list[int] = []
        self._masks: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Bits] = {}

    def count(self, instance: Instance, gpus: tuple[int, ...], sign: int) -> None:
        """Add (`sign` 1) or take away (-1) an instance on the rows `gpus`."""
        if instance.function:
            self._count(self.function_on, self.has, instance.function, gpus, sign)
        for refused in instance.anti_affinity:
            self._count(self.refused_on, self.refuses, refused, gpus, sign)

    def _count(
        self, index: dict[str, dict[int, int]], bits: Bits, function: str, gpus: tuple[int, ...], sign: int
    ) -> None:
        number = self.number.get(function)
        if number is None:
            number = self._assign(function)
            bits = self.has if index is self.function_on else self.refuses
        rows = index.get(function)
        if rows is None:
            rows = index[function] = {}
        word, bit = number // _WORD, np.uint64(1 << number % _WORD)
        for gpu in gpus:
            before = rows.get(gpu, 0)
            if before + sign == 0:
                del rows[gpu]
                bits[gpu, word] ^= bit
            else:
                rows[gpu] = before + sign
                if before == 0:
                    bits[gpu, word] ^= bit
        if not rows:
            del index[function]
            if function not in self.function_on and function not in self.refused_on:
                self._unused.append(self.number.pop(function))
                self._renumbered()

    def _assign(self, function: str) -> int:
        """A number for a function that has none; it may take one word more."""
        number = self._unused.pop() if self._unused else len(self.number)
        self.number[function] = number
        self._renumbered()
        if number >= _WORD * self.has.shape[1]:
            more = np.zeros((self.has.shape[0], max(1, self.has.shape[1])), np.uint64)
            self.has, self.refuses = np.hstack([self.has, more]), np.hstack([self.refuses, more])
        return number

    def _renumbered(self) -> None:
        self.version += 1
        self._masks.clear()

    def masks(self, instance: Instance) -> Bits:
        """(3, n_words) uint64: its own function, the functions it refuses, and those it would rather sit beside."""
        key = (instance.function, instance.anti_affinity, instance.affinity)
        found = self._masks.get(key)
        if found is None:
            found = np.zeros((3, self.has.shape[1]), np.uint64)
            for row, functions in enumerate(((instance.function,), instance.anti_affinity, instance.affinity)):
                for function in functions:
                    number = self.number.get(function)
                    if number is not None:
                        found[row, number // _WORD] |= np.uint64(1 << number % _WORD)
            if len(self._masks) > 10_000:  # names that come and go must not pile up
                self._masks.clear()
            self._masks[key] = found
        return found

    def copy(self) -> FunctionBits:
        """One of its own with the same content."""
        other = FunctionBits(0)
        other.has, other.refuses = self.has.copy(), self.refuses.copy()
        other.function_on = {function: dict(rows) for function, rows in self.function_on.items()}
        other.refused_on = {function: dict(rows) for function, rows in self.refused_on.items()}
        other.number, other._unused = dict(self.number), list(self._unused)
        return other
