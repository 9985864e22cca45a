"""Claims of several on one budget, met in the order of their keys, without looking at each one.

A claimant's n-th item costs `size` and has the key `key(n)`, which grows with n. Items are met in the order of their
keys as long as they fit; who has an item that does not fit gets no further one. A priority queue does that one by one,
in a time that grows with the number of items. So most of those that come before the first that does not fit are met at
once beforehand, found by selection among sorted columns (after Frederickson and Johnson, Journal of Computer and System
Sciences 24(2), 1982): the weighted median of the columns' middles is a key that splits the items well, and whether all
up to it fit tells which part to go on with.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate
from typing import Any, NamedTuple

_FEW = 16  # items per claimant: so many go through the queue


class Claim(NamedTuple):
    """A claimant that has `first` items and wants `last`, each of `size`; `key` by number, from 1, unlike any other."""

    first: int
    last: int
    size: int
    key: Callable[[int], tuple[Any, ...]]


class Refusal(NamedTuple):
    """The first item that did not fit: whose it was, its number, what was left, and what each claimant had then."""

    claim: int
    number: int
    left: int
    have: tuple[int, ...]


def meet(claims: Sequence[Claim], budget: int) -> tuple[list[int], Refusal | None]:
    """The items of each claimant, and what was refused first, if anything.

    O(m log(n)^2) for n items of m claimants where their sizes are alike; each size that is refused while another of
    many items still fits may cost that once more.
    """
    have, left, refusal = [claim.first for claim in claims], budget, None
    if sum((claim.last - claim.first) * claim.size for claim in claims) <= budget:
        return [claim.last for claim in claims], None
    going = [i for i, claim in enumerate(claims) if claim.last > claim.first]
    while going:
        left = _met_at_once(claims, going, have, left)
        queue = [(claims[i].key(have[i] + 1), i) for i in going if have[i] < claims[i].last]
        heapify(queue)
        for _ in range(_FEW * len(going)):
            if not queue:
                break
            _, i = heappop(queue)
            if claims[i].size > left:
                refusal = refusal or Refusal(i, have[i] + 1, left, tuple(have))
                continue
            have[i], left = have[i] + 1, left - claims[i].size
            if have[i] < claims[i].last:
                heappush(queue, (claims[i].key(have[i] + 1), i))
        going = [i for _, i in queue]
    return have, refusal


def _met_at_once(claims: Sequence[Claim], going: Sequence[int], have: list[int], left: int) -> int:
    """Raise `have` by items before the first that does not fit, until few of those remain; what is then left."""
    few, smallest = _FEW * len(going), min(claims[i].size for i in going)
    # one more than would fit if it were alone, since that one can be the first that is refused
    reach = {i: min(claims[i].last, have[i] + left // claims[i].size + 1) for i in going}
    while left // smallest > few and sum(reach[i] - have[i] for i in going) > few:
        middles = sorted(
            (claims[i].key((have[i] + 1 + reach[i]) // 2), reach[i] - have[i]) for i in going if reach[i] > have[i]
        )
        upto = list(accumulate(count for _, count in middles))
        median = next(key for (key, _), count in zip(middles, upto, strict=True) if 2 * count >= upto[-1])
        cut = {i: have[i] + bisect_right(range(have[i] + 1, reach[i] + 1), median, key=claims[i].key) for i in going}
        cost = sum((cut[i] - have[i]) * claims[i].size for i in going)
        if cost > left:
            reach = cut
        else:
            left -= cost
            for i in going:
                have[i] = cut[i]
    return left
