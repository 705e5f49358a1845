"""Columns of metadata in the database, so that the first filter of a process reads no JSON.

They are derived from ``docs``, in chunks of 8,192 row numbers. Each chunk has a column of every top-level field: its
distinct values as JSON and a code for each row. A commit writes chunks in which many rows have changed. Of the others
it notes the rows, and of the last few commits ``changes`` knows them. Readers take those rows from ``docs``. So a
commit of one document writes no column, and a process that knows no columns may write too.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError
from . import changed
from .database import COLUMN_TABLES, about, set_about
from .encoding import decode_text, encode_text
from .meaning import MISSING, value_at
from .reading import FieldName
from .values import Values

__all__ = ["StoredColumns", "check", "open_columns", "write_changed"]

I64 = NDArray[np.int64]

CHUNK = 8192  # row numbers of a chunk; FORMAT.md names it
_FEWEST = 2048  # documents of a store that has columns
_MOST_STALE = 1024  # rows of a chunk that changed since it was written
_MOST_RANGES = 256  # ranges that these rows make up
_MOST_BEHIND = 256  # commits that `changes` alone knows; it keeps 1,024
_CHECKED = 8  # of so many commits one counts the rows that changed
_MOST_FIELDS = 64  # of a chunk
_MOST_TEXT = 64  # bytes of distinct values of a column for each row, on average
_SHARE = 16  # a namespace with less than this part of all documents is read from its rows


def _crc(number: int, *parts: bytes | str | None) -> int:
    crc = zlib.crc32(str(number).encode())
    for part in parts:
        content = b"-" if part is None else part if isinstance(part, bytes) else part.encode()
        crc = zlib.crc32(content, zlib.crc32(str(len(content)).encode(), crc))
    return crc


def _damaged(what: str) -> FileFormatError:
    return FileFormatError(f"{what} of the stored columns is damaged; expected what its checksum says")


# ---- writing


def write_changed(database: sqlite3.Connection, generation: int, rows: I64 | None) -> None:
    """Bring the columns up to a commit, in its transaction, if enough has changed since they were written.

    Parameters
    ----------
    database : sqlite3.Connection
        A connection in the committing transaction.
    generation : int
        Generation that the commit makes; ``changes`` has its record.
    rows : ndarray of int64 or None
        Rows of ``docs`` that it inserts, updates or deletes; None for all.
    """
    written = about(database, "columns")
    if not isinstance(written, int):
        written = rows = None
    elif rows is not None and rows.size <= _MOST_STALE and generation % _CHECKED:
        return
    total = database.execute("SELECT sum(documents) FROM namespaces").fetchone()[0] or 0
    if written is None and total < _FEWEST:
        return
    since = None if written is None or rows is None else changed.since(database, written, generation - 1)
    behind = 0 if written is None else generation - written
    if since is not None and rows is not None:
        rows = np.union1d(since, rows)
        if rows.size <= _MOST_STALE and behind < _MOST_BEHIND:
            return
    for name, statement in COLUMN_TABLES.items():
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is None:
            database.execute(statement)
    if since is None or rows is None:
        database.execute("DELETE FROM chunks")
        database.execute("DELETE FROM fields")
        first, last = database.execute("SELECT min(row), max(row) FROM docs").fetchone()
        for chunk in range((first or 0) // CHUNK, -1 if last is None else last // CHUNK + 1):
            _write(database, chunk)
    else:
        for chunk in np.unique(rows // CHUNK).tolist():
            _update(database, chunk, rows[rows // CHUNK == chunk] - chunk * CHUNK)
    set_about(database, "columns", generation)


def _update(database: sqlite3.Connection, chunk: int, offsets: I64) -> None:
    """Note which rows of a chunk have changed; write it again once they are many."""
    found = database.execute("SELECT stale, rows, namespaces, keys FROM chunks WHERE chunk = ?", (chunk,)).fetchone()
    if found is not None:
        stale = np.union1d(np.frombuffer(found[0], "<u2"), offsets)
        if stale.size <= _MOST_STALE and len(changed.ranges_of(stale)) <= _MOST_RANGES:
            blob = stale.astype("<u2").tobytes()
            values = (blob, _crc(chunk, blob, *found[1:]), chunk)
            database.execute("UPDATE chunks SET stale = ?, crc = ? WHERE chunk = ?", values)
            return
    _write(database, chunk)


def _write(database: sqlite3.Connection, chunk: int) -> None:
    """Write a chunk and its columns anew; delete it if it has no rows."""
    database.execute("DELETE FROM chunks WHERE chunk = ?", (chunk,))
    known = [name for (name,) in database.execute("SELECT DISTINCT name FROM fields").fetchall()]
    database.executemany("DELETE FROM fields WHERE name = ? AND chunk = ?", [(name, chunk) for name in known])
    statement = "SELECT row, namespace, metadata FROM docs WHERE row BETWEEN ? AND ?"
    found = database.execute(statement, (chunk * CHUNK, (chunk + 1) * CHUNK - 1)).fetchall()
    if not found:
        return
    numbers, namespaces, texts = zip(*found, strict=True)
    fields = _parsed(texts)
    keys = None if fields is None else list(dict.fromkeys(chain.from_iterable(fields)))
    rows = (np.array(numbers, np.int64) - chunk * CHUNK).astype("<u2").tobytes()
    owners = np.array(namespaces[:1] if len(set(namespaces)) == 1 else namespaces, "<i8").tobytes()
    content = (b"", rows, owners, None if keys is None else json.dumps(keys))
    database.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)", (chunk, *content, _crc(chunk, *content)))
    for key in (keys or [])[:_MOST_FIELDS]:
        assert fields is not None
        codes, text = _numbered([each.get(key, MISSING) for each in fields])
        name = encode_text(key)
        if len(text) <= _MOST_TEXT * len(numbers):
            blob = codes.tobytes()
            line = (chunk, name, blob, text, _crc(chunk, name, blob, text))
            database.execute("INSERT INTO fields VALUES (?, ?, ?, ?, ?)", line)


def _parsed(texts: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return metadata as dicts; None if some text is no JSON object, which whoever reads it reports."""
    try:
        found = json.loads(f"[{','.join(texts)}]")
    except (ValueError, TypeError, RecursionError):
        return None
    return found if len(found) == len(texts) and all(type(each) is dict for each in found) else None


