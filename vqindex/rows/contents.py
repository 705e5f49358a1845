"""Contents: the codes, ids and originals of an index, and the changes that keep them row for row in step.

Contents never change. A change prepares other contents aside, which share all arrays with the old ones, and the index
takes them by one assignment. So a change that fails or is interrupted has no effect, and a search, a save or a copy
works on the contents of one moment without a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.encoded import Encoded
from .graph import Graph
from .ids import IdBatch, IdMap
from .originals import Originals, Rounded
from .row_store import RowStore
from .segment import Segment

__all__ = ["FEW_ROWS", "Contents", "NewRows"]

I64 = NDArray[np.int64]

_CHUNK_VALUES = 2**22  # coordinates in a batch of copied rows
FEW_ROWS = 64  # so few removed rows are always kept, since getting rid of them takes time of its own


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
    """Codes, ids and originals of an index at one moment; a row is the same vector in all of them.

    Attributes
    ----------
    rows : RowStore
        Codes and scalars.
    ids : IdMap
        Ids, and the live rows.
    originals : Originals or None
        The rounded vectors, if the index keeps them.
    graph : Graph or None
        Links of the first rows, if the index has a graph. ``linking.py`` makes them and repairs them; the methods here
        return contents with the links of these contents, or none where rows change their numbers.
    """

    rows: RowStore
    ids: IdMap
    originals: Originals | None
    graph: Graph | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of codes, ids, originals and links."""
        more = (part.nbytes for part in (self.originals, self.graph) if part is not None)
        return self.rows.nbytes + self.ids.nbytes + sum(more)

    def changed(
        self,
        batches: Iterable[NewRows],
        ids: IdBatch | None,
        expected_rows: int = 0,
        replaces: I64 | None = None,
    ) -> Contents:
        """Return contents with more rows, whose ids passed `IdMap.check_new`.

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
        rows, originals, count = self.rows.fork(), None if self.originals is None else self.originals.fork(), 0
        rows.reserve(expected_rows)
        for new in batches:
            rows.append(new.codes)
            if originals is not None and new.originals is not None:
                originals.append(new.originals)
            count += new.codes.rows
        if not count:
            return self
        id_map = self.ids.extended(count, ids)
        return Contents(rows, id_map if replaces is None else id_map.without(replaces), originals, self.graph)

    def without(self, rows: I64) -> Contents:
        """Return contents in which some more rows are removed; -1 is none."""
        ids = self.ids.without(rows)
        return self if ids is self.ids else self._replace(ids=ids)

    def with_graph(self, graph: Graph | None) -> Contents:
        """Return the same rows with another graph, or none; with a graph they are stored as records."""
        return self._replace(rows=self.rows.converted(records=graph is not None), graph=graph)

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

    def trimmed(self, first: int) -> Contents:
        """Return the contents without the removed rows from `first` on, if they outnumber the live ones there.

        So the rows in memory are at most twice as many as the live ones, and each removed row has paid for the copy of
        at most one live row. A few removed rows stay, since copying takes time of its own.
        """
        removed, later = self.ids.removed_from(first), self.ids.rows_ever - first
        if removed < FEW_ROWS or 2 * removed <= later:
            return self
        if not first:
            return self.compacted()
        live = self.ids.live_rows()
        live = live[np.searchsorted(live, first) :]
        originals = self.originals
        if originals is not None:
            originals, kept = originals.slice_rows(0, first), originals.select(live)
            originals.join(kept)
        return Contents(self.rows.first(first).joined(self.rows.select(live)), self.ids.compacted(first), originals)

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
