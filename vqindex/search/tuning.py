"""Tuning: the curve of agreement between walks of a graph and the scan of all rows, against effort."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import DEFAULT_OVERSAMPLE, MAX_K, as_count, as_threads
from ..encoder import Encoder
from ..errors import InvalidInputError
from ..rows.contents import Contents
from ..rows.graph import Curve
from .searcher import Searcher

__all__ = ["measure"]

I64 = NDArray[np.int64]

_QUERIES = 400  # rows that stand for queries; walks from them leave them out, or they would find their links at once
_EXACT_OVERSAMPLE = 20  # of the scan whose re-ranked results count as exact
_GROWTH = 1.5  # from one effort of a curve to the next
_ENOUGH = 0.999  # an agreement that ends the curve
_SHARE = 0.25  # of the linked rows: a walk that scores so many costs more than any scan


def measure(encoder: Encoder, contents: Contents, queries: Any, k: int, threads: int | None) -> Curve:
    """Return the curve of an index; arguments as of `VQIndex.tune`."""
    k, threads = as_count("k", k, MAX_K), as_threads(threads)
    graph = contents.graph
    if graph is None or not graph.linked:
        raise InvalidInputError(
            "the index has no linked rows; expected a graph and 1,024 vectors, or build_graph() after 512 were added"
        )
    searcher = Searcher(encoder, contents)
    own: I64 | None = None
    if queries is None:
        live = contents.ids.live_rows()
        own = live[np.arange(min(_QUERIES, live.size)) * live.size // min(_QUERIES, live.size)]
        queries = searcher.decoded(own)
    if not len(queries):
        raise InvalidInputError("there are no queries; expected at least one, or vectors in the index")

    def found(effort: int | None, oversample: float | None = None) -> tuple[I64, float]:
        """Return the k best rows of each query without its own, and how many rows a walk scores."""
        scans_own = own is not None and effort is None
        rows, scored = searcher.rows_found(queries, k + scans_own, threads, effort, oversample, own)
        if own is not None and scans_own:
            is_own = rows == own[:, None]
            is_own[~is_own.any(axis=1), -1] = True  # a row that did not find itself loses its last result
            rows = rows[~is_own].reshape(len(rows), k)
        return rows, scored

    best = found(None)[0]
    exact = None if contents.originals is None else found(None, _EXACT_OVERSAMPLE)[0]
    points: list[_Point] = []
    effort = k
    while True:
        rows, scored = found(effort)
        shares = [_mean(best, rows)]
        if exact is not None:
            shares.append(_mean(exact, found(effort, DEFAULT_OVERSAMPLE)[0]))
        points.append(_Point(effort, scored, shares))
        is_enough = min(mean for mean, _ in shares) >= _ENOUGH
        if is_enough or scored > _SHARE * graph.linked or effort >= graph.linked:
            break
        effort = int(effort * _GROWTH) + 1
    efforts, scored_of, all_shares = zip(*points, strict=True)
    columns = [column for of_kind in zip(*all_shares, strict=True) for column in zip(*of_kind, strict=True)]
    return Curve(k, len(best), efforts, scored_of, *columns)


class _Point(NamedTuple):
    """One effort of a curve, with (mean, error) of each kind of agreement."""

    effort: int
    scored: float
    shares: list[tuple[float, float]]


def _mean(expected: I64, found: I64) -> tuple[float, float]:
    """Return the mean share of each query's expected rows that were found, and its standard error; -1 is no row."""
    shares = np.ones(len(expected))
    for i, (want, have) in enumerate(zip(expected, found, strict=True)):
        want = want[want >= 0]
        if want.size:
            shares[i] = np.isin(want, have).mean()
    return float(shares.mean()), float(shares.std() / np.sqrt(shares.size))
