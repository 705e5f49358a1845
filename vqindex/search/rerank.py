"""Re-ranking: exact scores of a shortlist. Only the vectors of the shortlist are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_matrix, float_rows
from ..codes.estimator import flush, sum64
from ..errors import InvalidInputError
from ..native_calls import call_native, cpu_count
from ..rows.contents import Contents
from ..rows.originals import Originals
from ..underflow import ignoring_underflow

__all__ = ["Reader", "as_reader", "exact_scores", "rerank"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

Reader = Callable[[I64], F32]
_Source = Callable[[NDArray[Any]], F32]  # of ids, ascending

_VALUES = 2**22  # coordinates of original vectors in a batch


def exact_scores(metric: str, queries: F32, vectors: F32) -> F32:
    """Return the scores of each query with its own vectors.

    Parameters
    ----------
    metric : one of {"ip", "cosine", "l2"}
        Metric of the index; a zero vector has cosine 0.
    queries : ndarray of float32, shape (nq, d)
        Queries.
    vectors : ndarray of float32, shape (nq, m, d)
        Vectors of each query.

    Returns
    -------
    ndarray of float32, shape (nq, m)
        Sums in float64 in a fixed order (``estimator.sum64``), rounded once, so that a score depends on its query and
        its vector alone.
    """
    nq, m, d = vectors.shape

    def summed(terms: NDArray[np.float64]) -> NDArray[np.float64]:
        return sum64(terms.reshape(-1, d).T).reshape(terms.shape[:-1])

    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        x -= q[:, None]
        return flush(summed(x * x))
    products = summed(x * q[:, None])
    if metric == "cosine":
        lengths = np.sqrt(summed(q * q))[:, None] * np.sqrt(summed(x * x))
        products = np.divide(products, lengths, out=np.zeros((nq, m)), where=lengths > 0)
    return flush(products)


def as_reader(
    source: Any, oversample: object, contents: Contents, return_stderr: bool = False, return_interval: bool = False
) -> Originals | Reader | None:
    """Check the argument rerank= of a search, and the arguments that depend on it.

    Parameters
    ----------
    source : None, bool, array-like of shape (n, dim), or callable
        None or False: no re-ranking. True: the index's originals. An array's row i is the vector with id i; a callable
        gets ids (m,), int64 or str, and returns vectors (m, dim).
    oversample : object
        The argument of the search.
    contents : Contents
        Contents of the index.
    return_stderr, return_interval : bool
        What else the search is to return.

    Returns
    -------
    Originals, callable or None
        The index's originals, or a function that returns float32 vectors of rows, ascending and distinct.
    """
    if isinstance(source, np.bool_):
        source = bool(source)
    if source is None or source is False:
        if oversample is not None:
            raise InvalidInputError(f"oversample is {oversample!r}, but there is no rerank=")
        return None
    if return_stderr:
        raise InvalidInputError("return_stderr is True, but re-ranked scores are exact; expected one of the two")
    if return_interval:
        raise InvalidInputError("return_interval is given, but re-ranked scores are exact; expected one of the two")
    if source is True:
        if contents.originals is None:
            raise InvalidInputError(
                "rerank is True, but the index keeps no vectors; expected keep_vectors=, or an array"
            )
        return contents.originals
    if contents.ids.string_ids is not None and not callable(source):
        raise InvalidInputError(
            "rerank is an array, but ids are strings; expected a function that finds vectors by ids"
        )
    read = _from_function(source, contents.rows.dim) if callable(source) else _from_array(source, contents.rows.dim)

    def by_ids(rows: I64) -> F32:
        ids = contents.ids.ids(rows)
        order = np.argsort(ids)
        vectors = np.empty((rows.size, contents.rows.dim), np.float32)
        vectors[order] = read(ids[order])
        return vectors

    return by_ids


def _from_function(source: Callable[[NDArray[Any]], Any], dim: int) -> _Source:
    def read(ids: NDArray[Any]) -> F32:
        matrix = as_matrix(source(ids), dim, "vectors from rerank")
        if matrix.shape[0] != ids.size:
            raise InvalidInputError(f"rerank returned {matrix.shape[0]} vectors; expected {ids.size}, one for each id")
        return float_rows(matrix, np.arange(ids.size), "vectors from rerank")

    return read


def _from_array(source: Any, dim: int) -> _Source:
    matrix = as_matrix(source, dim, "vectors of rerank")

    def read(ids: NDArray[Any]) -> F32:
        if ids.size and ids[-1] >= matrix.shape[0]:
            raise InvalidInputError(
                f"id {ids[-1]} is not a row of the {matrix.shape[0]} vectors of rerank; "
                "expected row i to be the vector with id i, or a function that finds vectors by ids"
            )
        return float_rows(matrix, ids, "vectors of rerank")

    return read


def rerank(
    metric: str, queries: F32, rows: I64, vectors: Originals | Reader, k: int, threads: int | None = None
) -> tuple[F32, I64]:
    """Return the k best scores and rows, (nq, k), of shortlists, best first; ties go to the lower row.

    Parameters
    ----------
    metric : one of {"ip", "cosine", "l2"}
        Metric of the index.
    queries : ndarray of float32, shape (nq, d)
        The caller's queries.
    rows : ndarray of int64, shape (nq, m)
        Shortlists, m >= k; -1 in empty places.
    vectors : Originals or callable
        The vectors, or a function that returns float32 vectors of rows, ascending and distinct.
    k : int
        Number of results.
    threads : int or None
        Most threads to use; None: as many as processors.
    """
    if isinstance(vectors, Originals):
        compiled = vectors.compiled()
        if compiled is not None:
            return call_native(compiled.rerank, metric, queries, rows, k, threads or cpu_count())
        vectors = vectors.gather
    return _rerank_with_numpy(metric, queries, rows, vectors, k)


@ignoring_underflow
def _rerank_with_numpy(metric: str, queries: F32, rows: I64, read: Reader, k: int) -> tuple[F32, I64]:
    (nq, m), sign = rows.shape, np.float32(1 if metric == "l2" else -1)
    out_scores, out_rows = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    step = max(1, _VALUES // max(1, m * queries.shape[1]))
    for start in range(0, nq, step):
        at = slice(start, start + step)
        is_present = rows[at] >= 0
        distinct, place = np.unique(rows[at][is_present], return_inverse=True)
        found = np.zeros((*is_present.shape, queries.shape[1]), np.float32)
        if distinct.size:  # a function is never asked for no vectors
            found[is_present] = read(distinct)[place.reshape(-1)]
        ascending = sign * exact_scores(metric, queries[at], found)
        ascending[~is_present] = np.inf
        tie_break = np.where(is_present, rows[at], np.iinfo(np.int64).max)
        order = np.lexsort((tie_break, ascending))[:, :k]
        out_scores[at] = sign * np.take_along_axis(ascending, order, axis=1)
        out_rows[at] = np.take_along_axis(rows[at], order, axis=1)
    return out_scores, out_rows
