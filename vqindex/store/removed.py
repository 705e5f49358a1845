"""The files that say which rows of a segment are removed: a few words of head, then a bit per row."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from ..directory.protocol import Directory
from ..errors import FileFormatError
from .manifest import Removed, Segment

__all__ = ["read_removed", "write_removed"]

_HEAD = struct.Struct("<8sQQ")  # what it is, rows of the segment, rows removed
_MAGIC = b"VQIGONE1"


def write_removed(directory: Directory, number: int, bits: NDArray[np.bool_]) -> Removed:
    """Write and sync the file of a segment of bits.size rows, and return its entry. Set bits are removed rows."""
    count = int(np.count_nonzero(bits))
    packed = np.packbits(bits, bitorder="little")
    data = _HEAD.pack(_MAGIC, bits.size, count) + packed.tobytes()
    removed = Removed(number, count, zlib.crc32(data))
    file = directory.create(removed.name)
    try:
        file.write(data)
        file.sync()
    finally:
        file.close()
    return removed


def read_removed(directory: Directory, segment: Segment) -> NDArray[np.int64]:
    """Return the rows of a segment that are removed, ascending.

    Raises
    ------
    FileFormatError
        If the file does not say what the manifest says.
    """
    if segment.removed is None:
        return np.empty(0, np.int64)
    name = segment.removed.name
    path = directory.describe(name)
    expected_size = _HEAD.size + -(-segment.rows // 8)
    size = directory.size(name)
    if size != expected_size:  # checked before memory is allocated for it
        raise FileFormatError(f"{path}: has {size} bytes; expected {expected_size}")
    data = directory.read(name, 0, size + 1)
    if len(data) != size or zlib.crc32(data) != segment.removed.crc32:
        raise FileFormatError(f"{path}: damaged (its CRC-32 differs)")
    if _HEAD.unpack_from(data) != (_MAGIC, segment.rows, segment.removed.rows):
        raise FileFormatError(f"{path}: not for the {segment.rows} rows of {segment.name}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=_HEAD.size), bitorder="little")
    rows = np.flatnonzero(bits)
    if rows.size != segment.removed.rows or (rows.size and rows[-1] >= segment.rows):
        raise FileFormatError(f"{path}: has {rows.size} bits set; expected {segment.removed.rows} of {segment.rows}")
    return rows