def _numbered(values: list[Any]) -> tuple[NDArray[Any], str]:
    """Return a code for each value, 0 if it is missing, and as JSON the distinct values, whose codes start at 1."""
    kinds = set(map(type, values)) - {type(MISSING)}
    is_one_kind = len(kinds) == 1 and kinds <= {str, int, bool}
    keys = values if is_one_kind else [each if each is MISSING else json.dumps(each) for each in values]
    numbers: dict[Any, int] = {MISSING: 0}
    number_of = numbers.setdefault
    codes = [number_of(key, len(numbers)) for key in keys]
    del numbers[MISSING]
    text = json.dumps(list(numbers)) if is_one_kind else f"[{','.join(numbers)}]"
    return np.array(codes, "<u1" if len(numbers) < 2**8 else "<u2"), text


# ---- reading


class _Chunk(NamedTuple):
    """The rows of one namespace in a chunk."""

    number: int
    at: NDArray[np.intp] | None  # among all rows of the chunk; None: all
    rows: I64
    size: int  # of all rows
    keys: frozenset[str] | None


class StoredColumns(NamedTuple):
    """The columns of one namespace, as they were written, and which rows are other ones by now.

    Attributes
    ----------
    chunks : list of _Chunk
        The rows of the namespace, ascending.
    changed : ndarray of int64, shape (n, 2)
        Ranges, first and last, of rows of all namespaces that are to be read from ``docs``.
    """

    chunks: list[_Chunk]
    changed: I64

    def rows(self, now: I64) -> I64:
        """Return the rows of the namespace, ascending, given those of its rows in `changed` that there are now."""
        known = np.concatenate([np.empty(0, np.int64), *(chunk.rows for chunk in self.chunks)])
        kept = np.ones(known.size, np.bool_)
        for first, end in _bounds(known, self.changed):
            kept[first:end] = False
        return np.sort(np.concatenate([known[kept], now]), kind="stable")  # two runs in order

    def has(self, name: FieldName) -> bool:
        """Whether a field may be in the columns: those of ``more`` are not."""
        return name[0] == "metadata" and all(chunk.keys is not None for chunk in self.chunks)

    def codes(
        self, database: sqlite3.Connection, name: FieldName, values: Values
    ) -> Iterator[tuple[I64, NDArray[np.int32]]]:
        """Yield rows and codes of a field, chunk by chunk; KeyError if one has no column of it."""
        path = name[1]
        key = encode_text(path[0])
        statement = "SELECT chunk, codes, vals, crc FROM fields WHERE name = ?"
        found = {chunk: rest for chunk, *rest in database.execute(statement, (key,))}
        for chunk in self.chunks:
            assert chunk.keys is not None
            if path[0] in chunk.keys:
                yield chunk.rows, _codes_of(chunk, key, found[chunk.number], path, values)


