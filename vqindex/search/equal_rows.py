"""Equal rows: which rows of an index have the same code, or the same kept vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rows.contents import Contents

__all__ = ["first_equal"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

_BYTES = 2**24  # of rows at a time
_MIX = np.uint64(0x9E3779B97F4A7C15)


def first_equal(contents: Contents, rows: I64) -> I64:
    """Return the first row of those that each row equals, itself included; `rows`, shape (m,), are ascending.

    Rows are compared by hashes first, and byte by byte where these are equal. Memory is 16 bytes for each row.
    """
    hashes = np.concatenate(
        [np.zeros(0, np.uint64), *(_hashes(_bytes_of(contents, at)) for at in _parts(contents, rows))]
    )
    order = np.argsort(hashes, kind="stable")
    is_start = np.ones(rows.size, bool)
    is_start[1:] = hashes[order[1:]] != hashes[order[:-1]]
    starts = np.flatnonzero(is_start)
    firsts = np.empty_like(rows)
    firsts[order] = rows[order[starts]][np.cumsum(is_start) - 1]
    others = np.flatnonzero(firsts != rows)
    for at in _parts(contents, others):
        is_equal = (_bytes_of(contents, rows[at]) == _bytes_of(contents, firsts[at])).all(axis=1)
        firsts[at] = np.where(is_equal, firsts[at], rows[at])
    return firsts


def _parts(contents: Contents, rows: I64) -> Iterator[I64]:
    width = contents.rows.bytes_per_row + (0 if contents.originals is None else contents.originals.bytes_per_vector)
    step = max(1, _BYTES // max(1, width))
    return (rows[start : start + step] for start in range(0, rows.size, step))


def _bytes_of(contents: Contents, rows: I64) -> U8:
    """Return all bytes of some rows, shape (m, width)."""
    if contents.originals is None:
        arrays: tuple[Any, ...] = contents.rows.gather(rows)
    else:  # two vectors may have the same code
        order = np.argsort(rows, kind="stable")
        arrays = tuple(
            None if array is None else array[np.argsort(order, kind="stable")]
            for array in contents.originals.gather_rounded(rows[order])
        )
    parts = [np.ascontiguousarray(array).reshape(rows.size, -1) for array in arrays if array is not None]
    return np.concatenate([part.view(np.uint8).reshape(rows.size, -1) for part in parts], axis=1)


def _hashes(data: U8) -> U64:
    """Return a hash of each row of bytes."""
    padded = np.zeros((len(data), -(-data.shape[1] // 8) * 8), np.uint8)
    padded[:, : data.shape[1]] = data
    state = np.zeros(len(data), np.uint64)
    for word in padded.view("<u8").T:
        state = (state ^ word) * _MIX
        state ^= state >> np.uint64(29)
    return state
