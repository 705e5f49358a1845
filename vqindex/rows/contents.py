"""Contents: what an index holds, as parts that agree row by row, and the changes that keep them so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import float_chunks, is_on_device, on_host
from ..backends.protocol import Backend
from ..center import Centering
from ..codes.encoded import Encoded
from ..codes.estimator import MAX_NORM
from ..errors import InvalidInputError
from .ids import IdBatch, IdMap
from .originals import Originals, Rounded
from .row_store import RowStore

__all__ = ["Contents", "Part", "check_norms", "encoded"]

I64 = NDArray[np.int64]
Part = tuple[Encoded, Rounded | None]  # some rows, and their originals if vectors are kept

_CHUNK_VALUES = 2**22  # float32 values encoded at a time: 16 MiB of input
_DEVICE_CHUNK_VALUES = 2**26  # of an array in device memory


def check_norms(norm: NDArray[np.float32] | None, what: str, first_row: int) -> None:
    """Raise InvalidInputError for norms with which distances would not be finite."""
    if norm is not None and norm.size and not norm.max() < MAX_NORM:
        row = int(np.argmax(~(norm < MAX_NORM)))
        raise InvalidInputError(
            f"{what}[{first_row + row}] has norm {norm[row]:g}; expected less than 2**62 for metrics ip and l2"
        )


def encoded(backend: Backend, centering: Centering, originals: Originals | None, matrix: Any) -> Iterator[Part]:
    """Encode a checked matrix (n, dim) by chunks, as they are asked for, and round it if vectors are kept."""
    values = _DEVICE_CHUNK_VALUES if is_on_device(matrix) else _CHUNK_VALUES
    rows = max(1, values // matrix.shape[1])
    for number, chunk in enumerate(float_chunks(matrix, rows, "vectors")):
        kept = None if originals is None else originals.rounded(on_host(chunk), number * rows)
        codes = centering.encode(backend, chunk)
        check_norms(codes.norm, "vectors", number * rows)
        yield codes, kept


class Contents(NamedTuple):
    """Codes, ids and originals of an index; a row is the same vector in all of them.

    Attributes
    ----------
    rows : RowStore
        Codes and scalars.
    ids : IdMap
        Ids, and which rows are still there.
    originals : Originals or None
        The vectors themselves, if they are kept.
    """

    rows: RowStore
    ids: IdMap
    originals: Originals | None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return self.rows.nbytes + self.ids.nbytes + (0 if self.originals is None else self.originals.nbytes)

    def snapshot(self) -> Contents:
        """Return the contents as they are, to be looked at while another thread changes these."""
        ids = self.ids.snapshot()  # first: rows and originals come before their ids
        originals = None if self.originals is None else self.originals.snapshot()
        return Contents(self.rows.first(ids.rows_ever), ids, originals)

    def append(
        self, parts: Iterable[Part], ids: IdBatch | None, expected_rows: int = 0, replaces: I64 | None = None
    ) -> None:
        """Take rows in whose ids passed `IdMap.check_new`, instead of others: all or, if anything is raised, none.

        Parts are taken one by one and lie in memory once; `coming` is how many rows they have, if that is known.
        """
        savepoints = [(part, part.savepoint()) for part in self if part is not None]
        try:
            self.rows.reserve(expected_rows)
            count = self._fill(parts)
            if count:
                self.ids.extend(count, ids, replaces)
        except BaseException:
            for part, savepoint in savepoints:
                part.rollback(savepoint)
            raise

    def _fill(self, parts: Iterable[Part]) -> int:
        count = 0
        for rows, kept in parts:
            self.rows.append(rows)
            if self.originals is not None and kept is not None:
                self.originals.append(kept)
            count += rows.rows
        return count

    def parts(self, rows: I64) -> Iterator[Part]:
        """Yield some rows, shape (m,), ascending, by chunks."""
        step = max(1, _CHUNK_VALUES // self.rows.dim)
        for start in range(0, rows.size, step):
            at = rows[start : start + step]
            yield self.rows.gather(at), None if self.originals is None else self.originals.gather_rounded(at)

    def compacted(self) -> Contents:
        """Return the contents without removed rows, in whole blocks: copied, or itself if it is so already."""
        if self.ids.live is None and self.rows.has_whole_blocks:
            return self
        left = self.ids.live_rows()
        originals = None if self.originals is None else self.originals.select(left)
        return Contents(self.rows.select(left), self.ids.compacted(), originals)
