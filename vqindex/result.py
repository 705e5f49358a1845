"""What a search returns."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .arrays import OnDevice

__all__ = ["Delivery", "RangeResult", "SearchResult", "SearchResultWithError"]


class SearchResult(NamedTuple):
    """Scores and ids, best first; unpacks as ``scores, ids``.

    NumPy arrays; for queries that lie on the GPU of an index on device ``"cuda"``, arrays of their library there.

    Attributes
    ----------
    scores : ndarray of float32, shape (nq, k) or (k,)
        Estimated inner product or cosine (higher is better), or squared distance (lower is better). Columns without a
        result hold -inf (ip, cosine) or +inf (l2).
    ids : ndarray of int64, or of objects (str), shape (nq, k) or (k,)
        -1, or None, where there is no result.
    """

    scores: NDArray[np.float32]
    ids: NDArray[Any]


class SearchResultWithError(NamedTuple):
    """A `SearchResult` with the standard error of each score; unpacks as ``scores, ids, stderr``."""

    scores: NDArray[np.float32]
    ids: NDArray[Any]
    stderr: NDArray[np.float32]


class RangeResult(NamedTuple):
    """All results of a range search; unpacks as ``lims, scores, ids``.

    Attributes
    ----------
    lims : ndarray of int64, shape (nq + 1,)
        Results of query i are ``scores[lims[i]:lims[i + 1]]`` and ``ids[lims[i]:lims[i + 1]]``, best first.
    scores : ndarray of float32, shape (lims[-1],)
        As in `SearchResult`.
    ids : ndarray of int64, or of objects (str), shape (lims[-1],)
        As in `SearchResult`.
    """

    lims: NDArray[np.int64]
    scores: NDArray[np.float32]
    ids: NDArray[Any]


Result = TypeVar("Result", SearchResult, SearchResultWithError, RangeResult)


class Delivery(NamedTuple):
    """How results go to the caller.

    Attributes
    ----------
    single : bool
        Whether there is one query that was given without an axis of queries.
    home : OnDevice or None
        The queries, if they lie on the index's device: results go there, as arrays of their library.
    """

    single: bool
    home: OnDevice | None

    def array(self, part: NDArray[Any]) -> Any:
        """Return an array, (nq, ...) or (...), where it is wanted."""
        part = part[0] if self.single else part
        # Ids that are strings have no place on a device.
        return part if self.home is None or part.dtype == object else self.home.back(part)

    def __call__(self, result: Result) -> Result:
        """Return a result whose parts are all where they are wanted."""
        parts: tuple[NDArray[Any], ...] = result
        return type(result)(*map(self.array, parts))
