"""Random online events through `ClusterState` and a naive cluster side by side: they must agree after every one.

python bench/online_fuzz.py [EVENTS] [SEED]     # default 1,000,000 events, seed 0

Small clusters of every kind, a few thousand events each, then all instances leave and the state must be exactly a new
one. Prints what happened, and the seed of the stream where the two first disagreed.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

from online_events import Stream

PER_STREAM = 2_000


def main(events: int, seed: int) -> None:
    """Run streams until there are enough events."""
    started = time.perf_counter()
    counts = Counter[str]()
    done = stream_seed = 0
    while done < events:
        number = min(PER_STREAM, events - done)
        stream_seed = seed * 1_000_000 + done // PER_STREAM
        draw = random.Random(stream_seed)
        stream = Stream(draw, most_nodes=draw.choice((1, 3, 8, 8, 30)))
        try:
            for _ in range(number):
                stream.step()
            stream.twin.clear(draw)
        except BaseException:
            print(f"stream {stream_seed}, after {sum(stream.twin.counts.values())} events of it", file=sys.stderr)
            raise
        counts.update(stream.twin.counts)
        done += number
        if sys.stdout.isatty() or done % 100_000 < PER_STREAM:
            print(f"{done:>9,} events, {time.perf_counter() - started:6.0f} s", flush=True)
    print(f"{done:,} events from seed {seed}, all in agreement; removals that emptied the clusters come on top")
    for what, count in sorted(counts.items()):
        print(f"{what:35} {count:>9,}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
