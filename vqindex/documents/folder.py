"""The folder of documents as a `Directory` whose manifest is a row of the database.

Segments and bits of removed rows are files, as those of every store. The manifest is written into the transaction that
also holds the changes of the documents. So one COMMIT of SQLite publishes both.
"""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from ..directory.local import LocalDirectory
from ..directory.lock import LOCK, FolderLock
from ..directory.protocol import OneWriter, OutputFile
from ..errors import StoreBusyError, StoreError
from ..store.manifest import MANIFEST, NEXT, is_ours

__all__ = ["DATABASE", "DocumentsFolder", "foreign_names"]

DATABASE = "docs.sqlite"
_PAUSE = 0.005  # seconds between two looks at a lock that another process has


class _Prepared(io.BytesIO):
    """The next manifest, in memory until the database takes it."""

    kept = b""

    def sync(self) -> None:
        """Do nothing: the COMMIT of the transaction puts the bytes on disk."""

    def close(self) -> None:
        """Keep the bytes."""
        if not self.closed:
            self.kept = self.getvalue()
        super().close()


class DocumentsFolder(OneWriter):
    """The files of a store of documents, for one connection to its database.

    Parameters
    ----------
    folder : Path
        The folder as the user gave it, for messages.
    path : Path
        The same as an absolute path; the working directory may change later.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path = folder, path
        self.database: sqlite3.Connection | None = None  # whose transaction holds the manifest
        self._files = LocalDirectory(path)
        self._identity: tuple[int, int] | None = None  # of the folder whose database is connected
        self._prepared: _Prepared | None = None
        self._created = False  # since names were synced

    # ---- the folder itself

    def remember(self) -> None:
        """Remember which folder this is, to write to no other one that takes its place under the path."""
        found = os.stat(self.path)
        self._identity = found.st_dev, found.st_ino

    def check(self) -> None:
        """Raise StoreError if the path leads to another folder than the remembered one."""
        found = None
        with suppress(OSError):
            status = os.stat(self.path)
            found = status.st_dev, status.st_ino
        if found != self._identity:
            raise StoreError(
                f"{self.folder} was moved, removed or replaced while it was open; nothing was written to what is there "
                "now; expected the folder that was opened"
            )

    def lock(self, timeout: float = 0.0) -> FolderLock:
        """Take the right to write; wait for another writer for `timeout` seconds at most.

        Raises
        ------
        StoreBusyError
            If another writer still has it then; the message names its process.
        StoreError
            If the folder was replaced, or the lock is no regular file.
        """
        until = time.monotonic() + timeout
        while True:
            if self._identity is not None:
                self.check()
            files = LocalDirectory(self.path)
            try:
                lock = files.lock()
            except StoreBusyError as error:
                if time.monotonic() >= until:
                    text = str(error).replace(str(self.path), str(self.folder), 1)
                    raise StoreBusyError(f"{text}; waited {timeout:g} s") from None
                time.sleep(_PAUSE)
                continue
            self._files = files
            return lock

    # ---- as a Directory

    def describe(self, name: str) -> str:
        """Return the path of a file as text."""
        return str(self.folder / (DATABASE if name == MANIFEST else name))

    def create(self, name: str) -> OutputFile:
        """Create a file. One that is there already was left by a process that was killed: no manifest names it."""
        if name == NEXT:
            self._prepared = _Prepared()
            return self._prepared
        self._created = True
        try:
            return self._files.create(name)
        except FileExistsError:
            self._files.remove(name)
            return self._files.create(name)

    def read(self, name: str, start: int, size: int) -> bytes:
        """Return at most `size` bytes from offset `start`."""
        if name != MANIFEST:
            return self._files.read(name, start, size)
        found = None if self.database is None else self.database.execute("SELECT manifest FROM vectors").fetchone()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "holds no manifest of vectors", self.describe(name))
        return bytes(found[0])[start : start + size]

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self._files.size(name)

    def fetch(self, name: str) -> Path:
        """Return the path of a file."""
        return self._files.fetch(name)

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return self._files.names()

    def remove(self, name: str) -> None:
        """Remove a file; open and mapped ones stay readable."""
        if name == NEXT:
            self._prepared = None
        else:
            self._files.remove(name)

    def version(self, name: str) -> str | None:
        """Return whether there is a file: the transaction, not a version, keeps other writers out."""
        if name == NEXT:
            return None if self._prepared is None else "prepared"
        return self._files.version(name)

    def publish(self, source: str, target: str, expected: str | None) -> str:
        """Write the prepared manifest into the open transaction. Its COMMIT makes it the one that readers find."""
        prepared, database = self._prepared, self.database
        if prepared is None or database is None or not database.in_transaction:
            raise StoreError(f"{self.describe(target)}: no transaction is open; expected one for {source}")
        database.execute("INSERT OR REPLACE INTO vectors (one, manifest) VALUES (1, ?)", (prepared.kept,))
        self._prepared = None
        return "published"

    def sync(self) -> None:
        """Return when the names of created files are on disk."""
        if self._created:
            self._files.sync()
            self._created = False

    def sync_names(self) -> None:
        """Return when all names in the folder are on disk."""
        LocalDirectory(self.path).sync()

    def sweep(self, named: set[str]) -> None:
        """Remove files of the store that are not named. A failure is harmless: a later sweep repeats it."""
        with suppress(OSError):
            for name in self.names():
                if is_ours(name) and name not in named:
                    with suppress(OSError):
                        self.remove(name)


def foreign_names(path: Path) -> list[str]:
    """Return the names in a folder that no store of documents has."""
    known = {LOCK, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal"}
    return sorted(p.name for p in path.iterdir() if p.name not in known and not is_ours(p.name))
