"""Centering: an index subtracts a point m, its center, from vectors and queries before it encodes them.

The error of an estimate of <a, b> is proportional to |a| |b|. Embeddings of one model share a mean. Without it they are
shorter, and the errors of their scores are smaller. The engine (codec, backend, kernels, blocks of files) sees an index
of the residuals. This module computes the residuals, and converts the engine's scores to those of the index:

======  =========================  ===============  ==================  ===================
metric  rows and queries           engine's metric  score               more bytes per row
======  =========================  ===============  ==================  ===================
l2      x - m, q - m               l2               s                   0
cosine  x/|x| - m, q/|q| - m       l2               fl(1 - s/2)         4 for a norm
======  =========================  ===============  ==================  ===================

|q - x|^2 = |(q - m) - (x - m)|^2, and the cosine of unit vectors is 1 - |q - x|^2 / 2. Any m gives unbiased scores; m
only changes their variance. The metric ip has no center: <q - m, x - m> differs from <q, x> by <m, x>, a scalar per row
that ip does not store. Shifting the rows alone needs no scalar, but shrinks |x - m| and not |q|. It did not raise the
recall (MiniLM at 2 bits: default .8473 and .8465 with the mean, trellis .8832 and .8834).

``residuals.py`` computes residuals and means. "mean" is the mean of the rows of the first `add`, for cosine of x/|x|.

A zero vector has cosine 0 with all vectors: it counts as a unit vector orthogonal to all others. Its residual is -m and
its norm is sqrt(1 + |m|^2), for rows and queries; s is then 2 plus the error of <q - m, -m>. Its standard error and the
confidence of its sign bound do not hold. For the gaussian sketch, whose estimates use the norm, its score does not
hold either.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import VectorSource, as_host
from .codes.estimator import MAX_NORM, sum64
from .errors import InvalidInputError
from .residuals import OffsetWatch, compiled_residuals, mean_of
from .spec import IndexSpec
from .underflow import ignoring_underflow

__all__ = ["Centering", "engine_spec"]

F32 = NDArray[np.float32]
_INFINITY = 0x7F800000  # bits of the float32 infinity


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


@ignoring_underflow
def _cosines(distances: F32) -> F32:
    """Return the cosines of unit vectors for their squared distances."""
    return np.float32(1) - np.float32(0.5) * distances


def _norm(vector: F32) -> float:
    return float(np.sqrt(sum64(vector.astype(np.float64)[:, None] ** 2)[0]))


@dataclass(frozen=True, eq=False)
class Centering:
    """The conversion between an index and its engine of residuals.

    Attributes
    ----------
    spec : IndexSpec
        Spec of the index, with the metric that users see.
    vector : ndarray of float32, shape (dim,), or None
        m, read-only; None without a center, and while the mean is pending.
    pending : bool
        Whether m will be the mean of the first rows.
    """

    spec: IndexSpec
    vector: F32 | None = None
    pending: bool = False

    # ---- the center

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
        """Undo `text`; raises ValueError for other text."""
        if text is None or text == "mean":
            return cls.of(spec, text)
        return cls.of(spec, np.frombuffer(base64.b64decode(text, validate=True), "<f4"))

    @property
    def on(self) -> bool:
        """Whether the index has a center, or will have one."""
        return self.pending or self.vector is not None

    @property
    def engine_spec(self) -> IndexSpec:
        """Spec of the engine."""
        return engine_spec(self.spec, self.on)

    @property
    def block(self) -> F32 | None:
        """The block of a file: m; an array of shape (0,) while the mean is pending; None without a center."""
        return np.empty(0, np.float32) if self.pending else self.vector

    @property
    def text(self) -> str | None:
        """The center as text: the bytes of m in base64, "mean" while pending, or None; equal for equal centers only."""
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

    def look_for_offset(self, rows: F32, watch: OffsetWatch) -> None:
        """Show first rows to a watch, which warns if they get no center although they need one."""
        if not self.on and self.spec.metric != "ip":
            watch.see(rows, self._unit)

    def settled(self, source: VectorSource) -> Centering:
        """Return the centering with the mean of the vectors if it is pending and `source` has rows, else itself.

        Raises
        ------
        InvalidInputError
            For a NaN or infinity (the message names row and column), or a mean of too large a norm.
        """
        if not self.pending or not source.rows:
            return self
        with np.errstate(under="ignore"):  # tiny numbers become 0
            return Centering(self.spec, _as_vector(mean_of(source, self._unit), self.spec.dim))

    # ---- from vectors to the engine

    def norms(self, found: F32, zero: NDArray[np.bool_]) -> F32:
        """Return the norms of the engine's rows or queries; `zero` marks zero vectors."""
        return np.where(zero, self.norm_of_zero, found) if np.count_nonzero(zero) else found

    def residuals(self, rows: F32) -> tuple[F32, NDArray[np.bool_]]:
        """Return the residuals of finite float32 rows (n, dim), and the mask of zero vectors."""
        return compiled_residuals(rows, self.vector, self._unit)

    @property
    def _unit(self) -> bool:
        """Whether the engine gets vectors divided by their norms."""
        return self.spec.metric == "cosine"

    @cached_property
    def norm_of_zero(self) -> np.float32:
        """The engine's norm of a zero vector."""
        return np.float32(np.sqrt(1.0 + (0.0 if self.vector is None else _norm(self.vector)) ** 2))

    # ---- from the engine to scores

    @property
    def zero_norm(self) -> np.float32 | None:
        """The norm that stands for zero vectors, whose scores have unknown errors; None if theirs are exact."""
        return self.norm_of_zero if self._is_angular else None

    @property
    def _is_angular(self) -> bool:
        return self.on and self.spec.metric == "cosine"

    def scores(self, engine_scores: F32) -> F32:
        """Return the index's scores for the engine's."""
        return _cosines(engine_scores) if self._is_angular else engine_scores

    def thresholds(self, thresholds: F32) -> F32:
        """Return the engine's thresholds (nq,); exactly the rows with scores better than `thresholds` pass them."""
        if not self._is_angular:
            return thresholds
        # Bisection over all float32 numbers from -inf to inf finds the first distance whose cosine is not better.
        low, high = np.full(thresholds.shape, -_INFINITY), np.full(thresholds.shape, _INFINITY)
        while (low < high).any():
            middle = (low + high) >> 1
            worse = self.scores(_float_of_rank(middle)) <= thresholds
            low, high = np.where(worse, low, middle + 1), np.where(worse, middle, high)
        return _float_of_rank(low)

    def stderr(self, errors: F32) -> F32:
        """Return the standard errors of the index's scores for those of the engine's scores."""
        return np.float32(0.5) * errors if self._is_angular else errors

    def decoded(self, residuals: F32) -> F32:
        """Return the vectors of decoded residuals."""
        return residuals if self.vector is None else residuals + self.vector


def _float_of_rank(rank: NDArray[np.int64]) -> F32:
    """Return the float32 number of a rank in their order: rank 0 is 0, rank 1 the smallest positive number."""
    bits = np.where(rank < 0, 2**31 - rank, rank)
    return bits.astype(np.uint32).view(np.float32)
