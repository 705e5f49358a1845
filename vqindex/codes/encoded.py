"""Code rows and prepared queries: the values that codecs and backends exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoded", "Queries"]

F32 = NDArray[np.float32]


class Encoded(NamedTuple):
    """Code rows: encoded vectors.

    Attributes
    ----------
    codes : ndarray of uint8, shape (n, code_bytes)
        Packed fields (``packing.py``).
    rescale : ndarray of float32, shape (n,)
        Scale of the estimate (``estimator.py``).
    norm : ndarray of float32, shape (n,), or None
        |x|; None for cosine.
    """

    codes: NDArray[np.uint8]
    rescale: F32
    norm: F32 | None

    def select(self, at: slice | NDArray[np.int64]) -> Encoded:
        """Return some of the rows."""
        return Encoded(self.codes[at], self.rescale[at], None if self.norm is None else self.norm[at])

    @property
    def rows(self) -> int:
        """Number of rows n (len() of a tuple is its number of fields)."""
        return len(self.codes)


@dataclass(eq=False, slots=True)  # not frozen, which would triple the time of making one
class Queries:
    """Prepared queries.

    Attributes
    ----------
    code_query : ndarray of int16, shape (nq, d)
        P q on the int16 grid, multiplied with the codes' levels. For queries on a backend's device, an array on it.
    code_scale : ndarray of float32, shape (nq,)
        Value of a step of `code_query`.
    sketch_query : ndarray of int16, shape (nq, m), or None
        S P q, for codecs with a sketch of their own.
    sketch_scale : ndarray of float32, shape (nq,), or None
        Value of a step of `sketch_query`.
    norm : ndarray of float32, shape (nq,)
        |q|; for cosine 1, or 0 for a zero query.
    """

    code_query: NDArray[np.int16]
    code_scale: F32
    sketch_query: NDArray[np.int16] | None
    sketch_scale: F32 | None
    norm: F32

    @property
    def count(self) -> int:
        """Number of queries nq."""
        return len(self.norm)

    def select(self, at: slice | NDArray[np.int64]) -> Queries:
        """Return some of the queries."""
        sketch = None if self.sketch_query is None else self.sketch_query[at]
        sketch_scale = None if self.sketch_scale is None else self.sketch_scale[at]
        return Queries(self.code_query[at], self.code_scale[at], sketch, sketch_scale, self.norm[at])
