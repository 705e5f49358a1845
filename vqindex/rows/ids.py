"""IdMap: the external id of each row, and the rows that are live.

Rows are numbered in the order in which they were added. Removing a row clears its bit. Without explicit ids row i has
id i, and the map stores nothing.

If ids are strings, the map works with their numbers, and `StringIds` holds the strings.

A map never changes: a change returns another map, which shares what is equal. Only the hash table grows in place. Maps
of one index share it, and `find` gives each map its own answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._native import IdTable, clear_rows, ids_of_rows
from ..arrays import as_ids
from ..errors import FileFormatError, InvalidInputError, UnknownIdError
from .bitmap import WORD, bits_of, full, of_rows, rows_of, slice_rows
from .bitmap import count as count_bits
from .growing import Growing
from .string_ids import StringIds, as_string_ids, numbers_of

__all__ = ["IdBatch", "IdMap"]

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


class IdBatch(NamedTuple):
    """Ids that a caller passes.

    Attributes
    ----------
    numbers : ndarray of int64, shape (m,)
        Integer ids, or the numbers of strings.
    string_ids : list of str, or None
        The strings.
    """

    numbers: I64
    string_ids: list[str] | None = None

    def describe(self, at: Any) -> str:
        """Return one id as text for an error message."""
        return str(self.numbers[at]) if self.string_ids is None else repr(self.string_ids[int(at)])


class IdMap:
    """Two-way map between rows and ids.

    Parameters
    ----------
    count : int
        Number of rows already in the map.
    ids : ndarray of int64, shape (count,), optional
        Their explicit ids.
    next_id : int, optional
        The next automatic id, if ids were numbered automatically although they are stored as explicit ones.
    string_ids : StringIds, optional
        The strings of the rows, if ids are strings.
    """

    def __init__(
        self, count: int = 0, ids: I64 | None = None, next_id: int | None = None, string_ids: StringIds | None = None
    ) -> None:
        self._count = count
        self._ids = None if ids is None else Growing(ids)
        self._next = next_id
        self._string_ids = string_ids
        self._live: U64 | None = None  # a bit for each row, 1 past the last row; None: all rows are live
        self._removed = 0
        self._table = IdTable()  # of explicit ids; `find` adds new rows to it

    def _replace(self, **fields: Any) -> IdMap:
        """Return a copy with some fields replaced, without their underscores."""
        other = IdMap.__new__(IdMap)
        vars(other).update(vars(self), **{f"_{name}": value for name, value in fields.items()})
        return other

    def __len__(self) -> int:
        return self._count - self._removed

    @property
    def rows_ever(self) -> int:
        """Number of rows, removed ones included."""
        return self._count

    @property
    def explicit(self) -> I64 | None:
        """Explicit ids of all rows, removed ones included, or None."""
        return None if self._ids is None else self._ids.array[: self._count]

    @property
    def string_ids(self) -> StringIds | None:
        """Strings of all rows, removed ones included, or None if ids are integers."""
        return self._string_ids

    @property
    def next_id(self) -> int | None:
        """The next automatic id; None if vectors must come with ids."""
        if self._string_ids is not None and self._count:
            return None
        if self._ids is None:
            return self._count
        return 0 if self._next is None and not len(self) else self._next

    @property
    def live(self) -> U64 | None:
        """Words of the live rows (``bitmap.py``), None if all are live."""
        return None if self._live is None else self._live[: -(-self._count // WORD)]

    @property
    def nbytes(self) -> int:
        """Bytes of ids, of their hash table, and of the bits of live rows."""
        parts = (self._ids, self._live, self._table, self._string_ids)
        return sum(part.nbytes for part in parts if part is not None)

    def live_rows(self) -> I64:
        """Return the live rows, ascending."""
        return np.arange(self._count) if self._live is None else rows_of(self._live, self._count)

    def parse_ids(self, ids: Any, count: int | None = None) -> IdBatch:
        """Check the form of ids that a user passes, and that they are of the index's kind.

        Parameters
        ----------
        ids : array-like of int or of str, shape (m,)
            The ids.
        count : int, optional
            The number of ids expected; then they must also be distinct.

        Raises
        ------
        InvalidInputError
            As `arrays.as_ids`, or for strings where the index has integers, or the other way round.
        """
        strings = as_string_ids(ids)
        if strings is None:
            batch = IdBatch(as_ids(ids, count))
        else:
            if count is not None and len(set(strings)) < len(strings):
                twice = next(string for string, times in Counter(strings).items() if times > 1)
                raise InvalidInputError(f"ids are given twice: {twice!r}")
            batch = IdBatch(as_ids(numbers_of(strings), count), strings)
        self._check_kind(batch)
        return batch

    def parse_id_set(self, ids: Any) -> IdBatch:
        """Check ids whose order does not matter: as `parse_ids`, and a single id or a set of ids.

        Raises
        ------
        InvalidInputError
            As `parse_ids`.
        """
        if isinstance(ids, Set):
            ids = list(ids)
        elif isinstance(ids, str | int | np.integer) and not isinstance(ids, bool):
            ids = [ids]
        return self.parse_ids(ids)

    def _check_kind(self, batch: IdBatch) -> None:
        if self._count and batch.numbers.size and (batch.string_ids is None) != (self._string_ids is None):
            kinds = ("integers", "strings")
            ours = kinds[self._string_ids is not None]
            raise InvalidInputError(f"ids are {kinds[batch.string_ids is not None]}; those of the index are {ours}")

    def find(self, ids: IdBatch) -> I64:
        """Return the row of each id, -1 where it is not in the index."""
        self._check_ids()
        rows = self._table.find(self.explicit, self._count, ids.numbers, self._live)
        if self._string_ids is not None and ids.string_ids is not None:
            self._string_ids.check_same(rows, ids.string_ids)
        self._check_table()
        return rows

    def _check_ids(self) -> None:
        """Refuse negative ids, of a mapped file, before they come into the table."""
        first = self._table.rows
        if self._ids is None or first >= self._count:
            return
        new = self._ids.array[first : self._count]
        if new.min() < 0:
            raise FileFormatError(f"id {new.min()} is negative: the index came from a damaged file")

    def _check_table(self) -> None:
        # Read in this order: another thread may add rows to the table in between.
        if self._table.rows >= self._count >= len(self) > self._table.distinct:
            raise FileFormatError("an id is there twice: the index came from a damaged file")

    def mark_rows(self, ids: IdBatch) -> U64:
        """Return the rows of ids as bits of words (``bitmap.py``)."""
        if ids.string_ids is not None:
            rows = self.find(ids)
            return of_rows(rows[rows >= 0], self._count)
        self._check_ids()
        words = self._table.mark(self.explicit, self._count, ids.numbers, self._live)
        self._check_table()
        return words

    def rows(self, ids: IdBatch) -> I64:
        """Return the row of each id; raises UnknownIdError naming the first that is missing."""
        rows = self.find(ids)
        if (rows < 0).any():
            if self._string_ids is not None:
                self._string_ids.check_unverified(self.explicit)
            raise UnknownIdError(f"id {ids.describe(np.argmin(rows))} is not in the index of {len(self)} vectors")
        return rows

    def ids(self, rows: I64) -> NDArray[Any]:
        """Return the id of each row, an integer or a string; row -1 gives id -1, or None for strings."""
        return self.numbers(rows) if self._string_ids is None else self._string_ids.of(rows)

    def ids_of_rows(self, rows: I64) -> IdBatch:
        """Return the ids of rows as a batch."""
        return IdBatch(self.numbers(rows), None if self._string_ids is None else self._string_ids.of(rows).tolist())

    def numbers(self, rows: I64) -> I64:
        """Return the int64 id of each row; row -1 gives -1."""
        known = self.explicit
        if known is None or not known.size:
            return rows
        ids = ids_of_rows(known, rows)
        if ids is None:
            least = known[rows[rows >= 0]].min()
            raise FileFormatError(f"id {least} is negative: the index came from a damaged file")
        return ids

    def check_new(self, ids: IdBatch | None) -> None:
        """Raise InvalidInputError if ids can't be added; `ids` are distinct already."""
        if ids is None:
            if self.next_id is None:
                raise InvalidInputError(
                    "ids is None, but this index holds explicit ids; expected ids= for every vector"
                )
            return
        self._check_kind(ids)
        known = np.flatnonzero(self.find(ids) >= 0)
        if known.size:
            count = f"{known.size} of {ids.numbers.size} given are"
            raise InvalidInputError(f"id {ids.describe(known[0])} is already in the index ({count})")

    def extended(self, count: int, ids: IdBatch | None) -> IdMap:
        """Return a map with `count` more rows, whose ids passed `check_new`.

        Automatic numbering continues until a caller passes an id that it has not reached yet.
        """
        first, last, following = self._count, self._count + count, self.next_id
        if ids is None:
            assert following is not None
            new = np.arange(following, following + count, dtype=np.int64)
            following += count
        else:
            new = ids.numbers
            if following is not None and new.max(initial=-1) >= following:
                following = None
        fields: dict[str, Any] = {"count": last}
        if self._ids is not None or ids is not None:
            old = Growing(np.arange(first, dtype=np.int64)) if self._ids is None else self._ids
            fields |= {"ids": old.extended(first, new), "next": following}
        if ids is not None and ids.string_ids is not None:
            strings = StringIds() if self._string_ids is None else self._string_ids
            fields["string_ids"] = strings.extended(ids.string_ids)
        words = -(-last // WORD)
        if self._live is not None and words > self._live.size:
            fields["live"] = np.full(max(words, self._live.size * 3 // 2), ~np.uint64(0), np.uint64)
            fields["live"][: self._live.size] = self._live
        return self._replace(**fields)

    def without(self, rows: I64) -> IdMap:
        """Return a map without some rows; row -1 is none."""
        if (rows < 0).all():
            return self
        words = -(-self._count // WORD)
        live = np.full(words, ~np.uint64(0), np.uint64) if self._live is None else self._live.copy()
        removed = clear_rows(live, rows)
        if not removed:
            return self
        return self._replace(live=live, removed=self._removed + removed)

    def removed_from(self, first: int) -> int:
        """Return how many rows from `first` on are removed."""
        if self._live is None or not first:
            return self._removed
        return self._count - first - count_bits(slice_rows(self._live, first, self._count) & full(self._count - first))

    def compacted(self, first: int = 0) -> IdMap:
        """Return a map without the removed rows from `first` on, with the same ids; rows before `first` stay."""
        if self._live is None:
            return self
        later = self.live_rows()
        later = later[np.searchsorted(later, first) :]
        rows = np.concatenate([np.arange(first), later])
        strings = None if self._string_ids is None or not rows.size else self._string_ids.select(rows)
        compact = IdMap(rows.size, self.numbers(rows), self.next_id, strings)
        return compact.without(np.flatnonzero(~bits_of(self._live, first))) if first else compact

    def apart(self) -> IdMap:
        """Return the same map with a hash table of its own: for a map that grows again from where others grew on.

        The table of maps that share it holds the rows of the longest one, and never those of two that differ.
        """
        return self._replace(table=IdTable())

    def copied(self) -> IdMap:
        """Return a map of the live rows that shares no array with this one."""
        if self._live is not None:
            return self.compacted()
        strings = None if self._string_ids is None else self._string_ids.select(np.arange(self._count))
        ids = None if self.explicit is None else self.explicit.copy()
        return IdMap(self._count, ids, self._next, strings)
