"""The instances of a cluster replay that found no place: a line of runs of alike, so that its size costs nothing."""

from __future__ import annotations

from collections.abc import Callable

Wanted = tuple[int, int]
"""Function and configuration of an instance that waits for a place."""


class WaitingLine:
    """Who waits, oldest first. `len()` counts instances."""

    def __init__(self) -> None:
        self._runs: list[tuple[Wanted, int]] = []

    def __len__(self) -> int:
        return sum(count for _, count in self._runs)

    def join(self, wanted: Wanted, count: int) -> None:
        """So many more, at the end."""
        if self._runs and self._runs[-1][0] == wanted:
            count += self._runs.pop()[1]
        if count:
            self._runs.append((wanted, count))

    def leave(self, wanted: Wanted, most: int) -> int:
        """Up to `most` of these go, the youngest first; returns how many went."""
        left = most
        kept: list[tuple[Wanted, int]] = []
        for each, count in reversed(self._runs):
            gone = min(left, count) if each == wanted else 0
            left -= gone
            if gone < count:
                kept.append((each, count - gone))
        self._runs = kept[::-1]
        return most - left

    def forget(self, function: int) -> None:
        """None of this function waits any longer."""
        self._runs = [run for run in self._runs if run[0][0] != function]

    def admit(self, place: Callable[[Wanted], bool]) -> set[Wanted]:
        """Let in, oldest first, whom `place` finds a place for; one refusal stands for all alike. Returns those."""
        hopeless: set[Wanted] = set()
        still: list[tuple[Wanted, int]] = []
        for wanted, count in self._runs:
            while count and wanted not in hopeless:
                if place(wanted):
                    count -= 1
                else:
                    hopeless.add(wanted)
            if count:
                still.append((wanted, count))
        self._runs = still
        return hopeless
