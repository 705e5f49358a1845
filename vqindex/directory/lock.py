"""One writer at a time: a lock on a file. The kernel releases it when the process ends, for whatever reason."""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import stat
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StoreBusyError, StoreError
from .system import system_error

__all__ = ["LOCK", "FolderLock", "OpenFolder", "lock_folder", "share_folder", "without_writer"]

LOCK = "lock"
# What the system says if somebody else has the lock; every other error says that there are no locks.
_HELD = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
# Without following a link that someone made since: opening it would empty the file it leads to. And without waiting for
# the other end of a pipe.
_LOCK_FLAGS = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# What a lock may hold: what a writer wrote, perhaps over a longer line, nothing, or zeros after a power cut.
_OURS = re.compile(rb"process \d+ on [^\n]*\n(?:[^\n]*\n)?|\0*")
_LOOKS = 50  # for the name of a holder, a millisecond apart
_PATIENCE = 1.0  # seconds; a saver holds the lock of a folder for milliseconds
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()

if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30  # others can't read the locked byte, so it lies past the end of the text

    def _lock_exclusively(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _lock_shared(descriptor: int) -> None:
        raise OSError(errno.ENOTSUP, "folders and read-only files can't be locked here")
else:
    import fcntl

    def _lock_exclusively(descriptor: int) -> None:
        # flock belongs to the open file, so it also refuses a second lock in this process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _lock_shared(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


class OpenFolder:
    """A descriptor of a folder. It is closed by `close`, or when nothing refers to the object any more.

    Parameters
    ----------
    folder : Path
        The folder.
    """

    descriptor = -1

    def __init__(self, folder: Path) -> None:
        self.descriptor = os.open(folder, os.O_RDONLY)

    def close(self) -> None:
        """Close it; a second call does nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def lock_folder(folder: Path, patience: float | None = None) -> OpenFolder | None:
    """Lock a folder itself, and return it open: `close` frees the lock. None if it can't be locked soon.

    Windows does not open folders, so it never locks them.

    Parameters
    ----------
    folder : Path
        The folder.
    patience : float, optional
        Seconds to wait for whoever has locked it.
    """
    return _locked(folder, _lock_exclusively, _PATIENCE if patience is None else patience)


def share_folder(folder: Path) -> OpenFolder | None:
    """Lock a folder as `lock_folder`, together with others that share it: `lock_folder` fails until all have left."""
    return _locked(folder, _lock_shared, _PATIENCE)


@contextmanager
def without_writer(folder: Path, patience: float = 0.0) -> Iterator[bool]:
    """Keep writers from locking a folder for a moment; False if one has it. It makes nothing.

    Parameters
    ----------
    folder : Path
        The folder.
    patience : float
        Seconds to wait for a writer.
    """
    flags = os.O_RDONLY | _LOCK_FLAGS & ~os.O_CREAT
    try:
        file = io.FileIO(folder / LOCK, opener=lambda path, _: os.open(path, flags))
    except OSError:  # nobody ever locked it, or it can't be asked
        yield True
        return
    with file:
        yield _is_shared(file.fileno(), time.monotonic() + patience)


def _is_shared(descriptor: int, until: float) -> bool:
    while True:
        try:
            _lock_shared(descriptor)
        except OSError as error:  # noqa: PERF203
            if error.errno not in _HELD:  # this file system has no locks
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.001)
        else:
            return True


def _locked(folder: Path, take: Callable[[int], None], patience: float) -> OpenFolder | None:
    try:
        opened = OpenFolder(folder)
    except OSError:  # a folder may be writable and not readable
        return None
    until = time.monotonic() + patience
    try:
        while not _is_taken(opened, take):
            if time.monotonic() >= until:
                opened.close()
                return None
            time.sleep(0.001)
    except OSError:  # this file system has no locks
        opened.close()
        return None
    except BaseException:
        opened.close()
        raise
    return opened


def _is_taken(opened: OpenFolder, take: Callable[[int], None]) -> bool:
    """Lock an open folder; False if somebody else has locked it."""
    try:
        take(opened.descriptor)
    except BlockingIOError:
        return False
    return True


class FolderLock:
    """The right to write to a folder, held until `release`.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        The folder as messages call it.
    opened : OpenFolder, optional
        The same folder, open; `release` closes it.

    Raises
    ------
    StoreBusyError
        If another writer has it; the message names its process.
    StoreError
        If the lock is a link or no regular file.
    OSError
        If the lock can't be opened, or the file system has no locks.
    """

    def __init__(self, folder: Path, name: str, opened: OpenFolder | None = None) -> None:
        path, where = folder / LOCK, os.path.join(name, LOCK)
        wrong_kind = f"{where} is a link or no regular file; expected the lock of a store"
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise StoreError(wrong_kind)

        def opener(path: str, flags: int) -> int:
            if opened is None:
                return os.open(path, flags | _LOCK_FLAGS, 0o666)
            return os.open(LOCK, flags | _LOCK_FLAGS, 0o666, dir_fd=opened.descriptor)

        try:
            # The object owns the descriptor from the beginning: an interrupt at any point closes it and so releases
            # the lock.
            file = io.FileIO(path, "r+", opener=opener)
        except IsADirectoryError:
            raise StoreError(wrong_kind) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StoreError(wrong_kind) from None
            raise system_error(error, where) from None
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StoreError(wrong_kind)
            _lock_exclusively(file.fileno())
        except OSError as error:
            holder = _holder(file.fileno()) if error.errno in _HELD else ""
            file.close()
            if error.errno in _HELD:
                raise StoreBusyError(f"{name} is open for writing by {holder}; expected one writer at a time") from None
            text = f"this file system can't lock files ({os.strerror(error.errno or 0)}); a store needs one that can"
            raise OSError(error.errno, text, where) from None
        except BaseException:
            file.close()
            raise
        try:
            self._pid = os.getpid()
            _sign(file.fileno(), where, self._pid)
            # Closing the file releases the lock. The file is never removed: a writer that has opened the old file and
            # one that creates a new file of the same name would both hold a lock.
            self.release = weakref.finalize(self, _close, file, opened)
            _held.add(self)
        except BaseException:
            file.close()
            raise

    @property
    def held(self) -> bool:
        """Whether this process holds the lock; a child of a fork does not."""
        return self.release.alive and self._pid == os.getpid()


def _holder(descriptor: int) -> str:
    """Return who holds a lock that is taken: he writes his name just after he has taken it."""
    for _ in range(_LOOKS):
        os.lseek(descriptor, 0, os.SEEK_SET)
        found = os.read(descriptor, 200).decode(errors="replace").strip("\0 \n").partition("\n")[0]
        if found:
            return found
        time.sleep(0.001)
    return "another process"


def _sign(descriptor: int, where: str, pid: int) -> None:
    """Write into a lock who holds it. StoreError if it is a file of another kind, perhaps by a hard link."""
    found, text = os.read(descriptor, 400), f"process {pid} on {socket.gethostname()}\n".encode()
    if _OURS.fullmatch(found) is None:
        raise StoreError(f"{where} holds something else than the lock of a store; it was left as it is")
    if found != text:  # a writer of short changes takes the lock again and again
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text)  # at once: a process that is refused meanwhile finds a name
        os.ftruncate(descriptor, len(text))


def _close(file: io.FileIO, opened: OpenFolder | None) -> None:
    try:
        file.close()
    finally:
        if opened is not None:
            opened.close()


def _forget_in_child() -> None:
    """Close the descriptors that a fork copied; otherwise the lock would last as long as the child."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
