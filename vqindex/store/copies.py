"""Which files a commit consists of, and how a copy of each is checked."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..directory.protocol import NamedFile
from ..directory.system import open_for_reading
from ..errors import FileFormatError
from ..file_format.reader import check_copy
from .manifest import Manifest, SegmentEntry
from .removed import size_of_removed

__all__ = ["files_of"]

_AT_ONCE = 2**20  # bytes


def files_of(manifest: Manifest) -> list[NamedFile]:
    """Return the files that a manifest names."""
    files = []
    for segment in manifest.segments:
        files.append(NamedFile(segment.name, segment.size, _segment_check(segment)))
        if segment.removed is not None:
            size = size_of_removed(segment.rows)
            files.append(NamedFile(segment.removed.name, size, partial(_check, size=size, crc32=segment.removed.crc32)))
    return files + [
        NamedFile(links.name, links.size, partial(_check, size=links.size, crc32=links.crc32))
        for links in manifest.links
    ]


def _segment_check(entry: SegmentEntry) -> Callable[[Path], object]:
    return partial(check_copy, size=entry.size, header_crc32=entry.crc32, file_crc32=entry.file_crc32)


def _check(path: Path, *, size: int, crc32: int) -> None:
    """Raise FileFormatError for a file of another size or CRC-32."""
    found, crc = 0, 0
    with open_for_reading(path, follow_links=False) as file:
        while part := file.read(_AT_ONCE):
            found, crc = found + len(part), zlib.crc32(part, crc)
    if (found, crc) != (size, crc32):
        raise FileFormatError(f"{path}: not the file that was expected (its size or its CRC-32 differs)")
