"""What a filter found, as row numbers and as the bitmap that a scan takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..rows.bitmap import of_rows, words_of

__all__ = ["Alignment", "Found"]

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

_MOST_SPAN = 8  # entries of a table by row number, for each row


class Found:
    """The documents that satisfy a filter, at one moment.

    Parameters
    ----------
    rows : ndarray of int64, shape (n,)
        Row numbers of all documents of the namespace, and of some deleted ones, ascending.
    live, mask : ndarray of bool, shape (n,)
        Which rows are documents, and which of these satisfy the filter.
    alignment : Alignment
        Where the rows are in the index.

    Attributes
    ----------
    count : int
        How many documents satisfy it.
    """

    def __init__(self, rows: I64, live: Mask, mask: Mask, alignment: Alignment) -> None:
        self._all, self._live, self._mask, self._alignment = rows, live, mask, alignment
        self._words: tuple[I64, U64] | None = None
        self.count = int(np.count_nonzero(mask))

    @property
    def nbytes(self) -> int:
        """Bytes that keeping it takes, with the bitmap that it may make."""
        return 2 * self._mask.nbytes

    @property
    def rows(self) -> I64:
        """Their row numbers, ascending."""
        return self._all[np.flatnonzero(self._mask)]

    def words(self, order: I64) -> U64:
        """Return them as a bitmap, for `vqindex.bitmap`.

        Parameters
        ----------
        order : ndarray of int64, shape (m,)
            The row number of each vector of the index. The same object as before, if it is unchanged.

        Returns
        -------
        ndarray of uint64, shape (ceil(m / 64),)
            Bit i stands for ``order[i]``. Callers don't change it.
        """
        if self._words is None or self._words[0] is not order:
            self._words = order, self._alignment.words(self._all, self._live, self._mask, order)
        return self._words[1]


class Alignment:
    """Where rows of documents are in the index. The last comparison and the last table of places are kept."""

    def __init__(self) -> None:
        self._order: I64 | None = None
        self._rows: I64 | None = None  # compared with `_order`
        self._are_same = False
        self._place: _Places | None = None  # in `_order`

    def words(self, rows: I64, live: Mask, mask: Mask, order: I64) -> U64:
        """Return the bits of `order` that stand for the rows where `mask` is set."""
        if order is not self._order:
            self._order, self._rows, self._place = order, None, None
        if self._rows is not rows and rows.size == order.size:
            self._rows, self._are_same = rows, np.array_equal(rows, order)
        if self._rows is rows and self._are_same:
            return words_of(mask)
        if order.size < rows.size and order.size == np.count_nonzero(live) and np.array_equal(rows[live], order):
            return words_of(mask[live])
        if self._place is None:
            self._place = _Places(order)
        return of_rows(self._place.of(rows[np.flatnonzero(mask)]), order.size)


class _Places:
    """The place of each row number in an order: a table of all numbers, or a sorted one if they lie far apart."""

    def __init__(self, order: I64) -> None:
        self._low = int(order.min(initial=0))
        span = int(order.max(initial=0)) - self._low + 1
        self._table: I64 | None = None
        if span <= _MOST_SPAN * order.size + 1:
            self._table = np.full(span, -1, np.int64)
            self._table[order - self._low] = np.arange(order.size)
        else:
            self._sorter = np.argsort(order)
            self._sorted = order[self._sorter]

    def of(self, rows: I64) -> I64:
        """Return the places of rows, without those that have none."""
        if self._table is not None:
            offsets = rows - self._low
            places = self._table[offsets[(offsets >= 0) & (offsets < self._table.size)]]
            return places[places >= 0]
        at = np.searchsorted(self._sorted, rows)
        at[at == self._sorted.size] = 0
        found: I64 = self._sorter[at[self._sorted[at] == rows]]
        return found
