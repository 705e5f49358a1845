"""Reading a commit: the manifest and the files it names, also while a writer replaces them.

A reader takes no lock. A writer may publish the next manifest and remove files between a reader's look at the manifest
and its opening of the files. A missing file therefore means that a newer manifest exists, and the reader starts again
with that. Files that are open or mapped stay readable after they are removed, so a snapshot stays complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import file_format
from ..directory.local import LocalDirectory
from ..directory.protocol import Directory
from ..errors import FileFormatError, InvalidInputError, StoreError
from ..file_format.contents import FileContents
from ..file_format.reader import check_ids, read_verified
from ..rows.contents import Contents
from ..rows.graph import Graph
from ..rows.ids import IdMap
from ..rows.originals import Originals
from ..rows.row_store import RowStore
from ..rows.segment import Segment
from ..rows.string_ids import StringIds
from .copies import files_of
from .links import read_graph
from .manifest import MANIFEST, Manifest, SegmentEntry, load_manifest
from .removed import read_removed

__all__ = ["Snapshot", "join_segments", "read_commit", "read_segments", "read_snapshot", "verify_files", "verify_store"]

I64 = NDArray[np.int64]
Answer = TypeVar("Answer")


def _with_steady_files(directory: Directory, work: Callable[[Manifest], Answer]) -> tuple[Manifest, Answer]:
    """Do something with all files of the last commit; again with the next one if a writer removed files meanwhile."""
    manifest = load_manifest(directory)
    while True:
        try:
            return manifest, work(manifest)
        except (FileNotFoundError, FileFormatError) as error:  # noqa: PERF203
            newer = load_manifest(directory)
            if newer == manifest:
                if isinstance(error, FileFormatError):
                    raise
                raise FileFormatError(
                    f"{directory.describe(MANIFEST)}: names {error.filename}, which is missing"
                ) from None
            manifest = newer


def _read_segment(directory: Directory, manifest: Manifest, entry: SegmentEntry, mmap: bool, verify: bool) -> Segment:
    """Read a segment and its removed rows; refuse another file than the one that the manifest names."""
    path = directory.fetch(entry.name)
    return _named_segment(
        directory, manifest, entry, file_format.read(path, mmap=mmap, verify=verify, follow_links=False)
    )


def _named_segment(directory: Directory, manifest: Manifest, entry: SegmentEntry, file: FileContents) -> Segment:
    """Return the rows of a file with its removed rows; refuse another file than the one that the manifest names."""
    where, segment = directory.describe(entry.name), file.segment
    if file.identity is not None and file.identity.size != entry.size:
        raise FileFormatError(f"{where}: has {file.identity.size} bytes; expected {entry.size}")
    kind = None if segment.originals is None else segment.originals.kind
    found = (file.crc32, file.centering.spec, file.centering.text, segment.rows, kind)
    if found != (entry.crc32, manifest.spec, manifest.center, entry.rows, manifest.keep_vectors):
        raise FileFormatError(f"{where}: not the file that {directory.describe(MANIFEST)} names (its header differs)")
    if manifest.graph is not None and segment.stored.records is None:
        raise FileFormatError(f"{where}: has no records, which the graph of {directory.describe(MANIFEST)} needs")
    if (segment.ids is None) != (entry.first_id is not None):
        raise FileFormatError(f"{where}: has ids both here and in {directory.describe(MANIFEST)}, or in neither")
    return segment if entry.removed is None else segment._replace(removed=read_removed(directory, entry, entry.removed))


class Snapshot(NamedTuple):
    """A commit.

    Attributes
    ----------
    manifest : Manifest
        What it consists of.
    segments : list of Segment
        Its rows in order, with their removed rows.
    graph : Graph or None
        The links between them.
    """

    manifest: Manifest
    segments: list[Segment]
    graph: Graph | None


def read_snapshot(directory: Directory, mmap: bool, verify: bool) -> Snapshot:
    """Read the last commit.

    Parameters
    ----------
    directory : Directory
        Where its files lie.
    mmap : bool
        Map codes and scalars instead of reading them.
    verify : bool
        Check every block.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    FileFormatError
        If a file is missing, damaged, or not the one that the manifest names.
    """

    def work(manifest: Manifest) -> Snapshot:
        return read_commit(directory, manifest, mmap, verify)

    return _with_steady_files(directory, work)[1]


def read_commit(directory: Directory, manifest: Manifest, mmap: bool, verify: bool) -> Snapshot:
    """Read the commit of a manifest, which must be the last one, or one whose files are kept."""
    directory.bring(files_of(manifest))
    segments = [_read_segment(directory, manifest, entry, mmap, verify) for entry in manifest.segments]
    graph = None if manifest.graph is None else read_graph(directory, manifest.graph, mmap, verify)
    return Snapshot(manifest, segments, graph)


def read_segments(
    directory: Directory, numbers: Sequence[int] | None, commit: int | None, mmap: bool, verify: bool
) -> tuple[Manifest, list[int], Snapshot]:
    """Read some segments of a commit.

    Parameters
    ----------
    directory : Directory
        Where they lie.
    numbers : sequence of int, or None
        Their positions in the manifest; None: all.
    commit : int or None
        The commit that it must be; None: the last.
    mmap, verify : bool
        As for `open_store`.

    Returns
    -------
    manifest : Manifest
        The whole commit.
    numbers : list of int
        The positions, ascending.
    snapshot : Snapshot
        These segments alone, without a graph.

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_snapshot`.
    InvalidInputError
        If `numbers` are not distinct positions of segments.
    StoreError
        If the store is at another commit.
    """

    def work(manifest: Manifest) -> tuple[list[int], list[Segment]]:
        if commit is not None and manifest.commit != commit:
            raise StoreError(f"{directory.describe(MANIFEST)}: is commit {manifest.commit}; expected commit {commit}")
        chosen = _positions(numbers, len(manifest.segments))
        return chosen, [_read_segment(directory, manifest, manifest.segments[n], mmap, verify) for n in chosen]

    manifest, (chosen, segments) = _with_steady_files(directory, work)
    own = replace(manifest, segments=tuple(manifest.segments[number] for number in chosen), graph=None)
    return manifest, chosen, Snapshot(own, segments, None)


def _positions(numbers: Sequence[int] | None, count: int) -> list[int]:
    if numbers is None:
        return list(range(count))
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < count:
            raise InvalidInputError(f"segment {number!r} is asked for; expected positions from 0 to {count - 1}")
    if len(set(numbers)) < len(numbers):
        raise InvalidInputError(f"segments {list(numbers)} are asked for; expected distinct positions")
    return sorted(int(number) for number in numbers)


def join_segments(rows: RowStore, snapshot: Snapshot, where: str) -> Contents:
    """Return the contents of an index that holds the segments of a commit, without copying rows.

    Parameters
    ----------
    rows : RowStore
        An empty one, which takes the rows.
    snapshot : Snapshot
        The commit.
    where : str
        The store, for errors.
    """
    manifest, segments, graph = snapshot
    originals = None if manifest.keep_vectors is None else Originals(manifest.spec.dim, manifest.keep_vectors)
    removed, first = [], 0
    for segment in segments:
        rows.seal(segment.stored, whole=True)
        if originals is not None and segment.originals is not None:
            originals.join(segment.originals)
        if segment.removed is not None:
            removed.append(segment.removed + first)
        first += segment.rows
    ids = IdMap(first, _join_ids(manifest, segments), manifest.next_id, _join_string_ids(where, segments))
    if removed:
        ids = ids.without(np.concatenate(removed))
    return Contents(rows, ids, originals, graph)


def _ids_of(entry: SegmentEntry, segment: Segment) -> I64:
    """Return the ids of all rows of a segment."""
    if segment.ids is not None:
        return segment.ids
    first = 0 if entry.first_id is None else entry.first_id  # `_read_segment` accepts only one of the two
    return np.arange(first, first + segment.rows)


def _join_ids(manifest: Manifest, segments: Sequence[Segment]) -> I64 | None:
    """Return the ids of all rows; None if row i has id i and no other id was ever given."""
    first_rows = np.cumsum([0, *(entry.rows for entry in manifest.segments)])
    is_counted = all(entry.first_id == first for entry, first in zip(manifest.segments, first_rows, strict=False))
    if is_counted and manifest.next_id == first_rows[-1]:
        return None
    ids = [_ids_of(entry, segment) for entry, segment in zip(manifest.segments, segments, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *ids])


def _string_ids_of(where: str, segments: Sequence[Segment]) -> list[StringIds]:
    """Return the strings of each segment, none if ids are integers. Refuse a mixture."""
    named = [segment.string_ids for segment in segments if segment.string_ids is not None]
    if named and len(named) < len(segments):
        raise FileFormatError(f"{where}: {len(named)} of its {len(segments)} segments have names; expected all or none")
    return named


def _join_string_ids(where: str, segments: Sequence[Segment]) -> StringIds | None:
    """Return the strings of all rows; None if ids are integers."""
    named = _string_ids_of(where, segments)
    if len(named) < 2:
        return named[0] if named else None
    together = StringIds()
    for string_ids in named:
        together = together.joined(string_ids)
    return together


def verify_store(folder: Path) -> list[tuple[str, int]]:
    """Check every byte of every file of the last commit; return (name, bytes) of each.

    It needs little memory, except for all ids, their sort, and the names of one segment at a time.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    FileFormatError
        At the first file that does not check.
    """
    return verify_files(LocalDirectory(folder), str(folder))


def verify_files(directory: Directory, where: str) -> list[tuple[str, int]]:
    """Check every byte of every file of the last commit in a directory, as `verify_store` in a folder.

    Parameters
    ----------
    directory : Directory
        Where they lie.
    where : str
        What messages call it.
    """

    def work(manifest: Manifest) -> list[tuple[str, int]]:
        directory.bring(files_of(manifest))
        names, segments = [], []
        ids = [np.empty(0, np.int64)]
        for entry in manifest.segments:
            file = read_verified(directory.fetch(entry.name), entry.file_crc32, follow_links=False)
            segment = _named_segment(directory, manifest, entry, file)
            segments.append(segment)
            names.append((entry.name, entry.size))
            if entry.removed is not None:
                names.append((entry.removed.name, directory.size(entry.removed.name)))
            all_ids = _ids_of(entry, segment)
            ids.append(all_ids if segment.removed is None else np.delete(all_ids, segment.removed))
        if manifest.graph is not None:
            read_graph(directory, manifest.graph, mmap=True, verify=True)
            names += [(links.name, links.size) for links in manifest.links]
        _string_ids_of(where, segments)
        check_ids(directory.describe(MANIFEST), np.concatenate(ids), manifest.next_id)
        return names

    manifest, names = _with_steady_files(directory, work)
    return [(MANIFEST, len(manifest.to_bytes())), *names]
