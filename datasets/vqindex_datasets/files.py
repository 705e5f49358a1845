"""Opening files, and saying why one can't be read: each reason has a message of its own."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from .errors import DatasetError

__all__ = ["DamagedFileError", "check_content", "check_file", "is_hdf5", "open_hdf5", "reading_hdf5", "reason"]

_LOCKED = "open for writing in another process, which holds its lock; expected a closed file"

# What the HDF5 library says, and what it means.
_IN_USE = {
    "unable to lock file": _LOCKED,
    "already open for write": "open for writing in another process, or its writer ended without closing it; expected "
    "a closed file (`h5clear -s FILE` mends the second case)",
}
_DAMAGED = {
    "file signature not found": "not an HDF5 file; expected an HDF5 file",
    "truncated file": "truncated: it is shorter than its header says; expected a whole HDF5 file",
}


class DamagedFileError(DatasetError):
    """A file is not HDF5, or its content is damaged; all other errors are those of opening it."""


def reason(error: OSError) -> str | None:
    """Return why the operating system refused a file; None for other errors."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied; expected a file that this user may read"
    if isinstance(error, IsADirectoryError):
        return "no such file, but a folder"
    if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.ETXTBSY):
        return _LOCKED
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files; expected a higher limit (`ulimit -n`), or fewer files at a time"
    return None


def check_file(path: Path, expected: str) -> None:
    """Raise DatasetError unless a path names a regular file that may be read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DatasetError(f"{path}: {reason(error) or error.strerror}; expected {expected}") from None
    if stat.S_ISDIR(mode):
        raise DatasetError(f"{path}: no such file, but a folder; expected {expected}")
    if not stat.S_ISREG(mode):
        raise DatasetError(f"{path}: no regular file, but a device, pipe or socket; expected {expected}")
    if not os.access(path, os.R_OK):
        raise DatasetError(f"{path}: permission denied; expected a file that this user may read")


def check_content(path: Path, expected: str) -> None:
    """Raise DatasetError for an empty file."""
    if path.stat().st_size == 0:
        raise DatasetError(f"{path}: an empty file (0 bytes); expected {expected}")


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    h5py.File
        The open file.

    Raises
    ------
    DatasetError
        If it can't be opened; the message says why. `DamagedFileError` if its content is the reason.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        why = reason(error) or next((meaning for words, meaning in _IN_USE.items() if words in str(error)), None)
        if why is not None:
            raise DatasetError(f"{path}: {why}") from error
        damage = next((meaning for words, meaning in _DAMAGED.items() if words in str(error)), None)
        damage = damage or f"cannot be opened ({error}); expected an undamaged HDF5 file"
        raise DamagedFileError(f"{path}: {damage}") from error


@contextmanager
def reading_hdf5(path: Path) -> Iterator[None]:
    """Make DatasetError of what h5py raises inside for damaged content, which is almost any class of error."""
    try:
        yield
    except DatasetError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise DamagedFileError(f"{path}: damaged ({error}); expected an undamaged HDF5 file") from error


def is_hdf5(path: Path) -> bool:
    """Return whether a regular file is HDF5, whole or damaged; False if it can't be read."""
    try:
        return path.is_file() and bool(h5py.is_hdf5(path))
    except OSError:
        return False
