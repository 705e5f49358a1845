"""The fast scan of the exact search: it yields the pairs of a query and a row that may be in the result.

`groundtruth` explains the algorithm. A scanner may yield too many pairs, never too few.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError

__all__ = ["Scanner", "make_scanner"]

Candidates = Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]


def _guard(dim: int, dtype: np.dtype[Any]) -> float:
    """Return 4 times a bound of the relative error of a dot product of length `dim`, with casts and extra columns."""
    return 4.0 * (dim + 16) * float(np.finfo(dtype).eps) / 2


class Scanner:
    """Finds candidate pairs by a NumPy matrix product.

    Queries and rows get extra columns, so that the product is the upper bound up to a shift per query:

    ======  =============================  ==================  =========================================
    metric  query side                     row side            a row is a candidate if product >=
    ======  =============================  ==================  =========================================
    cosine  q/|q|                          x/|x|               worst - g
    ip      q/|q|, g                       x, |x|              worst / |q|
    l2      2a, -(1 - g), 2 g |a|          b, |b|^2, |b|       worst + (1 - g) |a|^2
    ======  =============================  ==================  =========================================

    with g = `_guard`, a = q - c, b = x - c, and c the mean of the queries, which keeps data with a large mean well
    conditioned. For l2 the score is -|q - x|^2 and the error bound g (|a| + |b|)^2.
    """

    # 1024 x 8192 float32 products are 32 MiB.
    tile_rows = 8192
    tile_queries = 1024

    def __init__(self, queries: NDArray[np.float64], norms: NDArray[np.float64], metric: str, k: int) -> None:
        self.metric, self.k, self.norms = metric, k, norms
        self.center = np.zeros(queries.shape[1])
        # With 2k rows in the first tile, its k-th best bound is a useful first threshold.
        values = self.tile_queries * self.tile_rows
        self.tile_rows = max(self.tile_rows, 2 * k)
        self.tile_queries = max(1, values // self.tile_rows)
        if metric == "l2":
            if len(queries):
                self.center = queries.mean(axis=0)
            self.queries = queries - self.center
            self.lengths = np.sqrt((self.queries * self.queries).sum(axis=1))
        else:
            self.queries = _unit(queries, norms)
            self.lengths = np.ones(len(queries))
        self._sides: dict[np.dtype[Any], Any] = {}

    def candidates(
        self, tile: NDArray[np.float64], norms: NDArray[np.float64], worst: NDArray[np.float64]
    ) -> Candidates:
        """Yield ``(begin, who, row)`` per batch of queries: pairs (begin + who, row), by query, then row.

        `tile` is float64 (m, d) with `norms` (m,); `worst` (nq,) is the least score of a candidate, -inf if every row
        is one.
        """
        dtype, rows, lengths = self._row_side(tile, norms)
        guard, tiny = _guard(tile.shape[1], dtype), float(np.finfo(dtype).tiny) * (tile.shape[1] + 16)
        side = self._query_side(dtype, guard)
        need = self._threshold(worst, guard)
        # Allow for the rounding of the threshold, and for products so small that they lose relative accuracy.
        need -= np.abs(np.where(np.isfinite(need), need, 0.0)) * 8 * np.finfo(dtype).eps + tiny
        slack = 2 * guard * self._scale(float(lengths.max(initial=0.0)))
        for begin in range(0, len(self.queries), self.tile_queries):
            batch = slice(begin, begin + self.tile_queries)
            # A threshold beyond the range of float32 becomes infinite: no row of this tile can reach it.
            with np.errstate(over="ignore"):
                threshold = need[batch].astype(dtype)
            who, row = self._pairs(side, batch, rows, threshold, slack[batch] + tiny)
            yield begin, who, row

    def _row_side(
        self, tile: NDArray[np.float64], norms: NDArray[np.float64]
    ) -> tuple[np.dtype[Any], Any, NDArray[np.float64]]:
        """Return the type to compute in, the row side of the product, and the row lengths for the bound."""
        if self.metric == "cosine":
            narrow = np.dtype(np.float32)
            return narrow, self._move(_unit(tile, norms).astype(narrow)), np.ones(len(tile))
        if self.metric == "ip":
            wide = np.concatenate([tile, norms[:, None]], axis=1)
            lengths, largest = norms, float(norms.max())
        else:
            shifted = tile - self.center
            lengths = np.sqrt((shifted * shifted).sum(axis=1))
            wide = np.concatenate([shifted, (lengths * lengths)[:, None], lengths[:, None]], axis=1)
            largest = max(float(lengths.max()), float(self.lengths.max(initial=0.0)))
        # Squares of larger or smaller values leave the range of float32.
        dtype: np.dtype[Any] = np.dtype(np.float32 if 1e-12 < largest < 1e12 else np.float64)
        return dtype, self._move(wide.astype(dtype)), lengths

    def _query_side(self, dtype: np.dtype[Any], guard: float) -> Any:
        if dtype not in self._sides:
            columns = [self.queries]
            if self.metric == "ip":
                columns = [self.queries, np.full((len(self.queries), 1), guard)]
            elif self.metric == "l2":
                ones = np.ones((len(self.queries), 1))
                columns = [2 * self.queries, (guard - 1) * ones, 2 * guard * self.lengths[:, None]]
            self._sides[dtype] = self._move(np.concatenate(columns, axis=1).astype(dtype))
        return self._sides[dtype]

    def _threshold(self, worst: NDArray[np.float64], guard: float) -> NDArray[np.float64]:
        need: NDArray[np.float64]
        if self.metric == "cosine":
            need = worst - guard
        elif self.metric == "ip":
            need = worst / np.where(self.norms > 0, self.norms, 1.0)
        else:
            need = worst + (1 - guard) * self.lengths**2
        return need

    def _scale(self, longest: float) -> NDArray[np.float64]:
        """Return the magnitude to which `_guard` is relative, for the longest row of a tile; shape (nq,)."""
        if self.metric == "l2":
            squares: NDArray[np.float64] = (self.lengths + longest) ** 2
            return squares
        return np.full(len(self.queries), longest)

    def _move(self, array: NDArray[Any]) -> Any:
        """Return an array on the device that computes the product."""
        return array

    def _pairs(
        self, side: Any, batch: slice, rows: Any, need: NDArray[Any], slack: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Compute one product and return the pairs that reach `need`."""
        product = side[batch] @ rows.T
        if product.shape[1] >= self.k and (need == -np.inf).any():
            # Without a threshold: k rows of this tile have scores within `slack` of its k-th best bound.
            kth = np.partition(product, product.shape[1] - self.k, axis=1)[:, -self.k]
            need = np.maximum(need, _lower(kth, slack))
        found = np.flatnonzero(product >= need[:, None])
        who, row = np.divmod(found, product.shape[1])
        return who.astype(np.int64, copy=False), row.astype(np.int64, copy=False)


