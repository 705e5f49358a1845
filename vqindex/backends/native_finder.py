"""The finder of the CPU backend: a search for few queries in one compiled call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .._native import QueryRules, ScanRows, Tables, WalkRows
from ..center import Centering
from ..codes.estimator import MAX_NORM
from ..codes.sign_bound import quantile
from ..native_calls import call_native
from ..rows.originals import Originals

__all__ = ["NativeFinder", "query_rules"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def query_rules(tables: Tables, centering: Centering, isa: str) -> QueryRules:
    """Return how the extension prepares queries of vectors with this center, and converts scores."""
    spec, point = centering.spec, centering.vector
    if centering.pending:
        point = np.zeros(spec.dim, np.float32)
    most = MAX_NORM if spec.stores_norm else np.inf
    return QueryRules(tables, spec.metric, point, float(centering.norm_of_zero), most, isa)


class NativeFinder:
    """Searches the rows of one moment.

    Parameters
    ----------
    rules : QueryRules
        How the extension prepares queries.
    scan_rows, walk_rows : callable or None
        Return the rows as the extension scans or walks them; None where it can't. They are called once, when rows are
        scanned or walked for the first time.
    """

    def __init__(
        self,
        rules: QueryRules,
        scan_rows: Callable[[], ScanRows] | None,
        walk_rows: Callable[[], WalkRows] | None,
    ) -> None:
        self._rules = rules
        self._make_scan_rows = scan_rows
        self._make_walk_rows = walk_rows

    @cached_property
    def _scan_rows(self) -> ScanRows | None:
        return None if self._make_scan_rows is None else self._make_scan_rows()

    @cached_property
    def _walk_rows(self) -> WalkRows | None:
        return None if self._make_walk_rows is None else self._make_walk_rows()

    def find(
        self,
        queries: NDArray[np.generic],
        k: int,
        shortlist: int,
        confidence: float,
        threads: int | None,
        effort: int | None,
        originals: Originals | None,
    ) -> tuple[F32, I64] | None:
        """Return the k best scores and rows of each query, as `Finder.find`."""
        vectors = None if originals is None else originals.compiled()
        if vectors is None and originals is not None:
            return None
        shape = (k,) if queries.ndim == 1 else (len(queries), k)
        scores, rows = np.empty(shape, np.float32), np.empty(shape, np.int64)
        given = self._rules, queries, scores, rows
        if effort is None:
            stored = self._scan_rows
            found = stored is not None and call_native(
                stored.find, *given, quantile(confidence), threads or 0, vectors, shortlist
            )
        else:
            graph = self._walk_rows
            found = graph is not None and call_native(graph.find, *given, effort, threads or 0, vectors, shortlist)
        return (scores, rows) if found else None
