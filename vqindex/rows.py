"""RowStore: packed rows in memory, grown by segments so that adding copies little and memory stays bounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .backend import Encoded
from .spec import IndexSpec

__all__ = ["RowStore"]

SEGMENT_ROWS = 2**18
_FIRST_ROWS = 1024


class RowStore:
    """The rows of one index, as a list of blocks; full blocks are never copied or moved again."""

    def __init__(self, spec: IndexSpec) -> None:
        self._spec = spec
        self._sealed: list[Encoded] = []
        self._tail = self._allocate(0)
        self._used = 0

    def _allocate(self, rows: int) -> Encoded:
        norm = np.empty(rows, np.float32) if self._spec.stores_norm else None
        return Encoded(np.empty((rows, self._spec.code_bytes), np.uint8), np.empty(rows, np.float32), norm)

    def __len__(self) -> int:
        return sum(block.rows for block in self._sealed) + self._used

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, spare room included."""
        return sum(part.nbytes for block in [*self._sealed, self._tail] for part in block if part is not None)

    def seal(self, block: Encoded) -> None:
        """Take a block as it is, without copying (a memory map stays one); only while the store is empty."""
        assert len(self) == 0, "a foreign block must come first"
        if block.rows:
            self._sealed.append(block)

    def append(self, block: Encoded) -> None:
        """Copy the rows of `block` behind the last ones."""
        start = 0
        while start < block.rows:
            if self._used == self._tail.rows:
                self._grow(block.rows - start)
            stop = min(block.rows, start + self._tail.rows - self._used)
            room = slice(self._used, self._used + stop - start)
            for target, source in zip(self._tail, block, strict=True):
                if target is not None and source is not None:
                    target[room] = source[start:stop]
            self._used += stop - start
            start = stop

    def _grow(self, wanted: int) -> None:
        if self._tail.rows == SEGMENT_ROWS:
            self._sealed.append(self._tail)
            self._tail, self._used = self._allocate(0), 0
        rows = max(_FIRST_ROWS, 2 * self._tail.rows, self._used + wanted)
        bigger = self._allocate(min(rows, SEGMENT_ROWS))
        for target, source in zip(bigger, self._tail, strict=True):
            if target is not None and source is not None:
                target[: self._used] = source[: self._used]
        self._tail = bigger

    def blocks(self) -> list[Encoded]:
        """Return the blocks in row order, as views."""
        return [*self._sealed, self._tail.take(slice(self._used))] if self._used else list(self._sealed)

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        """Gather rows, shape (m,), into one block."""
        out = self._allocate(rows.size)
        offset = 0
        for block in self.blocks():
            here = np.flatnonzero((rows >= offset) & (rows < offset + block.rows))
            picked = block.take(rows[here] - offset)
            for target, source in zip(out, picked, strict=True):
                if target is not None and source is not None:
                    target[here] = source
            offset += block.rows
        return out
