"""Exact nearest neighbors by brute force, in bounded memory.

The search scans the rows in tiles. For every query and row a fast matrix product gives an *upper bound* of the score:
the rounded score plus the largest possible rounding error. Rows whose bound is below the k-th best score so far cannot
be in the result. The few others are scored again in float64, pair by pair, in an order of summation that depends on the
dimension alone. The result is therefore that of float64 arithmetic for any tile size, BLAS or device.

The bound is the usual one for a dot product of length d in arithmetic with unit roundoff u: the error is at most about
d u |q| |x| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). `_scan._guard` is four times that.

Ties (rows with equal score: duplicates, zeros) go to the lower row. Many rows that tie with the k-th best make the
search slow but not wrong: each of them is scored again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._scan import Scanner, make_scanner
from .errors import DatasetError
from .sources import ArraySource, VectorSource

__all__ = ["METRICS", "exact_knn", "exact_neighbors"]

METRICS = ("ip", "cosine", "l2")
"""Metrics of `exact_knn`."""

_DISTANCE_METRIC = {"angular": "cosine", "euclidean": "l2", "ip": "ip"}

# Values of the pairs in a batch: 2**20 values are 8 MiB per temporary array.
_PAIR_VALUES = 1 << 20


def exact_knn(
    train: NDArray[Any] | VectorSource,
    queries: NDArray[Any],
    k: int,
    metric: str,
    *,
    device: str = "cpu",
    block_rows: int = 65536,
    progress: Callable[[int, int | None], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the exact k nearest rows of every query.

    Parameters
    ----------
    train : ndarray of any float or integer type, shape (n, d), or VectorSource
        The rows. A source is read once, `block_rows` rows at a time.
    queries : ndarray of any float or integer type, shape (nq, d)
        The queries.
    k : int
        Neighbors per query, 1 <= k <= n.
    metric : one of {"ip", "cosine", "l2"}
        Inner product, cosine (0 where either vector has norm 0, or a norm whose square underflows float64),
        or squared Euclidean distance.
    device : str
        "cpu" scans with NumPy; any other string is a torch device such as "cuda". The result is the same.
    block_rows : int
        Rows in memory at a time. Speed and memory depend on it, the result does not.
    progress : callable, optional
        Called as ``progress(rows_done, n)`` after each block.

    Returns
    -------
    ids : int64 ndarray of shape (nq, k)
        Row numbers, best first; equal scores in the order of the rows.
    scores : float32 ndarray of shape (nq, k)
        For "ip" and "cosine" higher is better, for "l2" lower. Scores out of the range of float32 become infinite; the
        order of the ids is still right.

    Raises
    ------
    DatasetError
        For an invalid shape, k, metric or block size, or for values that are not finite or overflow float64 when
        squared.
    """
    ids, scores = _search(train, queries, k, metric, device, block_rows, progress)
    with np.errstate(over="ignore"):
        return ids, (-scores if metric == "l2" else scores).astype(np.float32)


