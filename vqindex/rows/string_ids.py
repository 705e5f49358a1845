"""StringIds: ids that are strings.

An index works with int64 ids inside. The number of a name is the first 63 bits of its BLAKE2b digest, so that whatever
finds, compares or stores ids does the same with names; their text lies beside, in row order. Two names of one number
(once in 18 million indexes of a million names) are told apart by their texts, and refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, InvalidInputError

__all__ = ["StringIds", "as_string_ids", "numbers_of"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


def _digest(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=8).digest()


def as_string_ids(ids: Any) -> list[str] | None:
    """Return ids that are strings as a list, None if they are not strings.

    Raises
    ------
    InvalidInputError
        If only some are strings, or one has no UTF-8 form.
    """
    if isinstance(ids, str):
        raise InvalidInputError(f"ids is {ids!r}; expected a list of ids")
    if not isinstance(ids, list | tuple):
        if getattr(getattr(ids, "dtype", None), "kind", None) not in ("U", "T", "O"):
            return None
        ids = np.asarray(ids).tolist()
    if not isinstance(ids, list | tuple) or not ids or not isinstance(ids[0], str):
        return None
    for name in ids:
        if not isinstance(name, str):
            raise InvalidInputError(f"id {name!r} is among ids that are strings; expected one kind")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(f"id {name!r} has no UTF-8 form") from None
    return [*ids]


def numbers_of(names: Sequence[str]) -> I64:
    """Return the numbers of names, shape (m,)."""
    digests = b"".join(_digest(name.encode()) for name in names)
    return (np.frombuffer(digests, "<u8") & np.uint64(2**63 - 1)).astype(np.int64)


def _wider(room: NDArray[Any], size: int) -> NDArray[Any]:
    if size <= room.size:
        return room
    wider = np.empty(max(size, room.size * 3 // 2), room.dtype)
    wider[: room.size] = room
    return wider


class StringIds:
    """The names of rows, in order. What is there is never changed, so that others may read while one thread appends.

    Parameters
    ----------
    text : ndarray of uint8, optional
        All names in UTF-8, one behind the other.
    ends : ndarray of int64, shape (n,), optional
        Where each name ends in it.
    """

    def __init__(self, text: U8 | None = None, ends: I64 | None = None) -> None:
        # As plain arrays, for a slice of a memory map takes long to make; they map the same pages.
        self._text = np.empty(0, np.uint8) if text is None else np.asarray(text)
        self._ends = np.empty(0, np.int64) if ends is None else np.asarray(ends)
        self._count, self._size = len(self._ends), len(self._text)

    def __len__(self) -> int:
        return self._count

    @property
    def text(self) -> U8:
        """All names in UTF-8, one behind the other."""
        return self._text[: self._size]

    @property
    def ends(self) -> I64:
        """Where each name ends in `text`."""
        return self._ends[: self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of texts and ends."""
        return self._text.nbytes + self._ends.nbytes

    def _name(self, row: int) -> str:
        start = 0 if row == 0 else int(self._ends[row - 1])
        try:
            return self._text[start : int(self._ends[row])].tobytes().decode()
        except UnicodeDecodeError:
            raise FileFormatError(f"the name of row {row} is no UTF-8: the index came from a damaged file") from None

    def of(self, rows: I64) -> NDArray[np.object_]:
        """Return the names of rows, of any shape; None for row -1."""
        out = np.empty(rows.shape, np.object_)
        out.reshape(-1)[:] = [None if row < 0 else self._name(row) for row in rows.reshape(-1).tolist()]
        return out

    def check_same(self, rows: I64, names: Sequence[str]) -> None:
        """Raise InvalidInputError if a row that was found by a name's number has another name."""
        for row, name in zip(rows.tolist(), names, strict=True):
            if row >= 0 and self._name(row) != name:
                raise InvalidInputError(f"id {name!r} has the same number as {self._name(row)!r}; expected another id")

    def append(self, names: Sequence[str]) -> None:
        """Take names in, behind the last ones."""
        coded = [name.encode() for name in names]
        text = np.frombuffer(b"".join(coded), np.uint8)
        ends = np.cumsum([len(name) for name in coded], dtype=np.int64) + self._size
        self._put(text, ends)

    def extend(self, other: StringIds) -> None:
        """Take other names in, behind the last ones."""
        self._put(other.text, other.ends + self._size)

    def _put(self, text: U8, ends: I64) -> None:
        size, count = self._size + len(text), self._count + len(ends)
        self._text, self._ends = _wider(self._text, size), _wider(self._ends, count)
        if len(text):  # else a map, which can't be written to, may still be it
            self._text[self._size : size] = text
        if len(ends):
            self._ends[self._count : count] = ends
        self._size, self._count = size, count

    def slice_rows(self, start: int, stop: int) -> StringIds:
        """Return the strings of the rows from `start` to before `stop`; their text is a view."""
        first = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:stop]
        return StringIds(self.text[first : int(ends[-1])] if ends.size else self.text[:0], ends - first)

    def select(self, rows: I64) -> StringIds:
        """Return the names of some rows; they are copied."""
        self.check("names of the index")  # of a map that was not verified, before memory is taken for what it claims
        starts = np.concatenate([[0], self.ends[:-1]])[rows] if rows.size else rows
        lengths = self.ends[rows] - starts
        ends = np.cumsum(lengths)
        at = np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
        return StringIds(self.text[at], ends)

    def savepoint(self) -> Any:
        """Return what `rollback` needs to take back `append`."""
        return self._size, self._count

    def rollback(self, savepoint: Any) -> None:
        """Return to a savepoint; strings were only appended since."""
        self._size, self._count = savepoint

    def check(self, where: Any, numbers: I64 | None = None) -> None:
        """Refuse what no index could have written: ends out of order, and, if numbers are given, those of other names.

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
