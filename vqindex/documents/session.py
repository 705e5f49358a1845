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
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..changes import ChangeLock
from ..directory.lock import FolderLock
from ..errors import FileFormatError, StoreError
from ..store.commit import CommitWriter
from . import changed
from .database import connect
from .folder import DATABASE, DocumentsFolder
from .log import checkpoint, release_log
from .searching import columns_of
from .vectors import Savepoint, Vectors

__all__ = ["Session"]


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
    """

    def __init__(
        self, folder: DocumentsFolder | None, database: sqlite3.Connection, vectors: Vectors, mode: str, timeout: float
    ) -> None:
        self.folder, self.database, self.vectors, self.mode, self.timeout = folder, database, vectors, mode, timeout
        self.generation = -1
        self.changed: set[int] = set()  # rows of docs that the transaction changed
        self.changes = 0  # calls that changed something since the last commit
        self.closed = False
        self.columns = columns_of(database)
        self._lock = ChangeLock()
        self._pid = os.getpid()
        self._hold: FolderLock | None = None
        self._start: Savepoint | None = None
        self._undo: tuple[Savepoint, set[int], int] | None = None
        self._prepared: _Prepared | None = None
        self.group = 0  # open `with` blocks: they commit at their end
        self.autocommit = True
        with self._lock.lock:
            self._pin()

    # ---- what the database says

    def _stored_generation(self) -> int:
        return int(self.database.execute("PRAGMA user_version").fetchone()[0])

    def _pin(self) -> None:
        """Load the vectors of the last commit. A session that reads keeps its transaction open, and so the documents.

        A writer may remove a file between the look at the manifest and its opening. Then a newer commit names others.
        """
        tries = 0
        while True:
            self.database.execute("BEGIN")
            try:
                generation = self._stored_generation()
                self._catch_up()
                if self.mode != "r":
                    self.database.execute("COMMIT")
                return
            except BaseException as error:
                self._rollback()
                if not isinstance(error, FileFormatError | FileNotFoundError):
                    raise
                tries += 1
                if self._stored_generation() == generation or tries > 100:
                    raise

    def _rollback(self) -> None:
        if self.database.in_transaction:
            self.database.execute("ROLLBACK")

    # ---- interrupted calls, forks, closing

    def _settle(self) -> None:
        """Finish or undo what an interrupt left. The caller holds the lock."""
        self.check_open()
        if self._pid != os.getpid():
            self._reconnect()
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

    def _forget(self) -> None:
        """Take the transaction as ended, and let the next writer in."""
        self._start, self._prepared, self.changed, self.changes = None, None, set(), 0
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def _reconnect(self) -> None:
        """Begin anew in the child of a fork: connections and locks belong to the parent, and so do its changes."""
        self._pid = os.getpid()
        _inherited.append(self.database)  # closing it here would free the parent's locks
        self._undo = self._prepared = self._start = None
        self._forget()
        if self.folder is None:
            _inherited.pop()
            return
        self.database = connect(self.folder.path / DATABASE, write=self.mode != "r", timeout=self.timeout)
        self.columns = columns_of(self.database)
        self._pin()

    @property
    def where(self) -> str:
        """What messages call the store."""
        return ":memory:" if self.folder is None else str(self.folder.folder)

    def close(self) -> int:
        """Close the session; return how many changes were lost."""
        with self._lock.lock:
            if self.closed:
                return 0
            lost = 0
            if self._pid == os.getpid():
                with suppress(sqlite3.Error, OSError, StoreError):
                    self._settle()
                lost = self.changes
                if self.folder is None:
                    self.database.close()
                else:
                    with suppress(sqlite3.Error):
                        self._rollback()
                    self._forget()
                    release_log(self.folder, self.database, self.mode)
            self.closed = True
            self.vectors.index = None
            return lost

    def check_open(self) -> None:
        """Raise StoreError if the session was closed."""
        if self.closed:
            raise StoreError(f"{self.where} was closed; expected open documents")

    # ---- reading

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold documents and vectors of one moment."""
        with self._lock.lock:
            self._settle()
            if self.database.in_transaction or self.folder is None:
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
        with self._lock.lock:
            self._settle()
            if self.folder is None or (self.mode != "r" and self.database.in_transaction):
                return self.generation
            self._rollback()
            self._pin()
            return self.generation

    # ---- changing

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Hold the right to write during a change. An error undoes it; without one it is committed, unless grouped."""
        with self._lock.lock:
            self._settle()
            self.check_writable()
            self._begin()
            try:
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
            if self.folder is not None:
                self._hold = self.folder.lock(self.timeout)
            self.database.execute("BEGIN IMMEDIATE")
            if self._stored_generation() != self.generation:  # another process has written since
                self._catch_up()
            self._start = self.vectors.savepoint()
        except BaseException:
            self._rollback()
            self._forget()
            raise

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
        with self._lock.lock:
            self._settle()
            self.check_writable()
            if self.database.in_transaction:
                self._commit()
            return self.generation

    def rollback(self) -> None:
        """Undo all changes since the last commit."""
        with self._lock.lock:
            self._settle()
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
        self.vectors.take(self.database, prepared.following)
        if self.folder is not None:
            checkpoint(self.folder, self.database)
        self._forget()


_inherited: list[sqlite3.Connection] = []  # of the parents of forks; never closed


def _array(rows: set[int]) -> np.typing.NDArray[np.int64]:
    return np.array(sorted(rows), np.int64)


def path_of(folder: Path) -> Path:
    """Return the absolute path of a folder; not `abspath`, which takes "link/.." for the folder of the link."""
    return folder if folder.is_absolute() else Path.cwd() / folder
