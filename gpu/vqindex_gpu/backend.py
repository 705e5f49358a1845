"""CudaBackend: the Backend protocol over one or more devices.

The index's rows stay on the host. Devices hold a mirror of them, which the first search copies. Rows that do not fit
are streamed, a batch at a time. Steps that no kernel has (codecs with a second projection, single scores, decoding) run
on the host, with the same results.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import zip_longest
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqindex.backends.cpu import NativeBackend
from vqindex.center import Centering
from vqindex.codes.bitplanes import StoredRows
from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded, Queries
from vqindex.codes.graph import LinkRule
from vqindex.codes.top_k import RangeHits, TopK, Walked, merge_top_k
from vqindex.rows.graph import Graph
from vqindex.rows.request import SearchRequest
from vqindex.rows.segment import Segment

from .adopted import Adopted
from .device import Device
from .engine import Engine, Found
from .layout import TILE_ROWS
from .mirror import DeviceRows, HostRows, Mirror, host_rows
from .stream import streamed

__all__ = ["CudaBackend"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_SCRATCH_BYTES = 2**30  # device memory that the mirror leaves to searches, but at most half of what is free


class _Batch(NamedTuple):
    """Rows on one device that are searched together.

    Attributes
    ----------
    device_rows : list of DeviceRows
        The rows.
    first_rows : list of int
        Number in the index of the first row of each.
    words : list of (ndarray of uint64 or None)
        The selection of each, (tiles,) or (nq, tiles); None for all rows.
    """

    device_rows: list[DeviceRows]
    first_rows: list[int]
    words: list[NDArray[np.uint64] | None]

    @property
    def rows(self) -> int:
        return sum(rows.rows for rows in self.device_rows)

    def add(self, source: HostRows, device_rows: list[DeviceRows]) -> None:
        """Add the copies of host rows, which follow one another."""
        row = 0
        for rows in device_rows:
            tiles = slice(row // TILE_ROWS, row // TILE_ROWS + rows.tiles)
            self.device_rows.append(rows)
            self.first_rows.append(source.first_row + row)
            self.words.append(None if source.words is None else source.words[..., tiles])
            row += rows.rows

    def selection(self, at: slice) -> NDArray[np.uint64] | None:
        """Return the selection of some queries, (1 or nq, tiles), or None if it is all rows."""
        if all(words is None for words in self.words):
            return None
        lines = [None if words is None else np.atleast_2d(words) for words in self.words]
        count = max(len(words) for words in lines if words is not None)
        full = []
        for rows, words in zip(self.device_rows, lines, strict=True):
            if words is None:
                words = np.full((1, rows.tiles), ~np.uint64(0))
            full.append(np.broadcast_to(words, (count, rows.tiles)))
        joined = np.concatenate(full, axis=1)
        return joined if count == 1 else joined[at]

    def row_numbers(self, rows: I64) -> I64:
        """Turn rows counted by tiles of the batch into rows of the index; -1 stays."""
        ends = np.cumsum([rows.tiles for rows in self.device_rows]) * TILE_ROWS
        starts = np.concatenate([[0], ends[:-1]])
        at = np.searchsorted(ends, rows, side="right")
        at[rows < 0] = 0
        return np.where(rows < 0, -1, np.array(self.first_rows)[at] + rows - starts[at])


class CudaBackend:
    """Encode and search on GPUs; same bytes, same scores, same order as on the CPU.

    Parameters
    ----------
    codec : Codec
        Tables of the spec.
    devices : sequence of Device
        Rows are shared among them.
    """

    name = "cuda"

    def __init__(self, codec: Codec, devices: Sequence[Device]) -> None:
        self.codec, self.spec = codec, codec.spec
        self._host = NativeBackend(codec)
        self._engines = [Engine(device, codec) for device in devices]
        self._mirrors = [Mirror(device, codec) for device in devices]
        self._lock = Lock()  # a search changes the mirrors

    @property
    def numpy_steps(self) -> tuple[str, ...]:
        """Steps without a kernel on the device or the host; search has one for every codec."""
        if all(engine.encodes for engine in self._engines):
            return ()
        return tuple(step for step in self._host.numpy_steps if step != "search")

    @property
    def ascending(self) -> bool:
        """Whether lower scores are better (l2)."""
        return self._host.ascending

    @property
    def walks(self) -> bool:
        """False: the device scans all rows, also of an index with a graph."""
        return False

    def walk(self, request: SearchRequest, segments: Sequence[Segment], graph: Graph) -> Walked:
        """Return the k best rows that walks of the graph find; on the host."""
        return self._host.walk(request, segments, graph)

    def finder(
        self, centering: Centering, segments: Sequence[Segment], graph: Graph | None, live: NDArray[np.uint64] | None
    ) -> None:
        """Return None: the steps are taken one by one."""

    def link(
        self, segments: Sequence[Segment], links: NDArray[np.uint8], first: int, last: int, rule: LinkRule
    ) -> None:
        """Link rows [first, last) to the graph of the rows before them; on the host."""
        self._host.link(segments, links, first, last, rule)

    def relink(
        self, segments: Sequence[Segment], links: NDArray[np.uint8], live: NDArray[np.uint64], rule: LinkRule
    ) -> None:
        """Give rows that link to removed rows other links; on the host."""
        self._host.relink(segments, links, live, rule)

    # ---- rows and queries

    def adopt(self, array: Any) -> Adopted | None:
        """Adopt an array in the memory of one of the devices, without a copy; None for any other array."""
        if isinstance(array, np.ndarray):
            return None
        for engine in self._engines:
            ours = engine.device.adopt(array)
            if ours is not None:
                return Adopted(engine, ours, array)
        return None

    def encode(self, vectors: F32 | Adopted) -> Encoded:
        """Encode finite float32 vectors of shape (n, d): on their device, or from the host on the first one."""
        engine = vectors.engine if isinstance(vectors, Adopted) else self._engines[0]
        device = engine.device
        if not engine.encodes:
            return self._host.encode(vectors.host() if isinstance(vectors, Adopted) else vectors)
        on_device = vectors.array if isinstance(vectors, Adopted) else device.upload(np.ascontiguousarray(vectors))
        codes, rescale, norm = engine.encode(on_device)
        return Encoded(
            device.download(codes), device.download(rescale), None if norm is None else device.download(norm)
        )

    def prepare(self, queries: F32 | Adopted) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d); on the device for those that lie there."""
        if not isinstance(queries, Adopted):
            return self._host.prepare(queries)
        if not queries.engine.encodes:
            return self._host.prepare(queries.host())
        return queries.engine.prepare(queries.array)

    def put(self, rows: Encoded, into: StoredRows, start: int) -> None:
        """Write code rows into the stored layout on the host, from row `start` on."""
        self._host.put(rows, into, start)
        for mirror in self._mirrors:
            mirror.changed(into.rescale, start)

    def scores(self, queries: Queries, rows: Encoded) -> F32:
        """Return all scores, shape (nq, n); on the host."""
        return self._host.scores(self._on_host(queries), rows)

    def row_errors(self, segments: Sequence[Segment], rows: I64) -> tuple[F64, F64]:
        """Return the standard errors of some rows for unit queries, and their norms; on the host, where they are."""
        return self._host.row_errors(segments, rows)

    def decode(self, rows: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d); on the host."""
        return self._host.decode(rows)

    def _engine_of(self, queries: Queries) -> Engine | None:
        """Return the engine on whose device queries lie; None for those on the host."""
        return next((engine for engine in self._engines if engine.device.owns(queries.code_query)), None)

    def _on_host(self, queries: Queries) -> Queries:
        owner = self._engine_of(queries)
        return queries if owner is None else replace(queries, code_query=owner.device.download(queries.code_query))

    def _for_each_engine(self, queries: Queries) -> list[Queries]:
        """Return the queries for each engine: copied to its device if they lie on another one."""
        owner = self._engine_of(queries)
        if owner is None or len(self._engines) == 1:
            return [queries] * len(self._engines)
        owner.device.synchronize()  # devices do not wait for each other
        return [
            queries if engine is owner else replace(queries, code_query=engine.device.bring(queries.code_query))
            for engine in self._engines
        ]

    # ---- search

    def search(self, request: SearchRequest, segments: Sequence[Segment]) -> TopK:
        """Return the k best rows of every query, best first; see `Backend.search`.

        Raises
        ------
        BackendError
            If a device has too little memory even for a few of the rows.
        """
        ascending, request = self.spec.metric == "l2", request.without_removed(segments)
        found = [TopK.empty(request.count, 0, ascending=ascending)]
        width = min(request.k, sum(segment.rows for segment in segments))
        if width and request.count:
            with self._lock, closing(self._batches(request, segments)) as steps:
                queries = self._for_each_engine(request.queries)
                for batches in steps:
                    found += self._search(request, queries, batches)
                    found = [merge_top_k(found, width, ascending=ascending)]  # so that one list a query takes memory
        return merge_top_k(found, request.k, ascending=ascending)

    def range_search(self, request: SearchRequest, segments: Sequence[Segment]) -> RangeHits:
        """Return all rows that are better than the request's thresholds; see `Backend.range_search`."""
        ascending, request = self.spec.metric == "l2", request.without_removed(segments)
        assert request.thresholds is not None
        thresholds = -request.thresholds if ascending else request.thresholds
        none = np.empty(0, np.int64)
        found = [(none, np.empty(0, np.float32), none)]
        with self._lock, closing(self._batches(request, segments)) as steps:
            queries = self._for_each_engine(request.queries)
            for batches in steps:
                found.extend(self._range_search(request, thresholds, queries, batches))
        query, scores, rows = (np.concatenate(columns) for columns in zip(*found, strict=True))
        scores = np.float32(0) - scores if ascending else scores
        return RangeHits.of_unsorted(query, scores, rows, request.count, ascending=ascending)

    def _range_search(
        self, request: SearchRequest, thresholds: F32, queries: Sequence[Queries], batches: Sequence[_Batch | None]
    ) -> Iterator[tuple[I64, F32, I64]]:
        """Yield query numbers, scores (larger better) and rows that each device finds above the thresholds."""
        for engine, prepared, batch in zip(self._engines, queries, batches, strict=True):
            if batch is None:
                continue
            at_once = engine.batch(batch.device_rows, 1)
            for start in range(0, request.count, at_once):
                at = slice(start, start + at_once)
                query, scores, rows = engine.range_search(
                    batch.device_rows, prepared.select(at), thresholds[at], request.confidence, batch.selection(at)
                )
                yield query + start, scores, batch.row_numbers(rows)

    def _search(
        self, request: SearchRequest, queries: Sequence[Queries], batches: Sequence[_Batch | None]
    ) -> list[TopK]:
        """Search a batch of rows on each device, all devices at the same time."""
        work = [
            (engine, prepared, batch, min(request.k, batch.rows))
            for engine, prepared, batch in zip(self._engines, queries, batches, strict=True)
            if batch is not None
        ]
        at_once = min(engine.batch(batch.device_rows, k) for engine, _, batch, k in work)
        found: list[list[TopK]] = [[] for _ in work]
        for start in range(0, request.count, at_once):
            at = slice(start, start + at_once)
            started = [
                engine.search(batch.device_rows, prepared.select(at), k, request.confidence, batch.selection(at))
                for engine, prepared, batch, k in work
            ]
            for (engine, _, batch, _), lists, of_batch in zip(work, started, found, strict=True):
                of_batch.append(self._top_k(engine, lists, batch))
        return [TopK.of_queries(of_batch) for of_batch in found]

    def _top_k(self, engine: Engine, found: Found, batch: _Batch) -> TopK:
        """Bring what a device found to the host."""
        rank_scores, scores, rows = (engine.device.download(array) for array in found)
        scores = np.float32(0) - scores if self.spec.metric == "l2" else scores
        dropped = np.full(len(rows), -1)  # the kernels do not count
        return TopK(scores, batch.row_numbers(rows), rank_scores, dropped)

    def _batches(self, request: SearchRequest, segments: Sequence[Segment]) -> Generator[tuple[_Batch | None, ...]]:
        """Divide the rows among the devices; yield the rows in memory of each, until every row had its turn."""
        sources, count = host_rows(segments, request.selection), len(self._engines)
        with ExitStack() as streams:  # ends them in order, also when a search fails
            of_devices = [
                streams.enter_context(closing(self._batches_on(mirror, sources[number::count])))
                for number, mirror in enumerate(self._mirrors)
            ]
            yield from zip_longest(*of_devices)

    def _batches_on(self, mirror: Mirror, sources: list[HostRows]) -> Generator[_Batch]:
        """Yield the rows in a device's memory: all at once, or if they do not fit, one batch after another."""
        mirror.keep_only(sources)
        if not sources:
            return
        free = mirror.free_bytes()
        if mirror.missing_bytes(sources) <= free - min(_SCRATCH_BYTES, free // 2):
            batch = _Batch([], [], [])
            for source in sources:
                batch.add(source, mirror.hold(source))
            yield batch
            return
        mirror.clear()
        free = mirror.free_bytes()
        for source, device_rows in streamed(mirror, sources, free - min(_SCRATCH_BYTES, free // 2)):
            batch = _Batch([], [], [])
            batch.add(source, [device_rows])
            yield batch
