"""StringIds: ids that are strings.

An index works with int64 ids. The number of a string is the first 63 bits of its BLAKE2b digest; it is found, compared
and stored like any other id. The text of the strings is stored beside the numbers, in row order. Two strings with the
same number (in one of 18 million indexes of a million strings) are told apart by their texts; the second is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_host
from ..errors import FileFormatError, InvalidInputError
from .growing import Growing

__all__ = ["StringIds", "as_string_ids", "numbers_of"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()


def as_string_ids(ids: Any) -> list[str] | None:
    """Return string ids as a list, None if the ids are not strings.

    Raises
    ------
    InvalidInputError
        If only some are strings, or one has no UTF-8 form.
    """
    if isinstance(ids, str):
        raise InvalidInputError(f"ids is {ids!r}; expected a list of ids")
    if not isinstance(ids, list | tuple):
        if "string" in str(getattr(ids, "type", "")):  # a column of pyarrow
            ids = as_host(ids)
        if getattr(getattr(ids, "dtype", None), "kind", None) not in ("U", "T", "O"):
            return None
        ids = np.asarray(ids).tolist()
    if not isinstance(ids, list | tuple) or not ids or not isinstance(ids[0], str):
        return None
    for string in ids:
        if not isinstance(string, str):
            raise InvalidInputError(f"id {string!r} is among ids that are strings; expected one kind")
        try:
            string.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(f"id {string!r} has no UTF-8 form") from None
    return [*ids]


def numbers_of(strings: Sequence[str]) -> I64:
    """Return the numbers of strings, shape (m,)."""
    digests = b"".join(_digest(string.encode()) for string in strings)
    return (np.frombuffer(digests, "<u8") & np.uint64(2**63 - 1)).astype(np.int64)


class StringIds:
    """The string ids of rows, in order. `extended` returns another value and leaves this one as it is.

    Parameters
    ----------
    text : ndarray of uint8, optional
        All strings in UTF-8, concatenated.
    ends : ndarray of int64, shape (n,), optional
        The end of each string in `text`.
    is_verified : bool
        Whether they were checked; False for those of a mapped file, which are checked where something seems wrong.
    """

    def __init__(self, text: U8 | None = None, ends: I64 | None = None, *, is_verified: bool = True) -> None:
        # Plain arrays map the same pages as a memory map, and slicing them is faster.
        self._text = Growing(np.empty(0, np.uint8) if text is None else np.asarray(text))
        self._ends = Growing(np.empty(0, np.int64) if ends is None else np.asarray(ends))
        self._count, self._size = len(self._ends.array), len(self._text.array)
        self._unverified = 0 if is_verified else self._count  # rows, from the first on

    def __len__(self) -> int:
        return self._count

    @property
    def text(self) -> U8:
        """All strings in UTF-8, concatenated."""
        return self._text.array[: self._size]

    @property
    def ends(self) -> I64:
        """The end of each string in `text`."""
        return self._ends.array[: self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of text and ends."""
        return self._text.nbytes + self._ends.nbytes

    def _string(self, row: int) -> str:
        ends = self._ends.array
        start, end = 0 if row == 0 else int(ends[row - 1]), int(ends[row])
        if not 0 <= start <= end <= self._size:
            raise FileFormatError(f"the name of row {row} is out of order: the index came from a damaged file")
        try:
            return self._text.array[start:end].tobytes().decode()
        except UnicodeDecodeError:
            raise FileFormatError(f"the name of row {row} is no UTF-8: the index came from a damaged file") from None

    def of(self, rows: I64) -> NDArray[np.object_]:
        """Return the strings of rows, of any shape; None for row -1."""
        out = np.empty(rows.shape, np.object_)
        out.reshape(-1)[:] = [None if row < 0 else self._string(row) for row in rows.reshape(-1).tolist()]
        return out

    def check_same(self, rows: I64, strings: Sequence[str]) -> None:
        """Raise InvalidInputError if a row that was found by a string's number has another string."""
        for row, string in zip(rows.tolist(), strings, strict=True):
            if row >= 0 and self._string(row) != string:
                other = self._string(row)
                if not np.array_equal(numbers_of([other]), numbers_of([string])):
                    raise FileFormatError(f"{other!r} has the number of {string!r}: the index came from a damaged file")
                raise InvalidInputError(f"id {string!r} has the same number as {other!r}; expected another id")

    def extended(self, strings: Sequence[str]) -> StringIds:
        """Return these strings and then others."""
        encoded = [string.encode() for string in strings]
        return self.joined(
            StringIds(
                np.frombuffer(b"".join(encoded), np.uint8),
                np.cumsum([len(string) for string in encoded], dtype=np.int64),
            )
        )

    def joined(self, other: StringIds) -> StringIds:
        """Return the strings of these rows and then those of others."""
        both = StringIds.__new__(StringIds)
        both._text, both._size = self._text.extended(self._size, other.text), self._size + len(other.text)
        both._ends, both._count = self._ends.extended(self._count, other.ends + self._size), self._count + len(other)
        both._unverified = self._count + other._unverified if other._unverified else self._unverified
        return both

    def slice_rows(self, start: int, stop: int) -> StringIds:
        """Return the strings of the rows from `start` to before `stop`; their text is a view."""
        first = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:stop]
        return StringIds(self.text[first : int(ends[-1])] if ends.size else self.text[:0], ends - first)

    def select(self, rows: I64) -> StringIds:
        """Return copies of the strings of some rows."""
        self.check("names of the index")  # of a memory map that was not verified: before memory of its size is taken
        starts = np.concatenate([[0], self.ends[:-1]])[rows] if rows.size else rows
        lengths = self.ends[rows] - starts
        ends = np.cumsum(lengths)
        at = np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
        return StringIds(self.text[at], ends)

    def check_unverified(self, numbers: I64 | None) -> None:
        """Check the rows of a mapped file, before a string that was not found is called unknown.

        Raises
        ------
        FileFormatError
            As `check`.
        """
        if self._unverified and numbers is not None:
            first = self.slice_rows(0, self._unverified)
            first.check("names of the index", numbers[: self._unverified])
            self._unverified = 0

    def check(self, where: Any, numbers: I64 | None = None) -> None:
        """Check that an index could have written these strings: their ends ascend, and `numbers` are theirs.

        Raises
        ------
        FileFormatError
            Naming the file `where`.
        """
        ends = self.ends
        if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if ends.size else 0) != self._size:
            raise FileFormatError(f"{where}: the ends of names are out of order or not those of {self._size} bytes")
        if numbers is not None and not np.array_equal(numbers_of(self.of(np.arange(len(self))).tolist()), numbers):
            raise FileFormatError(f"{where}: ids are not the numbers of the names")
