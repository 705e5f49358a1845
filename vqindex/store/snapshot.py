"""Reading a commit: the manifest and the files it names, also while a writer replaces them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import file_format
from ..directory.local import LocalDirectory
from ..directory.protocol import Directory
from ..errors import FileFormatError
from ..file_format.reader import check_ids
from ..file_format.seal import check_bytes
from ..rows.string_ids import StringIds
from .manifest import MANIFEST, Manifest, Segment, load_manifest
from .removed import read_removed

__all__ = ["Part", "ids_of", "names_of", "read_snapshot", "verify_store"]

Answer = TypeVar("Answer")
Part = tuple[file_format.FileContents, NDArray[np.int64]]  # a segment and which of its rows are removed


def _steady(directory: Directory, work: Callable[[Manifest], Answer]) -> tuple[Manifest, Answer]:
    """Do something with all files of a commit; again with the next one if a writer took files away meanwhile."""
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


def _read_segment(
    directory: Directory, manifest: Manifest, segment: Segment, mmap: bool, verify: bool
) -> file_format.FileContents:
    path = directory.describe(segment.name)
    size = directory.size(segment.name)
    if size != segment.size:
        raise FileFormatError(f"{path}: has {size} bytes; expected {segment.size}")
    stored = file_format.read(directory.fetch(segment.name), mmap=mmap, verify=verify)
    originals = stored.segment.originals
    kind = None if originals is None else originals.kind
    found = (stored.crc32, stored.centering.spec, stored.centering.text, stored.rows, kind)
    if found != (segment.crc32, manifest.spec, manifest.center, segment.rows, manifest.keep_vectors):
        raise FileFormatError(f"{path}: not the file that {directory.describe(MANIFEST)} names (its header differs)")
    if (stored.segment.ids is None) != (segment.first_id is not None):
        raise FileFormatError(f"{path}: has ids both here and in {directory.describe(MANIFEST)}, or in neither")
    return stored


def ids_of(segment: Segment, stored: file_format.FileContents) -> NDArray[np.int64]:
    """Return the ids of all rows of a segment."""
    if stored.segment.ids is not None:
        return stored.segment.ids
    assert segment.first_id is not None
    return np.arange(segment.first_id, segment.first_id + segment.rows)


def names_of(where: str, segments: Sequence[file_format.FileContents]) -> list[StringIds]:
    """Return the names of all segments; of none if ids are integers. Some with and some without are refused."""
    named = [stored.segment.string_ids for stored in segments if stored.segment.string_ids is not None]
    if named and len(named) < len(segments):
        raise FileFormatError(f"{where}: {len(named)} of its {len(segments)} segments have names; expected all or none")
    return named


def read_snapshot(directory: Directory, mmap: bool, verify: bool) -> tuple[Manifest, list[Part]]:
    """Read the last commit.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    FileFormatError
        If a file is missing, damaged or another than the manifest names.
    """

    def work(manifest: Manifest) -> list[Part]:
        return [
            (_read_segment(directory, manifest, segment, mmap, verify), read_removed(directory, segment))
            for segment in manifest.segments
        ]

    return _steady(directory, work)


def verify_store(folder: Path) -> list[tuple[str, int]]:
    """Check every byte of every file of the last commit; return (name, bytes) of each.

    Takes little memory but for a sort of all ids.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    FileFormatError
        At the first file that does not check.
    """
    directory = LocalDirectory(folder)

    def work(manifest: Manifest) -> list[tuple[str, int]]:
        names, segments = [], []
        ids = [np.empty(0, np.int64)]
        for segment in manifest.segments:
            path = folder / segment.name
            stored = _read_segment(directory, manifest, segment, mmap=True, verify=True)
            check_bytes(path, segment.file_crc32)
            segments.append(stored)
            if stored.segment.string_ids is not None:
                stored.segment.string_ids.check(path, stored.segment.ids)
            names.append((segment.name, segment.size))
            removed = read_removed(directory, segment)
            if segment.removed:
                names.append((segment.removed.name, directory.size(segment.removed.name)))
            ids.append(np.delete(ids_of(segment, stored), removed))
        names_of(str(folder), segments)
        check_ids(folder / MANIFEST, np.concatenate(ids), manifest.next_id)
        return names

    manifest, names = _steady(directory, work)
    return [(MANIFEST, len(manifest.to_bytes())), *names]
