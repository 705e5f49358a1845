"""The table of documents: reading and writing its rows, and what is kept beside them.

Beside the rows it keeps the words of their texts, the number of documents of each namespace, and the sum of all
digests. All functions work in the open transaction of a connection.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .database import about, set_about
from .document import Document
from .encoding import decode_json, decode_text, digest_of, encode_text

__all__ = [
    "COLUMNS",
    "NewRow",
    "Written",
    "add_digests",
    "add_words",
    "count_in",
    "delete_rows",
    "document_of",
    "has_words",
    "namespace_number",
    "next_row",
    "replace_metadata",
    "rows_of_ids",
    "seal_vectors",
    "select_rows",
    "vectors_sum",
    "write_rows",
]

I64 = NDArray[np.int64]

COLUMNS = "row, id, metadata, more, embedded, text"
DIGESTS = 2**62  # their sum is modulo this
_AT_ONCE = 400  # values in one statement; SQLite allows 999 everywhere


class NewRow(NamedTuple):
    """A document as it is stored."""

    row: int
    id: str | bytes
    metadata: str
    more: str
    embedded: bool
    text: str | bytes | None


class Written(NamedTuple):
    """What is known of a row that a change replaces or deletes."""

    row: int
    embedded: bool
    digest: int
    text: str | bytes | None


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def _marks(count: int) -> str:
    return ", ".join("?" * count)


# ---- namespaces


def namespace_number(database: sqlite3.Connection, name: str, *, make: bool = False) -> int | None:
    """Return the number of a namespace; None if there is no such one, and it is not to be made."""
    found = database.execute("SELECT number FROM namespaces WHERE name = ?", (encode_text(name),)).fetchone()
    if found is not None:
        return int(found[0])
    if not make:
        return None
    made = database.execute("INSERT INTO namespaces (name, documents) VALUES (?, 0)", (encode_text(name),))
    return int(made.lastrowid or 0)


def count_in(database: sqlite3.Connection, namespace: int) -> int:
    """Return the number of documents of a namespace."""
    found = database.execute("SELECT documents FROM namespaces WHERE number = ?", (namespace,)).fetchone()
    return 0 if found is None else int(found[0])


def _count(database: sqlite3.Connection, namespace: int, more: int) -> None:
    database.execute("UPDATE namespaces SET documents = documents + ? WHERE number = ?", (more, namespace))


# ---- reading


def rows_of_ids(database: sqlite3.Connection, namespace: int, ids: Iterable[str]) -> dict[str | bytes, int]:
    """Return the row of each id, as it is stored, that the namespace has."""
    found: dict[str | bytes, int] = {}
    for part in _parts([encode_text(each) for each in ids]):
        found.update(
            database.execute(
                f"SELECT id, row FROM docs WHERE namespace = ? AND id IN ({_marks(len(part))})", (namespace, *part)
            )
        )
    return found


def select_rows(database: sqlite3.Connection, rows: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Return the columns of rows by their numbers."""
    found: dict[int, tuple[Any, ...]] = {}
    for part in _parts(rows):
        statement = f"SELECT {COLUMNS} FROM docs WHERE row IN ({_marks(len(part))})"
        found.update((values[0], values) for values in database.execute(statement, part))
    return found


def document_of(values: tuple[Any, ...], kind: type[Document] = Document) -> Document:
    """Return the document of a row's columns."""
    _, id_, metadata, more, _, text = values
    return kind(decode_text(id_), decode_text(text), decode_json(metadata), decode_json(more))


def next_row(database: sqlite3.Connection) -> int:
    """Return the number of the next row. Numbers of deleted rows do not come again."""
    found = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'docs'").fetchone()
    return 1 + (0 if found is None else int(found[0]))


# ---- writing


def _written(database: sqlite3.Connection, rows: Sequence[int]) -> list[Written]:
    found: list[Written] = []
    for part in _parts(rows):
        statement = f"SELECT row, embedded, digest, text FROM docs WHERE row IN ({_marks(len(part))})"
        found += [Written(row, bool(is_in), digest, text) for row, is_in, digest, text in
                  database.execute(statement, part)]  # fmt: skip
    return found


