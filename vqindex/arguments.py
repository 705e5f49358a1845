"""Checks of plain arguments: those of a search, and paths. ``arrays.py`` checks arrays."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import as_host
from .errors import InvalidInputError

__all__ = [
    "DEFAULT_CONFIDENCE",
    "DEFAULT_OVERSAMPLE",
    "MAX_K",
    "as_confidence",
    "as_count",
    "as_file_path",
    "as_level",
    "as_path",
    "as_shortlist",
    "as_threads",
    "as_thresholds",
]

DEFAULT_CONFIDENCE = 0.995
DEFAULT_OVERSAMPLE = 4
MAX_K = 2**31 - 1
_MAX_THREADS = 1024  # more than any scan profits from, and few enough to start


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path of the local file system, given as text, as bytes in the file system's encoding, or as an object.

    Raises
    ------
    InvalidInputError
        For what is no path, for a URL, and for an empty path, which would stand for the current folder.
    """
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise InvalidInputError(f"path is {path!r}; expected the path of a file or folder") from None
    if not text or "\0" in text:
        raise InvalidInputError(f"path is {text!r}; expected the path of a file or folder")
    slashes = "/" if isinstance(path, os.PathLike) else "//"  # a Path has lost the second one
    if re.match(rf"[a-zA-Z][a-zA-Z0-9+.-]+:{slashes}", text):
        raise InvalidInputError(f"{text} is a URL; expected a path of the local file system")
    return Path(text)


def as_file_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file to be written, as `as_path`; one that ends in a slash could only be a folder."""
    found = as_path(path)
    if os.fsdecode(path).endswith(("/", os.sep)):
        raise InvalidInputError(f"path is {os.fsdecode(path)!r}, which ends in a slash; expected the path of a file")
    return found


def as_count(name: str, value: object, most: int | None = None) -> int:
    """Return an integer of at least 1, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= (most or value):
        expected = "of at least 1, or None" if most is None else f"from 1 to {most}"
        raise InvalidInputError(f"{name} is {value!r}; expected an integer {expected}")
    return int(value)


def as_threads(value: object) -> int | None:
    """Return the most threads to use, or None for as many as processors."""
    return None if value is None else min(as_count("threads", value), _MAX_THREADS)


def as_confidence(value: object) -> float:
    """Return a confidence above 0.5 and at most 1; None means the default."""
    confidence = DEFAULT_CONFIDENCE if value is None else value
    if (
        isinstance(confidence, bool)
        or not isinstance(confidence, int | float | np.floating)
        or not 0.5 < confidence <= 1
    ):
        raise InvalidInputError(f"confidence is {value!r}; expected a number above 0.5 and at most 1")
    return float(confidence)


def as_level(name: str, value: object) -> float:
    """Return a probability above 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0 < value < 1:
        raise InvalidInputError(f"{name} is {value!r}; expected a probability above 0 and below 1, such as 0.95")
    return float(value)


def as_shortlist(k: int, oversample: object, total: int) -> int:
    """Return the length of a shortlist for k results: oversample * k, but at most `total`."""
    times = DEFAULT_OVERSAMPLE if oversample is None else oversample
    if isinstance(times, bool) or not isinstance(times, int | float | np.integer | np.floating) or not 1 <= times < 1e9:
        raise InvalidInputError(f"oversample is {oversample!r}; expected a number of at least 1")
    return min(math.ceil(float(times) * k), max(k, total))


def as_thresholds(value: Any, queries: int) -> NDArray[np.float32]:
    """Return float32 thresholds of shape (queries,) from one threshold for all queries, or one for each."""
    array = as_host(value)
    if array.dtype.kind not in "fiu" or array.shape not in ((), (queries,)):
        raise InvalidInputError(
            f"threshold has dtype {array.dtype} and shape {array.shape}; expected a number, or {queries} of them"
        )
    with np.errstate(over="ignore"):
        thresholds = np.ascontiguousarray(np.broadcast_to(array, (queries,)), np.float32)
    if np.isnan(thresholds).any():
        raise InvalidInputError(f"threshold is nan for query {int(np.argmax(np.isnan(thresholds)))}; expected a number")
    return thresholds
