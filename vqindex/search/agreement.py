"""Agreement of new vectors with stored rows: whether both may come from one embedding model.

Each new vector v should be that of a row x, but for rounding and noise. With kept vectors their cosine is known.
Without, it is estimated from the row's code. The error of an estimate acts only on the part of v at right angles to x
(``intervals.py``), so it vanishes as v comes close to x:
    estimate = c + sigma sqrt(1 - c^2) z,  and 1 - c^2 <= 2 (1 - c).
This is why few rows tell much, and one bit does. Codecs that are not renormalized also have an error at c = 1, and for
the mse codec a bias. Both depend on nothing but the codec, because the rotation is random, and are measured on random
vectors. With a center, codes are those of residuals. Their distance estimates |v - x|^2, and errors shrink with them.

Test. The hypothesis is that every cosine is at least 1 - tolerance. At its edge the mean of the estimates is a normal
whose variance is
    sum_ij s_i s_j g_ij^2 / n^2,
with s_i the error of row i there, and g_ij the cosine of rows i and j. Errors of similar rows are correlated, by at
most g^2: they are functions of the direction without a linear part. The mean may be below the hypothesis by the
quantile of half the false-alarm rate, and each row by that of a share of the other half (Bonferroni).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.codec import Codec
from ..encoder import Encoder
from ..result import ModelCheck
from ..underflow import ignoring_underflow

if TYPE_CHECKING:
    from .searcher import Searcher

__all__ = ["Agreement", "is_usable"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

DETECTED = 0.99  # probability with which a mean cosine of `ModelCheck.detectable` is noticed
_MEASURED = 512  # random vectors that show the error of a codec at cosine 1
_USUAL_WORST = 3.0  # standard errors of the worst of so many, if errors are normal
_INT8 = 127  # largest integer of an int8 coordinate
_STEPS = 50  # of a bisection


def is_usable(searcher: Searcher, rows: I64) -> NDArray[np.bool_]:
    """Return which rows have a direction: neither zero vectors nor codes that decode to zero."""
    codes, zero_norm = searcher.contents.rows.gather(rows), searcher.encoder.centering.zero_norm
    found: NDArray[np.bool_] = codes.rescale != 0
    return found if zero_norm is None or codes.norm is None else found & (codes.norm != zero_norm)


class Agreement(NamedTuple):
    """Estimated cosines of vectors with their rows, and the errors of these. Arrays have shape (n,) unless stated.

    Attributes
    ----------
    cosines : ndarray of float64
        Estimates.
    fixed, slope : ndarray of float64
        The variance of an estimate of cosine c is fixed^2 + 2 (1 - c) slope^2.
    correlation : ndarray of float64, shape (n, n)
        The most that errors are correlated.
    scale : float
        Median of |v| / |x|; NaN where the index does not know |x|.
    """

    cosines: F64
    fixed: F64
    slope: F64
    correlation: F64
    scale: float

    @classmethod
    @ignoring_underflow
    def of(cls, searcher: Searcher, rows: I64, vectors: F32) -> Agreement:
        """Compare vectors (n, dim) with rows, one by one."""
        originals, wide = searcher.contents.originals, vectors.astype(np.float64)
        if originals is not None:
            kept = originals.gather(rows).astype(np.float64)
            lengths, kept_lengths = _lengths(wide), _lengths(kept)
            cosines, scale = _ratio((wide * kept).sum(axis=1), lengths * kept_lengths), _ratio(lengths, kept_lengths)
            step = np.abs(kept).max(axis=1) / _INT8 if originals.kind == "int8" else np.zeros(rows.size)
            rounding = _ratio(
                step**2 * kept.shape[1] / 24.0, kept_lengths**2
            )  # what uniform rounding takes of a cosine
            return cls(cosines, rounding, np.zeros(rows.size), np.ones((rows.size, rows.size)), float(np.median(scale)))
        return cls._of_codes(searcher, rows, vectors)

    @classmethod
    def _of_codes(cls, searcher: Searcher, rows: I64, vectors: F32) -> Agreement:
        encoder, contents = searcher.encoder, searcher.contents
        centering, backend = encoder.centering, encoder.backend
        lengths = _lengths(vectors.astype(np.float64))
        queries = (centering.residuals(vectors)[0] if centering.on else vectors).astype(np.float64)
        query_lengths = _lengths(queries)
        bias, own = _error_of_equal(encoder)
        decoded = backend.decode(contents.rows.gather(rows)).astype(np.float64)
        products = (queries * decoded).sum(axis=1) / bias
        errors, norms = backend.row_errors(contents.rows.segments(), rows)
        sigma = _ratio(errors, norms * (2.0 if backend.ascending else 1.0))
        scale = math.nan
        if centering.on:  # |v - x|^2, over 2 |v|^2; vectors of metric cosine have length 1
            unit = np.ones(rows.size) if centering.spec.metric == "cosine" else lengths
            distances = query_lengths**2 + norms**2 - 2.0 * products
            cosines = np.where(lengths > 0, 1.0 - _ratio(distances, 2.0 * unit**2), 0.0)
            fixed, slope = own * _ratio(query_lengths * norms, unit**2), sigma * _ratio(norms, unit)
        else:
            cosines = _ratio(products, query_lengths * norms)
            fixed, slope = np.full(rows.size, own), sigma
            if centering.spec.metric != "cosine":
                scale = float(np.median(_ratio(lengths, norms)))
        units = queries * _ratio(np.ones(rows.size), query_lengths)[:, None]
        return cls(cosines, fixed, slope, (units @ units.T) ** 2, scale)

    def _errors(self, distance: float) -> F64:
        """Return the standard errors of estimates of the cosine 1 - distance."""
        return np.asarray(np.sqrt(self.fixed**2 + 2.0 * distance * self.slope**2))

    def _mean_error(self, distance: float) -> float:
        errors = self._errors(distance)
        return math.sqrt(max(float(errors @ self.correlation @ errors), 0.0)) / errors.size

    def test(self, tolerance: float, false_alarm: float) -> tuple[float, F64, float]:
        """Return the least mean and the least cosines that agree, and the mean that is noticed with `DETECTED`."""
        normal, n = NormalDist(), self.cosines.size
        mean_z, z = -normal.inv_cdf(false_alarm / 2.0), -normal.inv_cdf(false_alarm / (2.0 * n))
        low = 1.0 - tolerance - mean_z * self._mean_error(tolerance)
        near, far, margin = tolerance, 2.0, normal.inv_cdf(DETECTED)
        for _ in range(_STEPS):
            distance = (near + far) / 2.0
            if low - (1.0 - distance) >= margin * self._mean_error(distance):
                far = distance
            else:
                near = distance
        return low, 1.0 - tolerance - z * self._errors(tolerance), 1.0 - far

    def check(self, ids: NDArray[np.generic], model: str | None, tolerance: float, false_alarm: float) -> ModelCheck:
        """Return the verdict; `model` is the name of the model that built the index."""
        low, lows, detectable = self.test(tolerance, false_alarm)
        mean, is_below = float(self.cosines.mean()), self.cosines < lows
        below = np.flatnonzero(is_below)
        same = mean >= low and not below.size
        name = "the model of the index" if model is None else f"{model!r}, which built the index"
        if same:
            reason = f"the vectors agree with {name}: mean cosine {mean:.4f}, expected at least {low:.4f}"
        elif 0 < below.size <= self.cosines.size // 2:
            worst = below[np.argsort(self.cosines[below], kind="stable")]
            shown = ", ".join(f"{ids[at]!s} ({self.cosines[at]:.4f})" for at in worst[:3].tolist())
            reason = (
                f"{below.size} of {ids.size} vectors are not those of {name}: cosines of ids {shown}; expected "
                f"at least {float(lows[worst[0]]):.4f}"
            )
        else:
            reason = f"the vectors are not those of {name}: mean cosine {mean:.4f}, expected at least {low:.4f}"
        if abs(math.log(self.scale if self.scale > 0 else 1.0)) > tolerance:
            reason += f"; they are {self.scale:.4g} times as long as those of the index"
        return ModelCheck(same, reason, mean, low, detectable, self.scale, ids, self.cosines, lows)


def _lengths(vectors: F64) -> F64:
    return np.asarray(np.sqrt((vectors * vectors).sum(axis=1)))


def _ratio(over: F64, under: F64) -> F64:
    """Return quotients, 0 where they have none."""
    return np.divide(over, under, out=np.zeros(np.broadcast_shapes(over.shape, under.shape)), where=under != 0)


def _error_of_equal(encoder: Encoder) -> tuple[float, float]:
    """Return the mean of the estimated cosine of a vector with itself, and its standard error."""
    spec, backend = encoder.centering.engine_spec, encoder.backend
    if Codec(spec).renormalized:
        return 1.0, 0.0
    vectors = np.random.default_rng(0).standard_normal((_MEASURED, spec.dim), dtype=np.float32)
    decoded, wide = backend.decode(backend.encode(vectors)).astype(np.float64), vectors.astype(np.float64)
    lengths = _lengths(wide)
    found = (wide * decoded).sum(axis=1) / (lengths if spec.metric == "cosine" else lengths**2)
    mean = float(found.mean())
    # A coordinate far outside of the codebook takes much of a cosine, so the tail of low ones may be long.
    return mean, max(float(found.std()), (mean - float(found.min())) / _USUAL_WORST) / mean
