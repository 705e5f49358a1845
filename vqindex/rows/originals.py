"""Originals: the vectors themselves, rounded, kept beside the codes for exact scores of a shortlist."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError

__all__ = ["KINDS", "Originals", "Rounded", "as_kind"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# What keep_vectors= may be, and the type of a coordinate.
KINDS = {"f32": "<f4", "f16": "<f2", "int8": "|i1"}
_PART_BYTES = 2**28  # parts as large as this are no longer joined with others


class Rounded(NamedTuple):
    """Some rounded vectors.

    Attributes
    ----------
    values : ndarray of float32, float16 or int8, shape (n, dim)
        Coordinates; int8 ones in steps of `scale`.
    scale : ndarray of float32, shape (n,), or None
        Value of a step, for int8.
    """

    values: NDArray[Any]
    scale: F32 | None

    def vectors(self, at: I64) -> F32:
        """Return some of the vectors as float32."""
        out: F32 = self.values[at].astype(np.float32)
        if self.scale is not None:
            out *= self.scale[at, None]
        return out


def as_kind(keep_vectors: object) -> str | None:
    """Check the argument keep_vectors=."""
    if keep_vectors is None or (isinstance(keep_vectors, str) and keep_vectors in KINDS):
        return keep_vectors
    raise InvalidInputError(f"keep_vectors is {keep_vectors!r}; expected one of {', '.join(KINDS)}, or None")


class Originals:
    """Rounded vectors in row order, as parts that are never changed.

    Parameters
    ----------
    dim : int
        Number of coordinates.
    kind : {"f32", "f16", "int8"}
        How a vector is rounded. int8 takes, for each vector, steps of its largest magnitude / 127.
    """

    def __init__(self, dim: int, kind: str) -> None:
        self.dim = dim
        self.kind = kind
        self.parts: list[Rounded] = []

    def __len__(self) -> int:
        return sum(len(part.values) for part in self.parts)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a vector, its scale included."""
        return self.dim * np.dtype(KINDS[self.kind]).itemsize + (4 if self.kind == "int8" else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, mapped ones included."""
        return sum(a.nbytes for part in self.parts for a in part if a is not None)

    def rounded(self, vectors: F32, first_row: int) -> Rounded:
        """Round finite float32 vectors; raises InvalidInputError for those that float16 can't hold."""
        if self.kind == "int8":
            peak = np.abs(vectors).max(axis=1, initial=0).astype(np.float64)
            scale = (peak / 127).astype(np.float32)
            steps = np.divide(vectors, scale[:, None], out=np.zeros_like(vectors), where=scale[:, None] > 0)
            return Rounded(np.clip(np.rint(steps), -127, 127).astype(np.int8), scale)
        if self.kind == "f32":
            return Rounded(vectors.copy(), None)
        with np.errstate(over="ignore", under="ignore"):
            values = vectors.astype(np.float16)
        bad = np.isinf(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InvalidInputError(
                f"vectors[{first_row + row}, {column}] is {vectors[row, column]:g}; "
                "expected magnitudes below 65520 for keep_vectors='f16'"
            )
        return Rounded(values, None)

    def append(self, new: Rounded) -> None:
        """Take rounded vectors in, behind the last ones."""
        self.parts.append(new)
        # Joined with neighbors of about their size: no vector is copied more than log2(n) times.
        while len(self.parts) > 1:
            last, one = self.parts[-1], self.parts[-2]
            if one.values.nbytes > min(2 * last.values.nbytes, _PART_BYTES):
                break
            scale = None if one.scale is None or last.scale is None else np.concatenate([one.scale, last.scale])
            self.parts[-2:] = [Rounded(np.concatenate([one.values, last.values]), scale)]

    def snapshot(self) -> Originals:
        """Return these, whatever is appended later."""
        same = Originals(self.dim, self.kind)
        same.parts = list(self.parts)
        return same

    def slice_rows(self, start: int, stop: int) -> Originals:
        """Return the rows from `start` to before `stop`, as views."""
        some = Originals(self.dim, self.kind)
        offset = 0
        for part in self.parts:
            at = slice(max(start - offset, 0), max(stop - offset, 0))
            if len(part.values[at]):
                some.parts.append(Rounded(part.values[at], None if part.scale is None else part.scale[at]))
            offset += len(part.values)
        return some

    def gather(self, rows: I64) -> F32:
        """Return vectors, float32, of some rows, shape (m,)."""
        out = np.empty((rows.size, self.dim), np.float32)
        offset = 0
        for part in self.parts:
            mask = np.flatnonzero((rows >= offset) & (rows < offset + len(part.values)))
            out[mask] = part.vectors(rows[mask] - offset)
            offset += len(part.values)
        return out

    def gather_rounded(self, rows: I64) -> Rounded:
        """Return some rows, shape (m,), ascending, as they are kept."""
        chosen = self.select(rows).parts
        values = np.concatenate([np.empty((0, self.dim), KINDS[self.kind]), *(part.values for part in chosen)])
        scale = np.concatenate([np.empty(0, np.float32), *(part.scale for part in chosen if part.scale is not None)])
        return Rounded(values, scale if self.kind == "int8" else None)

    def select(self, rows: I64) -> Originals:
        """Return the originals of some rows, shape (m,), ascending; they are copied."""
        chosen = Originals(self.dim, self.kind)
        offset = 0
        for part in self.parts:
            start, stop = np.searchsorted(rows, (offset, offset + len(part.values)))
            at = rows[start:stop] - offset
            chosen.append(Rounded(part.values[at], None if part.scale is None else part.scale[at]))
            offset += len(part.values)
        return chosen

    def savepoint(self) -> Any:
        """Return what `rollback` needs to take back `append`."""
        return list(self.parts)

    def rollback(self, savepoint: Any) -> None:
        """Return to a savepoint; vectors were only appended since."""
        self.parts = savepoint
