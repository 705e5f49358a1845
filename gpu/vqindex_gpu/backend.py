"""CudaBackend: the Backend protocol over one or more devices.

The index's rows stay on the host; devices hold a mirror of them, brought there by the first search. What does not fit
is streamed through in parts. Steps that no kernel has (codecs with a second projection, single scores, decoding) run on
the host, with the same results.
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
from vqindex.codes.bitplanes import StoredRows
from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded, Queries

from .adopted import Adopted
from .device import Device
from .engine import Engine, Found
from .layout import TILE_ROWS
from .mirror import Mirror, Piece, Segment, cut
from .stream import streamed

__all__ = ["CudaBackend"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_SCRATCH_BYTES = 2**30  # left free beside the mirror for what searches need, at most half of what there is


class _Part(NamedTuple):
    """Segments that are searched together, with where their rows count from, and their filter's words."""

    segments: list[Segment]
    first_rows: list[int]
    words: list[NDArray[np.uint64] | None]

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    def add(self, piece: Piece, segments: list[Segment]) -> None:
        row = 0
        for segment in segments:
            tiles = slice(row // TILE_ROWS, row // TILE_ROWS + segment.tiles)
            self.segments.append(segment)
            self.first_rows.append(piece.first_row + row)
            self.words.append(None if piece.words is None else piece.words[..., tiles])
            row += segment.rows

    def filter(self, at: slice) -> NDArray[np.uint64] | None:
        """Return the filter of some queries, (1 or nq, tiles), or None if all rows may be found."""
        if all(words is None for words in self.words):
            return None
        lines = [None if words is None else np.atleast_2d(words) for words in self.words]
        count = max(len(words) for words in lines if words is not None)
        full = []
        for segment, words in zip(self.segments, lines, strict=True):
            if words is None:
                words = np.full((1, segment.tiles), ~np.uint64(0))
            full.append(np.broadcast_to(words, (count, segment.tiles)))
        joined = np.concatenate(full, axis=1)
        return joined if count == 1 else joined[at]

    def row_numbers(self, rows: I64) -> I64:
        """Turn rows counted by tiles of the segments into rows of the index; -1 stays."""
        ends = np.cumsum([segment.tiles for segment in self.segments]) * TILE_ROWS
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

    # ---- rows and queries

    def adopt(self, array: Any) -> Adopted | None:
        """Return an array that lies on one of the devices as one to encode or search with there, without a copy."""
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
        codes, factor, norm = engine.encode(on_device)
        return Encoded(device.download(codes), device.download(factor), None if norm is None else device.download(norm))

    def prepare(self, queries: F32 | Adopted) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d), where they are; `code_query` stays there."""
        if not isinstance(queries, Adopted):
            return self._host.prepare(queries)
        if not queries.engine.encodes:
            return self._host.prepare(queries.host())
        return queries.engine.prepare(queries.array)

    def put(self, rows: Encoded, block: StoredRows, start: int) -> None:
        """Write code rows into the stored layout on the host, from row `start` of a block on."""
        self._host.put(rows, block, start)
        for mirror in self._mirrors:
            mirror.changed(block.rescale, start)

    def scores(self, queries: Queries, block: Encoded) -> F32:
        """Return all scores, shape (nq, n); on the host."""
        return self._host.scores(self._on_host(queries), block)

    def stderr(self, queries: Queries, block: Encoded) -> F32:
        """Return the standard error of all scores, shape (nq, n); on the host, where the norms are."""
        return self._host.stderr(queries, block)

    def decode(self, block: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d); on the host."""
        return self._host.decode(block)

    def _home(self, queries: Queries) -> Engine | None:
        """Return the engine on whose device queries lie; None for those on the host."""
        return next((engine for engine in self._engines if engine.device.owns(queries.code_query)), None)

    def _on_host(self, queries: Queries) -> Queries:
        home = self._home(queries)
        return queries if home is None else replace(queries, code_query=home.device.download(queries.code_query))

    def _everywhere(self, queries: Queries) -> list[Queries]:
        """Return queries for each engine: as they are, or on the engine's own device if they lie on another one."""
        home = self._home(queries)
        if home is None or len(self._engines) == 1:
            return [queries] * len(self._engines)
        home.device.synchronize()  # devices do not wait for each other
        return [
            queries if engine is home else replace(queries, code_query=engine.device.bring(queries.code_query))
            for engine in self._engines
        ]

    # ---- search

    def search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        k: int,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Sequence[NDArray[np.uint64] | None] | None = None,
    ) -> tuple[F32, I64]:
        """Return the k best scores and rows, (nq, k), best first; see `Backend.search`.

        Raises
        ------
        BackendError
            If a device has too little memory even for a part of the rows.
        """
        width = min(k, sum(block.rows for block in blocks))
        best = _Best.none(queries.code_query.shape[0], width)
        if best.rows.size:
            with self._lock:
                given = self._everywhere(queries)
                with closing(self._together(blocks, allowed)) as parts:
                    for together in parts:
                        self._search_parts(given, together, confidence, best)
        return best.finished(k, ascending=self.spec.metric == "l2")

    def range_search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        thresholds: F32,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Sequence[NDArray[np.uint64] | None] | None = None,
    ) -> tuple[I64, F32, I64]:
        """Return lims, scores and rows of what is better than the thresholds (nq,); see `Backend.range_search`."""
        nq, ascending = queries.code_query.shape[0], self.spec.metric == "l2"
        bars = -thresholds if ascending else thresholds
        none = np.empty(0, np.int64)
        found = [(none, np.empty(0, np.float32), none)]
        with self._lock:
            given = self._everywhere(queries)
            with closing(self._together(blocks, allowed)) as parts:
                for together in parts:
                    found.extend(self._range_parts(given, together, confidence, bars))
        query, scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((rows, -scores, query))
        lims = np.searchsorted(query[order], np.arange(nq + 1)).astype(np.int64)
        scores = scores[order]
        return lims, (np.float32(0) - scores if ascending else scores), rows[order]

    def _range_parts(
        self, given: Sequence[Queries], parts: Sequence[_Part | None], confidence: float, bars: F32
    ) -> Iterator[tuple[I64, F32, I64]]:
        """Yield query numbers, scores and rows of what is above the bars in a part of the rows on each device."""
        for engine, queries, part in zip(self._engines, given, parts, strict=True):
            if part is None:
                continue
            at_once = engine.batch(part.segments, 1)
            for start in range(0, queries.code_query.shape[0], at_once):
                at = slice(start, start + at_once)
                some = engine.range_search(part.segments, queries.select(at), bars[at], confidence, part.filter(at))
                yield some[0] + start, some[1], part.row_numbers(some[2])

    def _together(
        self, blocks: Sequence[StoredRows], allowed: Sequence[NDArray[np.uint64] | None] | None
    ) -> Generator[tuple[_Part | None, ...]]:
        """Share the rows among the devices; yield what each has in memory, side by side, until all was there."""
        pieces, count = cut(blocks, allowed), len(self._engines)
        with ExitStack() as streams:  # which end in order, also when a search does not
            parts = [
                streams.enter_context(closing(self._parts(mirror, pieces[number::count])))
                for number, mirror in enumerate(self._mirrors)
            ]
            yield from zip_longest(*parts)

    def _search_parts(
        self, given: Sequence[Queries], parts: Sequence[_Part | None], confidence: float, best: _Best
    ) -> None:
        """Search a part of the rows on each device and merge what is found."""
        work = [
            (engine, queries, part)
            for engine, queries, part in zip(self._engines, given, parts, strict=True)
            if part is not None
        ]
        nq, width = best.rows.shape
        at_once = min(engine.batch(part.segments, min(width, part.rows)) for engine, _, part in work)
        for start in range(0, nq, at_once):
            at = slice(start, start + at_once)
            started: list[tuple[Engine, _Part, Found]] = []
            for engine, queries, part in work:
                k, words = min(width, part.rows), part.filter(at)
                started.append((engine, part, engine.search(part.segments, queries.select(at), k, confidence, words)))
            for engine, part, found in started:
                keys, scores, rows = (engine.device.download(array) for array in found)
                best.merge(at, keys, scores, part.row_numbers(rows))

    def _parts(self, mirror: Mirror, pieces: list[Piece]) -> Generator[_Part]:
        """Yield the pieces in device memory: all at once, or if they do not fit, one part after another."""
        mirror.keep_only(pieces)
        if not pieces:
            return
        free = mirror.free_bytes()
        room = free - min(_SCRATCH_BYTES, free // 2)
        part = _Part([], [], [])
        if mirror.missing_bytes(pieces) <= room:
            for piece in pieces:
                part.add(piece, mirror.hold(piece))
            yield part
            return
        mirror.clear()
        free = mirror.free_bytes()
        for piece, segment in streamed(mirror, pieces, free - min(_SCRATCH_BYTES, free // 2)):
            part = _Part([], [], [])
            part.add(piece, [segment])
            yield part


class _Best(NamedTuple):
    """The best rows so far by key: keys, scores (larger better) and rows, each (nq, k)."""

    keys: F32
    scores: F32
    rows: I64

    @classmethod
    def none(cls, nq: int, k: int) -> _Best:
        worst = np.full((nq, k), -np.inf, np.float32)
        return cls(worst, worst.copy(), np.full((nq, k), -1, np.int64))

    def merge(self, at: slice, keys: F32, scores: F32, rows: I64) -> None:
        """Merge what some queries found; ties keep the lower row."""
        k = self.rows.shape[1]
        all_keys = np.concatenate([self.keys[at], keys], axis=1)
        all_rows = np.concatenate([self.rows[at], rows], axis=1)
        order = np.lexsort((all_rows, -all_keys))[:, :k]
        self.scores[at] = np.take_along_axis(np.concatenate([self.scores[at], scores], axis=1), order, axis=1)
        self.keys[at] = np.take_along_axis(all_keys, order, axis=1)
        self.rows[at] = np.take_along_axis(all_rows, order, axis=1)

    def finished(self, k: int, ascending: bool) -> tuple[F32, I64]:
        """Order by score and fill up to k places."""
        order = np.lexsort((self.rows, -self.scores))
        scores, rows = np.take_along_axis(self.scores, order, axis=1), np.take_along_axis(self.rows, order, axis=1)
        missing = ((0, 0), (0, k - rows.shape[1]))
        scores = np.pad(scores, missing, constant_values=-np.inf)
        rows = np.pad(rows, missing, constant_values=-1)
        return (np.float32(0) - scores if ascending else scores), rows
