"""A continuous-batching server, step by step: slow, and independent of the formulas of `dilu_core.llm_fit`.

Tests and `bench/llm_serving.py` compare the two. The server has a number of slots. Whenever a request waits and a slot
is free, the first come is prefilled alone, which ends with its first token; otherwise one decode step gives every
sequence in a slot one token more. A request leaves its slot with its last token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ServedRequests:
    """When each request got its first and its last token, in ms; arrays (n,) in the order of arrival."""

    arrival_ms: NDArray[np.float64]
    start_ms: NDArray[np.float64]
    first_ms: NDArray[np.float64]
    last_ms: NDArray[np.float64]
    output_tokens: NDArray[np.int64]

    @property
    def ttft_ms(self) -> NDArray[np.float64]:
        """Time to first token, with the wait for a slot."""
        return self.first_ms - self.arrival_ms

    @property
    def tpot_ms(self) -> NDArray[np.float64]:
        """Mean time per further token of each request."""
        return (self.last_ms - self.first_ms) / (self.output_tokens - 1)

    @property
    def in_slot_ms(self) -> NDArray[np.float64]:
        """From the start of the prefill to the last token."""
        return self.last_ms - self.start_ms


def serve_requests(
    arrival_ms: Sequence[float] | NDArray[np.float64],
    prompt_tokens: Sequence[int] | NDArray[np.int64],
    output_tokens: Sequence[int] | NDArray[np.int64],
    *,
    slots: int,
    prefill_ms: Callable[[int], float],
    decode_ms: Callable[[int], float],
) -> ServedRequests:
    """Serve requests of at least 2 output tokens, which arrive in ascending order, until the last one is done.

    `prefill_ms` is asked with the tokens of a prompt, `decode_ms` with the number of concurrent sequences.
    """
    arrivals, prompts = np.asarray(arrival_ms, dtype=np.float64).tolist(), np.asarray(prompt_tokens).tolist()
    outputs = np.asarray(output_tokens, dtype=np.int64)
    to_come = deque(range(len(arrivals)))
    waiting: deque[int] = deque()
    left: dict[int, int] = {}  # request in a slot -> tokens it still wants
    start, first, last = (np.zeros(len(arrivals)) for _ in range(3))
    now = 0.0
    while to_come or waiting or left:
        if not waiting and not left:
            now = max(now, arrivals[to_come[0]])
        while to_come and arrivals[to_come[0]] <= now:
            waiting.append(to_come.popleft())
        if waiting and len(left) < slots:
            request = waiting.popleft()
            start[request] = now
            now += prefill_ms(prompts[request])
            first[request] = now
            left[request] = int(outputs[request]) - 1
            continue
        now += decode_ms(len(left))
        for request in list(left):
            left[request] -= 1
            if left[request] == 0:
                last[request] = now
                del left[request]
    return ServedRequests(np.asarray(arrivals), start, first, last, outputs)
