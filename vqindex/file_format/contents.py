"""What a ``.vqi`` file holds: the reader returns it, and the writer takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..center import Centering
from ..rows.graph import Graph
from ..rows.segment import Segment

__all__ = ["FileContents", "Identity"]


class Identity(NamedTuple):
    """Which file it is: two files of equal identity have the same bytes, or at least the same blocks.

    Attributes
    ----------
    size : int
        Bytes of the file.
    crc32 : int
        That of its seal, which covers all bytes; of a version without a seal that of its header.
    """

    size: int
    crc32: int


@dataclass(frozen=True, eq=False)
class FileContents:
    """The contents of one file.

    Attributes
    ----------
    centering : Centering
        Spec and center.
    segments : sequence of Segment
        The rows in order: one segment from the reader, any number for the writer. Either all have ids or none has; the
        same holds for string ids and originals. Every segment but the last has a multiple of 64 rows.
    meta : dict
        Notes of the user.
    next_id : int or None
        The next automatic id, where ids are explicit although they were given automatically.
    graph : Graph or None
        The graph of all rows, which are then records. The reader's segment has it too.
    crc32 : int or None
        CRC-32 of the header, which holds those of all blocks. None before the file is written.
    identity : Identity or None
        Which file the contents were read from.
    """

    centering: Centering
    segments: Sequence[Segment]
    meta: dict[str, Any]
    next_id: int | None = None
    graph: Graph | None = None
    crc32: int | None = None
    identity: Identity | None = None

    @property
    def segment(self) -> Segment:
        """All rows, of contents that are a single segment."""
        (only,) = self.segments
        return only

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(segment.rows for segment in self.segments)
