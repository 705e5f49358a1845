"""Encoder: encodes vectors and prepares queries, with one backend and one center."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import OnDevice, VectorSource, on_host
from .backends.protocol import Backend
from .center import Centering
from .codes.encoded import Encoded, Queries
from .codes.estimator import MAX_NORM
from .errors import InvalidInputError
from .residuals import OffsetWatch
from .rows.contents import NewRows
from .rows.originals import Originals

__all__ = ["Encoder"]

F32 = NDArray[np.float32]


def _check_norms(norm: F32 | None, what: str, first_row: int) -> None:
    """Raise InvalidInputError for norms so large that distances would not be finite."""
    if norm is None or not norm.size:
        return
    # NumPy would take longer to find the largest norm of one than compiled code to prepare a query.
    largest = norm.item() if norm.size == 1 else norm.max()
    if not largest < MAX_NORM:
        row = int(np.argmax(~(norm < MAX_NORM)))
        raise InvalidInputError(
            f"{what}[{first_row + row}] has norm {norm[row]:g}; expected less than 2**62 for metrics ip and l2"
        )


class Encoder(NamedTuple):
    """The steps from vectors to rows: chunk, round the originals, center, encode.

    Attributes
    ----------
    backend : Backend
        Rotates and quantizes.
    centering : Centering
        The center, subtracted from vectors before they are encoded.
    """

    backend: Backend
    centering: Centering

    def source(self, vectors: Any) -> VectorSource:
        """Check a caller's vectors; an array on the backend's device stays on it.

        Raises
        ------
        InvalidInputError
            As `arrays.as_matrix`.
        """
        on_device = self.backend.adopt(vectors)
        return VectorSource(vectors if on_device is None else on_device, self.centering.spec.dim)

    def encode(
        self, source: VectorSource, originals: Originals | None, watch: OffsetWatch | None = None
    ) -> Iterator[NewRows]:
        """Encode vectors lazily, chunk by chunk, and round them if the index keeps originals.

        A watch looks at the vectors for an offset that needs a center.

        Raises
        ------
        InvalidInputError
            At a chunk that can't be encoded; the message names the row.
        """
        for first_row, chunk in source.chunks():
            if watch is not None and isinstance(chunk, np.ndarray):
                self.centering.look_for_offset(chunk, watch)
            with np.errstate(under="ignore"):  # tiny numbers become 0
                rounded = None if originals is None else originals.rounded(on_host(chunk), first_row)
                codes = self._encode_chunk(chunk)
            _check_norms(codes.norm, "vectors", first_row)
            yield NewRows(codes, rounded)

    def _encode_chunk(self, rows: F32 | OnDevice) -> Encoded:
        if not self.centering.on:
            return self.backend.encode(rows)
        residuals, zero = self.centering.residuals(on_host(rows))
        codes = self.backend.encode(residuals)
        return codes if codes.norm is None else codes._replace(norm=self.centering.norms(codes.norm, zero))

    def prepare(self, queries: F32 | OnDevice) -> Queries:
        """Prepare finite float32 queries (nq, dim).

        Raises
        ------
        InvalidInputError
            For a query whose scores would not be finite.
        """
        if not self.centering.on:
            prepared = self.backend.prepare(queries)
        else:
            residuals, zero = self.centering.residuals(on_host(queries))
            prepared = self.backend.prepare(residuals)
            prepared.norm = self.centering.norms(prepared.norm, zero)
        if self.centering.spec.stores_norm:
            _check_norms(prepared.norm, "queries", 0)
        return prepared
