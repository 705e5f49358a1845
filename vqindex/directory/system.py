"""Calls of the operating system: opening a file once, and errors that name the user's path."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FileFormatError

__all__ = ["kind_of", "naming", "open_for_reading", "system_error"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_TEXTS = {
    errno.EMFILE: "too many open files in this process; raise its limit (ulimit -n), or keep fewer files open",
    errno.ENFILE: "too many open files on this system; raise its limit, or keep fewer files open",
}


def kind_of(mode: int) -> str:
    """Return what is not a regular file as text."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def system_error(error: OSError, where: object) -> OSError:
    """Return an error of the system with the path that the user knows; at the limit of open files it says what to do.

    Parameters
    ----------
    error : OSError
        The system's error.
    where : object
        The path for the message.
    """
    if error.errno is None:
        return error
    # The constructor chooses the subclass: FileNotFoundError, PermissionError, ...
    text = _TEXTS.get(error.errno) or error.strerror or os.strerror(error.errno)
    return OSError(error.errno, text, str(where))


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Give errors of the system the path that the user knows."""
    try:
        yield
    except OSError as error:
        raise system_error(error, where) from None


def open_for_reading(path: Path, where: object = None, *, follow_links: bool = True) -> io.FileIO:
    """Open a regular file, unbuffered.

    Parameters
    ----------
    path : Path
        The file.
    where : object, optional
        The path for messages; by default `path`.
    follow_links : bool
        Whether the file may be a symbolic link.

    Raises
    ------
    OSError
        From the system, with the path.
    IsADirectoryError
        If it is a folder.
    FileFormatError
        If it is a pipe, a device or a socket, or a link that may not be followed.
    """
    where = path if where is None else where
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # without it, opening a pipe waits for somebody to write to it
    if not follow_links:
        if path.is_symlink():
            raise FileFormatError(f"{where} is a symbolic link; expected a regular file")
        flags |= getattr(os, "O_NOFOLLOW", 0)  # one may have been made since
    try:
        file = io.FileIO(path, opener=lambda path, _: os.open(path, flags))
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_links:
            raise FileFormatError(f"{where} is a symbolic link; expected a regular file") from None
        if error.errno == errno.ENXIO:  # a socket
            raise FileFormatError(f"{where} is {kind_of(os.stat(path).st_mode)}; expected a regular file") from None
        raise system_error(error, where) from None
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        raise FileFormatError(f"{where} is {kind_of(mode)}; expected a regular file")
    return file
