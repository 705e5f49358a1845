"""Graph: the links between the rows of an index, and the curve of agreement against effort.

Links lie in memory and in files as numbers of three bytes, or four from 2^24 - 1 rows on. ``codes/graph.py`` says how
they are made.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.graph import NO_ROW, LinkRule
from ..errors import FileFormatError

__all__ = ["Curve", "Graph", "pack_links", "unpack_links"]

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

_SHORT_ROWS = 2**24 - 1  # most rows whose numbers have three bytes; the next number fills empty slots


def pack_links(links: U32) -> U8:
    """Return links (n, slots) as little-endian numbers of three or four bytes, (n, slots * bytes)."""
    as_bytes = np.ascontiguousarray(links, "<u4").view(np.uint8).reshape(*links.shape, 4)
    size = 3 if len(links) <= _SHORT_ROWS else 4
    return np.ascontiguousarray(as_bytes[:, :, :size]).reshape(len(links), links.shape[1] * size)


def unpack_links(packed: U8, slots: int) -> U32:
    """Undo `pack_links`; empty slots hold `NO_ROW`.

    Raises
    ------
    FileFormatError
        If a link leads to no row.
    """
    size = packed.shape[1] // slots
    as_bytes = np.zeros((len(packed), slots, 4), np.uint8)
    as_bytes[:, :, :size] = packed.reshape(len(packed), slots, size)
    links = as_bytes.view("<u4")[:, :, 0].astype(np.uint32)
    links[links == 2 ** (8 * size) - 1] = NO_ROW
    wrong = (links >= len(links)) & (links != NO_ROW)
    if wrong.any():
        row, slot = np.argwhere(wrong)[0]
        raise FileFormatError(f"links[{row}, {slot}] is {links[row, slot]}; expected a row below {len(links)}")
    return links


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
        """Return the least effort whose agreement is at least `recall`, or None if no effort of the curve reaches it.

        The standard error is subtracted from the agreement first. Between two efforts of the curve the logarithm of
        the effort is interpolated.
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
        """Return about how many rows a walk of an effort scores."""
        return float(np.interp(effort, self.efforts, self.scored))


class Graph(NamedTuple):
    """Links of the first rows of an index.

    Attributes
    ----------
    links : ndarray of uint8, shape (linked, slots * 3) or (linked, slots * 4)
        The links of each row, the used slots first.
    rule : LinkRule
        The constants by which they were made.
    curve : Curve or None
        Agreement against effort, if it was measured.
    """

    links: U8
    rule: LinkRule
    curve: Curve | None = None

    @classmethod
    def empty(cls, rule: LinkRule) -> Graph:
        """Return a graph that has no rows yet."""
        return cls(np.empty((0, 3 * rule.slots), np.uint8), rule)

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

    def rows(self) -> U32:
        """Return the links as row numbers, (linked, slots), a copy; empty slots hold `NO_ROW`."""
        return unpack_links(self.links, self.rule.slots)

    def of_rows(self, links: U32) -> Graph:
        """Return a graph with other links, (n, slots)."""
        return self._replace(links=pack_links(links))
