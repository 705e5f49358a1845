"""Walker: searches an index with a graph.

A query whose filter leaves so few rows that a scan of them costs less is scanned, and so is one whose walk has scored
more rows than such a scan would cost.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ..rows.segment import Segment
from .router import Effort, budget_of, walks

__all__ = ["Walker"]

U64 = NDArray[np.uint64]

_PATIENCE = 2  # a walk gives up once it has cost so many times what a scan is estimated to


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

    def search(self, request: SearchRequest, words: U64 | None) -> Walked:
        """Return the k best rows of each query, and how many rows each walk scored; 0 for queries that were scanned.

        Parameters
        ----------
        request : SearchRequest
            The request, without a selection.
        words : ndarray of uint64, shape (m,) or (nq, m), or None
            The rows that all queries, or each query, may find; None for all rows.
        """
        segments = self.rows.segments()
        if words is None:
            return self._walk(request, None, segments)
        if words.ndim == 1 or not request.count:
            return self._search_one(request, words, segments)
        return Walked.of_queries([self._search_one(one, line, segments) for one, line in self._each(request, words)])

    def _search_one(self, request: SearchRequest, words: U64, segments: Sequence[Segment]) -> Walked:
        """Walk or scan with one filter for all queries."""
        total, selected = len(self.rows), count(words & full(len(self.rows)))
        budget = budget_of(selected, total)
        if request.count and walks(self.effort, selected, total, self.graph.linked):
            return self._walk_within(request, words, _PATIENCE * budget, segments)
        return self._scan(request, words, segments)

    @staticmethod
    def _each(request: SearchRequest, words: U64) -> list[tuple[SearchRequest, U64]]:
        lines = np.broadcast_to(np.atleast_2d(words), (request.count, words.shape[-1]))
        return [(request.select(slice(i, i + 1)), line) for i, line in enumerate(lines)]

    def _scan(self, request: SearchRequest, words: U64, segments: Sequence[Segment]) -> Walked:
        selection = Selection.of(words, [segment.rows for segment in segments])
        found = self.backend.search(replace(request, selection=selection), segments)
        return Walked(found, np.zeros(request.count, np.int64))

    def _walk_within(self, request: SearchRequest, words: U64, budget: int, segments: Sequence[Segment]) -> Walked:
        """Walk for selected rows with a budget, and scan for the queries that used it up."""
        walked = self._walk(replace(request, budget=budget), words, segments)
        spent = np.flatnonzero(walked.scored >= budget)
        for i in spent.tolist():
            again = self._scan(request.select(slice(i, i + 1)), words, segments)
            arrays: Any = zip(walked.top_k, again.top_k, strict=True)
            for target, source in arrays:
                target[i] = source[0]
            walked.scored[i] = 0
        return walked

    def _walk(self, request: SearchRequest, words: U64 | None, segments: Sequence[Segment]) -> Walked:
        selection = None if words is None else Selection((words,))
        request = replace(request, selection=selection, effort=self.effort.effort)
        return self.backend.walk(request, segments, self.graph)
