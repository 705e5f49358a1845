"""The Backend protocol. A backend takes vectors and segments, and returns code rows and scores; it knows no ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import OnDevice
from ..center import Centering
from ..codes.bitplanes import StoredRows
from ..codes.encoded import Encoded, Queries
from ..codes.graph import LinkRule
from ..codes.top_k import RangeHits, TopK, Walked
from ..rows.graph import Graph
from ..rows.originals import Originals
from ..rows.request import SearchRequest
from ..rows.segment import Segment

__all__ = ["Backend", "Finder"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]


class Finder(Protocol):
    """Searches the rows of one moment for few queries, each time in one call.

    It finds what the steps find one by one: `Centering.residuals`, `Backend.prepare`, `Backend.search` or
    `Backend.walk`, and then `rerank` or `Centering.scores`.
    """

    def find(
        self,
        queries: NDArray[np.generic],
        k: int,
        shortlist: int,
        confidence: float,
        threads: int | None,
        effort: int | None,
        originals: Originals | None,
    ) -> tuple[F32, I64] | None:
        """Return the k best scores and rows of each query, or None where the steps have to be taken.

        Parameters
        ----------
        queries : ndarray, shape (dim,) or (nq, dim)
            A caller's array of any type. None is returned for queries that are to be converted or refused.
        k : int
            Number of results.
        shortlist : int
            With originals, how many rows of each query are re-ranked; at least k.
        confidence : float
            Of the sign bound of a scan.
        threads : int or None
            Most threads to use; None: as many as processors.
        effort : int or None
            Effort of the walks of the graph; None scans.
        originals : Originals or None
            The vectors to re-rank with, one for each row.

        Returns
        -------
        tuple of ndarray of float32 and ndarray of int64, shape (k,) or (nq, k), or None
            Scores as callers see them, and rows, best first; -1 in empty places.
        """


class Backend(Protocol):
    """Encodes and scans for one codec. Every implementation gives the reference's bytes, scores and order."""

    name: str

    @property
    def numpy_steps(self) -> tuple[str, ...]:
        """The steps, of "encode", "prepare" and "search", that NumPy runs for lack of a kernel for this codec."""

    @property
    def ascending(self) -> bool:
        """Whether lower scores are better (l2)."""

    @property
    def walks(self) -> bool:
        """Whether the backend walks graphs; others scan all rows."""

    def adopt(self, array: Any) -> OnDevice | None:
        """Return a caller's array on the backend's own device, without a copy; None for any other array."""

    def encode(self, vectors: Any) -> Encoded:
        """Encode finite float32 vectors of shape (n, d): an array on the host, or what `adopt` returned."""

    def put(self, rows: Encoded, into: StoredRows, start: int) -> None:
        """Write code rows into the stored layout (``bitplanes.py``), from row `start` on."""

    def prepare(self, queries: Any) -> Queries:
        """Rotate and quantize finite float32 queries of shape (nq, d): an array on the host, or an adopted one."""

    def search(self, request: SearchRequest, segments: Sequence[Segment]) -> TopK:
        """Return the k best rows of every query; row numbers continue from segment to segment.

        With confidence 1 the scan ranks rows by their scores; below 1, for codes with sign bits, by the rank scores of
        ``sign_bound.py``. Ties go to the lower row. With a selection the result is that of an index of the selected
        rows alone.
        """

    def range_search(self, request: SearchRequest, segments: Sequence[Segment]) -> RangeHits:
        """Return all rows whose scores are better than the request's thresholds, strictly.

        With a confidence below 1 their rank scores are better, too, as in `search`.
        """

    def walk(self, request: SearchRequest, segments: Sequence[Segment], graph: Graph) -> Walked:
        """Return the k best rows that walks of the graph find, by their exact scores (``codes/graph.py``).

        The selection of the request has a single entry, for all rows. A walk goes through rows that are not selected,
        and returns selected ones only.
        """

    def finder(
        self, centering: Centering, segments: Sequence[Segment], graph: Graph | None, live: U64 | None
    ) -> Finder | None:
        """Return what searches these rows in one call for few queries; None if the backend has none for them.

        Parameters
        ----------
        centering : Centering
            The center of the vectors.
        segments : sequence of Segment
            All rows.
        graph : Graph or None
            Links of the first rows; None if no search is to walk.
        live : ndarray of uint64, or None
            Words of the rows that searches may return; None for all rows.
        """

    def link(self, segments: Sequence[Segment], links: U8, first: int, last: int, rule: LinkRule) -> None:
        """Link rows [first, last) to the graph of the rows before them; `links`, packed, are changed in place."""

    def relink(self, segments: Sequence[Segment], links: U8, live: U64, rule: LinkRule) -> None:
        """Give rows that link to removed rows other links; `links`, packed, are changed in place."""

    def scores(self, queries: Queries, rows: Encoded) -> F32:
        """Return all scores, shape (nq, n)."""

    def row_errors(self, segments: Sequence[Segment], rows: I64) -> tuple[F64, F64]:
        """Return the standard errors of some rows' scores for unit queries at right angles to them, and the norms.

        Both are float64 of shape (m,), for row numbers that continue from segment to segment; norms are 1 for cosine.
        """

    def decode(self, rows: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d)."""