def _codes_of(
    chunk: _Chunk, key: str | bytes, stored: list[Any], path: tuple[str, ...], values: Values
) -> NDArray[np.int32]:
    blob, text, crc = stored
    if crc != _crc(chunk.number, key, blob, text):
        raise _damaged(f"field {decode_text(key)!r} in chunk {chunk.number}")
    distinct = json.loads(text)
    if len(path) > 1:
        distinct = [value_at({path[0]: each}, path) for each in distinct]
    if len(blob) not in (chunk.size, 2 * chunk.size):
        raise _damaged(f"field {decode_text(key)!r} in chunk {chunk.number}")
    codes = np.frombuffer(blob, "<u1" if len(blob) == chunk.size else "<u2")
    if codes.max(initial=0) > len(distinct):
        raise _damaged(f"field {decode_text(key)!r} in chunk {chunk.number}")
    if chunk.at is not None:
        codes = codes[chunk.at]
    if len(distinct) > len(codes):  # of other namespaces: none of their values is to be known here
        used, codes = np.unique(codes, return_inverse=True)
        return np.array(values.codes_of(MISSING if at == 0 else distinct[at - 1] for at in used.tolist()), np.int32)[
            codes
        ]
    return np.array([0, *values.codes_of(distinct)], np.int32).take(codes)


def _bounds(rows: I64, ranges: I64) -> list[tuple[int, int]]:
    first, end = np.searchsorted(rows, ranges[:, 0]), np.searchsorted(rows, ranges[:, 1] + 1)
    return list(zip(first.tolist(), end.tolist(), strict=True))


def open_columns(database: sqlite3.Connection, namespace: int, unsaved: Callable[[], I64]) -> StoredColumns | None:
    """Return the columns of a namespace; None if there are none, or reading its rows takes less time.

    Parameters
    ----------
    database : sqlite3.Connection
        A connection in a transaction.
    namespace : int
        Number of the namespace.
    unsaved : callable
        Returns the rows of ``docs`` that the transaction itself has changed.

    Raises
    ------
    FileFormatError
        If a checksum is not that of its chunk.
    """
    written = about(database, "columns")
    if not isinstance(written, int):
        return None
    counts = dict(database.execute("SELECT number, documents FROM namespaces"))
    count = counts.get(namespace, 0)
    if count * _SHARE < sum(counts.values()):
        return None
    generation = int(database.execute("PRAGMA user_version").fetchone()[0])
    since = changed.since(database, written, generation)
    if since is None:
        return None
    chunks, stale = [], [since, unsaved()]
    for number, blob, *content, crc in database.execute(
        "SELECT chunk, stale, rows, namespaces, keys, crc FROM chunks ORDER BY chunk"
    ):
        if crc != _crc(number, blob, *content):
            raise _damaged(f"chunk {number}")
        stale.append(number * CHUNK + np.frombuffer(blob, "<u2").astype(np.int64))
        chunk = _chunk(number, namespace, *content)
        if chunk.rows.size:
            chunks.append(chunk)
    rows = np.concatenate(stale)
    if 4 * rows.size > count + 4 * _MOST_STALE:
        return None
    return StoredColumns(chunks, changed.ranges_of(rows))


def _chunk(number: int, namespace: int, offsets: bytes, owners: bytes, keys: str | None) -> _Chunk:
    rows = number * CHUNK + np.frombuffer(offsets, "<u2").astype(np.int64)
    of = np.frombuffer(owners, "<i8")
    at = None if of.size == 1 and of[0] == namespace else np.flatnonzero(np.broadcast_to(of, rows.shape) == namespace)
    known = None if keys is None else frozenset(json.loads(keys))
    return _Chunk(number, at, rows if at is None else rows[at], rows.size, known)


def check(database: sqlite3.Connection) -> None:
    """Check every byte of the columns; FileFormatError names what is damaged."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'chunks'").fetchone() is None:
        return
    for number, *content, crc in database.execute("SELECT chunk, stale, rows, namespaces, keys, crc FROM chunks"):
        if crc != _crc(number, *content):
            raise _damaged(f"chunk {number}")
    for number, *content, crc in database.execute("SELECT chunk, name, codes, vals, crc FROM fields"):
        if crc != _crc(number, *content):
            raise _damaged(f"field {decode_text(content[0])!r} in chunk {number}")
