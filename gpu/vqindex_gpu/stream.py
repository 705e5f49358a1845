"""Stream: search rows that do not fit in device memory, one batch after another.

A stream has one allocation for rows on the device and two stages. A stage is a pinned buffer on the host and a buffer
of the same size on the device. A batch of rows passes through

    host rows -> pinned buffer (a thread) -> device buffer (a copy stream) -> allocation (the caller's stream),

and is searched there. Batches take turns with the stages. While one batch is searched, the next one is copied, and the
one after that is read into the pinned buffer. Three waits keep the batches apart:

* The caller's stream unpacks a batch only after its copy is done.
* The copy of the batch after the next starts only after the device buffer is unpacked.
* The thread refills a pinned buffer only after the copy from it is done.
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
from .mirror import MAX_ROWS, Columns, DeviceRows, HostRows, Mirror

__all__ = ["streamed"]

_STAGE_BYTES = 2**28
_STAGES = 2
_ALIGN = 256  # bytes that columns in a stage are aligned to


@dataclass
class _Stage:
    """A buffer on the host and one on the device.

    Attributes
    ----------
    host : ndarray of uint8
        Pinned memory.
    device : device array of uint8
        Memory of the same size.
    copied : Event, optional
        The end of the last copy between them.
    columns : Columns, optional
        The columns in the device buffer.
    """

    host: NDArray[np.uint8]
    device: Any
    copied: Event | None = None
    columns: Columns | None = None


def streamed(mirror: Mirror, sources: Sequence[HostRows], room: int) -> Iterator[tuple[HostRows, DeviceRows]]:
    """Yield all rows in batches that fit, each with its copy on the device, which the next batch overwrites.

    Parameters
    ----------
    mirror : Mirror
        The mirror of the device and the codec; it keeps none of the rows.
    sources : sequence of HostRows
        Rows.
    room : int
        Bytes of device memory that may be used.

    Raises
    ------
    BackendError
        If not even one tile of rows fits, with the numbers.
    """
    padding = len(Columns._fields) * _ALIGN
    each = _STAGES * mirror.column_bytes + mirror.row_bytes
    rows = min((room - _STAGES * padding) // each, (_STAGE_BYTES - padding) // mirror.column_bytes, MAX_ROWS)
    if rows < TILE_ROWS:
        needed = TILE_ROWS * each + _STAGES * padding
        raise BackendError(
            f"{mirror.device.name}: streaming {TILE_ROWS} rows needs {needed} bytes of device memory; {room} are free"
        )
    rows = min(rows, max(source.stored.rows for source in sources) + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    batches = [batch for source in sources for batch in source.split(rows)]
    return _Stream(mirror, rows, rows * mirror.column_bytes + padding).run(batches)


class _Stream:
    """Two stages of `stage_bytes` bytes, and an allocation for batches of at most `rows` rows."""

    def __init__(self, mirror: Mirror, rows: int, stage_bytes: int) -> None:
        self._mirror, self._device = mirror, mirror.device
        device = self._device
        self._stages = [
            _Stage(device.staging(stage_bytes), device.empty((stage_bytes,), np.uint8)) for _ in range(_STAGES)
        ]
        self._target = mirror.allocate(rows)
        self._copy_stream = device.side_stream()
        device.synchronize()  # earlier work may still use the memory that was allocated here

    def run(self, batches: Sequence[HostRows]) -> Iterator[tuple[HostRows, DeviceRows]]:
        """Yield each batch with its copy on the device."""
        reader = ThreadPoolExecutor(1)
        try:
            copies = [reader.submit(self._copy, batch, self._stages[i]) for i, batch in enumerate(batches[:_STAGES])]
            for number, batch in enumerate(batches):
                stage = self._stages[number % _STAGES]
                self._device.wait(copies[number].result())
                self._unpack(batch, stage)
                if number + _STAGES < len(batches):
                    unpacked = self._device.record()
                    copies.append(reader.submit(self._copy, batches[number + _STAGES], stage, unpacked))
                yield batch, self._target
        finally:
            reader.shutdown(cancel_futures=True)
            with self._device.on(self._copy_stream):
                self._device.synchronize()  # no copy uses the buffers any longer

    def _copy(self, batch: HostRows, stage: _Stage, unpacked: Event | None = None) -> Event:
        """Fill the pinned buffer and start the copy to the device; returns the event of its end."""
        columns = self._mirror.columns(batch.stored, 0, batch.stored.rows)
        if stage.copied is not None:
            stage.copied.synchronize()
        device_columns: list[Any] = []
        stop = 0
        for column in columns:
            if column is None:
                device_columns.append(None)
                continue
            start, stop = stop, stop + column.nbytes
            stage.host[start:stop] = column.reshape(-1).view(np.uint8)
            device_columns.append(stage.device[start:stop].view(column.dtype))
            stop = -(-stop // _ALIGN) * _ALIGN
        stage.columns = Columns(*device_columns)
        stop = min(stop, len(stage.host))
        with self._device.on(self._copy_stream):
            if unpacked is not None:
                self._device.wait(unpacked)
            self._device.copy_staged(stage.device[:stop], stage.host[:stop])
            stage.copied = self._device.record()
        return stage.copied

    def _unpack(self, batch: HostRows, stage: _Stage) -> None:
        """Unpack the device buffer into the allocation."""
        assert stage.columns is not None
        self._mirror.unpack(self._target, stage.columns, 0, batch.stored.rows)
        self._target.rows = batch.stored.rows
