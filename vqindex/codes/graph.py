"""FROZEN: the graph over the codes. DO NOT CHANGE: links in files depend on it (tests/golden/graph.json).

A row of the graph has links to other rows that are near it. A walk follows links to the rows nearest a query and scores
a small share of all rows (HNSW's layer 0, arXiv 1603.09320; Vamana's pruning, NeurIPS 2019, DiskANN). Links are made
from codes alone. All sums are exact integers and all float32 operations have one order, so every backend, number of
threads and instruction set makes the same links and finds the same rows.

Narrow levels. L_rj is the int8 level of coordinate j of row r: the codebook's level, or for levels of 16 bits
    floor((level + 128) / 256), clipped to [-127, 127]. m is 256 for these and 1 otherwise.
Distance of rows a and b. S = sum_j L_aj L_bj, an exact int32. ip = fl(fl(S) fl(rescale_a rescale_b)) m^2, the last
    product exact. Without norms (cosine) the distance is fl(1 - ip). With norms it is the squared Euclidean one,
    fl(fl(fl(|a|^2) + fl(|b|^2)) - fl(2 ip)), for the metric ip too. Negative distances become 0.
    Of two rows the nearer one, or of equal distances the lower one, comes first.
Navigation score of a row for a query. n_j = floor((code_query_j + 129) / 258), from -127 to 127.
    T = fl(fl(sum_j L_rj n_j) rescale_r). The score is T, and for l2 fl(fl(c T) - fl(norm_r^2)) with
    c = fl(516 m code_scale). The higher one, or of equal scores the lower row, comes first.
Entries of a graph of n rows. E = min(128, floor(0.7 sqrt(n)) + 1) rows, floor(i n / E) for i = 0 to E - 1.
Walk of effort e. All entries are scored; the 4 best are visited. Then the best visited row that was not opened yet is
    opened, again and again: all its links that were not visited are visited. The found rows are the e best visited rows
    that the search may return. A row that does not come before the last of e found rows is not opened. The walk ends
    when no row is left to open, or, with a budget, when at least so many rows were scored.
Result of a search. The found rows with their exact scores (``estimator.py``), best first.
Linking. Rows get links in batches of 512, in row order. Each row x of a batch has these candidates: the rows that a
    walk of `LinkRule.effort` by distances from x finds in the graph before the batch, and the 32 nearest other rows of
    the batch. `select` chooses its links from them. Then each row y that a row of the batch links to gets a link back.
    If y has more than `slots` links with these, `select` chooses among all of them.
Removed rows. Walks go through them. When they leave memory, each row that links to some of them gets new links:
    `select` chooses among its other links and the links of the removed ones, removed rows excluded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BATCH",
    "NO_ROW",
    "STARTS",
    "Found",
    "LinkRule",
    "NarrowRows",
    "entry_rows",
    "link_batch",
    "narrow_levels",
    "navigation_query",
    "navigation_scores",
    "relink",
    "select",
    "walk",
]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]
U32 = NDArray[np.uint32]

BATCH = 512  # rows that are linked at a time
STARTS = 4  # entries that a walk starts from
NO_ROW = 2**32 - 1  # fills the slots that have no link
_ENTRIES = 128
_SEEN = 32  # nearest rows of the batch among a row's candidates


class LinkRule(NamedTuple):
    """The constants of linking. They are part of a file's header.

    Attributes
    ----------
    slots : int
        Most links of a row.
    kept : int
        Most links that `select` takes.
    alpha : float
        A float32 value of at least 1. The larger, the fewer candidates does a link occlude.
    effort : int
        Effort of the walks that find candidates.
    """

    slots: int = 32
    kept: int = 24
    alpha: float = 1.2000000476837158
    effort: int = 100

    @classmethod
    def of(cls, slots: int) -> LinkRule:
        """Return the rule for graphs of `slots` slots."""
        return cls(slots, slots * 3 // 4)


class NarrowRows(NamedTuple):
    """Rows as the graph sees them.

    Attributes
    ----------
    levels : ndarray of int8, shape (n, d)
        Narrow levels L.
    multiplier : int
        m, 1 or 256.
    rescale : ndarray of float32, shape (n,)
        Scale of the estimate (``estimator.py``).
    norm : ndarray of float32, shape (n,), or None
        |x|; None for cosine.
    """

    levels: I8
    multiplier: int
    rescale: F32
    norm: F32 | None

    def distances(self, row: int, rows: I64) -> F32:
        """Return the distances of one row from others, float32 (m,)."""
        sums = (self.levels[rows].astype(np.int32) @ self.levels[row].astype(np.int32)).astype(np.float32)
        ip = sums * (self.rescale[rows] * self.rescale[row]) * np.float32(self.multiplier**2)
        if self.norm is None:
            found = np.float32(1) - ip
        else:
            squares = self.norm[rows] * self.norm[rows] + self.norm[row] * self.norm[row]
            found = squares - np.float32(2) * ip
        positive: F32 = np.maximum(found, np.float32(0))
        return positive


def narrow_levels(levels: NDArray[np.signedinteger[Any]]) -> tuple[I8, int]:
    """Return int8 levels and the multiplier m of a codebook's levels, int8 or int16."""
    wide = levels.astype(np.int32)
    if levels.dtype == np.int8:
        return levels.astype(np.int8), 1
    return np.clip((wide + 128) >> 8, -127, 127).astype(np.int8), 256


