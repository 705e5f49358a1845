"""Copies of a store of documents: into another folder, and into a pickle."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from ..store.manifest import load_manifest
from . import changed
from .database import about, set_about
from .folder import DocumentsFolder
from .session import Session
from .stored_columns import write_changed
from .table import add_words, has_words, seal_vectors
from .vectors import write_copy

__all__ = ["Rows", "fill", "insert", "rows_of"]

# Tables whose rows are the documents. The vectors and what is derived are written anew.
_COPIED = ("namespaces", "docs")
_ABOUT = ("parameters", "writer", "digest")
_EMPTIED = (*_COPIED, "vectors", "pending", "changes")
_AT_ONCE = 4096  # rows in memory at a time

Rows = Mapping[str, Sequence[tuple[Any, ...]]]


def _columns(database: sqlite3.Connection, name: str) -> list[str]:
    return [column for _, column, *_ in database.execute(f"PRAGMA table_info({name})")]


def rows_of(database: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables that a copy needs, by table."""
    found = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in _COPIED}
    found["about"] = [(name, about(database, name)) for name in _ABOUT]
    return found


def insert(database: sqlite3.Connection, rows: Rows) -> None:
    """Write the rows of `rows_of` into empty tables."""
    for name in _COPIED:
        marks = ", ".join("?" * len(_columns(database, name)))
        database.executemany(f"INSERT INTO {name} VALUES ({marks})", rows[name])
    for name, value in rows["about"]:
        set_about(database, name, value)
    add_words(database)


def fill(session: Session, folder: DocumentsFolder, target: sqlite3.Connection) -> set[str]:
    """Make a database hold what a session sees, in the open transaction of both; return the names of new files.

    Parameters
    ----------
    session : Session
        The session to copy, within `Session.reading`.
    folder : DocumentsFolder
        The folder of the other store. The caller holds its lock.
    target : sqlite3.Connection
        A connection to its database.
    """
    manifest = target.execute("SELECT manifest FROM vectors").fetchone()
    if manifest is not None:
        folder.database = target
        set_about(target, "next_file", load_manifest(folder).next_file)
    if has_words(target):
        target.execute("INSERT INTO words (words) VALUES ('delete-all')")
    for name in _EMPTIED:
        target.execute(f"DELETE FROM {name}")
    source = session.database
    for name in _COPIED:
        columns = ", ".join(_columns(target, name))
        marks = ", ".join("?" * len(_columns(target, name)))
        cursor = source.execute(f"SELECT {columns} FROM {name}")
        while rows := cursor.fetchmany(_AT_ONCE):
            target.executemany(f"INSERT INTO {name} ({columns}) VALUES ({marks})", rows)
    for name in _ABOUT:
        set_about(target, name, about(source, name))
    add_words(target)
    names = write_copy(session.vectors.index, folder, target)
    seal_vectors(target)
    generation = 1 + int(target.execute("PRAGMA user_version").fetchone()[0])
    changed.record(target, generation, None)
    write_changed(target, generation, None)
    target.execute(f"PRAGMA user_version = {generation:d}")
    return names
