"""Stream: rows on their way through a device that can't hold them all, copied there while others are searched.

There are two stages, each a pinned buffer on the host and one of its size on the device, and one segment. A part goes

    host blocks -> pinned buffer (a thread) -> device buffer (a stream of copies) -> segment (the caller's stream),

where it is searched. The parts take turns with the stages, and three waits keep them apart:

* the caller's stream unpacks a part when its copy is done;
* the copy of the part after next starts when the device buffer is unpacked;
* the thread fills the pinned buffer again when the copy out of it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqindex.errors import BackendError

from .device import Event
from .layout import TILE_ROWS
from .mirror import SEGMENT_ROWS, Columns, DeviceRows, HostRows, Mirror

__all__ = ["streamed"]

_STAGE_BYTES = 2**28
_STAGES = 2
_ALIGN = 256  # of columns in a stage


@dataclass
class _Stage:
    host: NDArray[np.uint8]
    device: Any
    copied: Event | None = None
    columns: Columns | None = None  # in the buffer on the device


def streamed(mirror: Mirror, sources: Sequence[HostRows], room: int) -> Iterator[tuple[HostRows, DeviceRows]]:
    """Yield the rows of all pieces in parts that fit, each in a segment that holds it until the next is asked for.

    Parameters
    ----------
    mirror : Mirror
        Of the device and the codec; it keeps nothing of the rows.
    sources : sequence of HostRows
        Rows.
    room : int
        Most bytes of device memory to take.

    Raises
    ------
    BackendError
        If not even a tile of rows fits, with the numbers.
    """
    spare = len(Columns._fields) * _ALIGN
    each = _STAGES * mirror.column_bytes + mirror.row_bytes
    rows = min((room - _STAGES * spare) // each, (_STAGE_BYTES - spare) // mirror.column_bytes, SEGMENT_ROWS)
    if rows < TILE_ROWS:
        needed = TILE_ROWS * each + _STAGES * spare
        raise BackendError(
            f"{mirror.device.name}: {TILE_ROWS} rows on their way need {needed} bytes of device memory; {room} are free"
        )
    rows = min(rows, max(source.stored.rows for source in sources) + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    parts = [part for source in sources for part in source.split(rows)]
    return _Stream(mirror, rows, rows * mirror.column_bytes + spare).parts(parts)


class _Stream:
    """Stages of `size` bytes, and a segment, for parts of at most `rows` rows."""

    def __init__(self, mirror: Mirror, rows: int, size: int) -> None:
        self._mirror, self._device = mirror, mirror.device
        device = self._device
        self._stages = [_Stage(device.staging(size), device.empty((size,), np.uint8)) for _ in range(_STAGES)]
        self._segment = mirror.allocate(rows)
        self._side = device.side_stream()
        device.synchronize()  # the buffers may be memory that work before this one still used

    def parts(self, pieces: Sequence[HostRows]) -> Iterator[tuple[HostRows, DeviceRows]]:
        """Yield the pieces, each in the segment until the next one is asked for."""
        reader = ThreadPoolExecutor(1)
        try:
            coming = [reader.submit(self._bring, piece, self._stages[i]) for i, piece in enumerate(pieces[:_STAGES])]
            for number, piece in enumerate(pieces):
                stage = self._stages[number % _STAGES]
                self._device.wait(coming[number].result())
                self._unpack(piece, stage)
                if number + _STAGES < len(pieces):
                    unpacked = self._device.record()
                    coming.append(reader.submit(self._bring, pieces[number + _STAGES], stage, unpacked))
                yield piece, self._segment
        finally:
            reader.shutdown(cancel_futures=True)
            with self._device.on(self._side):
                self._device.synchronize()  # then the buffers may go

    def _bring(self, piece: HostRows, stage: _Stage, unpacked: Event | None = None) -> Event:
        """Fill a stage; returns the mark behind its copy."""
        columns = self._mirror.columns(piece.stored, 0, piece.stored.rows)
        if stage.copied is not None:
            stage.copied.synchronize()
        there: list[Any] = []
        stop = 0
        for column in columns:
            if column is None:
                there.append(None)
                continue
            start, stop = stop, stop + column.nbytes
            stage.host[start:stop] = column.reshape(-1).view(np.uint8)
            there.append(stage.device[start:stop].view(column.dtype))
            stop = -(-stop // _ALIGN) * _ALIGN
        stage.columns = Columns(*there)
        stop = min(stop, len(stage.host))
        with self._device.on(self._side):
            if unpacked is not None:
                self._device.wait(unpacked)
            self._device.copy_staged(stage.device[:stop], stage.host[:stop])
            stage.copied = self._device.record()
        return stage.copied

    def _unpack(self, piece: HostRows, stage: _Stage) -> None:
        """Bring what was copied into the segment."""
        assert stage.columns is not None
        self._mirror.unpack(self._segment, stage.columns, 0, piece.stored.rows)
        self._segment.rows = piece.stored.rows
