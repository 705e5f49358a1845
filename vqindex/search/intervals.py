"""Intervals: standard errors of results, and intervals that are corrected for selection.

Error. The estimate of a cosine c has the error sigma sqrt(1 - a c^2) times a standard normal, with a = 1 for most
codecs: an error acts only on the part of the query at right angles to the row. `Backend.row_errors` has sigma. The
estimate itself stands for c, one sigma of its angle lower, because it is more often too good than too bad.

Selection. A search returns rows whose estimates are high. Some are high by luck, and the higher the estimate, the more
rows there are below it that may have got there by luck. ``tails.py`` learns lambda, the rate at which the density of
scores decays: the prior density of true scores is proportional to exp(-lambda t).

Interval. With c = sin(phi) the posterior density of phi is proportional to
    exp(-lambda sin(phi) - w^2 / (2 sigma^2)),  w = (estimate - sin(phi)) / cos(phi).
It is close to normal, and the interval is its mode and curvature (Laplace's approximation), turned back into scores.

No interval. Where lambda times the error is above `MOST_SHIFT`, the correction is about as many standard errors. Such
an interval would depend on the tail more than on the estimate, and the result has NaN instead of one. So it has for
the mse codec, whose bias differs from row to row, for qjl, where similar rows have about the same error, and for zero
vectors with a center (center.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codes.codec import Codec
from ..codes.encoded import Queries
from ..codes.top_k import TopK
from ..encoder import Encoder
from ..rows.segment import Segment
from ..underflow import ignoring_underflow
from .tails import Tails, signed

__all__ = ["Estimates", "Odds", "estimates_of", "upper_tail"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MOST_SHIFT = 2.0  # in standard errors; benchmarks/honesty.py measures the coverage below it
MOST_CORRECTION = 1.0  # in standard errors, for chances: a decay that is learned from ten results is rough
_WITHOUT = ("turboquant-mse", "qjl")  # codecs without intervals
_STEPS = 4  # of Newton's method; a fifth would change ends by less than 1e-5 standard errors
_EDGE = math.pi / 2 - 1e-3  # largest angle, so that cos(phi) is not 0


def _alignment_of(codec: Codec) -> float:
    """Return a of a codec.

    The error of a renormalized vector has no part along the vector, so a = 1. So it is with the mse codec, around its
    bias. With the signs of Gaussian projections of a residual r (arXiv 2406.03482) the variance is proportional to
    |q|^2 |r|^2 pi/2 - <q, r>^2, and the part of r along x is mse times x.
    """
    if codec.renormalized or codec.spec.codec == "turboquant-mse":
        return 1.0
    return 2.0 / math.pi * codec.codebook.mse


class Estimates(NamedTuple):
    """The scores of results as estimated cosines. Arrays have shape (nq, k) and NaN in empty places.

    Attributes
    ----------
    cosine : ndarray of float64
        Estimates of the cosine of query and row; of residuals if the index has a center.
    sigma : ndarray of float64
        Their standard error at cosine 0.
    slope : ndarray of float64
        Change of an engine's score, larger is better, with the cosine.
    offset : ndarray of float64
        Engine's score, larger is better, at cosine 0.
    alignment : float
        a of the codec.
    has_intervals : bool
        Whether intervals can be promised for the codec.
    """

    cosine: F64
    sigma: F64
    slope: F64
    offset: F64
    alignment: float
    has_intervals: bool

    def stderr(self) -> F64:
        """Return the standard errors of the scores."""
        r = math.sqrt(self.alignment)
        angle = np.arcsin(np.minimum(r * np.abs(self.cosine), 1.0))
        return self.slope * self.sigma * np.cos(np.maximum(angle - r * self.sigma, 0.0))

    @property
    def scores(self) -> F64:
        """The scores."""
        return self.offset + self.slope * self.cosine

    def _posterior(self, tails: Tails, most: float = math.inf) -> tuple[F64, F64, F64]:
        """Return the posterior angles, their spread, and about how many standard errors the correction is.

        The correction is limited to `most` standard errors.
        """
        r = math.sqrt(self.alignment)
        rates, sigma = tails.rates_of(self.scores, self.stderr()) * self.slope / r, r * self.sigma
        if most < math.inf:
            rates = np.minimum(rates, most * self.slope / self.stderr())
        phi, spread = _angles(r * self.cosine, sigma, rates)
        return phi, spread, rates * sigma * np.cos(phi)

    def odds(self, tails: Tails | None, k: int, most: float = MOST_CORRECTION) -> Odds:
        """Return the chances of rows; without tails, and where that of the k-th row is not known, uncorrected ones.

        Corrections are limited to `most` standard errors.
        """
        nq, width = self.cosine.shape
        half = width // 2
        with np.errstate(all="ignore"):
            scores = self.scores
            rates = math.log(max(width, 2) / max(half, 1)) / (scores[:, max(half - 1, 0)] - scores[:, -1])
            corrected, phi, spread, shift = np.zeros(nq, bool), self.cosine, self.sigma, np.full(nq, MOST_SHIFT)
            if tails is not None and self.has_intervals:
                phi, spread, shifts = self._posterior(tails, most)
                corrected = ~np.isnan(phi[:, min(k, width) - 1])
                shift = np.where(corrected, shifts[:, min(k, width) - 1], MOST_SHIFT)
        return Odds(self, corrected, phi, spread, rates, shift)

    def bounds(self, tails: Tails, level: float) -> tuple[F64, F64]:
        """Return the worse and the better end of intervals, as engine's scores of which larger is better.

        Parameters
        ----------
        tails : Tails
            How the scores of each query decay.
        level : float
            Probability that an interval holds the true score.
        """
        if not self.has_intervals:
            unknown = np.full_like(self.cosine, np.nan)
            return unknown, unknown.copy()
        r, z = math.sqrt(self.alignment), NormalDist().inv_cdf((1.0 + level) / 2.0)
        is_exact, scores = (self.sigma == 0) | (self.slope == 0), self.scores
        with np.errstate(all="ignore"):  # exact scores divide by 0, rates may be infinite, and empty places are NaN
            phi, spread, shift = self._posterior(tails)
            is_known = shift <= MOST_SHIFT
            ends = [np.sin(np.clip(phi + side * z * spread, -np.pi / 2, np.pi / 2)) / r for side in (-1.0, 1.0)]
            worse, better = (self.offset + self.slope * np.clip(end, -1.0, 1.0) for end in ends)
            worse, better = (np.where(is_exact, scores, np.where(is_known, end, np.nan)) for end in (worse, better))
        return worse, better


class Odds(NamedTuple):
    """Chances of rows to have better exact scores than a threshold. Arrays have shape (nq, S) unless stated.

    Attributes
    ----------
    estimates : Estimates
        The estimates of rows, best first.
    corrected : ndarray of bool, shape (nq,)
        Whether chances are corrected for selection; otherwise they are those of a random pair.
    phi, spread : ndarray of float64
        The posterior distribution of angles where they are corrected.
    rates : ndarray of float64, shape (nq,)
        Decay at the end of each list.
    shift : ndarray of float64, shape (nq,)
        Correction of the k-th row in standard errors; `MOST_SHIFT` where it is not known.
    """

    estimates: Estimates
    corrected: NDArray[np.bool_]
    phi: F64
    spread: F64
    rates: F64
    shift: F64

    @property
    def errors(self) -> F64:
        """The standard errors of the scores of random pairs."""
        return self.estimates.slope * self.estimates.sigma

    def better(self, at: I64, thresholds: F64) -> F64:
        """Return the chances of rows of some queries; 1 where nothing is known, and for thresholds of -inf."""
        one, r = self.estimates, math.sqrt(self.estimates.alignment)
        limits = thresholds[:, None]
        with np.errstate(all="ignore"):
            raw = (limits - one.scores[at]) / self.errors[at]
            angle = np.arcsin(np.clip(r * (limits - one.offset[at]) / one.slope[at], -1.0, 1.0))
            z = np.where(self.corrected[at, None], (angle - self.phi[at]) / self.spread[at], raw)
        return np.where(np.isnan(z), 1.0, upper_tail(z))

    def behind(self, at: I64, thresholds: F64) -> F64:
        """Return how many rows that are not in the lists are expected to be better (``completeness.py``)."""
        scores, errors = self.estimates.scores[at], self.errors[at]
        rates, error = self.rates[at], np.fmax.reduce(errors, axis=1)
        with np.errstate(all="ignore"):
            gap = thresholds - scores[:, -1]
            shift = np.where(self.corrected[at], rates * error, 0.0)
            hazard = gap / error**2 - np.where(self.corrected[at], 0.0, rates)
            expected = scores.shape[1] * rates * upper_tail(gap / error + shift) / hazard
        return np.where((gap > 0) & (hazard > 0), expected, np.inf)


def upper_tail(z: F64) -> F64:
    """Return the probability that a standard normal is above z, with a relative error below 1e-6.

    Press et al., Numerical Recipes, 2nd edition, section 6.2: Chebyshev's fit of erfc.
    """
    x = np.abs(z) / math.sqrt(2.0)
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        t = 1.0 / (1.0 + 0.5 * x)
        fit = np.zeros_like(t)
        for coefficient in _ERFC:
            fit = fit * t + coefficient
        tail = 0.5 * t * np.exp(np.where(np.isinf(x), -np.inf, fit - x * x))
    return np.where(z < 0, 1.0 - tail, tail)


_ERFC = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
    -1.26551223,
)  # fmt: skip


def _angles(estimates: F64, sigma: F64, lam: F64) -> tuple[F64, F64]:
    """Return the mode of the posterior density of phi, and its spread."""
    phi = np.arcsin(np.clip(estimates, -1.0, 1.0 - 2.0 * sigma * sigma))
    phi -= np.minimum(sigma * sigma * lam * np.cos(phi), 3.0 * sigma)
    curvature = np.ones_like(phi)
    precision, most = 1.0 / (sigma * sigma), 2.0 * sigma
    for _ in range(_STEPS):
        phi = np.clip(phi, -_EDGE, _EDGE)
        sine, cosine = np.sin(phi), np.cos(phi)
        w, tangent = (estimates - sine) / cosine, sine / cosine
        dw = w * tangent - 1.0
        slope = lam * cosine + precision * w * dw
        # The curvature of a normal error alone is 1 / sigma^2, and a quarter of that at the edge.
        curvature = precision * (dw * dw + w * (dw * tangent + w / (cosine * cosine))) - lam * sine
        curvature = np.maximum(curvature, 0.2 * precision)
        phi = phi - np.clip(slope / curvature, -most, most)
    return np.clip(phi, -_EDGE, _EDGE), 1.0 / np.sqrt(curvature)


@ignoring_underflow
def estimates_of(encoder: Encoder, queries: Queries, found: TopK, segments: Sequence[Segment]) -> Estimates:
    """Return what is known about the scores of results.

    Parameters
    ----------
    encoder : Encoder
        Encoder of the index.
    queries : Queries
        Prepared queries.
    found : TopK
        Results, with the engine's scores.
    segments : sequence of Segment
        All rows.
    """
    backend, centering = encoder.backend, encoder.centering
    codec, times = Codec(centering.engine_spec), 2.0 if backend.ascending else 1.0
    is_present = found.rows >= 0
    rows = found.rows[is_present]
    errors, norms = backend.row_errors(segments, rows)
    query_norms = np.broadcast_to(queries.norm[:, None], found.rows.shape)[is_present].astype(np.float64)
    if centering.zero_norm is not None:  # the error of zero vectors is not known (center.py)
        norms[(norms == centering.zero_norm) | (query_norms == centering.zero_norm)] = np.nan
    slope = norms * query_norms * times
    offset = -(norms**2 + query_norms**2) if backend.ascending else np.zeros(rows.size)
    products = signed(found.scores, backend.ascending)[is_present] - offset
    columns = {
        "cosine": np.divide(products, slope, out=np.zeros_like(slope), where=slope != 0),
        "sigma": np.divide(errors, norms * times, out=np.zeros_like(slope), where=norms != 0),
        "slope": slope,
        "offset": offset,
    }
    arrays = {name: np.full(found.rows.shape, np.nan) for name in columns}
    for name, values in columns.items():
        arrays[name][is_present] = values
    return Estimates(**arrays, alignment=_alignment_of(codec), has_intervals=codec.spec.codec not in _WITHOUT)
