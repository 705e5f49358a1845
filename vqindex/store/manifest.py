"""The manifest: which files make up a commit. FORMAT.md describes its bytes.

It is the only file that is ever replaced. Every other file is written once, under a name that no manifest has used
before, and removed when the manifest no longer names it. So a reader that has read a manifest needs no lock: the files
that it names never change.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..center import Centering
from ..codes.graph import LinkRule
from ..directory.local import LocalDirectory
from ..directory.protocol import Directory
from ..errors import FileFormatError, InvalidInputError
from ..file_format.graph_header import curve_of, has_many_entries, header_of, rule_of
from ..file_format.layout import canonical_json
from ..rows.graph import Curve, link_bytes
from ..rows.originals import as_kind
from ..spec import IndexSpec

__all__ = [
    "BUILD_PLAN",
    "MANIFEST",
    "GraphEntry",
    "LinksEntry",
    "Manifest",
    "RemovedEntry",
    "SegmentEntry",
    "is_ours",
    "load_manifest",
    "prepare_manifest",
    "publish_manifest",
    "read_manifest",
]

MANIFEST = "manifest"
NEXT = "manifest.tmp"
BUILD_PLAN = "building.json"  # of a build in shards, until its manifest is there
STORE_VERSION = 1
MAX_BYTES = 2**26  # a manifest that says it is larger is not read
_FIRST_READ = 2**16  # bytes
MAX_COUNTED = 2**62  # numbers in a manifest are below this; ids may be larger, in the files
_FIRST_LINE = re.compile(rb"vqindex-store ([0-9]{1,9}) ([0-9a-f]{8}) ([0-9]{1,9})\n")
_OURS = re.compile(r"[0-9]{10}\.(vqi|removed|links)|manifest\.tmp")


def is_ours(name: str) -> bool:
    """Whether commits write and remove files of this name. Files of all other names are left alone."""
    return _OURS.fullmatch(name) is not None


@dataclass(frozen=True)
class RemovedEntry:
    """The line of a manifest about a file of bits: which rows of a segment are removed.

    Attributes
    ----------
    file : int
        Number in the file's name.
    rows : int
        Number of removed rows.
    crc32 : int
        CRC-32 of the whole file.
    """

    file: int
    rows: int
    crc32: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.file:010d}.removed"


@dataclass(frozen=True)
class SegmentEntry:
    """The line of a manifest about a segment: a ``.vqi`` file, and which of its rows are removed.

    Attributes
    ----------
    file : int
        Number in the file's name.
    rows : int
        Rows in the file, removed ones included.
    size : int
        Bytes of the file.
    crc32 : int
        CRC-32 of its header, which holds those of all its blocks.
    first_id : int or None
        Id of the first row, if row i has id `first_id` + i. The file then has no ids.
    removed : RemovedEntry or None
        Which rows are removed, if any.
    file_crc32 : int or None
        CRC-32 of the whole file, if it is of a format version without a seal.
    """

    file: int
    rows: int
    size: int
    crc32: int
    first_id: int | None = None
    removed: RemovedEntry | None = None
    file_crc32: int | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.file:010d}.vqi"

    @property
    def live(self) -> int:
        """Rows that are not removed."""
        return self.rows - (self.removed.rows if self.removed else 0)


@dataclass(frozen=True)
class LinksEntry:
    """The line of a manifest about a file of links.

    Attributes
    ----------
    file : int
        Number in the file's name.
    first : int
        The first of the rows whose links it has. Links that earlier files have from this row on do not count.
    linked : int
        The rows before this one have links after this file.
    changed : int
        How many rows before `first` it gives other links.
    size : int
        Bytes of the file.
    crc32 : int
        CRC-32 of the whole file.
    """

    file: int
    first: int
    linked: int
    changed: int
    size: int
    crc32: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.file:010d}.links"


@dataclass(frozen=True)
class GraphEntry:
    """What a manifest says of a graph: the links between the first rows of all segments together.

    Attributes
    ----------
    rule : LinkRule
        The constants by which links are made.
    curve : Curve or None
        What `VQIndex.tune` measured.
    files : tuple of LinksEntry
        In the order in which they are put together; none if no rows are linked.
    many_entries : bool
        Whether walks start from many entries.
    """

    rule: LinkRule
    curve: Curve | None = None
    files: tuple[LinksEntry, ...] = ()
    many_entries: bool = False

    @property
    def linked(self) -> int:
        """Number of linked rows."""
        return self.files[-1].linked if self.files else 0


@dataclass(frozen=True)
class Manifest:
    """One commit.

    Attributes
    ----------
    spec : IndexSpec
        The spec of all segments.
    keep_vectors : str or None
        How all segments keep the original vectors.
    commit : int
        Number of earlier commits.
    next_file : int
        Number of the next file. All files named here have lower numbers.
    next_id : int or None
        The next automatic id; None if vectors must come with ids.
    segments : tuple of SegmentEntry
        In the order of rows.
    meta : dict
        Notes of the user.
    center : str or None
        The center of all segments (`Centering.text`).
    graph : GraphEntry or None
        The graph, if the index has one; the rows of all segments are then records.
    """

    spec: IndexSpec
    keep_vectors: str | None = None
    commit: int = 0
    next_file: int = 1
    next_id: int | None = 0
    segments: tuple[SegmentEntry, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    center: str | None = None
    graph: GraphEntry | None = None

    @property
    def names(self) -> set[str]:
        """Names of all files of this commit, including the manifest."""
        removed = {s.removed.name for s in self.segments if s.removed}
        return {MANIFEST, *removed, *(s.name for s in self.segments), *(links.name for links in self.links)}

    @property
    def links(self) -> tuple[LinksEntry, ...]:
        """The files of the graph; none if there is no graph, or it links no rows."""
        return () if self.graph is None else self.graph.files

    def to_bytes(self) -> bytes:
        """Return the bytes of the file."""
        body = canonical_json(
            {
                "commit": self.commit,
                "keep_vectors": self.keep_vectors,
                "meta": self.meta,
                "next_file": self.next_file,
                "next_id": self.next_id,
                "segments": [_entry(segment) for segment in self.segments],
                # Inside the spec, so that a reader that does not know centers refuses the manifest.
                "spec": self.spec.as_dict() | ({} if self.center is None else {"center": self.center}),
                **({} if self.graph is None else {"graph": _graph_entry(self.graph)}),
            }
        ).tobytes()
        if len(body) > MAX_BYTES:
            raise InvalidInputError(f"meta makes a manifest of {len(body)} bytes; expected at most {MAX_BYTES}")
        return b"vqindex-store %d %08x %d\n" % (STORE_VERSION, zlib.crc32(body), len(body)) + body


def _entry(segment: SegmentEntry) -> dict[str, Any]:
    entry = {key: getattr(segment, key) for key in _SEGMENT_KEYS}
    for key in _OPTIONAL_KEYS:
        if getattr(segment, key) is not None:
            entry[key] = getattr(segment, key)
    if segment.removed is not None:
        entry["removed"] = {key: getattr(segment.removed, key) for key in _REMOVED_KEYS}
    return entry


def _graph_entry(graph: GraphEntry) -> dict[str, Any]:
    files = [{key: getattr(file, key) for key in _LINKS_KEYS} for file in graph.files]
    return header_of(graph.rule, graph.linked, graph.curve, graph.many_entries) | {"files": files}


_LINKS_KEYS = ("file", "first", "linked", "changed", "size", "crc32")
_SEGMENT_KEYS = ("file", "rows", "size", "crc32")
_OPTIONAL_KEYS = ("first_id", "file_crc32")
_REMOVED_KEYS = ("file", "rows", "crc32")


def _whole(entry: dict[str, Any], name: str) -> int:
    """Return a value that must be a whole number from 0 on."""
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_COUNTED:
        raise ValueError(f"{name} is {value!r}; expected a whole number from 0 on")
    return value


def _segment(entry: dict[str, Any]) -> SegmentEntry:
    optional = {key: _whole(entry, key) for key in _OPTIONAL_KEYS if key in entry}
    bits = entry.get("removed")
    removed = None if bits is None else RemovedEntry(**{key: _whole(bits, key) for key in _REMOVED_KEYS})
    sizes: dict[str, Any] = {key: _whole(entry, key) for key in _SEGMENT_KEYS}
    segment = SegmentEntry(**sizes, **optional, removed=removed)
    if segment.live < 0:
        raise ValueError(f"{segment.name} has {segment.rows} rows; {segment.rows - segment.live} are removed")
    return segment


def _graph(entry: dict[str, Any], rows: int) -> GraphEntry:
    graph = GraphEntry(
        rule_of(MANIFEST, entry),
        curve_of(MANIFEST, entry),
        tuple(LinksEntry(**{key: _whole(file, key) for key in _LINKS_KEYS}) for file in entry["files"]),
        has_many_entries(MANIFEST, entry),
    )
    before = 0
    for file in graph.files:
        if not file.first <= min(before, file.linked) or file.changed > file.first:
            raise ValueError(f"{file.name} links rows {file.first} to {file.linked} after the first {before} rows")
        before = file.linked
    if not before == entry["linked"] <= rows or len({link_bytes(file.linked) for file in graph.files}) > 1:
        raise ValueError(f"its files link {before} rows; expected {entry['linked']} of {rows} rows")
    return graph


def _parse(body: bytes) -> Manifest:
    content = json.loads(body)
    segments = tuple(_segment(entry) for entry in content["segments"])
    fields = dict(content["spec"])
    center = fields.pop("center", None)
    spec = IndexSpec(**fields)
    if Centering.from_text(spec, center).text != center or (center == "mean" and segments):
        raise ValueError(f"center is {center!r}")
    manifest = Manifest(
        spec,
        as_kind(content["keep_vectors"]),
        commit=_whole(content, "commit"),
        next_file=_whole(content, "next_file"),
        next_id=None if content["next_id"] is None else _whole(content, "next_id"),
        segments=segments,
        meta=dict(content["meta"]),
        center=center,
        graph=None if content.get("graph") is None else _graph(content["graph"], sum(s.rows for s in segments)),
    )
    if manifest.spec.as_dict() != fields:
        raise ValueError(f"spec is {content['spec']}; expected all of {', '.join(manifest.spec.as_dict())}")
    files = [s.file for s in segments] + [s.removed.file for s in segments if s.removed]
    files += [links.file for links in manifest.links]
    if len(set(files)) < len(files) or max(files, default=0) >= manifest.next_file:
        raise ValueError(f"files {sorted(files)}; expected distinct ones below next_file {manifest.next_file}")
    return manifest


def load_manifest(directory: Directory) -> Manifest:
    """Read and check the manifest of a store.

    Raises
    ------
    FileNotFoundError
        If there is none.
    FileFormatError
        If the file is not a manifest, is damaged, or is of an unknown version.
    """
    where = directory.describe(MANIFEST)
    body = _body(where, directory)
    try:
        return _parse(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, FileFormatError) as error:
        raise FileFormatError(f"{where}: can't be read by this version of vqindex ({error})") from None


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a store in a folder, as `load_manifest`."""
    return load_manifest(LocalDirectory(folder))


