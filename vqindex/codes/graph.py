"""FROZEN: the graph over the codes. DO NOT CHANGE: links in files depend on it (tests/golden/graph.json).

A row of the graph has links to other rows that are near it. A walk follows links to the rows nearest a query and scores
a small share of all rows (HNSW's layer 0, arXiv 1603.09320; Vamana's pruning, NeurIPS 2019, DiskANN). Links are made
from codes alone. All sums are exact integers and all float32 operations have one order, so every backend, number of
threads and instruction set makes the same links and finds the same rows.

Narrow levels. L_rj is the int8 level of coordinate j of row r: the codebook's level, or for levels of 16 bits
    floor((level + 128) / 256), clipped to [-127, 127]. m is 256 for these and 1 otherwise.
Distance of rows a and b. S_ab = sum_j L_aj L_bj, an exact int32, and v_a = float32(1 / sqrt(S_aa)), or 0 if S_aa is 0.
    cos = fl(fl(S_ab) fl(v_a v_b)) is the cosine of the codes. (Rescaled products would do worse: those of all near rows
    are above 1.) Without norms the distance is fl(1 - cos). With norms it is the squared Euclidean one,
    fl(fl(fl(|a|^2) + fl(|b|^2)) - fl(2 fl(fl(|a| |b|) cos))). For the metric ip fl(fl(h_a - h_b)^2) is added, see
    Heights. Negative distances become 0. Of two rows the nearer one, or of equal distances the lower one, comes first.
Heights. Rows with large inner products are near each other once every row x gets one coordinate more, its height
    h_x = fl(sqrt(fl(fl(M^2) - fl(|x|^2)))): all rows then have norm M, and the largest product is the smallest distance
    (Bachrach et al., RecSys 2014). M is not the largest norm, which is often far from all others, but a norm near the
    99th percentile; h_x is 0 for longer rows. M is that of rows floor(i n / s) for i = 0 to s - 1, s = min(n, 4096): in
    ascending order the one at floor(99 s / 100). For a batch n counts all rows up to its last one, for `relink` all
    linked rows. Without heights walks for inner products find few of the best rows if norms differ by a third.
Navigation score of a row for a query. n_j = floor((code_query_j + 129) / 258), from -127 to 127.
    T = fl(fl(sum_j L_rj n_j) rescale_r). The score is T, and for l2 fl(fl(c T) - fl(norm_r^2)) with
    c = fl(516 m code_scale). The higher one, or of equal scores the lower row, comes first.
Link score of a row r for a row x. T = fl(fl(S_xr) rescale_r). The score is T, and with norms
    fl(fl(c T) - fl(norm_r^2)) with c = fl(2 m^2 rescale_x), less fl(fl(h_r - h_x)^2) for the metric ip. The order is
    that of navigation scores.
Entries of a graph of n rows. E = floor(sqrt(n) / 8) + 1 rows, but 16 to 128, and n at most: floor(i n / E) for i = 0 to
    E - 1. A graph with many entries has E = floor(n / 32), but 8,192 at most, if that is more. Linking uses few.
Walk of effort e. All entries are scored; the 4 best are visited. (Of more than 128 entries each eighth one beyond
    the 128th counts as scored, because their levels lie together.) Then the best visited row that was not opened yet is
    opened, again and again: all its links that were not visited are visited. The found rows are the e best visited rows
    that the search may return. A row that does not come before the last of e found rows is not opened. The walk ends
    when no row is left to open. Then all rows after the linked ones, the tail, are visited, and the e best found rows
    remain. (Tail rows that are found first would end walks before they come near the query.) The tail counts as scored
    from the beginning. A hidden row is treated as if it were not there.
Giving up. A walk may have a budget b > 0 of rows, of which entries and tail leave b'. Let s be the number of rows
    scored since the entries, and u the number of those that the search may return. Before it opens a row, the walk
    gives up if s >= b'. With a need w, about how many rows that the search may return are scored in a whole walk, it
    also gives up if 8 s >= b' and s w > b' u: at this rate it would go beyond its budget.
Result of a search. The found rows with their exact scores (``estimator.py``), best first.
Linking. Rows get links in batches of 512, in row order. Each row x of a batch has these candidates: the rows that a
    walk of `LinkRule.effort` by link scores for x finds in the graph before the batch, and the 32 nearest other rows of
    the batch. Rows of the batch then choose their parents, in row order. `select` chooses each row's links among its
    candidates and its parent, which is kept. After that each row y that a row of the batch links to gets links back.
    If y has more than `slots` links with these, `select` chooses among all of them; y's parent and children are kept.
Parents. The first link of a row is its parent: the nearest candidate of a lower row number that has fewer than
    `LinkRule.children` children so far. If there is none, it is the highest lower row that has, and if none has, as may
    be after removals, the highest lower row. A row is a child of y if its first link is y. (Row 0 has no parent. Its
    first link counts like one, which keeps a link more.) Links between parents and children are never dropped, so walks
    can reach every row from every other.
Select. Candidates come in order of distance from the row; at most `kept` are taken, or as many as must be kept. A
    candidate j is occluded for a if a nearer taken one i has fl(a distance(i, j)) <= distance(row, j). First those are
    taken that are not occluded for a = 1, then of the others those that are not occluded for a = fl((1 + alpha) / 2)
    by all taken so far, then for a = alpha; then the nearest of the rest until `kept` / 2 are taken. Those that must be
    kept are taken in their turn in any case, and a place of the `kept` is held free for each of them. Links are stored
    in the order of distance, the parent first.
Removed rows. Walks go through them. When they leave memory, `relink` replaces links to them: each row that has some
    chooses among its other links and the links of the removed ones, the nearest 128 of them. A row whose parent is
    removed chooses a new one among these, and the parent gets a link back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import lru_cache
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
    "WalkLimit",
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
_LEAST_ENTRIES, _MOST_ENTRIES = 16, 128
_MANY_ENTRIES, _ROWS_OF_ENTRY = 8192, 32  # of graphs with many entries: how many at most, and rows for each
_CHEAPER = 8  # entries beyond the first 128 that count as one row scored
_REPAIRED = 128  # candidates of a row that gets new links
_NORMS = 4096  # rows whose norms tell M
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
    children : int
        Most children of a row.
    """

    slots: int = 32
    kept: int = 24
    alpha: float = 1.2000000476837158
    effort: int = 100
    children: int = 8

    @classmethod
    def of(cls, slots: int) -> LinkRule:
        """Return the rule for graphs of `slots` slots."""
        return cls(slots, kept=slots * 3 // 4, children=min(8, slots // 2))


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
    are_lifted : bool
        Whether rows have heights, for the metric ip.
    ceiling : float32
        M of rows with heights.
    """

    levels: I8
    multiplier: int
    rescale: F32
    norm: F32 | None
    are_lifted: bool = False
    ceiling: np.float32 = np.float32(0)

    def below_ceiling(self, count: int) -> NarrowRows:
        """Return the rows with the M of the first `count` rows."""
        if not self.are_lifted or self.norm is None or not count:
            return self
        size = min(count, _NORMS)
        norms = np.sort(self.norm[np.arange(size, dtype=np.int64) * count // size])
        return self._replace(ceiling=norms[size * 99 // 100])

    def heights(self, rows: I64) -> F32:
        """Return h of rows, float32 (m,)."""
        assert self.norm is not None
        norm = self.norm[rows]
        square = self.ceiling * self.ceiling - norm * norm
        found: F32 = np.sqrt(np.maximum(square, np.float32(0)))
        return found

    def sums(self, row: int, rows: I64) -> F32:
        """Return S of one row and others, rounded to float32 (m,)."""
        found: F32 = (self.levels[rows].astype(np.int32) @ self.levels[row].astype(np.int32)).astype(np.float32)
        return found

    def inverse_norms(self, rows: I64) -> F32:
        """Return v of rows, float32 (m,)."""
        wide = self.levels[rows].astype(np.float64)
        squares = (wide * wide).sum(axis=1)
        found: F32 = np.divide(1, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0).astype(np.float32)
        return found

    def distances(self, row: int, rows: I64) -> F32:
        """Return the distances of one row from others, float32 (m,)."""
        cosines = self.sums(row, rows) * (self.inverse_norms(rows) * self.inverse_norms(np.array([row]))[0])
        if self.norm is None:
            found = np.float32(1) - cosines
        else:
            norm, own = self.norm[rows], self.norm[row]
            found = (norm * norm + own * own) - np.float32(2) * (norm * own * cosines)
            found = found + self._climbs(row, rows)
        positive: F32 = np.maximum(found, np.float32(0))
        return positive

    def link_scores(self, row: int, rows: I64) -> F32:
        """Return the link scores of rows for one row, float32 (m,)."""
        scores: F32 = self.sums(row, rows) * self.rescale[rows]
        if self.norm is not None:
            gain = np.float32(2 * self.multiplier**2) * self.rescale[row]
            scores = gain * scores - self.norm[rows] * self.norm[rows] - self._climbs(row, rows)
        return scores

    def _climbs(self, row: int, rows: I64) -> F32:
        """Return the squared differences between the height of one row and those of others."""
        if not self.are_lifted:
            return np.zeros(rows.size, np.float32)
        climbs = self.heights(rows) - self.heights(np.array([row]))[0]
        squares: F32 = climbs * climbs
        return squares


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


@lru_cache(maxsize=64)
def entry_rows(linked: int, *, many: bool = False) -> I64:
    """Return the entries of a graph of `linked` rows, few or many, ascending; read-only."""
    count = min(max(_LEAST_ENTRIES, math.isqrt(linked) // 8 + 1), _MOST_ENTRIES, linked)
    if many:
        count = max(count, min(linked // _ROWS_OF_ENTRY, _MANY_ENTRIES))
    entries: I64 = np.arange(count, dtype=np.int64) * linked // max(1, count)
    entries.flags.writeable = False
    return entries


class Found(NamedTuple):
    """What a walk found.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Rows, best first.
    scored : int
        How many rows were scored.
    gave_up : bool
        Whether the walk gave up.
    """

    rows: I64
    scored: int
    gave_up: bool


class WalkLimit(NamedTuple):
    """When a walk gives up.

    Attributes
    ----------
    budget : int
        The walk gives up once so many rows are scored; 0 for never.
    need : int
        About how many rows that may be found a whole walk scores. A walk with a budget gives up early if it meets too
        few of them; 0 for never.
    """

    budget: int = 0
    need: int = 0

    def is_over(self, at_start: int, scored: int, useful: int) -> bool:
        """Return whether a walk gives up that has scored `at_start` rows first, and `useful` ones since then."""
        left, spent = self.budget - at_start, scored - at_start
        is_too_slow = 8 * spent >= left and spent * self.need > left * useful
        return self.budget > 0 and (spent >= left or is_too_slow)


def walk(
    score: Callable[[I64], F32],
    links: U32,
    effort: int,
    *,
    entries: I64 | None = None,
    rows: int | None = None,
    selected: NDArray[np.bool_] | None = None,
    limit: WalkLimit = WalkLimit(),  # noqa: B008 - it is immutable
    hidden: int = -1,
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
    entries : ndarray of int64, optional
        The entries; by default few.
    rows : int, optional
        Number of rows with the tail; by default there is none.
    selected : ndarray of bool, shape (rows,), optional
        The rows that may be found; the walk goes through all rows.
    limit : WalkLimit
        When the walk gives up; by default never.
    hidden : int
        A row that the walk leaves out; -1 is none.
    """
    entries = entry_rows(len(links)) if entries is None else entries
    entries = entries[entries != hidden]
    tail = np.arange(len(links), len(links) if rows is None else rows)
    may_find = np.ones(len(links) + len(tail), np.bool_) if selected is None else selected
    tail = tail[tail != hidden]
    starts = sorted(zip(-score(entries), entries.tolist(), strict=True))[:STARTS]
    visited = {hidden, *(row for _, row in starts)}
    beyond = max(0, len(entries) - _MOST_ENTRIES)
    scored = at_start = len(entries) - beyond + beyond // _CHEAPER + len(tail)
    useful = 0  # rows scored since then that may be found
    to_open: list[tuple[float, int]] = []  # heaps of (-score, row)
    found: list[tuple[float, int]] = []  # of (score, -row), the worst first

    def is_worse(loss: float, row: int) -> bool:
        return len(found) == effort and (loss, row) > (-found[0][0], -found[0][1])

    def find(loss: float, row: int) -> None:
        if not is_worse(loss, row) and may_find[row]:
            heappush(found, (-loss, -row))
            if len(found) > effort:
                heappop(found)

    def visit(loss: float, row: int) -> None:
        if not is_worse(loss, row):
            heappush(to_open, (loss, row))
        find(loss, row)

    for loss, row in starts:
        visit(float(loss), row)
    gave_up = False
    while to_open:
        loss, row = heappop(to_open)
        if is_worse(loss, row) or (gave_up := limit.is_over(at_start, scored, useful)):
            break
        new = [other for other in links[row].tolist() if other != NO_ROW and other not in visited]
        visited.update(new)
        scored += len(new)
        useful += int(may_find[new].sum())
        for other, its_score in zip(new, score(np.array(new, np.int64)).tolist(), strict=True):
            visit(-its_score, other)
    for loss, row in zip((-score(tail)).tolist(), tail.tolist(), strict=True):
        find(loss, row)
    best = sorted((-each, -row) for each, row in found)
    return Found(np.array([row for _, row in best], np.int64), scored, gave_up)


def select(rows: NarrowRows, row: int, candidates: I64, keep: Collection[int], rule: LinkRule) -> I64:
    """Return the rows that a row links to, nearest first.

    Parameters
    ----------
    rows : NarrowRows
        All rows.
    row : int
        The row.
    candidates : ndarray of int64, shape (m,)
        Distinct rows, without `row`.
    keep : collection of int
        Candidates that are taken in any case.
    rule : LinkRule
        The constants.
    """
    distances = rows.distances(row, candidates)
    order = np.lexsort((candidates, distances))
    candidates, distances = candidates[order], distances[order]
    must = np.isin(candidates, np.fromiter(keep, np.int64, len(keep)))
    taken = np.zeros(candidates.size, np.bool_)
    reserved, most = int(must.sum()), max(rule.kept, int(must.sum()))
    alpha, one = np.float32(rule.alpha), np.float32(1)
    for factor in (one, (one + alpha) / np.float32(2), alpha):
        for j in range(candidates.size):
            if taken[j] or int(taken.sum()) == most:
                continue
            if not must[j]:
                nearer = candidates[:j][taken[:j]]
                is_occluded = (factor * rows.distances(int(candidates[j]), nearer) <= distances[j]).any()
                if is_occluded or int(taken.sum()) + reserved >= most:
                    continue
            taken[j] = True
            reserved -= must[j]
    rest = np.flatnonzero(~taken)[: max(0, rule.kept // 2 - int(taken.sum()))]
    taken[rest] = True
    chosen: I64 = candidates[taken]
    return chosen


class _Family:
    """How many children each row has, and who gets another one."""

    def __init__(self, links: U32, linked: int, most: int) -> None:
        parents = links[1:linked, 0]
        self._children = np.bincount(parents[parents < len(links)], minlength=len(links))
        self._most = most

    def adopt(self, rows: NarrowRows, row: int, candidates: I64, live: NDArray[np.bool_] | None = None) -> int:
        """Choose the parent of a row, of lower number; a live row must be there."""
        lower = candidates[candidates < row]
        for parent in lower[_nearest(rows, row, lower)].tolist():
            if self._children[parent] < self._most:
                break
        else:
            remaining = np.ones(row, np.bool_) if live is None else live[:row]
            free = remaining & (self._children[:row] < self._most)
            parent = int(np.flatnonzero(free if free.any() else remaining)[-1])
        self._children[parent] += 1
        return int(parent)


def _set_links(links: U32, row: int, targets: I64, parent: int | None) -> None:
    """Write the links of a row, the parent first."""
    if parent is not None:
        targets = np.concatenate([[parent], targets[targets != parent]])
    links[row] = NO_ROW
    links[row, : targets.size] = targets


def _links_of(links: U32, row: int) -> I64:
    used: I64 = links[row][links[row] != NO_ROW].astype(np.int64)
    return used


def _link_back(rows: NarrowRows, links: U32, target: int, sources: I64, rule: LinkRule) -> None:
    """Add links to a row, and choose among all if there are too many."""
    old = _links_of(links, target)
    both = np.concatenate([old, sources[~np.isin(sources, old)]])
    if both.size > rule.slots:
        first = old[:1].tolist()
        children = [row for row in both.tolist() if links[row, 0] == target]
        chosen = select(rows, target, both, {*first, *children}, rule)
        _set_links(links, target, chosen, first[0] if first else None)
    else:
        links[target, : both.size] = both


def link_batch(rows: NarrowRows, links: U32, first: int, last: int, rule: LinkRule) -> None:
    """Link rows [first, last) to the graph of the rows before them; `links`, (n, slots), are changed in place."""
    rows, new = rows.below_ceiling(last), np.arange(first, last)
    candidates_of = []
    for row in new.tolist():
        others = new[new != row]
        candidates = others[_nearest(rows, row, others)[:_SEEN]]
        if first:
            found = walk(lambda at, row=row: rows.link_scores(row, at), links[:first], rule.effort)  # type: ignore[misc]
            candidates = np.concatenate([found.rows, candidates])
        candidates_of.append(candidates)
    family = _Family(links, first, rule.children)
    back: dict[int, list[int]] = {}
    for row, candidates in zip(new.tolist(), candidates_of, strict=True):
        parent = family.adopt(rows, row, candidates) if row else None
        keep = [] if parent is None else [parent]
        chosen = select(rows, row, np.union1d(candidates, keep).astype(np.int64), keep, rule)
        _set_links(links, row, chosen, parent)
        for target in chosen.tolist():
            back.setdefault(target, []).append(row)
    for target, sources in sorted(back.items()):
        _link_back(rows, links, target, np.array(sources, np.int64), rule)


def relink(rows: NarrowRows, links: U32, live: NDArray[np.bool_], rule: LinkRule) -> None:
    """Replace the links of live rows to removed rows; `links`, (n, slots), are changed in place.

    The rows that were removed keep their links.
    """
    rows, old = rows.below_ceiling(len(links)), links.copy()
    removed = np.append(~live, False)  # NO_ROW becomes -1, the last entry
    to_repair = np.flatnonzero(live & removed[np.where(old == NO_ROW, -1, old.astype(np.int64))].any(axis=1))
    living = np.flatnonzero(live)
    family = _Family(np.where(live[:, None], old, np.uint32(NO_ROW)), len(links), rule.children)
    adopted: list[tuple[int, int]] = []
    for row in to_repair.tolist():
        own = _links_of(old, row)
        beyond = old[own[~live[own]]].reshape(-1)
        beyond = beyond[beyond != NO_ROW].astype(np.int64)
        candidates = np.setdiff1d(np.concatenate([own[live[own]], beyond[live[beyond]]]), [row])
        parent: int | None = int(own[0])
        if not live[own[0]]:
            parent = family.adopt(rows, row, candidates, live) if row != living[0] else None
            if parent is not None:
                adopted.append((parent, row))
        keep = own[live[own] & (old[own, 0] == row)]
        keep = keep if parent is None else np.union1d(keep, [parent])
        near = candidates[_nearest(rows, row, candidates)[:_REPAIRED]]
        chosen = select(rows, row, np.union1d(near, keep), keep.tolist(), rule)
        _set_links(links, row, chosen, parent)
    for parent, row in sorted(adopted):
        _link_back(rows, links, parent, np.array([row]), rule)


def _nearest(rows: NarrowRows, row: int, others: I64) -> I64:
    return np.lexsort((others, rows.distances(row, others)))
