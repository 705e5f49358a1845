"""TopK: what a scan found, and the one rule by which ties are decided and lists are merged.

A scan keeps the k rows with the best rank scores and returns them in the order of their scores. The rank score of a row
is its score, or the sign bound of its score where that is lower (``sign_bound.py``); larger is better for every metric.
Of rows with equal rank scores the lower row is kept; of results with equal scores the lower row comes first. Both rules
depend on nothing but the rows, so the lists of parts of an index, merged in any order, are the list of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["RangeHits", "TopK", "merge_range_hits", "merge_top_k"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class TopK(NamedTuple):
    """The k best rows of each query, best first.

    Attributes
    ----------
    scores : ndarray of float32, shape (nq, k)
        Scores in the metric's own direction: higher is better for ip and cosine, lower for l2. Missing places hold
        -inf, or +inf for l2.
    rows : ndarray of int64, shape (nq, k)
        Row numbers; -1 in missing places.
    rank_scores : ndarray of float32, shape (nq, k)
        What the scan ranked the rows by; larger is better for every metric, -inf in missing places.
    dropped : ndarray of int64, shape (nq,)
        Rows that the sign bound let the scan drop before their full codes were scored. It measures work: it may differ
        between backends, threads and batches, which scores and rows never do.
    """

    scores: F32
    rows: I64
    rank_scores: F32
    dropped: I64

    @classmethod
    def empty(cls, nq: int, k: int, *, ascending: bool) -> TopK:
        """Return lists without a row; `ascending` where lower scores are better."""
        worst = np.full((nq, k), -np.inf, np.float32)
        return cls(-worst if ascending else worst, np.full((nq, k), -1, np.int64), worst.copy(), np.zeros(nq, np.int64))

    @classmethod
    def of_queries(cls, parts: Sequence[TopK]) -> TopK:
        """Join the lists of queries that were searched one after another; there is at least one part."""
        return parts[0] if len(parts) == 1 else cls(*map(np.concatenate, zip(*parts, strict=True)))

    @property
    def threshold(self) -> F32:
        """The rank score that a further row has to beat, shape (nq,); -inf while a list has missing places."""
        if not self.rank_scores.shape[1]:
            return np.full(len(self.rank_scores), np.inf, np.float32)
        lowest: F32 = self.rank_scores.min(axis=1)
        return lowest

    def shifted(self, first_row: int) -> TopK:
        """Return the same lists with rows counted from `first_row`; missing places stay -1."""
        return self._replace(rows=np.where(self.rows < 0, self.rows, self.rows + first_row))


def merge_top_k(parts: Sequence[TopK], k: int, *, ascending: bool) -> TopK:
    """Merge the lists that scans of different rows found for the same queries.

    Parameters
    ----------
    parts : sequence of TopK
        At least one; row numbers are those of the whole and differ between parts.
    k : int
        Length of the merged lists; longer than all parts together, they end with missing places.
    ascending : bool
        Whether lower scores are better (l2).

    Returns
    -------
    TopK
        Equal, bit for bit, to what one scan of all rows finds; `dropped` is the sum.
    """
    scores, rows, rank_scores = (np.concatenate(columns, axis=1) for columns in list(zip(*parts, strict=True))[:3])
    place = np.where(rows < 0, np.iinfo(np.int64).max, rows)
    chosen = np.lexsort((place, -rank_scores))[:, :k]
    scores, place, rank_scores = (np.take_along_axis(array, chosen, axis=1) for array in (scores, place, rank_scores))
    order = np.lexsort((place, scores if ascending else -scores))
    scores, place, rank_scores = (np.take_along_axis(array, order, axis=1) for array in (scores, place, rank_scores))
    out = TopK.empty(len(rows), k, ascending=ascending)
    width = order.shape[1]
    out.scores[:, :width], out.rank_scores[:, :width] = scores, rank_scores
    out.rows[:, :width] = np.where(place == np.iinfo(np.int64).max, -1, place)
    return out._replace(dropped=np.sum([part.dropped for part in parts], axis=0))


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
    def of_counts(cls, counts: I64, scores: F32, rows: I64) -> RangeHits:
        """Return the hits of queries that have `counts` hits each, shape (nq,)."""
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), scores, rows)

    @classmethod
    def of_queries(cls, parts: Sequence[RangeHits]) -> RangeHits:
        """Join the hits of queries that were searched one after another; there is at least one part."""
        if len(parts) == 1:
            return parts[0]
        counts, scores, rows = zip(*((np.diff(part.lims), part.scores, part.rows) for part in parts), strict=True)
        return cls.of_counts(np.concatenate(counts), np.concatenate(scores), np.concatenate(rows))


def merge_range_hits(parts: Sequence[RangeHits], *, ascending: bool) -> RangeHits:
    """Merge what range searches of different rows found for the same queries; there is at least one part."""
    nq = len(parts[0].lims) - 1
    query = np.concatenate([np.repeat(np.arange(nq), np.diff(part.lims)) for part in parts])
    scores, rows = (np.concatenate(columns) for columns in list(zip(*parts, strict=True))[1:])
    order = np.lexsort((rows, scores if ascending else -scores, query))
    lims = np.searchsorted(query[order], np.arange(nq + 1)).astype(np.int64)
    return RangeHits(lims, scores[order], rows[order])
