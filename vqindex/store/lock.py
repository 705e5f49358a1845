"""One writer at a time: a lock on a file, which the kernel lets go of when the process ends, however it ends."""

from __future__ import annotations

import os
import socket
import sys
import weakref
from pathlib import Path

from ..errors import StoreError

__all__ = ["LOCK", "WriterLock"]

LOCK = "lock"
_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()

if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30  # the locked byte can't be read by others, so it lies behind the text

    def _take(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _take(descriptor: int) -> None:
        # flock belongs to the open file: a second one in this process is refused too.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class WriterLock:
    """The right to write to a store, held until `release`.

    Parameters
    ----------
    folder : path
        The store.

    Raises
    ------
    StoreError
        If another writer has it; the message names its process.
    """

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(descriptor)
        except OSError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise StoreError(f"{folder} is open for writing by {holder}; expected one writer at a time") from None
        self._pid = os.getpid()
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {self._pid} on {socket.gethostname()}\n".encode())
        # Closing lets the next writer in. The file stays: if it were removed, two could hold locks on two of that name.
        self.release = weakref.finalize(self, os.close, descriptor)
        _held.add(self)

    @property
    def held(self) -> bool:
        """Whether this process has it: a fork's child does not."""
        return self.release.alive and self._pid == os.getpid()


def _forget_in_child() -> None:
    """Close what a fork copied, or the lock would live as long as the child."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
