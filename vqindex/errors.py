"""Errors and warnings of vqindex. Each message names the offending value and what was expected."""

from __future__ import annotations

__all__ = [
    "BackendError",
    "FileFormatError",
    "InvalidInputError",
    "SlowCodecWarning",
    "StoreError",
    "UnknownIdError",
    "VQIndexError",
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
    """A store can't be changed or read: another writer has it, it is open for reading only, or it is closed."""


class SlowCodecWarning(UserWarning):
    """A backend has no kernel for some steps of a codec, so NumPy runs them: the same results, tens of times slower."""
