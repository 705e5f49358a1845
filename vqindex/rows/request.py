"""The request of a search to a backend: prepared queries, k or thresholds, and the rows that it may return."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..codes.encoded import Queries
from .bitmap import count, full, of_rows, slice_rows
from .segment import Segment

__all__ = ["SearchRequest", "Selection"]

U64 = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Selection:
    """The rows of each segment that a search may return.

    Attributes
    ----------
    words : tuple of (ndarray of uint64 or None)
        An entry for each segment: None for all of its rows, words of shape (ceil(rows / 64),) for all queries, or
        words of shape (nq, ceil(rows / 64)) for each query (``bitmap.py``). Bits past the last row are ignored.
    """

    words: tuple[U64 | None, ...]

    @classmethod
    def of(cls, words: U64, rows: Sequence[int]) -> Selection:
        """Divide words of all rows, (m,) or (nq, m), among segments of `rows` rows each."""
        edges = np.cumsum([0, *rows]).tolist()
        return cls(tuple(slice_rows(words, a, b) for a, b in itertools.pairwise(edges)))

    @property
    def is_per_query(self) -> bool:
        """Whether some segment has words for each query."""
        return any(words is not None and words.ndim == 2 for words in self.words)

    def select(self, at: slice | NDArray[np.int64]) -> Selection:
        """Return the selection for some of the queries."""
        if not self.is_per_query:
            return self
        return Selection(tuple(words if words is None or words.ndim == 1 else words[at] for words in self.words))

    def pairs_selected(self, rows: Sequence[int], queries: int) -> int:
        """Return the number of selected pairs of a query and a row, in segments of `rows` rows each."""
        total = 0
        for words, segment_rows in zip(self.words, rows, strict=True):
            if words is None:
                total += queries * segment_rows
            else:
                total += count(words) * (queries if words.ndim == 1 else 1)
        return total


@dataclass(eq=False, slots=True)  # not frozen, which would triple the time of making one
class SearchRequest:
    """One search. Every backend takes it, for segments in any place.

    Attributes
    ----------
    queries : Queries
        Prepared queries.
    k : int
        Number of rows to return for each query; a range search ignores it.
    thresholds : ndarray of float32, shape (nq,), or None
        For a range search: it returns rows with better scores than this, in the metric's own direction.
    confidence : float
        One-sided confidence of the sign bound, above 0.5; 1 scores every row (``sign_bound.py``).
    threads : int or None
        Most threads to use; None: as many as processors.
    selection : Selection or None
        Rows that the search may return; None: all of them.
    effort : int
        For a walk of the graph: how many rows it finds (``codes/graph.py``); a scan ignores it.
    budget : int
        For a walk: it gives up when at least so many rows were scored; 0 for no limit.
    need : int
        For a walk with a budget: about how many selected rows a whole walk scores; it gives up early if it meets too
        few of them. 0 for never.
    hidden : ndarray of int64, shape (nq,), or None
        For a walk: a row that each query's walk leaves out; -1 is none.
    """

    queries: Queries
    k: int = 0
    thresholds: NDArray[np.float32] | None = None
    confidence: float = 1.0
    threads: int | None = None
    selection: Selection | None = None
    effort: int = 0
    budget: int = 0
    need: int = 0
    hidden: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.thresholds is not None and self.thresholds.shape != (self.queries.count,):
            raise ValueError(f"thresholds have shape {self.thresholds.shape}; expected ({self.queries.count},)")

    @property
    def count(self) -> int:
        """Number of queries nq."""
        return self.queries.count

    def without_removed(self, segments: Sequence[Segment]) -> SearchRequest:
        """Return the request without the rows that segments list as removed; backends begin with it."""
        for segment in segments:
            if segment.removed is not None:
                break
        else:
            return self
        words: list[U64 | None] = []
        selected = (None,) * len(segments) if self.selection is None else self.selection.words
        for segment, of_segment in zip(segments, selected, strict=True):
            if segment.removed is None:
                words.append(of_segment)
            else:
                live = full(segment.rows) & ~of_rows(segment.removed, segment.rows)
                words.append(live if of_segment is None else of_segment & live)
        return replace(self, selection=Selection(tuple(words)))

    def select(self, at: slice | NDArray[np.int64]) -> SearchRequest:
        """Return the request for some of the queries."""
        if isinstance(at, slice) and at.start == 0 and at.stop >= self.count:
            return self
        return replace(
            self,
            queries=self.queries.select(at),
            thresholds=None if self.thresholds is None else self.thresholds[at],
            hidden=None if self.hidden is None else self.hidden[at],
            selection=None if self.selection is None else self.selection.select(at),
        )
