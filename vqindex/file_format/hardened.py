"""Safe access to HDF5 files from anywhere. Nothing outside this module reads an object of a file.

HDF5 is a file system in a file, and more of it is dangerous than useful here. A damaged or hostile file could

* make the library raise errors of a dozen kinds: `open_hdf5` turns them all into FileFormatError;
* read other files, by external links, external storage or virtual datasets: `dataset` accepts only hard links to
  contiguous storage in this file;
* run filters on its data, or claim more data than it has: `dataset` refuses filters, and compares offset and size with
  the length of the file before any memory is allocated;
* hold Python objects or strings of any length: `dataset` and `attribute` refuse types with object fields and long
  attributes, so nothing is unpickled;
* describe a block in one way and store it in another: `Blocks` compares shape, type and checksums with the header.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError
from .layout import CHECK_BYTES, HEADER, Checksummer, dtypes_of

__all__ = ["Blocks", "attribute", "dataset", "open_hdf5", "parse_header"]

_MAX_ATTRIBUTE_BYTES = 64
_MAX_HEADER_BYTES = 2**26


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; every error that HDF5 or its contents cause becomes a FileFormatError."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(f"{path}: not an HDF5 file, or truncated ({error})") from None
    try:
        with file:
            yield file
    except (FileFormatError, MemoryError):
        raise
    except (OSError, RuntimeError, LookupError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: damaged HDF5 structure ({error})") from error


def attribute(where: h5py.HLObject, name: str) -> Any:
    """Return an attribute if it is a single short value, otherwise a description; None if it is missing."""
    if name not in where.attrs:
        return None
    found = where.attrs.get_id(name)
    if found.shape != () or found.dtype.hasobject or found.dtype.itemsize > _MAX_ATTRIBUTE_BYTES:
        return f"{found.dtype} of shape {found.shape}"
    return where.attrs[name]


def dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose bytes are in this file, contiguous, and as many as it claims."""
    link = file.get(name, getlink=True)
    if link is None:
        raise FileFormatError(f"{path}: block {name!r} is missing")
    found = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset):
        raise FileFormatError(f"{path}: {name!r} is a link or a group; expected a block")
    created = found.id.get_create_plist()
    if created.get_layout() != h5py.h5d.CONTIGUOUS or created.get_external_count() or created.get_nfilters():
        raise FileFormatError(
            f"{path}: block {name!r} is chunked, compact, virtual or external; expected contiguous storage"
        )
    if found.dtype.hasobject or found.shape is None:
        raise FileFormatError(f"{path}: block {name!r} has dtype {found.dtype}; expected numbers")
    size = math.prod(found.shape) * found.dtype.itemsize
    if size and not found.id.get_storage_size():
        raise FileFormatError(f"{path}: block {name!r} was never written")
    offset = found.id.get_offset() if size else 0
    if offset is None or offset + size > path.stat().st_size:
        raise FileFormatError(f"{path}: block {name!r} claims {size} bytes from {offset} on, past the file's end")
    return found


def parse_header(path: Path, file: h5py.File) -> tuple[dict[str, Any], int]:
    """Return the header, checked against its checksum, and the checksum. Its values are not checked."""
    block = dataset(path, file, HEADER)
    if block.dtype != np.uint8 or block.ndim != 1 or block.size > _MAX_HEADER_BYTES:
        raise FileFormatError(
            f"{path}: block 'header' has dtype {block.dtype.str} and shape {block.shape}; "
            f"expected |u1, of at most {_MAX_HEADER_BYTES} bytes"
        )
    raw = block[()].tobytes()
    crc = zlib.crc32(raw)
    if crc != attribute(block, "crc32"):
        raise FileFormatError(f"{path}: block 'header' is damaged (its CRC-32 differs)")
    header: dict[str, Any] = json.loads(raw)
    return header, crc


class Blocks:
    """The blocks of an open file. Each is compared with the header when it is fetched.

    Parameters
    ----------
    path : Path
        The file.
    file : h5py.File
        The same, open.
    entries : mapping
        The header's entry of each block: dtype, shape and checksums.
    shapes : mapping
        The shape that each block must have. The file may hold no other blocks.
    """

    def __init__(
        self, path: Path, file: h5py.File, entries: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.path, self.shapes = path, shapes
        self._file, self._entries = file, entries
        unknown = sorted(set(file) - {HEADER, *shapes})
        if unknown:
            raise FileFormatError(f"{path}: holds {unknown}, which its header does not name")

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def dataset(self, name: str) -> h5py.Dataset:
        """Return the dataset of a block, with the right shape and type. Its bytes are not read."""
        entry = self._entries[name]
        found = dataset(self.path, self._file, name)
        if found.shape != self.shapes[name] or list(found.shape) != entry["shape"]:
            raise FileFormatError(f"{self.path}: block {name!r} has shape {found.shape}; expected {self.shapes[name]}")
        if found.dtype.str != entry["dtype"] or entry["dtype"] not in dtypes_of(name):
            raise FileFormatError(
                f"{self.path}: block {name!r} has dtype {found.dtype.str}; expected {' or '.join(dtypes_of(name))}"
            )
        return found

    def fetch(self, name: str, *, mmap: bool, verify: bool) -> NDArray[Any]:
        """Map a block, and check it if `verify` says so; or read it into memory, which always checks it."""
        return self.map(name, verify) if mmap else self.load(name)

    def load(self, name: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a block into memory, into `out` if that is given, and check it."""
        found = self.dataset(name)
        array = np.empty(found.shape, found.dtype) if out is None else out
        if array.size:
            found.read_direct(array)
        self._check(name, array)
        return array

    def map(self, name: str, verify: bool) -> NDArray[Any]:
        """Memory-map a block."""
        found = self.dataset(name)
        if 0 in found.shape:
            return self.load(name)
        offset = found.id.get_offset()
        array: NDArray[Any] = np.memmap(self.path, found.dtype, "r", offset, found.shape)
        if offset % found.dtype.itemsize:  # HDF5 aligns only large blocks, and kernels read aligned values
            array = np.array(array)
            array.flags.writeable = False
        if verify:
            self._check(name, array)
        return array

    def _check(self, name: str, array: NDArray[Any]) -> None:
        checks = Checksummer()
        checks.update(array)
        found, stored = checks.sums(), self._entries[name]["crc32"]
        if found == stored:
            return
        if len(found) != len(stored):
            raise FileFormatError(f"{self.path}: block {name!r} has {len(stored)} checksums; expected {len(found)}")
        first = next(i for i, (a, b) in enumerate(zip(found, stored, strict=True)) if a != b) * CHECK_BYTES
        last = min(first + CHECK_BYTES, array.nbytes) - 1
        raise FileFormatError(f"{self.path}: block {name!r} is damaged in bytes {first} to {last} (CRC-32 differs)")
