"""A folder of the local file system. Every write, sync, rename and unlink of commits and saves passes through here.

Tests put a subclass in its place that fails, cuts writes short, or "dies" at the i-th call, and that records which
bytes were promised to be on disk (``tests/support/faulty.py``).
"""

from __future__ import annotations

import errno
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, StoreError
from .leftovers import hold, sweep, temporary_name
from .lock import FolderLock, OpenFolder, lock_folder
from .protocol import OneWriter
from .system import naming, open_for_reading

__all__ = ["LocalDirectory", "LocalFile"]

_HEAD = 4096  # bytes; the first line of a manifest holds the checksum of all others

_PRESENT = "present"  # the version of every file for those who hold no lock


def _fsync(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync alone leaves the data in the drive's cache there
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


class LocalFile:
    """A new file, open for writing and for reading back. It is unbuffered."""

    def __init__(self, path: Path, folder: int | None = None) -> None:
        self.path = path

        def opener(path: str, flags: int) -> int:
            if folder is None:
                return os.open(path, flags, 0o666)
            return os.open(os.path.basename(path), flags, 0o666, dir_fd=folder)

        with naming(path):
            self._raw = open(path, "x+b", buffering=0, opener=opener)  # noqa: SIM115 - the caller of `create` closes it

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

    def hold(self) -> bool:
        """Keep sweeps of temporary files from removing this one; False if one has done so already."""
        return hold(self._raw.fileno())

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


class LocalDirectory(OneWriter):
    """A folder as a `Directory`.

    A relative path is resolved once: a later `chdir` of the process changes nothing. The holder of the lock writes to
    the folder that it locked, through a descriptor of it, and to no other folder that takes its place under the path:
    before every write it compares the two, and raises `StoreError` if they differ.

    Parameters
    ----------
    folder : Path
        The folder. It need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # as given, for messages
        # For everything else. Not `abspath`, which takes "link/.." for the folder of the link.
        self.path = folder if folder.is_absolute() else Path.cwd() / folder
        self._opened: OpenFolder | None = None  # the locked folder, where the system has calls relative to one
        self._identity: tuple[int, int] | None = None  # of the locked folder
        self._published: set[str | None] = set()  # versions that a name may have by this holder's own doing

    @property
    def _descriptor(self) -> int | None:
        """The descriptor of the locked folder; -1, which every call refuses, after the lock was released."""
        return None if self._opened is None else self._opened.descriptor

    def make_folder(self) -> None:
        """Create the folder if it is missing; its parent must exist. Another process may create it at the same time."""
        if self.path.is_dir():
            return
        if self.path.is_symlink():
            raise FileNotFoundError(errno.ENOENT, "is a link to a folder that does not exist", str(self.folder))
        with naming(self.folder):
            self.path.mkdir(exist_ok=True)
        _sync_names(self.path.parent)

    def _regular(self, name: str) -> Path:
        """Return the path of a file; FileFormatError if it is a link, which could lead out of the folder."""
        self._check_folder()
        path = self.path / name
        if path.is_symlink():
            raise FileFormatError(f"{self.describe(name)} is a symbolic link; expected a regular file")
        return path

    def _check_folder(self) -> None:
        """Raise StoreError if the path leads to another folder than the one that was locked."""
        if self._identity is None:
            return
        try:
            found = os.stat(self.path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise StoreError(
                f"{self.folder} was moved, removed or replaced while it was open for writing; nothing was written to "
                "what is there now; expected the folder that was opened"
            )

    def describe(self, name: str) -> str:
        """Return the path of a file as text."""
        return str(self.folder / name)

    def create(self, name: str) -> LocalFile:
        """Create a file; FileExistsError if the name is taken."""
        self._check_folder()
        return LocalFile(self.path / name, self._descriptor)

    def create_temporary(self, target: str) -> tuple[str, LocalFile]:
        """Create a file that will be renamed to `target`, and remove those that killed processes left there.

        It is held until it is closed, which should be after it has its final name.
        """
        sweep(self.path, target)
        while True:
            name = temporary_name(target)
            file = self.create(name)
            if file.hold():
                return name, file
            file.close()
            with suppress(OSError):  # of a sweep that has locked it, but not removed it yet
                self.remove(name)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other savers from renaming files here for a moment, in which the caller looks at a file and replaces it.

        It locks the folder itself, which writes nothing. A lock that somebody else holds for longer than a save does is
        not waited for, and file systems without locks go without.
        """
        opened = None
        try:
            opened = lock_folder(self.path)
            yield
        finally:
            if opened is not None:
                opened.close()

    def read(self, name: str, start: int, size: int) -> bytes:
        """Return at most `size` bytes from offset `start`."""
        path = self._regular(name)
        with open_for_reading(path, self.describe(name), follow_links=False) as file, naming(self.describe(name)):
            file.seek(start)
            parts = []
            while size > 0 and (part := file.read(size)):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self._regular(name).stat().st_size

    def fetch(self, name: str) -> Path:
        """Return the path of a file."""
        return self._regular(name)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(os.listdir(self.path if self._descriptor is None else self._descriptor))

    def remove(self, name: str) -> None:
        """Remove a name. Open and mapped files stay readable; on Windows the call fails instead."""
        with naming(self.describe(name)):
            if self._descriptor is None:
                (self.path / name).unlink()
            else:
                os.unlink(name, dir_fd=self._descriptor)

    def version(self, name: str) -> str | None:
        """Return what tells the contents apart for the holder of the lock, for others a constant; None for no file."""
        path = self._regular(name)
        with naming(self.describe(name)):  # of a folder that may not be searched, too: it is not an empty one
            try:
                size = os.lstat(path).st_size
            except (FileNotFoundError, NotADirectoryError):
                return None
        if self._identity is None:
            return _PRESENT
        return f"{size} {zlib.crc32(self.read(name, 0, _HEAD)):08x}"

    def publish(self, source: str, target: str, expected: str | None) -> str:
        """Rename a file over another, atomically.

        The lock excludes other writers, but not somebody who copies a backup over the files. So the holder of the lock
        compares versions. A call that failed may have renamed its file: that one is accepted, too.
        """
        self._check_folder()
        version, found = self.version(source), self.version(target)
        if self._identity is not None and found not in (expected, *self._published) and expected != _PRESENT:
            raise StoreError(
                f"{self.describe(target)} was replaced or removed while {self.folder} was open for writing; nothing "
                "was written to what is there now; expected the files of the last commit"
            )
        self._published = {found, version}  # until the call has succeeded
        with naming(self.describe(target)):
            if self._descriptor is None:
                os.replace(self.path / source, self.path / target)
            else:
                os.replace(source, target, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        self._published = {version}
        return str(version)

    def sync(self) -> None:
        """Return when the names in the folder are on disk."""
        if self._descriptor is None:
            _sync_names(self.path)
        else:
            _fsync(self._descriptor)

    def lock(self) -> FolderLock:
        """Take the right to write; StoreError if another writer has it, or if the lock is no regular file."""
        if os.open not in os.supports_dir_fd:
            lock, found = FolderLock(self.path, str(self.folder)), os.stat(self.path)
        else:
            with naming(self.folder):
                opened = OpenFolder(self.path)
            try:  # the lock is taken relative to it: of this folder, no other
                lock, found = FolderLock(self.path, str(self.folder), opened), os.fstat(opened.descriptor)
            except BaseException:
                opened.close()
                raise
            self._opened = opened
        self._identity = (found.st_dev, found.st_ino)
        return lock


def _sync_names(folder: Path) -> None:
    """Return when the names in a folder are on disk. Windows has no such call: NTFS keeps a journal of names."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)
