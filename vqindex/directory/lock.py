"""One writer at a time: a lock on a file. The kernel releases it when the process ends, for whatever reason."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from pathlib import Path

from ..errors import StoreError

__all__ = ["LOCK", "FolderLock"]

LOCK = "lock"
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()

if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30  # others can't read the locked byte, so it lies past the end of the text

    def _lock_exclusively(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock_exclusively(descriptor: int) -> None:
        # flock belongs to the open file, so it also refuses a second lock in this process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderLock:
    """The right to write to a folder, held until `release`.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        The folder as messages call it.
    descriptor : int, optional
        An open descriptor of the folder; `release` closes it.

    Raises
    ------
    StoreError
        If another writer has it (the message names its process), or if the lock is a link or no regular file.
    """

    def __init__(self, folder: Path, name: str, descriptor: int | None = None) -> None:
        folder_descriptor, path = descriptor, folder / LOCK
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise StoreError(f"{os.path.join(name, LOCK)} is a link or no regular file; expected the lock of a store")
        # Without following a link that someone made since: opening it would empty the file it leads to.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        if folder_descriptor is None:
            descriptor = os.open(path, flags, 0o666)
        else:
            descriptor = os.open(LOCK, flags, 0o666, dir_fd=folder_descriptor)
        try:
            _lock_exclusively(descriptor)
        except OSError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise StoreError(f"{name} is open for writing by {holder}; expected one writer at a time") from None
        self._pid = os.getpid()
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {self._pid} on {socket.gethostname()}\n".encode())
        # Closing the file releases the lock. The file is never removed: a writer that has opened the old file and one
        # that creates a new file of the same name would both hold a lock.
        self.release = weakref.finalize(self, _close, descriptor, folder_descriptor)
        _held.add(self)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock; a child of a fork does not."""
        return self.release.alive and self._pid == os.getpid()


def _close(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)


def _forget_in_child() -> None:
    """Close the descriptors that a fork copied; otherwise the lock would last as long as the child."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
