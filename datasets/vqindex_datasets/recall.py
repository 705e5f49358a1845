"""The two common definitions of recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["recall_1_at_k", "recall_at_k"]


def recall_at_k(found: NDArray[Any], truth: NDArray[Any], k: int) -> float:
    """Return the share of the true k ids among the first k found, averaged over queries ("k-recall@k").

    Parameters
    ----------
    found : ndarray of int or of str, shape (nq, >= k)
        Found ids, best first; -1 or None marks an empty place and never counts.
    truth : ndarray of int or of str, shape (nq, >= k)
        True ids, best first.
    k : int
        Length of both lists.
    """
    empty = -1 if found.dtype.kind in "iu" else None
    filled = np.asarray(found[:, :k] != empty)
    hits = (found[:, :k, None] == truth[:, None, :k]) & filled[:, :, None]
    return float(hits.any(axis=2).sum() / (found.shape[0] * k))


def recall_1_at_k(found: NDArray[Any], truth: NDArray[Any], k: int) -> float:
    """Return the share of queries whose true nearest neighbor is among the first k found ("recall 1@k")."""
    return float((found[:, :k] == truth[:, :1]).any(axis=1).mean())
