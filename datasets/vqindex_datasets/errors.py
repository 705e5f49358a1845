"""Errors of this package: one for bad data, one for failed transfers."""

from __future__ import annotations

__all__ = ["DatasetError", "DownloadError"]


class DatasetError(ValueError):
    """A file, array or argument is not usable; the message holds the value and what was expected."""


class DownloadError(OSError):
    """A data set could not be fetched; the message holds the address and what went wrong."""
