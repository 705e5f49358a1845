"""Graph: the links between the rows of an index, and the curve of agreement against effort.

Row r of `links` has the links of row r of the index: numbers of rows, little-endian, of three bytes, or of four from
2^24 - 1 linked rows on. A row has `slots` places for links. Used places come first. All bits of a free place are 1.
``codes/graph.py`` says how links are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.graph import NO_ROW, LinkRule, entry_rows
from ..errors import FileFormatError

__all__ = ["MAX_SLOTS", "Curve", "Graph", "check_links", "link_bytes", "pack_links", "unpack_links"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

MAX_SLOTS = 1024
_FILL3 = np.uint32(2**24 - 1)


def link_bytes(linked: int) -> int:
    """Return the bytes of a link in a graph of some rows."""
    return 3 if linked < 2**24 - 1 else 4


class Curve(NamedTuple):
    """How well walks agree with the scan of all rows, measured by `VQIndex.tune`.

    Attributes
    ----------
    k : int
        Number of results that were compared.
    queries : int
        Number of queries.
    efforts : tuple of int
        Efforts, ascending.
    scored : tuple of float
        Mean number of rows that a walk scores, for each effort.
    agreement : tuple of float
        Mean share of the scan's k results that a walk finds.
    error : tuple of float
        Standard error of the mean.
    exact_agreement, exact_error : tuple of float, or None
        The same for searches with ``rerank=True``, compared with a scan that re-ranks a long shortlist. None if the
        index keeps no vectors.
    """

    k: int
    queries: int
    efforts: tuple[int, ...]
    scored: tuple[float, ...]
    agreement: tuple[float, ...]
    error: tuple[float, ...]
    exact_agreement: tuple[float, ...] | None = None
    exact_error: tuple[float, ...] | None = None

    def effort_of(self, recall: float, *, is_reranked: bool = False) -> int | None:
        """Return the least effort whose agreement, less its standard error, is at least `recall`.

        Between two efforts of the curve the logarithm of the effort is interpolated.

        Parameters
        ----------
        recall : float
            Share of the results to find.
        is_reranked : bool, default False
            Whether kept vectors re-rank the results, if the curve has this agreement.

        Returns
        -------
        int or None
            The effort; None if no effort of the curve reaches the recall.
        """
        agreement, error = self.agreement, self.error
        if is_reranked and self.exact_agreement is not None and self.exact_error is not None:
            agreement, error = self.exact_agreement, self.exact_error
        sure = [mean - its_error for mean, its_error in zip(agreement, error, strict=True)]
        for i, reached in enumerate(sure):
            if reached >= recall:
                if not i:
                    return self.efforts[0]
                share = (recall - sure[i - 1]) / (reached - sure[i - 1])
                low, high = math.log(self.efforts[i - 1]), math.log(self.efforts[i])
                return math.ceil(math.exp(low + share * (high - low)))
        return None

    def scored_of(self, effort: int) -> float:
        """Return about how many rows a walk scores.

        Parameters
        ----------
        effort : int
            Effort of the walk.

        Returns
        -------
        float
            Interpolated between the efforts of the curve, and that of its last one beyond.
        """
        return float(np.interp(effort, self.efforts, self.scored))


class Graph(NamedTuple):
    """Links between the first rows of an index; later rows have none.

    Attributes
    ----------
    links : ndarray of uint8, shape (linked, slots * link_bytes(linked))
        Packed links.
    rule : LinkRule
        The constants by which they were made.
    curve : Curve or None
        Agreement against effort, if it was measured.
    many_entries : bool
        Whether walks start from many entries, because from few they miss groups of rows.
    """

    links: U8
    rule: LinkRule
    curve: Curve | None = None
    many_entries: bool = False

    @classmethod
    def empty(cls, rule: LinkRule) -> Graph:
        """Return a graph that has no rows yet."""
        return cls(np.empty((0, rule.slots * link_bytes(0)), np.uint8), rule)

    @classmethod
    def pack(cls, links: U32, rule: LinkRule | None = None) -> Graph:
        """Return the graph of links (linked, slots); free places hold `NO_ROW`."""
        packed = pack_links(links, link_bytes(len(links)))
        return cls(packed, LinkRule.of(links.shape[1]) if rule is None else rule)

    @property
    def linked(self) -> int:
        """Number of linked rows."""
        return len(self.links)

    @property
    def slots(self) -> int:
        """Most links of a row."""
        return self.rule.slots

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the links of one row."""
        return int(self.links.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the links."""
        return self.links.nbytes

    def entries(self) -> I64:
        """Return the rows that walks start from, ascending."""
        return entry_rows(self.linked, many=self.many_entries)

    def unpack(self, start: int = 0, stop: int | None = None) -> U32:
        """Undo `pack`, for rows `start` to before `stop`."""
        return unpack_links(self.links[start:stop], self.slots)

    def rows(self) -> U32:
        """Return the links as row numbers, (linked, slots), a copy; free places hold `NO_ROW`.

        Raises
        ------
        FileFormatError
            If the links, of a mapped file, are none that an index could have.
        """
        links = self.unpack()
        _check(links, "the index came from a damaged file", 0, self.linked)
        return links

    def of_rows(self, links: U32) -> Graph:
        """Return a graph with other links, (n, slots)."""
        return self.pack(links, self.rule)._replace(curve=self.curve, many_entries=self.many_entries)

    def with_room(self, linked: int) -> U8:
        """Return a copy of the links with more rows, whose places are free."""
        size = link_bytes(linked)
        links = np.empty((linked, self.slots * size), np.uint8)
        same = size == link_bytes(self.linked)
        links[: self.linked] = self.links if same else pack_links(self.unpack(), size)
        links[self.linked :] = 0xFF
        return links


def pack_links(links: U32, size: int) -> U8:
    """Return links (n, slots) as numbers of `size` bytes, (n, slots * size); free places hold `NO_ROW`."""
    as_bytes = np.ascontiguousarray(links, "<u4").view(np.uint8).reshape(*links.shape, 4)[:, :, :size]
    return np.ascontiguousarray(as_bytes).reshape(len(links), links.shape[1] * size)


def unpack_links(packed: U8, slots: int) -> U32:
    """Undo `pack_links`."""
    size = packed.shape[1] // slots
    wide = np.zeros((len(packed), slots, 4), np.uint8)
    wide[:, :, :size] = packed.reshape(len(packed), slots, size)
    links = wide.view("<u4")[:, :, 0].astype(np.uint32, copy=False)
    if size == 3:
        links[links == _FILL3] = NO_ROW
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
        _check(unpack_links(part, slots), where, first, linked)
        first += len(part)


def _check(links: U32, where: Any, first: int, linked: int) -> None:
    """Check the links of rows from `first` on, as `check_links`."""
    is_used = links != NO_ROW
    rows = np.arange(first, first + len(links), dtype=np.uint32)[:, None]
    for wrong, said in (
        (is_used & (links >= linked), f"expected one below {linked}"),
        (links == rows, "which is itself"),
        (is_used[:, 1:] & ~is_used[:, :-1], "after a place without a link"),
    ):
        if wrong.any():
            row, place = np.argwhere(wrong)[0]
            link = links[row, place + (1 if wrong.shape[1] < links.shape[1] else 0)]
            raise FileFormatError(f"{where}: row {first + row} has a link to row {link}, {said}")
