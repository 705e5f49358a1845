"""The seal: the first page of a file. It holds the length of the file and the CRC-32 of all bytes after the page.

HDF5 calls such a page a user block and skips it. The seal covers bytes that no other checksum covers: those between
blocks, and the HDF5 structures without a checksum of their own.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import FileFormatError
from .layout import PAGE

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


def write_seal(file: _Writable) -> None:
    """Fill the first page of a file that is otherwise complete."""
    page = page_of(_measured(file, PAGE))
    file.seek(0)
    file.write(page)


def read_seal(path: Path) -> Seal | None:
    """Return the seal of a file; None if it does not begin with one.

    Raises
    ------
    FileFormatError
        If the page is damaged, or the length of the file differs from the one in the page.
    """
    with path.open("rb") as file:
        page = file.read(PAGE)
        size = file.seek(0, 2)
    if not page.startswith(MAGIC):
        return None
    seal = Seal(*_FIELDS.unpack_from(page.ljust(_FIELDS.size))[1:])
    if page != page_of(seal):
        raise FileFormatError(f"{path}: its first page is damaged or cut off (its CRC-32, or what fills it, differs)")
    if size != seal.size:
        raise FileFormatError(f"{path}: has {size} bytes, truncated or grown; expected {seal.size}")
    return seal


def check_bytes(path: Path, file_crc32: int | None = None) -> None:
    """Read a whole file in bounded memory. Compare it with its seal, or with the CRC-32 of all its bytes if given.

    Raises
    ------
    FileFormatError
        If it differs.
    """
    if file_crc32 is None:
        seal, start = read_seal(path), PAGE
    else:
        seal, start = Seal(path.stat().st_size, file_crc32), 0
    with path.open("rb", buffering=0) as file:
        if _measured(file, start) != seal:
            raise FileFormatError(f"{path}: damaged outside its blocks (the CRC-32 of all its bytes differs)")
