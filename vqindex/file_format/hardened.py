"""Safe access to HDF5 files from anywhere. Nothing outside this module reads an object of a file.

HDF5 is a file system in a file, and more of it is dangerous than useful here. A damaged or hostile file could

* make the library raise errors of a dozen kinds: `format_errors` turns them all into FileFormatError, and leaves
  errors of the system as they are;
* read other files, by external links, external storage or virtual datasets: `_extent` accepts only hard links to
  contiguous storage in this file;
* run filters on its data, or claim more data than it has: `_extent` refuses filters, and compares offset and size with
  the length of the file before any memory is allocated;
* hold Python objects or strings of any length: `_extent` and `_attribute` refuse types with object fields and long
  attributes, so nothing is unpickled;
* describe a block in one way and store it in another: `Blocks` compares shape, type and checksums with the header.

HDF5 only says where the blocks lie. `Blocks` reads their bytes from the descriptor that everything else comes from.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ..codes.bitplanes import CACHE_LINE, aligned_zeros
from ..errors import FileFormatError
from .layout import BLOCKS, CHECK_BYTES, HEADER, Checksummer, dtypes_of
from .source import Source, bytes_of

__all__ = ["Blocks", "Extent", "Structure", "format_errors", "parse_header", "read_structure"]

_MAX_ATTRIBUTE_BYTES = 64
_MAX_HEADER_BYTES = 2**26


@contextmanager
def format_errors(path: object) -> Iterator[None]:
    """Make a FileFormatError of every error that HDF5 or the contents of a file cause."""
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except (OSError, RuntimeError, LookupError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not HDF5's
            raise
        raise FileFormatError(f"{path}: damaged HDF5 structure ({error})") from error


class Extent(NamedTuple):
    """Where the bytes of a dataset lie.

    Attributes
    ----------
    offset : int
        Their first byte in the file.
    shape : tuple of int
        Shape.
    dtype : dtype
        Type of the numbers.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Structure(NamedTuple):
    """What HDF5 says of a file.

    Attributes
    ----------
    format, format_version : object
        The attributes of the root group, a description where they are no short value, None where they are missing.
    header_crc32 : object
        The same of the header's attribute.
    names : frozenset of str
        All names in the root group.
    extents : dict
        For each name that a file may hold its extent, or the error that refuses it.
    """

    format: Any
    format_version: Any
    header_crc32: Any
    names: frozenset[str]
    extents: Mapping[str, Extent | FileFormatError]

    def extent(self, path: object, name: str) -> Extent:
        """Return the extent of a dataset; FileFormatError if it is missing or must not be read."""
        found = self.extents.get(name)
        if found is None:
            raise FileFormatError(f"{path}: block {name!r} is missing")
        if isinstance(found, FileFormatError):
            raise found
        return found


def read_structure(source: Source) -> Structure:
    """Read the structure of a file with HDF5, and nothing of its blocks."""
    with format_errors(source.path), source.open_hdf5() as file:
        names = frozenset(file)
        extents: dict[str, Extent | FileFormatError] = {}
        for name in (HEADER, *BLOCKS):
            if name in names:
                try:
                    with format_errors(source.path):
                        extents[name] = _extent(source, file, name)
                except FileFormatError as error:
                    extents[name] = error
        has_header = isinstance(extents.get(HEADER), Extent)
        crc = _attribute(file[HEADER], "crc32") if has_header else None
        return Structure(_attribute(file, "format"), _attribute(file, "format_version"), crc, names, extents)


def _attribute(where: h5py.HLObject, name: str) -> Any:
    """Return an attribute if it is a single short value, otherwise a description; None if it is missing."""
    if name not in where.attrs:
        return None
    found = where.attrs.get_id(name)
    if found.shape != () or found.dtype.hasobject or found.dtype.itemsize > _MAX_ATTRIBUTE_BYTES:
        return f"{found.dtype} of shape {found.shape}"
    return where.attrs[name]


def _extent(source: Source, file: h5py.File, name: str) -> Extent:
    """Return where a dataset lies whose bytes are in this file, contiguous, and as many as it claims."""
    path = source.path
    link = file.get(name, getlink=True)
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
    stored = found.id.get_storage_size()
    if size and not stored:
        raise FileFormatError(f"{path}: block {name!r} was never written")
    offset = found.id.get_offset() if size else 0
    if offset is None or offset + size > source.size or size != stored:
        raise FileFormatError(
            f"{path}: block {name!r} claims {size} bytes from {offset} on, past the file's end or its own"
        )
    return Extent(offset, tuple(map(int, found.shape)), found.dtype)


