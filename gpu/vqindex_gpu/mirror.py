"""Mirror: a copy of the index's rows in device memory, made by the first search and kept while they are searched.

The host's rows are the truth; the mirror is a cache of them. It takes at most `MAX_ROWS` rows of a segment at a
time. Rows that are added later go to new allocations after the old ones, so growth copies nothing on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqindex.codes.bitplanes import StoredRows
from vqindex.codes.codec import Codec
from vqindex.codes.records import split_stored
from vqindex.rows.request import Selection
from vqindex.rows.segment import Segment
from vqindex.underflow import ignoring_underflow

from .device import Device
from .launchers import repack
from .layout import TILE_ROWS, Layout

__all__ = ["MAX_ROWS", "Columns", "DeviceRows", "HostRows", "Mirror", "host_rows"]

MAX_ROWS = 2**20  # most rows that are copied and allocated together
_FIRST_ROWS = 1024


class HostRows(NamedTuple):
    """Rows of one segment on the host: at most MAX_ROWS, from a multiple of TILE_ROWS on.

    Attributes
    ----------
    stored : StoredRows
        Views of the host's arrays, of these rows alone.
    first_row : int
        Number of the first row in the index.
    words : ndarray of uint64 or None
        Their selection, (tiles,) or (nq, tiles); None for all of them.
    """

    stored: StoredRows
    first_row: int
    words: NDArray[np.uint64] | None

    def slice(self, start: int, stop: int) -> HostRows:
        """Return rows `start` to before `stop`; `start` begins a tile."""
        tiles = slice(start // TILE_ROWS, -(-stop // TILE_ROWS))
        words = None if self.words is None else self.words[..., tiles]
        return HostRows(self.stored.slice_rows(start, stop), self.first_row + start, words)

    def split(self, most: int) -> Iterator[HostRows]:
        """Yield the rows in order, at most about `most` at a time, but at least a tile."""
        step = max(TILE_ROWS, most // TILE_ROWS * TILE_ROWS)
        for start in range(0, self.stored.rows, step):
            yield self.slice(start, min(self.stored.rows, start + step))


def host_rows(segments: Sequence[Segment], selection: Selection | None = None) -> list[HostRows]:
    """Return the rows of segments, and what a selection says of them, MAX_ROWS at most at a time."""
    sources: list[HostRows] = []
    first_row = 0
    words = (None,) * len(segments) if selection is None else selection.words
    for segment, selected in zip(segments, words, strict=True):
        sources.extend(HostRows(segment.stored, first_row, selected).split(MAX_ROWS))
        first_row += segment.rows
    return sources


class Columns(NamedTuple):
    """Rows as they come to the device: arrays of the host, or copies of them on the device.

    Attributes
    ----------
    codes, signs : array of uint8
        As in `StoredRows`.
    code_weight, sketch_weight, norm : array of float32, or None
        As in `DeviceRows`.
    """

    codes: Any
    signs: Any
    code_weight: Any
    sketch_weight: Any
    norm: Any


@dataclass
class DeviceRows:
    """Rows that lie together on the device; room for `capacity`, a multiple of TILE_ROWS.

    Attributes
    ----------
    codes : device array of uint64
        Rows in the layout of kernels/layout.cuh.
    code_weight, sketch_weight, norm : device array of float32 or None
        Weights of the two sums, and |x|.
    """

    codes: Any
    code_weight: Any
    sketch_weight: Any
    norm: Any
    capacity: int
    rows: int = 0

    @property
    def tiles(self) -> int:
        """Tiles in use."""
        return -(-self.rows // TILE_ROWS)


@dataclass
class _Entry:
    # The host's rescales of these rows. Their address is the key of the entry: it is unique while the entry holds them.
    rescale: NDArray[np.float32]
    copies: list[DeviceRows] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(copy.rows for copy in self.copies)

    @property
    def capacity(self) -> int:
        return sum(copy.capacity for copy in self.copies)

    def truncate(self, rows: int) -> None:
        """Forget all but the first rows."""
        for copy in self.copies:
            copy.rows = max(0, min(copy.rows, rows))
            rows -= copy.rows


class Mirror:
    """Rows on one device.

    Parameters
    ----------
    device : Device
        Where the copies lie.
    codec : Codec
        The codec of the rows.
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

    def missing_bytes(self, sources: Sequence[HostRows]) -> int:
        """Return the device bytes that `hold` would allocate."""
        total = 0
        for source in sources:
            entry = self._entries.get(_key(source))
            capacity = 0 if entry is None else entry.capacity
            total += _more(source.stored.rows, capacity) if source.stored.rows > capacity else 0
        return total * self.row_bytes

    def keep_only(self, sources: Sequence[HostRows]) -> None:
        """Free the copies of all other rows."""
        keys = {_key(source) for source in sources}
        self._entries = {key: entry for key, entry in self._entries.items() if key in keys}

    def clear(self) -> None:
        """Free all copies."""
        self._entries = {}

    def changed(self, rescale: NDArray[np.float32], start: int) -> None:
        """Note that host rows, identified by their rescales, changed from row `start` on."""
        first = rescale.ctypes.data
        for key, entry in self._entries.items():
            offset = (key - first) // rescale.strides[0]  # which is larger than a float in records
            if 0 <= offset < len(rescale):
                entry.truncate(max(0, start - offset) // TILE_ROWS * TILE_ROWS)

    def hold(self, source: HostRows) -> list[DeviceRows]:
        """Bring the copies of host rows up to date and return them, in order.

        Raises
        ------
        BackendError
            If device memory does not suffice; copies made before stay.
        """
        rows = source.stored.rows
        entry = self._entries.get(_key(source))
        if entry is None:
            entry = _Entry(source.stored.rescale)
        if entry.rows != rows:
            # A tile that is not full is copied again, with its new rows.
            entry.truncate(min(entry.rows, rows) // TILE_ROWS * TILE_ROWS)
            if rows > entry.capacity:
                entry.copies.append(self.allocate(_more(rows, entry.capacity)))
            self._fill(entry, source.stored)
        entry.rescale = source.stored.rescale
        self._entries[_key(source)] = entry
        return [copy for copy in entry.copies if copy.rows]

    def allocate(self, capacity: int) -> DeviceRows:
        """Return an allocation for some rows, a multiple of TILE_ROWS, that holds none yet."""
        device = self.device

        def scalars(stored: bool) -> Any:
            return device.empty((capacity,), np.float32) if stored else None

        codes = device.empty((capacity // TILE_ROWS * self.layout.tile_words,), np.uint64)
        return DeviceRows(
            codes, scalars(True), scalars(self._two_sums), scalars(self._codec.spec.stores_norm), capacity
        )

    def _fill(self, entry: _Entry, stored: StoredRows) -> None:
        done = 0
        for copy in entry.copies:
            stop = min(stored.rows, done + copy.capacity)
            if done + copy.rows < stop:
                self._write(copy, stored, done + copy.rows, stop, copy.rows)
                copy.rows = stop - done
            done = stop

    def _write(self, target: DeviceRows, stored: StoredRows, start: int, stop: int, at: int) -> None:
        """Copy host rows start .. stop to rows of an allocation from `at` on; both begin a tile."""
        columns = self.columns(stored, start, stop)
        uploaded = Columns(*(None if column is None else self.device.upload(column) for column in columns))
        self.unpack(target, uploaded, at, stop - start)
        self.device.synchronize()  # later searches may run on other streams

    def columns(self, stored: StoredRows, start: int, stop: int) -> Columns:
        """Return host rows start .. stop as contiguous columns, records split; `start` begins a tile."""
        rows = split_stored(self._codec.spec, stored.slice_rows(start, stop))
        signs = None if rows.signs is None else np.ascontiguousarray(rows.signs)
        norm = None if rows.norm is None else np.ascontiguousarray(rows.norm)
        code_weight, sketch_weight = self._weights(rows)
        codes = np.ascontiguousarray(rows.codes)
        return Columns(codes, signs, code_weight, sketch_weight if self._two_sums else None, norm)

    def unpack(self, target: DeviceRows, columns: Columns, at: int, rows: int) -> None:
        """Write columns that lie on the device to rows of an allocation from `at` on, which begins a tile."""
        device, spec, layout = self.device, self._codec.spec, self.layout
        first, last = at // TILE_ROWS * layout.tile_words, -(-(at + rows) // TILE_ROWS) * layout.tile_words
        device.fill(target.codes[first:last], 0)
        args = repack.Args(
            codes=columns.codes,
            sign_bits=columns.signs,
            row_bytes=spec.row_bytes,
            sign_bytes=spec.sign_bytes,
            fields=layout.fields,
            bits=layout.bits,
            warmup_fields=spec.warmup_fields if spec.has_sign_bits else 0,
            start=at,
            rows=rows,
            chunks=layout.chunks,
            out=target.codes,
        )
        repack.launch(device, args, layout.slot)
        for to, source in (
            (target.code_weight, columns.code_weight),
            (target.sketch_weight, columns.sketch_weight),
            (target.norm, columns.norm),
        ):
            if to is not None:
                device.copy(to[at : at + rows], source)

    @ignoring_underflow
    def _weights(self, stored: StoredRows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights of the two sums (reference.py, `_weights`)."""
        codec, rescale = self._codec, np.ascontiguousarray(stored.rescale)
        if not codec.has_sketch:
            return rescale, rescale
        if codec.renormalized:
            return rescale, rescale * codec.beta
        if stored.norm is not None:
            return stored.norm * codec.cell_scale, rescale
        return np.where(rescale > 0, codec.cell_scale, np.float32(0)), rescale


def _key(source: HostRows) -> int:
    return source.stored.rescale.ctypes.data


def _more(rows: int, capacity: int) -> int:
    """Rows to allocate for `rows` rows where `capacity` have room: as many again, up to MAX_ROWS in all."""
    more = max(rows - capacity, min(max(capacity, _FIRST_ROWS if capacity else 0), MAX_ROWS - capacity))
    return -(-more // TILE_ROWS) * TILE_ROWS
