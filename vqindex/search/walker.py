"""Walker: searches an index with a graph.

A query whose filter leaves so few rows that a scan of them costs less is scanned, and so is one whose walk would go on
to cost more than such a scan, as it does if the filter leaves few rows near the query.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.protocol import Backend
from ..codes.top_k import Walked
from ..rows.bitmap import count, full
from ..rows.graph import Graph
from ..rows.request import SearchRequest, Selection
from ..rows.row_store import RowStore
from .router import Effort, budget_of, walks

__all__ = ["Walker"]

U64 = NDArray[np.uint64]


class Walker(NamedTuple):
    """Searches the rows of one moment by their graph.

    Attributes
    ----------
    backend : Backend
        It walks and scans.
    rows : RowStore
        All rows.
    graph : Graph
        Links of the first rows.
    effort : Effort
        How walks search.
    """

    backend: Backend
    rows: RowStore
    graph: Graph
    effort: Effort

    def walk(self, request: SearchRequest, words: U64 | None) -> Walked:
        """Return the k best rows that walks find, and how many rows each walk scored.

        Parameters
        ----------
        request : SearchRequest
            The request; its effort and its selection are set.
        words : ndarray of uint64, shape (m,) or (nq, m), or None
            The rows that all queries, or each query, may find; None for all rows.
        """
        request.effort, request.selection = self.effort.effort, None if words is None else Selection((words,))
        return self.backend.walk(request, self.rows.segments(), self.graph)

    def search(self, request: SearchRequest, words: U64) -> Walked:
        """Return the k best rows of each query, and how many rows each walk scored; 0 for queries that were scanned.

        Parameters
        ----------
        request : SearchRequest
            The request, without a selection.
        words : ndarray of uint64, shape (m,) or (nq, m)
            The rows that all queries, or each query, may find.
        """
        if words.ndim == 1 or not request.count:
            return self._search_one(request, words)
        return Walked.of_queries(
            [self._search_one(request.select(slice(i, i + 1)), line) for i, line in enumerate(words)]
        )

    def _search_one(self, request: SearchRequest, words: U64) -> Walked:
        """Walk or scan with one filter for all queries."""
        total, selected = len(self.rows), count(words & full(len(self.rows)))
        budget = budget_of(selected, total)
        if request.count and walks(self.effort, selected, total, self.graph.linked):
            return self._walk_within(request, words, budget)
        return self._scan(request, words)

    def _scan(self, request: SearchRequest, words: U64) -> Walked:
        segments = self.rows.segments()
        selection = Selection.of(words, [segment.rows for segment in segments])
        found = self.backend.search(replace(request, selection=selection), segments)
        return Walked(found, np.zeros(request.count, np.int64), np.zeros(request.count, np.bool_))

    def _walk_within(self, request: SearchRequest, words: U64, budget: int) -> Walked:
        """Walk for selected rows with a budget, and scan for the queries whose walks give up."""
        walked = self.walk(replace(request, budget=budget, need=self.effort.need()), words)
        again = np.flatnonzero(walked.gave_up)
        if again.size:
            scanned = self._scan(request.select(again), words)
            arrays: Any = zip((*walked.top_k, walked.scored), (*scanned.top_k, scanned.scored), strict=True)
            for target, source in arrays:
                target[again] = source
        return walked
