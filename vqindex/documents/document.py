"""Documents and hits, the values that users get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Document", "Hit"]


@dataclass
class Document:
    """A text with metadata.

    Attributes
    ----------
    id : str
        Its id, unique within a namespace.
    text : str or None
        Its text.
    metadata : dict
        Values in JSON types, which filters read.
    more : dict
        Other values in JSON types, which an adapter of a framework keeps beside them.
    vector : ndarray of float32, shape (dim,), or None
        Its vector, where a call was asked for vectors and the document has one.
    """

    id: str
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    vector: NDArray[np.float32] | None = None


@dataclass
class Hit(Document):
    """A document that a search found.

    Attributes
    ----------
    score : float
        For mode "vector" the score of the index: inner product or cosine (higher is better), or squared distance (lower
        is better). For "text" the BM25 score, for "hybrid" the sum of reciprocal ranks; both are higher for the better.
    stderr : float or None
        Standard error of the score, with ``return_stderr=True``.
    """

    score: float = 0.0
    stderr: float | None = None
