"""The database of documents: its tables, and how it is connected. FORMAT.md describes them."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ..errors import FileFormatError, StoreError
from . import changed

__all__ = [
    "COLUMN_TABLES",
    "MEMORY",
    "VERSION",
    "about",
    "check_schema",
    "connect",
    "connect_memory",
    "create_tables",
    "set_about",
    "sqlite_errors",
]

MEMORY = ":memory:"
VERSION = 2
_LOG_BYTES = 2**24  # a longer log is cut once its pages are in the file
_PAGES_KIB = 16384  # memory for pages of the database, for each connection

_TABLES = {
    "about": "CREATE TABLE about (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "vectors": "CREATE TABLE vectors (one INTEGER PRIMARY KEY CHECK (one = 1), manifest BLOB NOT NULL)",
    # Changes of vectors that no file has yet, by `place` in the order in which they were made: a vector (float32,
    # little-endian), or NULL for one that was removed.
    "pending": (
        "CREATE TABLE pending (row INTEGER PRIMARY KEY, place INTEGER NOT NULL, digest INTEGER NOT NULL, vector BLOB)"
    ),
    "namespaces": (
        "CREATE TABLE namespaces (number INTEGER PRIMARY KEY AUTOINCREMENT, name NOT NULL UNIQUE, "
        "documents INTEGER NOT NULL)"
    ),
    # A row is never given twice: it is the id of the document's vector.
    "docs": (
        "CREATE TABLE docs (row INTEGER PRIMARY KEY AUTOINCREMENT, namespace INTEGER NOT NULL, id NOT NULL, "
        "metadata TEXT NOT NULL, more TEXT NOT NULL, embedded INTEGER NOT NULL, digest INTEGER NOT NULL, text, "
        "UNIQUE (id, namespace))"
    ),
    "changes": changed.SCHEMA.rstrip(";"),
}
# Made by the first commit that has something to write there (``stored_columns.py``).
COLUMN_TABLES = {
    "chunks": (
        "CREATE TABLE chunks (chunk INTEGER PRIMARY KEY, stale BLOB NOT NULL, rows BLOB NOT NULL, "
        "namespaces BLOB NOT NULL, keys TEXT, crc INTEGER NOT NULL)"
    ),
    "fields": (
        "CREATE TABLE fields (chunk INTEGER NOT NULL, name NOT NULL, codes BLOB NOT NULL, vals TEXT NOT NULL, "
        "crc INTEGER NOT NULL, PRIMARY KEY (name, chunk))"
    ),
}
_INDEXES = {"docs_namespace": "CREATE INDEX docs_namespace ON docs (namespace)"}
# Only the words: the texts are in docs.
_WORDS = "CREATE VIRTUAL TABLE words USING fts5 (text, content='', tokenize='unicode61 remove_diacritics 2')"


_FULL, _FAILED, _DAMAGED = "disk is full", "disk I/O error", ("malformed", "not a database")
_UNWRITABLE = ("unable to open", "readonly")


@contextmanager
def sqlite_errors(where: str) -> Iterator[None]:
    """Raise errors of SQLite as OSError for the disk's, FileFormatError for damage, and StoreError for others."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if _FULL in text or _FAILED in text:
            number = errno.ENOSPC if _FULL in text else errno.EIO
            raise OSError(number, f"{os.strerror(number)} ({text})", where) from error
        if any(word in text for word in _DAMAGED):
            raise FileFormatError(f"{where}: damaged ({text})") from error
        if any(word in text for word in _UNWRITABLE):
            raise StoreError(f"{where}: {text}; expected a folder that can be written, or mode 'r'") from error
        raise StoreError(f"{where}: SQLite refused a statement ({text})") from error


def connect(path: Path, *, write: bool, timeout: float, immutable: bool = False) -> sqlite3.Connection:
    """Connect to an existing database.

    Parameters
    ----------
    path : Path
        The absolute path of the file.
    write : bool
        Whether it may be written.
    timeout : float
        Seconds to wait for locks of other connections.
    immutable : bool
        Read the file alone, without locks and without its log; nobody may write to it meanwhile.
    """
    options = "mode=rw" if write else "mode=ro&immutable=1" if immutable else "mode=ro"
    uri = f"file:{quote(os.fsencode(path))}?{options}"
    database = sqlite3.connect(uri, timeout, isolation_level=None, check_same_thread=False, uri=True)
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute(f"PRAGMA cache_size = -{_PAGES_KIB}")
        if write:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA wal_autocheckpoint = 0")  # `log.py` says when
            database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        database.close()
        raise
    return database


def connect_memory() -> sqlite3.Connection:
    """Return a connection to a new database in memory."""
    return sqlite3.connect(MEMORY, isolation_level=None, check_same_thread=False)


def create_tables(database: sqlite3.Connection) -> None:
    """Create all tables, in the open transaction."""
    for statement in (*_TABLES.values(), *_INDEXES.values()):
        database.execute(statement)
    try:
        database.execute(_WORDS)
    except sqlite3.OperationalError as error:  # this SQLite was built without FTS5: there is no search for words
        if "no such module" not in str(error):
            raise
    set_about(database, "version", VERSION)


def check_schema(database: sqlite3.Connection, where: str) -> int:
    """Return the version of the tables; 0 if there are none.

    Raises
    ------
    FileFormatError
        If the file is no database, or holds others than those of a store.
    """
    try:
        found = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        if not found:
            return 0
        names = {name for kind, name, _ in found}
        version = about(database, "version") if "about" in names else None
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise FileFormatError(f"{where}: {error}; expected a store of documents") from None
    if str(version) == "1":
        return 1
    if version != VERSION:
        raise FileFormatError(f"{where}: version is {version!r}; this vqindex reads: 1, {VERSION}")
    expected = {**_TABLES, **COLUMN_TABLES, **_INDEXES, "words": _WORDS}
    for kind, name, text in found:
        if kind in ("trigger", "view") or (text is not None and expected.get(name, text) != text):
            raise FileFormatError(f"{where}: holds a {kind} {name!r} that no store of documents has")
    missing = sorted(set(_TABLES) - names)
    if missing:
        raise FileFormatError(f"{where}: has no table {missing[0]!r}")
    return VERSION


def about(database: sqlite3.Connection, name: str) -> object:
    """Return a value of the table ``about``; None without one."""
    found = database.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
    return None if found is None else found[0]


def set_about(database: sqlite3.Connection, name: str, value: object) -> None:
    """Set a value of the table ``about``."""
    database.execute("INSERT OR REPLACE INTO about (name, value) VALUES (?, ?)", (name, value))
