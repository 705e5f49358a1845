"""One writer at a time: a lock on a file. The kernel releases it when the process ends, for whatever reason."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import sys
import time
import weakref
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .system import OpenFolder, system_error

__all__ = ["LOCK", "FolderLock", "lock_folder"]

LOCK = "lock"
# What the system says if somebody else has the lock; every other error says that there are no locks.
_HELD = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
_PATIENCE = 1.0  # seconds; a saver holds the lock of a folder for milliseconds
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()

if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30  # others can't read the locked byte, so it lies past the end of the text

    def _lock_exclusively(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def lock_folder(folder: Path) -> int | None:
        """Return None: folders can't be locked."""
        return None

else:
    import fcntl

    def _lock_exclusively(descriptor: int) -> None:
        # flock belongs to the open file, so it also refuses a second lock in this process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def lock_folder(folder: Path) -> int | None:
        """Lock a folder itself, and return the descriptor that holds the lock; None if that can't be done soon."""
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:  # a folder may be writable and not readable
            return None
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                _lock_exclusively(descriptor)
                return descriptor
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.001)
                    continue
            except OSError:
                pass
            os.close(descriptor)
            return None


class FolderLock:
    """The right to write to a folder, held until `release`.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        The folder as messages call it.
    opened : OpenFolder, optional
        The folder, open; `release` closes it.

    Raises
    ------
    StoreError
        If another writer has it (the message names its process), or if the lock is a link or no regular file.
    OSError
        If the lock can't be opened, or the file system has no locks.
    """

    _file: io.FileIO | None = None
    _opened: OpenFolder | None = None

    def __init__(self, folder: Path, name: str, opened: OpenFolder | None = None) -> None:
        path, where = folder / LOCK, os.path.join(name, LOCK)
        self._opened, self._pid = opened, os.getpid()
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise StoreError(f"{where} is a link or no regular file; expected the lock of a store")
        # Without following a link that someone made since: opening it would empty the file it leads to. And without
        # waiting for the other end of a pipe.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        name_here: Any = path if opened is None else LOCK
        options: dict[str, Any] = {} if opened is None else {"dir_fd": opened.number}
        try:
            # A file object, which closes itself if an interrupt comes before anybody else could.
            file = io.FileIO(os.open(name_here, flags, 0o666, **options), "r+")
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise StoreError(f"{where} is a link or no regular file; expected the lock of a store") from None
            raise system_error(error, where) from None
        self._file = file
        try:
            self._take(file, name, where)
        except BaseException:
            file.close()
            raise
        _held.add(self)

    def _take(self, file: io.FileIO, name: str, where: str) -> None:
        """Lock the file, and write into it who has it."""
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise StoreError(f"{where} is a link or no regular file; expected the lock of a store")
        try:
            _lock_exclusively(file.fileno())
        except OSError as error:
            holder = (file.read(200) or b"").decode(errors="replace").strip() or "another process"
            if error.errno in _HELD:
                raise StoreError(f"{name} is open for writing by {holder}; expected one writer at a time") from None
            text = f"this file system can't lock files ({os.strerror(error.errno or 0)}); a store needs one that can"
            raise OSError(error.errno, text, where) from None
        file.truncate(0)
        file.write(f"process {self._pid} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Let the next writer in. It can be called again, also after an interrupt in an earlier call.

        Closing the file releases the lock. The file is never removed: a writer that has opened the old file and one
        that creates a new file of the same name would both hold a lock.
        """
        if self._file is not None:
            self._file.close()
        if self._opened is not None:
            self._opened.close()

    __del__ = release

    @property
    def held(self) -> bool:
        """Whether this process holds the lock; a child of a fork does not."""
        return self._file is not None and not self._file.closed and self._pid == os.getpid()


def _forget_in_child() -> None:
    """Close the descriptors that a fork copied; otherwise the lock would last as long as the child."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
