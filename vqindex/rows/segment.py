"""Segment: some rows of an index that never change again, with everything that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..codes.bitplanes import StoredRows

if TYPE_CHECKING:
    from .originals import Originals
    from .string_ids import StringIds

__all__ = ["Segment"]


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows as files keep them and backends scan them.

    Segments follow one another: the rows of an index are those of its first segment, then those of the next, and so
    on. Files, stores, the GPU's mirror and searches pass this and nothing else.

    Attributes
    ----------
    stored : StoredRows
        Sign bits, codes and scalars.
    ids : ndarray of int64, shape (rows,), or None
        Explicit ids; None where ids are counted, and in segments that are only scanned.
    string_ids : StringIds or None
        The strings whose numbers `ids` are.
    originals : Originals or None
        The vectors themselves, rounded, if they are kept.
    """

    stored: StoredRows
    ids: NDArray[np.int64] | None = None
    string_ids: StringIds | None = None
    originals: Originals | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stored.rows

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scalars."""
        return sum(array.nbytes for array in self.stored if array is not None)
