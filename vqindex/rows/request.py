"""What a search asks of a backend: prepared queries, how much they want, and which rows they may find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..codes.encoded import Queries
from .bitmap import count

__all__ = ["SearchRequest", "Selection"]

U64 = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Selection:
    """Which rows of each segment a search may return.

    Attributes
    ----------
    words : tuple of (ndarray of uint64 or None)
        An entry for each segment: None for all of its rows, words (ceil(rows / 64),) for all queries, or words
        (nq, ceil(rows / 64)), a line for each query (``bitmap.py``). Bits past the last row mean nothing.
    """

    words: tuple[U64 | None, ...]

    @property
    def is_per_query(self) -> bool:
        """Whether some segment has a line of words for each query."""
        return any(words is not None and words.ndim == 2 for words in self.words)

    def select(self, at: slice) -> Selection:
        """Return what some of the queries may find."""
        if not self.is_per_query:
            return self
        return Selection(tuple(words if words is None or words.ndim == 1 else words[at] for words in self.words))

    def pairs_selected(self, rows: Sequence[int], queries: int) -> int:
        """Return how many pairs of a query and a row are left, of segments with so many rows each."""
        total = 0
        for words, in_segment in zip(self.words, rows, strict=True):
            if words is None:
                total += queries * in_segment
            else:
                total += count(words) * (queries if words.ndim == 1 else 1)
        return total


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """One search, whatever runs it and wherever the rows lie.

    Attributes
    ----------
    queries : Queries
        Prepared queries.
    k : int
        How many rows a search finds for each query; a range search ignores it.
    thresholds : ndarray of float32, shape (nq,), or None
        For a range search: scores must be better than this, in the metric's own direction.
    confidence : float
        One-sided confidence of the sign bound, above 0.5; 1 scores every row (``sign_bound.py``).
    threads : int or None
        Most threads to use; None: one for each processor.
    selection : Selection or None
        Which rows may be found; None: all of them.
    """

    queries: Queries
    k: int = 0
    thresholds: NDArray[np.float32] | None = None
    confidence: float = 1.0
    threads: int | None = None
    selection: Selection | None = None

    def __post_init__(self) -> None:
        if self.thresholds is not None and self.thresholds.shape != (self.queries.count,):
            raise ValueError(f"thresholds have shape {self.thresholds.shape}; expected ({self.queries.count},)")

    @property
    def count(self) -> int:
        """Number of queries nq."""
        return self.queries.count

    def select(self, at: slice) -> SearchRequest:
        """Return the request of some of the queries."""
        if at.start == 0 and at.stop >= self.count:
            return self
        return replace(
            self,
            queries=self.queries.select(at),
            thresholds=None if self.thresholds is None else self.thresholds[at],
            selection=None if self.selection is None else self.selection.select(at),
        )
