"""Searcher: prepares queries, applies filters, scans and re-ranks, over a snapshot of the contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import DEFAULT_CONFIDENCE, as_confidence, as_level, as_shortlist, as_threads, as_thresholds
from ..arrays import OnDevice, as_queries, on_host
from ..backends.protocol import Finder
from ..codes.encoded import Encoded, Queries
from ..codes.top_k import RangeHits, TopK, Walked, merge_top_k
from ..encoder import Encoder
from ..errors import InvalidInputError
from ..result import Delivery, Explanation, RangeResult, SearchResult
from ..rows.contents import Contents
from ..rows.filters import Filter
from ..rows.request import SearchRequest
from ..underflow import ignoring_underflow
from .intervals import Estimates, estimates_of
from .plan import Facts, Plan, make_plan
from .rerank import as_reader, rerank
from .router import Effort
from .tails import Tails, fewest_ranks
from .walker import Walker

__all__ = ["Searcher"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# k, oversample, threads, confidence, effort, exact, recall; a plain tuple takes the least time to make
Arguments = tuple[int, float | None, int | None, float | None, int | None, bool, float | None]
_OVERSAMPLE = 1  # its place

_FEW_QUERIES = 16  # so many are searched for by one call of the backend
_PLANS = 64  # of searches with different arguments that are remembered


@dataclass(frozen=True, eq=False)
class Searcher:
    """Searches the contents of an index at one moment. It keeps what all searches of this moment share.

    Attributes
    ----------
    encoder : Encoder
        Encoder of the index. Its backend scans; its centering converts the engine's scores to those of the index.
    contents : Contents
        The rows to search.
    """

    encoder: Encoder
    contents: Contents

    def search(
        self,
        queries: Any,
        filter: Any,
        rerank_from: Any,
        arguments: Arguments,
        return_stderr: bool,
        return_interval: float | None,
        explain: bool,
    ) -> SearchResult:
        """Return the k best results; arguments as of `VQIndex.search`.

        They are passed by position, and few functions are called: each takes a part of the time of a short search.
        """
        if filter is None and not return_stderr and return_interval is None and not explain:
            found = self._find(queries, rerank_from, arguments)
            if found is not None:
                return SearchResult(found[0], self.contents.ids.ids(found[1]))
        return self._search(queries, filter, rerank_from, arguments, return_stderr, return_interval, explain)

    def _find(self, queries: Any, rerank_from: Any, arguments: Arguments) -> tuple[F32, I64] | None:
        """Return scores and rows of a few queries by one call of the backend, with no other pass over them.

        None is returned for all that such a call doesn't do. `_search` then does it, or says what is wrong.
        """
        finder = self._finder
        if finder is None or type(queries) is not np.ndarray:
            return None
        count = 1 if queries.ndim == 1 else len(queries) if queries.ndim == 2 else 0
        if not 1 <= count <= _FEW_QUERIES:
            return None
        originals = None
        if rerank_from is True:
            originals = self.contents.originals
            if originals is None:
                return None
        elif (rerank_from is not None and rerank_from is not False) or arguments[_OVERSAMPLE] is not None:
            return None
        k, shortlist, confidence, threads, walking = self._plan(count, arguments, originals is not None)
        effort = None if walking is None else walking.effort
        return finder.find(queries, k, shortlist, confidence, threads, effort, originals)

    @ignoring_underflow
    def _search(
        self,
        queries: Any,
        filter: Any,
        rerank_from: Any,
        arguments: Arguments,
        return_stderr: bool,
        return_interval: float | None,
        explain: bool,
    ) -> SearchResult:
        """Return the results of any search, step by step."""
        level = None if return_interval is None else as_level("return_interval", return_interval)
        vectors_of = as_reader(rerank_from, arguments[_OVERSAMPLE], self.contents, return_stderr, level is not None)
        matrix, deliver = self._checked(queries)
        plan = self._plan(matrix.shape[0], arguments, vectors_of is not None)
        prepared = self.encoder.prepare(matrix)
        shortlist = plan.shortlist
        if level is not None:
            shortlist = max(plan.k, fewest_ranks(self.encoder.centering.spec.bits))
        request = SearchRequest(prepared, shortlist, None, plan.confidence, plan.threads)
        scored: I64 | None = None
        if plan.walking is None:
            found = self._scan(request, filter)
        else:
            if level is not None:  # a walk finds no more rows than its effort
                request.k = min(request.k, max(plan.k, plan.walking.effort))
            found, scored, _ = self._walk(request, filter, plan.walking)
        tails = None
        if level is not None:
            found, tails = self._learned(found, plan.k)
        if vectors_of is None:
            scores, rows = self.encoder.centering.scores(found.scores), found.rows
        else:
            metric = self.encoder.centering.spec.metric
            scores, rows = rerank(metric, on_host(matrix), found.rows, vectors_of, plan.k, plan.threads)
        if not return_stderr and tails is None:
            result = deliver(SearchResult, scores, self.contents.ids.ids(rows))
        else:
            errors = estimates_of(self.encoder, prepared, found, self.contents.rows.segments())
            result = deliver(
                SearchResult, scores, self.contents.ids.ids(rows), self._stderr(errors) if return_stderr else None
            )
            if level is not None and tails is not None:
                result.low, result.high = map(deliver.array, self._bounds(errors, tails, level))
        if explain:
            scored = np.zeros(prepared.count, np.int64) if scored is None else scored
            result.explanation = Explanation(None if plan.walking is None else plan.walking.effort, scored)
        return result

    @ignoring_underflow
    def top_k(
        self, queries: Any, length: int, *, filter: Any, threads: int | None, confidence: float | None
    ) -> tuple[TopK, bool]:
        """Scan for the best rows of each query; return them, and whether there is a single query.

        Parameters
        ----------
        queries, filter, threads, confidence
            As of `VQIndex.search`.
        length : int
            Number of rows.
        """
        threads, confidence = self._limits(threads, confidence)
        _, prepared, deliver = self._prepare(queries)
        return self._scan(SearchRequest(prepared, length, None, confidence, threads), filter), deliver.single

    def exact(self, queries: Any, rows: I64, *, threads: int | None) -> tuple[F32, I64, bool]:
        """Return exact scores of rows by the kept vectors, best first, and their rows; and whether the query is single.

        Parameters
        ----------
        queries : array-like of shape (nq, dim) or (dim,)
            Queries.
        rows : ndarray of int64, shape (nq, m)
            Rows; -1 is none.
        threads : int or None
            Most threads.
        """
        vectors_of = as_reader(True, None, self.contents)
        assert vectors_of is not None
        matrix, deliver = self._checked(queries)
        if len(rows) != matrix.shape[0]:
            raise InvalidInputError(f"there are rows for {len(rows)} queries; expected {matrix.shape[0]}")
        metric = self.encoder.centering.spec.metric
        scores, rows = rerank(metric, on_host(matrix), rows, vectors_of, rows.shape[1], as_threads(threads))
        return scores, rows, deliver.single

    def _plan(self, queries: int, arguments: Arguments, is_reranked: bool) -> Plan:
        """Return the plan of a search for so many queries. Arguments are checked once for all searches of a moment."""
        try:
            return self._plans(queries, *arguments, is_reranked)
        except TypeError:  # an argument has no hash, and so is no number
            return make_plan(self._facts, queries, *arguments, is_reranked)

    @cached_property
    def _facts(self) -> Facts:
        return Facts(self.contents.graph, len(self.contents.ids), self.encoder.backend.walks)

    @cached_property
    def _plans(self) -> Callable[..., Plan]:
        # By type as well as by value: True is no 1. The cache doesn't hold the searcher, which would hold the cache.
        return lru_cache(maxsize=_PLANS, typed=True)(partial(make_plan, self._facts))

    @cached_property
    def _finder(self) -> Finder | None:
        encoder, contents = self.encoder, self.contents
        ids, graph = contents.ids, contents.graph if self._walks_at_once else None
        return encoder.backend.finder(encoder.centering, contents.rows.segments(), graph, ids.live)

    @ignoring_underflow
    def range_search(
        self, queries: Any, threshold: Any, *, filter: Any, threads: int | None, confidence: float | None
    ) -> RangeResult:
        """Return all results better than a threshold; arguments as of `VQIndex.range_search`."""
        threads, confidence = self._limits(threads, confidence)
        _, prepared, deliver = self._prepare(queries)
        thresholds = self.encoder.centering.thresholds(as_thresholds(threshold, prepared.count))
        hits = self._scan_range(SearchRequest(prepared, 0, thresholds, confidence, threads), filter)
        scores = self.encoder.centering.scores(hits.scores)
        return deliver._replace(single=False)(RangeResult, hits.lims, scores, self.contents.ids.ids(hits.rows))

    @ignoring_underflow
    def estimate(self, queries: Any, ids: Any) -> F32:
        """Return the scores of every query with every id of a list; as `VQIndex.estimate`."""
        _, prepared, deliver = self._prepare(queries)
        codes = self._codes(ids)
        scores: F32 = deliver.array(self.encoder.centering.scores(self.encoder.backend.scores(prepared, codes)))
        return scores

    @ignoring_underflow
    def reconstruct(self, ids: Any) -> F32:
        """Return the decoded vectors of ids, (m, dim); as `VQIndex.reconstruct`."""
        return self._decoded(self._codes(ids))

    @ignoring_underflow
    def decoded(self, rows: I64) -> F32:
        """Return decoded vectors of rows, (m, dim)."""
        return self._decoded(self.contents.rows.gather(rows))

    def _decoded(self, codes: Encoded) -> F32:
        return self.encoder.centering.decoded(self.encoder.backend.decode(codes))

    @ignoring_underflow
    def rows_found(
        self,
        queries: Any,
        k: int,
        threads: int | None,
        effort: int | None,
        oversample: float | None = None,
        hidden: I64 | None = None,
    ) -> tuple[I64, float]:
        """Return the k best rows of each query, and how many rows a walk scores on average.

        Parameters
        ----------
        queries : array-like of shape (nq, dim)
            Queries.
        k : int
            Number of rows.
        threads : int or None
            Most threads.
        effort : int or None
            Effort of walks; None scans.
        oversample : float, optional
            Length of a shortlist to be re-ranked by the kept vectors, in multiples of k.
        hidden : ndarray of int64, shape (nq,), optional
            A row that each query's walk leaves out; a scan does not.
        """
        vectors, prepared, _ = self._prepare(queries)
        shortlist = k if oversample is None else as_shortlist(k, oversample, len(self.contents.ids))
        request = SearchRequest(prepared, shortlist, None, DEFAULT_CONFIDENCE, threads, hidden=hidden)
        scored = np.zeros(prepared.count, np.int64)
        if effort is None:
            found = self._scan(request, None)
        else:
            found, scored, _ = self._walker(Effort(effort)).walk(request, self.contents.ids.live)
        rows, vectors_of = found.rows, as_reader(oversample is not None, oversample, self.contents)
        if vectors_of is not None:
            metric = self.encoder.centering.spec.metric
            rows = rerank(metric, on_host(vectors), rows, vectors_of, k, threads)[1]
        return rows, float(scored.mean())

    def _codes(self, ids: Any) -> Encoded:
        """Return the code rows of ids."""
        id_map = self.contents.ids
        return self.contents.rows.gather(id_map.rows(id_map.parse_ids(ids)))

    @staticmethod
    def _limits(threads: int | None, confidence: float | None) -> tuple[int | None, float]:
        return as_threads(threads), as_confidence(confidence)

    def _checked(self, queries: Any) -> tuple[F32 | OnDevice, Delivery]:
        """Check queries; return them, and the form of their results."""
        on_device = self.encoder.backend.adopt(queries)
        matrix, single = as_queries(queries if on_device is None else on_device, self.encoder.centering.spec.dim)
        return matrix, Delivery(single, on_device)

    def _prepare(self, queries: Any) -> tuple[F32 | OnDevice, Queries, Delivery]:
        """Check queries; return them, prepared ones for a backend, and the form of their results."""
        matrix, deliver = self._checked(queries)
        return matrix, self.encoder.prepare(matrix), deliver

    def _scan(self, request: SearchRequest, filter: Any) -> TopK:
        """Scan the rows that a filter selects for each query."""
        segments = self.contents.rows.segments()
        if filter is None and self.contents.ids.live is None:
            return self.encoder.backend.search(request, segments)
        batches = Filter(filter, self.contents.ids, request.count).requests(request, segments)
        return TopK.of_queries([self.encoder.backend.search(batch, segments) for batch in batches])

    def _walk(self, request: SearchRequest, filter: Any, effort: Effort) -> Walked:
        """Walk the graph for each query, or scan where its filter leaves few rows."""
        ids, walker = self.contents.ids, self._walker(effort)
        if filter is None and self._walks_at_once:
            return walker.walk(request, ids.live)
        batches = Filter(filter, ids, request.count).batches(len(self.contents.rows))
        walked = []
        for at, words in batches:
            assert words is not None
            walked.append(walker.search(request.select(at), words))
        return Walked.of_queries(walked)

    @property
    def _walks_at_once(self) -> bool:
        """Whether so few rows are removed that a walk without a filter needs no budget."""
        ids = self.contents.ids
        return 2 * len(ids) >= ids.rows_ever

    def _walker(self, effort: Effort) -> Walker:
        graph = self.contents.graph
        assert graph is not None
        return Walker(self.encoder.backend, self.contents.rows, graph, effort)

    def _scan_range(self, request: SearchRequest, filter: Any) -> RangeHits:
        segments = self.contents.rows.segments()
        batches = Filter(filter, self.contents.ids, request.count).requests(request, segments)
        return RangeHits.of_queries([self.encoder.backend.range_search(batch, segments) for batch in batches])

    def _learned(self, found: TopK, k: int) -> tuple[TopK, Tails]:
        """Return the k best of a longer list, and how its scores decay (``intervals.py``)."""
        ascending = self.encoder.backend.ascending
        tails = Tails.of(found, ascending=ascending)
        return (found if found.rows.shape[1] == k else merge_top_k([found], k, ascending=ascending)), tails

    def _stderr(self, errors: Estimates) -> F32:
        """Return the standard errors of results; nan in empty places."""
        with np.errstate(over="ignore", under="ignore"):
            return self.encoder.centering.stderr(errors.stderr().astype(np.float32))

    def _bounds(self, errors: Estimates, tails: Tails, level: float) -> tuple[F32, F32]:
        """Return the lower and the upper ends of intervals, as scores of the index."""
        with np.errstate(over="ignore", under="ignore"):
            worse, better = (bound.astype(np.float32) for bound in errors.bounds(tails, level))
        if not self.encoder.backend.ascending:
            return worse, better
        scores, ends = self.encoder.centering.scores, (np.maximum(-better, 0), np.maximum(-worse, 0))
        low, high = scores(ends[0]), scores(ends[1])
        return (low, high) if self.encoder.centering.spec.metric == "l2" else (high, low)