class TorchScanner(Scanner):
    """A scanner on a torch device. It yields pairs, no scores, so the search has the same result as with `Scanner`."""

    # 2048 x 65536 float32 products are 512 MiB of device memory.
    tile_rows = 65536
    tile_queries = 2048

    def __init__(
        self, device: str, queries: NDArray[np.float64], norms: NDArray[np.float64], metric: str, k: int
    ) -> None:
        try:
            self.torch = importlib.import_module("torch")
        except ImportError as error:
            raise DatasetError(
                f"device {device!r} needs torch, which is not installed: pip install 'vqindex[torch]'"
            ) from error
        try:
            self.device = self.torch.device(device)
            self.torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise DatasetError(
                f"device {device!r} cannot be used ({error}); expected 'cpu' or a torch device"
            ) from error
        super().__init__(queries, norms, metric, k)

    def _move(self, array: NDArray[Any]) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _pairs(
        self, side: Any, batch: slice, rows: Any, need: NDArray[Any], slack: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # The bound holds for float32 products, so this product must not use TF32 or bfloat16.
        before = self.torch.get_float32_matmul_precision()
        self.torch.set_float32_matmul_precision("highest")
        try:
            product = side[batch] @ rows.T
        finally:
            self.torch.set_float32_matmul_precision(before)
        if product.shape[1] >= self.k and (need == -np.inf).any():
            kth = self.torch.topk(product, self.k, dim=1, sorted=True).values[:, -1].cpu().numpy()
            need = np.maximum(need, _lower(kth, slack))
        found = self.torch.nonzero(product >= self._move(need)[:, None]).cpu().numpy()
        return found[:, 0], found[:, 1]


def _lower(kth: NDArray[Any], slack: NDArray[np.float64]) -> NDArray[Any]:
    """Return `kth` minus the slack, rounded down in the type of `kth`."""
    lower: NDArray[Any] = np.nextafter((kth - slack).astype(kth.dtype), kth.dtype.type(-np.inf))
    return lower


def _unit(rows: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows divided by their norms; zero rows stay zero."""
    return np.divide(rows, norms[:, None], out=np.zeros_like(rows), where=norms[:, None] > 0)


def make_scanner(device: str, queries: NDArray[np.float64], norms: NDArray[np.float64], metric: str, k: int) -> Scanner:
    """Return the scanner for a device: "cpu" is NumPy, any other string a torch device."""
    if device == "cpu":
        return Scanner(queries, norms, metric, k)
    return TorchScanner(device, queries, norms, metric, k)
