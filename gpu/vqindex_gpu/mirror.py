"""Mirror: rows of the index in device memory, brought there from host blocks and kept as long as those are searched.

The host's blocks are the truth, the mirror is a cache of them. Rows are cut into pieces of at most `SEGMENT_ROWS`; a
piece that grows gets new segments behind the old ones, so growth copies nothing on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqindex.codes.bitplanes import StoredRows
from vqindex.codes.codec import Codec

from .device import Device, scalar
from .layout import TILE_ROWS, Layout

__all__ = ["SEGMENT_ROWS", "Columns", "Mirror", "Piece", "Segment", "cut"]

SEGMENT_ROWS = 2**20
_FIRST_ROWS = 1024
_THREADS = 128


class Piece(NamedTuple):
    """Rows of one host block: at most SEGMENT_ROWS, from a multiple of TILE_ROWS on.

    Attributes
    ----------
    block : StoredRows
        Views of the host's arrays, of these rows alone.
    first_row : int
        Number of its first row in the index.
    words : ndarray of uint64 or None
        Its part of a filter, (tiles,) or (nq, tiles).
    """

    block: StoredRows
    first_row: int
    words: NDArray[np.uint64] | None

    def taken(self, start: int, stop: int) -> Piece:
        """Return some of the rows; `start` begins a tile."""
        tiles = slice(start // TILE_ROWS, -(-stop // TILE_ROWS))
        signs, codes, factor, norm = self.block
        signs = None if signs is None else signs[tiles]
        norm = None if norm is None else norm[start:stop]
        words = None if self.words is None else self.words[..., tiles]
        return Piece(StoredRows(signs, codes[start:stop], factor[start:stop], norm), self.first_row + start, words)

    def parts(self, most: int) -> Iterator[Piece]:
        """Yield the rows in order, at most about `most` at a time, but a tile at least."""
        step = max(TILE_ROWS, most // TILE_ROWS * TILE_ROWS)
        for start in range(0, self.block.rows, step):
            yield self.taken(start, min(self.block.rows, start + step))


def cut(blocks: Sequence[StoredRows], allowed: Sequence[NDArray[np.uint64] | None] | None = None) -> list[Piece]:
    """Cut blocks, and their filters, into pieces."""
    pieces: list[Piece] = []
    offset = 0
    for number, block in enumerate(blocks):
        whole = Piece(block, offset, None if allowed is None else allowed[number])
        pieces.extend(whole.parts(SEGMENT_ROWS))
        offset += block.rows
    return pieces


class Columns(NamedTuple):
    """Rows as they come to the device: arrays of the host, or copies of them on the device.

    Attributes
    ----------
    codes, signs : array of uint8
        As in `StoredRows`.
    lead, tail, norm : array of float32, or None
        As in `Segment`.
    """

    codes: Any
    signs: Any
    lead: Any
    tail: Any
    norm: Any


@dataclass
class Segment:
    """Rows that lie together on the device; room for `capacity`, a multiple of TILE_ROWS.

    Attributes
    ----------
    codes : device array of uint64
        Rows in the layout of kernels/layout.cuh.
    lead, tail, norm : device array of float32 or None
        Weights of the two sums, and |x|.
    """

    codes: Any
    lead: Any
    tail: Any
    norm: Any
    capacity: int
    rows: int = 0

    @property
    def tiles(self) -> int:
        """Tiles in use."""
        return -(-self.rows // TILE_ROWS)


@dataclass
class _Entry:
    # The host's factors of the piece: their address is the piece's name, which none else has while this holds them.
    factor: NDArray[np.float32]
    segments: list[Segment] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)


class Mirror:
    """Pieces on one device.

    Parameters
    ----------
    device : Device
        Where.
    codec : Codec
        Of the rows.
    """

    def __init__(self, device: Device, codec: Codec) -> None:
        self.device, self._codec = device, codec
        self.layout = Layout.of(codec)
        self._two_sums = codec.has_sketch
        self._entries: dict[int, _Entry] = {}

    @property
    def row_bytes(self) -> int:
        """Device bytes of a row."""
        scalars = 1 + self._two_sums + self._codec.spec.stores_norm
        return self.layout.tile_words * 8 // TILE_ROWS + 4 * scalars

    @property
    def column_bytes(self) -> int:
        """Bytes of a row's columns."""
        spec = self._codec.spec
        return spec.row_bytes + spec.sign_bytes + 4 * (1 + self._two_sums + spec.stores_norm)

    def free_bytes(self) -> int:
        """Bytes of device memory that are free."""
        return self.device.free_bytes()

    def missing_bytes(self, pieces: Sequence[Piece]) -> int:
        """Return the device bytes that `hold` would allocate."""
        total = 0
        for piece in pieces:
            entry = self._entries.get(piece.block.rescale.ctypes.data)
            there = 0 if entry is None else sum(segment.capacity for segment in entry.segments)
            total += _capacity(piece.block.rows, there) if piece.block.rows > there else 0
        return total * self.row_bytes

    def keep_only(self, pieces: Sequence[Piece]) -> None:
        """Let go of all pieces but these."""
        wanted = {piece.block.rescale.ctypes.data for piece in pieces}
        self._entries = {key: entry for key, entry in self._entries.items() if key in wanted}

    def clear(self) -> None:
        """Let go of everything."""
        self._entries = {}

    def changed(self, factor: NDArray[np.float32], start: int) -> None:
        """Note that rows of a host block, given by its factors, changed from row `start` on."""
        first = factor.ctypes.data
        for key, entry in self._entries.items():
            offset = (key - first) // factor.itemsize
            if 0 <= offset < len(factor):
                self._truncate(entry, max(0, start - offset) // TILE_ROWS * TILE_ROWS)

    @staticmethod
    def _truncate(entry: _Entry, rows: int) -> None:
        for segment in entry.segments:
            segment.rows = max(0, min(segment.rows, rows))
            rows -= segment.rows

    def hold(self, piece: Piece) -> list[Segment]:
        """Bring a piece up to date on the device and return its segments.

        Raises
        ------
        BackendError
            If device memory does not suffice; what was there stays.
        """
        key, rows = piece.block.rescale.ctypes.data, piece.block.rows
        entry = self._entries.get(key)
        if entry is None:
            entry = _Entry(piece.block.rescale)
        if entry.rows != rows:
            # A tile that is not full is brought again, with its new rows.
            self._truncate(entry, min(entry.rows, rows) // TILE_ROWS * TILE_ROWS)
            there = sum(segment.capacity for segment in entry.segments)
            if rows > there:
                entry.segments.append(self.allocate(_capacity(rows, there)))
            self._fill(entry, piece.block)
        entry.factor = piece.block.rescale
        self._entries[key] = entry
        return [segment for segment in entry.segments if segment.rows]

    def allocate(self, capacity: int) -> Segment:
        """Return an empty segment with room for some rows, a multiple of TILE_ROWS."""
        device = self.device

        def scalars(wanted: bool) -> Any:
            return device.empty((capacity,), np.float32) if wanted else None

        codes = device.empty((capacity // TILE_ROWS * self.layout.tile_words,), np.uint64)
        return Segment(codes, scalars(True), scalars(self._two_sums), scalars(self._codec.spec.stores_norm), capacity)

    def _fill(self, entry: _Entry, block: StoredRows) -> None:
        done = 0
        for segment in entry.segments:
            stop = min(block.rows, done + segment.capacity)
            if done + segment.rows < stop:
                self._write(segment, block, done + segment.rows, stop, segment.rows)
                segment.rows = stop - done
            done = stop

    def _write(self, segment: Segment, block: StoredRows, start: int, stop: int, at: int) -> None:
        """Write host rows start .. stop to rows of a segment from `at` on; both begin a tile."""
        columns = self.columns(block, start, stop)
        uploaded = Columns(*(None if column is None else self.device.upload(column) for column in columns))
        self.unpack(segment, uploaded, at, stop - start)
        self.device.synchronize()  # later searches may run on other streams

    def columns(self, block: StoredRows, start: int, stop: int) -> Columns:
        """Return host rows start .. stop as contiguous columns; `start` begins a tile."""
        signs, norm = None, None
        if block.signs is not None:
            signs = np.ascontiguousarray(block.signs[start // TILE_ROWS : -(-stop // TILE_ROWS)])
        if block.norm is not None:
            norm = np.ascontiguousarray(block.norm[start:stop])
        lead, tail = self._weights(block, start, stop)
        codes = np.ascontiguousarray(block.codes[start:stop])
        return Columns(codes, signs, lead, tail if self._two_sums else None, norm)

    def unpack(self, segment: Segment, columns: Columns, at: int, rows: int) -> None:
        """Bring columns that are on the device to rows of a segment from `at` on, which begins a tile."""
        device, spec, layout = self.device, self._codec.spec, self.layout
        first, last = at // TILE_ROWS * layout.tile_words, -(-(at + rows) // TILE_ROWS) * layout.tile_words
        device.fill(segment.codes[first:last], 0)
        words = rows * layout.chunks * 4
        numbers = [
            spec.row_bytes,
            spec.sign_bytes,
            layout.fields,
            layout.bits,
            spec.warmup_fields if spec.has_sign_bits else 0,
        ]
        arguments = [columns.codes, columns.signs, *(scalar(number, "i") for number in numbers)]
        arguments += [scalar(at, "q"), scalar(rows, "q"), scalar(layout.chunks, "i"), segment.codes]
        macros = {"SLOT": layout.slot, "THREADS": _THREADS}
        device.launch("repack", macros, (-(-words // _THREADS), 1), _THREADS, arguments)
        for target, source in (
            (segment.lead, columns.lead),
            (segment.tail, columns.tail),
            (segment.norm, columns.norm),
        ):
            if target is not None:
                device.copy(target[at : at + rows], source)

    def _weights(self, block: StoredRows, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights of the two sums (reference.py, `_weights`)."""
        codec, factor = self._codec, np.ascontiguousarray(block.rescale[start:stop])
        if not codec.has_sketch:
            return factor, factor
        if codec.renormalized:
            return factor, factor * codec.beta
        if block.norm is not None:
            return block.norm[start:stop] * codec.cell_scale, factor
        return np.where(factor > 0, codec.cell_scale, np.float32(0)), factor


def _capacity(rows: int, there: int) -> int:
    """Rows to allocate for a piece of `rows` rows, `there` of which have room: as much again, within the segment."""
    wanted = max(rows - there, min(max(there, _FIRST_ROWS if there else 0), SEGMENT_ROWS - there))
    return -(-wanted // TILE_ROWS) * TILE_ROWS
