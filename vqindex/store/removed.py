"""The files that say which rows of a segment are removed: a head of 24 bytes, then one bit for each row."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from ..directory.protocol import Directory, OutputFile
from ..errors import FileFormatError
from .manifest import RemovedEntry, SegmentEntry

__all__ = ["read_removed", "size_of_removed", "write_removed"]

_HEAD = struct.Struct("<8sQQ")  # magic, rows of the segment, removed rows
_MAGIC = b"VQIGONE1"


def size_of_removed(rows: int) -> int:
    """Return the bytes of the file of a segment with so many rows."""
    return _HEAD.size + -(-rows // 8)


def write_removed(file: OutputFile, bits: NDArray[np.bool_]) -> int:
    """Write the file of a segment of bits.size rows, and sync it; return its CRC-32. Set bits are removed rows."""
    packed = np.packbits(bits, bitorder="little")
    data = _HEAD.pack(_MAGIC, bits.size, int(np.count_nonzero(bits))) + packed.tobytes()
    file.write(data)
    file.sync()
    return zlib.crc32(data)


def read_removed(directory: Directory, segment: SegmentEntry, removed: RemovedEntry) -> NDArray[np.int64]:
    """Return the removed rows of a segment, ascending.

    Raises
    ------
    FileFormatError
        If the file does not say what the manifest says.
    """
    where = directory.describe(removed.name)
    expected_size = size_of_removed(segment.rows)
    data = directory.read(removed.name, 0, expected_size + 1)
    if len(data) != expected_size:
        raise FileFormatError(f"{where}: has {directory.size(removed.name)} bytes; expected {expected_size}")
    if zlib.crc32(data) != removed.crc32:
        raise FileFormatError(f"{where}: damaged (its CRC-32 differs)")
    if _HEAD.unpack_from(data) != (_MAGIC, segment.rows, removed.rows):
        raise FileFormatError(f"{where}: not for the {segment.rows} rows of {segment.name}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=_HEAD.size), bitorder="little")
    rows = np.flatnonzero(bits)
    if rows.size != removed.rows or (rows.size and rows[-1] >= segment.rows):
        raise FileFormatError(f"{where}: has {rows.size} bits set; expected {removed.rows} of {segment.rows}")
    return rows
