"""Opening a session with a store of documents."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import as_path
from ..backends.registry import Device
from ..center import Centering
from ..directory.lock import OpenFolder
from ..errors import FileFormatError, InvalidInputError
from ..index import VQIndex
from ..spec import IndexSpec
from .connection import path_of
from .copying import Rows, insert
from .database import MEMORY, about, check_schema, connect_memory, create_tables, sqlite_errors
from .folder import DATABASE, DocumentsFolder
from .log import close_connection, connect_reader, connect_writer, must_be_checked
from .making import create, make_in
from .migration import OldStore
from .parameters import stored_parameters
from .session import Session
from .vectors import Vectors

__all__ = ["open_session", "session_of"]

_EXPECTED = "expected a folder of documents (mode 'a', or `vqindex docs add`, makes one)"


def open_session(
    path: str | os.PathLike[str],
    mode: str,
    given: Mapping[str, Any],
    new: Mapping[str, Any],
    timeout: float,
    writer: str | None,
    device: Device,
    mmap: bool,
) -> Session:
    """Open a session with the store in a folder or in memory, perhaps a new one.

    Parameters
    ----------
    path : str or path
        The folder, or ":memory:".
    mode : str
        "r" or "a".
    given : mapping
        Parameters that an existing store must have.
    new : mapping
        Parameters of a new store.
    timeout : float
        Seconds to wait for another process that writes.
    writer : str or None
        The adapter's name.
    device, mmap
        As for `vqindex.open`.
    """
    if path != MEMORY:
        with sqlite_errors(str(path)):
            return _open(as_path(path), mode, given, new, timeout, writer, device, mmap)
    if mode == "r":
        raise InvalidInputError("mode is 'r' for ':memory:'; expected 'a', since a new store in memory is empty")
    database = connect_memory()
    database.execute("BEGIN")
    create(database, new, writer)
    database.execute("COMMIT")
    return Session(None, database, Vectors(new, device, mmap, None), mode, timeout)


def _open(
    folder: Path,
    mode: str,
    given: Mapping[str, Any],
    new: Mapping[str, Any],
    timeout: float,
    writer: str | None,
    device: Device,
    mmap: bool,
) -> Session:
    files = DocumentsFolder(folder, path_of(folder))
    if files.path.is_file():
        raise FileFormatError(f"{folder} is a file; expected a folder")
    if not (files.path / DATABASE).exists():
        if mode == "r":
            found = "holds no documents" if files.path.is_dir() else "does not exist"
            raise FileNotFoundError(errno.ENOENT, f"{found}; {_EXPECTED}", str(folder))
        _make(files, new, timeout, writer)
    files.remember()
    database, shared = connect_reader(files, timeout) if mode == "r" else (connect_writer(files, timeout), None)

    def close() -> None:
        if mode == "a":
            close_connection(files, database)
        database.close()
        if shared is not None:
            shared.close()

    try:
        version = check_schema(database, files.describe("manifest"))
        if version == 0 and mode == "a":  # a process was killed before it had made the tables
            _make(files, new, timeout, writer)
        elif version == 0:
            raise FileNotFoundError(errno.ENOENT, f"holds no documents; {_EXPECTED}", str(folder))
        if version == 1:
            close()
            session = OldStore(files, new, timeout, device, mmap).session(mode)
            _check_equal(folder, session.vectors.parameters, given)
            session.writer = writer
            return session
        _check_writer(folder, about(database, "writer"), writer)
        session = _session(files, database, shared, mode, given, timeout, device, mmap)
        session.writer = writer
        return session
    except BaseException:
        close()
        raise


def _session(
    files: DocumentsFolder,
    database: sqlite3.Connection,
    shared: OpenFolder | None,
    mode: str,
    given: Mapping[str, Any],
    timeout: float,
    device: Device,
    mmap: bool,
) -> Session:
    """Return the session of a connection, if parameters agree and the store is whole."""
    stored = stored_parameters(database)
    _check_equal(files.folder, stored, given)
    if "dim" in given:
        stored["dim"] = given["dim"]  # of the first vector, too
    session = Session(files, database, Vectors(stored, device, mmap, files), mode, timeout, shared)
    index = session.vectors.index
    if index is not None:
        _check_equal(files.folder, {**stored, "dim": index.dim}, given)
    if must_be_checked(files, database):
        session.verify()
    return session


def _make(files: DocumentsFolder, new: Mapping[str, Any], timeout: float, writer: str | None) -> None:
    def write(database: sqlite3.Connection) -> set[str]:
        create(database, new, writer)
        return set()

    make_in(files, timeout, write)


def _check_equal(folder: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for parameters that differ from those of the store."""
    for name, value in given.items():
        if name == "dim" and "dim" not in stored:
            continue
        if name == "center":
            spec = IndexSpec(stored.get("dim", np.size(value) if not isinstance(value, str) else 1),
                             metric=stored["metric"])  # fmt: skip
            same = Centering.of(spec, value).text == Centering.of(spec, stored.get("center")).text
        else:
            same = stored.get(name) == value
        if not same:
            raise InvalidInputError(f"{name} is {value!r}; the documents in {folder} have {stored.get(name)!r}")


def _check_writer(folder: Path, stored: object, writer: str | None) -> None:
    if writer is not None and stored is not None and stored != writer:
        raise InvalidInputError(f"{folder} was written by {stored!r}; expected a store of {writer!r}")


def session_of(rows: Rows, index: VQIndex | None, device: Device, timeout: float) -> Session:
    """Return a session with a store in memory that has the rows of `rows_of` and the vectors of an index."""
    database = connect_memory()
    database.execute("BEGIN")
    create_tables(database)
    insert(database, rows)
    database.execute("COMMIT")
    vectors = Vectors(stored_parameters(database), device, True, None)
    vectors.index = index
    return Session(None, database, vectors, "a", timeout)
