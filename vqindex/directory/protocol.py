"""The directory seam: what a store needs of the place where its files lie.

A store writes a file once, under a name that it never used before, and replaces only one name, the manifest. So a
directory needs no renaming in general, no appending and no locking of ranges. It needs seven operations: create a file,
read a range, list, remove, publish, sync, and lock.

`publish` is the commit point. It gives a finished file the name that readers look for, if that name still holds what
the writer read before. Two kinds of directory keep two writers from overwriting each other in two ways:

* A folder has an exclusive lock (``lock.py``). Its holder is the only writer, so `publish` is an atomic rename. It
  compares which file has the name only because somebody may copy a backup over the files.
* Object storage (``objects.py``) has no lock that survives a crash, but a conditional put. There, `version` is the
  entity tag of an object, `publish` succeeds only if the tag is still the expected one, and `sync` has nothing to do.

An error from `publish` leaves open which of the two contents the name holds: a rename may be on disk although the call
failed, and a put may have succeeded although its answer was lost. Only `StoreError` says that nothing was published.

A writer numbers its files itself, so without a lock two writers may take the same number. There, names hold `writer`
besides, which no two writers share. `create` refuses a name that is taken all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

__all__ = ["Directory", "NamedFile", "OneWriter", "OutputFile", "WriterLock"]


class NamedFile(NamedTuple):
    """A file that a manifest names, and that is about to be read.

    Attributes
    ----------
    name : str
        Its name.
    size : int
        Its bytes.
    check : callable
        Raises FileFormatError for the path of a file that is not the one that the manifest names.
    """

    name: str
    size: int
    check: Callable[[Path], object]


class OutputFile(Protocol):
    """A new file that is being written. HDF5 also reads back what it wrote."""

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer at the current offset, and return their number."""

    def sync(self) -> None:
        """Return when the bytes are durable."""

    def close(self) -> None:
        """Close the file. This does not make its bytes durable."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset."""

    def tell(self) -> int:
        """Return the current offset."""

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer and return the number of bytes."""

    def truncate(self, size: int) -> int:
        """Set the size in bytes."""


class WriterLock(Protocol):
    """The right to write to a directory."""

    def release(self) -> Any:
        """Let the next writer in."""

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""


class Directory(Protocol):
    """Files by name, all in one place. Names contain no separators.

    Attributes
    ----------
    writer : str or None
        Where several writers work at the same time, what the names of files of this one hold; None where a lock
        excludes others.
    read_ahead : int
        Bytes to ask for in the first read of a manifest. More cost a folder time, and a second read an object store a
        request.
    version_read : str or None
        Where `writer` is not None: the version of the manifest that was read last.
    published_at : float or None
        Where `writer` is not None: when that manifest was published, by the clock of the place.
    """

    writer: str | None
    read_ahead: int
    version_read: str | None
    published_at: float | None

    def describe(self, name: str) -> str:
        """Return where a file is, for error messages."""

    def create(self, name: str) -> OutputFile:
        """Create a file.

        Raises
        ------
        FileExistsError
            If the name is taken.
        """

    def read(self, name: str, start: int, size: int) -> bytes:
        """Return at most `size` bytes from offset `start`, all from one content of the name.

        Raises
        ------
        FileNotFoundError
            If there is no such file; its ``filename`` is `describe` of the name.
        """

    def size(self, name: str) -> int:
        """Return the size of a file in bytes; raises FileNotFoundError as `read` does."""

    def fetch(self, name: str) -> Path:
        """Return a path at which a file can be opened and mapped: its own, or that of a copy."""

    def bring(self, files: Iterable[NamedFile]) -> None:
        """Make copies at hand of files that `fetch` or `read` is about to be called for, where they are far away.

        Raises
        ------
        FileNotFoundError
            If a file is missing; as `read`.
        FileFormatError
            If a file is not the one that the manifest names.
        """

    def names(self) -> list[str]:
        """Return all names, sorted."""

    def removable(self) -> list[str]:
        """Return the names of files that nobody needs unless a manifest names them."""

    def new_token(self) -> str:
        """Return what tells the next manifest from all others, where there are several writers."""

    def remove(self, name: str) -> None:
        """Remove a file. Readers that have opened or mapped it keep its bytes."""

    def version(self, name: str) -> str | None:
        """Return a token of a name's content for `publish`; None if there is no such file."""

    def publish(self, source: str, target: str, expected: str | None) -> str:
        """Give the file `source` the name `target`, atomically, and return the new version.

        Parameters
        ----------
        source : str
            A file that was created, written and synced. Its old name is gone afterwards.
        target : str
            The name to replace.
        expected : str or None
            What `version` returned before the caller read `target`.

        Raises
        ------
        StoreError
            If another writer changed `target`. Nothing is published.
        """

    def sync(self) -> None:
        """Return when all names are durable: of files created, published and removed."""

    def lock(self) -> WriterLock:
        """Take the right to write.

        Raises
        ------
        StoreError
            If another writer has it; the message names its process.
        """


class OneWriter:
    """What a directory on this machine, with one writer at a time, says of what concerns others."""

    writer: str | None = None
    read_ahead: int = 2**16
    version_read: str | None = None
    published_at: float | None = None

    def bring(self, files: Iterable[NamedFile]) -> None:
        """Do nothing: the files are here."""

    def removable(self) -> list[str]:
        """Return all names: readers that have opened or mapped a file keep its bytes."""
        return self.names()

    def new_token(self) -> str:
        """Return an empty text: nobody else publishes manifests."""
        return ""

    def names(self) -> list[str]:
        """Return all names, sorted."""
        raise NotImplementedError
