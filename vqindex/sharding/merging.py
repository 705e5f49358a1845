"""The merge of what shards found, which equals what a search of the whole store finds.

A search keeps the k rows with the best rank scores and orders them by their scores (``top_k.py``). A merge by scores
would differ from it below confidence 1, because it lets in rows whose sign bounds failed. So each shard hands out rank
scores with its results, and `merge` decides by them; of equal ones the lower row of the store is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import MAX_K, as_count
from ..codes.top_k import TopK, merge_top_k
from ..errors import InvalidInputError
from ..result import SearchResult

__all__ = ["ShardHits", "merge"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class ShardHits(NamedTuple):
    """The best rows of some segments for each query. It pickles, and a worker may send it to another process.

    Attributes
    ----------
    commit : int
        The commit of the store that was searched.
    top_k : TopK
        Rows, numbered as in the whole store, with the scores and rank scores that decide a merge.
    scores : ndarray of float32, shape (nq, k)
        Scores as `VQIndex.search` returns them.
    ids : ndarray of int64, or of objects (str), shape (nq, k)
        Ids of the rows.
    ascending : bool
        Whether lower values of ``top_k.scores`` are better.
    worst : float
        The score in empty places: -inf, or inf for l2.
    is_single : bool
        Whether the caller passed one query of shape (dim,).
    """

    commit: int
    top_k: TopK
    scores: F32
    ids: NDArray[Any]
    ascending: bool
    worst: float
    is_single: bool

    def result(self) -> SearchResult:
        """Return scores and ids as `VQIndex.search` does."""
        found = (self.scores, self.ids)
        return SearchResult(*(array[0] for array in found)) if self.is_single else SearchResult(*found)


def merge(parts: Iterable[ShardHits], k: int) -> ShardHits:
    """Merge the results of shards for the same queries.

    Parameters
    ----------
    parts : iterable of ShardHits
        The results of each shard, in any order.
    k : int
        Number of results; no more than each shard was asked for.

    Returns
    -------
    ShardHits
        Equal, bit for bit, to those of one search of all rows of the parts.

    Raises
    ------
    InvalidInputError
        If there are no parts, if they are of different commits or queries, if a row is in two of them, or if `k` is
        larger than the number of results that a shard was asked for.
    """
    found, k = list(parts), as_count("k", k, MAX_K)
    if not found:
        raise InvalidInputError("there are no parts to merge; expected the results of at least one shard")
    for name, values in (
        ("commits", {part.commit for part in found}),
        ("numbers of queries", {len(part.scores) for part in found}),
        ("kinds of scores", {(part.ascending, part.worst) for part in found}),
    ):
        if len(values) > 1:
            raise InvalidInputError(f"parts have different {name}, {sorted(values)}; expected parts of one search")
    narrowest = min(part.scores.shape[1] for part in found)
    if k > narrowest:
        raise InvalidInputError(f"k is {k}, but a part has {narrowest} results; expected at most as many")
    first = found[0]
    top_k = merge_top_k([part.top_k for part in found], k, ascending=first.ascending)
    rows = np.concatenate([part.top_k.rows for part in found], axis=1)
    place = _places(rows, top_k.rows)
    scores = np.take_along_axis(np.concatenate([part.scores for part in found], axis=1), place, axis=1)
    ids = np.take_along_axis(_joined_ids(found), place, axis=1)
    is_empty = top_k.rows < 0
    scores[is_empty] = np.float32(first.worst)
    ids[is_empty] = None if ids.dtype == object else -1
    return first._replace(top_k=top_k, scores=scores, ids=ids)


def _joined_ids(parts: Sequence[ShardHits]) -> NDArray[Any]:
    """Return the ids of all parts; those of shards without segments, which know no kind of ids, as of the others."""
    named = any(part.ids.dtype == object for part in parts)
    columns = [part.ids.astype(object) if named else part.ids for part in parts]
    return np.concatenate(columns, axis=1)


def _places(rows: I64, wanted: I64) -> I64:
    """Return the column of `rows` in which each wanted row stands, shape of `wanted`; 0 for row -1."""
    nq, width = rows.shape
    if not nq or not width:
        return np.zeros(wanted.shape, np.int64)
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    is_twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if is_twice.any():
        row = int(ordered[:, 1:][is_twice][0])
        raise InvalidInputError(f"row {row} is in two parts; expected each segment in one of them")
    stride = int(ordered.max()) + 2
    base = np.arange(nq)[:, None] * stride + 1
    at = np.searchsorted((base + ordered).ravel(), (base + wanted).ravel()).reshape(wanted.shape)
    columns = np.minimum(at - np.arange(nq)[:, None] * width, width - 1)
    return np.take_along_axis(order, columns, axis=1)
