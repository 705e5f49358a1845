"""A connection to a store of documents, at one commit: what its transaction sees, and the vectors that belong to it."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..directory.lock import OpenFolder
from ..errors import FileFormatError, StoreError
from . import changed
from .columns import Columns
from .database import MEMORY
from .folder import DocumentsFolder
from .log import connect_reader, connect_writer
from .searching import Lookups
from .vectors import Vectors

__all__ = ["Connection", "path_of"]

_TRIES = 100  # to open the files of a commit before a writer removes them


class Connection:
    """A connection, and the documents and vectors that it sees.

    Parameters
    ----------
    folder : DocumentsFolder or None
        Where the store lies; None for one in memory.
    database : sqlite3.Connection
        A connection to its database.
    vectors : Vectors
        Its vectors, not loaded yet.
    mode : str
        "r" or "a".
    timeout : float
        Seconds to wait for another writer.
    shared : OpenFolder, optional
        What is to be closed after the connection.
    home : DocumentsFolder, optional
        The folder of a store of version 1, which was read into memory.
    """

    def __init__(
        self,
        folder: DocumentsFolder | None,
        database: sqlite3.Connection,
        vectors: Vectors,
        mode: str,
        timeout: float,
        shared: OpenFolder | None = None,
        home: DocumentsFolder | None = None,
    ) -> None:
        self.folder, self.database, self.vectors, self.mode, self.timeout = folder, database, vectors, mode, timeout
        self.home = folder if home is None else home
        self.generation = -1
        self.closed = False
        self._shared = shared  # of a connection that reads the file without its log
        self._lookups = Lookups(database)
        self.columns = Columns(self._lookups, self._unsaved)
        self._pid = os.getpid()
        _connections.add(self)

    @property
    def where(self) -> str:
        """What messages call the store."""
        return MEMORY if self.home is None else str(self.home.folder)

    def check_open(self) -> None:
        """Raise StoreError if the session was closed."""
        if self.closed:
            raise StoreError(f"{self.where} was closed; expected open documents")

    def _stored_generation(self) -> int:
        return int(self.database.execute("PRAGMA user_version").fetchone()[0])

    def _pin(self) -> None:
        """Load the vectors of the last commit. A session that reads keeps its transaction open, and so the documents.

        A writer may remove a file between the look at the manifest and its opening. Then a newer commit names others.
        """
        for last in (*[False] * _TRIES, True):
            self.database.execute("BEGIN")
            generation = -1
            try:
                generation = self._stored_generation()
                self._catch_up()
                if self.mode != "r":
                    self._rollback()
                return
            except BaseException as error:
                self._rollback()
                if not isinstance(error, FileFormatError | FileNotFoundError):
                    raise
                if last or self._stored_generation() == generation:
                    raise

    def _reconnect(self) -> None:
        """Connect again, for reading at the last commit."""
        folder, database, shared = self.folder, self.database, self._shared
        assert folder is not None
        if self.mode == "r":
            self.database, self._shared = connect_reader(folder, self.timeout)
        else:
            self.database = connect_writer(folder, self.timeout)
        self._lookups.database = self.database
        if self._pid == os.getpid():
            database.close()
            if shared is not None:
                shared.close()
        self._pin()

    def _rollback(self) -> None:
        if self.database.in_transaction:
            self.database.execute("ROLLBACK")

    def _catch_up(self) -> None:
        """Take the last commit, in the transaction that sees it."""
        generation = self._stored_generation()
        self.vectors.load(self.database)
        self._touch(changed.since(self.database, self.generation, generation))
        self.generation = generation

    def _touch(self, rows: NDArray[np.int64] | None) -> None:
        self.columns.touch(rows)

    def _unsaved(self) -> NDArray[np.int64]:
        """Return the rows of docs that the open transaction has changed."""
        return np.empty(0, np.int64)

    def use(self, database: sqlite3.Connection, vectors: Vectors) -> None:
        """Use a store in `home` from now on, instead of one in memory with the same documents."""
        self.database, self._lookups.database = database, database
        self.vectors = vectors
        self.folder = self.home
        self._pin()
        self._touch(None)


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _keep_in_child() -> None:
    """Keep the connections of the parent from ever being closed in the child of a fork.

    Closing one would free locks or move a log into a file, on behalf of the parent. So nothing may collect it, not even
    the end of the interpreter.
    """
    for connection in list(_connections):
        if connection.folder is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection.database))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_in_child)


def path_of(folder: Path) -> Path:
    """Return the absolute path of a folder; not `abspath`, which takes "link/.." for the folder of the link."""
    return folder if folder.is_absolute() else Path.cwd() / folder
