"""Where an instance fits best on several GPUs of one node: gangs, and memory divided over GPUs.

Columns, answers and ties are as in `kernels.cpu.packing`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.ledger import ACTIVE, ALIKE_UNTIL, REACH

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_ROUNDING = 1e-12
"""More than sums of scores differ by the order of their terms."""


@compiled
def best_gang(
    free: Ints,
    weight: Floats,
    held: Ints,
    preference: Ints,
    penalty: Floats,
    special: bool,
    node_start: Ints,
    node_state: Ints,
    totals: Ints,
    request: int,
    limit: int,
    memory: Ints,
    size: int,
    chosen: Ints,
) -> tuple[int, int]:
    """One GPU of one node for each of the first `size` entries of `memory`, which decrease: (node or -1, GPUs opened).

    Takes the fewest opened, then the most liked, then best fit, and writes the rows into `chosen`. Serving the largest
    entry first is enough: the GPUs that suit a larger entry also suit a smaller one, so no choice made for the larger
    can block the smaller beyond need.
    """
    picked = np.empty(size, np.int64)
    scores = np.empty(size)
    best = -1
    best_opened = 0
    best_liked = 0
    best_score = np.inf
    empty_size = 0
    empty_memory = 0
    following = 0
    while following < node_start.size - 1:
        n = following
        following = n + 1
        start, stop = node_start[n], node_start[n + 1]
        if n >= totals[REACH] and not special:
            following = node_state[n, ALIKE_UNTIL]  # those after it are as empty as it
        if stop - start < size or (best >= 0 and size - node_state[n, ACTIVE] > best_opened):
            continue
        unused = node_state[n, ACTIVE] == 0
        if unused and stop - start == empty_size and free[start, 2] == empty_memory:
            continue  # one empty node is as good as the next of its shape
        suitable = 0
        active = 0
        least = next_least = np.inf
        total = 0.0
        for g in range(start, stop):  # the cheap look that spares most nodes the careful one
            allowed = not special or preference[g] >= 0
            if allowed & (free[g, 0] >= request) & (free[g, 1] >= limit) & (free[g, 2] >= memory[size - 1]):
                suitable += 1
                active += 1 if held[g] > 0 else 0
                score: float = (free[g, 0] - request) * weight[g, 0]
                score += (free[g, 1] - limit) * weight[g, 1]
                score += (free[g, 2] - memory[0]) * weight[g, 2]
                next_least = min(next_least, max(least, score))
                least = min(least, score)
                total += score
        if suitable < size or (best >= 0 and size - active > best_opened):
            continue
        if not special and best >= 0 and size - active == best_opened:
            at_least = total if suitable == size else least + (size - 1) * next_least
            if at_least >= best_score + _ROUNDING:
                continue  # it opens as many, and cannot fit better
        opened, liked_sum, score_sum = _pick_gang(
            free, weight, held, preference, penalty, special, start, stop, request, limit, memory, size, picked, scores
        )
        if opened < 0:
            continue
        if unused:
            empty_size, empty_memory = stop - start, free[start, 2]
        # among equals, the node that keeps the fewest other GPUs empty
        score_sum += 1e-6 * (stop - start - node_state[n, ACTIVE])
        better = opened < best_opened or (
            opened == best_opened and (liked_sum > best_liked or (liked_sum == best_liked and score_sum < best_score))
        )
        if best < 0 or better:
            best, best_opened, best_liked, best_score = n, opened, liked_sum, score_sum
            chosen[:size] = picked
    return best, best_opened


@compiled
def _pick_gang(
    free: Ints,
    weight: Floats,
    held: Ints,
    preference: Ints,
    penalty: Floats,
    special: bool,
    start: int,
    stop: int,
    request: int,
    limit: int,
    memory: Ints,
    size: int,
    picked: Ints,
    scores: Floats,
) -> tuple[int, int, float]:
    """One GPU of start..stop-1 for each of `memory`: (GPUs opened, -1 for no place; sum of preferences; of scores).

    For each in turn the first in this order: active, most liked, least score, lowest row. Entries of the same memory
    have the same order, so one pass finds the GPUs for all of them. Rows are written into `picked`; `scores` (size,) is
    room to work in.
    """
    opened = 0
    liked_sum = 0
    first = 0
    while first < size:
        wanted = memory[first]
        last = first + 1
        while last < size and memory[last] == wanted:
            last += 1
        found = first  # picked[first:found] are in order
        for g in range(start, stop):
            liked = preference[g] if special else 0
            if (liked < 0) | (free[g, 0] < request) | (free[g, 1] < limit) | (free[g, 2] < wanted):
                continue
            taken = False
            for k in range(first):
                taken = taken or picked[k] == g
            if taken:
                continue
            score: float = (free[g, 0] - request) * weight[g, 0]
            score += (free[g, 1] - limit) * weight[g, 1]
            score += (free[g, 2] - wanted) * weight[g, 2]
            if special:
                score += penalty[g]
            empty = held[g] == 0
            place = found
            while place > first:
                other = picked[place - 1]
                other_empty = held[other] == 0
                other_liked = preference[other] if special else 0
                before = other_empty and not empty
                if other_empty == empty:
                    before = liked > other_liked or (liked == other_liked and score < scores[place - 1])
                if not before:
                    break
                if place < last:
                    picked[place], scores[place] = other, scores[place - 1]
                place -= 1
            if place < last:
                picked[place], scores[place] = g, score
                found = min(found + 1, last)
        if found < last:
            return -1, 0, 0.0
        first = last
    score_sum = 0.0
    for k in range(size):
        opened += 1 if held[picked[k]] == 0 else 0
        if special:
            liked_sum += int(preference[picked[k]])
        score_sum += scores[k]
    return opened, liked_sum, score_sum


@compiled
def best_split(
    free: Ints,
    held: Ints,
    preference: Ints,
    special: bool,
    node_start: Ints,
    node_state: Ints,
    totals: Ints,
    request: int,
    memory: int,
    may_open: bool,
    chosen: Ints,
    part: Ints,
) -> int:
    """GPUs of one node that together have `memory` left, each with `request` left of both request and limit.

    Takes the fewest opened, then the fewest parts, then the most liked, then the node left with least memory over;
    only active GPUs unless `may_open`. Writes rows and memory of the parts into `chosen` and `part` (as long as the
    largest node has GPUs) and returns how many there are, 0 for none.
    """
    picked = np.empty(chosen.size, np.int64)
    count = 0
    best_opened = 0
    best_liked = 0
    best_rest = 0
    empty_size = 0
    empty_memory = 0
    for n in range(node_start.size - 1 if may_open else totals[REACH]):
        start, stop = node_start[n], node_start[n + 1]
        unused = node_state[n, ACTIVE] == 0
        if unused and (not may_open or (stop - start == empty_size and free[start, 2] == empty_memory)):
            continue
        room = 0
        for g in range(start, stop):  # the cheap look that spares most nodes the careful one
            allowed = (not special or preference[g] >= 0) and (may_open or held[g] > 0)
            if allowed & (free[g, 0] >= request) & (free[g, 1] >= request):
                room += min(free[g, 2], memory - 1)
        if room < memory:
            continue
        found = 0
        total = 0
        opened = 0
        while total < memory:  # most memory first, active GPUs before empty ones
            pick = -1
            for g in range(start, stop):
                if free[g, 0] < request or free[g, 1] < request or free[g, 2] <= 0 or (special and preference[g] < 0):
                    continue
                if held[g] == 0 and not may_open:
                    continue
                taken = False
                for k in range(found):
                    taken = taken or picked[k] == g
                if taken or (pick >= 0 and held[pick] > 0 and held[g] == 0):
                    continue
                if pick < 0 or (held[pick] == 0 and held[g] > 0) or free[g, 2] > free[pick, 2]:
                    pick = g
            if pick < 0:
                break
            picked[found] = pick
            total += min(free[pick, 2], memory - 1)
            opened += 1 if held[pick] == 0 else 0
            found += 1
        if total < memory:
            continue
        k = found - 1
        while k >= 0:  # an opened GPU may have made an earlier, smaller one needless
            if total - min(free[picked[k], 2], memory - 1) >= memory and held[picked[k]] > 0:
                total -= min(free[picked[k], 2], memory - 1)
                found -= 1
                for j in range(k, found):
                    picked[j] = picked[j + 1]
            k -= 1
        if found < 2:
            continue
        if unused:
            empty_size, empty_memory = stop - start, free[start, 2]
        liked = 0
        for k in range(found):
            liked += preference[picked[k]] if special else 0
        same = count > 0 and opened == best_opened and found == count
        better = opened < best_opened or (opened == best_opened and found < count)
        if same:
            better = liked > best_liked or (liked == best_liked and total - memory < best_rest)
        if count == 0 or better:
            count, best_opened, best_liked, best_rest = found, opened, liked, total - memory
            chosen[:found] = picked[:found]
    _fill(free, memory, count, chosen, part)
    return count


@compiled
def _fill(free: Ints, memory: int, count: int, chosen: Ints, part: Ints) -> None:
    """Divide `memory` over the `count` chosen rows: all they have, but on the one with most request left only the rest.

    What stays free then lies where there are SMs left to use it. At least 1 MiB goes to each.
    """
    if count == 0:
        return
    last = 0
    for k in range(count):
        if free[chosen[k], 0] > free[chosen[last], 0]:
            last = k
    chosen[last], chosen[count - 1] = chosen[count - 1], chosen[last]
    rest = memory
    for k in range(count):
        part[k] = min(free[chosen[k], 2], rest - (count - 1 - k))
        rest -= part[k]
