"""Branch and bound over one option per function, depth first, on what `joint_prepare` left of the problem.

A level per function; each level lists its options by ascending loss, so the first whose loss exceeds the slack ends the
level (see `joint_prepare` for loss and slack). An option must also leave room for the lightest of every level below it.
The last level needs no losses: its options stand by descending gain, and the first that fits is the best; it is not
entered where even its greatest gain falls short.

Of equal answers the one that comes first in lexicographic order of original option numbers, function 0 first, is
returned. A node that can at best tie is therefore followed only while its first completion precedes the incumbent.
Where values are few and ties many, that is a long walk: after `TIE_LIMIT` such nodes the search only proves the value,
and `first_choice` then looks for the first choice that has it, in that very order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.joint_bits import BLOCK, SETS, bit_sets, first_of, may_fit
from dilu_core.kernels.cpu.joint_packing import fits

TIE_LIMIT = 1000


@compiled
def sort_levels(
    count: NDArray[np.int64], loss: NDArray[np.int64], gain: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The function of each level and the positions of its options in search order, (n,) and (n, K).

    The function whose second option loses most comes first: it leaves the fewest children. The last level is sorted by
    descending gain, the others by ascending loss; ties keep the order of the list.
    """
    functions = count.shape[0]
    runner_up = np.empty(functions, dtype=np.int64)
    for i in range(functions):
        first, second = 1 << 62, 1 << 62
        for k in range(count[i]):
            if loss[i, k] < first:
                first, second = loss[i, k], first
            elif loss[i, k] < second:
                second = loss[i, k]
        runner_up[i] = -second
    function = np.argsort(runner_up, kind="mergesort")
    order = np.zeros(loss.shape, dtype=np.int64)
    for level in range(functions):
        i = function[level]
        for k in range(count[i]):
            key = loss[i, k] if level < functions - 1 else -gain[i, k]
            at = k
            while at > 0:
                before = order[level, at - 1]
                if (loss[i, before] if level < functions - 1 else -gain[i, before]) <= key:
                    break
                order[level, at] = before
                at -= 1
            order[level, at] = k
    return function, order


@compiled
def precedes(current: NDArray[np.int64], function: int, option: int, other: NDArray[np.int64]) -> bool:
    """Whether `current` (n,), with `option` at `function`, precedes `other` (n,)."""
    for i in range(current.shape[0]):
        each = option if i == function else current[i]
        if each != other[i]:
            return bool(each < other[i])
    return False


