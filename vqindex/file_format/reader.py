"""Reading a ``.vqi`` file. What does not check is refused by the names of file and block; nothing is guessed.

`read` goes from the outside in: seal and version, header, spec, tables, codebook, center, rows, ids. Each step checks
what the next one relies on. ``hardened.py`` reads all objects of the file, and ``versions.py`` says what differs from
one format version to another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ..center import Centering, engine_spec
from ..codes.codebook import Codebook
from ..codes.codec import Codec
from ..codes.trellis import TABLE_VERSION
from ..errors import FileFormatError, InvalidInputError
from ..rows.originals import KINDS, Originals, Rounded
from ..rows.segment import Segment
from ..rows.string_ids import StringIds
from ..spec import IndexSpec
from .contents import FileContents
from .hardened import Blocks, open_hdf5, parse_header
from .seal import check_bytes, read_seal
from .versions import VERSIONS, block_shapes, version_of

__all__ = ["check_ids", "read", "read_header", "verify"]

_KIND_OF = {dtype: kind for kind, dtype in KINDS.items()}


class _Definition(NamedTuple):
    """What every file of a spec has in common."""

    spec: IndexSpec
    codebook: Codebook
    fingerprint: str


@lru_cache(maxsize=1)
def _definition(spec: IndexSpec) -> _Definition:
    """Compute the tables of a spec. The next file of a store has the same."""
    codec = Codec(spec)
    return _Definition(spec, codec.codebook, codec.fingerprint)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, int]]:
    """Open a file and return its version; it has a seal if its version demands one, and none otherwise."""
    seal = read_seal(path)  # a missing or unreadable file keeps the system's own error
    with open_hdf5(path) as file:
        version = version_of(path, file)
        if (seal is not None) != VERSIONS[version].sealed:
            found = "no seal" if seal is None else "a seal"
            raise FileFormatError(f"{path}: format version is {version}, but its first page holds {found}")
        yield file, version


def read(path: str | os.PathLike[str], *, mmap: bool = False, verify: bool = True) -> FileContents:
    """Read an index file.

    Parameters
    ----------
    path : str or path
        The file.
    mmap : bool
        Map the per-vector blocks instead of reading them.
    verify : bool
        Also check mapped blocks, and that no id occurs twice. Blocks that are read are always checked.

    Returns
    -------
    FileContents
        With one segment.

    Raises
    ------
    FileNotFoundError, PermissionError
        From the system.
    FileFormatError
        If the file is not an index, damaged or of an unknown version.
    """
    where = Path(path)
    with _opened(where) as (file, number):
        version = VERSIONS[number]
        header, crc = parse_header(where, file)
        n, entries, next_id = _row_count(where, header), header["blocks"], _next_id(where, header)
        spec = _spec(where, header)
        _check_tables(where, header, spec)
        definition = _definition(engine_spec(spec, "center" in version.optional and "center" in entries))
        shapes = block_shapes(where, version, definition.spec, definition.codebook, n, entries)
        blocks = Blocks(where, file, entries, shapes)
        _check_definition(blocks, header, definition)
        centering = _centering(blocks, spec)
        mmap = mmap and version.can_map
        verify = verify or not mmap
        stored = version.read_rows(blocks, definition.spec, mmap, verify)
        ids, string_ids = _ids(blocks, next_id, mmap, verify)
        segment = Segment(stored, ids, string_ids, _originals(blocks, spec.dim, mmap, verify))
        return FileContents(centering, (segment,), header["meta"], next_id, crc)


def _row_count(path: Path, header: dict[str, Any]) -> int:
    n = header["ntotal"]
    if type(n) is not int or n < 0:
        raise FileFormatError(f"{path}: ntotal is {n!r}; expected an integer from 0 on")
    return n


def _next_id(path: Path, header: dict[str, Any]) -> int | None:
    value = header.get("next_id")
    if value is not None and (type(value) is not int or not 0 <= value < 2**63):
        raise FileFormatError(f"{path}: next_id is {value!r}; expected an integer from 0 to 2**63 - 1")
    return value


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


def _check_definition(blocks: Blocks, header: dict[str, Any], definition: _Definition) -> None:
    """Refuse a file whose codebook or rotation this build does not reproduce exactly."""
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


def _centering(blocks: Blocks, spec: IndexSpec) -> Centering:
    try:
        return Centering.from_block(spec, blocks.load("center") if "center" in blocks else None)
    except InvalidInputError as error:
        raise FileFormatError(f"{blocks.path}: block 'center': {error}") from None


def _ids(
    blocks: Blocks, next_id: int | None, mmap: bool, verify: bool
) -> tuple[NDArray[np.int64] | None, StringIds | None]:
    """Return explicit ids, and the strings whose numbers they are."""
    if "ids" not in blocks:
        return None, None
    ids = blocks.fetch("ids", mmap=mmap, verify=verify).astype(np.int64, copy=False)
    if verify:
        check_ids(blocks.path, ids, next_id)
    if "names" not in blocks:
        return ids, None
    string_ids = StringIds(*(blocks.fetch(name, mmap=mmap, verify=verify) for name in ("names", "name_ends")))
    if verify:
        string_ids.check(blocks.path)
    return ids, string_ids


def _originals(blocks: Blocks, dim: int, mmap: bool, verify: bool) -> Originals | None:
    if "vectors" not in blocks:
        return None
    values = blocks.fetch("vectors", mmap=mmap, verify=verify)
    scale = blocks.fetch("vector_scale", mmap=mmap, verify=verify) if "vector_scale" in blocks else None
    originals = Originals(dim, _KIND_OF[values.dtype.str])
    if len(values):
        originals.append(Rounded(values, scale))
    return originals


def check_ids(where: object, ids: NDArray[np.int64], next_id: int | None) -> None:
    """Refuse ids that no index can have: negative ones, duplicates, or one that would be given again."""
    if ids.size and ids.min() < 0:
        raise FileFormatError(f"{where}: id {ids.min()} is negative")
    if not (ids[1:] > ids[:-1]).all():
        ordered = np.sort(ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise FileFormatError(f"{where}: id {twice[0]} is there twice")
    if next_id is not None and ids.max(initial=-1) >= next_id:
        raise FileFormatError(f"{where}: next_id is {next_id}, but id {ids.max()} is there already")


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the checked header of a file (spec, ntotal, blocks, meta, writer) with its ``format_version``."""
    where = Path(path)
    with _opened(where) as (file, version):
        return {"format_version": version, **parse_header(where, file)[0]}


def verify(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Check every byte of a file; return (name, bytes) of each block.

    It needs little memory, except for a sort of the ids. Files of versions 1 and 2 have no checksums for the bytes
    between their blocks.

    Raises
    ------
    FileFormatError
        At the first block that does not check, or if the bytes between blocks do not.
    """
    segment = read(path, mmap=True, verify=True).segment
    header = read_header(path)
    sizes = {name: int(np.prod(e["shape"])) * np.dtype(e["dtype"]).itemsize for name, e in header["blocks"].items()}
    if segment.string_ids is not None:
        segment.string_ids.check(path, segment.ids)
    if VERSIONS[header["format_version"]].sealed:
        check_bytes(Path(path))
    return list(sizes.items())