def write_rows(database: sqlite3.Connection, namespace: int, rows: Sequence[NewRow], known: Sequence[int]) -> None:
    """Insert rows, or replace those whose numbers are `known`."""
    old = _written(database, known)
    digests = [digest_of(r.row, namespace, r.embedded, r.id, r.text, r.metadata, r.more) for r in rows]
    _forget_words(database, old)
    database.executemany(
        "INSERT OR REPLACE INTO docs (row, namespace, id, metadata, more, embedded, digest, text) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (r.row, namespace, r.id, r.metadata, r.more, r.embedded, digest, r.text)
            for r, digest in zip(rows, digests, strict=True)
        ],
    )
    if has_words(database):
        database.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)", [(r.row, _words(r.text)) for r in rows if r.text]
        )
    _count(database, namespace, len(rows) - len(old))
    add_digests(database, sum(digests) - sum(each.digest for each in old))


def delete_rows(database: sqlite3.Connection, namespace: int, rows: Sequence[int]) -> None:
    """Delete rows, all of one namespace."""
    old = _written(database, rows)
    _forget_words(database, old)
    database.executemany("DELETE FROM docs WHERE row = ?", [(each.row,) for each in old])
    _count(database, namespace, -len(old))
    add_digests(database, -sum(each.digest for each in old))


def metadata_of_rows(database: sqlite3.Connection, rows: list[int]) -> dict[int, str]:
    """Return the metadata of rows as JSON."""
    found: dict[int, str] = {}
    for part in _parts(rows):
        found.update(database.execute(f"SELECT row, metadata FROM docs WHERE row IN ({_marks(len(part))})", part))
    return found


def replace_metadata(database: sqlite3.Connection, namespace: int, metadata: dict[int, str]) -> None:
    """Replace the metadata of rows, given as JSON."""
    difference, changes = 0, []
    for part in _parts(list(metadata)):
        statement = f"SELECT row, id, more, embedded, digest, text FROM docs WHERE row IN ({_marks(len(part))})"
        for row, id_, more, embedded, digest, text in database.execute(statement, part):
            new = digest_of(row, namespace, bool(embedded), id_, text, metadata[row], more)
            difference += new - digest
            changes.append((metadata[row], new, row))
    database.executemany("UPDATE docs SET metadata = ?, digest = ? WHERE row = ?", changes)
    add_digests(database, difference)


def add_digests(database: sqlite3.Connection, difference: int) -> None:
    """Add to the sum of the digests of all rows."""
    total = about(database, "digest")
    set_about(database, "digest", ((total if isinstance(total, int) else 0) + difference) % DIGESTS)


def vectors_sum(database: sqlite3.Connection) -> str:
    """Return what tells the manifest and the rows of ``pending`` from those of any other commit."""
    found = database.execute("SELECT manifest FROM vectors").fetchone()
    total = database.execute("SELECT sum(digest) FROM pending").fetchone()[0] or 0
    return f"{0 if found is None else zlib.crc32(found[0]):08x} {total}"


def seal_vectors(database: sqlite3.Connection) -> None:
    """Note `vectors_sum` beside the sum of all digests, at the end of a transaction: a check compares both."""
    set_about(database, "vectors", vectors_sum(database))


# ---- words


def has_words(database: sqlite3.Connection) -> bool:
    """Whether the store has an index of words."""
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone() is not None


def _words(text: str | bytes) -> str:
    """Return a text as it is split into words: lone surrogates belong to none."""
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def add_words(database: sqlite3.Connection) -> None:
    """Split all texts into words, for an empty index of words."""
    if not has_words(database):
        return
    cursor = database.execute("SELECT row, text FROM docs WHERE text IS NOT NULL")
    while found := cursor.fetchmany(_AT_ONCE):
        texts = [(row, _words(text)) for row, text in found if text]
        database.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", texts)


def _forget_words(database: sqlite3.Connection, old: Sequence[Written]) -> None:
    if old and has_words(database):
        database.executemany(
            "INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)",
            [(each.row, _words(each.text)) for each in old if each.text],
        )
