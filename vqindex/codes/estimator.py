"""FROZEN: norms, scalars and scores. DO NOT CHANGE: results are compared bit for bit (tests/golden/gate.json).

Scaled domain. Subnormal coordinates become +0. The vector is multiplied by the power of two that brings its largest
    |coordinate| into [2, 4). Coordinates under 2^-31 then become +0. x' = x 2^(1 - e), e = floor(log2 max|x_j|).
    The multiplication is exact, so codes do not depend on the vector's scale, and nothing overflows. With 16384
    coordinates, three Hadamard rounds and 24-bit mantissas, no step of a codec without a second projection produces a
    subnormal: processors that flush subnormals and processors that do not give equal results.
    A vector without a normal float32 coordinate is the zero vector: field values 0, scalars 0.
sum64. Sums of products are float64. Partial sum p (of 32) adds the terms j = p, p + 32, p + 64, ... in order; then
    partial sums p and p + 16 are added, p and p + 8, 4, 2, 1. All products are exact in float64.
N = sqrt(sum64(x'_j^2)), s = float32(N / sqrt(d)): y_j / s is the coordinate in the codebook's unit u.
    field = #{i: y_j > fl(T_i s)}.
rescale, for renormalized codecs (RaBitQ's argument, arXiv 2405.12497). yhat are the decoded levels in grid steps, and
    dot = sum64(y_j yhat_j). rescale = |x|^2 / <y, yhat>, that is N^2 / dot 2^(e-1), for cosine N / dot; 0 if dot <= 0.
    By the rotation's symmetry the component of yhat orthogonal to y has mean zero, so rescale * <Pq, yhat> is unbiased.
Query. y' as above. The int16 query is rint(fl(y'_j * fl(32767 / max|y'|))); its scale is max|y'| / 32767 2^(e-1), for
    cosine max|y'| / 32767 divided by N. Sums of int16 x level are exact integers in any order of summation.
Score. ip = fl(fl(float(sum) * query scale) * weight) [+ the same of the signs], each step in float32.
    l2 = fl(fl(norm^2 + query norm^2) - 2 ip). Best first: ties go to the row that was added first.
Scalars that would be subnormal are stored as 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scaled", "flush", "integer_query", "l2_from_ip", "renormalized_variance", "stderr", "sum64", "to_scaled"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

TINY = np.float32(np.finfo(np.float32).tiny)
_CUT = np.float32(2.0**-31)
QUERY_LIMIT = 32767
# Vectors with norms under 2^62 have distances, and bounds of distances, that are finite in float32.
MAX_NORM = 2.0**62


class Scaled(NamedTuple):
    """Vectors in the scaled domain, one per column.

    Attributes
    ----------
    columns : ndarray of float32, shape (d, n)
        x'.
    shift : ndarray of int32, shape (n,)
        e - 1: x = x' * 2**shift.
    norm2 : ndarray of float64, shape (n,)
        Squared norm of x'; 0 only for zero vectors.
    """

    columns: F32
    shift: NDArray[np.int32]
    norm2: F64


def sum64(terms: F64) -> F64:
    """Sum (d, n) float64 terms over d in the frozen order; returns shape (n,)."""
    d, n = terms.shape
    partial = np.zeros((32, n))
    for start in range(0, d, 32):
        chunk = terms[start : start + 32]
        partial[: len(chunk)] += chunk
    half = 16
    while half:
        partial = partial[:half] + partial[half:]
        half //= 2
    total: F64 = partial[0]
    return total


def to_scaled(rows: F32) -> Scaled:
    """Return finite float32 rows of shape (n, d) in the scaled domain."""
    columns = rows.T.copy()
    magnitude = np.abs(columns)
    peak = magnitude.max(axis=0, initial=0)
    zero = peak < TINY
    _, exponent = np.frexp(np.where(zero, np.float32(1), peak))  # peak = m 2^exponent, m in [0.5, 1)
    shift = (exponent - 2).astype(np.int32)
    with np.errstate(under="ignore"):
        columns *= np.ldexp(np.float32(1), -shift)
    columns[(magnitude < TINY) | (np.abs(columns) < _CUT)] = 0
    shift[zero] = 0
    wide = columns.astype(np.float64)
    return Scaled(columns, shift, sum64(wide * wide))


def flush(values: F64) -> F32:
    """Round float64 scalars to float32; subnormal results become +0, results out of range infinity."""
    with np.errstate(under="ignore", over="ignore"):
        narrow = values.astype(np.float32)
    narrow[np.abs(narrow) < TINY] = 0
    return narrow


def integer_query(columns: F32) -> tuple[NDArray[np.int16], F64]:
    """Quantize projected queries, (m, n) float32, to int16 of shape (n, m); also return their float64 steps (n,)."""
    peak = np.abs(columns).max(axis=0, initial=0)
    inverse = np.float32(QUERY_LIMIT) / np.where(peak > 0, peak, np.float32(1))
    whole = np.rint(columns * inverse).astype(np.int16)
    return np.ascontiguousarray(whole.T), peak.astype(np.float64) / QUERY_LIMIT


def l2_from_ip(ip: F32, norm: F32, query_norm: F32) -> F32:
    """Return squared distances for inner products (nq, n), row norms (n,) and query norms (nq,)."""
    squares = (norm * norm)[None, :] + (query_norm * query_norm)[:, None]
    distances: F32 = squares - np.float32(2) * ip
    return distances


def stderr(query_norm: F32, variance: F64) -> F32:
    """Return the standard error of inner-product estimates.

    Parameters
    ----------
    query_norm : ndarray of float32
        |q|, broadcast against `variance`.
    variance : ndarray of float64
        Variance of the estimate for a unit query.

    Returns
    -------
    ndarray of float32
        |q| sqrt(variance).
    """
    result: F32 = (query_norm * np.sqrt(np.maximum(variance, 0.0))).astype(np.float32)
    return result


def renormalized_variance(dim: int, decoded_norm2: F64, norm: F64) -> F64:
    """Return the variance over the rotation, for a unit query, of a renormalized estimate.

    arXiv 2405.12497, section 3.2: only the component of rescale * yhat orthogonal to y causes an error, and its
    direction is uniform in d - 1 dimensions.

    Parameters
    ----------
    dim : int
        Dimension d; for d = 1 the estimate is exact.
    decoded_norm2 : ndarray of float64
        rescale^2 |yhat|^2; 0 for rows that decode to zero.
    norm : ndarray of float64
        |x|.
    """
    excess = np.where(decoded_norm2 > 0, decoded_norm2 - norm**2, 0.0)
    return excess / (dim - 1) if dim > 1 else np.zeros_like(excess)
