"""The Backend protocol. Arrays go down, results come up: a backend sees vectors, codes and row numbers, never ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import OnDevice
from ..codes.bitplanes import StoredRows
from ..codes.encoded import Encoded, Queries
from ..rows.bitmap import Allowed

__all__ = ["Backend"]

F32 = NDArray[np.float32]


class Backend(Protocol):
    """Encodes and scans for one codec. Every implementation gives the reference's bytes, scores and order."""

    name: str

    def adopt(self, array: Any) -> OnDevice | None:
        """Return a caller's array in the memory of the backend's own device, as it lies there; None for any other."""

    def encode(self, vectors: Any) -> Encoded:
        """Encode finite float32 vectors of shape (n, d): an array on the host, or what `adopt` returned."""

    def put(self, rows: Encoded, block: StoredRows, start: int) -> None:
        """Write code rows into the stored layout (``bitplanes.py``), from row `start` of a block on."""

    def prepare(self, queries: Any) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d): an array on the host, or an adopted one."""

    def search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        k: int,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[F32, NDArray[np.int64]]:
        """Return the k best scores and rows, (nq, k), best first; rows count on from block to block.

        Missing places hold row -1 and score -inf (+inf for l2). Ties go to the lower row. With confidence 1 all rows
        are compared by their scores, below it by the keys of ``sign_bound.py``, for codes that have a sign plane.

        `allowed` has an entry for each block: None, or which of its rows may be returned (``bitmap.py``), for all
        queries or a line for each. The result is that of an index of these rows alone; bits behind the last row mean
        nothing.
        """

    def range_search(
        self,
        queries: Queries,
        blocks: Sequence[StoredRows],
        thresholds: F32,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[NDArray[np.int64], F32, NDArray[np.int64]]:
        """Return all rows whose scores are better than a threshold, of shape (nq,), strictly.

        Returns `lims` (nq + 1,), scores and rows: those of query i are ``[lims[i]:lims[i + 1]]``, best first, ties by
        row. Below confidence 1 a row's key must be better than the threshold too, as in `search`.
        """

    def scores(self, queries: Queries, block: Encoded) -> F32:
        """Return all scores, shape (nq, n)."""

    def stderr(self, queries: Queries, block: Encoded) -> F32:
        """Return the standard error of all scores, shape (nq, n)."""

    def decode(self, block: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d)."""
