"""FROZEN: the sign bound of the search. DO NOT CHANGE: golden results are in tests/golden/gate-search.json.

Codes that quantize every coordinate alone know the sign of each rotated coordinate y_j: one bit of the field. Signs
alone already estimate <q, x> (QJL, arXiv 2406.03482; RaBitQ, arXiv 2405.12497). For a row of norm |x|, a random
rotation, and stored signs g_j = +-1 of correlation rho with the coordinates,

    <Pq, g> |x| / (rho sqrt d)   has mean <q, x> and variance about (1/rho^2 - 1) / d |q|^2 |x|^2,

so its upper confidence bound tells which rows can't be among the best k without reading their other bits. For signs of
Gaussians rho^2 = 2 / pi; those of a trellis miss a few coordinates near 0 (its table of correlations).

Query. c_j = floor((5 code_query_j + 2^14) / 2^15), of magnitude 5 at most; left = sum_j (5 code_query_j - 32767 c_j)^2.
Sum.   sum = sum_j +-c_j by the row's signs; exact.
Bound. In float32:  ip = fl(fl(fl(A sum) + B) norm), norm = 1 for cosine, with u = 1/rho^2 (exactly float64 pi/2 for
    scalar codes),
    A = float32(sqrt(u / d) 32767 / 5 * scale),
    B = float32(z sqrt((u - 1) / d |q|^2 + u / 25d left scale^2)),
    scale the value of a step of code_query, z the quantile of the normal distribution at `confidence`.
    For l2 the bound is the distance that l2_from_ip gives for this ip.
Key.   A row's key is the worse of its score and its bound. Search keeps the k best keys (ties: lower row) and
    returns them in the order of their scores. A row whose bound does not beat the k-th best key so far can be dropped
    unread, in whatever order, blocks or threads rows are met: the result is the same. It differs from the full scan
    only where a true neighbor's bound fails, which happens with probability 1 - confidence at most.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_DIM", "SignBoundTerms", "bound_scales", "bounds", "quantile", "sign_query"]

F32 = NDArray[np.float32]

LIMIT = 5
MAX_DIM = 6144  # sums of shifted entries fit 16 bits


class SignBoundTerms(NamedTuple):
    """Constants of a dimension: A / scale, and the two variances (for unit norms; per squared unit of `left`)."""

    scale: float
    plane: float
    rounding: float

    @classmethod
    def of(cls, dim: int, correlation: float | None = None) -> SignBoundTerms:
        """Return the constants of a dimension, and of the signs' correlation if they are not those of Gaussians."""
        u = math.pi / 2 if correlation is None else 1 / correlation**2
        return cls(math.sqrt(u / dim) * 32767 / LIMIT, (u - 1) / dim, u / (LIMIT * LIMIT * dim))


@lru_cache(maxsize=64)
def quantile(confidence: float) -> float:
    """Return z: how many standard errors a bound lies above its estimate; infinite for confidence 1."""
    return math.inf if confidence == 1 else NormalDist().inv_cdf(confidence)


def sign_query(code_query: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return c, int8 (nq, d), and left, int64 (nq,), of int16 queries (nq, d)."""
    wide = LIMIT * code_query.astype(np.int64)
    c = (wide + 2**14) >> 15
    left: NDArray[np.int64] = ((wide - 32767 * c) ** 2).sum(axis=1)
    return c.astype(np.int8), left


def bound_scales(
    terms: SignBoundTerms, z: float, left: NDArray[np.int64], scale: F32, query_norm: F32
) -> tuple[F32, F32]:
    """Return A and B of queries, float32 (nq,); arguments as for `bounds`."""
    wide_scale, wide_norm = scale.astype(np.float64), query_norm.astype(np.float64)
    variance = terms.plane * (wide_norm * wide_norm) + (terms.rounding * left) * (wide_scale * wide_scale)
    return (terms.scale * wide_scale).astype(np.float32), (z * np.sqrt(variance)).astype(np.float32)


def bounds(
    terms: SignBoundTerms,
    z: float,
    sums: F32,
    left: NDArray[np.int64],
    scale: F32,
    query_norm: F32,
    norm: F32 | None,
) -> F32:
    """Return upper bounds of inner products, float32 (nq, n).

    Parameters
    ----------
    terms : SignBoundTerms
        Of the dimension.
    z : float
        Of the confidence.
    sums : ndarray of float32, shape (nq, n)
        Exact sums.
    left : ndarray of int64, shape (nq,)
        What the rounding of the query left, squared.
    scale, query_norm : ndarray of float32, shape (nq,)
        Value of a step of code_query, and |q|.
    norm : ndarray of float32, shape (n,), or None
        |x|; None for cosine.
    """
    a, b = bound_scales(terms, z, left, scale, query_norm)
    ip: F32 = sums * a[:, None] + b[:, None]
    return ip if norm is None else ip * norm
