"""Seeded synthetic data sets, each with one property that is difficult for an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError

__all__ = ["SYNTHETIC", "Synthetic", "growing_mixture", "make"]

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


_BLOCK = 16_384  # rows that one random stream draws
_CLUSTERS, _TOPICS, _AXES = 2_000, 60, 20


def growing_mixture(n: int, dim: int, *, queries: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw rows and queries from one mixture, the same for every `n`, as a collection that grows.

    The rows for a smaller `n` are the first rows for a larger one, and the queries are the same. So clusters become
    denser as rows are added, and a query's neighbors come nearer. There are 2,000 clusters of heavy-tailed weight
    around 60 topics. A cluster is an ellipsoid: 20 random axes of lengths 0.9 / sqrt(i), and a little noise in all
    directions. The rows of a block of 16,384 come from a random stream of their own.

    Parameters
    ----------
    n, dim : int
        Number of rows and dimension.
    queries : int
        Number of queries, drawn like rows.
    seed : int
        Seed of the mixture and of all rows.

    Returns
    -------
    rows : float32 ndarray of shape (n, dim)
        The rows. They are not normalized.
    test : float32 ndarray of shape (queries, dim)
        The queries.

    Raises
    ------
    DatasetError
        If a size is below 1, or the seed is negative.
    """
    for what, value, least in (("n", n, 1), ("dim", dim, 1), ("queries", queries, 1), ("seed", seed, 0)):
        if value < least:
            raise DatasetError(f"{what} = {value}; expected at least {least}")
    mixture = _Mixture(dim, seed)
    return mixture.draw(n, 0), mixture.draw(queries, 1)


class _Mixture:
    """The clusters of `growing_mixture`."""

    def __init__(self, dim: int, seed: int) -> None:
        rng = np.random.Generator(np.random.PCG64(seed))
        scale = np.float32(dim**-0.5)
        topics = rng.standard_normal((_TOPICS, dim), dtype=np.float32) * scale
        own = rng.standard_normal((_CLUSTERS, dim), dtype=np.float32) * scale
        self.centers = topics[rng.integers(_TOPICS, size=_CLUSTERS)] + np.float32(0.7) * own
        lengths = (0.9 * np.arange(1, _AXES + 1) ** -0.5).astype(np.float32)
        self.axes = rng.standard_normal((_CLUSTERS, _AXES, dim), dtype=np.float32) * (scale * lengths[:, None])
        weights = rng.pareto(1.5, _CLUSTERS) + 0.2
        self.ends = np.cumsum(weights / weights.sum())
        self.noise = np.float32(0.25) * scale
        self.seed = seed

    def draw(self, count: int, purpose: int) -> NDArray[np.float32]:
        """Draw `count` rows; `purpose` numbers the stream, 0 for rows and 1 for queries."""
        out = np.empty((count, self.centers.shape[1]), np.float32)
        for start in range(0, count, _BLOCK):
            # A whole block is drawn also where less is needed, so that a row never depends on the number of rows.
            out[start : start + _BLOCK] = self._block(purpose, start // _BLOCK)[: count - start]
        return out

    def _block(self, purpose: int, number: int) -> NDArray[np.float32]:
        rng = np.random.Generator(np.random.PCG64([self.seed, 1 + purpose, number]))
        # The ends are at most a rounding below 1.
        cluster = np.minimum(np.searchsorted(self.ends, rng.random(_BLOCK), side="right"), _CLUSTERS - 1)
        inside = rng.standard_normal((_BLOCK, _AXES), dtype=np.float32)
        block = rng.standard_normal((_BLOCK, self.centers.shape[1]), dtype=np.float32) * self.noise
        block += self.centers[cluster]
        order = np.argsort(cluster, kind="stable")
        bounds = np.searchsorted(cluster[order], np.arange(_CLUSTERS + 1))
        for c in np.unique(cluster).tolist():
            members = order[bounds[c] : bounds[c + 1]]
            block[members] += inside[members] @ self.axes[c]
        return block
