"""FROZEN: the scalar codebooks. DO NOT CHANGE: files depend on every bit (tests/golden/codebook.json).

After a random rotation a coordinate t of a unit vector in R^d has the density (arXiv 2504.19874, Lemma 1)

    f(t) = G(d/2) / (sqrt(pi) G((d-1)/2)) (1 - t^2)^((d-3)/2)        on [-1, 1].

This module works in units of u = sqrt(d) t, so that u is close to N(0, 1). With t = sin(a) the weight becomes
cos(a)^(d-2) da, which is smooth for every d >= 2. For d = 1, t is +-1; it uses the codebook of d = 2, and the
renormalization makes the estimate exact.

lloyd_max(d, b): 2^b symmetric levels. Thresholds are midpoints of levels; levels are cell means. Newton's method solves
    the midpoint condition in float64.
embedded(d, b): the (b-1)-bit Lloyd-Max quantizer with one more bit, the sign of the residual. The sign bit splits each
    cell at its own centroid; the level of each half is its mean. The first b-1 bits of the code are TurboQuant-mse, the
    last is sign(y_j - c_k): TurboQuant-prod with the sketch S = P.

Frozen form. Thresholds are rounded to multiples of 2^-20. These are exact in float32, and the grid is far wider than
    the solver's error, so that every machine's libm gives the same thresholds. Levels are integers on a grid:
    |level| <= 127 for b <= 4, |level| <= 32767 above. The grid step is the one with the least loss.
    code = #{i: u > threshold_i}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Codebook", "embedded", "lloyd_max"]

F64 = NDArray[np.float64]

_PANELS = 16  # per cell; with 16 Gauss-Legendre nodes each, moments are good to about 1e-15
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_REACH = 12.0  # integrate up to 12 standard deviations; the mass beyond is below 1e-30
_GRID = 2.0**20
INT8_BITS = 4  # up to this width int8 levels lose too little to be worth int16


@dataclass(frozen=True)
class Codebook:
    """A scalar quantizer of u = sqrt(d) times a coordinate of a rotated unit vector.

    Attributes
    ----------
    thresholds : ndarray of float32, shape (2**bits - 1,)
        Ascending; code = number of thresholds strictly below u.
    levels : ndarray of int8 or int16, shape (2**bits,)
        Reconstruction levels in grid steps, ascending.
    step : float
        Size of a grid step in units of u (a float32 value).
    mse : float
        E|x - xhat|^2 of a unit vector with the float64 levels (before the grid).
    probabilities : ndarray of float64, shape (2**bits,)
        Probability of each cell.
    """

    thresholds: NDArray[np.float32]
    levels: NDArray[Any]
    step: float
    mse: float
    probabilities: F64

    @property
    def values(self) -> NDArray[np.float32]:
        """Levels in units of u, float32, shape (2**bits,)."""
        return self.levels.astype(np.float32) * np.float32(self.step)


def _angle_limit(dim: int) -> float:
    return min(math.pi / 2, _REACH / math.sqrt(dim))


def _moments(dim: int, edges: F64) -> tuple[F64, F64]:
    """Return mass and mean of u in the cells between `edges` (ascending angles); all masses share one factor."""
    fractions = np.arange(_PANELS)[:, None] + (_NODES + 1.0) / 2.0
    width = np.diff(edges)[:, None] / _PANELS
    angles = edges[:-1, None] + width * fractions.ravel()
    sine = np.sin(angles)
    weight = np.exp((dim - 2) / 2 * np.log1p(-sine * sine)) * width * np.tile(_WEIGHTS / 2, _PANELS)
    mass = weight.sum(axis=1)
    return mass, np.sqrt(dim) * (weight * sine).sum(axis=1) / mass


def _density(dim: int, u: F64) -> F64:
    """Return the density of u up to the constant factor of `_moments`."""
    result: F64 = np.exp((dim - 3) / 2 * np.log1p(-u * u / dim)) / np.sqrt(dim)
    return result


def _to_angles(dim: int, inner: F64) -> F64:
    inner = np.arcsin(np.minimum(inner / np.sqrt(dim), 1.0))
    return np.concatenate([[0.0], inner, [_angle_limit(dim)]])


def _companded(dim: int, cells: int) -> F64:
    """Return first thresholds: equal steps of the integral of density^(1/3) (Panter and Dite, 1951)."""
    top = np.sqrt(dim) * np.sin(_angle_limit(dim)) * (1 - 1e-9)
    u = np.linspace(0.0, min(top, 6.0), 4001)
    area = np.concatenate([[0.0], np.cumsum(np.cbrt(_density(dim, (u[1:] + u[:-1]) / 2)))])
    return np.interp(np.arange(1, cells) / cells, area / area[-1], u)


def _solve_half(dim: int, cells: int) -> F64:
    """Return the cells - 1 positive thresholds of the symmetric Lloyd-Max quantizer with 2 * cells levels."""
    t = _companded(dim, cells)
    for _ in range(200):
        if cells == 1:
            return t
        mass, mean = _moments(dim, _to_angles(dim, t))
        gap = t - (mean[:-1] + mean[1:]) / 2
        g = _density(dim, t)
        # d mean_j / d upper edge and d mean_j / d lower edge
        upper = g * (t - mean[:-1]) / mass[:-1]
        lower = g * (mean[1:] - t) / mass[1:]
        jacobian = np.diag(1 - (upper + lower) / 2)
        at = np.arange(cells - 2)
        jacobian[at, at + 1] = -(g[1:] * (t[1:] - mean[1:-1]) / mass[1:-1]) / 2
        jacobian[at + 1, at] = -(g[:-1] * (mean[1:-1] - t[:-1]) / mass[1:-1]) / 2
        step = np.linalg.solve(jacobian, gap)
        new = t - step
        bounds = np.concatenate([[0.0], new, [np.sqrt(dim)]])
        if not np.all(np.diff(bounds) > 0):
            new = t - gap  # too far from the solution for Newton: one Lloyd step
        t = new
        if np.max(np.abs(step)) < 1e-13:
            return t
    raise ArithmeticError(f"Lloyd-Max did not converge for dim={dim}, {2 * cells} levels")


def _mirrored(half: F64) -> F64:
    return np.concatenate([-half[::-1], half])


def _freeze(dim: int, bits: int, positive: F64) -> Codebook:
    """Return the frozen codebook of the symmetric quantizer with these positive thresholds, and zero."""
    mass, mean = _moments(dim, _to_angles(dim, positive))
    p = mass / (2 * mass.sum())
    limit = 127 if bits <= INT8_BITS else 32767
    # Of the steps that use at least 3/4 of the range, take the one whose rounded levels have the least error.
    tops = np.arange(limit, 3 * limit // 4, -1) if limit == 127 else np.array([limit])
    steps = (mean[-1] / tops).astype(np.float32).astype(np.float64)
    grids = np.rint(mean / steps[:, None])
    loss = (p * (grids * steps[:, None] - mean) ** 2).sum(axis=1)
    best = int(np.argmin(np.rint(loss * 2.0**40)))
    levels = _mirrored(grids[best]).astype(np.int8 if limit == 127 else np.int16)
    thresholds = np.concatenate([_mirrored(positive)[: len(positive)], [0.0], positive])
    return Codebook(
        thresholds=(np.rint(thresholds * _GRID) / _GRID).astype(np.float32),
        levels=levels,
        step=float(steps[best]),
        mse=float(1.0 - 2.0 * (p * mean**2).sum()),
        probabilities=np.concatenate([p[::-1], p]),
    )


@lru_cache(maxsize=256)
def lloyd_max(dim: int, bits: int) -> Codebook:
    """Return the Lloyd-Max codebook of TurboQuant-mse.

    Parameters
    ----------
    dim : int
        Dimension d, 1 or more.
    bits : int
        1 to 8.

    Returns
    -------
    Codebook
        With ``mse`` 0.3634, 0.1175, 0.03454, 0.009497 for 1 to 4 bits at large d (arXiv 2504.19874, Theorem 1).
    """
    dim = max(dim, 2)
    return _freeze(dim, bits, _solve_half(dim, 2 ** (bits - 1)))


@lru_cache(maxsize=256)
def embedded(dim: int, bits: int) -> Codebook:
    """Return the codebook of TurboQuant-prod with the same-rotation sketch: Lloyd-Max cells split at their centroids.

    Parameters
    ----------
    dim : int
        Dimension d, 1 or more.
    bits : int
        1 to 8, the sign bit included.

    Returns
    -------
    Codebook
        With ``mse`` 0.1251 at 2 bits and 0.01011 at 4 for large d.
    """
    dim = max(dim, 2)
    if bits == 1:
        return _freeze(dim, 1, np.empty(0))
    half = _solve_half(dim, 2 ** (bits - 2))
    _, centroids = _moments(dim, _to_angles(dim, half))
    return _freeze(dim, bits, np.sort(np.concatenate([half, centroids])))
