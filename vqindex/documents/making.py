"""Making a store of documents: in memory, in a folder, and as a copy of another one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..store.manifest import is_ours
from .connection import path_of
from .copying import fill
from .database import check_schema, create_tables, set_about
from .folder import DATABASE, DocumentsFolder, foreign_names
from .log import begin_session, close_connection, close_writer, connect_writer, first_epoch, note_session
from .parameters import store_parameters
from .session import Session

__all__ = ["copy_into", "create", "make_in"]


def create(database: sqlite3.Connection, parameters: Mapping[str, Any], writer: str | None) -> None:
    """Make the tables of an empty store, in the open transaction."""
    create_tables(database)
    first_epoch(database)
    store_parameters(database, parameters)
    if writer is not None:
        set_about(database, "writer", writer)


def make_in(files: DocumentsFolder, timeout: float, write: Callable[[sqlite3.Connection], set[str]]) -> None:
    """Make a store in a folder, unless there is one: it appears with all that `write` writes, or not at all.

    Parameters
    ----------
    files : DocumentsFolder
        The folder; it need not exist.
    timeout : float
        Seconds to wait for another process.
    write : callable
        Writes the tables into the open transaction of a connection, and returns the names of the files that it made.

    Raises
    ------
    FileFormatError
        If the folder holds files of another kind.
    """
    if files.path.is_dir():
        others = foreign_names(files.path)
        segments = [name for name in os.listdir(files.path) if is_ours(name)]
        if segments and not os.path.exists(files.path / DATABASE):
            raise FileFormatError(
                f"{files.describe(DATABASE)} is missing, but {files.folder} holds files of documents "
                f"({min(segments)}); expected the database with them"
            )
        if others:
            raise FileFormatError(
                f"{files.folder} holds no documents, but {others[0]!r}; expected an empty or a new folder"
            )
    else:
        files.path.mkdir(parents=True, exist_ok=True)
    lock = files.lock(timeout)
    try:
        database = sqlite3.connect(files.path / DATABASE, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            _write(files, database, write, only_new=True)
        finally:
            close_connection(files, database)
        files.sync_names()
    finally:
        lock.release()


def _write(
    files: DocumentsFolder,
    database: sqlite3.Connection,
    write: Callable[[sqlite3.Connection], set[str]],
    only_new: bool,
) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        if only_new and database.execute("SELECT 1 FROM sqlite_master").fetchone():
            database.execute("ROLLBACK")
            return
        names = write(database)
        if not only_new:
            note_session(files, database)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    if names:
        files.sweep(names)


def copy_into(session: Session, folder: Path) -> None:
    """Write a copy of what a session sees to another folder; documents that were there are replaced in one commit."""
    files = DocumentsFolder(folder, path_of(folder))
    with session.reading():

        def write(database: sqlite3.Connection) -> set[str]:
            if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                create_tables(database)
                first_epoch(database)
            return fill(session, files, database)

        if not os.path.exists(files.path / DATABASE):
            make_in(files, session.timeout, write)
            return
        files.remember()
        database = connect_writer(files, session.timeout)
        try:
            lock = files.lock(session.timeout)
            try:
                if check_schema(database, files.describe("manifest")) == 1:
                    raise FileFormatError(f"{folder} holds a store of an older version; expected a new folder")
                begin_session(files, database)
                _write(files, database, write, only_new=False)
            finally:
                lock.release()
        finally:
            close_writer(files, database)
