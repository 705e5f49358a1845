"""Filters: the vectors that a search may return. Users pass ids, masks or bitmaps; scans get bits of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_host, refuse_no_array
from ..errors import InvalidInputError
from .bitmap import WORD, bits_of, from_bytes, full, of_rows, words_of
from .ids import IdMap
from .request import SearchRequest, Selection
from .segment import Segment

__all__ = ["Filter", "bitmap", "exclude"]

U64 = NDArray[np.uint64]
_MASK = 8  # so many zeros and ones, one for each vector, are a mask of the wrong type and no ids
_WORDS = 2**23  # words of per-query filters in memory at a time: 64 MiB


@dataclass(frozen=True, eq=False)
class exclude:  # noqa: N801 (reads as a verb where it is used)
    """A filter that excludes some vectors: ``search(queries, filter=vqindex.exclude(ids))``.

    Parameters
    ----------
    ids : array-like of int or of str, shape (m,), or a set of ids
        Ids of vectors that a search must not return. Ids that are not in the index have no effect.
    """

    ids: Any


@dataclass(frozen=True, eq=False)
class bitmap:  # noqa: N801
    """A filter of packed bits: ``search(queries, filter=vqindex.bitmap(np.packbits(mask, bitorder="little")))``.

    Parameters
    ----------
    bits : array-like of uint8, shape (ceil(ntotal / 8),) or (nq, ceil(ntotal / 8))
        Bit i % 8 of byte i // 8 says whether a search may return vector i, in the order of ``index.ids``. Bits past the
        last vector are ignored. uint64 words, ceil(ntotal / 64) of them, are accepted by the same rule. Of all filters
        this form takes the least time to read.
    """

    bits: Any


class Filter:
    """A checked filter over the rows of an index.

    Parameters
    ----------
    filter : array-like of bool or int, exclude, bitmap, a list of these, or None
        As `VQIndex.search` takes it.
    ids : IdMap
        The index's ids.
    queries : int
        Number of queries.

    Raises
    ------
    InvalidInputError
        If the filter is none of these, or its shape does not fit the index or the queries.
    """

    def __init__(self, filter: Any, ids: IdMap, queries: int) -> None:
        self._ids = ids
        self._queries = queries
        self._all: U64 | None = ids.live
        self._each: list[Any] | None = None  # one filter per query
        if filter is None:
            return
        each = self._split(filter)
        if each is None:
            self._all = self._words(filter)
        elif len(each) != queries:
            raise InvalidInputError(f"filter has {len(each)} entries for {queries} queries; expected one for each")
        else:
            self._each = each

    @staticmethod
    def _split(filter: Any) -> list[Any] | None:
        """Return a filter for each query, or None if one filter applies to all."""
        if isinstance(filter, exclude | Set):
            return None
        refuse_no_array(
            filter,
            "filter",
            "a bool mask, ids, vqindex.exclude(ids), vqindex.bitmap(bits), or a list with one of these for each query",
        )
        if isinstance(filter, bitmap):
            bits = as_host(filter.bits)
            return [bitmap(row) for row in bits] if bits.ndim == 2 else None
        if isinstance(filter, list | tuple) and not all(
            isinstance(entry, int | float | np.generic | str) for entry in filter
        ):
            return list(filter)
        array = as_host(filter)
        return list(array) if array.ndim == 2 else None

    def _words(self, filter: Any) -> U64:
        """Return the words of one filter; the bits of removed rows are 0."""
        if isinstance(filter, Set):
            return self._rows_of(filter)
        if isinstance(filter, exclude):
            return self._live() & ~self._rows_of(filter.ids)
        if isinstance(filter, bitmap):
            return self._from_bitmap(as_host(filter.bits))
        array = as_host(filter)
        if array.dtype == np.bool_:
            if array.shape != (len(self._ids),):
                raise InvalidInputError(
                    f"filter is a mask of shape {array.shape}; expected ({len(self._ids)},), a value for each vector"
                )
            return self._words_of_mask(array)
        if array.dtype.kind in "iu" and array.shape == (len(self._ids),) and array.size >= _MASK and array.max() <= 1:
            raise InvalidInputError(
                f"filter has {array.size} integers, all 0 or 1, one for each vector; expected a bool mask, as "
                "filter.astype(bool), or ids"
            )
        return self._rows_of(filter)

    def _live(self) -> U64:
        live = self._ids.live
        return full(self._ids.rows_ever) if live is None else live

    def _rows_of(self, ids: Any) -> U64:
        return self._ids.mark_rows(self._ids.parse_id_set(ids))

    def _from_bitmap(self, bits: NDArray[Any]) -> U64:
        n = len(self._ids)
        unit = {"uint8": 8, "uint64": WORD}.get(bits.dtype.name)
        if unit is None:
            raise InvalidInputError(f"bitmap has dtype {bits.dtype}; expected uint8 or uint64")
        if bits.shape != (-(-n // unit),):
            raise InvalidInputError(
                f"bitmap of {bits.dtype} has shape {bits.shape}; expected ({-(-n // unit)},), bits of {n} vectors"
            )
        words = np.ascontiguousarray(bits, np.uint64) if unit == WORD else from_bytes(bits)
        return words if self._ids.live is None else self._words_of_mask(bits_of(words, n))

    def _words_of_mask(self, mask: NDArray[np.bool_]) -> U64:
        """Return the words of a mask over the live rows."""
        if self._ids.live is None:
            return words_of(np.ascontiguousarray(mask))
        return of_rows(self._ids.live_rows()[mask], self._ids.rows_ever)

    def batches(self, rows: int) -> Iterator[tuple[slice, U64 | None]]:
        """Yield batches of queries, at least one, with the words of the rows that they may find.

        The words are None for all rows, (m,) for one filter, or (nq, m) for one per query. The words of all queries
        may take more memory than the index, so a batch has only some of them.

        Parameters
        ----------
        rows : int
            Number of rows of the index.
        """
        at_once = max(1, self._queries if self._each is None else _WORDS * WORD // max(1, rows))
        for start in range(0, max(1, self._queries), at_once):
            at = slice(start, start + at_once)
            yield at, self._words_of(at)

    def requests(self, request: SearchRequest, segments: Sequence[Segment]) -> Iterator[SearchRequest]:
        """Add this filter to a request; yield the resulting requests, at least one, in the order of the queries."""
        if self._each is None and self._all is None:
            yield request
            return
        rows = [segment.rows for segment in segments]
        for at, words in self.batches(sum(rows)):
            assert words is not None
            yield replace(request.select(at), selection=Selection.of(words, rows))

    def _words_of(self, at: slice) -> U64 | None:
        """Return the words of some queries: None for all rows, (m,) for one filter, (nq, m) for one per query."""
        if self._each is None:
            return self._all
        lines = [self._live() if one is None else self._words(one) for one in self._each[at]]
        return np.array(lines, np.uint64).reshape(len(lines), -(-self._ids.rows_ever // WORD))
