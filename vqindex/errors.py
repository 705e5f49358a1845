"""Errors and warnings of vqindex. Each message names the offending value and what was expected."""

from __future__ import annotations

import sys

__all__ = [
    "BackendError",
    "FileFormatError",
    "InvalidInputError",
    "OffsetWarning",
    "SlowCodecWarning",
    "StorageError",
    "StoreBusyError",
    "StoreConflictError",
    "StoreError",
    "UnknownIdError",
    "VQIndexError",
    "outside_of_package",
]


class VQIndexError(Exception):
    """Base class of all errors of this library."""


class InvalidInputError(VQIndexError, ValueError):
    """An argument or an array is not valid; nothing was changed."""


class UnknownIdError(VQIndexError, KeyError):
    """An id is not in the index."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, quotes and all.
        return str(self.args[0]) if self.args else ""


class FileFormatError(VQIndexError, ValueError):
    """A file is not an index, is damaged, or was written by an unknown version."""


class BackendError(VQIndexError, RuntimeError):
    """The requested backend or device can't be used on this machine."""


class StoreError(VQIndexError, RuntimeError):
    """A store or file can't be changed or read: another writer has it or changed it, or it is read-only or closed."""


class StoreBusyError(StoreError):
    """Another writer has a store open; the message names its process. Later the call may succeed."""


class StoreConflictError(StoreError):
    """Another writer committed changes that exclude those of this one; nothing was published."""


class StorageError(VQIndexError, OSError):
    """An object store refused a request or did not answer; the message names the URL, and never credentials."""


class OffsetWarning(UserWarning):
    """Vectors have a common offset much longer than their spread; ``center="mean"`` gives far more accurate scores."""


class SlowCodecWarning(UserWarning):
    """A backend has no kernel for some steps of a codec, so NumPy runs them: the same results, tens of times slower."""


def outside_of_package() -> int:
    """Return the stacklevel, for a warning of the calling function, of the first frame outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "vqindex":
        frame, level = frame.f_back, level + 1
    return level
