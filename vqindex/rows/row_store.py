"""RowStore: stored rows in memory. They grow in blocks, which bounds the copies and the memory of `append`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..codes.bitplanes import BLOCK_ROWS, StoredRows, empty_sign_bits, join_rows
from ..codes.encoded import Encoded
from ..codes.records import RecordLayout, empty_records
from ..spec import IndexSpec
from .segment import Segment

__all__ = ["RowStore"]

SEGMENT_ROWS = 2**18
SEGMENT_BYTES = 2**26  # a block has at most so many bytes; `append` copies at most half a block
_FIRST_ROWS = 1024
_CONVERT_VALUES = 2**22  # coordinates that are converted to another layout at a time


class _Tail:
    """The last block, with room behind its rows: from row `claimed` on, nothing has been written."""

    def __init__(self, block: StoredRows, claimed: int = 0) -> None:
        self.block = block
        self.claimed = claimed


class RowStore:
    """The rows of one index, as a list of blocks. Full blocks are never copied or moved.

    The store of an index never changes. A change appends to a `fork` of it. A fork shares all blocks, and it alone
    writes to the room of the last one. Room is given out once, as in `Growing`.

    Parameters
    ----------
    spec : IndexSpec
        Parameters of the index.
    put : callable
        Writes code rows into a block, as the backend's `put` does.
    records : bool
        Whether new blocks have records (``records.py``), as those of an index with a graph. Blocks that are added as
        they are may have either layout.
    """

    def __init__(
        self, spec: IndexSpec, put: Callable[[Encoded, StoredRows, int], None], *, records: bool = False
    ) -> None:
        self._spec = spec
        self._put = put
        self._records = records
        full = SEGMENT_BYTES // self.bytes_per_row // BLOCK_ROWS * BLOCK_ROWS
        self._full = max(BLOCK_ROWS, min(SEGMENT_ROWS, full))  # most rows of a block
        self._sealed: list[StoredRows] = []
        self._tail = _Tail(self._allocate(0))
        self._used = 0
        self._expected_rows = 0  # of `reserve`
        self._segments: list[Segment] | None = None  # of `segments`, until rows come

    def _allocate(self, rows: int) -> StoredRows:
        spec = self._spec
        if self._records:
            return empty_records(spec, rows)
        signs = empty_sign_bits(spec, rows) if spec.has_sign_bits else None
        norm = np.empty(rows, np.float32) if spec.stores_norm else None
        return StoredRows(signs, np.empty((rows, spec.row_bytes), np.uint8), np.empty(rows, np.float32), norm)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self._spec.dim

    @property
    def bytes_per_row(self) -> int:
        """Bytes of a row: its code and scalars; of records also the sign bits beside them."""
        spec = self._spec
        return spec.sign_bytes + RecordLayout.of(spec).size if self._records else spec.bytes_per_vector

    @property
    def has_records(self) -> bool:
        """Whether new blocks have records."""
        return self._records

    def __len__(self) -> int:
        return sum(block.rows for block in self._sealed) + self._used

    def write_with(self, put: Callable[[Encoded, StoredRows, int], None]) -> RowStore:
        """Return a store of the same rows that writes code rows with another backend."""
        fork = self.fork()
        fork._put = put
        return fork

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, spare rows included."""
        return sum(block.nbytes for block in [*self._sealed, self._tail.block])

    def seal(self, block: StoredRows, *, whole: bool = False) -> None:
        """Add a block without copying it (a memory map stays one); only before rows are appended.

        Files need a multiple of 64 rows in every block but the last, so the rows past such a multiple are copied. With
        `whole` they are not.
        """
        assert not self._used, "foreign blocks must come first"
        self._segments = None
        if whole:
            self._sealed += [block] if block.rows else []
            return
        full = block.rows // BLOCK_ROWS * BLOCK_ROWS
        if full:
            self._sealed.append(block.first(full))
        if full < block.rows:
            self.append(join_rows(self._spec, block, np.arange(full, block.rows)))

    @property
    def has_whole_blocks(self) -> bool:
        """Whether all blocks but the last have a multiple of 64 rows."""
        return all(block.rows % BLOCK_ROWS == 0 for block in self.stored()[:-1])

    def fork(self) -> RowStore:
        """Return a store of the same rows, for a change to append to; this one stays as it is."""
        return self._view(list(self._sealed), self._tail, self._used)

    def first(self, count: int) -> RowStore:
        """Return a store of the first rows, without copying them."""
        sealed = []
        for block in self.stored():
            if count <= 0:
                break
            sealed.append(block.first(min(count, block.rows)))
            count -= block.rows
        return self._view(sealed, _Tail(self._allocate(0)), 0)

    def joined(self, other: RowStore) -> RowStore:
        """Return a store of these rows and then those of another store of this index, without copying them."""
        return self._view([*self.stored(), *other._sealed], other._tail, other._used)

    def _view(self, sealed: list[StoredRows], tail: _Tail, used: int) -> RowStore:
        view = RowStore.__new__(RowStore)
        view._spec, view._put, view._records = self._spec, self._put, self._records
        view._full, view._expected_rows = self._full, 0
        view._sealed, view._tail, view._used, view._segments = sealed, tail, used, None
        return view

    def reserve(self, rows: int) -> None:
        """Expect so many more rows: `append` allocates them at once."""
        self._expected_rows = rows

    def append(self, rows: Encoded) -> None:
        """Append copies of code rows."""
        start, self._segments = 0, None
        while start < rows.rows:
            if self._used == self._tail.block.rows or self._used != self._tail.claimed:
                self._grow(max(rows.rows - start, self._expected_rows))
            stop = min(rows.rows, start + self._tail.block.rows - self._used)
            self._tail.claimed = self._used + stop - start
            self._put(rows.select(slice(start, stop)), self._tail.block, self._used)
            self._used += stop - start
            self._expected_rows = max(0, self._expected_rows - (stop - start))
            start = stop

    def _grow(self, more: int) -> None:
        """Start a block, or copy the last one to a larger one."""
        block, is_full = self._tail.block, self._used == self._tail.block.rows
        if is_full and 2 * block.rows > self._full:
            self._sealed.append(block)
            block, self._used = self._allocate(0), 0
        rows = max(_FIRST_ROWS, 2 * block.rows if is_full else block.rows, self._used + more)
        bigger = self._allocate(min(-(-rows // BLOCK_ROWS) * BLOCK_ROWS, self._full))
        old, first = block.first(self._used), 0
        for part in old.sign_parts():
            assert bigger.signs is not None
            bigger.signs[first : first + len(part)] = part
            first += len(part)
        for target, source in zip(bigger.row_arrays, old.row_arrays, strict=True):
            if target is not None and source is not None:
                target[: len(source)] = source
        self._tail = _Tail(bigger, self._used)

    def select(self, rows: NDArray[np.int64]) -> RowStore:
        """Return a store with copies of some rows, shape (m,), ascending."""
        store = RowStore(self._spec, self._put, records=self._records)
        for start in range(0, rows.size, SEGMENT_ROWS):
            if store._used:
                store._sealed.append(store._tail.block)
            batch = rows[start : start + SEGMENT_ROWS]
            store._tail, store._used = _Tail(self._copied(batch), batch.size), batch.size
        return store

    def _copied(self, rows: NDArray[np.int64]) -> StoredRows:
        """Return copies of some rows, ascending, in a block whose size is a multiple of 64."""
        block = self._allocate(-(-rows.size // BLOCK_ROWS) * BLOCK_ROWS)
        offset = 0
        for source in self.stored():
            start, stop = np.searchsorted(rows, (offset, offset + source.rows))
            self._copy(source, rows[start:stop] - offset, block, int(start))
            offset += source.rows
        return block

    def _copy(self, source: StoredRows, at: NDArray[np.int64], block: StoredRows, start: int) -> None:
        """Write some rows of a block into another one, from row `start` on."""
        if (source.records is None) != (block.records is None):
            step = max(1, _CONVERT_VALUES // self.dim)
            for first in range(0, at.size, step):
                self._put(join_rows(self._spec, source, at[first : first + step]), block, start + first)
            return
        to = np.arange(start, start + at.size)
        if block.signs is not None and source.signs is not None:
            signs = source.signs[at // BLOCK_ROWS, :, at % BLOCK_ROWS]
            block.signs[to // BLOCK_ROWS, :, to % BLOCK_ROWS] = signs
        for target, values in zip(block.row_arrays, source.row_arrays, strict=True):
            if target is not None and values is not None:
                target[start : start + at.size] = values[at]

    def converted(self, *, records: bool) -> RowStore:
        """Return a store of the same rows with or without records; blocks that have this layout are shared.

        Other blocks are converted one after the other, a few rows at a time, and keep their numbers of rows. So memory
        holds both stores and little more.
        """
        store = RowStore(self._spec, self._put, records=records)
        store._sealed = [store._converted(block).first(block.rows) for block in self._sealed]
        if self._used:
            block = self._tail.block.first(self._used)
            same = (block.records is not None) == records
            store._tail = self._tail if same else _Tail(store._converted(block), self._used)
            store._used = self._used
        return store

    def _converted(self, source: StoredRows) -> StoredRows:
        """Return a block in the layout of new blocks; a copy has a multiple of 64 rows."""
        if (source.records is not None) == self._records:
            return source
        block = self._allocate(-(-source.rows // BLOCK_ROWS) * BLOCK_ROWS)
        self._copy(source, np.arange(source.rows), block, 0)
        return block

    def stored(self) -> list[StoredRows]:
        """Return views of the stored rows, in order."""
        return [*self._sealed, self._tail.block.first(self._used)] if self._used else list(self._sealed)

    def empty_block(self) -> StoredRows:
        """Return a block without rows."""
        return self._allocate(0)

    def segments(self) -> list[Segment]:
        """Return the rows as segments to scan, in order and without copying; the same list until rows come."""
        if self._segments is None:
            self._segments = [Segment(stored) for stored in self.stored()]
        return self._segments

    def gather(self, rows: NDArray[np.int64]) -> Encoded:
        """Return rows, shape (m,), as code rows."""
        spec = self._spec
        norm = np.empty(rows.size, np.float32) if spec.stores_norm else None
        out = Encoded(np.empty((rows.size, spec.code_bytes), np.uint8), np.empty(rows.size, np.float32), norm)
        offset = 0
        for block in self.stored():
            mask = np.flatnonzero((rows >= offset) & (rows < offset + block.rows))
            picked = join_rows(spec, block, rows[mask] - offset)
            for target, source in zip(out, picked, strict=True):
                if target is not None and source is not None:
                    target[mask] = source
            offset += block.rows
        return out
