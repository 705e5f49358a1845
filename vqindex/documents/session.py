"""A session with a store of documents: its connection, its transactions, and the vectors that belong to them.

Every method of `Documents` does its work within `reading` or `changing`. Both hold the lock of the session, so threads
take turns. Documents and vectors are always those of one commit, or of this session's open transaction:

* A session that reads holds a transaction of SQLite open and has the vectors that this transaction names. It stays at
  that commit until `refresh`.
* A session that writes follows the last commit. A change takes the folder's lock, looks whether another process has
  committed meanwhile, and begins a transaction. COMMIT publishes rows and vectors together, and frees the lock.

An interrupt may come at any line. What is in progress is therefore noted before it begins: `_undo` during a change,
`_prepared` during a commit. The next call looks at these notes first and finishes or undoes what was interrupted
(`_settle`). Whether a COMMIT took place is asked of the database.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..changes import ChangeLock
from ..directory.lock import FolderLock, OpenFolder
from ..errors import FileFormatError, StoreBusyError, StoreError
from ..store.commit import CommitWriter
from . import changed
from .checking import check_all
from .columns import Columns
from .database import MEMORY, sqlite_errors
from .folder import DocumentsFolder
from .log import (
    begin_session,
    checkpoint,
    close_writer,
    connect_reader,
    connect_writer,
    note_change,
    note_session,
)
from .searching import Lookups
from .vectors import Savepoint, Vectors

__all__ = ["Session", "path_of"]

_TRIES = 100  # to open the files of a commit before a writer removes them


class Old(Protocol):
    """A store of version 1 (``migration.py``)."""

    def convert(self, session: Session) -> None:
        """Convert it, and let a session use it; the session holds the lock of its folder."""

    def is_converted(self) -> bool:
        """Whether another process has converted it."""

    def give(self, session: Session, database: sqlite3.Connection) -> None:
        """Let a session use the converted store through a connection."""


class _Prepared(NamedTuple):
    """A commit in progress."""

    generation: int
    following: CommitWriter | None
    vectors: Savepoint  # as they are after it


class Session:
    """See above.

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
        self.old: Old | None = None  # the store in `home`, if it is of version 1
        self.generation = -1
        self.changed: set[int] = set()  # rows of docs that the transaction changed
        self.changes = 0  # calls that changed something since the last commit
        self.closed = self._is_released = False
        self._shared = shared  # of a connection that reads the file without its log
        self._lookups = Lookups(database)
        self.columns = Columns(self._lookups)
        self._log_size = 0  # bytes, from which on the log is to grow before it is moved into the file
        self._has_begun = False  # a commit of this session may have reached the disk
        self._lock = ChangeLock()
        self._pid = os.getpid()
        self._hold: FolderLock | None = None
        self._start: Savepoint | None = None
        self._undo: tuple[Savepoint, set[int], int] | None = None
        self._prepared: _Prepared | None = None
        self.group = 0  # open `with` blocks: they commit at their end
        self.autocommit = True
        _sessions.add(self)
        with self._lock.lock:
            self._pin()

    # ---- what the database says

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

    # ---- interrupted calls, forks, closing

    def _settle(self) -> None:
        """Finish or undo what an interrupt left. The caller holds the lock."""
        self.check_open()
        if self._pid != os.getpid():
            self._begin_anew()
        if self._undo is not None:
            self._undo_change()
        if not self.database.in_transaction and self.mode != "r":
            prepared = self._prepared
            if prepared is not None and self._stored_generation() == prepared.generation:
                self._finish(prepared)
            elif self._start is not None:  # BEGIN did not come, or the transaction is gone
                self._touch(_array(self.changed))
                self.vectors.restore(self._start)
                self._forget()
            elif self._hold is not None:
                self._forget()
        self._prepared = None
        if self.database.in_transaction and self.mode != "r" and self.autocommit and not self.group:
            self._abandon()  # an interrupt came before the commit of a call

    def _forget(self) -> None:
        """Take the transaction as ended, and let the next writer in."""
        self._start, self._prepared, self.changed, self.changes = None, None, set(), 0
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def _begin_anew(self) -> None:
        """Connect in the child of a fork: connections and locks belong to the parent, and so do its changes."""
        self._undo = self._prepared = self._start = None
        self._forget()
        self._has_begun = False
        if self.folder is not None:
            self._reconnect()
        self._pid = os.getpid()

    @property
    def where(self) -> str:
        """What messages call the store."""
        return MEMORY if self.home is None else str(self.home.folder)

    def close(self) -> int:
        """Close the session; return how many changes were lost. It can be repeated if it is interrupted."""
        with self._lock.lock:
            lost = 0
            if not self.closed:
                if self._pid == os.getpid():
                    with suppress(sqlite3.Error, OSError, StoreError):
                        self._settle()
                    lost = self.changes
                self.closed = True
            if not self._is_released and self._pid == os.getpid():
                with suppress(sqlite3.Error):
                    self._rollback()
                self._forget()
                if self.folder is not None and self.mode != "r":
                    close_writer(self.folder, self.database)
                self.database.close()
                if self._shared is not None:
                    self._shared.close()
            self._is_released = True
            self.vectors.index = None
            return lost

    def check_open(self) -> None:
        """Raise StoreError if the session was closed."""
        if self.closed:
            raise StoreError(f"{self.where} was closed; expected open documents")

    @contextmanager
    def _held(self) -> Iterator[bool]:
        """Hold the session's lock; True if this thread has it already, as a filter's function that reads has."""
        lock: Any = self._lock.lock
        is_nested = lock._is_owned()
        with lock, sqlite_errors(self.where):
            if is_nested:
                self.check_open()
            else:
                self._settle()
            yield is_nested

    def verify(self) -> list[tuple[str, int]]:
        """Check every byte of the last commit; return name and size of its files of vectors."""
        with self.reading() as database:
            return check_all(database, self.folder, self.vectors.order)

    # ---- reading

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold documents and vectors of one moment."""
        with self._held():
            if self.folder is not None and self.mode == "r" and not self.database.in_transaction:
                self._pin()  # an interrupt came before the last one was complete
            if self.database.in_transaction:
                yield self.database
                return
            self._follow()
            try:
                yield self.database
            finally:
                self._rollback()

    def _follow(self) -> None:
        """Begin to read the last commit, with its vectors."""
        self.database.execute("BEGIN")
        try:
            while self._stored_generation() != self.generation:
                self._rollback()
                self._pin()
                self.database.execute("BEGIN")
        except BaseException:
            self._rollback()
            raise

    def refresh(self) -> int:
        """Take the last commit, and return its generation."""
        with self._held():
            if self.old is not None and self.home is not None and self.old.is_converted():
                database, self._shared = connect_reader(self.home, self.timeout)
                self.old.give(self, database)
            elif self.folder is not None and self.mode == "r":
                self._reconnect()
            elif self.folder is not None and not self.database.in_transaction:
                self._pin()
            return self.generation

    # ---- changing

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Hold the right to write during a change. An error undoes it; without one it is committed, unless grouped."""
        with self._held() as is_nested:
            self.check_writable()
            if is_nested:
                raise StoreError(f"{self.where} was changed in the middle of another call; expected one at a time")
            try:
                self._begin()
                self._undo = (self.vectors.savepoint(), set(self.changed), self.changes)
                self.database.execute("SAVEPOINT change")
                yield self.database
                self.database.execute("RELEASE change")
                self.changes += 1
                self._undo = None
                if self.autocommit and not self.group:
                    self._commit()
            except BaseException:
                if self._undo is not None:
                    self._undo_change()
                if self.autocommit and not self.group:
                    self._abandon()
                raise

    def check_writable(self) -> None:
        """Raise StoreError if the session reads, or was closed."""
        self.check_open()
        if self.mode == "r":
            raise StoreError(f"{self.where} is open for reading; expected mode 'a'")

    def _begin(self) -> None:
        """Begin a transaction that writes, unless one is open."""
        if self.database.in_transaction:
            return
        try:
            if self.home is not None:
                self._hold = self.home.lock(self.timeout)
            if self.old is not None:
                self.old.convert(self)
            folder = self.folder
            if folder is not None and not self._has_begun:
                begin_session(folder, self.database)
            self._begin_immediate()
            if self._stored_generation() != self.generation:  # another process has written since
                self._catch_up()
            if folder is not None:
                note_change(self.database) if self._has_begun else note_session(folder, self.database)
            self._start = self.vectors.savepoint()
        except BaseException:
            self._rollback()
            self._forget()
            raise

    def _begin_immediate(self) -> None:
        try:
            self.database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise StoreBusyError(f"{self.where} is open for writing by another program ({error})") from None

    def use(self, database: sqlite3.Connection, vectors: Vectors) -> None:
        """Use a store in `home` from now on, instead of one in memory with the same documents."""
        self.database, self._lookups.database = database, database
        self.vectors = vectors
        self.folder = self.home
        self._pin()
        self._touch(None)
        self.old = None

    def _catch_up(self) -> None:
        """Take the last commit, in the transaction that sees it."""
        generation = self._stored_generation()
        self.vectors.load(self.database)
        self._touch(changed.since(self.database, self.generation, generation))
        self.generation = generation

    def _touch(self, rows: np.typing.NDArray[np.int64] | None) -> None:
        self.columns.touch(rows)

    def _undo_change(self) -> None:
        """Undo the change in progress. It can be repeated if it is interrupted itself."""
        undo = self._undo
        if undo is None:
            return
        if self.database.in_transaction:
            with suppress(sqlite3.OperationalError):  # the savepoint was not made yet, or is released
                self.database.execute("ROLLBACK TO change")
                self.database.execute("RELEASE change")
        self._touch(_array(self.changed))
        savepoint, self.changed, self.changes = undo
        self.vectors.restore(savepoint)
        self._undo = None

    def _abandon(self) -> None:
        """Undo the whole transaction, unless it was committed."""
        self._rollback()
        prepared = self._prepared
        if prepared is not None and self._stored_generation() == prepared.generation:
            self._finish(prepared)
        elif self._start is not None:
            self._touch(_array(self.changed))
            self.vectors.restore(self._start)
            self._forget()

    def note(self, rows: list[int]) -> None:
        """Remember which rows of docs a change touches."""
        self.changed.update(rows)
        self._touch(np.array(rows, np.int64))

    def commit(self) -> int:
        """Put all changes on disk, and return the generation."""
        with self._held():
            self.check_writable()
            if self.database.in_transaction:
                self._commit()
            return self.generation

    def rollback(self) -> None:
        """Undo all changes since the last commit."""
        with self._held():
            self.check_writable()
            self._abandon()

    def _commit(self) -> None:
        database, generation = self.database, self.generation + 1
        following = self.vectors.prepare(database)
        changed.record(database, generation, _array(self.changed))
        database.execute(f"PRAGMA user_version = {generation:d}")
        self._prepared = _Prepared(generation, following, self.vectors.savepoint())
        database.execute("COMMIT")
        self._finish(self._prepared)

    def _finish(self, prepared: _Prepared) -> None:
        """Take a commit that is on disk. It can be repeated if it is interrupted."""
        self.vectors.restore(prepared.vectors)
        self.generation = prepared.generation
        self._has_begun = True
        self.vectors.take(self.database, prepared.following)
        if self.folder is not None:
            self._log_size = checkpoint(self.folder, self.database, self._log_size)
        self._forget()


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _keep_in_child() -> None:
    """Keep the connections of the parent from ever being closed in the child of a fork.

    Closing one would free locks or move a log into a file, on behalf of the parent. So nothing may collect it, not even
    the end of the interpreter.
    """
    for session in list(_sessions):
        if session.folder is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session.database))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_in_child)


def _array(rows: set[int]) -> np.typing.NDArray[np.int64]:
    return np.array(sorted(rows), np.int64)


def path_of(folder: Path) -> Path:
    """Return the absolute path of a folder; not `abspath`, which takes "link/.." for the folder of the link."""
    return folder if folder.is_absolute() else Path.cwd() / folder
