"""The files that hold the links of a store's graph.

A file has the links of all rows from some row on, and of those rows before it whose links differ from what earlier
files say. A commit that adds few rows therefore writes few links, and a reader puts the files of a commit together.

It begins with a head of 4096 bytes, so that the links of a single file can be mapped: the magic, and five numbers.
Then come the links of the new rows, the numbers of the changed rows, and their links.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..directory.protocol import Directory, OutputFile
from ..errors import FileFormatError
from ..file_format.layout import PAGE
from ..file_format.source import FileSource, bytes_of
from ..rows.graph import Graph, check_links, link_bytes
from .manifest import GraphEntry, LinksEntry

__all__ = ["read_graph", "write_links"]

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

_HEAD = struct.Struct("<8sQQQQQ")  # magic, first row, rows linked, changed rows, slots, bytes of a link
_MAGIC = b"VQILINK1"
_AT_ONCE = 2**24  # bytes that are written, or checked, at a time


def write_links(file: OutputFile, graph: Graph, first: int, changed: U32) -> int:
    """Write the links of the rows from `first` on and of the rows `changed`, and sync them; return their CRC-32."""
    size = link_bytes(graph.linked)
    head = _HEAD.pack(_MAGIC, first, graph.linked, len(changed), graph.slots, size)
    crc = 0
    for part in _parts(head.ljust(PAGE, b"\0"), graph.links[first:], changed, graph.links):
        file.write(part)
        crc = zlib.crc32(part, crc)
    file.sync()
    return crc


def _parts(head: bytes, new: U8, changed: U32, links: U8) -> Iterator[Any]:
    yield head
    rows = max(1, _AT_ONCE // links.shape[1])
    for at in range(0, len(new), rows):
        yield np.ascontiguousarray(new[at : at + rows]).reshape(-1).data
    yield changed.astype("<u4").data
    for at in range(0, len(changed), rows):
        yield links[changed[at : at + rows]].reshape(-1).data


def read_graph(directory: Directory, entry: GraphEntry, mmap: bool, verify: bool) -> Graph:
    """Read the graph of a commit.

    Parameters
    ----------
    directory : Directory
        Where the files lie.
    entry : GraphEntry
        What the manifest says of the graph.
    mmap : bool
        Map the links, if one file has all of them.
    verify : bool
        Check all bytes, and that the links are those of an index. The sizes and the head are always checked.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    FileFormatError
        If a file is damaged, or not the one that the manifest names.
    """
    if not entry.files:
        return Graph.empty(entry.rule)._replace(curve=entry.curve, many_entries=entry.many_entries)
    slots, last = entry.rule.slots, entry.files[-1]
    width = slots * link_bytes(last.linked)
    if mmap and len(entry.files) == 1:
        links = _mapped(directory, last, slots, width, verify)
    else:
        links = np.empty((max(file.linked for file in entry.files), width), np.uint8)
        for each in entry.files:
            _read_into(links, directory, each, slots, verify)
        links = links[: last.linked]
    if verify:
        rows = max(1, _AT_ONCE // width)
        parts = (links[at : at + rows] for at in range(0, len(links), rows))
        check_links(directory.describe(last.name), parts, len(links), slots)
    return Graph(links, entry.rule, entry.curve, entry.many_entries)


@contextmanager
def _opened(directory: Directory, entry: LinksEntry, slots: int, width: int) -> Iterator[FileSource]:
    """Open a file, and check its size and its head."""
    where, source = directory.describe(entry.name), FileSource(directory.fetch(entry.name), follow_links=False)
    with closing(source):
        expected = PAGE + (entry.linked - entry.first) * width + entry.changed * (4 + width)
        if not source.size == entry.size == expected:
            raise FileFormatError(f"{where}: has {source.size} bytes; expected {expected}")
        head = _MAGIC, entry.first, entry.linked, entry.changed, slots, width // slots
        data = source.read(0, PAGE)
        if data != _HEAD.pack(*head).ljust(PAGE, b"\0"):
            raise FileFormatError(f"{where}: not the links that the manifest names (its head differs)")
        yield source


def _mapped(directory: Directory, entry: LinksEntry, slots: int, width: int, verify: bool) -> U8:
    """Return the links of the only file."""
    with _opened(directory, entry, slots, width) as source:
        data = np.frombuffer(source.map(), np.uint8)
        if verify:
            _check_crc(directory, entry, zlib.crc32(data.data))
        return data[PAGE:].reshape(entry.linked, width)


def _read_into(links: U8, directory: Directory, entry: LinksEntry, slots: int, verify: bool) -> None:
    """Read the links of a file into those of all rows."""
    where, width = directory.describe(entry.name), links.shape[1]
    with _opened(directory, entry, slots, width) as source:
        new, numbers = links[entry.first : entry.linked], np.empty(entry.changed, "<u4")
        changed, at, crc = np.empty((entry.changed, width), np.uint8), PAGE, zlib.crc32(source.read(0, PAGE))
        for part in (new, numbers, changed):
            source.read_into(at, bytes_of(part))
            at, crc = at + part.nbytes, zlib.crc32(bytes_of(part), crc)
        source.check_unchanged()
    if verify:
        _check_crc(directory, entry, crc)
    if numbers.size and (numbers[-1] >= entry.first or (numbers[1:] <= numbers[:-1]).any()):
        raise FileFormatError(f"{where}: changes row {numbers.max()}; expected ascending rows below {entry.first}")
    links[numbers] = changed


def _check_crc(directory: Directory, entry: LinksEntry, crc: int) -> None:
    if crc != entry.crc32:
        raise FileFormatError(f"{directory.describe(entry.name)}: damaged (its CRC-32 differs)")
