"""Angles of codes: what the codes of two vectors tell about their cosine.

A search multiplies an exact query with a decoded row. The row's error is at right angles to the row, so the estimate is
unbiased. A product of two decoded rows is not. Similar vectors fall into the same cells, and so share their errors. Two
equal vectors have equal codes, and the product of their decoded vectors is too large by the whole distortion.

So another statistic is used here, the cosine C of the two decoded vectors. A random rotation turns each pair of vectors
with cosine c into the same random pair. The mean m(c) and the standard deviation s(c) of C therefore depend on nothing
but c and the codec, and C = 1 at c = 1. Both curves are measured: pairs of random vectors with known cosines are
encoded, always the same ones. The estimate of c is the c at which m(c) = C. The bound for a probability p is the lowest
c with m(c) + z s(c) >= C, where z is the quantile of p: a pair with a lower cosine would have so large a C with a
probability below 1 - p.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.protocol import Backend
from ..underflow import ignoring_underflow

__all__ = ["CodeAngles"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_STEPS = 48  # cosines that are measured
_VALUES, _FEWEST, _MOST = 2**18, 64, 512  # coordinates and numbers of pairs for each cosine
_DIGITS = 9  # of measured curves
_RISE = 1e-12  # makes curves strictly ascending, so that they have an inverse


class CodeAngles(NamedTuple):
    """The distribution of C for a codec. All arrays have shape (m,), for ascending cosines from -1 to 1.

    Attributes
    ----------
    cosines : ndarray of float64
        c.
    means, deviations : ndarray of float64
        m(c), ascending, and s(c).
    """

    cosines: F64
    means: F64
    deviations: F64

    @classmethod
    @ignoring_underflow
    def of(cls, backend: Backend, dim: int) -> CodeAngles:
        """Measure the curves of a backend's codec; all backends give equal ones."""
        count = min(max(_VALUES // dim, _FEWEST), _MOST)
        rng = np.random.default_rng(0)
        first = rng.standard_normal((count, dim))
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        other = rng.standard_normal((count, dim))
        other -= (other * first).sum(axis=1, keepdims=True) * first
        lengths = np.linalg.norm(other, axis=1, keepdims=True)
        other = np.divide(other, lengths, out=np.zeros_like(other), where=lengths > 1e-6)  # dimension 1 has no other
        decoded = _decoded(backend, first)
        angles = np.pi / 2 * np.linspace(1.0, 0.0, _STEPS) ** 2  # dense at small angles, where C changes fast
        means, deviations = np.ones(_STEPS), np.zeros(_STEPS)
        for i, angle in enumerate(angles[:-1].tolist()):
            found = (decoded * _decoded(backend, np.cos(angle) * first + np.sin(angle) * other)).sum(axis=1)
            means[i], deviations[i] = found.mean(), found.std()
        # NumPy's sums and functions differ in the last digits between processors. The curves must not.
        cosines, means, deviations = (np.round(curve, _DIGITS) for curve in (np.cos(angles), means, deviations))
        means[0] = 0.0
        cosines[0] = 0.0  # the cosine of the float next to a right angle is not
        # Opposite vectors decode to opposite ones, but for ties.
        cosines, means = (np.concatenate([-half[:0:-1], half]) for half in (cosines, means))
        return cls(cosines, _ascending(means), np.concatenate([deviations[:0:-1], deviations]))

    def estimate(self, found: F64) -> F64:
        """Return the estimates of c for values of C."""
        return np.interp(found, self.means, self.cosines)

    def limits(self, z: float) -> F64:
        """Return the least values of C at which cosines are sure with z standard deviations, shape (m,)."""
        return _ascending(self.means + z * self.deviations)

    def bound(self, found: F64, z: float) -> F64:
        """Return the lowest c that is compatible with values of C, for a quantile z."""
        return np.interp(found, self.limits(z), self.cosines)

    def error(self, found: F64) -> F64:
        """Return the standard errors of the estimates."""
        return np.maximum(self.estimate(found) - self.bound(found, 1.0), 0.0)


def _decoded(backend: Backend, vectors: F64) -> F64:
    """Return the decoded vectors of some vectors, divided by their norms."""
    decoded = backend.decode(backend.encode(vectors.astype(np.float32))).astype(np.float64)
    lengths = np.linalg.norm(decoded, axis=1, keepdims=True)
    units: F64 = np.divide(decoded, lengths, out=np.zeros_like(decoded), where=lengths > 0)
    return units


def _ascending(curve: F64) -> F64:
    return np.asarray(np.maximum.accumulate(curve) + _RISE * np.arange(curve.size))
