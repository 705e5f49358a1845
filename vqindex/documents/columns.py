"""Filters over all documents of a namespace: fields as arrays in memory, conditions as masks.

The first filter on a field reads it from the database, into an array with a code per document (``values.py``): from
the columns there (``stored_columns.py``), or from the documents in one statement. Later filters compare arrays. The
array follows the changes of documents by their row numbers: whoever changes rows says so by `Columns.touch`, and the
next filter reads only those again. The answers are those of `matches`.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .changed import ranges_of, union_of
from .document import Document
from .field_table import FieldTable
from .found import Alignment, Found
from .meaning import words_of_text
from .reading import FieldName
from .tree import And, Custom, Field, Filter, Ids, Not, Or, TextMatch

__all__ = ["Columns", "Lookups"]

_MOST_LOGGED = 256  # changes
_TABLES = 256  # namespaces whose fields are kept
_CELLS = 1 << 27  # codes kept in all namespaces together, 4 bytes each

I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Lookups(Protocol):
    """What filters need besides fields; all of the snapshot that the filter is evaluated in."""

    def rows_of_ids(self, namespace: Any, ids: tuple[str, ...]) -> I64:
        """Return the rows of documents with these ids, in any order; unknown ids have none."""

    def rows_of_text(self, namespace: Any, words: list[str]) -> I64:
        """Return the rows of documents whose text has all of these words, in any order."""

    def documents(self, namespace: Any, rows: I64) -> Iterable[Document]:
        """Return the documents of rows, in that order."""


class Columns:
    """Fields of documents in memory, for one view of a database. Callers hold a lock around each call.

    Parameters
    ----------
    lookups : Lookups
        Finds documents by id and by words, and reads them for functions of users.
    unsaved : callable, optional
        Returns the rows that the open transaction has changed. Without it, columns in the database are not used.
    """

    def __init__(self, lookups: Lookups, unsaved: Callable[[], I64] | None = None) -> None:
        self._lookups, self._unsaved = lookups, unsaved
        self._tables: OrderedDict[Any, FieldTable] = OrderedDict()
        self._log: list[I64] = []  # ranges of changed rows; `FieldTable.seen` says how many a table knows
        self._alignment = Alignment()

    def touch(self, rows: I64 | None) -> None:
        """Say which rows of ``docs`` were inserted, updated or deleted, or all this undone; None: any of them."""
        if rows is None:
            self._tables.clear()
            self._log.clear()
            return
        self._log.append(ranges_of(rows))
        if len(self._log) > _MOST_LOGGED:
            self._deliver()

    def _deliver(self) -> None:
        """Tell every table the changes that it has not seen, and drop those that it is faster to make anew."""
        unions: dict[int, I64] = {}
        for namespace, table in list(self._tables.items()):
            if table.seen not in unions:
                unions[table.seen] = union_of(self._log[table.seen :])
            if not table.touch(unions[table.seen]):
                del self._tables[namespace]
            table.seen = 0
        self._log.clear()

    def _table(self, db: sqlite3.Connection, namespace: Any) -> FieldTable | None:
        """Take out the table of a namespace, with all changes; None if it has to be made anew."""
        table = self._tables.pop(namespace, None)  # an error on the way leaves no half-changed table behind
        if table is None or not table.touch(union_of(self._log[table.seen :])):
            return None
        table.seen = len(self._log)
        return table if table.follow(db) else None

    def find(self, db: sqlite3.Connection, namespace: Any, filter: Filter | None) -> Found:
        """Find the documents that satisfy a filter.

        Parameters
        ----------
        db : sqlite3.Connection
            A connection inside a transaction, in which all statements see the same rows.
        namespace : int
            Number of the namespace.
        filter : Filter or None
            The filter; None for all documents.

        Returns
        -------
        Found
            The documents of the namespace that `matches` is true for.

        Raises
        ------
        RuntimeError
            If the connection is in no transaction.
        """
        if not db.in_transaction:
            raise RuntimeError("the connection has no transaction; expected one, for a single view of all rows")
        table = self._table(db, namespace)
        is_new = table is None
        if table is None:
            table = FieldTable(db, namespace, self._unsaved)
            table.seen = len(self._log)
        wanted = And(()) if filter is None else filter
        found = table.answer(wanted)
        has_more = found is None and table.load(db, dict.fromkeys(_fields_of(wanted)))
        self._tables[namespace] = table
        if found is None:
            mask = self._mask(table, wanted, table.live) & table.live
            found = Found(table.rows, table.live, mask, self._alignment)
            if not _has_custom(wanted):
                table.keep(wanted, found)
        if has_more or is_new:
            self._evict()
        return found

    def _mask(self, table: FieldTable, filter: Filter, among: Mask) -> Mask:
        """Return a new mask that is right for the documents `among`; of others it may say anything."""
        if isinstance(filter, And):
            mask = among.copy()
            for part in sorted(filter.parts, key=_has_custom):  # functions see what the other parts left
                mask &= self._mask(table, part, mask)
            return mask
        if isinstance(filter, Or):
            mask = np.zeros_like(among)
            for part in sorted(filter.parts, key=_has_custom):
                mask |= self._mask(table, part, among & ~mask if _has_custom(part) else among)
            return mask
        if isinstance(filter, Not):
            return ~self._mask(table, filter.part, among)
        if isinstance(filter, Field):
            return table.satisfying(filter)
        if isinstance(filter, Custom):
            return self._custom(table, filter, among)
        if isinstance(filter, Ids):
            rows = self._lookups.rows_of_ids(table.namespace, filter.ids)
        else:
            assert isinstance(filter, TextMatch)
            words = words_of_text(filter.text)
            rows = self._lookups.rows_of_text(table.namespace, words) if words else np.empty(0, np.int64)
        return table.mask_of(rows)

    def _custom(self, table: FieldTable, filter: Custom, among: Mask) -> Mask:
        at = np.flatnonzero(among)
        mask = np.zeros_like(among)
        documents = self._lookups.documents(table.namespace, table.rows[at])
        mask[at] = np.fromiter((bool(filter.function(each)) for each in documents), np.bool_, at.size)
        return mask

    def _evict(self) -> None:
        """Drop the fields used longest ago while there are too many; those of the last namespace last."""
        while len(self._tables) > _TABLES:
            self._tables.popitem(last=False)
        cells = sum(table.cells for table in self._tables.values())
        while cells > _CELLS and len(self._tables) > 1:
            cells -= self._tables.popitem(last=False)[1].cells
        if cells > _CELLS:
            next(iter(self._tables.values())).shrink(_CELLS)


def _fields_of(filter: Filter) -> Iterable[FieldName]:
    if isinstance(filter, And | Or):
        for part in filter.parts:
            yield from _fields_of(part)
    elif isinstance(filter, Not):
        yield from _fields_of(filter.part)
    elif isinstance(filter, Field):
        yield filter.source, filter.path


def _has_custom(filter: Filter) -> bool:
    if isinstance(filter, And | Or):
        return any(map(_has_custom, filter.parts))
    return _has_custom(filter.part) if isinstance(filter, Not) else isinstance(filter, Custom)
