"""The fields of one namespace as columns of codes, and how they follow changes of its documents."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rows.growing import Growing
from .changed import union_of
from .found import Found
from .reading import FieldName, encode, read_all, read_some, rows_of_namespace
from .stored_columns import StoredColumns, open_columns
from .tree import Field, Filter
from .values import Values

__all__ = ["FieldTable"]

I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

_VALUE_CELLS = 40  # memory of a distinct value, in codes
_UNUSED = 1024  # distinct values of a column that may be more than twice its rows
_MOST_PENDING = 256  # changes kept apart
_ANSWER_BYTES = 1 << 24  # answers kept
_MOST_ANSWERS = 64


class _Column:
    """A field: its distinct values, and a code for each row."""

    def __init__(self, codes: NDArray[np.int32], values: Values) -> None:
        self.codes = Growing(codes)
        self.values = values


class FieldTable:
    """All documents of a namespace in the order of rows, with the fields that filters have asked for.

    Deleted rows stay, marked as such, until they are the majority.

    Parameters
    ----------
    db : sqlite3.Connection
        A connection in a transaction.
    namespace : int
        Number of the namespace.
    unsaved : callable, optional
        Returns the rows that the open transaction has changed. Without it, columns in the database are not used.
    """

    def __init__(self, db: sqlite3.Connection, namespace: Any, unsaved: Callable[[], I64] | None = None) -> None:
        self.namespace = namespace
        self.seen = 0  # for the caller: how many of its changes the table knows
        self._unsaved = unsaved
        self._stored = None if unsaved is None else open_columns(db, namespace, unsaved)  # until the first `load`
        self._rows = Growing(self._rows_now(db, self._stored))
        self._count = len(self._rows.array)
        self._live = Growing(np.ones(self._count, np.bool_))
        self._columns: OrderedDict[FieldName, _Column] = OrderedDict()
        self._pending: list[I64] = []  # ranges of changed rows
        self._pending_rows = self._pending_ranges = 0  # how many they are at most
        self._answers: OrderedDict[Filter, Found] = OrderedDict()
        self._show()

    def _rows_now(self, db: sqlite3.Connection, stored: StoredColumns | None) -> I64:
        if stored is None:
            return rows_of_namespace(db, self.namespace)
        found = read_some(db, self.namespace, stored.changed.tolist(), [])
        return stored.rows(np.array([row for (row,) in found], np.int64))

    def _show(self) -> None:
        """Set the arrays that others see. A new object means that rows were added."""
        self.rows = self._rows.array[: self._count]
        self.live = self._live.array[: self._count]

    @property
    def cells(self) -> int:
        """About how much memory the columns take, in codes."""
        return sum(self._count + _VALUE_CELLS * len(column.values) for column in self._columns.values())

    def shrink(self, cells: int) -> None:
        """Drop the columns used longest ago until at most so many cells are left, or one column."""
        while len(self._columns) > 1 and self.cells > cells:
            self._columns.popitem(last=False)

    # ---- changes

    def touch(self, ranges: I64) -> bool:
        """Remember ranges of changed rows; False if reading everything again will take less time."""
        if not len(ranges):
            return True
        self._pending.append(ranges)
        self._pending_rows += int((ranges[:, 1] - ranges[:, 0] + 1).sum())
        self._pending_ranges += len(ranges)
        if len(self._pending) <= _MOST_PENDING and self._is_worth_following():
            return True
        union = union_of(self._pending)
        self._pending = [union]
        self._pending_rows, self._pending_ranges = int((union[:, 1] - union[:, 0] + 1).sum()), len(union)
        return self._is_worth_following()

    def _is_worth_following(self) -> bool:
        return self._pending_ranges <= self._count // 4 + 64 and self._pending_rows <= self._count + 1024

    def follow(self, db: sqlite3.Connection) -> bool:
        """Read changed rows again; False if the table has to be made anew."""
        if not self._pending:
            return True
        ranges = union_of(self._pending)
        fields = list(self._columns)
        found = read_some(db, self.namespace, ranges.tolist(), fields)
        rows = np.array([line[0] for line in found], np.int64)
        old = int(np.searchsorted(rows, self.rows[-1], "right")) if self._count else 0
        at = np.searchsorted(self.rows, rows[:old])
        if not np.array_equal(self.rows[at], rows[:old]):
            return False  # a row between the known ones is new
        self._pending, self._pending_rows, self._pending_ranges = [], 0, 0
        bounds = np.stack([np.searchsorted(self.rows, ranges[:, 0]), np.searchsorted(self.rows, ranges[:, 1] + 1)])
        if not rows.size and not (bounds[0] < bounds[1]).any():
            return True  # the changes are of other namespaces
        self._answers.clear()
        for first, end in bounds.T.tolist():
            self.live[first:end] = False
        self.live[at] = True
        for number, name in enumerate(fields, 1):
            column = self._columns[name]
            codes = encode([line[number] for line in found], name[1], column.values)
            column.codes.array[at] = codes[:old]
            column.codes = column.codes.extended(self._count, codes[old:])
            if len(column.values) > 2 * self._count + _UNUSED:  # values that no document has any more are kept
                del self._columns[name]
        self._append(rows[old:])
        return 2 * int(np.count_nonzero(self.live)) >= self._count

    def _append(self, rows: I64) -> None:
        if rows.size:
            self._rows = self._rows.extended(self._count, rows)
            self._live = self._live.extended(self._count, np.ones(rows.size, np.bool_))
            self._count += rows.size
            self._show()

    # ---- answers

    def load(self, db: sqlite3.Connection, fields: Iterable[FieldName]) -> bool:
        """Read fields that are not there yet; whether there were such."""
        wanted = list(fields)
        new = [name for name in wanted if name not in self._columns]
        if new:
            columns = {name: _Column(np.zeros(self._count, np.int32), Values()) for name in new}
            stored, self._stored = self._stored, None
            if stored is None and self._unsaved is not None:
                stored = open_columns(db, self.namespace, self._unsaved)
            taken = [] if stored is None else self._take(db, stored, columns)
            self._read(db, {name: column for name, column in columns.items() if name not in taken})
            self._columns.update(columns)
        for name in wanted:
            self._columns.move_to_end(name)
        return bool(new)

    def _read(self, db: sqlite3.Connection, columns: Mapping[FieldName, _Column]) -> None:
        """Fill columns from the rows of the documents."""
        if not columns:
            return
        at, done = np.flatnonzero(self.live), 0
        for lines in read_all(db, self.namespace, list(columns)):
            for (name, column), texts in zip(columns.items(), zip(*lines, strict=True), strict=True):
                codes = encode(texts, name[1], column.values)
                column.codes.array[at[done : done + len(lines)]] = codes
            done += len(lines)

    def _take(
        self, db: sqlite3.Connection, stored: StoredColumns, columns: Mapping[FieldName, _Column]
    ) -> list[FieldName]:
        """Fill columns from those of the database, where it has them, and from rows changed since; say which."""
        taken: list[FieldName] = []
        for name, column in columns.items():
            if not stored.has(name):
                continue
            try:
                for rows, codes in stored.codes(db, name, column.values):
                    self._place(column, rows, codes)
            except KeyError:  # some documents have the field, and no column has it
                column.values = Values()
                column.codes.array[:] = 0
                continue
            taken.append(name)
        lines = read_some(db, self.namespace, stored.changed.tolist(), taken)
        rows = np.array([line[0] for line in lines], np.int64)
        for number, name in enumerate(taken, 1):
            column = columns[name]
            self._place(column, rows, encode([line[number] for line in lines], name[1], column.values))
        return taken

    def _place(self, column: _Column, rows: I64, codes: NDArray[np.int32]) -> None:
        """Write the codes of rows; those of rows that are not there any more may be anything."""
        if not rows.size:
            return
        first = int(np.searchsorted(self.rows, rows[0]))
        if np.array_equal(self.rows[first : first + rows.size], rows):
            column.codes.array[first : first + rows.size] = codes
            return
        at = np.searchsorted(self.rows, rows)
        at[at == self._count] = 0
        is_known = self.rows[at] == rows if self._count else np.zeros(rows.size, np.bool_)
        column.codes.array[at[is_known]] = codes[is_known]

    def satisfying(self, condition: Field) -> Mask:
        """Return a new mask of the rows whose field satisfies a condition; the field is loaded."""
        column = self._columns[condition.source, condition.path]
        codes = column.codes.array[: self._count]
        matching = column.values.matching(condition)
        return codes == matching if isinstance(matching, int) else matching.take(codes)

    def mask_of(self, rows: I64) -> Mask:
        """Return a new mask of some rows; rows of other namespaces are ignored."""
        at = np.searchsorted(self.rows, rows)
        is_known = at < self._count
        at, rows = at[is_known], rows[is_known]
        mask = np.zeros(self._count, np.bool_)
        mask[at[self.rows[at] == rows]] = True
        return mask

    def answer(self, filter: Filter) -> Found | None:
        """Return the kept answer of a filter."""
        found = self._answers.get(filter)
        if found is not None:
            self._answers.move_to_end(filter)
        return found

    def keep(self, filter: Filter, found: Found) -> None:
        """Keep the answer of a filter until documents change."""
        self._answers[filter] = found
        most = max(1, min(_MOST_ANSWERS, _ANSWER_BYTES // max(1, found.nbytes)))
        while len(self._answers) > most:
            self._answers.popitem(last=False)
