"""IdMap: which external id each row has. Without explicit ids, row i has id i and nothing is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidInputError, UnknownIdError

__all__ = ["IdMap"]

I64 = NDArray[np.int64]


class IdMap:
    """Two-way map between rows and ids.

    Parameters
    ----------
    count : int
        Number of rows already there.
    ids : ndarray of int64, shape (count,), optional
        Their explicit ids.
    """

    def __init__(self, count: int = 0, ids: I64 | None = None) -> None:
        self._count = count
        self.explicit = ids
        self._order: I64 | None = None  # rows sorted by id, made when first needed

    def __len__(self) -> int:
        return self._count

    def _sorted_rows(self) -> I64:
        if self._order is None:
            assert self.explicit is not None
            self._order = np.argsort(self.explicit, kind="stable")
        return self._order

    def find(self, ids: I64) -> I64:
        """Return the row of each id, -1 where it is not in the index."""
        if self.explicit is None:
            return np.where((ids >= 0) & (ids < self._count), ids, -1)
        if self._count == 0:
            return np.full(ids.shape, -1, np.int64)
        order = self._sorted_rows()
        place = np.searchsorted(self.explicit, ids, sorter=order)
        rows = order[np.minimum(place, self._count - 1)]
        return np.where(self.explicit[rows] == ids, rows, -1)

    def rows(self, ids: I64) -> I64:
        """Return the row of each id; raises UnknownIdError naming the first that is missing."""
        rows = self.find(ids)
        if (rows < 0).any():
            raise UnknownIdError(f"id {ids[rows < 0][0]} is not in the index of {self._count} vectors")
        return rows

    def ids(self, rows: I64) -> I64:
        """Return the id of each row; row -1 gives id -1."""
        if self.explicit is None or self._count == 0:
            return rows
        return np.where(rows >= 0, self.explicit[rows], -1)

    def check_new(self, ids: I64 | None) -> None:
        """Raise InvalidInputError if ids can't be added; `ids` are distinct already."""
        if ids is None:
            if self.explicit is not None and self._count:
                raise InvalidInputError(
                    "ids is None, but this index holds explicit ids; expected ids= for every vector"
                )
            return
        known = ids[self.find(ids) >= 0]
        if known.size:
            raise InvalidInputError(f"id {known[0]} is already in the index ({known.size} of {ids.size} given are)")

    def extend(self, count: int, ids: I64 | None) -> None:
        """Append `count` rows whose ids passed `check_new`."""
        if ids is not None:
            old = np.arange(self._count, dtype=np.int64) if self.explicit is None else self.explicit
            self.explicit = np.concatenate([old, ids])
            self._order = None
        self._count += count