def navigation_query(code_query: NDArray[np.int16]) -> I8:
    """Return n, int8 (nq, d), of int16 queries (nq, d)."""
    return ((code_query.astype(np.int32) + 129) // 258).astype(np.int8)


def navigation_scores(rows: NarrowRows, at: I64, query: I8, code_scale: np.float32, *, distance: bool) -> F32:
    """Return navigation scores of some rows, float32 (m,).

    Parameters
    ----------
    rows : NarrowRows
        All rows.
    at : ndarray of int64, shape (m,)
        The rows to score.
    query : ndarray of int8, shape (d,)
        A navigation query.
    code_scale : float32
        Value of a step of its code query.
    distance : bool
        Whether scores are distances (l2).
    """
    sums = (rows.levels[at].astype(np.int32) @ query.astype(np.int32)).astype(np.float32)
    scores: F32 = sums * rows.rescale[at]
    if distance:
        assert rows.norm is not None
        gain = np.float32(516 * rows.multiplier) * code_scale
        scores = gain * scores - rows.norm[at] * rows.norm[at]
    return scores


def entry_rows(linked: int) -> I64:
    """Return the entries of a graph of `linked` rows, ascending."""
    count = min(_ENTRIES, math.isqrt(49 * linked // 100) + 1, linked)
    return np.arange(count, dtype=np.int64) * linked // max(1, count)


class Found(NamedTuple):
    """What a walk found.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Rows, best first.
    scored : int
        How many rows were scored.
    """

    rows: I64
    scored: int


def walk(
    score: Callable[[I64], F32],
    links: U32,
    effort: int,
    *,
    selected: NDArray[np.bool_] | None = None,
    budget: int = 0,
) -> Found:
    """Walk the graph.

    Parameters
    ----------
    score : callable
        Returns the scores of rows, higher is better.
    links : ndarray of uint32, shape (n, slots)
        Links of each row.
    effort : int
        Most rows to find.
    selected : ndarray of bool, shape (n,), optional
        The rows that may be found; the walk goes through all rows.
    budget : int
        The walk opens no row once so many rows are scored; 0 for no limit.
    """
    entries = entry_rows(len(links))
    starts = sorted(zip(-score(entries), entries.tolist(), strict=True))[:STARTS]
    visited = {row for _, row in starts}
    scored = len(entries)
    to_open: list[tuple[float, int]] = []  # heaps of (-score, row)
    found: list[tuple[float, int]] = []  # of (score, -row), the worst first

    def visit(loss: float, row: int) -> None:
        if len(found) == effort and (loss, row) > (-found[0][0], -found[0][1]):
            return
        heappush(to_open, (loss, row))
        if selected is None or selected[row]:
            heappush(found, (-loss, -row))
            if len(found) > effort:
                heappop(found)

    for loss, row in starts:
        visit(float(loss), row)
    while to_open:
        loss, row = heappop(to_open)
        is_worse = len(found) == effort and (loss, row) > (-found[0][0], -found[0][1])
        if is_worse or (budget and scored >= budget):
            break
        new = [other for other in links[row].tolist() if other != NO_ROW and other not in visited]
        visited.update(new)
        scored += len(new)
        for other, its_score in zip(new, score(np.array(new, np.int64)).tolist(), strict=True):
            visit(-its_score, other)
    best = sorted((-each, -row) for each, row in found)
    return Found(np.array([row for _, row in best], np.int64), scored)


def select(rows: NarrowRows, row: int, candidates: I64, rule: LinkRule) -> I64:
    """Return the rows that a row links to, from distinct candidates."""
    candidates = candidates[candidates != row]
    distances = rows.distances(row, candidates)
    order = np.lexsort((candidates, distances))
    candidates, distances = candidates[order], distances[order]
    alpha = np.float32(rule.alpha)
    taken: list[int] = []
    occluded = np.zeros(candidates.size, np.bool_)
    for i, candidate in enumerate(candidates.tolist()):
        if occluded[i] or len(taken) == rule.kept:
            continue
        taken.append(i)
        later = slice(i + 1, None)
        occluded[later] |= alpha * rows.distances(candidate, candidates[later]) <= distances[later]
    rest = np.flatnonzero(occluded)[: max(0, rule.kept // 2 - len(taken))]
    chosen: I64 = candidates[np.concatenate([np.array(taken, np.int64), rest])]
    return chosen


def link_batch(rows: NarrowRows, links: U32, first: int, last: int, rule: LinkRule) -> None:
    """Link rows [first, last) to the graph of the rows before them; `links`, (n, slots), are changed in place."""
    new = np.arange(first, last)
    chosen = []
    for row in new.tolist():
        candidates = [new[new != row][_nearest(rows, row, new[new != row])[:_SEEN]]]
        if first:
            found = walk(lambda at, row=row: -rows.distances(row, at), links[:first], rule.effort)  # type: ignore[misc]
            candidates.append(found.rows)
        chosen.append(select(rows, row, np.concatenate(candidates), rule))
    back: dict[int, list[int]] = {}
    for row, targets in zip(new.tolist(), chosen, strict=True):
        links[row] = NO_ROW
        links[row, : targets.size] = targets
        for target in targets.tolist():
            back.setdefault(target, []).append(row)
    for target, sources in back.items():
        old = links[target][links[target] != NO_ROW].astype(np.int64)
        both = np.concatenate([old, np.setdiff1d(sources, old)])
        if both.size > rule.slots:
            both = select(rows, target, both, rule)
        links[target] = NO_ROW
        links[target, : both.size] = both


def relink(rows: NarrowRows, links: U32, live: NDArray[np.bool_], rule: LinkRule) -> None:
    """Replace the links of live rows to removed rows; `links`, (n, slots), are changed in place.

    The rows that were removed keep their links.
    """
    old = links.copy()
    removed = np.append(~live, False)  # NO_ROW becomes -1, the last entry
    for row in np.flatnonzero(live & removed[np.where(old == NO_ROW, -1, old.astype(np.int64))].any(axis=1)).tolist():
        own = old[row][old[row] != NO_ROW].astype(np.int64)
        beyond = old[own[~live[own]]].reshape(-1)
        beyond = beyond[beyond != NO_ROW].astype(np.int64)
        candidates = np.unique(np.concatenate([own[live[own]], beyond[live[beyond]]]))
        chosen = select(rows, row, candidates, rule)
        links[row] = NO_ROW
        links[row, : chosen.size] = chosen


def _nearest(rows: NarrowRows, row: int, others: I64) -> I64:
    return np.lexsort((others, rows.distances(row, others)))
