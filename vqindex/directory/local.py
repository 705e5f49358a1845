"""A folder of the local file system. Every write, sync, rename and unlink of commits and saves passes through here.

Tests put a subclass in its place that fails, cuts writes short, or "dies" at the i-th call, and that records which
bytes were promised to be on disk (``tests/support/faulty.py``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .lock import FolderLock

__all__ = ["LocalDirectory", "LocalFile"]

_PRESENT = "present"  # the version of every file: the lock's holder is the only writer, so there is nothing to compare


def _fsync(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync alone leaves the data in the drive's cache there
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


class LocalFile:
    """A new file, open for writing and for reading back. It is unbuffered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = open(path, "x+b", buffering=0)  # noqa: SIM115 - the caller of `create` closes it

    def write(self, data: Any) -> int:
        """Write all bytes; a single system call may write fewer."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self._raw.write(view[done:]) or 0
        return done

    def sync(self) -> None:
        """Return when the bytes are on disk."""
        _fsync(self._raw.fileno())

    def close(self) -> None:
        """Close the file. This does not put its bytes on disk."""
        self._raw.close()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the current offset."""
        return self._raw.tell()

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer and return the number of bytes."""
        return self._raw.readinto(buffer)

    def truncate(self, size: int) -> int:
        """Set the size in bytes."""
        return self._raw.truncate(size)


class LocalDirectory:
    """A folder as a `Directory`.

    Parameters
    ----------
    folder : Path
        The folder. It need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make_folder(self) -> None:
        """Create the folder if it is missing; its parent must exist."""
        if not self.folder.exists():
            self.folder.mkdir()
            _sync_names(self.folder.parent)

    def describe(self, name: str) -> str:
        """Return the path of a file as text."""
        return str(self.folder / name)

    def create(self, name: str) -> LocalFile:
        """Create a file; FileExistsError if the name is taken."""
        return LocalFile(self.folder / name)

    def read(self, name: str, start: int, size: int) -> bytes:
        """Return at most `size` bytes from offset `start`."""
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return (self.folder / name).stat().st_size

    def fetch(self, name: str) -> Path:
        """Return the path of a file."""
        return self.folder / name

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(path.name for path in self.folder.iterdir())

    def remove(self, name: str) -> None:
        """Remove a name. Open and mapped files stay readable; on Windows the call fails instead."""
        (self.folder / name).unlink()

    def version(self, name: str) -> str | None:
        """Return a constant, or None if there is no such file."""
        return _PRESENT if (self.folder / name).exists() else None

    def publish(self, source: str, target: str, expected: str | None) -> str:
        """Rename a file over another, atomically. The lock excludes other writers, so versions are not compared."""
        os.replace(self.folder / source, self.folder / target)
        return _PRESENT

    def sync(self) -> None:
        """Return when the names in the folder are on disk."""
        _sync_names(self.folder)

    def lock(self) -> FolderLock:
        """Take the right to write; StoreError if another writer has it."""
        return FolderLock(self.folder)


def _sync_names(folder: Path) -> None:
    """Return when the names in a folder are on disk. Windows has no such call: NTFS keeps a journal of names."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)
