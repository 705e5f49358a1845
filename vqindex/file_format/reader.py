"""Reading, with a reader per format version. What does not check is refused by file and block; nothing is guessed."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ..center import Centering, engine_spec
from ..codes.bitplanes import BLOCK_ROWS, StoredRows, empty_sign_bits, split
from ..codes.codebook import Codebook
from ..codes.codec import Codec
from ..codes.encoded import Encoded
from ..codes.trellis import TABLE_VERSION
from ..errors import FileFormatError, InvalidInputError
from ..rows.originals import KINDS, Originals, Rounded
from ..rows.string_ids import StringIds
from ..spec import IndexSpec
from .layout import CHECK_BYTES, FORMAT_NAME, HEADER, SEALED, Checksummer, dtypes_of
from .seal import check_bytes, read_seal

_LONGEST = 64  # bytes of an attribute
_LARGEST_HEADER = 2**26

__all__ = ["Stored", "check_ids", "read", "read_header", "verify"]


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Attributes
    ----------
    centering, rows, ids, meta
        Spec and center, rows, explicit ids or None, notes.
    crc32 : int
        CRC-32 of the header, which holds those of all blocks.
    next_id : int, optional
        The next automatic id, if explicit ids were given automatically.
    originals : Originals, optional
        The vectors themselves.
    string_ids : StringIds, optional
        The strings whose numbers `ids` are.
    """

    centering: Centering
    rows: StoredRows
    ids: NDArray[np.int64] | None
    meta: dict[str, Any]
    crc32: int
    next_id: int | None = None
    originals: Originals | None = None
    string_ids: StringIds | None = None


class _Definition(NamedTuple):
    """What a file of a spec must hold."""

    spec: IndexSpec
    codebook: Codebook
    fingerprint: str


@lru_cache(maxsize=1)
def _definition(spec: IndexSpec) -> _Definition:
    """Compute a spec's tables; kept for the next file of a store, which has the same."""
    codec = Codec(spec)
    return _Definition(spec, codec.codebook, codec.fingerprint)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, int]]:
    """Open a file for reading and tell its version; whatever HDF5 trips over becomes a FileFormatError."""
    seal = read_seal(path)  # a missing or unreadable file keeps the system's own error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(f"{path}: not an HDF5 file, or truncated ({error})") from None
    try:
        with file:
            version = _check_version(path, file)
            if (seal is not None) != (version >= SEALED):
                there = "no seal" if seal is None else "a seal"
                raise FileFormatError(f"{path}: format version is {version}, but its first page holds {there}")
            yield file, version
    except (FileFormatError, MemoryError):
        raise
    except (OSError, RuntimeError, LookupError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: damaged HDF5 structure ({error})") from error


def _attribute(where: h5py.HLObject, name: str) -> Any:
    """Return an attribute if it is a single short value, else a description; None if it is missing."""
    if name not in where.attrs:
        return None
    attribute = where.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.hasobject or attribute.dtype.itemsize > _LONGEST:
        return f"{attribute.dtype} of shape {attribute.shape}"
    return where.attrs[name]


def _check_version(path: Path, file: h5py.File) -> int:
    name = _attribute(file, "format")
    if not isinstance(name, bytes) or name != FORMAT_NAME.encode():
        raise FileFormatError(f"{path}: format is {name!r}; expected an index written by vqindex")
    version = _attribute(file, "format_version")
    if not isinstance(version, np.integer) or int(version) not in _READERS:
        known = ", ".join(map(str, sorted(_READERS)))
        raise FileFormatError(f"{path}: format version is {version}; this vqindex reads: {known}")
    return int(version)


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return a block whose bytes lie in this file in one piece: no link or storage leads elsewhere.

    Nothing is read or allocated before this says that as many bytes as the block claims are there.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise FileFormatError(f"{path}: block {name!r} is missing")
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset):
        raise FileFormatError(f"{path}: {name!r} is a link or a group; expected a block")
    created = dataset.id.get_create_plist()
    if created.get_layout() != h5py.h5d.CONTIGUOUS or created.get_external_count() or created.get_nfilters():
        raise FileFormatError(
            f"{path}: block {name!r} is chunked, compact, virtual or external; expected contiguous storage"
        )
    if dataset.dtype.hasobject or dataset.shape is None:
        raise FileFormatError(f"{path}: block {name!r} has dtype {dataset.dtype}; expected numbers")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if size and not dataset.id.get_storage_size():
        raise FileFormatError(f"{path}: block {name!r} was never written")
    offset = dataset.id.get_offset() if size else 0
    if offset is None or offset + size > path.stat().st_size:
        raise FileFormatError(f"{path}: block {name!r} claims {size} bytes from {offset} on, behind the file's end")
    return dataset


