"""Reading a ``.vqi`` file. What does not check is refused by the names of file and block; nothing is guessed.

`read` opens a file once and goes from the outside in: seal and version, header, spec, tables, codebook, center, rows,
ids. Each step checks what the next one relies on. ``source.py`` holds the opened file, ``hardened.py`` reads all
objects of it, and ``versions.py`` says what differs from one format version to another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..center import Centering, engine_spec
from ..codes.codebook import Codebook
from ..codes.codec import Codec
from ..codes.trellis import TABLE_VERSION
from ..errors import FileFormatError, InvalidInputError
from ..rows.graph import Graph, check_links
from ..rows.originals import KINDS, Originals, Rounded
from ..rows.segment import Segment
from ..rows.string_ids import StringIds
from ..spec import IndexSpec
from .contents import FileContents, Identity
from .graph_header import check_sizes, curve_of, has_many_entries, rule_of
from .hardened import Blocks, Structure, format_errors, parse_header, read_structure
from .layout import PAGE
from .seal import Seal, check_bytes, read_seal
from .source import BytesSource, FileSource, Replaced, Source
from .versions import VERSIONS, block_shapes, version_of

__all__ = ["check_copy", "check_ids", "read", "read_bytes", "read_header", "read_identity", "read_verified", "verify"]

Answer = TypeVar("Answer")

_TRIES = 100  # a saver takes far longer to write a file than a reader takes to open it
_LINK_BYTES = 2**20  # of links that are checked at a time
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


class _Opened(NamedTuple):
    """An open file whose version and seal fit together.

    Attributes
    ----------
    source : Source
        Its bytes.
    structure : Structure
        What HDF5 says of it.
    version : int
        Its format version.
    seal : Seal or None
        Its seal, if the version has one.
    """

    source: Source
    structure: Structure
    version: int
    seal: Seal | None


@contextmanager
def _opened(source: Source) -> Iterator[_Opened]:
    """Read seal and structure of a file, and give it to be read on; close it and check that it did not change."""
    try:
        seal = read_seal(source)
        structure = read_structure(source)
        version = version_of(source.path, structure)
        if (seal is not None) != VERSIONS[version].sealed:
            found = "no seal" if seal is None else "a seal"
            raise FileFormatError(f"{source.path}: format version is {version}, but its first page holds {found}")
        with format_errors(source.path):
            yield _Opened(source, structure, version, seal)
        source.check_unchanged()
    finally:
        source.close()


def _of_one_file(
    path: str | os.PathLike[str], work: Callable[[_Opened], Answer], *, follow_links: bool = True
) -> Answer:
    """Return what `work` makes of a file; begin again with the next one if a saver replaces it meanwhile."""
    where = Path(path)
    for _ in range(_TRIES):
        try:
            with _opened(FileSource(where, follow_links=follow_links)) as opened:
                return work(opened)
        except Replaced:  # noqa: PERF203
            continue
    raise FileFormatError(f"{where}: was replaced {_TRIES} times while it was opened; expected one file")


def read(
    path: str | os.PathLike[str], *, mmap: bool = False, verify: bool = True, follow_links: bool = True
) -> FileContents:
    """Read an index file.

    All of it comes from one opening: if a saver replaces the file meanwhile, it is the old one or the new one, whole.

    Parameters
    ----------
    path : str or path
        The file.
    mmap : bool
        Map the per-vector blocks instead of reading them.
    verify : bool
        Also check mapped blocks, and that no id occurs twice. Blocks that are read are always checked.
    follow_links : bool
        Whether the file may be a symbolic link.

    Returns
    -------
    FileContents
        With one segment.

    Raises
    ------
    OSError
        From the system: FileNotFoundError, PermissionError, or too many open files.
    FileFormatError
        If the file is not an index, damaged, of an unknown version, or changed in place while it is read.
    """
    return _of_one_file(path, lambda opened: _contents(opened, mmap, verify), follow_links=follow_links)


def read_bytes(data: bytes) -> FileContents:
    """Read the bytes of a file and check all of them.

    Raises
    ------
    FileFormatError
        If the bytes are no index, are damaged, or are of an unknown version.
    """
    with _opened(BytesSource(data)) as opened:
        return _contents(opened, mmap=False, verify=True)


def _contents(opened: _Opened, mmap: bool, verify: bool, check_numbers: bool = False) -> FileContents:
    source, version = opened.source, VERSIONS[opened.version]
    where = source.path
    header, crc = parse_header(source, opened.structure)
    n, entries, next_id = _row_count(where, header), header["blocks"], _next_id(where, header)
    graph_entry = _graph_entry(where, header, n, "links" in version.optional)
    spec = _spec(where, header)
    _check_tables(where, header, spec)
    definition = _definition(engine_spec(spec, "center" in version.optional and "center" in entries))
    shapes = block_shapes(where, version, definition.spec, definition.codebook, n, header)
    blocks = Blocks(source, opened.structure, entries, shapes)
    _check_definition(blocks, header, definition)
    centering = _centering(blocks, spec)
    mmap = mmap and version.can_map
    verify = verify or not mmap
    stored = version.read_rows(blocks, definition.spec, mmap, verify)
    ids, string_ids = _ids(blocks, next_id, mmap, verify, check_numbers)
    graph = None if graph_entry is None else _graph(blocks, graph_entry, mmap, verify)
    segment = Segment(stored, ids, string_ids, _originals(blocks, spec.dim, mmap, verify), graph=graph)
    identity = Identity(source.size, crc if opened.seal is None else opened.seal.crc32)
    return FileContents(centering, (segment,), header["meta"], next_id, graph, crc, identity)


def _row_count(path: object, header: dict[str, Any]) -> int:
    n = header["ntotal"]
    if type(n) is not int or n < 0:
        raise FileFormatError(f"{path}: ntotal is {n!r}; expected an integer from 0 on")
    return n


def _next_id(path: object, header: dict[str, Any]) -> int | None:
    value = header.get("next_id")
    if value is not None and (type(value) is not int or not 0 <= value < 2**63):
        raise FileFormatError(f"{path}: next_id is {value!r}; expected an integer from 0 to 2**63 - 1")
    return value


def _graph_entry(path: object, header: dict[str, Any], n: int, can_have_links: bool) -> dict[str, Any] | None:
    """Return what the header says of a graph; None if there is none."""
    entry = header.get("graph")
    if not can_have_links or (entry is None and "links" not in header["blocks"]):
        return None
    if not isinstance(entry, dict) or "links" not in header["blocks"]:
        raise FileFormatError(f"{path}: has either links or a graph in its header; expected both or neither")
    check_sizes(path, entry, n)
    return entry


def _graph(blocks: Blocks, entry: dict[str, Any], mmap: bool, verify: bool) -> Graph:
    """Return the graph. Checks read the file, and never a map of it."""
    links, slots, linked = blocks.fetch("links", mmap=mmap, verify=verify), entry["slots"], entry["linked"]
    if verify:
        rows = max(1, _LINK_BYTES // links.shape[1])
        parts = blocks.parts("links", rows) if mmap else (links[at : at + rows] for at in range(0, linked, rows))
        check_links(blocks.path, parts, linked, slots)
    curve, many = curve_of(blocks.path, entry), has_many_entries(blocks.path, entry)
    return Graph(links, rule_of(blocks.path, entry), curve, many)


def _spec(path: object, header: dict[str, Any]) -> IndexSpec:
    try:
        spec = IndexSpec(**header["spec"])
    except (InvalidInputError, TypeError) as error:
        raise FileFormatError(f"{path}: can't be read by this version of vqindex: {error}") from None
    if spec.as_dict() != header["spec"]:
        raise FileFormatError(f"{path}: spec is {header['spec']}; expected all of {', '.join(spec.as_dict())}")
    return spec


def _check_tables(path: object, header: dict[str, Any], spec: IndexSpec) -> None:
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
    blocks: Blocks, next_id: int | None, mmap: bool, verify: bool, check_numbers: bool
) -> tuple[NDArray[np.int64] | None, StringIds | None]:
    """Return explicit ids, and the strings whose numbers they are. Checks read the file, and never a map of it."""
    if "ids" not in blocks:
        return None, None
    names = [name for name in ("ids", "names", "name_ends") if name in blocks]
    mapped = [blocks.map(name, verify=False) for name in names] if mmap else None
    loaded = [blocks.load(name) for name in names] if verify else None
    if loaded is not None:
        check_ids(blocks.path, loaded[0], next_id)
        if loaded[1:]:
            StringIds(*loaded[1:]).check(blocks.path, loaded[0] if check_numbers else None)
    ids, *strings = mapped or loaded or []
    strings_of = StringIds(*strings, is_verified=verify) if strings else None
    return ids.astype(np.int64, copy=False), strings_of


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
    return _of_one_file(
        path, lambda opened: {"format_version": opened.version, **parse_header(opened.source, opened.structure)[0]}
    )


def read_identity(path: str | os.PathLike[str]) -> Identity:
    """Return which file a path leads to: cheap, and nothing of it is checked but its seal."""

    def work(opened: _Opened) -> Identity:
        crc = parse_header(opened.source, opened.structure)[1] if opened.seal is None else opened.seal.crc32
        return Identity(opened.source.size, crc)

    return _of_one_file(path, work)


def verify(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Check every byte of a file; return (name, bytes) of each block.

    It needs little memory, except for the ids, their sort, and the names. Files of versions 1 and 2 have no checksums
    for the bytes between their blocks.

    Raises
    ------
    FileFormatError
        At the first block that does not check, or if the bytes between blocks do not.
    """
    return _of_one_file(path, lambda opened: _verified(opened)[1])


