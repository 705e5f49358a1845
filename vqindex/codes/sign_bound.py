"""FROZEN: the sign bound of the search. DO NOT CHANGE: golden results are in tests/golden/gate-search.json.

A code that quantizes every coordinate separately stores the sign of each rotated coordinate y_j as one bit of its
field. The sign bits alone estimate <q, x> (QJL, arXiv 2406.03482; RaBitQ, arXiv 2405.12497). For a row of norm |x|, a
random rotation, and stored signs g_j = +-1 of correlation rho with the coordinates,

    <Pq, g> |x| / (rho sqrt d)   has mean <q, x> and variance about (1/rho^2 - 1) / d |q|^2 |x|^2.

The upper confidence bound of this estimate identifies rows that can't be among the k best, without their other bits.
For signs of Gaussians rho^2 = 2 / pi. The signs of a trellis are wrong for a few coordinates near 0; its table of
correlations has their rho.

Query. c_j = floor((5 code_query_j + 2^14) / 2^15), of magnitude 5 at most. The rounding of the query has the error
    rounding_error2 = sum_j (5 code_query_j - 32767 c_j)^2.
Sum.   sum = sum_j +-c_j by the row's signs; exact.
Bound. In float32:  ip = fl(fl(fl(A sum) + B) norm), norm = 1 for cosine, with u = 1/rho^2 (exactly float64 pi/2 for
    scalar codes),
    A = float32(sqrt(u / d) 32767 / 5 * scale),
    B = float32(z sqrt((u - 1) / d |q|^2 + u / 25d rounding_error2 scale^2)),
    scale the value of a step of code_query, z the quantile of the normal distribution at `confidence`.
    For l2 the bound is the distance that l2_from_ip gives for this ip.
Rank score. The rank score of a row is the worse of its score and its bound. A search keeps the k best rank scores
    (ties: lower row) and returns the rows in the order of their scores. A scan may drop a row whose bound does not beat
    the k-th best rank score so far, without reading its other bits. The result does not depend on the order of rows,
    blocks or threads. It differs from that of a full scan only where the bound of a true neighbor fails, which happens
    with probability 1 - confidence at most.
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
    """Constants of a dimension.

    Attributes
    ----------
    scale : float
        A / scale.
    sign_variance : float
        Variance of the estimate from signs, for unit norms.
    rounding_variance : float
        Variance from the rounding of the query, per unit of `rounding_error2` and of scale^2.
    """

    scale: float
    sign_variance: float
    rounding_variance: float

    @classmethod
    def of(cls, dim: int, correlation: float | None = None) -> SignBoundTerms:
        """Return the constants of a dimension; None is the correlation of a Gaussian's sign."""
        u = math.pi / 2 if correlation is None else 1 / correlation**2
        return cls(math.sqrt(u / dim) * 32767 / LIMIT, (u - 1) / dim, u / (LIMIT * LIMIT * dim))


@lru_cache(maxsize=64)
def quantile(confidence: float) -> float:
    """Return z, the number of standard errors between estimate and bound; infinite for confidence 1."""
    return math.inf if confidence == 1 else NormalDist().inv_cdf(confidence)


def sign_query(code_query: NDArray[np.int16]) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return c, int8 (nq, d), and rounding_error2, int64 (nq,), of int16 queries (nq, d)."""
    wide = LIMIT * code_query.astype(np.int64)
    c = (wide + 2**14) >> 15
    rounding_error2: NDArray[np.int64] = ((wide - 32767 * c) ** 2).sum(axis=1)
    return c.astype(np.int8), rounding_error2


def bound_scales(
    terms: SignBoundTerms, z: float, rounding_error2: NDArray[np.int64], scale: F32, query_norm: F32
) -> tuple[F32, F32]:
    """Return A and B of queries, float32 (nq,); arguments as for `bounds`."""
    wide_scale, wide_norm = scale.astype(np.float64), query_norm.astype(np.float64)
    variance = terms.sign_variance * (wide_norm * wide_norm)
    variance += (terms.rounding_variance * rounding_error2) * (wide_scale * wide_scale)
    return (terms.scale * wide_scale).astype(np.float32), (z * np.sqrt(variance)).astype(np.float32)


def bounds(
    terms: SignBoundTerms,
    z: float,
    sums: F32,
    rounding_error2: NDArray[np.int64],
    scale: F32,
    query_norm: F32,
    norm: F32 | None,
) -> F32:
    """Return upper bounds of inner products, float32 (nq, n).

    Parameters
    ----------
    terms : SignBoundTerms
        Constants of the dimension.
    z : float
        Quantile of the confidence.
    sums : ndarray of float32, shape (nq, n)
        Exact sums.
    rounding_error2 : ndarray of int64, shape (nq,)
        Squared error of the query's rounding.
    scale, query_norm : ndarray of float32, shape (nq,)
        Value of a step of code_query, and |q|.
    norm : ndarray of float32, shape (n,), or None
        |x|; None for cosine.
    """
    a, b = bound_scales(terms, z, rounding_error2, scale, query_norm)
    ip: F32 = sums * a[:, None] + b[:, None]
    return ip if norm is None else ip * norm
