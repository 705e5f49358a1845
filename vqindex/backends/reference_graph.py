"""The graph of the reference backend: the definition in ``codes/graph.py``, on stored rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codes.bitplanes import join_rows
from ..codes.encoded import Encoded
from ..codes.graph import (
    Found,
    LinkRule,
    NarrowRows,
    WalkLimit,
    link_batch,
    narrow_levels,
    navigation_query,
    navigation_scores,
)
from ..codes.graph import relink as relink_rows
from ..codes.graph import walk as walk_links
from ..codes.top_k import TopK
from ..rows.bitmap import bits_of
from ..rows.graph import Graph
from ..rows.request import SearchRequest
from ..rows.segment import Segment
from ..spec import IndexSpec

__all__ = ["GraphRows", "walk"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

Levels = Callable[[NDArray[np.uint8]], NDArray[Any]]  # of code rows


class GraphRows:
    """The first rows of some segments, as code rows and as the graph sees them.

    Parameters
    ----------
    spec : IndexSpec
        Spec of the codes.
    levels_of : callable
        Decodes code rows to integer levels.
    segments : sequence of Segment
        The rows in order.
    count : int, optional
        How many of the first rows to take; by default all.
    """

    def __init__(
        self, spec: IndexSpec, levels_of: Levels, segments: Sequence[Segment], count: int | None = None
    ) -> None:
        blocks = [join_rows(spec, segment.stored, slice(None)) for segment in segments]
        codes, rescale = (np.concatenate([block[i] for block in blocks])[:count] for i in (0, 1))
        norms = [block.norm for block in blocks if block.norm is not None]
        self.encoded = Encoded(codes, rescale, np.concatenate(norms)[:count] if norms else None)
        levels, multiplier = narrow_levels(levels_of(codes))
        self.narrow = NarrowRows(levels, multiplier, rescale, self.encoded.norm, spec.metric == "ip")

    def link(self, links: U32, first: int, last: int, rule: LinkRule) -> None:
        """Link rows [first, last), as `Backend.link`."""
        link_batch(self.narrow, links, first, last, rule)

    def relink(self, links: U32, live: U64, rule: LinkRule) -> None:
        """Replace links to removed rows, as `Backend.relink`."""
        relink_rows(self.narrow, links, bits_of(live, len(links)), rule)


def walk(
    rows: GraphRows,
    request: SearchRequest,
    graph: Graph,
    exact: Callable[[SearchRequest, Encoded], F32],
    ascending: bool,
) -> tuple[TopK, I64, NDArray[np.bool_]]:
    """Return the k best rows that walks find, how many rows each query scored, and which walks gave up.

    Parameters
    ----------
    rows : GraphRows
        All rows.
    request : SearchRequest
        The request.
    graph : Graph
        The links.
    exact : callable
        Returns the exact scores, (1, m), of a request for one query.
    ascending : bool
        Whether lower scores are better (l2).
    """
    links = graph.rows()
    found = TopK.empty(request.count, request.k, ascending=ascending)
    scored, gave_up = np.zeros(request.count, np.int64), np.zeros(request.count, np.bool_)
    words = None if request.selection is None else request.selection.words[0]
    selected = None if words is None else np.atleast_2d(bits_of(words, rows.encoded.rows))
    queries = navigation_query(request.queries.code_query)
    for i, query in enumerate(queries):
        one = request.select(slice(i, i + 1))
        scale = one.queries.code_scale[0]

        def score(at: I64, query: NDArray[np.int8] = query, scale: np.float32 = scale) -> F32:
            return navigation_scores(rows.narrow, at, query, scale, distance=ascending)

        mask = None if selected is None else selected[i % len(selected)]
        hidden = -1 if request.hidden is None else int(request.hidden[i])
        hit: Found = walk_links(
            score,
            links,
            request.effort,
            entries=graph.entries(),
            rows=rows.encoded.rows,
            selected=mask,
            limit=WalkLimit(request.budget, request.need),
            hidden=hidden,
        )
        scores = exact(one, rows.encoded.select(hit.rows))[0]
        order = np.lexsort((hit.rows, scores if ascending else -scores))[: request.k]
        found.scores[i, : order.size], found.rows[i, : order.size] = scores[order], hit.rows[order]
        found.rank_scores[i, : order.size] = -scores[order] if ascending else scores[order]
        scored[i], gave_up[i] = hit.scored, hit.gave_up
    return found, scored, gave_up
