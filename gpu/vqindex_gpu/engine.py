"""Engine: encode and search with one codec on one device.

The engine allocates arrays and launches kernels in order. The mirror decides which rows lie on the device. Everything
here runs on any `Device`; the tests run it on the emulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded, Queries
from vqindex.codes.sign_bound import MAX_DIM as SIGN_BOUND_DIM
from vqindex.codes.sign_bound import SignBoundTerms, quantile

from .device import Device
from .encoder import Encoder
from .launchers import bound, scan, score, select
from .launchers import queries as query_fragments
from .launchers.parameters import DeviceSelection
from .layout import QUERY, SEGMENT, TILE_ROWS, Layout
from .mirror import DeviceRows
from .tables import Tables

__all__ = ["Engine", "Found"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_BATCH_BYTES = 2**29  # scratch of one batch of queries
_BATCH_QUERIES = 2**15


class Found(NamedTuple):
    """The best rows of one device, in order of their numbers; device arrays of shape (nq, k).

    The number of a row is TILE_ROWS times its tile, plus its place in the tile. Tiles are counted over all searched
    segments. Missing places hold row -1 and rank score -inf.

    Attributes
    ----------
    rank_scores : device array of float32
        The scores by which rows were selected.
    scores : device array of float32
        Scores; larger is better.
    rows : device array of int64
        Numbers of the rows.
    """

    rank_scores: Any
    scores: Any
    rows: Any


@dataclass(frozen=True)
class _DeviceQueries:
    """Queries on the device, as kernels take them.

    Attributes
    ----------
    code_query, sketch_query : device array of int16, or None
        As in `Queries`.
    sign_query : device array of int8, or None
        The query of the sign bound; None if there is no bound.
    structs : device array of float32, shape (nq, 5)
        `vq_query` of kernels/layout.cuh.
    """

    code_query: Any
    sketch_query: Any
    sign_query: Any
    structs: Any


@dataclass(frozen=True)
class _Search:
    """A search on the device: rows, queries and selection.

    Attributes
    ----------
    segments : list of DeviceRows
        The rows.
    table : device array of uint64
        `vq_segment` of each segment.
    tiles : int
        Tiles of all segments.
    queries : _DeviceQueries
        The queries.
    selection : DeviceSelection
        The rows that may be found.
    """

    segments: list[DeviceRows]
    table: Any
    tiles: int
    queries: _DeviceQueries
    selection: DeviceSelection

    @property
    def count(self) -> int:
        """Number of queries."""
        return int(self.queries.code_query.shape[0])


class Engine:
    """Kernels of one codec on one device.

    Parameters
    ----------
    device : Device
        Where the kernels run.
    codec : Codec
        Tables of the spec.
    fused : bool, default True
        Whether to use the tensor-core scan for the codecs that it supports. Otherwise the plain scorer finds the tile
        maxima of every codec, as the oracle of the fused scan.
    """

    def __init__(self, device: Device, codec: Codec, fused: bool = True) -> None:
        self.device, self.codec, self.spec = device, codec, codec.spec
        self.layout = Layout.of(codec)
        self._tables = Tables(device, codec)
        self._encoder = Encoder(device, codec, self._tables)
        self._kind = score.Kind.of(codec)
        self._l2 = self.spec.metric == "l2"
        levels = codec.codebook.levels
        self._fused = fused and not codec.has_sketch and levels.dtype == np.int8
        if self._fused and codec.trellis is None:
            half = levels.size // 2  # the scan takes a coordinate's sign from its level
            assert (levels[:half] < 0).all()
            assert (levels[half:] > 0).all()

    # ---- rows and queries

    @property
    def encodes(self) -> bool:
        """Whether the device encodes rows and prepares queries; if not, the host does."""
        return self._encoder.supports_codec

    def encode(self, vectors: Any) -> Encoded:
        """Encode a device array of finite float32 rows, (n, d); returns device arrays."""
        return self._encoder.encode(vectors)

    def prepare(self, queries: Any) -> Queries:
        """Rotate and round a device array of finite float32 queries; only `code_query` stays on the device."""
        return self._encoder.prepare(queries)

    # ---- search

    def batch(self, segments: Sequence[DeviceRows], k: int) -> int:
        """Return how many queries can be searched at once."""
        tiles = sum(segment.tiles for segment in segments)
        selected = min(k, tiles)
        bytes_each = 4 * tiles + selected * (4 + 8 * TILE_ROWS) + 16 * k + 8 * self.layout.coordinates + 64
        room = min(_BATCH_BYTES, self.device.free_bytes() // 2)
        return max(1, min(_BATCH_QUERIES, room // bytes_each))

    def search(
        self,
        segments: Sequence[DeviceRows],
        queries: Queries,
        k: int,
        confidence: float = 1.0,
        allowed: NDArray[np.uint64] | None = None,
    ) -> Found:
        """Start the search of at most `batch` queries.

        Parameters
        ----------
        segments : sequence of DeviceRows
            At least one row.
        queries : Queries
            On the host, or `code_query` on this device.
        k : int
            At most the rows of all tiles.
        confidence : float
            As in `Backend.search`.
        allowed : ndarray of uint64, shape (1 or nq, tiles), optional
            A bit for each row that may be found.
        """
        device, job = self.device, self._begin(segments, queries, confidence, allowed)
        # The k best rows lie in the k best tiles: k better tiles would each hold a better row.
        selected = min(k, job.tiles)
        tiles = device.empty((job.count, selected), np.int32)
        select.launch(device, select.PlaceArgs(self._maxima(job), job.tiles, selected, tiles))
        rank_scores, scores = self._score_rows(job, tiles)

        rows = selected * TILE_ROWS
        k = min(k, rows)
        best = Found(*(device.empty((job.count, k), kind) for kind in (np.float32, np.float32, np.int64)))
        select.launch(device, select.RowArgs(rank_scores, rows, k, scores, tiles, *best))
        return best

    def range_search(
        self,
        segments: Sequence[DeviceRows],
        queries: Queries,
        thresholds: F32,
        confidence: float = 1.0,
        allowed: NDArray[np.uint64] | None = None,
    ) -> tuple[I64, F32, I64]:
        """Find all rows whose rank score is above a query's threshold.

        Parameters
        ----------
        segments, queries, confidence, allowed
            As for `search`.
        thresholds : ndarray of float32, shape (nq,)
            Larger is better.

        Returns
        -------
        queries, scores, rows : ndarray, shape (found,)
            On the host; larger scores are better.
        """
        device, job = self.device, self._begin(segments, queries, confidence, allowed)
        query, tile = np.nonzero(device.download(self._maxima(job)) > thresholds[:, None])
        column = np.arange(query.size) - np.searchsorted(query, query)  # number of a tile among its query's
        none = np.empty(0, np.int64)
        found = [(none, np.empty(0, np.float32), none)]
        width = max(1, min(2**15, _BATCH_BYTES // (8 * TILE_ROWS * job.count)))
        for start in range(0, int(column.max(initial=-1)) + 1, width):
            mask = (column >= start) & (column < start + width)
            tiles = np.full((job.count, min(width, int(column[mask].max()) + 1 - start)), -1, np.int32)
            tiles[query[mask], column[mask] - start] = tile[mask]
            rank_scores, scores = (device.download(array) for array in self._score_rows(job, device.upload(tiles)))
            hit_query, hit = np.nonzero(rank_scores > thresholds[:, None])
            rows = tiles[hit_query, hit // TILE_ROWS].astype(np.int64) * TILE_ROWS + hit % TILE_ROWS
            found.append((hit_query, scores[hit_query, hit], rows))
        all_queries, all_scores, all_rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return all_queries, all_scores, all_rows

    def _begin(
        self,
        segments: Sequence[DeviceRows],
        queries: Queries,
        confidence: float,
        allowed: NDArray[np.uint64] | None,
    ) -> _Search:
        """Upload what a search needs."""
        table, tiles = self._segment_table(segments)
        words = None if allowed is None else self.device.upload(np.ascontiguousarray(allowed))
        selection = DeviceSelection(words, tiles if allowed is not None and len(allowed) > 1 else 0)
        return _Search(list(segments), table, tiles, self._upload(queries, confidence), selection)

    def _segment_table(self, segments: Sequence[DeviceRows]) -> tuple[Any, int]:
        """Return the table of `vq_segment`, and the tiles of all segments."""
        device, table, tiles = self.device, np.zeros(len(segments), SEGMENT), 0
        for line, segment in zip(table, segments, strict=True):
            arrays = (segment.codes, segment.code_weight, segment.sketch_weight, segment.norm)
            for name, array in zip(("codes", "code_weight", "sketch_weight", "norm"), arrays, strict=True):
                line[name] = 0 if array is None else device.address(array)
            line["first_tile"], line["rows"] = tiles, segment.rows
            tiles += segment.tiles
        return device.upload(table.view(np.uint64)), tiles

    def _upload(self, queries: Queries, confidence: float) -> _DeviceQueries:
        """Upload queries, and prepare the sign bound where the confidence and the code have one."""
        device, count = self.device, queries.code_query.shape[0]
        structs = np.zeros(count, QUERY)
        structs["code_scale"], structs["norm"] = queries.code_scale, queries.norm
        sketch_query, sign_query = None, None
        if queries.sketch_query is not None and queries.sketch_scale is not None:
            structs["sketch_scale"] = queries.sketch_scale
            sketch_query = device.upload(np.ascontiguousarray(queries.sketch_query))
        code_query = queries.code_query
        if not device.owns(code_query):
            code_query = device.upload(np.ascontiguousarray(code_query))
        on_device = device.upload(structs.view(np.float32).reshape(count, -1))
        if confidence < 1 and self.spec.has_sign_bits and self.spec.dim <= SIGN_BOUND_DIM:
            terms = SignBoundTerms.of(self.spec.dim, self.codec.sign_correlation)
            sign_query = device.empty(code_query.shape, np.int8)
            bound.launch(
                device, bound.Args(code_query, self.spec.dim, *terms, quantile(confidence), sign_query, on_device)
            )
        return _DeviceQueries(code_query, sketch_query, sign_query, on_device)

    def _maxima(self, job: _Search) -> Any:
        """Return the best rank score of every tile for each query, (nq, tiles)."""
        maxima = self.device.empty((job.count, job.tiles), np.float32)
        if self._fused:
            self._scan(job, maxima)
        else:
            score.launch(self.device, score.MaximaArgs(self._rows(job), maxima), self.layout, self._kind)
        return maxima

    def _scan(self, job: _Search, maxima: Any) -> None:
        """Scan every segment on the tensor cores."""
        device, layout, queries = self.device, self.layout, job.queries
        fragments = query_fragments.fragments(job.count, layout)
        code_fragments = device.empty((fragments, 4), np.uint32)
        sign_fragments = None if queries.sign_query is None else device.empty((fragments, 2), np.uint32)
        make_fragments = query_fragments.Args(
            code_query=queries.code_query,
            sign_query=queries.sign_query,
            count=job.count,
            groups=query_fragments.groups(job.count),
            dim=layout.coordinates,
            chunks=layout.coordinate_chunks,
            phases=query_fragments.phases(layout),
            code_fragments=code_fragments,
            sign_fragments=sign_fragments,
        )
        query_fragments.launch(device, make_fragments, layout)
        for number, segment in enumerate(job.segments):
            args = scan.Args(
                segments=job.table,
                number=number,
                coordinate_chunks=layout.coordinate_chunks,
                chunks=layout.chunks,
                levels=self._tables.level_bytes,
                code_fragments=code_fragments,
                sign_fragments=sign_fragments,
                queries=queries.structs,
                count=job.count,
                l2=self._l2,
                selection=job.selection,
                maxima=maxima,
                maxima_stride=job.tiles,
            )
            scan.launch(device, args, layout, segment.rows, segment.tiles)

    def _score_rows(self, job: _Search, tiles: Any) -> tuple[Any, Any]:
        """Return rank scores and scores of the rows of some tiles for each query, (nq, tiles * TILE_ROWS)."""
        device, shape = self.device, (job.count, tiles.shape[1] * TILE_ROWS)
        rank_scores, scores = device.empty(shape, np.float32), device.empty(shape, np.float32)
        score.launch(device, score.RowArgs(self._rows(job), tiles, rank_scores, scores), self.layout, self._kind)
        return rank_scores, scores

    def _rows(self, job: _Search) -> score.Rows:
        """Return the parameters that both forms of the plain scorer share."""
        queries = job.queries
        return score.Rows(
            segments=job.table,
            segment_count=len(job.segments),
            coordinates=self.layout.coordinates,
            chunks=self.layout.chunks,
            levels=self._tables.levels,
            code_query=queries.code_query,
            sketch_query=queries.sketch_query,
            sign_query=queries.sign_query,
            queries=queries.structs,
            l2=self._l2,
            selection=job.selection,
            tile_count=job.tiles,
        )
