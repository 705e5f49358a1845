"""The Backend protocol. Arrays go down, results come up: a backend sees vectors and segments, never ids or files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import OnDevice
from ..codes.bitplanes import StoredRows
from ..codes.encoded import Encoded, Queries
from ..codes.top_k import RangeHits, TopK
from ..rows.request import SearchRequest
from ..rows.segment import Segment

__all__ = ["Backend"]

F32 = NDArray[np.float32]


class Backend(Protocol):
    """Encodes and scans for one codec. Every implementation gives the reference's bytes, scores and order."""

    name: str

    @property
    def numpy_steps(self) -> tuple[str, ...]:
        """Which of "encode", "prepare" and "search" NumPy runs, because the backend has no kernel for this codec."""

    def adopt(self, array: Any) -> OnDevice | None:
        """Return a caller's array in the memory of the backend's own device, as it lies there; None for any other."""

    def encode(self, vectors: Any) -> Encoded:
        """Encode finite float32 vectors of shape (n, d): an array on the host, or what `adopt` returned."""

    def put(self, rows: Encoded, into: StoredRows, start: int) -> None:
        """Write code rows into the stored layout (``bitplanes.py``), from row `start` on."""

    def prepare(self, queries: Any) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d): an array on the host, or an adopted one."""

    def search(self, request: SearchRequest, segments: Sequence[Segment]) -> TopK:
        """Return the k best rows of every query; rows count on from segment to segment.

        With confidence 1 the scan compares rows by their scores; below it by the rank scores of ``sign_bound.py``, for
        codes that store sign bits. Ties go to the lower row. A selection gives the result of an index that holds the
        selected rows alone.
        """

    def range_search(self, request: SearchRequest, segments: Sequence[Segment]) -> RangeHits:
        """Return all rows whose scores are better than the request's thresholds, strictly.

        Below confidence 1 a row's rank score must be better than the threshold too, as in `search`.
        """

    def scores(self, queries: Queries, rows: Encoded) -> F32:
        """Return all scores, shape (nq, n)."""

    def stderr(self, queries: Queries, rows: Encoded) -> F32:
        """Return the standard error of all scores, shape (nq, n)."""

    def decode(self, rows: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d)."""
