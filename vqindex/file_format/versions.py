"""The format versions: which blocks a file of each version holds, and how its rows are read.

A new version gets a new entry, and old entries stay: files of all versions are read for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..codes.bitplanes import BLOCK_ROWS, StoredRows, empty_sign_bits, split
from ..codes.codebook import Codebook
from ..codes.encoded import Encoded
from ..errors import FileFormatError
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
    code_shapes : callable
        Returns the shapes of codes and sign bits for a spec and a number of rows.
    read_rows : callable
        Reads the rows.
    """

    sealed: bool
    optional: frozenset[str]
    can_map: bool
    code_shapes: Callable[[IndexSpec, int], Shapes]
    read_rows: Callable[[Blocks, IndexSpec, bool, bool], StoredRows]


def _code_row_shapes(spec: IndexSpec, n: int) -> Shapes:
    return {"codes": (n, spec.code_bytes)}


def _read_code_rows(blocks: Blocks, spec: IndexSpec, mmap: bool, verify: bool) -> StoredRows:
    """Read whole code rows and split them into sign bits and the other bits."""
    norm = blocks.load("norm") if spec.stores_norm else None
    return split(spec, Encoded(blocks.load("codes"), blocks.load("factor"), norm))


def _split_row_shapes(spec: IndexSpec, n: int) -> Shapes:
    shapes: Shapes = {"codes": (n, spec.row_bytes)}
    if spec.has_sign_bits:
        shapes["signs"] = (-(-n // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS)
    return shapes


def _read_split_rows(blocks: Blocks, spec: IndexSpec, mmap: bool, verify: bool) -> StoredRows:
    """Read rows that are stored as they are scanned."""
    signs = None
    if spec.has_sign_bits and mmap:
        signs = blocks.map("signs", verify)
    elif spec.has_sign_bits:
        blocks.extent("signs")  # checks the shape before memory is allocated for it
        signs = blocks.load("signs", empty_sign_bits(spec, blocks.shapes["codes"][0]))
    codes, factor = (blocks.fetch(name, mmap=mmap, verify=verify) for name in ("codes", "factor"))
    norm = blocks.fetch("norm", mmap=mmap, verify=verify) if spec.stores_norm else None
    return StoredRows(signs, codes, factor, norm)


VERSIONS = {
    1: FormatVersion(False, frozenset({"ids"}), False, _code_row_shapes, _read_code_rows),
    2: FormatVersion(False, frozenset({"center", "ids", "vectors"}), True, _split_row_shapes, _read_split_rows),
    3: FormatVersion(True, frozenset({"center", "ids", "names", "vectors"}), True, _split_row_shapes, _read_split_rows),
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
    path: object, version: FormatVersion, spec: IndexSpec, book: Codebook, n: int, entries: dict[str, Any]
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
    entries : dict
        The header's entries of blocks. They say which optional blocks there are.
    """
    shapes: Shapes = {
        "thresholds": book.thresholds.shape,
        "levels": book.levels.shape,
        **version.code_shapes(spec, n),
        "factor": (n,),
    }
    if spec.stores_norm:
        shapes["norm"] = (n,)
    for name in version.optional:
        if name in entries:
            shapes |= _optional_shapes(name, spec, n, entries)
    if set(shapes) != set(entries):
        raise FileFormatError(f"{path}: the header names blocks {sorted(entries)}; expected {sorted(shapes)}")
    return shapes


def _optional_shapes(name: str, spec: IndexSpec, n: int, entries: dict[str, Any]) -> Shapes:
    """Return the shapes of an optional block and of those that belong to it."""
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
