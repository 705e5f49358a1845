"""Code rows and prepared queries: the values that codecs and backends exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoded", "Queries"]

F32 = NDArray[np.float32]


class Encoded(NamedTuple):
    """Code rows: what a codec makes of vectors.

    Attributes
    ----------
    codes : ndarray of uint8, shape (n, code_bytes)
        Packed fields (``packing.py``).
    factor : ndarray of float32, shape (n,)
        Scale of the estimate (``estimator.py``).
    norm : ndarray of float32, shape (n,), or None
        |x|; None for cosine.
    """

    codes: NDArray[np.uint8]
    factor: F32
    norm: F32 | None

    def take(self, at: slice | NDArray[np.int64]) -> Encoded:
        """Return some of the rows."""
        return Encoded(self.codes[at], self.factor[at], None if self.norm is None else self.norm[at])

    @property
    def rows(self) -> int:
        """Number of rows n (len() of a tuple is its number of fields)."""
        return len(self.codes)


@dataclass(frozen=True)
class Queries:
    """Prepared queries.

    Attributes
    ----------
    lead : ndarray of int16, shape (nq, d)
        P q on the int16 grid; for queries on a backend's device, an array there.
    lead_scale : ndarray of float32, shape (nq,)
        Value of a step of `lead`.
    tail : ndarray of int16, shape (nq, m), or None
        S P q, for codecs with a sketch of their own.
    tail_scale : ndarray of float32, shape (nq,), or None
        Value of a step of `tail`.
    norm : ndarray of float32, shape (nq,)
        |q|; for cosine 1, or 0 for a zero query.
    """

    lead: NDArray[np.int16]
    lead_scale: F32
    tail: NDArray[np.int16] | None
    tail_scale: F32 | None
    norm: F32

    def take(self, at: slice) -> Queries:
        """Return some of the queries."""
        tail = None if self.tail is None else self.tail[at]
        tail_scale = None if self.tail_scale is None else self.tail_scale[at]
        return Queries(self.lead[at], self.lead_scale[at], tail, tail_scale, self.norm[at])
