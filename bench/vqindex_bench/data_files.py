"""Rows, queries and true neighbors from any data file, for `bench`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqindex_datasets import Dataset, DatasetError, exact_knn, is_annbench, load_annbench, open_vectors

from .compare import unit
from .contest import Data, Step

__all__ = ["are_normalized", "read_file", "read_rows"]

F32 = NDArray[np.float32]


def _quiet(label: str) -> contextlib.AbstractContextManager[Step | None]:
    return contextlib.nullcontext(None)


def read_rows(path: Path, dataset: str | None, most: int | None) -> F32:
    """Return the first rows of a file, all by default, as float32."""
    with open_vectors(path, dataset) as source:
        count = len(source) if most is None else min(most, len(source))
        return np.asarray(source.read(0, count), np.float32)


def read_file(
    path: Path,
    k: int,
    *,
    queries_path: Path | None = None,
    dataset: str | None = None,
    metric: str | None = None,
    rows: int | None = None,
    queries: int = 1000,
    phase: Callable[[str], contextlib.AbstractContextManager[Any]] = _quiet,
) -> Data:
    """Read a data set; compute true neighbors that the file does not have.

    Parameters
    ----------
    path : Path
        An ann-benchmarks file, or rows in any format.
    k : int
        Number of true neighbors per query.
    queries_path : Path, optional
        Queries in any format. If neither this file nor `path` has queries, rows at equal distances in the file become
        queries and are not searched: at most `queries`, and a tenth of the rows.
    dataset : str, optional
        Dataset, key or column of `path` with the rows.
    metric : one of {"ip", "cosine", "l2"}, optional
        By default the metric of an ann-benchmarks file; else ip for rows of length 1, which then ranks as cosine does,
        and cosine for others.
    rows, queries : int
        Most rows and queries; the first ones are used.
    phase : callable
        As for `contest.measure`, for the search of true neighbors.

    Returns
    -------
    Data
        Rows and queries float32, of unit length for cosine.

    Raises
    ------
    DatasetError
        If a file can't be read, or has fewer than k rows or no queries.
    """
    known = load_annbench(path) if dataset is None and is_annbench(path) else None
    base, test = _rows_and_queries(path, known, queries_path, dataset, rows, queries)
    used_metric = metric or (known.metric if known else _metric_of(base))
    if not len(test):
        raise DatasetError(f"{queries_path or path} holds no queries")
    if k > len(base):
        raise DatasetError(f"k is {k}, but {path} holds {len(base)} rows to search")
    own = known is not None and queries_path is None and len(base) == known.n
    if known and own and used_metric == known.metric and known.gt_k >= k:
        truth = known.neighbors[: len(test)]
    else:
        with phase("exact neighbors") as step:
            truth, _ = exact_knn(base, test, k, used_metric, progress=step)
    if used_metric == "cosine":
        base, test = unit(base), unit(test)
    return Data(path.stem, base, test, truth, used_metric)


def are_normalized(lengths: NDArray[np.float64]) -> bool:
    """Whether vectors of these lengths have length 1, up to rounding; inner product and cosine then rank alike."""
    return bool(len(lengths)) and bool(np.abs(lengths - 1).max() <= 1e-3)


def _metric_of(rows: F32) -> str:
    """Return the metric for rows of which nothing is known; embeddings that have no length of 1 are meant by cosine."""
    return "ip" if are_normalized(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))) else "cosine"


def _rows_and_queries(
    path: Path, known: Dataset | None, queries_path: Path | None, dataset: str | None, rows: int | None, queries: int
) -> tuple[F32, F32]:
    """Return the rows to search and the queries, from their own file, an ann-benchmarks file, or held-out rows."""
    base = read_rows(path, "train" if known else dataset, rows)
    if queries_path is not None:
        return base, read_rows(queries_path, "test" if is_annbench(queries_path) else None, queries)
    if known:
        return base, known.test[:queries]
    return _hold_out(base, queries)


def _hold_out(rows: F32, queries: int) -> tuple[F32, F32]:
    """Split rows into rows to search and queries."""
    is_query = np.zeros(len(rows), bool)
    is_query[np.linspace(0, len(rows), min(queries, len(rows) // 10), endpoint=False, dtype=np.int64)] = True
    return rows[~is_query], rows[is_query]
