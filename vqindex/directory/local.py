"""The file system as saves and commits see it: every write, sync, rename and unlink passes through one object.

In use it is a thin layer over the system's calls. Tests put another in its place that fails, cuts writes short, or
"dies" at the i-th call, and that knows which bytes were promised to be on disk (``tests/support/faulty.py``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["FILES", "Files", "OutFile"]


def _fsync(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync alone leaves the data in the drive's cache there
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


class OutFile:
    """A new file, open for writing and for reading back what was written; unbuffered, and each write is whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._raw = open(path, "x+b", buffering=0)  # noqa: SIM115 - closed by whoever asked for it

    def write(self, data: Any) -> int:
        """Write all bytes; a system call may take fewer."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self._raw.write(view[done:]) or 0
        return done

    def sync(self) -> None:
        """Return when the bytes are on disk."""
        _fsync(self._raw.fileno())

    def close(self) -> None:
        """Close the file; says nothing about the disk."""
        self._raw.close()

    # What HDF5 needs besides: it reads back its own structures.

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the offset."""
        return self._raw.tell()

    def readinto(self, room: Any) -> int:
        """Read into a buffer."""
        return self._raw.readinto(room)

    def truncate(self, size: int) -> int:
        """Set the size."""
        return self._raw.truncate(size)


class Files:
    """The operations. Paths are of one folder: a rename never crosses file systems."""

    def create(self, path: Path) -> OutFile:
        """Make a new file; FileExistsError if there is one."""
        return OutFile(path)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target, atomically."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name; what is open or mapped stays readable (on Windows it fails instead)."""
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder are on disk. Windows has no such call: NTFS keeps a journal of names."""
        if os.name != "posix":
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _fsync(descriptor)
        finally:
            os.close(descriptor)


FILES = Files()
