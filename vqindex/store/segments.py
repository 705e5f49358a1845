"""Writing a segment: some rows of an index as a file, and the line of a manifest about it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..center import Centering
from ..codes.codec import Codec
from ..directory.protocol import Directory, OutputFile
from ..file_format.contents import FileContents
from ..file_format.writer import write_file
from ..rows.contents import Contents
from ..rows.ids import IdMap
from .manifest import MAX_COUNTED, SegmentEntry

__all__ = ["name_of", "write_segment"]

I64 = NDArray[np.int64]


def name_of(number: int) -> str:
    """Return the name of a segment's file."""
    return f"{number:010d}.vqi"


def write_segment(
    directory: Directory,
    file: OutputFile,
    name: str,
    number: int,
    codec: Codec,
    centering: Centering,
    contents: Contents,
    rows: I64,
    writer: str | None = None,
) -> SegmentEntry:
    """Write some rows of an index into an empty file and sync it; the caller closes the file.

    Parameters
    ----------
    directory : Directory
        Where the file lies.
    file : OutputFile
        The file.
    name : str
        The name that it has now.
    number : int
        The number that it has in the manifest.
    codec, centering : Codec, Centering
        Those of the index.
    contents : Contents
        Rows, ids and originals of the index.
    rows : ndarray of int64
        The rows to write, ascending.
    writer : str, optional
        What the name holds besides the number.

    Returns
    -------
    SegmentEntry
        What the manifest says of it. Ids that are consecutive numbers are not in the file: the manifest has the first.
    """
    ids, originals = contents.ids.numbers(rows), contents.originals
    string_ids = None if contents.ids.string_ids is None else contents.ids.string_ids.select(rows)
    is_counted = string_ids is None and ids[-1] < MAX_COUNTED and bool((np.diff(ids) == 1).all())
    id_map = IdMap(rows.size, None if is_counted else ids, None, string_ids)
    selected = Contents(contents.rows.select(rows), id_map, None if originals is None else originals.select(rows))
    crc = write_file(file, codec, FileContents(centering, selected.segments(), {}))
    first_id = int(ids[0]) if is_counted else None
    return SegmentEntry(number, rows.size, directory.size(name), crc, first_id, writer=writer)
