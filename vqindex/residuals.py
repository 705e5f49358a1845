"""Residuals: rows less a point, and the mean that may become the point; ``center.py`` says what they are for.

All is computed in float64 and rounded once to float32, with norms by ``estimator.sum64``. This happens before a backend
sees the rows, so that codes do not depend on it. The mean is the float64 sum of chunks of 2^17 // d rows, each summed
by ``sum64``, divided by the number of rows and rounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ._native import residuals
from .arrays import VectorSource, on_host
from .codes.estimator import flush, sum64
from .errors import OffsetWarning, outside_of_package
from .native_calls import call_native, chosen_isa

__all__ = ["OffsetWatch", "compiled_residuals", "mean_of", "residuals_of"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_CHUNK_VALUES = 2**17  # values in a chunk of shifted rows
_READ_CHUNKS = 32  # chunks per read for the mean: 16 MiB of float32
_TINY2 = float(np.finfo(np.float32).tiny) ** 2  # squared norm below which a vector counts as zero
_SAMPLE = 256  # first rows of a call to look at, which takes a fraction of a millisecond
# An offset this many times as long as the spread is warned of. Recall@10 of 4 bits then falls from .85 to .65, for l2
# and cosine, in 16 to 384 dimensions.
_OFFSET = 2.0
_ROUNDING = 1e-6  # a spread so small, in multiples of the offset, is that of equal float32 vectors, up to rounding


def _chunk_rows(dim: int) -> int:
    return max(1, _CHUNK_VALUES // dim)


def _float64_chunks(rows: F32, unit: bool) -> Iterator[tuple[slice, F64, NDArray[np.bool_]]]:
    """Yield the slice of each chunk, its rows as float64, and the mask of zero vectors, which no division changes.

    With `unit` the rows are divided by their norms. A chunk fits the cache, and its array is reused for the next chunk.
    """
    step = _chunk_rows(rows.shape[1])
    buffer, squares = np.empty((2, min(step, len(rows)), rows.shape[1]))
    for start in range(0, len(rows), step):
        at = slice(start, start + step)
        wide = buffer[: len(rows[at])]
        wide[:] = rows[at]
        zero = np.zeros(len(wide), np.bool_)
        if unit:
            norm2 = sum64(np.multiply(wide, wide, out=squares[: len(wide)]).T)
            zero = norm2 < _TINY2
            wide /= np.sqrt(np.where(zero, 1.0, norm2))[:, None]
        yield at, wide, zero


def residuals_of(rows: F32, point: F32 | None, unit: bool) -> tuple[F32, NDArray[np.bool_]]:
    """Return rows less a point, and the mask of zero vectors.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, dim)
        Finite vectors.
    point : ndarray of float32, shape (dim,), or None
        What is subtracted; None subtracts nothing.
    unit : bool
        Whether rows are divided by their norms first. Only then a mask has marks.
    """
    out, zero = np.empty_like(rows), np.empty(len(rows), np.bool_)
    wide_point = np.zeros(rows.shape[1]) if point is None else point.astype(np.float64)
    with np.errstate(under="ignore"):
        for at, wide, zero[at] in _float64_chunks(rows, unit):
            np.subtract(wide, wide_point, out=out[at], casting="same_kind")
    return out, zero


def compiled_residuals(rows: F32, point: F32 | None, unit: bool) -> tuple[F32, NDArray[np.bool_]]:
    """Return what `residuals_of` does, in compiled code."""
    if point is None:
        point = np.zeros(rows.shape[1], np.float32)
    out, zero = call_native(residuals, np.ascontiguousarray(rows), point, unit, chosen_isa())
    return out, zero.view(np.bool_)


def mean_of(source: VectorSource, unit: bool) -> F32:
    """Return the mean of vectors, of which there is at least one, each divided by its norm if `unit`.

    Raises
    ------
    InvalidInputError
        For a NaN or infinity (the message names row and column).
    """
    total = np.zeros(source.dim)
    for _, chunk in source.chunks(_READ_CHUNKS * _chunk_rows(source.dim)):
        for _, wide, _ in _float64_chunks(on_host(chunk), unit):
            total += sum64(wide)
    return flush(total / source.rows)


class OffsetWatch:
    """Looks at the first vectors of an index, however few come at a time, for an offset that needs a center."""

    FEWEST = 64  # rows that show an offset

    def __init__(self) -> None:
        self._seen: list[F32] | None = []  # None once they were judged

    def see(self, rows: F32, unit: bool) -> None:
        """Look at new vectors; warns, once, if their mean is much longer than their spread around it."""
        if self._seen is None:
            return
        seen = [*self._seen, rows[:_SAMPLE].copy()]
        enough = sum(map(len, seen)) >= self.FEWEST
        if enough:
            _warn_of_offset(np.concatenate(seen), unit)  # first, since it raises where warnings are errors
        self._seen = None if enough else seen


def _warn_of_offset(rows: F32, unit: bool) -> None:
    sample = rows.astype(np.float64)
    norm2 = np.einsum("ij,ij->i", sample, sample)
    if unit:
        sample *= np.divide(1, np.sqrt(norm2), out=np.zeros_like(norm2), where=norm2 > 0)[:, None]
    mean = sample.mean(axis=0)
    offset2 = float((mean**2).sum())
    spread2 = float(((sample - mean) ** 2).sum(axis=1).mean())  # not mean(norm2) - offset2, which cancels
    offset, spread = offset2**0.5, spread2**0.5
    if _ROUNDING * offset < spread and _OFFSET * spread < offset:
        warnings.warn(
            f"the vectors' mean is {offset / spread:.3g} times as long as their spread around it, so searches miss "
            'many neighbors; center="mean" subtracts it before vectors are encoded',
            OffsetWarning,
            stacklevel=outside_of_package(),
        )
