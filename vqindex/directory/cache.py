"""Copies of objects in a folder of this machine. Many processes may share the folder.

A copy gets its name by a rename, after it was checked. So a name leads to a whole file or to none, and a process that
has mapped a copy keeps it when another one replaces or removes it. A copy that is there already is checked before it is
used, once in each process, because other programs may write to the folder, and disks fail. A copy that does not check
is removed and fetched again.

The folder may have a limit. Then copies that were not used for the longest time are removed, but none that was used in
the last minutes: another process may have asked for its path and be about to open it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import FileFormatError, InvalidInputError
from .local import LocalDirectory

__all__ = ["Cache", "default_cache"]

_IN_USE = 600  # seconds since the last use

Identity = tuple[int, int, int, int]  # device, inode, bytes, and the time of the last change


def default_cache() -> Path:
    """Return the folder for copies where the user names none: that of the system for caches."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~\\AppData\\Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vqindex"


class Cache:
    """Copies of the objects under one URL.

    Parameters
    ----------
    url : str
        The URL. Each one has a folder of its own in the cache.
    folder : Path or None
        The folder of the cache; None makes a temporary one, which goes with this object.
    limit : int, optional
        Most bytes that copies take, of all URLs together. By default there is no limit.
    """

    def __init__(self, url: str, folder: Path | None, limit: int | None = None) -> None:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidInputError(f"cache_bytes is {limit!r}; expected a number of bytes, or None for no limit")
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="vqindex-", ignore_cleanup_errors=True)
            self._temporary = weakref.finalize(self, temporary.cleanup)
            folder = Path(temporary.name)
        self.root, self.limit = folder, limit
        self.folder = folder / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._checked: dict[str, Identity] = {}
        self._lock = threading.Lock()

    def _directory(self) -> LocalDirectory:
        self.folder.mkdir(parents=True, exist_ok=True)
        return LocalDirectory(self.folder)

    def path(
        self, name: str, size: int, check: Callable[[Path], object], download: Callable[[BinaryIO], object]
    ) -> Path:
        """Return the path of a checked copy.

        Parameters
        ----------
        name : str
            Name of the object.
        size : int
            Its bytes, for the limit.
        check : callable
            Raises FileFormatError for a file that is not the object.
        download : callable
            Writes the object to a file. It is called if there is no copy, or one that does not check.
        """
        path = self.folder / name
        if self._is_good(name, path, check):
            with suppress(OSError):  # the time of the last change stays: it tells readers that the file is the same
                os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))
            return path
        if self.limit is not None:
            self._make_room(size)
        directory = self._directory()
        temporary, file = directory.create_temporary(name)
        try:
            try:
                download(file)  # type: ignore[arg-type]
                check(self.folder / temporary)
                if os.name != "posix":
                    file.close()  # Windows renames no open file
                self._put(temporary, path)
            finally:
                file.close()
        except BaseException:
            with suppress(OSError):
                directory.remove(temporary)
            raise
        self._remember(name, path)
        return path

    def _put(self, temporary: str, path: Path) -> None:
        """Give a checked copy its name, whatever has that name now."""
        try:
            os.replace(self.folder / temporary, path)
        except OSError:
            if path.is_dir() and not path.is_symlink():  # a copy can't take the place of a folder
                raise
            with suppress(OSError):
                path.unlink()
            os.replace(self.folder / temporary, path)

    def _is_good(self, name: str, path: Path, check: Callable[[Path], object]) -> bool:
        """Whether a copy is there and checks; one that does not is removed."""
        identity = _identity(path)
        if identity is None:
            with suppress(OSError):  # of a link
                path.unlink()
            return False
        if self._checked.get(name) == identity:
            return True
        try:
            check(path)
        except (FileFormatError, OSError):
            with suppress(OSError):
                path.unlink()
            return False
        self._remember(name, path, identity)
        return True

    def _remember(self, name: str, path: Path, identity: Identity | None = None) -> None:
        identity = _identity(path) if identity is None else identity
        if identity is not None:
            with self._lock:
                self._checked[name] = identity

    def _make_room(self, size: int) -> None:
        """Remove copies, those that were not used for the longest time first, until `size` more bytes are free."""
        assert self.limit is not None
        copies = []
        for path in self.root.glob("*/*"):
            with suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and not path.name.startswith("."):
                    copies.append((max(status.st_atime, status.st_mtime), status.st_size, path))
        total = sum(length for _, length, _ in copies) + size
        for used, length, path in sorted(copies):
            if total <= self.limit or used > time.time() - _IN_USE:
                break
            with suppress(OSError):
                path.unlink()
                total -= length


def _identity(path: Path) -> Identity | None:
    """Return which file a path leads to, None if that is no regular file."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
