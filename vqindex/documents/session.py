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

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..changes import ChangeLock
from ..directory.lock import FolderLock
from ..errors import StoreBusyError, StoreError
from ..store.commit import CommitWriter
from . import changed
from .checking import check_all
from .connection import Connection
from .database import sqlite_errors
from .log import begin_session, checkpoint, close_writer, connect_reader, note_change, note_session
from .stored_columns import write_changed
from .table import seal_vectors
from .vectors import Savepoint

__all__ = ["Session"]


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


class Session(Connection):
    """See above; the parameters are those of `Connection`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.old: Old | None = None  # the store in `home`, if it is of version 1
        self.changed: set[int] = set()  # rows of docs that the transaction changed
        self.changes = 0  # calls that changed something since the last commit
        self._is_released = False
        self._log_size = 0  # bytes, from which on the log is to grow before it is moved into the file
        self._has_begun = False  # a commit of this session may have reached the disk
        self._lock = ChangeLock()
        self._hold: FolderLock | None = None
        self._start: Savepoint | None = None
        self._undo: tuple[Savepoint, set[int], int] | None = None
        self._prepared: _Prepared | None = None
        self.group = 0  # open `with` blocks: they commit at their end
        self.autocommit = True
        self.writer: str | None = None  # the adapter that writes here
        with self._lock.lock:
            self._pin()

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
            if self._start is not None:  # the open transaction's changes are checked, too, and are sealed at its end
                seal_vectors(database)
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
                if self._has_begun:
                    note_change(self.database)
                else:
                    note_session(folder, self.database, self.writer)
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

    def _unsaved(self) -> np.typing.NDArray[np.int64]:
        return _array(self.changed)

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
        if self.folder is not None:
            seal_vectors(database)
        rows = self._unsaved()
        changed.record(database, generation, rows)
        if self.folder is not None:
            write_changed(database, generation, rows)
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


def _array(rows: set[int]) -> np.typing.NDArray[np.int64]:
    return np.array(sorted(rows), np.int64)
