"""Neighbors: the k best other rows of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import DEFAULT_CONFIDENCE, DEFAULT_OVERSAMPLE, MAX_K, as_count, as_threads
from ..codes.top_k import TopK
from ..result import NeighborsGraph
from ..rows.bitmap import of_rows
from ..rows.request import SearchRequest, Selection
from ..underflow import ignoring_underflow
from .code_angles import CodeAngles
from .pairs import Geometry, check_codec, selected_rows
from .rerank import rerank

if TYPE_CHECKING:
    from .searcher import Searcher

__all__ = ["neighbors_graph"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_BLOCK = 1024  # rows at a time
_MORE = 8  # results of decoded rows beyond k, since their order by cosines differs a little from that by products


@ignoring_underflow
def neighbors_graph(
    searcher: Searcher,
    k: int,
    *,
    filter: Any,
    threads: int | None,
    progress: Callable[[int, int], object] | None,
) -> NeighborsGraph:
    """Return the neighbors of all rows; arguments as of `VQIndex.neighbors_graph`."""
    check_codec(searcher)
    k, threads = as_count("k", k, MAX_K), as_threads(threads)
    rows, contents = selected_rows(searcher, filter), searcher.contents
    segments, positions = contents.rows.segments(), np.full(len(contents.rows), -1, np.int64)
    positions[rows] = np.arange(rows.size)
    selection = Selection.of(of_rows(rows, len(contents.rows)), [segment.rows for segment in segments])
    find = _kept if contents.originals is not None else _Decoded(searcher)
    counts, indices, data = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for start in range(0, rows.size, _BLOCK):
        at = rows[start : start + _BLOCK]
        scores, found = find(searcher, at, k, selection, threads)
        is_other = (found >= 0) & (found != at[:, None])
        is_other &= np.cumsum(is_other, axis=1) <= k
        counts.append(is_other.sum(axis=1))
        indices.append(positions[found[is_other]])
        data.append(scores[is_other])
        if progress is not None:
            progress(start + at.size, rows.size)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return NeighborsGraph(indptr, np.concatenate(indices), np.concatenate(data), contents.ids.ids(rows))


def _kept(searcher: Searcher, at: I64, k: int, selection: Selection, threads: int | None) -> tuple[F32, I64]:
    """Return exact scores and rows of the k + 1 best rows of kept vectors."""
    contents, encoder = searcher.contents, searcher.encoder
    assert contents.originals is not None
    vectors = contents.originals.gather(at)
    shortlist = min(DEFAULT_OVERSAMPLE * (k + 1), len(contents.rows))
    request = SearchRequest(encoder.prepare(vectors), shortlist, None, DEFAULT_CONFIDENCE, threads, selection)
    found = encoder.backend.search(request, contents.rows.segments())
    most = min(k + 1, found.rows.shape[1])
    return rerank(encoder.centering.spec.metric, vectors, found.rows, contents.originals, most, threads)


class _Decoded:
    """Finds neighbors of decoded rows."""

    def __init__(self, searcher: Searcher) -> None:
        self._geometry = Geometry.of(searcher)
        self._angles = CodeAngles.of(searcher.encoder.backend, searcher.contents.rows.dim)

    def __call__(
        self, searcher: Searcher, at: I64, k: int, selection: Selection, threads: int | None
    ) -> tuple[F32, I64]:
        """Return estimated scores and rows, best first."""
        contents, backend, centering = searcher.contents, searcher.encoder.backend, searcher.encoder.centering
        queries = backend.prepare(backend.decode(contents.rows.gather(at)))
        shortlist = min(k + 1 + _MORE, len(contents.rows))
        request = SearchRequest(queries, shortlist, None, DEFAULT_CONFIDENCE, threads, selection)
        found: TopK = backend.search(request, contents.rows.segments())
        is_some = found.rows >= 0
        i, j = np.broadcast_to(at[:, None], found.rows.shape)[is_some], found.rows[is_some]
        norms = np.broadcast_to(queries.norm[:, None], found.rows.shape)[is_some]
        code_cosines = self._geometry.code_cosines(found.scores[is_some], norms, i, j)
        signed = np.full(found.rows.shape, -np.inf)
        signed[is_some] = self._geometry.scores(self._angles.estimate(code_cosines), i, j)
        order = np.lexsort((found.rows, -signed), axis=1)
        signed, rows = np.take_along_axis(signed, order, axis=1), np.take_along_axis(found.rows, order, axis=1)
        with np.errstate(over="ignore"):
            scores = (np.maximum(-signed, 0.0) if backend.ascending else signed).astype(np.float32)
        return centering.scores(scores), rows