def parse_header(source: Source, structure: Structure) -> tuple[dict[str, Any], int]:
    """Return the header, checked against its checksum, and the checksum. Its values are not checked."""
    path, block = source.path, structure.extent(source.path, HEADER)
    if block.dtype != np.uint8 or len(block.shape) != 1 or block.shape[0] > _MAX_HEADER_BYTES:
        raise FileFormatError(
            f"{path}: block 'header' has dtype {block.dtype.str} and shape {block.shape}; "
            f"expected |u1, of at most {_MAX_HEADER_BYTES} bytes"
        )
    raw = source.read(block.offset, block.shape[0])
    crc = zlib.crc32(raw)
    if crc != structure.header_crc32:
        raise FileFormatError(f"{path}: block 'header' is damaged (its CRC-32 differs)")
    header: dict[str, Any] = json.loads(raw)
    return header, crc


class Blocks:
    """The blocks of an open file. Each is compared with the header when it is fetched.

    Parameters
    ----------
    source : Source
        The file.
    structure : Structure
        What HDF5 says of it.
    entries : mapping
        The header's entry of each block: dtype, shape and checksums.
    shapes : mapping
        The shape that each block must have. The file may hold no other blocks.
    """

    def __init__(
        self, source: Source, structure: Structure, entries: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.path, self.shapes = source.path, shapes
        self._source, self._structure, self._entries = source, structure, entries
        unknown = sorted(structure.names - {HEADER, *shapes})
        if unknown:
            raise FileFormatError(f"{self.path}: holds {unknown}, which its header does not name")

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def extent(self, name: str) -> Extent:
        """Return where a block lies, with the right shape and type. Its bytes are not read."""
        entry = self._entries[name]
        found = self._structure.extent(self.path, name)
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
        array = self._read(name, out)
        checks = Checksummer()
        checks.update(array)
        self._check(name, checks, array.nbytes)
        return array

    def _read(self, name: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        found = self.extent(name)
        array = np.empty(found.shape, found.dtype) if out is None else out
        if array.size:
            self._source.read_into(found.offset, bytes_of(array))
        return array

    def map(self, name: str, verify: bool, *, at_cache_line: bool = False) -> NDArray[Any]:
        """Memory-map a block. A check reads the file and not the map, which a file cut off by others would crash.

        A block that is not aligned to its type is read into memory; `at_cache_line` says that bytes need more.
        """
        found = self.extent(name)
        if 0 in found.shape:
            return self.load(name)
        if verify:
            self._check_file(name, found)
        align = CACHE_LINE if at_cache_line else found.dtype.itemsize
        if found.offset % align:  # HDF5 aligns only large blocks, and kernels read aligned values
            small = self._read(name, aligned_zeros(found.shape) if at_cache_line else None)
            small.flags.writeable = False
            return small
        array: NDArray[Any] = np.ndarray(found.shape, found.dtype, self._source.map(), found.offset)
        return array.view(np.memmap)  # of that type, so that it can be told from memory

    def parts(self, name: str, rows: int) -> Iterator[NDArray[Any]]:
        """Yield copies of a block of at least one column, so many rows at a time; its checksums are not compared."""
        found = self.extent(name)
        row = math.prod(found.shape[1:])
        for start in range(0, found.shape[0], rows):
            part = np.empty((min(rows, found.shape[0] - start), *found.shape[1:]), found.dtype)
            self._source.read_into(found.offset + start * row * found.dtype.itemsize, bytes_of(part))
            yield part

    def _check_file(self, name: str, found: Extent) -> None:
        size = math.prod(found.shape) * found.dtype.itemsize
        checks, buffer = Checksummer(), np.empty(min(size, CHECK_BYTES), np.uint8)
        for start in range(0, size, CHECK_BYTES):
            part = buffer[: size - start]
            self._source.read_into(found.offset + start, bytes_of(part))
            checks.update(part)
        self._check(name, checks, size)

    def _check(self, name: str, checks: Checksummer, size: int) -> None:
        found, stored = checks.sums(), self._entries[name]["crc32"]
        if found == stored:
            return
        if len(found) != len(stored):
            raise FileFormatError(f"{self.path}: block {name!r} has {len(stored)} checksums; expected {len(found)}")
        first = next(i for i, (a, b) in enumerate(zip(found, stored, strict=True)) if a != b) * CHECK_BYTES
        last = min(first + CHECK_BYTES, size) - 1
        raise FileFormatError(f"{self.path}: block {name!r} is damaged in bytes {first} to {last} (CRC-32 differs)")
