"""Contents: the codes, ids and originals of an index, and the changes that keep them row for row in step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.encoded import Encoded
from .ids import IdBatch, IdMap
from .originals import Originals, Rounded
from .row_store import RowStore
from .segment import Segment

__all__ = ["Contents", "NewRows"]

I64 = NDArray[np.int64]

_CHUNK_VALUES = 2**22  # coordinates in a batch of copied rows


class NewRows(NamedTuple):
    """Rows to be appended to an index.

    Attributes
    ----------
    codes : Encoded
        Code rows.
    originals : Rounded or None
        The rounded vectors, if the index keeps them.
    """

    codes: Encoded
    originals: Rounded | None


class Contents(NamedTuple):
    """Codes, ids and originals of an index; a row is the same vector in all of them.

    Attributes
    ----------
    rows : RowStore
        Codes and scalars.
    ids : IdMap
        Ids, and the live rows.
    originals : Originals or None
        The rounded vectors, if the index keeps them.
    """

    rows: RowStore
    ids: IdMap
    originals: Originals | None

    @property
    def nbytes(self) -> int:
        """Bytes of codes, ids and originals."""
        return self.rows.nbytes + self.ids.nbytes + (0 if self.originals is None else self.originals.nbytes)

    def snapshot(self) -> Contents:
        """Return the contents as they are now, for reading while another thread changes the index."""
        ids = self.ids.snapshot()  # first: `append` adds rows and originals before their ids
        originals = None if self.originals is None else self.originals.snapshot()
        return Contents(self.rows.first(ids.rows_ever), ids, originals)

    def append(
        self, batches: Iterable[NewRows], ids: IdBatch | None, expected_rows: int = 0, replaces: I64 | None = None
    ) -> None:
        """Append rows whose ids passed `IdMap.check_new`; if anything is raised, none of them.

        Parameters
        ----------
        batches : iterable of NewRows
            Consumed one by one, so that memory holds each row once.
        ids : IdBatch or None
            Ids of all rows.
        expected_rows : int
            Number of rows in all batches, if it is known.
        replaces : ndarray of int64, optional
            Rows to remove in the same change; -1 is none.
        """
        savepoints = [(part, part.savepoint()) for part in self if part is not None]
        try:
            self.rows.reserve(expected_rows)
            count = self._fill(batches)
            if count:
                self.ids.extend(count, ids, replaces)
        except BaseException:
            for part, savepoint in savepoints:
                part.rollback(savepoint)
            raise

    def _fill(self, batches: Iterable[NewRows]) -> int:
        count = 0
        for codes, originals in batches:
            self.rows.append(codes)
            if self.originals is not None and originals is not None:
                self.originals.append(originals)
            count += codes.rows
        return count

    def batches(self, rows: I64) -> Iterator[NewRows]:
        """Yield some rows, shape (m,), ascending, in batches."""
        step = max(1, _CHUNK_VALUES // self.rows.dim)
        for start in range(0, rows.size, step):
            at = rows[start : start + step]
            originals = None if self.originals is None else self.originals.gather_rounded(at)
            yield NewRows(self.rows.gather(at), originals)

    def compacted(self) -> Contents:
        """Return the contents without removed rows, in whole blocks; itself if it is compact already, else a copy."""
        if self.ids.live is None and self.rows.has_whole_blocks:
            return self
        live = self.ids.live_rows()
        originals = None if self.originals is None else self.originals.select(live)
        return Contents(self.rows.select(live), self.ids.compacted(), originals)

    def copied(self) -> Contents:
        """Return a copy without removed rows that shares no array with these contents."""
        live = self.ids.live_rows()
        originals = None if self.originals is None else self.originals.select(live)
        return Contents(self.rows.select(live), self.ids.copied(), originals)

    def segments(self) -> list[Segment]:
        """Return all rows and everything that belongs to them as views, in one segment or more. None may be removed."""
        segments, first = [], 0
        for stored in self.rows.stored() or [self.rows.empty_block()]:
            last = first + stored.rows
            ids, string_ids, originals = self.ids.explicit, self.ids.string_ids, self.originals
            segments.append(
                Segment(
                    stored,
                    None if ids is None else ids[first:last],
                    None if string_ids is None else string_ids.slice_rows(first, last),
                    None if originals is None else originals.slice_rows(first, last),
                )
            )
            first = last
        return segments
