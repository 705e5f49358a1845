"""Everything vqindex raises or warns of on purpose. Each message holds the offending value and what was expected."""

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
    """Base of every error of this library."""


class InvalidInputError(VQIndexError, ValueError):
    """An argument or an array does not fit; nothing was changed."""


class UnknownIdError(VQIndexError, KeyError):
    """An id is not in the index."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, quotes and all.
        return str(self.args[0]) if self.args else ""


class FileFormatError(VQIndexError, ValueError):
    """A file is not an index, is damaged, or was written by an unknown version."""


class BackendError(VQIndexError, RuntimeError):
    """The backend or device asked for can't be used here."""


class StoreError(VQIndexError, RuntimeError):
    """A store can't be used so: another writer has it, it is open for reading only, or it was closed."""


class SlowCodecWarning(UserWarning):
    """A backend has no kernel for some steps of a codec, so NumPy runs them: the same results, tens of times slower."""
