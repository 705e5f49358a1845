"""IdMap: which external id each row has, and which rows are still there.

Rows are numbered in the order they were added and never move; removing one clears a bit. Without explicit ids row i has
id i and nothing is stored.

One thread may change a map while others look at it through `now`: what they read is written before the number of rows,
and never changed after.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._native import IdTable, clear_rows
from .bitmap import WORD, rows_of
from .errors import FileFormatError, InvalidInputError, UnknownIdError

__all__ = ["IdMap"]

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


def _wider(room: NDArray[Any], size: int, fill: Any) -> NDArray[Any]:
    """Return room for at least `size` values, with what is there copied."""
    if size <= room.size:
        return room
    wider = np.full(max(size, room.size * 3 // 2), fill, room.dtype)
    wider[: room.size] = room
    return wider


class IdMap:
    """Two-way map between rows and ids.

    Parameters
    ----------
    count : int
        Number of rows already there.
    ids : ndarray of int64, shape (count,), optional
        Their explicit ids.
    next_id : int, optional
        The next automatic id, if ids were given automatically although they are explicit now.
    """

    def __init__(self, count: int = 0, ids: I64 | None = None, next_id: int | None = None) -> None:
        self._count = count
        self._ids = ids  # with room behind the last row
        self._next = next_id
        self._live: U64 | None = None  # words with a bit for each row, 1 for rows that are to come; None: all are there
        self._removed = 0
        self._table = IdTable()  # of explicit ids; takes rows in when one is looked for

    def __len__(self) -> int:
        return self._count - self._removed

    @property
    def rows_ever(self) -> int:
        """Number of rows, removed ones included."""
        return self._count

    @property
    def explicit(self) -> I64 | None:
        """Explicit ids of all rows, removed ones included, or None."""
        return None if self._ids is None else self._ids[: self._count]

    @property
    def next_id(self) -> int | None:
        """The next automatic id; None if vectors must come with ids."""
        if self._ids is None:
            return self._count
        return 0 if self._next is None and not len(self) else self._next

    @property
    def live(self) -> U64 | None:
        """Words of the rows that are still there (``bitmap.py``), None if all are."""
        return None if self._live is None else self._live[: -(-self._count // WORD)]

    @property
    def nbytes(self) -> int:
        """Bytes of ids, of the table of them, and of marks of removed rows."""
        return sum(part.nbytes for part in (self._ids, self._live, self._table) if part is not None)

    def now(self) -> IdMap:
        """Return the map as it is, whatever is done to this one later; it is for looking at only."""
        count = self._count  # first: all else is there for so many rows at least
        view = IdMap(count, self._ids, self._next)
        view._live = None if self._live is None else self._live[: -(-count // WORD)].copy()
        view._removed, view._table = self._removed, self._table
        return view

    def live_rows(self) -> I64:
        """Return the rows that are still there, ascending."""
        return np.arange(self._count) if self._live is None else rows_of(self._live, self._count)

    def find(self, ids: I64) -> I64:
        """Return the row of each id, -1 where it is not in the index."""
        rows = self._table.find(self._ids, self._count, ids, self._live)
        if self._ids is not None and self._table.distinct < len(self):
            raise FileFormatError("an id is there twice: the index came from a damaged file")
        return rows

    def rows(self, ids: I64) -> I64:
        """Return the row of each id; raises UnknownIdError naming the first that is missing."""
        rows = self.find(ids)
        if (rows < 0).any():
            raise UnknownIdError(f"id {ids[rows < 0][0]} is not in the index of {len(self)} vectors")
        return rows

    def ids(self, rows: I64) -> I64:
        """Return the id of each row; row -1 gives id -1."""
        if self._ids is None or self._count == 0:
            return rows
        return np.where(rows >= 0, self._ids[rows], -1)

    def check_new(self, ids: I64 | None) -> None:
        """Raise InvalidInputError if ids can't be added; `ids` are distinct already."""
        if ids is None:
            if self.next_id is None:
                raise InvalidInputError(
                    "ids is None, but this index holds explicit ids; expected ids= for every vector"
                )
            return
        known = ids[self.find(ids) >= 0]
        if known.size:
            raise InvalidInputError(f"id {known[0]} is already in the index ({known.size} of {ids.size} given are)")

    def extend(self, count: int, ids: I64 | None) -> None:
        """Append `count` rows whose ids passed `check_new`.

        Automatic numbering goes on as long as no id is given that it would give itself.
        """
        first, last, following = self._count, self._count + count, self.next_id
        if ids is None:
            assert following is not None
            new = np.arange(following, following + count, dtype=np.int64)
            following += count
        else:
            new = ids
            if following is not None and new.max(initial=-1) >= following:
                following = None
        if self._ids is not None or ids is not None:
            old = np.arange(first, dtype=np.int64) if self._ids is None else self._ids
            room = _wider(old, last, -1)
            room[first:last] = new
            self._ids, self._next = room, following
        if self._live is not None:
            self._live = _wider(self._live, -(-last // WORD), ~np.uint64(0))
        self._count = last  # at last: see `now`

    def remove(self, rows: I64) -> int:
        """Take rows out and return how many were there; row -1 is none."""
        if self._live is None:
            if (rows < 0).all():
                return 0
            self._live = np.full(-(-self._count // WORD), ~np.uint64(0), np.uint64)
        removed = clear_rows(self._live, rows)
        self._removed += removed
        return removed

    def compacted(self) -> IdMap:
        """Return the map of the rows that are left, numbered anew; their ids stay."""
        if self._live is None:
            return self
        rows = self.live_rows()
        return IdMap(rows.size, self.ids(rows), self.next_id)

    # ---- undoing a change that failed half way

    def mark(self) -> Any:
        """Return what `undo` needs to take back `extend`."""
        return self._count, self._ids, self._next, self._live

    def undo(self, mark: Any) -> None:
        """Return to a mark; rows were only added since."""
        self._count, self._ids, self._next, self._live = mark
        self._table = IdTable()
