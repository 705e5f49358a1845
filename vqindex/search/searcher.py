"""Searcher: prepare, select, scan, merge, rerank."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import MAX_K, as_confidence, as_count, as_shortlist, as_thresholds
from ..arrays import OnDevice, as_queries, on_host
from ..codes.encoded import Queries
from ..codes.top_k import RangeHits, TopK
from ..encoder import Encoder
from ..result import Delivery, RangeResult, SearchResult
from ..rows.contents import Contents
from ..rows.filters import Filter
from ..rows.request import SearchRequest
from ..rows.row_store import RowStore
from .rerank import as_reader, rerank

__all__ = ["Searcher"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class _Prepared(NamedTuple):
    """Queries as they were given, as a backend takes them, and how their results go to the caller."""

    given: F32 | OnDevice
    queries: Queries
    deliver: Delivery


class Searcher(NamedTuple):
    """Answers searches of contents that nobody changes meanwhile (`Contents.snapshot`).

    Attributes
    ----------
    encoder : Encoder
        Of the index: its backend scans, its centering turns the engine's scores into those of the index.
    contents : Contents
        What is searched.
    """

    encoder: Encoder
    contents: Contents

    def search(
        self,
        queries: Any,
        k: int,
        *,
        filter: Any,
        rerank_from: Any,
        oversample: float | None,
        threads: int | None,
        return_stderr: bool,
        confidence: float | None,
    ) -> SearchResult:
        """Return the k best results; arguments as of `VQIndex.search`."""
        k = as_count("k", k, MAX_K)
        limits = self._limits(threads, confidence)
        vectors_of = as_reader(rerank_from, oversample, return_stderr, self.contents)
        given, prepared, deliver = self._prepare(queries)
        shortlist = k if vectors_of is None else as_shortlist(k, oversample, len(self.contents.ids))
        found = self._scan(SearchRequest(prepared, k=shortlist, **limits), filter)
        if vectors_of is None:
            scores, rows = self.encoder.centering.scores(found.scores), found.rows
        else:
            metric = self.encoder.centering.spec.metric
            scores, rows = rerank(metric, on_host(given), found.rows, vectors_of, k)
        errors = self._stderr(prepared, rows, self.contents.rows) if return_stderr else None
        return deliver(SearchResult(scores, self.contents.ids.ids(rows), errors))

    def range_search(
        self, queries: Any, threshold: Any, *, filter: Any, threads: int | None, confidence: float | None
    ) -> RangeResult:
        """Return all results better than a threshold; arguments as of `VQIndex.range_search`."""
        limits = self._limits(threads, confidence)
        _, prepared, deliver = self._prepare(queries)
        thresholds = self.encoder.centering.thresholds(as_thresholds(threshold, prepared.count))
        hits = self._scan_range(SearchRequest(prepared, thresholds=thresholds, **limits), filter)
        scores = self.encoder.centering.scores(hits.scores)
        return deliver._replace(single=False)(RangeResult(hits.lims, scores, self.contents.ids.ids(hits.rows)))

    def estimate(self, queries: Any, ids: Any) -> F32:
        """Return the scores of every query with every given id; as `VQIndex.estimate`."""
        _, prepared, deliver = self._prepare(queries)
        known = self.contents.ids
        codes = self.contents.rows.gather(known.rows(known.parse_ids(ids)))
        scores: F32 = deliver.array(self.encoder.centering.scores(self.encoder.backend.scores(prepared, codes)))
        return scores

    def reconstruct(self, ids: Any) -> F32:
        """Return the decoded vectors of ids, (m, dim); as `VQIndex.reconstruct`."""
        known = self.contents.ids
        codes = self.contents.rows.gather(known.rows(known.parse_ids(ids)))
        return self.encoder.centering.decoded(self.encoder.backend.decode(codes))

    @staticmethod
    def _limits(threads: int | None, confidence: float | None) -> dict[str, Any]:
        return {
            "threads": None if threads is None else as_count("threads", threads),
            "confidence": as_confidence(confidence),
        }

    def _prepare(self, queries: Any) -> _Prepared:
        """Check and prepare queries; also tell how their results are to be returned."""
        on_device = self.encoder.backend.adopt(queries)
        matrix, single = as_queries(queries if on_device is None else on_device, self.encoder.centering.spec.dim)
        return _Prepared(matrix, self.encoder.prepare(matrix), Delivery(single, on_device))

    def _scan(self, request: SearchRequest, filter: Any) -> TopK:
        """Scan the rows that a filter leaves each query."""
        segments = self.contents.rows.segments()
        parts = Filter(filter, self.contents.ids, request.count).requests(request, segments)
        return TopK.of_queries([self.encoder.backend.search(part, segments) for part in parts])

    def _scan_range(self, request: SearchRequest, filter: Any) -> RangeHits:
        segments = self.contents.rows.segments()
        parts = Filter(filter, self.contents.ids, request.count).requests(request, segments)
        return RangeHits.of_queries([self.encoder.backend.range_search(part, segments) for part in parts])

    def _stderr(self, queries: Queries, rows: I64, store: RowStore) -> F32:
        """Return the standard errors of found rows, nan where there is none."""
        errors = np.full(rows.shape, np.nan, np.float32)
        for i, found in enumerate(rows):
            mask = found >= 0
            codes = store.gather(found[mask])
            errors[i, mask] = self.encoder.backend.stderr(queries.select(slice(i, i + 1)), codes)[0]
        return self.encoder.centering.stderr(errors)
