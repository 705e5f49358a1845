"""Errors of this package: DatasetError for bad data, DownloadError for failed downloads."""

from __future__ import annotations

__all__ = ["DatasetError", "DownloadError"]


class DatasetError(ValueError):
    """A file, array or argument is not valid; the message names the value and what was expected."""


class DownloadError(OSError):
    """A data set could not be downloaded; the message names the address and the error."""
