"""Which rows each commit changed, so that other processes update their columns instead of reading them again.

The table ``changes`` has a record per commit: ranges of row numbers, first and last, as little-endian int64; NULL if
they were too many to list.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCHEMA", "ranges_of", "record", "since", "union_of"]

SCHEMA = "CREATE TABLE changes (generation INTEGER PRIMARY KEY, ranges BLOB)"

_MOST_RANGES = 4096  # of a record: 64 KiB
_KEPT = 1024  # records

I64 = NDArray[np.int64]


def ranges_of(rows: I64) -> I64:
    """Return the ranges (n, 2), first and last, that make up some rows."""
    ordered = np.unique(np.asarray(rows, np.int64))
    if not ordered.size:
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(ordered) != 1)
    first = np.concatenate([ordered[:1], ordered[breaks + 1]])
    last = np.concatenate([ordered[breaks], ordered[-1:]])
    return np.stack([first, last], axis=1)


def union_of(ranges: Sequence[I64]) -> I64:
    """Return ranges (n, 2) in ascending order, without overlaps, that cover the same rows as all of these."""
    joined = np.concatenate([np.empty((0, 2), np.int64), *ranges])
    joined = joined[np.argsort(joined[:, 0], kind="stable")]
    if not len(joined):
        return joined
    reached = np.maximum.accumulate(joined[:, 1])
    starts = np.flatnonzero(np.concatenate([[True], joined[1:, 0] > reached[:-1] + 1]))
    return np.stack([joined[starts, 0], reached[np.append(starts[1:], len(joined)) - 1]], axis=1)


def record(db: sqlite3.Connection, generation: int, rows: I64 | None) -> None:
    """Write the record of a commit, in its transaction, and drop old records.

    Parameters
    ----------
    db : sqlite3.Connection
        A connection in the committing transaction.
    generation : int
        Generation that the commit makes.
    rows : ndarray of int64 or None
        Rows of ``docs`` that it inserts, updates or deletes, in any order; None for all.
    """
    ranges = None if rows is None else ranges_of(rows)
    blob = None if ranges is None or len(ranges) > _MOST_RANGES else ranges.astype("<i8").tobytes()
    db.execute("INSERT OR REPLACE INTO changes VALUES (?, ?)", (generation, blob))
    db.execute("DELETE FROM changes WHERE generation <= ?", (generation - _KEPT,))


def since(db: sqlite3.Connection, before: int, after: int) -> I64 | None:
    """Return the rows that were changed after one generation and up to another; None if they are not known."""
    blobs = db.execute(
        "SELECT ranges FROM changes WHERE generation > ? AND generation <= ?", (before, after)
    ).fetchall()
    if len(blobs) != after - before or any(blob is None for (blob,) in blobs):
        return None
    ranges = np.frombuffer(b"".join(blob for (blob,) in blobs), "<i8").reshape(-1, 2).tolist()
    return np.concatenate(
        [np.empty(0, np.int64), *(np.arange(first, last + 1, dtype=np.int64) for first, last in ranges)]
    )
