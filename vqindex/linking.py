"""Linking: keeps the graph of an index in step with its rows.

Rows are linked in whole batches, in row order. So the links depend on the order of the rows and not on how they were
added. The rows after the last linked one are the tail, which every walk scores. `linked` links a tail that is long
enough, and then looks whether walks need many entries.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .backends.protocol import Backend
from .codes.codec import Codec
from .codes.graph import BATCH, NO_ROW, LinkRule
from .errors import InvalidInputError
from .lost_walks import needs_many_entries
from .rows.bitmap import bits_of, words_of
from .rows.contents import Contents
from .rows.graph import Graph
from .spec import IndexSpec

__all__ = ["MAX_LINKS", "MIN_LINKS", "TAIL_ROWS", "as_rule", "compacted", "copied", "linked", "renumbered", "trimmed"]

TAIL_ROWS = 2 * BATCH  # a tail of so many rows is linked; every walk scores the tail
_AT_ONCE = 32 * BATCH  # rows between two calls of `progress`

MIN_LINKS, MAX_LINKS = 8, 128
Bits = NDArray[np.bool_]
Progress = Callable[[int, int], object]


def as_rule(name: str, links: object, spec: IndexSpec) -> LinkRule:
    """Return the rule for graphs of so many links a row.

    Raises
    ------
    InvalidInputError
        If the number is out of range, or codes of the spec have no graph.
    """
    if isinstance(links, bool) or not isinstance(links, int | np.integer) or not MIN_LINKS <= links <= MAX_LINKS:
        raise InvalidInputError(f"{name} is {links!r}; expected an integer from {MIN_LINKS} to {MAX_LINKS}")
    if Codec(spec).has_sketch:
        code = f"codec {spec.codec!r}" if spec.codec == "qjl" else f"sketch {spec.sketch!r}"
        raise InvalidInputError(
            f"{name} is {links}, but codes of {code} have no graph; expected sketch 'shared', turboquant-mse or trellis"
        )
    return LinkRule.of(int(links))


def linked(contents: Contents, backend: Backend, least: int = TAIL_ROWS, progress: Progress | None = None) -> Contents:
    """Return the contents with all whole batches of the tail linked, if the tail has `least` rows or more.

    Parameters
    ----------
    contents : Contents
        Contents with or without a graph.
    backend : Backend
        It links.
    least : int
        Fewer rows stay a tail.
    progress : callable, optional
        Called with the number of rows that are linked so far, and of all rows that will be.
    """
    graph = contents.graph
    if graph is None or len(contents.rows) - graph.linked < max(BATCH, least):
        return contents
    first = graph.linked
    last = first + (len(contents.rows) - first) // BATCH * BATCH
    links = graph.with_room(last)
    segments = contents.rows.segments()
    for start in range(first, last, _AT_ONCE):
        stop = min(start + _AT_ONCE, last)
        backend.link(segments, links, start, stop, graph.rule)
        if progress is not None:
            progress(stop, last)
    graph = graph._replace(links=links)
    many = needs_many_entries(graph, contents.rows, backend)
    return contents._replace(graph=graph._replace(many_entries=many))


def compacted(contents: Contents, backend: Backend) -> Contents:
    """Return the contents without removed rows, as `Contents.compacted`; their graph is repaired."""
    return _repaired(contents.compacted(), contents, 0, backend)


def trimmed(contents: Contents, first: int, backend: Backend) -> Contents:
    """Return the contents without some removed rows, as `Contents.trimmed`; their graph is repaired."""
    return _repaired(contents.trimmed(first), contents, first, backend)


def copied(contents: Contents, backend: Backend) -> Contents:
    """Return a copy without removed rows, as `Contents.copied`; its graph is repaired."""
    return _repaired(contents.copied(), contents, 0, backend)


def _repaired(short: Contents, contents: Contents, first: int, backend: Backend) -> Contents:
    """Give contents without the removed rows from `first` on the graph of contents with them."""
    graph, live = contents.graph, contents.ids.live
    if graph is None or short is contents:
        return short
    if live is None:  # no row changed its number
        return short._replace(graph=graph)
    keep = bits_of(live, graph.linked) | (np.arange(graph.linked) < first)
    return short._replace(graph=renumbered(contents, keep, backend))


def renumbered(contents: Contents, keep: Bits, backend: Backend) -> Graph:
    """Return the graph of contents without some removed rows; rows that had links to them get others.

    Parameters
    ----------
    contents : Contents
        Contents with removed rows.
    keep : ndarray of bool, shape (linked,)
        Which linked rows stay: all live ones, and perhaps removed ones, too. They reach each other.
    backend : Backend
        It links.
    """
    graph = contents.graph
    if graph is None:
        raise ValueError("contents without a graph have none to renumber")
    if keep.all():
        return graph
    packed = graph.links.copy()
    backend.relink(contents.rows.segments(), packed, words_of(keep), graph.rule)
    links = graph._replace(links=packed).rows()
    numbers = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)  # the last one is that of NO_ROW
    new = numbers[np.where(links == NO_ROW, graph.linked, links)[keep]]
    return graph.of_rows(new.astype(np.uint32))  # -1 becomes NO_ROW