def exact_neighbors(
    train: NDArray[Any] | VectorSource,
    queries: NDArray[Any],
    k: int,
    distance: str,
    *,
    device: str = "cpu",
    block_rows: int = 65536,
    progress: Callable[[int, int | None], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find exact neighbors with the distances that ann-benchmarks files store.

    Parameters
    ----------
    train, queries : ndarray of any float or integer type, shape (n, d) and (nq, d)
        Rows and queries, as for `exact_knn`.
    k : int
        Neighbors per query, 1 <= k <= n.
    distance : one of {"angular", "euclidean", "ip"}
        1 - cosine, Euclidean distance (not squared), or minus the inner product.
    device : str
        As for `exact_knn`.
    block_rows : int
        As for `exact_knn`.
    progress : callable, optional
        As for `exact_knn`.

    Returns
    -------
    ids : int64 ndarray of shape (nq, k)
        Row numbers, nearest first; equal distances in the order of the rows.
    distances : float64 ndarray of shape (nq, k)
        Smaller is nearer.

    Raises
    ------
    DatasetError
        As `exact_knn`, or for another distance.
    """
    if distance not in _DISTANCE_METRIC:
        raise DatasetError(f"distance {distance!r}; expected one of {', '.join(_DISTANCE_METRIC)}")
    ids, scores = _search(train, queries, k, _DISTANCE_METRIC[distance], device, block_rows, progress)
    if distance == "angular":
        return ids, 1.0 - scores
    return ids, np.sqrt(-scores) if distance == "euclidean" else -scores


def _search(
    train: NDArray[Any] | VectorSource,
    queries: NDArray[Any],
    k: int,
    metric: str,
    device: str,
    block_rows: int,
    progress: Callable[[int, int | None], None] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Check the arguments and scan; return float64 scores, higher is better (l2: negated squared distances)."""
    source = train if isinstance(train, VectorSource) else ArraySource(np.asarray(train), "train")
    test = ArraySource(np.asarray(queries), "queries").read()
    n, d = source.shape
    if test.shape[1] != d:
        raise DatasetError(f"queries have dimension {test.shape[1]}; expected {d}, that of the train rows")
    if metric not in METRICS:
        raise DatasetError(f"metric {metric!r}; expected one of {', '.join(METRICS)}")
    if not 1 <= k <= n:
        raise DatasetError(f"k = {k}; expected 1 <= k <= {n}, the number of train rows")
    if block_rows < 1:
        raise DatasetError(f"block_rows = {block_rows}; expected at least 1")
    wide = test.astype(np.float64)
    search = _Search(wide, _norms(wide, "query", 0), k, metric)
    scanner = make_scanner(device, wide, search.norms, metric, k)
    done = 0
    for block in source.chunks(block_rows):
        for start in range(0, len(block), scanner.tile_rows):
            search.add(block[start : start + scanner.tile_rows], done + start, scanner)
        done += len(block)
        if progress is not None:
            progress(done, n)
    return search.ids, search.scores


def _norms(rows: NDArray[np.float64], what: str, first: int) -> NDArray[np.float64]:
    """Return Euclidean norms, shape (m,); raises DatasetError for NaN, infinity, and squares that overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = (rows * rows).sum(axis=1)
    # Sums of a few such norms are squared later; float64 ends near 1.8e308.
    bad = np.flatnonzero(~(squares < 1e304))
    if bad.size:
        value = float(np.abs(rows[bad[0]]).max())
        raise DatasetError(f"{what} {first + int(bad[0])} holds {value}; expected finite values with norm < 1e152")
    norms: NDArray[np.float64] = np.sqrt(squares)
    return norms


class _Search:
    """The k best rows of every query among the rows seen so far.

    ``scores`` (float64, higher is better) and ``ids`` have shape (nq, k) and are sorted. An empty place has score -inf
    and id -1.
    """

    def __init__(self, queries: NDArray[np.float64], norms: NDArray[np.float64], k: int, metric: str) -> None:
        self.queries, self.norms, self.k, self.metric = queries, norms, k, metric
        self.ids = np.full((len(queries), k), -1, np.int64)
        self.scores = np.full((len(queries), k), -np.inf)

    def add(self, tile: NDArray[Any], first: int, scanner: Scanner) -> None:
        """Add the rows of `tile`; its row 0 is row `first` of the whole."""
        wide = tile.astype(np.float64)
        norms = _norms(wide, "train row", first)
        for begin, who, row in scanner.candidates(wide, norms, self._worst()):
            if len(who):
                scores = self._score(begin + who, row, wide, norms)
                self._merge(begin, who, first + row, scores)

    def _worst(self) -> NDArray[np.float64]:
        """Return the score that a later row must beat, shape (nq,); +inf if no row can."""
        worst: NDArray[np.float64] = self.scores[:, -1].copy()
        if self.metric != "l2":
            # All scores of a zero query are 0, so the first k rows stay. Otherwise every row would be a tie.
            worst[(self.norms == 0) & np.isfinite(worst)] = np.inf
        return worst

    def _score(
        self,
        who: NDArray[np.int64],
        row: NDArray[np.int64],
        tile: NDArray[np.float64],
        norms: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Score pairs in float64, shape (m,).

        The sum is that of a new C-contiguous (m, d) array: NumPy sums each row by itself, in an order that depends on d
        alone. A matrix product would be faster, but its order depends on its shape.
        """
        out = np.empty(len(who))
        step = max(1, _PAIR_VALUES // tile.shape[1])
        for start in range(0, len(who), step):
            batch = slice(start, start + step)
            terms, rows = self.queries[who[batch]], tile[row[batch]]
            if self.metric == "l2":
                terms -= rows
                terms *= terms
            else:
                terms *= rows
            out[batch] = terms.sum(axis=1)
        if self.metric == "l2":
            out = -out
        if self.metric == "cosine":
            lengths = self.norms[who] * norms[row]
            cosines = np.zeros_like(out)
            np.divide(out, lengths, out=cosines, where=lengths > 0)
            return cosines
        return out

    def _merge(self, begin: int, who: NDArray[np.int64], ids: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Merge candidates into the lists of their queries; `who` and the ids of each query are sorted."""
        local, start, count = np.unique(who, return_index=True, return_counts=True)
        lists = begin + local
        width = self.k + int(count.max())
        all_scores = np.full((len(local), width), -np.inf)
        all_ids = np.full((len(local), width), -1, np.int64)
        all_scores[:, : self.k] = self.scores[lists]
        all_ids[:, : self.k] = self.ids[lists]
        line = np.repeat(np.arange(len(local)), count)
        place = self.k + np.arange(len(who)) - np.repeat(start, count)
        all_scores[line, place] = scores
        all_ids[line, place] = ids
        # A stable sort: of equal scores the old rows, which are lower, come first, then the new ones in order.
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, : self.k]
        self.scores[lists] = np.take_along_axis(all_scores, order, axis=1)
        self.ids[lists] = np.take_along_axis(all_ids, order, axis=1)
