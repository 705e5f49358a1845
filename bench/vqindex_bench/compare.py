"""Indexes to compare at equal bits: vqindex, the paper's codec, and faiss PQ. For the demo and the benchmarks."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vqindex

__all__ = ["OURS", "Built", "build_faiss_pq", "build_ours", "has_faiss", "unit"]

F32 = NDArray[np.float32]

# Label and the spec's fields beyond dim, bits and metric.
OURS: dict[str, dict[str, Any]] = {
    "vqindex default": {},
    "vqindex trellis": {"codec": "trellis"},
    "prod as in the paper": {"sketch": "gaussian"},
}


@dataclass(frozen=True)
class Built:
    """An index ready to search: ``search(queries, k)`` returns row numbers, int64 (nq, k).

    ``bytes_per_vector`` counts everything stored per vector. ``build_seconds`` includes ``train_seconds``, which is 0
    for an index without training.
    """

    label: str
    bits: int
    bytes_per_vector: float
    train_seconds: float
    build_seconds: float
    search: Callable[[F32, int], NDArray[np.int64]]


def unit(rows: NDArray[Any]) -> F32:
    """Return rows divided by their norms, as float32; zero rows stay zero."""
    rows = np.asarray(rows, np.float32)
    return np.ascontiguousarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30))


def has_faiss() -> bool:
    """Whether faiss can be imported."""
    return importlib.util.find_spec("faiss") is not None


def build_ours(label: str, train: F32, bits: int, metric: str, *, seed: int = 0, save_to: Path | None = None) -> Built:
    """Build one of `OURS`; with `save_to`, save it and return the index loaded from the file."""
    start = time.perf_counter()
    index = vqindex.VQIndex(train.shape[1], bits, seed=seed, **{"metric": metric, **OURS[label]})
    index.add(train)
    seconds = time.perf_counter() - start
    if save_to is not None:
        index.meta["build_seconds"] = index.meta["encode_seconds"] = seconds
        index.save(save_to)
        index = vqindex.VQIndex.load(save_to)
    size = index.stats()["bytes_per_vector"]
    return Built(label, bits, size, 0.0, seconds, lambda q, k: index.search(q, k).ids)


def build_faiss_pq(train: F32, bits: int, metric: str) -> Built:
    """Train and fill faiss ``PQ{d*bits/8}x8``, whose codes have as many bytes as ours; normalizes vectors for cosine.

    Without the order of centroids that makes codes polysemous ("np"): it only serves faiss's Hamming filter, changes no
    result of this search, and took about four fifths of the training.

    Raises
    ------
    ValueError
        If d * bits / 8 sub-quantizers do not divide d.
    """
    import faiss

    d = train.shape[1]
    if d * bits % 8 or d % (d * bits // 8):
        raise ValueError(
            f"faiss PQ has no {bits}-bit form for dim {d}: {d * bits / 8:g} sub-quantizers do not divide it"
        )
    normalize = unit if metric == "cosine" else lambda rows: rows
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    vectors = normalize(train)
    start = time.perf_counter()
    index: Any = faiss.index_factory(d, f"PQ{d * bits // 8}x8np", kind)
    index.train(vectors)
    trained = time.perf_counter()
    index.add(vectors)
    done = time.perf_counter()

    def search(queries: F32, k: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = index.search(normalize(queries), k)[1]
        return found

    return Built(f"faiss PQ{d * bits // 8}x8", bits, int(index.code_size), trained - start, done - start, search)
