"""Which segments a commit rewrites: few files to search, each row rewritten a bounded number of times.

Segments lie in the order in which their rows were added, and only neighbors are merged, so rows keep their order. A
segment of s live rows has level floor(log_8 s). The last segments, as far as their levels are at most L, are merged as
soon as they hold 8^(L+1) rows together. So each merge lifts every row it writes to a higher level, and

* a row is rewritten by merges at most log_8 n + 1 times, however small the commits;
* fewer than 8 segments of a level stay together at the end of the list.

Merging stops at segments of MERGE_BYTES, so a commit rewrites at most about so much at once. A segment of which less
than half is left is rewritten without its removed rows: at least as many rows were removed before as are rewritten
then, and files are at most twice as large as what lives.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FANOUT", "MERGE_BYTES", "merge_runs"]

FANOUT = 8
MERGE_BYTES = 2**28


def _level(rows: int) -> int:
    level = 0
    while rows >= FANOUT:
        rows //= FANOUT
        level += 1
    return level


def _tail(live: Sequence[int], most: int) -> int:
    """Return from where on the last segments are merged; len(live) if they are not."""
    found, start, total = len(live), len(live), 0
    level = 0
    while start > 0 and live[start - 1] < most:
        while start > 0 and live[start - 1] < most and _level(live[start - 1]) <= level:
            start -= 1
            total += live[start]
        if len(live) - start > 1 and total >= FANOUT ** (level + 1):
            found = start
        level += 1
    return found


def merge_runs(rows: Sequence[int], live: Sequence[int], most: int) -> list[slice]:
    """Return the runs of neighbouring segments to be rewritten as one each, in order.

    Parameters
    ----------
    rows, live : sequence of int
        Rows of each segment, and how many of them are not removed.
    most : int
        Segments of so many live rows are not merged any more.
    """
    tail = _tail(live, most)
    sparse = [slice(i, i + 1) for i in range(tail) if 2 * live[i] < rows[i]]
    return [*sparse, slice(tail, len(live))] if tail < len(live) else sparse
