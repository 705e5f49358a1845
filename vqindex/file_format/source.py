"""The bytes of a file, all from one opening of it.

A saver may replace a file at any moment. So a reader opens its path once: the seal, the blocks, the maps and the length
come from that one descriptor, which keeps leading to the same file. HDF5 opens the path itself, since a driver in
Python would let an interrupt pass through the library. `open_hdf5` then compares the two, and the reader starts again
if they are different files.

A file that is changed in place is noticed by its length, its time stamp and its first page, which are compared again
after everything was read.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..directory.system import open_for_reading, system_error
from ..errors import FileFormatError
from .layout import PAGE

__all__ = ["BytesSource", "FileSource", "Replaced", "Source", "bytes_of"]

_LOCK_TRIES, _LOCK_PAUSE = 100, 0.002  # seconds; HDF5 does not wait for a lock
# What HDF5 reports is the system's doing if the error has one of these numbers; others come from damaged structures.
_SYSTEM_ERRORS = {
    getattr(errno, name)
    for name in (
        "EACCES", "EAGAIN", "EIO", "EINTR", "EISDIR", "ELOOP", "EMFILE", "ENAMETOOLONG", "ENFILE", "ENODEV", "ENOENT",
        "ENOLCK", "ENOMEM", "ENOTDIR", "ENXIO", "EPERM", "ESTALE", "ETIMEDOUT", "ETXTBSY",
    )
    if hasattr(errno, name)
}  # fmt: skip


class Replaced(Exception):  # noqa: N818 - never seen by users
    """The path leads to another file than the one that was opened."""


class Source:
    """The bytes of one file.

    Attributes
    ----------
    path : object
        What messages call the file.
    size : int
        Its length in bytes.
    """

    path: Any
    size: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer of bytes from an offset on."""
        raise NotImplementedError

    def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from an offset on."""
        buffer = bytearray(max(0, min(size, self.size - offset)))
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    @contextmanager
    def open_hdf5(self) -> Iterator[h5py.File]:
        """Open the file with HDF5. It is for its structures alone: blocks are read with `read_into`."""
        try:
            file = self._hdf5()
        except OSError as error:
            raise self._not_hdf5(error) from None
        with file:
            yield file

    def _hdf5(self) -> h5py.File:
        raise NotImplementedError

    def _not_hdf5(self, error: OSError) -> Exception:
        return FileFormatError(f"{self.path}: not an HDF5 file, or truncated ({error})")

    def map(self) -> Any:
        """Return the buffer of a map of the whole file; it lives as long as an array of it."""
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Raise FileFormatError if the file was changed in place since it was opened."""

    def close(self) -> None:
        """Release the descriptor. Maps stay."""


class FileSource(Source):
    """A file on disk.

    Parameters
    ----------
    path : Path
        The file.
    follow_links : bool
        Whether it may be a symbolic link.

    Raises
    ------
    OSError, FileFormatError
        As `open_for_reading`.
    """

    def __init__(self, path: Path, *, follow_links: bool = True) -> None:
        self.path = path
        self._file = open_for_reading(path, follow_links=follow_links)
        self._map: mmap.mmap | None = None
        try:
            status = os.fstat(self._file.fileno())
            self.size, self._written = status.st_size, status.st_mtime_ns
            self._first_page = self.read(0, PAGE)
        except BaseException:
            self.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer; FileFormatError if the file ends before."""
        done = 0
        try:
            self._file.seek(offset)
            while done < len(buffer):
                got = self._file.readinto(buffer[done:])
                if not got:
                    raise FileFormatError(f"{self.path}: was cut off while it was read, at {offset + done} bytes")
                done += got
        except OSError as error:
            raise system_error(error, self.path) from None

    def _hdf5(self) -> h5py.File:
        for attempt in range(_LOCK_TRIES):
            try:
                file = h5py.File(self.path, "r")
                break
            except BlockingIOError:  # locked for the moment: HDF5 does not wait
                if attempt == _LOCK_TRIES - 1:
                    raise
                time.sleep(_LOCK_PAUSE)
        try:
            if not os.path.samestat(os.fstat(file.id.get_vfd_handle()), os.fstat(self._file.fileno())):
                raise Replaced
        except BaseException:
            file.close()
            raise
        return file

    def _not_hdf5(self, error: OSError) -> Exception:
        """Return the system's own error, with the path alone, or a FileFormatError where HDF5 refuses the contents."""
        number = error.errno
        if number is None:  # as in older versions of h5py
            found = re.search(r"\berrno = (\d+)", str(error))
            number = int(found[1]) if found else None
        if number == errno.EAGAIN:
            return OSError(number, "another program has the file open for writing, and has locked it", str(self.path))
        if number in _SYSTEM_ERRORS:
            return system_error(OSError(number, ""), self.path)
        return super()._not_hdf5(error)

    def map(self) -> Any:
        """Return a map of the whole file, made once: a descriptor for each file, and none from Python 3.13 on."""
        if self._map is None:
            options: Any = {"trackfd": False} if sys.version_info >= (3, 13) and os.name == "posix" else {}
            try:
                self._map = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ, **options)
            except OSError as error:
                raise system_error(error, self.path) from None
        return self._map

    def check_unchanged(self) -> None:
        """Raise FileFormatError if the file was changed in place since it was opened."""
        status = os.fstat(self._file.fileno())
        now = status.st_size, status.st_mtime_ns
        if now != (self.size, self._written) or self.read(0, PAGE) != self._first_page:
            raise FileFormatError(
                f"{self.path}: was changed in place while it was read; expected writers to replace it, as `save` does"
            )

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()


class BytesSource(Source):
    """A file in memory.

    Parameters
    ----------
    data : bytes
        Its bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.path, self.size, self._data = "bytes in memory", len(data), data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer."""
        buffer[:] = memoryview(self._data)[offset : offset + len(buffer)]

    def _hdf5(self) -> h5py.File:
        return h5py.File(h5py.h5f.open_file_image(self._data))

    def map(self) -> Any:
        """Return the bytes themselves."""
        return self._data


def bytes_of(array: NDArray[Any]) -> memoryview:
    """Return the bytes of a C-contiguous array, to be read or filled."""
    return array.reshape(-1).view(np.uint8).data
