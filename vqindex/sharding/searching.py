"""Searches of some segments of a store: what a worker of a sharded search does, and which segments it gets.

A view numbers its rows as the store does, and returns rank scores with its results; ``merging.py`` says why. With kept
vectors there are two steps: views find shortlists, and the vectors of the merged shortlist are read where they lie
(`SegmentView.rerank`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import MAX_K, as_count, as_path, as_shortlist
from ..arrays import as_host
from ..backends.registry import Device
from ..center import Centering
from ..codes.top_k import TopK
from ..directory.local import LocalDirectory
from ..errors import InvalidInputError
from ..index import VQIndex
from ..result import RangeResult, SearchResult
from ..rows.filters import bitmap, exclude
from ..rows.row_store import RowStore
from ..search.searcher import Searcher
from ..spec import IndexSpec
from ..store.manifest import Manifest
from ..store.snapshot import join_segments, read_segments
from .merging import ShardHits, merge

__all__ = ["SegmentView", "assign", "open_segments", "search_segments"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class SegmentView:
    """Some segments of a store at one commit, open for searches; made by `open_segments`.

    Searches scan all rows of the segments, also if the store has a graph, which links rows of all of them.

    Attributes
    ----------
    numbers : tuple of int
        Positions of the segments in the store, ascending.
    commit : int
        The commit of the store.
    segments : tuple of int
        Number of rows of each segment of the whole store, which `assign` takes.
    total : int
        Number of vectors in the whole store.
    """

    def __init__(self, manifest: Manifest, numbers: Sequence[int], index: VQIndex) -> None:
        self.numbers, self.commit = tuple(numbers), manifest.commit
        self.segments = tuple(entry.rows for entry in manifest.segments)
        self.total = sum(entry.live for entry in manifest.segments)
        self._index = index
        rows = np.cumsum([0, *self.segments])
        live = np.cumsum([0, *(entry.live for entry in manifest.segments)])
        self._store_first = rows[list(numbers)] if numbers else np.zeros(0, np.int64)  # first row of each segment
        self._first = np.cumsum([0, *(manifest.segments[number].rows for number in numbers)])
        self._live = [slice(int(live[number]), int(live[number + 1])) for number in numbers]

    # ---- what it is

    @property
    def spec(self) -> IndexSpec:
        """The spec of the store."""
        return self._index.spec

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self._index.dim

    @property
    def ntotal(self) -> int:
        """Number of vectors in these segments."""
        return self._index.ntotal

    @property
    def ids(self) -> NDArray[Any]:
        """Their ids in the order in which vectors were added, int64 or str objects, shape (ntotal,)."""
        return self._index.ids

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, id: object) -> bool:
        return id in self._index

    def __repr__(self) -> str:
        return f"<SegmentView of {len(self.numbers)} segments, commit {self.commit}, {repr(self._index)[8:-1]}>"

    # ---- searches

    def search(self, queries: Any, k: int = 10, *, filter: Any = None, **options: Any) -> SearchResult:
        """Search these segments alone; arguments and results as `VQIndex.search`.

        A mask or a bitmap has an entry for each vector of the whole store. ``effort`` and ``recall`` are refused.
        """
        return self._index.search(queries, k, filter=self._own(filter), **options)

    def range_search(self, queries: Any, threshold: Any, *, filter: Any = None, **options: Any) -> RangeResult:
        """Find all vectors of these segments better than a threshold; arguments and results as `VQIndex.range_search`.

        The results of all segments together are those of the whole store: the threshold does not depend on other rows.
        """
        return self._index.range_search(queries, threshold, filter=self._own(filter), **options)

    def top_k(
        self,
        queries: Any,
        k: int = 10,
        *,
        filter: Any = None,
        threads: int | None = None,
        confidence: float | None = None,
    ) -> ShardHits:
        """Return the k best rows of these segments by their codes, to be merged with those of other segments.

        Parameters
        ----------
        queries : array-like of shape (nq, dim) or (dim,)
            Queries.
        k : int, default 10
            Number of results. For a re-ranked search: the length of the shortlist in the whole store.
        filter, threads, confidence : as for search, optional
            As for `VQIndex.search`. A mask or a bitmap has an entry for each vector of the whole store.

        Returns
        -------
        ShardHits
            At most k rows for each query; empty places have row -1.

        Raises
        ------
        InvalidInputError
            As for `VQIndex.search`.
        """
        k, searcher = as_count("k", k, MAX_K), self._searcher
        found, is_single = searcher.top_k(queries, k, filter=self._own(filter), threads=threads, confidence=confidence)
        scores = searcher.encoder.centering.scores(found.scores)
        return self._hits(found, scores, searcher.encoder.backend.ascending, is_single)

    def rerank(self, queries: Any, shortlist: ShardHits, *, threads: int | None = None) -> ShardHits:
        """Return the exact scores of those rows of a merged shortlist that are in these segments.

        Parameters
        ----------
        queries : array-like of shape (nq, dim) or (dim,)
            The queries of the shortlist.
        shortlist : ShardHits
            What `merge` returned for the results of all segments.
        threads : int, optional
            As for `VQIndex.search`.

        Returns
        -------
        ShardHits
            As wide as the shortlist; `merge` takes the k best of those of all segments.

        Raises
        ------
        InvalidInputError
            If the shortlist is of another commit or of other queries, or the store keeps no vectors.
        """
        if shortlist.commit != self.commit:
            raise InvalidInputError(f"shortlist is of commit {shortlist.commit}; expected {self.commit}")
        rows = self._own_rows(shortlist.top_k.rows)
        scores, rows, is_single = self._searcher.exact(queries, rows, threads=threads)
        ascending = self.spec.metric == "l2"
        worst = np.float32(np.inf if ascending else -np.inf)
        scores = np.where(rows < 0, worst, scores)
        found = TopK(scores, rows, -scores if ascending else scores, np.zeros(len(rows), np.int64))
        return self._hits(found, scores, ascending, is_single)

    @property
    def _searcher(self) -> Searcher:
        return self._index._state.searcher

    def _hits(self, found: TopK, scores: F32, ascending: bool, is_single: bool) -> ShardHits:
        worst = np.inf if self.spec.metric == "l2" else -np.inf
        scores = np.where(found.rows < 0, np.float32(worst), scores)
        ids = self._index._state.contents.ids.ids(found.rows)
        return ShardHits(
            self.commit,
            found._replace(rows=self._store_rows(found.rows)),
            scores,
            ids,
            ascending,
            worst,
            is_single,
        )

    def _store_rows(self, rows: I64) -> I64:
        """Return the numbers that rows have in the store; -1 stays."""
        if not self.numbers:
            return rows
        at = np.searchsorted(self._first, np.maximum(rows, 0), side="right") - 1
        return np.where(rows < 0, -1, rows + (self._store_first - self._first[:-1])[at])

    def _own_rows(self, rows: I64) -> I64:
        """Return the numbers that rows of the store have here; -1 for rows of other segments."""
        if not self.numbers:
            return np.full_like(rows, -1)
        at = np.maximum(np.searchsorted(self._store_first, rows, side="right") - 1, 0)
        inside = rows - self._store_first[at]
        is_own = (rows >= 0) & (inside >= 0) & (inside < np.diff(self._first)[at])
        return np.where(is_own, self._first[at] + inside, -1)

    # ---- filters

    def _own(self, filter: Any) -> Any:
        """Return a filter of the whole store as one of these segments. Lists of ids stay as they are."""
        if filter is None or isinstance(filter, exclude | Set):
            return filter
        if isinstance(filter, bitmap):
            return self._own_bits(as_host(filter.bits))
        if isinstance(filter, list | tuple) and not all(
            isinstance(entry, int | float | np.generic | str) for entry in filter
        ):
            return [self._own(entry) for entry in filter]
        array = as_host(filter)
        if array.ndim == 2 and array.dtype == np.bool_:
            return [self._own(entry) for entry in array]
        if array.dtype == np.bool_ and array.ndim == 1:
            return self._own_mask(array)
        if array.ndim == 1 and array.dtype.kind in "iu" and array.size and array.max() <= 1:
            if array.size == self.total >= _MASK:
                raise InvalidInputError(
                    f"filter has {array.size} integers, all 0 or 1, one for each vector of the store; expected a bool "
                    "mask, as filter.astype(bool), or ids"
                )
            return np.unique(array)  # so few that they are not taken for a mask of these segments
        return filter

    def _own_mask(self, mask: NDArray[Any]) -> NDArray[Any]:
        if mask.shape != (self.total,):
            raise InvalidInputError(
                f"filter is a mask of shape {mask.shape}; expected ({self.total},), a value for each vector of the "
                "store"
            )
        return np.concatenate([np.zeros(0, bool), *(mask[part] for part in self._live)])

    def _own_bits(self, bits: NDArray[Any]) -> Any:
        unit = {"uint8": 8, "uint64": 64}.get(bits.dtype.name)
        if unit is None:
            raise InvalidInputError(f"bitmap has dtype {bits.dtype}; expected uint8 or uint64")
        if bits.ndim == 2:
            return [self._own_bits(row) for row in bits]
        if bits.shape != (-(-self.total // unit),):
            raise InvalidInputError(
                f"bitmap of {bits.dtype} has shape {bits.shape}; expected ({-(-self.total // unit)},), bits of the "
                f"{self.total} vectors of the store"
            )
        raw = np.ascontiguousarray(bits, bits.dtype.newbyteorder("<")).view(np.uint8)
        return self._own_mask(np.unpackbits(raw, count=self.total, bitorder="little").astype(bool))


_MASK = 8  # as in rows/filters.py: so many zeros and ones are a mask of the wrong type and no ids


def open_segments(
    path: str | os.PathLike[str],
    numbers: Iterable[int] | None = None,
    commit: int | None = None,
    *,
    device: Device = "auto",
    mmap: bool = True,
    verify: bool | None = None,
) -> SegmentView:
    """Open some segments of a store for searches.

    Parameters
    ----------
    path : str or path
        The folder of the store.
    numbers : iterable of int, optional
        Positions of the segments in the store, from 0 on, such as a range that `assign` returned; by default all.
    commit : int, optional
        The commit to read, ``stats()["commit"]`` of the opened store; by default the last one. Views of one search must
        be of one commit, and `merge` refuses others.
    device : str, default "auto"
        As for `VQIndex`.
    mmap : bool, default True
        Map codes and scalars instead of reading them.
    verify : bool, optional
        Check every block against its checksum. Default: only without `mmap`.

    Returns
    -------
    SegmentView
        It stays at this commit, whatever a writer does.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    StoreError
        If the store is at another commit. Its files may be gone, so a worker opens the segments of the last one.
    FileFormatError
        If a file is missing or damaged.
    InvalidInputError
        If `numbers` are not distinct positions of segments.
    """
    directory = LocalDirectory(as_path(path))
    chosen = None if numbers is None else list(numbers)
    if commit is not None and (isinstance(commit, bool) or not isinstance(commit, int | np.integer) or commit < 0):
        raise InvalidInputError(f"commit is {commit!r}; expected a whole number from 0 on")
    manifest, numbers, snapshot = read_segments(directory, chosen, commit, mmap, not mmap if verify is None else verify)
    index = VQIndex._empty(Centering.from_text(manifest.spec, manifest.center), device)
    rows = RowStore(index._codec.spec, index._backend.put, records=manifest.graph is not None)
    index._state = index._state._replace(contents=join_segments(rows, snapshot, str(directory.folder)))
    return SegmentView(manifest, numbers, index)


def assign(segments: Iterable[int], shards: int) -> list[range]:
    """Divide the segments of a store among shards: runs of neighbors with about equal numbers of rows.

    Parameters
    ----------
    segments : iterable of int
        Number of rows of each segment, in the order of the store (`SegmentView.segments`).
    shards : int
        Number of shards.

    Returns
    -------
    list of range
        Positions of the segments of each shard, which `open_segments` takes. No range is empty: there are fewer than
        `shards` if there are fewer segments.

    Raises
    ------
    InvalidInputError
        If `shards` is below 1, or a number of rows is negative.
    """
    shards = as_count("shards", shards)
    rows = [int(each) for each in segments]
    if any(each < 0 for each in rows):
        raise InvalidInputError(f"a segment has {min(rows)} rows; expected 0 or more")
    shards = min(shards, len(rows))
    if not shards:
        return []
    ends = np.cumsum(rows)
    edges = [0]
    for shard in range(1, shards):
        target = ends[-1] * shard / shards
        after = int(np.searchsorted(ends, target))  # the run ends before this segment or with it
        before = int(ends[after - 1]) if after else 0
        edge = after if target - before <= ends[after] - target else after + 1
        edges.append(min(max(edge, edges[-1] + 1), len(rows) - (shards - shard)))
    edges.append(len(rows))
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def search_segments(
    views: Sequence[SegmentView],
    queries: Any,
    k: int = 10,
    *,
    filter: Any = None,
    rerank: bool = False,
    oversample: float | None = None,
    threads: int | None = None,
    confidence: float | None = None,
) -> SearchResult:
    """Search views of a store one after the other, and merge the results.

    An engine does the same with views in other processes: `SegmentView.top_k` for each, `merge`, and with kept vectors
    `SegmentView.rerank` for each and `merge` again.

    Parameters
    ----------
    views : sequence of SegmentView
        Views of one commit, no segment in two of them.
    queries : array-like of shape (nq, dim) or (dim,)
        Queries.
    k : int, default 10
        Number of results.
    filter : as for search, optional
        As for `VQIndex.search`. A mask or a bitmap has an entry for each vector of the whole store.
    rerank : bool, default False
        Compute exact scores of a shortlist by the vectors that the store keeps.
    oversample : float, optional
        Length of the shortlist in multiples of k, by default 4; only with `rerank`.
    threads, confidence : as for search, optional
        As for `VQIndex.search`.

    Returns
    -------
    SearchResult
        Equal, bit for bit, to that of ``search(..., exact=True)`` of the store, if the views hold all of its segments.

    Raises
    ------
    InvalidInputError
        As for `VQIndex.search` and `merge`.
    """
    if not views:
        raise InvalidInputError("there are no views to search; expected at least one")
    if not isinstance(rerank, bool | np.bool_):
        raise InvalidInputError(f"rerank is {rerank!r}; expected True or False")
    if oversample is not None and not rerank:
        raise InvalidInputError(f"oversample is {oversample!r}, but there is no rerank=")
    k = as_count("k", k, MAX_K)
    length = as_shortlist(k, oversample, views[0].total) if rerank else k
    how: dict[str, Any] = {"filter": filter, "threads": threads, "confidence": confidence}
    found = merge([view.top_k(queries, length, **how) for view in views], length)
    if rerank:
        found = merge([view.rerank(queries, found, threads=threads) for view in views], k)
    return found.result()
