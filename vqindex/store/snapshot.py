"""Reading a commit: the manifest and the files it names, also while a writer replaces them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import storage
from ..errors import FileFormatError
from .manifest import MANIFEST, Manifest, Segment, read_manifest
from .removed import read_removed

__all__ = ["Part", "crc_of_file", "read_snapshot", "verify_store"]

_CHUNK = 2**22
Answer = TypeVar("Answer")
Part = tuple[storage.Stored, NDArray[np.int64]]  # a segment and which of its rows are removed


def _steady(folder: Path, work: Callable[[Manifest], Answer]) -> tuple[Manifest, Answer]:
    """Do something with all files of a commit; again with the next one if a writer took files away meanwhile."""
    manifest = read_manifest(folder)
    while True:
        try:
            return manifest, work(manifest)
        except (FileNotFoundError, FileFormatError) as error:  # noqa: PERF203
            newer = read_manifest(folder)
            if newer == manifest:
                if isinstance(error, FileFormatError):
                    raise
                raise FileFormatError(f"{folder / MANIFEST}: names {error.filename}, which is missing") from None
            manifest = newer


def _read_segment(folder: Path, manifest: Manifest, segment: Segment, mmap: bool, verify: bool) -> storage.Stored:
    path = folder / segment.name
    size = path.stat().st_size
    if size != segment.size:
        raise FileFormatError(f"{path}: has {size} bytes; expected {segment.size}")
    stored = storage.read(path, mmap=mmap, verify=verify)
    kind = None if stored.originals is None else stored.originals.kind
    found = (stored.crc32, stored.centering.spec, stored.centering.text, stored.rows.rows, kind)
    if found != (segment.crc32, manifest.spec, manifest.center, segment.rows, manifest.keep_vectors):
        raise FileFormatError(f"{path}: not the file that {folder / MANIFEST} names (its header differs)")
    if (stored.ids is None) != (segment.first_id is not None):
        raise FileFormatError(f"{path}: has ids both here and in {folder / MANIFEST}, or in neither")
    return stored


def read_snapshot(folder: Path, mmap: bool, verify: bool) -> tuple[Manifest, list[Part]]:
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
            (_read_segment(folder, manifest, segment, mmap, verify), read_removed(folder, segment))
            for segment in manifest.segments
        ]

    return _steady(folder, work)


def crc_of_file(path: Path) -> int:
    """Return the CRC-32 of all bytes of a file."""
    crc = 0
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            crc = zlib.crc32(data, crc)
    return crc


def verify_store(folder: Path) -> list[tuple[str, int]]:
    """Check every byte of every file of the last commit, in bounded memory; return (name, bytes) of each.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    FileFormatError
        At the first file that does not check.
    """

    def work(manifest: Manifest) -> list[tuple[str, int]]:
        names = []
        for segment in manifest.segments:
            path = folder / segment.name
            _read_segment(folder, manifest, segment, mmap=True, verify=True)
            if crc_of_file(path) != segment.file_crc32:
                raise FileFormatError(f"{path}: damaged outside its blocks (the file's CRC-32 differs)")
            names.append((segment.name, segment.size))
            if segment.removed:
                read_removed(folder, segment)
                names.append((segment.removed.name, (folder / segment.removed.name).stat().st_size))
        return names

    manifest, names = _steady(folder, work)
    return [(MANIFEST, len(manifest.to_bytes())), *names]
