"""Segment: immutable rows of an index, with all that belongs to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.bitplanes import StoredRows

if TYPE_CHECKING:
    from .graph import Graph
    from .originals import Originals
    from .string_ids import StringIds

__all__ = ["Segment"]


class Segment(NamedTuple):
    """Rows in the form that files store and backends scan.

    The rows of an index are those of its segments in order. Files, stores, the GPU's mirror and searches pass segments
    and nothing else.

    Attributes
    ----------
    stored : StoredRows
        Sign bits, codes and scalars.
    ids : ndarray of int64, shape (rows,), or None
        Explicit ids; None if ids are automatic, and in segments that are only scanned.
    string_ids : StringIds or None
        The strings whose numbers `ids` are.
    originals : Originals or None
        The rounded vectors, if the index keeps them.
    removed : ndarray of int64 or None
        Rows that are removed, ascending; no search returns them. None: all rows are live.
    graph : Graph or None
        Links between rows of this segment, which are then records.
    """

    stored: StoredRows
    ids: NDArray[np.int64] | None = None
    string_ids: StringIds | None = None
    originals: Originals | None = None
    removed: NDArray[np.int64] | None = None
    graph: Graph | None = None

    @property
    def rows(self) -> int:
        """Number of rows (len() of a tuple is its number of fields)."""
        return self.stored.rows

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scalars."""
        return self.stored.nbytes
