"""Arrays that grow: versions of an index share them, and each version knows how many entries are its own."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Growing"]

Item = TypeVar("Item", bound=np.generic)


class Growing(Generic[Item]):
    """An array with room behind its entries. Entries never change.

    Room is given out once. After a change that failed, the room that it filled may hold anything, and the next change
    of the version before it gets a copy.

    Parameters
    ----------
    entries : ndarray, shape (n,)
        The first entries. A memory map stays one.
    """

    def __init__(self, entries: NDArray[Item]) -> None:
        self.array = entries
        self._claimed = len(entries)

    @property
    def nbytes(self) -> int:
        """Bytes of entries and room."""
        return self.array.nbytes

    def extended(self, count: int, new: NDArray[Any]) -> Growing[Item]:
        """Return an array whose first entries are the first `count` of this one, then `new`."""
        if not len(new):
            return self
        size = count + len(new)
        target = self
        if self._claimed != count or size > len(self.array):
            room = np.empty(max(size, count * 3 // 2), self.array.dtype)
            room[:count] = self.array[:count]
            target = Growing(room)
        target._claimed = size
        target.array[count:size] = new
        return target
