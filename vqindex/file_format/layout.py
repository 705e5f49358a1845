"""Names, version and checksums that the writer and the readers share. FORMAT.md describes them."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..rows.originals import KINDS

__all__ = [
    "BLOCKS",
    "CHECK_BYTES",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "HEADER",
    "PAGE",
    "RECORDS_VERSION",
    "Checksummer",
    "canonical_json",
    "dtypes_of",
]

FORMAT_NAME = "vqindex"
FORMAT_VERSION = 3
RECORDS_VERSION = 4  # of files whose rows are records
HEADER = "header"
CHECK_BYTES = 2**22  # one CRC-32 for every 4 MiB of a block
PAGE = 4096  # bytes; larger blocks begin at a multiple of it, so that maps of them are aligned

# Blocks in file order, with their little-endian types; levels may be int8 or int16.
BLOCKS = (
    "thresholds",
    "levels",
    "center",
    "signs",
    "codes",
    "factor",
    "norm",
    "records",
    "links",
    "ids",
    "names",
    "name_ends",
    "vectors",
    "vector_scale",
)


def dtypes_of(block: str) -> tuple[str, ...]:
    """Return the types a block may have."""
    return {
        "thresholds": ("<f4",),
        "levels": ("|i1", "<i2"),
        "center": ("<f4",),
        "signs": ("|u1",),
        "codes": ("|u1",),
        "factor": ("<f4",),
        "norm": ("<f4",),
        "records": ("|u1",),
        "links": ("|u1",),
        "ids": ("<i8",),
        "names": ("|u1",),
        "name_ends": ("<i8",),
        "vectors": tuple(KINDS.values()),
        "vector_scale": ("<f4",),
    }[block]


class Checksummer:
    """CRC-32 of a byte stream, one for every CHECK_BYTES, regardless of how the stream is divided into updates."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, array: NDArray[Any]) -> None:
        """Add the bytes of a C-contiguous array."""
        view = array.reshape(-1).view(np.uint8).data
        while len(view):
            part = view[: CHECK_BYTES - self._filled]
            self._crc = zlib.crc32(part, self._crc)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == CHECK_BYTES:
                self._done.append(self._crc)
                self._crc = self._filled = 0

    def sums(self) -> list[int]:
        """Return the checksums so far. The last one covers the bytes that do not fill CHECK_BYTES."""
        return [*self._done, self._crc] if self._filled else list(self._done)


def _check_json(value: Any, name: str, within: tuple[int, ...] = ()) -> None:
    """Raise InvalidInputError for what would not be the same after a way through JSON; tuples become lists."""
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return
    if id(value) in within:
        raise InvalidInputError(f"{name} holds itself; expected JSON types")
    inner = (*within, id(value))
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(f"{name} has the key {key!r}; expected text")
            _check_json(item, f"{name}[{key!r}]", inner)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_json(item, f"{name}[{number}]", inner)
    else:
        raise InvalidInputError(
            f"{name} is {value!r} of type {type(value).__name__}; expected JSON types: text, finite numbers, True, "
            "False, None, lists, or dicts of these"
        )


def canonical_json(value: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the UTF-8 bytes of a JSON object with sorted keys and no spaces.

    Raises
    ------
    InvalidInputError
        If a user's notes, its "meta", are no JSON; the message names the entry.
    """
    _check_json(value["meta"], "meta")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return np.frombuffer(text.encode(), np.uint8)