def read_verified(
    path: str | os.PathLike[str], file_crc32: int | None = None, *, follow_links: bool = True
) -> FileContents:
    """Read an index file as a map, and check every byte of it as `verify` does, all from one opening.

    Parameters
    ----------
    path : str or path
        The file.
    file_crc32 : int, optional
        The CRC-32 of all bytes, for a file without a seal.
    follow_links : bool
        Whether the file may be a symbolic link.
    """
    return _of_one_file(path, lambda opened: _verified(opened, file_crc32)[0], follow_links=follow_links)


def check_copy(path: str | os.PathLike[str], size: int, header_crc32: int, file_crc32: int | None = None) -> None:
    """Check that a file has the bytes of another one, of which size and checksums are known. It needs little memory.

    Parameters
    ----------
    path : str or path
        The file.
    size : int
        Bytes of the other file.
    header_crc32 : int
        The CRC-32 of its header.
    file_crc32 : int, optional
        The CRC-32 of all its bytes, if it is a file without a seal.

    Raises
    ------
    FileFormatError
        If it is damaged or another file.
    """

    def work(opened: _Opened) -> None:
        found = opened.source.size, parse_header(opened.source, opened.structure)[1]
        if found != (size, header_crc32):
            raise FileFormatError(f"{path}: not the file that was expected (its size or its header differs)")
        if opened.seal is not None:
            check_bytes(opened.source, PAGE, opened.seal.crc32)
        elif file_crc32 is not None:
            check_bytes(opened.source, 0, file_crc32)

    _of_one_file(path, work, follow_links=False)


def _verified(opened: _Opened, file_crc32: int | None = None) -> tuple[FileContents, list[tuple[str, int]]]:
    contents = _contents(opened, mmap=True, verify=True, check_numbers=True)
    header = parse_header(opened.source, opened.structure)[0]
    sizes = {name: int(np.prod(e["shape"])) * np.dtype(e["dtype"]).itemsize for name, e in header["blocks"].items()}
    if file_crc32 is not None:
        check_bytes(opened.source, 0, file_crc32)
    elif opened.seal is not None:
        check_bytes(opened.source, PAGE, opened.seal.crc32)
    return contents, list(sizes.items())
