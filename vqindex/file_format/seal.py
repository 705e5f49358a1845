"""The seal: the first page of a file. It holds the length of the file and the CRC-32 of all bytes after the page.

HDF5 calls such a page a user block and skips it. The seal covers bytes that no other checksum covers: those between
blocks, and the HDF5 structures without a checksum of their own.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple, Protocol

from ..errors import FileFormatError
from .layout import PAGE
from .source import Source

__all__ = ["Seal", "check_bytes", "page_of", "read_seal", "write_seal"]

MAGIC = b"vqindex\n"
_FIELDS = struct.Struct("<8sQI")  # magic, bytes of the whole file, CRC-32 of those after the page
_CRC = struct.Struct("<I")  # of the fields
_CHUNK = 2**20


class Seal(NamedTuple):
    """What a seal says.

    Attributes
    ----------
    size : int
        Bytes of the file.
    crc32 : int
        CRC-32 of the bytes after the first page.
    """

    size: int
    crc32: int


class _Readable(Protocol):
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def readinto(self, buffer: bytearray, /) -> int | None: ...


class _Writable(_Readable, Protocol):
    def write(self, data: bytes, /) -> int | None: ...


def _measured(file: _Readable, start: int) -> Seal:
    """Return a file's length and the CRC-32 of its bytes from `start` on."""
    size, crc, buffer = file.seek(start), 0, bytearray(_CHUNK)
    while got := file.readinto(buffer):
        crc = zlib.crc32(memoryview(buffer)[:got], crc)
        size += got
    return Seal(size, crc)


def page_of(seal: Seal) -> bytes:
    """Return the page that holds a seal."""
    fields = _FIELDS.pack(MAGIC, *seal)
    return (fields + _CRC.pack(zlib.crc32(fields))).ljust(PAGE, b"\0")


def write_seal(file: _Writable) -> Seal:
    """Fill the first page of a file that is otherwise complete, and return its seal."""
    seal = _measured(file, PAGE)
    file.seek(0)
    file.write(page_of(seal))
    return seal


def read_seal(source: Source) -> Seal | None:
    """Return the seal of a file; None if it does not begin with one.

    Raises
    ------
    FileFormatError
        If the page is damaged, or the length of the file differs from the one in the page.
    """
    path, page = source.path, source.read(0, PAGE)
    if not page.startswith(MAGIC):
        return None
    seal = Seal(*_FIELDS.unpack_from(page.ljust(_FIELDS.size))[1:])
    if page != page_of(seal):
        raise FileFormatError(f"{path}: its first page is damaged or cut off (its CRC-32, or what fills it, differs)")
    if source.size != seal.size:
        raise FileFormatError(f"{path}: has {source.size} bytes, truncated or grown; expected {seal.size}")
    return seal


def check_bytes(source: Source, start: int, crc32: int) -> None:
    """Read a file from a byte on in bounded memory, and compare it with a CRC-32.

    Raises
    ------
    FileFormatError
        If it differs.
    """
    crc, buffer = 0, memoryview(bytearray(_CHUNK))
    for at in range(start, source.size, _CHUNK):
        part = buffer[: source.size - at]
        source.read_into(at, part)
        crc = zlib.crc32(part, crc)
    if crc != crc32:
        raise FileFormatError(f"{source.path}: damaged outside its blocks (the CRC-32 of all its bytes differs)")
