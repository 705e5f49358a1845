"""Temporary files of saves. Those of a killed process are removed by the next save to the same target.

A save holds a shared lock on its temporary file from the moment it has made it until the file has its final name. The
system releases the lock when the process ends. So a sweep removes a file on which it gets an exclusive lock: nobody
writes it any more. It gets one as well between the moments at which a living save makes the file and locks it. That
save then finds its file without a name, and makes another one (`hold`).

A lock may not reach other machines that share the folder. The name of a file therefore tells the machine, and files of
others must also be a day old. Where a file system has no locks, and on Windows, nothing is removed.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

__all__ = ["hold", "sweep", "temporary_name"]

_FOREIGN_AGE = 86400  # seconds


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _stem(target: str) -> str:
    return f".{target[:32]}."  # only the beginning, so that a long name does not become too long


def temporary_name(target: str) -> str:
    """Return a new name for a file that will be renamed to `target`."""
    return f"{_stem(target)}{_machine()}{secrets.token_hex(4)}.tmp"


if sys.platform == "win32":

    def hold(descriptor: int) -> bool:
        """Take the file; always True: Windows removes no file that is open."""
        return True

    def _is_left(descriptor: int) -> bool:
        return False

else:
    import fcntl

    def hold(descriptor: int) -> bool:
        """Lock a temporary file that was just made; False if a sweep has removed it in between."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: HDF5 may read it once it has its name
        except BlockingIOError:
            return False
        except OSError:  # this file system has no locks, so there are no sweeps either
            return True
        return os.fstat(descriptor).st_nlink > 0

    def _is_left(descriptor: int) -> bool:
        """Whether nobody holds a file; then this descriptor does."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def sweep(folder: Path, target: str) -> None:
    """Remove the temporary files for `target` whose processes ended. A failure is harmless: a later sweep repeats it.

    Parameters
    ----------
    folder : Path
        The folder of the target.
    target : str
        The target's name.
    """
    pattern = re.compile(re.escape(_stem(target)) + r"([0-9a-f]{8})[0-9a-f]{8}\.tmp")
    with suppress(OSError):
        for name in os.listdir(folder):
            found = pattern.fullmatch(name)
            if found is not None:
                with suppress(OSError):
                    _remove_if_left(folder / name, is_ours=found[1] == _machine())


def _remove_if_left(path: Path, is_ours: bool) -> None:
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or not (is_ours or time.time() - status.st_mtime > _FOREIGN_AGE):
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        # Compared under the lock: the name may have come to another file since, and the file to its final name.
        if _is_left(descriptor) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            os.unlink(path)
    finally:
        os.close(descriptor)
