"""The lines of a manifest: what it says of each file, and of several writers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..codes.graph import LinkRule
from ..rows.graph import Curve

__all__ = ["GraphEntry", "LinksEntry", "RemovedEntry", "SegmentEntry", "Sharing", "file_name"]


def file_name(number: int, writer: str | None, ending: str) -> str:
    """Return the name of a file. Where several writers work at the same time, it holds which one wrote it."""
    return f"{number:010d}.{ending}" if writer is None else f"{number:010d}-{writer}.{ending}"


@dataclass(frozen=True)
class Sharing:
    """What a manifest in a bucket says besides, where several writers work at the same time.

    Attributes
    ----------
    tokens : tuple of str
        Random numbers of the last commits, the newest last. A writer whose answer was lost finds its own here.
    retired : dict
        For each file that is kept although this commit does not name it: when the commit was published that first did
        without it, in seconds since 1970 by the clock of the bucket; None if that is this commit.
    """

    tokens: tuple[str, ...] = ()
    retired: Mapping[str, float | None] = field(default_factory=dict)


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
    writer : str or None
        What the name holds besides the number, if several writers work at the same time.
    """

    file: int
    rows: int
    crc32: int
    writer: str | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return file_name(self.file, self.writer, "removed")


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
    writer : str or None
        What the name holds besides the number, if several writers work at the same time.
    """

    file: int
    rows: int
    size: int
    crc32: int
    first_id: int | None = None
    removed: RemovedEntry | None = None
    file_crc32: int | None = None
    writer: str | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return file_name(self.file, self.writer, "vqi")

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
    writer : str or None
        What the name holds besides the number, if several writers work at the same time.
    """

    file: int
    first: int
    linked: int
    changed: int
    size: int
    crc32: int
    writer: str | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return file_name(self.file, self.writer, "links")


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
