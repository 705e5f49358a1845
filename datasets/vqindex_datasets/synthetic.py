"""Seeded synthetic data sets, each with one property that is difficult for an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError

__all__ = ["SYNTHETIC", "Synthetic", "make"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Synthetic:
    """One kind of synthetic data.

    Attributes
    ----------
    description : str
        One line.
    distance : str
        The ann-benchmarks name of the distance that suits it.
    draw : callable
        ``draw(rng, m, dim) -> float64 ndarray of shape (m, dim)``.
    """

    description: str
    distance: str
    draw: Callable[[np.random.Generator, int, int], Array]


def _gaussian(rng: np.random.Generator, m: int, dim: int) -> Array:
    return rng.standard_normal((m, dim))


def _sphere(rng: np.random.Generator, m: int, dim: int) -> Array:
    rows = rng.standard_normal((m, dim))
    unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _clustered(rng: np.random.Generator, m: int, dim: int) -> Array:
    # About 200 rows per cluster; the spread within a cluster is a fifth of that of the centers.
    centers = rng.standard_normal((max(2, m // 200), dim))
    return centers[rng.integers(len(centers), size=m)] + 0.2 * rng.standard_normal((m, dim))


def _decay(rng: np.random.Generator, m: int, dim: int) -> Array:
    basis, triangle = np.linalg.qr(rng.standard_normal((dim, dim)))
    basis *= np.sign(np.diag(triangle))  # makes the basis uniform over rotations
    spectrum = np.arange(1, dim + 1, dtype=np.float64) ** -1.0
    rows: Array = (rng.standard_normal((m, dim)) * spectrum) @ basis.T
    return rows


def _large_mean(rng: np.random.Generator, m: int, dim: int) -> Array:
    return 100.0 * (1.0 + rng.random(dim)) + rng.standard_normal((m, dim))


def _duplicates(rng: np.random.Generator, m: int, dim: int) -> Array:
    distinct = rng.standard_normal((max(1, m // 10), dim))
    return distinct[rng.integers(len(distinct), size=m)]


def _zeros(rng: np.random.Generator, m: int, dim: int) -> Array:
    rows = rng.standard_normal((m, dim))
    # A fixed share of 5 %, at least one row: with random choices small sets might have none.
    rows[rng.permutation(m)[: (m + 19) // 20]] = 0.0
    return rows


def _outlier_norms(rng: np.random.Generator, m: int, dim: int) -> Array:
    rows: Array = _sphere(rng, m, dim) * np.exp(1.5 * rng.standard_normal((m, 1)))
    return rows


def _sparse(rng: np.random.Generator, m: int, dim: int) -> Array:
    rows = np.zeros((m, dim))
    rows[np.arange(m), rng.integers(dim, size=m)] = rng.uniform(0.5, 1.5, size=m)
    return rows


def _binary(rng: np.random.Generator, m: int, dim: int) -> Array:
    return 2.0 * rng.integers(2, size=(m, dim)).astype(np.float64) - 1.0


SYNTHETIC: dict[str, Synthetic] = {
    "gaussian": Synthetic("independent standard normal values: no structure at all", "angular", _gaussian),
    "sphere": Synthetic("uniform on the unit sphere", "angular", _sphere),
    "clustered": Synthetic("a mixture of Gaussians, about 200 rows a cluster", "euclidean", _clustered),
    "decay": Synthetic("power-law spectrum (1/i) in a random basis: few directions matter", "euclidean", _decay),
    "large-mean": Synthetic("unit noise around a mean of norm 150 sqrt(dim)", "euclidean", _large_mean),
    "duplicates": Synthetic("each distinct row occurs about ten times, exactly", "euclidean", _duplicates),
    "zeros": Synthetic("one row in twenty is zero", "angular", _zeros),
    "outlier-norms": Synthetic("log-normal norms (sigma 1.5): few rows are very long", "ip", _outlier_norms),
    "sparse": Synthetic("one value that is not zero per row", "ip", _sparse),
    "binary": Synthetic("values +1 and -1: many equal distances", "euclidean", _binary),
}
"""The synthetic data sets by name."""


def make(
    name: str, n: int, dim: int, *, queries: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """Make a synthetic data set; equal arguments give equal arrays.

    Rows and queries are drawn together and then split at random, so that the queries have the same distribution (the
    same clusters, mean or basis). This takes about three times the memory of the result in float64.

    Parameters
    ----------
    name : str
        A key of `SYNTHETIC`.
    n, dim : int
        Train rows and dimension.
    queries : int
        Number of queries.
    seed : int
        Seed of ``numpy.random.Generator(numpy.random.PCG64(seed))``.

    Returns
    -------
    train : float32 ndarray of shape (n, dim)
        The rows.
    test : float32 ndarray of shape (queries, dim)
        The queries, held out of the rows; in "duplicates" and "sparse" a query may equal a row.
    distance : str
        "angular", "euclidean" or "ip": the distance that suits the data.

    Raises
    ------
    DatasetError
        If the name is unknown, a size is below 1, or the seed is negative.
    """
    kind = SYNTHETIC.get(name)
    if kind is None:
        raise DatasetError(f"synthetic data {name!r}; expected one of {', '.join(SYNTHETIC)}")
    for what, value, least in (("n", n, 1), ("dim", dim, 1), ("queries", queries, 1), ("seed", seed, 0)):
        if value < least:
            raise DatasetError(f"{what} = {value}; expected at least {least}")
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = kind.draw(rng, n + queries, dim).astype(np.float32)
    order = rng.permutation(n + queries)
    return rows[order[:n]], rows[order[n:]], kind.distance
