"""Originals: rounded vectors, kept beside the codes for the exact scores of a shortlist."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._native import Vectors
from ..errors import InvalidInputError
from ..native_calls import chosen_isa

__all__ = ["KINDS", "Kind", "Originals", "Rounded", "as_kind"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

Kind = Literal["f32", "f16", "int8"]  # for type checkers
# Values of keep_vectors=, and the type of a coordinate for each.
KINDS = {"f32": "<f4", "f16": "<f2", "int8": "|i1"}
_PART_BYTES = 2**28  # arrays of at least this size are no longer merged with others


class Rounded(NamedTuple):
    """Rounded vectors.

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


def _is_plain(array: NDArray[Any], dtype: str) -> bool:
    """Whether an array is of a type, and in memory as compiled code reads it."""
    return array.dtype == dtype and array.dtype.isnative and array.flags.c_contiguous and array.flags.aligned


class Originals:
    """Rounded vectors in row order, in a list of arrays that never change.

    Parameters
    ----------
    dim : int
        Number of coordinates.
    kind : one of {"f32", "f16", "int8"}
        Type of a rounded coordinate. The step of an int8 vector is its largest magnitude / 127.
    """

    def __init__(self, dim: int, kind: str) -> None:
        self.dim = dim
        self.kind = kind
        self.parts: list[Rounded] = []
        self._compiled: Vectors | None = None

    def __len__(self) -> int:
        return sum(len(part.values) for part in self.parts)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a vector, with its scale."""
        return self.dim * np.dtype(KINDS[self.kind]).itemsize + (4 if self.kind == "int8" else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, memory maps included."""
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
        """Append rounded vectors."""
        self._compiled = None
        self.parts.append(new)
        # Arrays of about the same size are merged, so that no vector is copied more than log2(n) times.
        while len(self.parts) > 1:
            before, last = self.parts[-2:]
            if before.values.nbytes > min(2 * last.values.nbytes, _PART_BYTES):
                break
            scale = None if before.scale is None or last.scale is None else np.concatenate([before.scale, last.scale])
            self.parts[-2:] = [Rounded(np.concatenate([before.values, last.values]), scale)]

    def join(self, more: Originals) -> None:
        """Append the arrays of other originals as they are; `append` would copy small ones into memory."""
        self._compiled = None
        self.parts += more.parts

    def fork(self) -> Originals:
        """Return the same originals, for a change to append to; these stay as they are."""
        fork = Originals(self.dim, self.kind)
        fork.parts = list(self.parts)
        return fork

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

    def compiled(self) -> Vectors | None:
        """Return the vectors as the extension reads them; None if it can't read their arrays as they are."""
        if self._compiled is None:
            values = [part.values for part in self.parts]
            scales = [part.scale for part in self.parts if part.scale is not None]
            if all(_is_plain(each, KINDS[self.kind]) for each in values) and all(
                _is_plain(each, "<f4") for each in scales
            ):
                self._compiled = Vectors(self.kind, self.dim, self.parts, chosen_isa())
        return self._compiled

    def gather(self, rows: I64) -> F32:
        """Return the float32 vectors of some rows, shape (m,)."""
        out = np.empty((rows.size, self.dim), np.float32)
        offset = 0
        for part in self.parts:
            mask = np.flatnonzero((rows >= offset) & (rows < offset + len(part.values)))
            out[mask] = part.vectors(rows[mask] - offset)
            offset += len(part.values)
        return out

    def gather_rounded(self, rows: I64) -> Rounded:
        """Return the rounded vectors of some rows, shape (m,), ascending."""
        parts = self.select(rows).parts
        values = np.concatenate([np.empty((0, self.dim), KINDS[self.kind]), *(part.values for part in parts)])
        scale = np.concatenate([np.empty(0, np.float32), *(part.scale for part in parts if part.scale is not None)])
        return Rounded(values, scale if self.kind == "int8" else None)

    def select(self, rows: I64) -> Originals:
        """Return the originals of some rows, shape (m,), ascending; they are copied."""
        selected = Originals(self.dim, self.kind)
        offset = 0
        for part in self.parts:
            start, stop = np.searchsorted(rows, (offset, offset + len(part.values)))
            at = rows[start:stop] - offset
            selected.append(Rounded(part.values[at], None if part.scale is None else part.scale[at]))
            offset += len(part.values)
        return selected