def _body(where: str, directory: Directory) -> bytes:
    """Return the checked JSON bytes of a manifest.

    All bytes come from one read, because a writer may replace the file between two. A longer manifest than the first
    read returns is therefore read again from its start.
    """
    size = _FIRST_READ
    while True:
        data = directory.read(MANIFEST, 0, size)
        first = _FIRST_LINE.match(data)
        if first is None:
            raise FileFormatError(f"{where}: not the manifest of a vqindex store")
        version, length = int(first[1]), int(first[3])
        if version != STORE_VERSION:
            raise FileFormatError(f"{where}: store version is {version}; this vqindex reads: {STORE_VERSION}")
        needed = first.end() + length + 1  # one byte more than there should be
        if needed > size and length <= MAX_BYTES:
            size = needed
            continue
        body = data[first.end() :]
        if len(body) != length or b"%08x" % zlib.crc32(body) != first[2]:
            raise FileFormatError(f"{where}: damaged (its length or CRC-32 differs)")
        return body


def prepare_manifest(directory: Directory, manifest: Manifest) -> None:
    """Write the next manifest under another name, and sync it."""
    data = manifest.to_bytes()
    if directory.version(NEXT) is not None:
        directory.remove(NEXT)
    file = directory.create(NEXT)
    try:
        file.write(data)
        file.sync()
    finally:
        file.close()


def publish_manifest(directory: Directory, expected: str | None) -> str:
    """Make the prepared manifest the one that readers find; on return it is on disk. Return its version."""
    version = directory.publish(NEXT, MANIFEST, expected)
    directory.sync()
    return version
