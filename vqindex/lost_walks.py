"""Lost walks: whether walks from few entries miss groups of rows that they reach from many.

Rows sorted by groups that are far from each other have hardly any links from group to group, so a walk stays in the
group it starts in. The rows themselves tell: a walk for a row, without it, must find rows as near as those it links to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .backends.protocol import Backend
from .codes.encoded import Queries
from .codes.graph import NO_ROW
from .rows.graph import Graph
from .rows.request import SearchRequest
from .rows.row_store import RowStore
from .rows.segment import Segment
from .underflow import ignoring_underflow

__all__ = ["needs_many_entries"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_ROWS = 256  # that walks are made for, spread over the graph
_EFFORT = 32
_LINKS = 8  # of each row
_AT_ONCE = 16  # rows whose links are scored together, each row with the links of all
_FEW_LOST = 3  # rows: walks from few entries will do if fewer are lost


@ignoring_underflow
def needs_many_entries(graph: Graph, rows: RowStore, backend: Backend) -> bool:
    """Return whether walks of a graph should start from many entries.

    A walk is lost if the best row that it finds is worse than all of the first eight links of the row it is made for.
    Many entries are needed if walks from few are lost for 3 of 256 rows, more than 1 %, and walks from many for at most
    half as many. The answer depends on the rows and the links alone.

    Parameters
    ----------
    graph : Graph
        The graph.
    rows : RowStore
        The rows of the index.
    backend : Backend
        It walks.
    """
    few, many = graph._replace(many_entries=False), graph._replace(many_entries=True)
    if many.entries().size == few.entries().size:
        return False
    count = min(_ROWS, graph.linked)
    chosen = (2 * np.arange(count, dtype=np.int64) + 1) * graph.linked // (2 * count)
    queries = backend.prepare(backend.decode(rows.gather(chosen)))
    least = _worst_links(graph, rows, backend, queries, chosen)

    def lost(way: Graph, segments: Sequence[Segment]) -> int:
        request = SearchRequest(queries, 1, effort=_EFFORT, hidden=chosen)
        scores = backend.walk(request, segments, way).top_k.scores[:, 0]
        return int((scores > least if backend.ascending else scores < least).sum())

    segments = rows.segments()
    by_few = lost(few, segments)
    return by_few >= _FEW_LOST and 2 * lost(many, segments) <= by_few


def _worst_links(graph: Graph, rows: RowStore, backend: Backend, queries: Queries, chosen: I64) -> F32:
    """Return the worst score of each row's first links."""
    links = np.concatenate([graph.unpack(row, row + 1)[:, :_LINKS] for row in chosen.tolist()])
    is_used = links != NO_ROW
    worst = np.empty(len(chosen), np.float32)
    for start in range(0, len(chosen), _AT_ONCE):
        at = slice(start, start + _AT_ONCE)
        places = np.where(is_used[at], links[at], 0).astype(np.int64)
        scores = backend.scores(queries.select(at), rows.gather(places.reshape(-1)))
        own = np.take_along_axis(scores.reshape(len(places), len(places), -1), _diagonal(len(places)), 1)[:, 0]
        none = -np.inf if backend.ascending else np.inf
        own = np.where(is_used[at], own, np.float32(none))
        worst[at] = own.max(axis=1) if backend.ascending else own.min(axis=1)
    return worst


def _diagonal(count: int) -> I64:
    return np.arange(count)[:, None, None]