@compiled
def branch(
    function: NDArray[np.int64],
    count: NDArray[np.int64],
    option: NDArray[np.int64],
    gain: NDArray[np.int64],
    load: NDArray[np.int64],
    loss: NDArray[np.int64],
    excess: NDArray[np.int64],
    first_option: NDArray[np.int64],
    spare: int,
    most_excess: int,
    slack: int,
    unit: int,
    best: int,
    choice: NDArray[np.int64],
    node_limit: int,
) -> tuple[int, int, bool]:
    """Improve `choice` (n,), whose gain is `best` (-1: none), to the best answer.

    Returns its gain, the nodes visited, and whether `choice` is proven the first of that gain.

    Level d is `function[d]`; its options in search order are rows of `option` (original numbers), `gain`, `load`
    (packed, beyond the lightest of the level) and `loss`; `spare` is what the lightest of all levels leave. `excess`
    and its capacity `most_excess` are those of `beyond_lightest`. `first_option[i]` is the least option number of
    function i. A search that would visit more than `node_limit` nodes stops there and returns one more than that.
    """
    last = function.shape[0] - 1
    if last == 0:
        choice[0] = option[0, 0]
        return gain[0, 0], 1, True
    sets, entries, shifts = bit_sets(count, load, excess, spare, most_excess)
    current = first_option.copy()
    room = np.zeros(last, dtype=np.int64)
    lost = np.zeros(last, dtype=np.int64)
    gained = np.zeros(last, dtype=np.int64)
    left = np.zeros(last, dtype=np.int64)
    untried = np.zeros(last, dtype=np.int64)  # bits of the current block
    start = np.full(last, -BLOCK, dtype=np.int64)  # the first option of that block
    room[0], left[0] = spare, most_excess
    end, last_gain, last_load, greatest = last * entries, gain[last], load[last], gain[last, 0]
    last_stop = end + (count[last] + BLOCK - 1) // BLOCK * SETS
    level, nodes, ties = 0, 1, 0
    while level >= 0:
        i = function[level]
        if untried[level] == 0:
            start[level] += BLOCK
            k = start[level]
            if k >= count[level] or lost[level] + loss[level, k] > slack:
                current[i] = first_option[i]
                level -= 1
            else:
                at = level * entries + k // BLOCK * SETS
                untried[level] = may_fit(sets, at, room[level], left[level], shifts)
            continue
        k = start[level] + first_of(untried[level])
        untried[level] &= untried[level] - 1
        total_loss = lost[level] + loss[level, k]
        if total_loss > slack:
            current[i] = first_option[i]
            level -= 1
            continue
        within, beside, total = (
            room[level] - load[level, k],
            left[level] - excess[level, k],
            gained[level] + gain[level, k],
        )
        if beside < 0 or not fits(room[level], load[level, k]):
            continue
        if level == last - 1 and total + greatest < best:
            continue
        if total_loss > slack - unit:
            if not precedes(current, i, option[level, k], choice):
                continue
            ties += 1
            if ties > TIE_LIMIT:
                continue
        if nodes >= node_limit:
            return best, nodes + 1, False
        nodes += 1
        current[i] = option[level, k]
        if level < last - 1:
            level += 1
            room[level], lost[level], gained[level], left[level] = within, total_loss, total, beside
            untried[level], start[level] = 0, -BLOCK
            continue
        at, found = end, -1
        while at < last_stop and found < 0:
            fitting = may_fit(sets, at, within, beside, shifts)
            while fitting != 0:
                k = (at - end) // SETS * BLOCK + first_of(fitting)
                if total + last_gain[k] < best:
                    at = last_stop
                    break
                if fits(within, int(last_load[k])):
                    found = k
                    break
                fitting &= fitting - 1
            at += SETS
        if found >= 0:
            total += last_gain[found]
            if total > best or precedes(current, int(function[last]), option[last, found], choice):
                slack -= unit * (total - best)
                best = total
                choice[:] = current
                choice[function[last]] = option[last, found]
    return best, nodes, ties <= TIE_LIMIT


@compiled
def first_choice(
    count: NDArray[np.int64],
    option: NDArray[np.int64],
    gain: NDArray[np.int64],
    load: NDArray[np.int64],
    loss: NDArray[np.int64],
    excess: NDArray[np.int64],
    least: NDArray[np.int64],
    spare: int,
    most_excess: int,
    slack: int,
    best: int,
    choice: NDArray[np.int64],
    node_limit: int,
) -> int:
    """Set `choice` (n,) to the first, in lexicographic order, of the greatest gain, `best`; returns the nodes visited.

    Rows are functions here, and their options stand in original order; `least` (n,) are their packed least weights.
    `spare`, `excess` and `most_excess` are as in `branch`; `slack` is what `best` leaves. More than `node_limit` nodes,
    and `choice` is left as it is.
    """
    last = count.shape[0] - 1
    room = np.zeros(last + 1, dtype=np.int64)
    lost = np.zeros(last + 1, dtype=np.int64)
    gained = np.zeros(last + 1, dtype=np.int64)
    position = np.zeros(last + 1, dtype=np.int64)
    left = np.zeros(last + 1, dtype=np.int64)
    room[0], left[0] = spare + least[0], most_excess
    i, nodes = 0, 0
    while i >= 0:
        k = position[i]
        if k == count[i]:
            i -= 1
            continue
        position[i] = k + 1
        if lost[i] + loss[i, k] > slack or excess[i, k] > left[i] or not fits(room[i], load[i, k]):
            continue
        if i == last:
            if gained[i] + gain[i, k] != best:
                continue
            for each in range(last + 1):
                choice[each] = option[each, position[each] - 1]
            return nodes
        nodes += 1
        if nodes > node_limit:
            return nodes
        room[i + 1] = room[i] - load[i, k] + least[i + 1]
        lost[i + 1] = lost[i] + loss[i, k]
        gained[i + 1] = gained[i] + gain[i, k]
        left[i + 1] = left[i] - excess[i, k]
        i += 1
        position[i] = 0
    return nodes
