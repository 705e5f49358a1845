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
from ..directory.local import LocalDirectory
from ..directory.protocol import Directory
from ..errors import FileFormatError, InvalidInputError
from ..file_format.graph_header import curve_of, has_many_entries, header_of, rule_of
from ..file_format.layout import canonical_json
from ..rows.graph import link_bytes
from ..rows.originals import as_kind
from ..spec import IndexSpec
from .entries import GraphEntry, LinksEntry, RemovedEntry, SegmentEntry, Sharing, file_name

__all__ = [
    "BUILD_PLAN",
    "MANIFEST",
    "GraphEntry",
    "LinksEntry",
    "Manifest",
    "RemovedEntry",
    "SegmentEntry",
    "Sharing",
    "file_name",
    "is_ours",
    "load_manifest",
    "load_with_version",
    "prepare_manifest",
    "publish_manifest",
    "read_manifest",
]

MANIFEST = "manifest"
NEXT = "manifest.tmp"
BUILD_PLAN = "building.json"  # of a build in shards, until its manifest is there
STORE_VERSION = 1
MAX_BYTES = 2**26  # a manifest that says it is larger is not read
MAX_COUNTED = 2**62  # numbers in a manifest are below this; ids may be larger, in the files
_FIRST_LINE = re.compile(rb"vqindex-store ([0-9]{1,9}) ([0-9a-f]{8}) ([0-9]{1,9})\n")
_OURS = re.compile(r"[0-9]{10}(-[0-9a-f]{16})?\.(vqi|removed|links)|manifest\.tmp")
_TOKEN = re.compile(r"[0-9a-f]{16}")


def is_ours(name: str) -> bool:
    """Whether commits write and remove files of this name. Files of all other names are left alone."""
    return _OURS.fullmatch(name) is not None


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
    sharing : Sharing or None
        What concerns several writers, in a bucket.
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
    sharing: Sharing | None = None

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
                **({} if self.sharing is None else {"sharing": _sharing_entry(self.sharing)}),
            }
        ).tobytes()
        if len(body) > MAX_BYTES:
            raise InvalidInputError(f"meta makes a manifest of {len(body)} bytes; expected at most {MAX_BYTES}")
        return b"vqindex-store %d %08x %d\n" % (STORE_VERSION, zlib.crc32(body), len(body)) + body


def _writer_of(entry: SegmentEntry | RemovedEntry | LinksEntry) -> dict[str, Any]:
    return {} if entry.writer is None else {"writer": entry.writer}


def _sharing_entry(sharing: Sharing) -> dict[str, Any]:
    return {"tokens": list(sharing.tokens), "retired": dict(sharing.retired)}


def _entry(segment: SegmentEntry) -> dict[str, Any]:
    entry = {key: getattr(segment, key) for key in _SEGMENT_KEYS} | _writer_of(segment)
    for key in _OPTIONAL_KEYS:
        if getattr(segment, key) is not None:
            entry[key] = getattr(segment, key)
    if segment.removed is not None:
        entry["removed"] = {key: getattr(segment.removed, key) for key in _REMOVED_KEYS} | _writer_of(segment.removed)
    return entry


def _graph_entry(graph: GraphEntry) -> dict[str, Any]:
    files = [{key: getattr(file, key) for key in _LINKS_KEYS} | _writer_of(file) for file in graph.files]
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


def _writer(entry: dict[str, Any]) -> str | None:
    writer = entry.get("writer")
    if writer is not None and (not isinstance(writer, str) or _TOKEN.fullmatch(writer) is None):
        raise ValueError(f"writer is {writer!r}; expected 16 hexadecimal digits")
    return writer


def _sharing(entry: dict[str, Any]) -> Sharing:
    tokens, retired = tuple(entry["tokens"]), dict(entry["retired"])
    for token in tokens:
        if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            raise ValueError(f"token is {token!r}; expected 16 hexadecimal digits")
    for name, since in retired.items():
        if not is_ours(name) or not (since is None or isinstance(since, int | float)):
            raise ValueError(f"retired file {name!r} has the time {since!r}")
    return Sharing(tokens, retired)


def _segment(entry: dict[str, Any]) -> SegmentEntry:
    optional: dict[str, Any] = {key: _whole(entry, key) for key in _OPTIONAL_KEYS if key in entry}
    bits = entry.get("removed")
    removed = (
        None
        if bits is None
        else RemovedEntry(**{key: _whole(bits, key) for key in _REMOVED_KEYS}, writer=_writer(bits))
    )
    sizes: dict[str, Any] = {key: _whole(entry, key) for key in _SEGMENT_KEYS}
    segment = SegmentEntry(**sizes, **optional, removed=removed, writer=_writer(entry))
    if segment.live < 0:
        raise ValueError(f"{segment.name} has {segment.rows} rows; {segment.rows - segment.live} are removed")
    return segment


def _graph(entry: dict[str, Any], rows: int) -> GraphEntry:
    graph = GraphEntry(
        rule_of(MANIFEST, entry),
        curve_of(MANIFEST, entry),
        tuple(
            LinksEntry(**{key: _whole(file, key) for key in _LINKS_KEYS}, writer=_writer(file))
            for file in entry["files"]
        ),
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
        sharing=None if content.get("sharing") is None else _sharing(content["sharing"]),
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


def load_with_version(directory: Directory) -> tuple[Manifest, str | None]:
    """Return the manifest, as `load_manifest`, and the version that it had, or an earlier one."""
    if directory.writer is None:
        version = directory.version(MANIFEST)
        return load_manifest(directory), version
    return load_manifest(directory), directory.version_read


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a store in a folder, as `load_manifest`."""
    return load_manifest(LocalDirectory(folder))


def _body(where: str, directory: Directory) -> bytes:
    """Return the checked JSON bytes of a manifest.

    All bytes come from one read, because a writer may replace the file between two. A longer manifest than the first
    read returns is therefore read again from its start.
    """
    size = directory.read_ahead
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
