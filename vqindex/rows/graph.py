"""Graph: the links of an index, as files and memory hold them.

Row r of `links` has the links of row r of the index: numbers of rows, little-endian, of three bytes, or of four from
2^24 - 1 linked rows on. A row has `slots` places for links. Used places come first. All bits of a free place are 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError

__all__ = ["MAX_SLOTS", "NO_LINK", "Graph", "check_links", "link_bytes"]

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

MAX_SLOTS = 1024
NO_LINK = np.uint32(2**32 - 1)  # of a free place, unpacked
_FILL3 = np.uint32(2**24 - 1)


def link_bytes(linked: int) -> int:
    """Return the bytes of a link in a graph of some rows."""
    return 3 if linked < 2**24 - 1 else 4


class Graph(NamedTuple):
    """Links between the first rows of an index; later rows have none.

    Attributes
    ----------
    links : ndarray of uint8, shape (linked, slots * link_bytes(linked))
        Packed links.
    slots : int
        Most links of a row.
    """

    links: U8
    slots: int

    @classmethod
    def pack(cls, links: U32) -> Graph:
        """Return the graph of links (linked, slots); free places hold `NO_LINK`."""
        linked, slots = links.shape
        size = link_bytes(linked)
        packed = np.ascontiguousarray(links, "<u4").view(np.uint8).reshape(linked, slots, 4)[:, :, :size]
        return cls(np.ascontiguousarray(packed).reshape(linked, slots * size), slots)

    @property
    def linked(self) -> int:
        """Number of linked rows."""
        return len(self.links)

    @property
    def nbytes(self) -> int:
        """Bytes of the links."""
        return self.links.nbytes

    def unpack(self, start: int = 0, stop: int | None = None) -> U32:
        """Undo `pack`, for rows `start` to before `stop`."""
        return _unpacked(self.links[start:stop], self.slots, link_bytes(self.linked))


def _unpacked(packed: U8, slots: int, size: int) -> U32:
    wide = np.zeros((len(packed), slots, 4), np.uint8)
    wide[:, :, :size] = packed.reshape(len(packed), slots, size)
    links = wide.view("<u4")[:, :, 0].astype(np.uint32, copy=False)
    if size == 3:
        links[links == _FILL3] = NO_LINK
    return links


def check_links(where: Any, parts: Iterable[U8], linked: int, slots: int) -> None:
    """Check that an index could have written these links.

    Parameters
    ----------
    where : object
        The file, for errors.
    parts : iterable of ndarray of uint8
        The packed links of all rows, in order.
    linked, slots : int
        Number of linked rows, and places of a row.

    Raises
    ------
    FileFormatError
        If a link leads to a row that is not linked or to its own row, or comes after a free place.
    """
    first = 0
    for part in parts:
        links = _unpacked(part, slots, link_bytes(linked))
        is_used = links != NO_LINK
        rows = np.arange(first, first + len(links), dtype=np.uint32)[:, None]
        for wrong, said in (
            (is_used & (links >= linked), f"expected one below {linked}"),
            (links == rows, "which is itself"),
            (is_used[:, 1:] & ~is_used[:, :-1], "after a place without a link"),
        ):
            if wrong.any():
                row, place = np.argwhere(wrong)[0]
                link = links[row, place + (1 if wrong.shape[1] < slots else 0)]
                raise FileFormatError(f"{where}: row {first + row} has a link to row {link}, {said}")
        first += len(part)
