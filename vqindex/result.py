"""What a search returns."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["RangeResult", "SearchResult", "SearchResultWithError"]


class SearchResult(NamedTuple):
    """Scores and ids, best first; unpacks as ``scores, ids``.

    Attributes
    ----------
    scores : ndarray of float32, shape (nq, k) or (k,)
        Estimated inner product or cosine (higher is better), or squared distance (lower is better). Columns without a
        result hold -inf (ip, cosine) or +inf (l2).
    ids : ndarray of int64, shape (nq, k) or (k,)
        -1 where there is no result.
    """

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


class SearchResultWithError(NamedTuple):
    """A `SearchResult` with the standard error of each score; unpacks as ``scores, ids, stderr``."""

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]
    stderr: NDArray[np.float32]


class RangeResult(NamedTuple):
    """All results of a range search; unpacks as ``lims, scores, ids``.

    Attributes
    ----------
    lims : ndarray of int64, shape (nq + 1,)
        Results of query i are ``scores[lims[i]:lims[i + 1]]`` and ``ids[lims[i]:lims[i + 1]]``, best first.
    scores : ndarray of float32, shape (lims[-1],)
        As in `SearchResult`.
    ids : ndarray of int64, shape (lims[-1],)
        As in `SearchResult`.
    """

    lims: NDArray[np.int64]
    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


Result = TypeVar("Result", SearchResult, SearchResultWithError)


def squeeze(result: Result) -> Result:
    """Drop the query axis of a result for a single 1-D query."""
    return type(result)(*(part[0] for part in result))