def _header(path: Path, file: h5py.File) -> tuple[dict[str, Any], int]:
    dataset = _dataset(path, file, HEADER)
    if dataset.dtype != np.uint8 or dataset.ndim != 1 or dataset.size > _LARGEST_HEADER:
        raise FileFormatError(
            f"{path}: block 'header' has dtype {dataset.dtype.str} and shape {dataset.shape}; "
            f"expected |u1, of at most {_LARGEST_HEADER} bytes"
        )
    raw = dataset[()].tobytes()
    crc = zlib.crc32(raw)
    if crc != _attribute(dataset, "crc32"):
        raise FileFormatError(f"{path}: block 'header' is damaged (its CRC-32 differs)")
    header: dict[str, Any] = json.loads(raw)
    return header, crc


def _expected(path: Path, header: dict[str, Any], definition: _Definition, version: int) -> dict[str, tuple[int, ...]]:
    """Shapes the blocks must have, from the spec alone."""
    n = int(header["ntotal"])
    spec, book = definition.spec, definition.codebook
    shapes: dict[str, tuple[int, ...]] = {
        "thresholds": book.thresholds.shape,
        "levels": book.levels.shape,
        "codes": (n, spec.code_bytes if version == 1 else spec.row_bytes),
        "factor": (n,),
    }
    if version > 1 and spec.has_sign_bits:
        shapes["signs"] = (-(-n // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS)
    if spec.stores_norm:
        shapes["norm"] = (n,)
    if version > 1 and "center" in header["blocks"]:
        to_come = n == 0 and header["blocks"]["center"]["shape"] == [0]
        shapes["center"] = (0,) if to_come else (spec.dim,)
    if "ids" in header["blocks"]:
        shapes["ids"] = (n,)
        if version >= SEALED and "names" in header["blocks"]:
            shapes["names"] = (int(header["blocks"]["names"]["shape"][0]),)
            shapes["name_ends"] = (n,)
    if version > 1 and "vectors" in header["blocks"]:
        shapes["vectors"] = (n, spec.dim)
        if header["blocks"]["vectors"]["dtype"] == KINDS["int8"]:
            shapes["vector_scale"] = (n,)
    if set(shapes) != set(header["blocks"]):
        raise FileFormatError(f"{path}: the header names blocks {sorted(header['blocks'])}; expected {sorted(shapes)}")
    return shapes


class _Blocks:
    """The blocks of an open file, checked against the header as they are fetched."""

    def __init__(
        self, path: Path, file: h5py.File, header: dict[str, Any], definition: _Definition, version: int
    ) -> None:
        self.path, self.file, self.entries = path, file, header["blocks"]
        self.spec = definition.spec
        self.shapes = _expected(path, header, definition, version)
        unknown = sorted(set(file) - {HEADER, *self.shapes})
        if unknown:
            raise FileFormatError(f"{path}: holds {unknown}, which its header does not name")

    def dataset(self, name: str) -> h5py.Dataset:
        entry = self.entries[name]
        dataset = _dataset(self.path, self.file, name)
        if dataset.shape != self.shapes[name] or list(dataset.shape) != entry["shape"]:
            raise FileFormatError(
                f"{self.path}: block {name!r} has shape {dataset.shape}; expected {self.shapes[name]}"
            )
        if dataset.dtype.str != entry["dtype"] or entry["dtype"] not in dtypes_of(name):
            raise FileFormatError(
                f"{self.path}: block {name!r} has dtype {dataset.dtype.str}; expected {' or '.join(dtypes_of(name))}"
            )
        return dataset

    def check(self, name: str, array: NDArray[Any]) -> None:
        checks = Checksummer()
        checks.update(array)
        found, stored = checks.sums(), self.entries[name]["crc32"]
        if found != stored:
            if len(found) != len(stored):
                raise FileFormatError(f"{self.path}: block {name!r} has {len(stored)} checksums; expected {len(found)}")
            first = next(i for i, (a, b) in enumerate(zip(found, stored, strict=True)) if a != b) * CHECK_BYTES
            last = min(first + CHECK_BYTES, array.nbytes) - 1
            raise FileFormatError(f"{self.path}: block {name!r} is damaged in bytes {first} to {last} (CRC-32 differs)")

    def load(self, name: str, room: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a block into memory, into `room` if that is given, and check it."""
        dataset = self.dataset(name)
        array = np.empty(dataset.shape, dataset.dtype) if room is None else room
        if array.size:
            dataset.read_direct(array)
        self.check(name, array)
        return array

    def map(self, name: str, verify: bool) -> NDArray[Any]:
        """Memory-map a block."""
        dataset = self.dataset(name)
        if 0 in dataset.shape:
            return self.load(name)
        offset = dataset.id.get_offset()
        array: NDArray[Any] = np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)
        if offset % dataset.dtype.itemsize:  # blocks below a page may lie anywhere, kernels read aligned values
            array = np.array(array)
            array.flags.writeable = False
        if verify:
            self.check(name, array)
        return array


def _spec(path: Path, header: dict[str, Any]) -> IndexSpec:
    try:
        spec = IndexSpec(**header["spec"])
    except (InvalidInputError, TypeError) as error:
        raise FileFormatError(f"{path}: can't be read by this version of vqindex: {error}") from None
    if spec.as_dict() != header["spec"]:
        raise FileFormatError(f"{path}: spec is {header['spec']}; expected all of {', '.join(spec.as_dict())}")
    return spec


def _check_tables(path: Path, header: dict[str, Any], spec: IndexSpec) -> None:
    """Refuse a trellis file of other tables by their version, which says more than a codebook that differs."""
    if spec.codec == "trellis" and header.get("tables") != TABLE_VERSION:
        version = repr(header["tables"]) if "tables" in header else "missing"
        raise FileFormatError(f"{path}: trellis tables version {version}; this vqindex reads: {TABLE_VERSION}")


def _check_definition(blocks: _Blocks, header: dict[str, Any], definition: _Definition) -> None:
    """Refuse a file whose codebook or rotation this build would not reproduce exactly."""
    book = definition.codebook
    same = (
        np.array_equal(blocks.load("thresholds"), book.thresholds)
        and np.array_equal(blocks.load("levels"), book.levels)
        and header["step"] == book.step
    )
    if not same:
        raise FileFormatError(f"{blocks.path}: its codebook is not the one this vqindex computes for {definition.spec}")
    if header["fingerprint"] != definition.fingerprint:
        raise FileFormatError(
            f"{blocks.path}: its rotation fingerprint is {header['fingerprint']}; "
            f"this vqindex has {definition.fingerprint}"
        )


def _opened_blocks(path: Path, file: h5py.File, version: int) -> tuple[dict[str, Any], int, _Blocks, Centering]:
    header, crc = _header(path, file)
    spec = _spec(path, header)
    _check_tables(path, header, spec)
    definition = _definition(engine_spec(spec, version > 1 and "center" in header["blocks"]))
    blocks = _Blocks(path, file, header, definition, version)
    _check_definition(blocks, header, definition)
    try:
        centering = Centering.from_block(spec, blocks.load("center") if "center" in blocks.shapes else None)
    except InvalidInputError as error:
        raise FileFormatError(f"{path}: block 'center': {error}") from None
    return header, crc, blocks, centering


def check_ids(where: Path, ids: NDArray[np.int64], next_id: int | None) -> None:
    """Refuse ids that no index could have: negative or given twice, or one that will be given again."""
    if ids.size and ids.min() < 0:
        raise FileFormatError(f"{where}: id {ids.min()} is negative")
    if not (ids[1:] > ids[:-1]).all():
        ordered = np.sort(ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise FileFormatError(f"{where}: id {twice[0]} is there twice")
    if next_id is not None and ids.max(initial=-1) >= next_id:
        raise FileFormatError(f"{where}: next_id is {next_id}, but id {ids.max()} is there already")


def _read_v1(path: Path, file: h5py.File, mmap: bool, verify: bool) -> Stored:
    """Version 1 kept whole code rows; they are brought into today's layout, in memory."""
    header, crc, blocks, centering = _opened_blocks(path, file, 1)
    spec = blocks.spec
    norm = blocks.load("norm") if spec.stores_norm else None
    ids = blocks.load("ids").astype(np.int64, copy=False) if "ids" in blocks.shapes else None
    if ids is not None:
        check_ids(path, ids, None)
    rows = split(spec, Encoded(blocks.load("codes"), blocks.load("factor"), norm))
    return Stored(centering, rows, ids, header["meta"], crc)


def _read_v2(path: Path, file: h5py.File, mmap: bool, verify: bool, version: int = 2) -> Stored:
    header, crc, blocks, centering = _opened_blocks(path, file, version)
    spec = blocks.spec

    def fetch(name: str) -> NDArray[Any]:
        return blocks.map(name, verify) if mmap else blocks.load(name)

    signs = None
    if spec.has_sign_bits:
        blocks.dataset("signs")  # its shape is right before room is made for it
        signs = blocks.map("signs", verify) if mmap else blocks.load("signs", empty_sign_bits(spec, header["ntotal"]))
    norm = fetch("norm") if spec.stores_norm else None
    ids = fetch("ids").astype(np.int64, copy=False) if "ids" in blocks.shapes else None
    originals = None
    if "vectors" in blocks.shapes:
        originals = Originals(spec.dim, _KIND_OF[blocks.dataset("vectors").dtype.str])
        rounded = Rounded(fetch("vectors"), fetch("vector_scale") if originals.kind == "int8" else None)
        if len(rounded.values):
            originals.append(rounded)
    next_id = _next_id(path, header)
    if ids is not None and (verify or not mmap):
        check_ids(path, ids, next_id)
    names = None
    if "names" in blocks.shapes:
        names = StringIds(fetch("names"), fetch("name_ends"))
        if verify or not mmap:
            names.check(path)
    rows = StoredRows(signs, fetch("codes"), fetch("factor"), norm)
    return Stored(centering, rows, ids, header["meta"], crc, next_id, originals, names)


_KIND_OF = {dtype: kind for kind, dtype in KINDS.items()}


def _next_id(path: Path, header: dict[str, Any]) -> int | None:
    value = header.get("next_id")
    if value is not None and (type(value) is not int or not 0 <= value < 2**63):
        raise FileFormatError(f"{path}: next_id is {value!r}; expected an integer from 0 to 2**63 - 1")
    return value


def _read_v3(path: Path, file: h5py.File, mmap: bool, verify: bool) -> Stored:
    """Version 3 is version 2 with a seal, and may have names."""
    return _read_v2(path, file, mmap, verify, 3)


_READERS: dict[int, Callable[[Path, h5py.File, bool, bool], Stored]] = {1: _read_v1, 2: _read_v2, 3: _read_v3}


def read(path: str | os.PathLike[str], *, mmap: bool = False, verify: bool = True) -> Stored:
    """Read an index file.

    Parameters
    ----------
    path : str or path
        The file.
    mmap : bool
        Map the per-vector blocks instead of reading them.
    verify : bool
        Check mapped blocks too (blocks that are read are checked always), and that no id is there twice.

    Raises
    ------
    FileNotFoundError, PermissionError
        From the system.
    FileFormatError
        If the file is not an index, damaged or of an unknown version.
    """
    where = Path(path)
    with _opened(where) as (file, version):
        return _READERS[version](where, file, mmap, verify)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the checked header of a file (spec, ntotal, blocks, meta, writer) with its ``format_version``."""
    where = Path(path)
    with _opened(where) as (file, version):
        return {"format_version": version, **_header(where, file)[0]}


def verify(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Check every byte of a file; return (name, bytes) of each block. Takes little memory but for a sort of the ids.

    Files of versions 1 and 2 have no checksums for the bytes between their blocks.

    Raises
    ------
    FileFormatError
        At the first block that does not check, or if the bytes between blocks don't.
    """
    stored = read(path, mmap=True, verify=True)
    header = read_header(path)
    sizes = {name: int(np.prod(e["shape"])) * np.dtype(e["dtype"]).itemsize for name, e in header["blocks"].items()}
    assert stored.rows.rows == header["ntotal"]
    if stored.string_ids is not None:
        stored.string_ids.check(path, stored.ids)
    if header["format_version"] >= SEALED:
        check_bytes(Path(path))
    return list(sizes.items())
