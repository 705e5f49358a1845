"""Engine: one codec on one device. It launches kernels; which rows are where is the mirror's business.

Everything here runs on any `Device`: in the tests, on the emulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded, Queries
from vqindex.codes.rotation import Hadamard
from vqindex.codes.sign_bound import MAX_DIM as SIGN_BOUND_DIM
from vqindex.codes.sign_bound import SignBoundTerms, quantile
from vqindex.codes.trellis import FRACTION, PEAK, Trellis
from vqindex.errors import BackendError

from .device import Device, scalar
from .layout import GROUP, TILE_ROWS, Layout
from .mirror import DeviceRows

__all__ = ["Engine", "Found"]

F32 = NDArray[np.float32]

THREADS = 128  # of the encoder, the repacker and their like
SELECT_THREADS = 256
VITERBI_THREADS = 256
SCAN_THREADS = 128
_VITERBI_BLOCKS = 132 * 8
SMALL_BATCH = GROUP  # queries up to which a warp has a tile to itself
_PER_BLOCK = 64  # queries that a block of the batch scan takes
_BATCH_BYTES = 2**29  # scratch of one batch of queries
_ENCODE_BYTES = 2**27  # rotated rows of the trellis encoder held at a time

_SEGMENT = np.dtype([(name, "<u8") for name in ("codes", "code_weight", "sketch_weight", "norm", "first_tile", "rows")])


class Found(NamedTuple):
    """The best rows of one device, by rising row, on the device: keys, scores (larger better) and rows, each (nq, k).

    Rows count by tiles of the segments that were searched; -1, with key -inf, where there is none.
    """

    keys: Any
    scores: Any
    rows: Any


@dataclass(frozen=True)
class _Prepared:
    """Queries on the device."""

    code_query: Any
    sketch_query: Any
    small: Any  # c of sign_bound.py
    structs: Any


@dataclass(frozen=True)
class _Job:
    """What one search is about, on the device."""

    table: Any  # of segments, for kernels
    segments: list[DeviceRows]
    tiles: int
    queries: _Prepared
    sign_bound: bool
    filters: list[Any]

    @property
    def count(self) -> int:
        """Number of queries."""
        return int(self.queries.code_query.shape[0])


class Engine:
    """Kernels for one codec on one device.

    Parameters
    ----------
    device : Device
        Where they run.
    codec : Codec
        Tables of the spec.
    fused : bool, default True
        Whether the tensor-core scan is used where it can be; otherwise the plain one, its oracle.
    """

    def __init__(self, device: Device, codec: Codec, fused: bool = True) -> None:
        self.device, self.codec, self.spec = device, codec, codec.spec
        self.layout = Layout.of(codec)
        self._l2 = scalar(self.spec.metric == "l2", "i")
        self._cosine = scalar(self.spec.metric == "cosine", "i")
        levels = codec.codebook.levels
        self._fused = fused and not codec.has_sketch and levels.dtype == np.int8
        if self._fused and codec.trellis is None:
            half = levels.size // 2  # the scan takes a coordinate's sign from its level
            assert (levels[:half] < 0).all()
            assert (levels[half:] > 0).all()

    # ---- tables

    @property
    def encodes(self) -> bool:
        """Whether the device rotates rows and queries: no dense matrix, no second projection, and room for it."""
        plain = isinstance(self.codec.rotation, Hadamard) and not self.codec.has_sketch
        return plain and self._rotation_bytes <= self.device.shared_bytes

    @property
    def _rotation_bytes(self) -> int:
        padded = (self.spec.dim + self.spec.dim // 16 + 4) // 4 * 4
        return 2 * padded * 4 + 256 * 4

    @cached_property
    def _rotation(self) -> list[Any]:
        """Arguments of the rotation: dim, stride, signs, scales."""
        rotation = self.codec.rotation
        assert isinstance(rotation, Hadamard)
        d = self.spec.dim
        signs = np.zeros((len(rotation.signs), -(-d // 32) * 4), np.uint8)
        packed = np.packbits(rotation.signs < 0, axis=1, bitorder="little")
        signs[:, : packed.shape[1]] = packed
        scales = (1.0 / np.sqrt(2.0 ** np.arange(16))).astype(np.float32)
        stride = int(rotation.source[1]) if d > 1 else 1
        return [scalar(d, "i"), scalar(stride, "i"), self.device.upload(signs.view("<u4")), self.device.upload(scales)]

    @cached_property
    def _levels(self) -> Any:
        return self.device.upload(self.codec.codebook.levels.astype(np.int16))

    @cached_property
    def _thresholds(self) -> Any:
        return self.device.upload(self.codec.codebook.thresholds)

    @cached_property
    def _bytes(self) -> Any:
        """Levels as bytes, sixteen at least."""
        levels = self.codec.codebook.levels.view(np.uint8)
        return self.device.upload(np.concatenate([levels, np.zeros(max(0, 16 - levels.size), np.uint8)]))

    # ---- encode

    def encode(self, vectors: Any) -> Encoded:
        """Encode a device array of finite float32 rows, (n, d); returns device arrays."""
        n, device = vectors.shape[0], self.device
        codes = device.empty((n, self.spec.code_bytes), np.uint8)
        factor = device.empty((n,), np.float32)
        norm = device.empty((n,), np.float32) if self.spec.stores_norm else None
        out = Encoded(codes, factor, norm)
        if n:
            if self.codec.trellis is None:
                self._encode_scalar(vectors, out)
            else:
                step = max(1, _ENCODE_BYTES // (4 * self.spec.dim))
                for start in range(0, n, step):
                    at = slice(start, start + step)
                    self._encode_trellis(vectors[at], out.select(at), self.codec.trellis)
        return out

    def _encode_scalar(self, vectors: Any, out: Encoded) -> None:
        codec = self.codec
        arguments = [
            self._thresholds,
            self._levels,
            scalar(self.spec.bits, "i"),
            scalar(codec.renormalized, "i"),
            scalar(float(codec.cell_scale), "d"),
            out.codes,
            scalar(self.spec.code_bytes, "i"),
            out.rescale,
        ]
        self._rotate("encode", {"TRELLIS": 0}, vectors, [self._cosine, out.norm, *arguments])

    def _rotate(self, kernel: str, macros: dict[str, int], vectors: Any, arguments: list[Any]) -> None:
        """Launch a kernel that rotates, a row a block."""
        macros = {**macros, "THREADS": THREADS}
        grid = (vectors.shape[0], 1)
        self.device.launch(kernel, macros, grid, THREADS, [vectors, *self._rotation, *arguments], self._rotation_bytes)

    def _encode_trellis(self, vectors: Any, out: Encoded, trellis: Trellis) -> None:
        device, d, n = self.device, self.spec.dim, vectors.shape[0]
        rotated, values = device.empty((n, d), np.float32), device.empty((n, d), np.int16)
        norm2, shift = device.empty((n,), np.float64), device.empty((n,), np.int32)
        grid = scalar(FRACTION / trellis.step, "f")
        arguments = [self._cosine, out.norm, grid, scalar(PEAK, "i"), rotated, values, norm2, shift]
        self._rotate("encode", {"TRELLIS": 1}, vectors, arguments)

        vectors_per_block = VITERBI_THREADS >> (trellis.window - trellis.bits)
        blocks = min(-(-n // vectors_per_block), _VITERBI_BLOCKS)
        fields = device.empty((n, self.spec.fields), np.uint8)
        choices = device.empty((blocks, d, VITERBI_THREADS), np.uint8)
        macros = {"BITS": trellis.bits, "WINDOW": trellis.window, "GAIN": trellis.gain, "THREADS": VITERBI_THREADS}
        arguments = [values, scalar(n, "q"), scalar(d, "i"), self._bytes]
        arguments += [scalar(trellis.limit, "i"), scalar(trellis.start_mask, "i"), choices, fields]
        device.launch("viterbi", macros, (blocks, 1), VITERBI_THREADS, arguments)

        numbers = [scalar(v, "i") for v in (d, trellis.bits, trellis.warmup_fields, trellis.has_signs)]
        arguments = [rotated, norm2, shift, fields, self._bytes, *numbers, self._cosine]
        arguments += [out.codes, scalar(self.spec.code_bytes, "i"), out.rescale]
        device.launch("finish", {"THREADS": THREADS}, (n, 1), THREADS, arguments)

    def prepare(self, queries: Any) -> Queries:
        """Rotate and round a device array of finite float32 queries; `lead` stays on the device, scalars do not."""
        nq, device = queries.shape[0], self.device
        lead = device.empty((nq, self.spec.dim), np.int16)
        scale, norm = device.empty((nq,), np.float32), device.empty((nq,), np.float32)
        if nq:
            self._rotate("prepare", {}, queries, [self._cosine, lead, scale, norm])
        return Queries(lead, device.download(scale), None, None, device.download(norm))

    # ---- search

    def sign_bound(self, confidence: float) -> bool:
        """Whether a confidence changes how this code is searched."""
        return confidence < 1 and self.spec.has_sign_bits and self.spec.dim <= SIGN_BOUND_DIM

    def batch(self, segments: Sequence[DeviceRows], k: int) -> int:
        """Return how many queries can be searched at once."""
        tiles = sum(segment.tiles for segment in segments)
        chosen = min(k, tiles)
        bytes_each = 4 * tiles + chosen * (4 + 8 * TILE_ROWS) + 16 * k + 8 * self.layout.coordinates + 64
        room = min(_BATCH_BYTES, self.device.free_bytes() // 2)
        return max(1, min(2**15, room // bytes_each))

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
            On the host.
        k : int
            At most the rows of all tiles.
        confidence : float
            As in `Backend.search`.
        allowed : ndarray of uint64, shape (1 or nq, tiles), optional
            A bit for each row that may be found.
        """
        device, job = self.device, self._begin(segments, queries, confidence, allowed)
        maxima = self._maxima(job)
        chosen = min(k, job.tiles)
        places = device.empty((job.count, chosen), np.int32)
        macros = {"THREADS": SELECT_THREADS}
        arguments = [maxima, scalar(job.tiles, "q"), scalar(chosen, "i"), places]
        device.launch("select", {**macros, "COLLECT": 0}, (job.count, 1), SELECT_THREADS, arguments)
        keys, scores = self._rescore(job, places)

        candidates = chosen * TILE_ROWS
        k = min(k, candidates)
        best = Found(*(device.empty((job.count, k), kind) for kind in (np.float32, np.float32, np.int64)))
        arguments = [keys, scalar(candidates, "q"), scalar(k, "i"), scores, places, *best]
        device.launch("select", {**macros, "COLLECT": 1}, (job.count, 1), SELECT_THREADS, arguments)
        return best

    def range_search(
        self,
        segments: Sequence[DeviceRows],
        queries: Queries,
        bars: F32,
        confidence: float = 1.0,
        allowed: NDArray[np.uint64] | None = None,
    ) -> tuple[NDArray[np.int64], F32, NDArray[np.int64]]:
        """Find all rows whose keys are above a bar, (nq,), larger being better; arguments as for `search`.

        Returns query numbers, scores and rows, each of shape (found,), on the host.
        """
        device, job = self.device, self._begin(segments, queries, confidence, allowed)
        above = device.download(self._maxima(job)) > bars[:, None]
        none = np.empty(0, np.int64)
        found = [(none, np.empty(0, np.float32), none)]
        query, tile = np.nonzero(above)
        place = np.arange(query.size) - np.searchsorted(query, query)  # of a tile among those of its query
        width = max(1, min(2**15, _BATCH_BYTES // (8 * TILE_ROWS * job.count)))
        for start in range(0, int(place.max(initial=-1)) + 1, width):
            here = (place >= start) & (place < start + width)
            tiles = np.full((job.count, min(width, int(place[here].max()) + 1 - start)), -1, np.int32)
            tiles[query[here], place[here] - start] = tile[here]
            keys, scores = (device.download(array) for array in self._rescore(job, device.upload(tiles)))
            which, column = np.nonzero(keys > bars[:, None])
            rows = tiles[which, column // TILE_ROWS].astype(np.int64) * TILE_ROWS + column % TILE_ROWS
            found.append((which, scores[which, column], rows))
        which, scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return which, scores, rows

    def _begin(
        self,
        segments: Sequence[DeviceRows],
        queries: Queries,
        confidence: float,
        allowed: NDArray[np.uint64] | None,
    ) -> _Job:
        """Upload what a search needs."""
        table, tiles = self._segment_table(segments)
        words = None if allowed is None else self.device.upload(np.ascontiguousarray(allowed))
        filters = [words, scalar(tiles if allowed is not None and len(allowed) > 1 else 0, "q")]
        sign_bound = self.sign_bound(confidence)
        return _Job(table, list(segments), tiles, self._upload(queries, confidence), sign_bound, filters)

    def _maxima(self, job: _Job) -> Any:
        """Return the best key of every tile for each query, (nq, tiles)."""
        maxima = self.device.empty((job.count, job.tiles), np.float32)
        if self._fused:
            self._scan(job, maxima)
        else:
            self._score(job, {"MAXIMA": 1}, job.tiles, [maxima])
        return maxima

    def _rescore(self, job: _Job, places: Any) -> tuple[Any, Any]:
        """Return keys and scores of the rows of some tiles for each query, (nq, places * 64)."""
        shape = (job.count, places.shape[1] * TILE_ROWS)
        keys, scores = self.device.empty(shape, np.float32), self.device.empty(shape, np.float32)
        self._score(job, {"MAXIMA": 0}, places.shape[1], [places, keys, scores])
        return keys, scores

    def _segment_table(self, segments: Sequence[DeviceRows]) -> tuple[Any, int]:
        table, tiles = np.zeros(len(segments), _SEGMENT), 0
        for line, segment in zip(table, segments, strict=True):
            for name in ("codes", "code_weight", "sketch_weight", "norm"):
                array = getattr(segment, name)
                line[name] = 0 if array is None else self.device.address(array)
            line["first_tile"], line["rows"] = tiles, segment.rows
            tiles += segment.tiles
        return self.device.upload(table.view(np.uint64)), tiles

    def _upload(self, queries: Queries, confidence: float) -> _Prepared:
        device, count = self.device, queries.code_query.shape[0]
        structs = np.zeros((count, 5), np.float32)
        structs[:, 0], structs[:, 2] = queries.code_scale, queries.norm
        tail, small = None, None
        if queries.sketch_query is not None and queries.sketch_scale is not None:
            structs[:, 1] = queries.sketch_scale
            tail = device.upload(np.ascontiguousarray(queries.sketch_query))
        lead = (
            queries.code_query
            if device.owns(queries.code_query)
            else device.upload(np.ascontiguousarray(queries.code_query))
        )
        on_device = device.upload(structs)
        if self.sign_bound(confidence):
            terms = SignBoundTerms.of(self.spec.dim, self.codec.sign_correlation)
            constants = [scalar(value, "d") for value in (*terms, quantile(confidence))]
            small = device.empty(lead.shape, np.int8)
            arguments = [lead, scalar(self.spec.dim, "i"), *constants, small, on_device]
            device.launch("bound", {"THREADS": THREADS}, (count, 1), THREADS, arguments)
        return _Prepared(lead, tail, small, on_device)

    def _macros(self, sign_bound: bool) -> dict[str, int]:
        trellis = self.codec.trellis
        window = {} if trellis is None else {"WINDOW": trellis.window}
        return {"SLOT": self.layout.slot, "BITS": self.layout.bits, "COARSE": int(sign_bound), **window}

    def _score(self, job: _Job, mode: dict[str, int], width: int, rest: list[Any]) -> None:
        """Launch the plain scorer of `width` tiles for each query."""
        kind = 1 if self.codec.trellis is not None else 0
        if self.codec.has_sketch:
            kind = 3 if self.spec.codec == "qjl" else 2
        layout, macros = self.layout, {**self._macros(job.sign_bound), **mode, "KIND": kind}
        if not job.sign_bound and kind != 1:
            del macros["BITS"]  # the same code for every width in a slot
        arguments = [job.table, *(scalar(v, "i") for v in (len(job.segments), layout.coordinates, layout.chunks))]
        queries = job.queries
        arguments += [self._levels, queries.code_query, queries.sketch_query, queries.small, queries.structs, self._l2]
        arguments += [*job.filters, scalar(job.tiles, "q"), *rest]
        self.device.launch("score", macros, (width, job.count), TILE_ROWS, arguments)

    def _scan(self, job: _Job, maxima: Any) -> None:
        """Launch the fused scan of every segment."""
        device, layout, queries, count, sign_bound = self.device, self.layout, job.queries, job.count, job.sign_bound
        groups = -(-count // (2 * GROUP)) * 2
        elements = groups * layout.used * layout.steps * 32
        fragments = device.empty((elements, 4), np.uint32)
        small = device.empty((elements, 2), np.uint32) if sign_bound else None
        phases = 1 if self.codec.trellis is not None else 4 // layout.slot
        numbers = [scalar(v, "i") for v in (count, groups, layout.coordinates, layout.used, phases)]
        macros = {"SLOT": layout.slot, "THREADS": THREADS}
        arguments = [queries.code_query, queries.small, *numbers, fragments, small]
        device.launch("queries", macros, (-(-elements // THREADS), 1), THREADS, arguments)

        shared = count > SMALL_BATCH
        macros = {**self._macros(sign_bound), "SHARED": int(shared), "TRELLIS": int(self.codec.trellis is not None)}
        for number, segment in enumerate(job.segments):
            blocks = segment.tiles * -(-count // _PER_BLOCK) if shared else -(-segment.tiles // 4)
            if blocks >= 2**31:
                raise BackendError(f"{count} queries of {segment.rows} rows are too many blocks for one launch")
            arguments = [job.table, *(scalar(v, "i") for v in (number, layout.used, layout.chunks)), self._bytes]
            arguments += [fragments, small, queries.structs, scalar(count, "i"), self._l2, *job.filters, maxima]
            arguments += [scalar(maxima.shape[1], "q")]
            device.launch("scan", macros, (blocks, 1), SCAN_THREADS, arguments)
