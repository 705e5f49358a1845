"""Centering: vectors are encoded and searched by what is left of them without a point m, the index's center.

The error of an estimate of <a, b> is proportional to |a| |b|. Vectors that share a mean, as embeddings of one model
do, are shorter without it, and so is the error of their scores. The engine (codec, backend, kernels, blocks of files)
sees an index of residuals; this is the only place where they are made, and where its scores become the index's:

======  =========================  ========  ===============  ============
metric  rows and queries           engine's  score            bytes
======  =========================  ========  ===============  ============
l2      x - m, q - m               l2        s                as without
cosine  x/|x| - m, q/|q| - m       l2        fl(1 - s/2)      4 for a norm
======  =========================  ========  ===============  ============

|q - x|^2 = |(q - m) - (x - m)|^2, and the cosine of unit vectors is 1 - |q - x|^2 / 2. Any m gives unbiased scores; it
only changes their variance. There is none for ip: <q - m, x - m> differs from <q, x> by <m, x>, a scalar for each row
that ip does not store. Shifting rows alone, which needs none, shrinks |x - m| but not |q|, and raised no recall (MiniLM
at 2 bits: default .8473 and .8465 with the mean, trellis .8832 and .8834).

Residuals are computed in float64 and rounded once to float32, with |x| by ``estimator.sum64``: before the backend sees
them, so that codes do not depend on it. "mean" is the mean of the rows of the first `add`, for cosine of x/|x|: sums
in float64 of 2^17 // d rows at a time, by ``sum64``, added up in turn, divided by the number of rows and rounded.

A zero vector has cosine 0 with all: it counts as a unit vector at right angles to all others, in a dimension of its
own. Its residual is -m, and its norm, a row's or a query's, sqrt(1 + |m|^2); then s is 2 but for the error of
<q - m, -m>. (Its standard error, and the confidence of the sign bound, do not hold; for the gaussian sketch, whose
estimates take the norm in, not even that.)
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import VectorSource, as_host, on_host
from .codes.estimator import MAX_NORM, flush, sum64
from .errors import InvalidInputError
from .spec import IndexSpec

__all__ = ["Centering", "engine_spec"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_PIECE_VALUES = 2**17  # values shifted at a time
_READ_PIECES = 32  # pieces read at a time for the mean: 16 MiB of float32
_TINY2 = float(np.finfo(np.float32).tiny) ** 2  # what is shorter than the smallest normal number is a zero vector
_INFINITY = 0x7F800000  # bits of float32's


def engine_spec(spec: IndexSpec, centered: bool) -> IndexSpec:
    """Return the spec of the index of residuals."""
    return replace(spec, metric="l2") if centered and spec.metric == "cosine" else spec


def _as_vector(center: Any, dim: int) -> F32:
    array = as_host(center)
    if array.dtype.kind not in "fiu" or array.shape != (dim,):
        raise InvalidInputError(
            f"center has dtype {array.dtype} and shape {array.shape}; expected 'mean', or numbers of shape ({dim},)"
        )
    with np.errstate(over="ignore", under="ignore"):
        vector = array.astype(np.float32)
    bad = ~np.isfinite(vector)
    if bad.any():
        column = int(np.argmax(bad))
        raise InvalidInputError(f"center[{column}] is {array[column]}; expected a finite float32 value")
    norm = _norm(vector)
    if not norm < MAX_NORM:
        raise InvalidInputError(f"center has norm {norm:g}; expected less than 2**62")
    vector.flags.writeable = False
    return vector


def _norm(vector: F32) -> float:
    return float(np.sqrt(sum64(vector.astype(np.float64)[:, None] ** 2)[0]))


def _piece_rows(dim: int) -> int:
    return max(1, _PIECE_VALUES // dim)


def _wide(rows: F32, unit: bool) -> Iterator[tuple[slice, F64, NDArray[np.bool_]]]:
    """Yield rows in float64, for `unit` divided by their lengths, in pieces whose passes stay in the cache.

    With where they are, and which are zero vectors and stay as they are. The array is used again for the next piece.
    """
    step = _piece_rows(rows.shape[1])
    room, squares = np.empty((2, min(step, len(rows)), rows.shape[1]))
    for start in range(0, len(rows), step):
        at = slice(start, start + step)
        wide = room[: len(rows[at])]
        wide[:] = rows[at]
        zero = np.zeros(len(wide), np.bool_)
        if unit:
            norm2 = sum64(np.multiply(wide, wide, out=squares[: len(wide)]).T)
            zero = norm2 < _TINY2
            wide /= np.sqrt(np.where(zero, 1.0, norm2))[:, None]
        yield at, wide, zero


@dataclass(frozen=True, eq=False)
class Centering:
    """What stands between an index and its engine.

    Attributes
    ----------
    spec : IndexSpec
        The index's, with the metric that users see.
    vector : ndarray of float32, shape (dim,), or None
        m; read-only. None: there is none, or it is still to be taken.
    pending : bool
        Whether the mean of the first rows is to become m.
    """

    spec: IndexSpec
    vector: F32 | None = None
    pending: bool = False

    # ---- what it is

    @classmethod
    def of(cls, spec: IndexSpec, center: Any) -> Centering:
        """Check the argument center= of an index: None, "mean", or a vector."""
        if center is None:
            return cls(spec)
        if spec.metric == "ip":
            raise InvalidInputError(
                "center is given, but metric is 'ip', whose scores would need another scalar for each vector; "
                "expected metric 'cosine', the same for unit vectors, or 'l2'"
            )
        if isinstance(center, str):
            if center != "mean":
                raise InvalidInputError(f"center is {center!r}; expected 'mean', {spec.dim} numbers, or None")
            return cls(spec, pending=True)
        return cls(spec, _as_vector(center, spec.dim))

    @classmethod
    def from_block(cls, spec: IndexSpec, block: F32 | None) -> Centering:
        """Undo `block`."""
        return cls.of(spec, "mean" if block is not None and not block.size else block)

    @classmethod
    def from_text(cls, spec: IndexSpec, text: str | None) -> Centering:
        """Undo `text`; ValueError if it is none."""
        if text is None or text == "mean":
            return cls.of(spec, text)
        return cls.of(spec, np.frombuffer(base64.b64decode(text, validate=True), "<f4"))

    @property
    def on(self) -> bool:
        """Whether there is a center, or will be."""
        return self.pending or self.vector is not None

    @property
    def engine_spec(self) -> IndexSpec:
        """Spec of the engine."""
        return engine_spec(self.spec, self.on)

    @property
    def block(self) -> F32 | None:
        """What a file keeps: m; (0,) if it is still to be taken; None without a center."""
        return np.empty(0, np.float32) if self.pending else self.vector

    @property
    def text(self) -> str | None:
        """The same as text: the bytes of m in base64, "mean", or None. Equal for equal centers only."""
        if self.vector is None:
            return "mean" if self.pending else None
        return base64.b64encode(self.vector.astype("<f4").tobytes()).decode()

    def describe(self) -> str | None:
        """Return the center in words, or None."""
        if self.vector is None:
            return self.text
        return (
            f"vector of norm {_norm(self.vector):.4g} and CRC-32 {zlib.crc32(self.vector.astype('<f4').tobytes()):08x}"
        )

    def settled(self, source: VectorSource) -> Centering:
        """Return itself, or with the mean of the vectors if that is pending and there are any.

        Raises
        ------
        InvalidInputError
            For a NaN or infinity, naming row and column, or a mean that is too long.
        """
        if not self.pending or not source.rows:
            return self
        total = np.zeros(self.spec.dim)
        for _, chunk in source.chunks(_READ_PIECES * _piece_rows(self.spec.dim)):
            for _, wide, _ in _wide(on_host(chunk), self.spec.metric == "cosine"):
                total += sum64(wide)
        return Centering(self.spec, _as_vector(flush(total / source.rows), self.spec.dim))

    # ---- towards the engine

    def norms(self, found: F32, zero: NDArray[np.bool_]) -> F32:
        """Return the norms that the engine's rows or queries count with; `zero` marks zero vectors."""
        return np.where(zero, self._norm_of_zero, found) if zero.any() else found

    def residuals(self, rows: F32) -> tuple[F32, NDArray[np.bool_]]:
        """Return what the engine sees of finite float32 rows (n, dim), and which of them count as zero vectors."""
        out, zero = np.empty_like(rows), np.empty(len(rows), np.bool_)
        vector = np.zeros(self.spec.dim) if self.vector is None else self.vector.astype(np.float64)
        with np.errstate(under="ignore"):
            for at, wide, zero[at] in _wide(rows, self.spec.metric == "cosine"):
                np.subtract(wide, vector, out=out[at], casting="same_kind")
        return out, zero

    @cached_property
    def _norm_of_zero(self) -> np.float32:
        return np.float32(np.sqrt(1.0 + (0.0 if self.vector is None else _norm(self.vector)) ** 2))

    # ---- and back

    @property
    def _is_angular(self) -> bool:
        return self.on and self.spec.metric == "cosine"

    def scores(self, found: F32) -> F32:
        """Return the index's scores for the engine's."""
        return np.float32(1) - np.float32(0.5) * found if self._is_angular else found

    def thresholds(self, wanted: F32) -> F32:
        """Return the engine's thresholds (nq,) that let pass exactly what has a score better than those wanted."""
        if not self._is_angular:
            return wanted
        # The first distance whose cosine is not better, of all float32 numbers from -inf to inf, by bisection.
        low, high = np.full(wanted.shape, -_INFINITY), np.full(wanted.shape, _INFINITY)
        while (low < high).any():
            middle = (low + high) >> 1
            worse = self.scores(_number(middle)) <= wanted
            low, high = np.where(worse, low, middle + 1), np.where(worse, middle, high)
        return _number(low)

    def stderr(self, errors: F32) -> F32:
        """Return standard errors of the index's scores for those of the engine's."""
        return np.float32(0.5) * errors if self._is_angular else errors

    def decoded(self, residuals: F32) -> F32:
        """Return vectors for decoded residuals."""
        return residuals if self.vector is None else residuals + self.vector


def _number(place: NDArray[np.int64]) -> F32:
    """Return the float32 number at a place in their order: 0 for 0, 1 for the smallest positive one, and so on."""
    bits = np.where(place < 0, 2**31 - place, place)
    return bits.astype(np.uint32).view(np.float32)
