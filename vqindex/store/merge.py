"""Which segments a commit rewrites: searches should open few files, and no row should be rewritten often.

The policy is that of a tiered LSM tree. Segments are in the order in which their rows were added, and only neighbors
are merged, so rows keep their order. A segment of s live rows has level floor(log_8 s). The last segments of level L or
lower are merged as soon as they hold 8^(L+1) rows together. Each merge therefore lifts every row it writes to a higher
level. It follows that

* merges rewrite a row at most log_8 n + 1 times, however small the commits are;
* at the end of the list there are fewer than 8 segments of one level.

Segments of MERGE_BYTES or more are not merged, which bounds what one commit rewrites.

A segment with more removed rows than live ones is rewritten without them. That costs at most one written row for each
removed row, and files take at most twice the space of the live rows.
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
    """Return the first of the last segments that are merged; len(live) if none are."""
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
    """Return runs of neighboring segments, in order; each run is to be rewritten as one segment.

    Parameters
    ----------
    rows, live : sequence of int
        All rows of each segment, and its live rows.
    most : int
        Segments with at least this many live rows are not merged.
    """
    tail = _tail(live, most)
    sparse = [slice(i, i + 1) for i in range(tail) if 2 * live[i] < rows[i]]
    return [*sparse, slice(tail, len(live))] if tail < len(live) else sparse
