"""The format versions: which blocks a file of each version holds, and how its rows are read.

A new version gets a new entry, and old entries stay: files of all versions are read for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.bitplanes import BLOCK_ROWS, StoredRows, aligned_zeros, empty_sign_bits, split
from ..codes.codebook import Codebook
from ..codes.encoded import Encoded
from ..codes.records import RecordLayout, stored_records
from ..errors import FileFormatError, InvalidInputError
from ..rows.graph import link_bytes
from ..rows.originals import KINDS
from ..spec import IndexSpec
from .hardened import Blocks, Structure
from .layout import FORMAT_NAME

__all__ = ["VERSIONS", "FormatVersion", "block_shapes", "version_of"]

Shapes = dict[str, tuple[int, ...]]


class FormatVersion(NamedTuple):
    """One version.

    Attributes
    ----------
    sealed : bool
        Whether the file begins with a seal.
    optional : frozenset of str
        Optional blocks, each with the blocks that belong to it (`_optional_shapes`).
    can_map : bool
        Whether per-vector blocks can be used as they are; otherwise they are converted in memory.
    row_shapes : callable
        Returns the shapes of codes, sign bits and scalars for a spec and a number of rows.
    read_rows : callable
        Reads the rows.
    """

    sealed: bool
    optional: frozenset[str]
    can_map: bool
    row_shapes: Callable[[IndexSpec, int], Shapes]
    read_rows: Callable[[Blocks, IndexSpec, bool, bool], StoredRows]


def _scalar_shapes(spec: IndexSpec, n: int) -> Shapes:
    return {"factor": (n,), "norm": (n,)} if spec.stores_norm else {"factor": (n,)}


def _sign_shapes(spec: IndexSpec, n: int) -> Shapes:
    return {"signs": (-(-n // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS)} if spec.has_sign_bits else {}


def _code_row_shapes(spec: IndexSpec, n: int) -> Shapes:
    return {"codes": (n, spec.code_bytes), **_scalar_shapes(spec, n)}


def _read_code_rows(blocks: Blocks, spec: IndexSpec, mmap: bool, verify: bool) -> StoredRows:
    """Read whole code rows and split them into sign bits and the other bits."""
    norm = blocks.load("norm") if spec.stores_norm else None
    return split(spec, Encoded(blocks.load("codes"), blocks.load("factor"), norm))


def _split_row_shapes(spec: IndexSpec, n: int) -> Shapes:
    return {"codes": (n, spec.row_bytes), **_sign_shapes(spec, n), **_scalar_shapes(spec, n)}


def _read_split_rows(blocks: Blocks, spec: IndexSpec, mmap: bool, verify: bool) -> StoredRows:
    """Read rows that are stored as they are scanned."""
    signs = _read_signs(blocks, spec, blocks.shapes["codes"][0], mmap, verify)
    codes, factor = (blocks.fetch(name, mmap=mmap, verify=verify) for name in ("codes", "factor"))
    norm = blocks.fetch("norm", mmap=mmap, verify=verify) if spec.stores_norm else None
    return StoredRows(signs, codes, factor, norm)


def _read_signs(blocks: Blocks, spec: IndexSpec, n: int, mmap: bool, verify: bool) -> NDArray[np.uint8] | None:
    if not spec.has_sign_bits:
        return None
    if mmap:
        return blocks.map("signs", verify)
    blocks.extent("signs")  # checks the shape before memory is allocated for it
    return blocks.load("signs", empty_sign_bits(spec, n))


def _record_shapes(spec: IndexSpec, n: int) -> Shapes:
    return {"records": (n, RecordLayout.of(spec).size), **_sign_shapes(spec, n)}


def _read_records(blocks: Blocks, spec: IndexSpec, mmap: bool, verify: bool) -> StoredRows:
    """Read rows that are stored as records. Those in memory begin at a cache line, as those of a large block do."""
    shape = blocks.shapes["records"]
    signs = _read_signs(blocks, spec, shape[0], mmap, verify)
    if mmap:
        return stored_records(spec, signs, blocks.map("records", verify, at_cache_line=True))
    blocks.extent("records")  # as for sign bits
    return stored_records(spec, signs, blocks.load("records", aligned_zeros(shape)))


VERSIONS = {
    1: FormatVersion(False, frozenset({"ids"}), False, _code_row_shapes, _read_code_rows),
    2: FormatVersion(False, frozenset({"center", "ids", "vectors"}), True, _split_row_shapes, _read_split_rows),
    3: FormatVersion(True, frozenset({"center", "ids", "names", "vectors"}), True, _split_row_shapes, _read_split_rows),
    4: FormatVersion(
        True, frozenset({"center", "ids", "links", "names", "vectors"}), True, _record_shapes, _read_records
    ),
}


def version_of(path: object, structure: Structure) -> int:
    """Return the format version of a file; FileFormatError if it is none that this build reads."""
    name, version = structure.format, structure.format_version
    if not isinstance(name, bytes) or name != FORMAT_NAME.encode():
        raise FileFormatError(f"{path}: format is {name!r}; expected an index written by vqindex")
    if not isinstance(version, np.integer) or int(version) not in VERSIONS:
        known = ", ".join(map(str, sorted(VERSIONS)))
        raise FileFormatError(f"{path}: format version is {version}; this vqindex reads: {known}")
    return int(version)


def block_shapes(
    path: object, version: FormatVersion, spec: IndexSpec, book: Codebook, n: int, header: dict[str, Any]
) -> Shapes:
    """Return the shapes that the blocks of a file must have.

    Parameters
    ----------
    path : object
        The file, for errors.
    version : FormatVersion
        Its version.
    spec : IndexSpec
        The spec of its codes.
    book : Codebook
        Their codebook.
    n : int
        Rows in the file.
    header : dict
        The header. Its entries of blocks say which optional blocks there are.
    """
    entries = header["blocks"]
    try:
        rows = version.row_shapes(spec, n)
    except InvalidInputError as error:  # a codec that this version has no rows for
        raise FileFormatError(f"{path}: {error}") from None
    shapes: Shapes = {"thresholds": book.thresholds.shape, "levels": book.levels.shape, **rows}
    for name in version.optional:
        if name in entries:
            shapes |= _optional_shapes(name, spec, n, header)
    if set(shapes) != set(entries):
        raise FileFormatError(f"{path}: the header names blocks {sorted(entries)}; expected {sorted(shapes)}")
    return shapes


def _optional_shapes(name: str, spec: IndexSpec, n: int, header: dict[str, Any]) -> Shapes:
    """Return the shapes of an optional block and of those that belong to it."""
    entries = header["blocks"]
    if name == "links":
        graph = header["graph"]
        return {"links": (graph["linked"], graph["slots"] * link_bytes(graph["linked"]))}
    if name == "center":
        is_pending = n == 0 and entries["center"]["shape"] == [0]  # the mean of vectors that are still to come
        return {"center": (0,) if is_pending else (spec.dim,)}
    if name == "names":
        return {"names": (int(entries["names"]["shape"][0]),), "name_ends": (n,)} if "ids" in entries else {}
    if name == "vectors":
        shapes: Shapes = {"vectors": (n, spec.dim)}
        if entries["vectors"]["dtype"] == KINDS["int8"]:
            shapes["vector_scale"] = (n,)
        return shapes
    return {name: (n,)}
