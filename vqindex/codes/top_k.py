"""TopK: the result of a scan, and the one rule for ties and for merging lists.

A scan keeps the k rows with the best rank scores and returns them in the order of their scores. The rank score of a row
is its score, or the sign bound of its score where that is lower (``sign_bound.py``); larger is better for every metric.
Of rows with equal rank scores the lower row is kept; of results with equal scores the lower row comes first. Both rules
depend on the rows alone. The lists of segments, merged in any order, therefore equal the list of the whole index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["RangeHits", "TopK", "Walked", "merge_top_k"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class TopK(NamedTuple):
    """The k best rows of each query, best first.

    Attributes
    ----------
    scores : ndarray of float32, shape (nq, k)
        Scores in the metric's own direction: higher is better for ip and cosine, lower for l2. Empty places hold
        -inf, or +inf for l2.
    rows : ndarray of int64, shape (nq, k)
        Row numbers; -1 in empty places.
    rank_scores : ndarray of float32, shape (nq, k)
        Rank scores of the rows; larger is better for every metric, -inf in empty places.
    dropped : ndarray of int64, shape (nq,)
        Number of rows that the scan dropped by their sign bounds, before it scored their full codes; -1 where a
        backend does not count them. It measures work and may differ between backends, threads and batches; scores and
        rows never do.
    """

    scores: F32
    rows: I64
    rank_scores: F32
    dropped: I64

    @classmethod
    def empty(cls, nq: int, k: int, *, ascending: bool) -> TopK:
        """Return empty lists; `ascending` says that lower scores are better."""
        worst = np.full((nq, k), -np.inf, np.float32)
        return cls(-worst if ascending else worst, np.full((nq, k), -1, np.int64), worst.copy(), np.zeros(nq, np.int64))

    @classmethod
    def of_queries(cls, batches: Sequence[TopK]) -> TopK:
        """Concatenate the lists of at least one batch of queries."""
        return batches[0] if len(batches) == 1 else cls(*map(np.concatenate, zip(*batches, strict=True)))

    @property
    def threshold(self) -> F32:
        """The rank score that a further row has to beat, shape (nq,); -inf while a list has empty places."""
        if not self.rank_scores.shape[1]:
            return np.full(len(self.rank_scores), np.inf, np.float32)
        lowest: F32 = self.rank_scores.min(axis=1)
        return lowest


class Walked(NamedTuple):
    """What walks of a graph found.

    Attributes
    ----------
    top_k : TopK
        The best rows.
    scored : ndarray of int64, shape (nq,)
        How many rows each walk scored.
    gave_up : ndarray of bool, shape (nq,)
        Whether each walk gave up, so that better rows are likely (``graph.py``).
    """

    top_k: TopK
    scored: I64
    gave_up: NDArray[np.bool_]

    @classmethod
    def of_queries(cls, batches: Sequence[Walked]) -> Walked:
        """Concatenate the results of at least one batch of queries."""
        if len(batches) == 1:
            return batches[0]
        top_k, scored, gave_up = zip(*batches, strict=True)
        return cls(TopK.of_queries(top_k), np.concatenate(scored), np.concatenate(gave_up))


def merge_top_k(lists: Sequence[TopK], k: int, *, ascending: bool) -> TopK:
    """Merge the results of scans of different rows for the same queries.

    Parameters
    ----------
    lists : sequence of TopK
        At least one; row numbers are those of the whole index, and no row is in two of them.
    k : int
        Length of the merged lists; if the lists have fewer rows together, the merged ones end with empty places.
    ascending : bool
        Whether lower scores are better (l2).

    Returns
    -------
    TopK
        Equal, bit for bit, to the result of one scan of all rows; `dropped` is the sum.
    """
    scores, rows, rank_scores = (np.concatenate(columns, axis=1) for columns in list(zip(*lists, strict=True))[:3])
    place = np.where(rows < 0, np.iinfo(np.int64).max, rows)
    best = np.lexsort((place, -rank_scores))[:, :k]
    scores, place, rank_scores = (np.take_along_axis(array, best, axis=1) for array in (scores, place, rank_scores))
    order = np.lexsort((place, scores if ascending else -scores))
    scores, place, rank_scores = (np.take_along_axis(array, order, axis=1) for array in (scores, place, rank_scores))
    out = TopK.empty(len(rows), k, ascending=ascending)
    width = order.shape[1]
    out.scores[:, :width], out.rank_scores[:, :width] = scores, rank_scores
    out.rows[:, :width] = np.where(place == np.iinfo(np.int64).max, -1, place)
    dropped = np.stack([each.dropped for each in lists])
    return out._replace(dropped=np.where((dropped < 0).any(axis=0), -1, dropped.sum(axis=0)))


class RangeHits(NamedTuple):
    """All rows that a range search found.

    Attributes
    ----------
    lims : ndarray of int64, shape (nq + 1,)
        Hits of query i are ``[lims[i]:lims[i + 1]]``, best first, ties by row.
    scores : ndarray of float32, shape (lims[-1],)
        Scores in the metric's own direction.
    rows : ndarray of int64, shape (lims[-1],)
        Row numbers.
    """

    lims: I64
    scores: F32
    rows: I64

    @classmethod
    def of_unsorted(cls, query: I64, scores: F32, rows: I64, nq: int, *, ascending: bool) -> RangeHits:
        """Return hits that were found in any order, each with the number of its query."""
        order = np.lexsort((rows, scores if ascending else -scores, query))
        lims = np.searchsorted(query[order], np.arange(nq + 1)).astype(np.int64)
        return cls(lims, scores[order], rows[order])

    @classmethod
    def of_counts(cls, counts: I64, scores: F32, rows: I64) -> RangeHits:
        """Return the hits of queries that have `counts` hits each, shape (nq,)."""
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), scores, rows)

    @classmethod
    def of_queries(cls, batches: Sequence[RangeHits]) -> RangeHits:
        """Concatenate the hits of at least one batch of queries."""
        if len(batches) == 1:
            return batches[0]
        counts, scores, rows = zip(*((np.diff(hits.lims), hits.scores, hits.rows) for hits in batches), strict=True)
        return cls.of_counts(np.concatenate(counts), np.concatenate(scores), np.concatenate(rows))
