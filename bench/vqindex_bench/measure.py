"""Timing of searches, the same for every index."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SearchTimes", "time_search"]


@dataclass(frozen=True)
class SearchTimes:
    """Queries per second of batches and of single queries, and percentiles of the single-query latency."""

    qps_batch: float
    qps_single: float
    latency_ms_p50: float
    latency_ms_p99: float


def time_search(
    search: Callable[[NDArray[np.float32]], Any],
    queries: NDArray[np.float32],
    *,
    repeats: int = 3,
    singles: int = 200,
    seconds: float = 5.0,
) -> SearchTimes:
    """Time `search`: the median of `repeats` batches of all queries, then single queries.

    Parameters
    ----------
    search : callable
        Takes queries of shape (m, d).
    queries : ndarray of float32, shape (nq, d)
        Queries, nq >= 1.
    repeats : int
        Number of timed batches, after a warm-up batch.
    singles : int
        Most single queries.
    seconds : float
        No single query starts after this time.
    """
    search(queries)
    batches = []
    for _ in range(repeats):
        start = time.perf_counter()
        search(queries)
        batches.append(time.perf_counter() - start)
    latencies: list[float] = []
    begin = time.perf_counter()
    while len(latencies) < singles and (not latencies or time.perf_counter() - begin < seconds):
        at = len(latencies) % len(queries)
        start = time.perf_counter()
        search(queries[at : at + 1])
        latencies.append(time.perf_counter() - start)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return SearchTimes(
        qps_batch=len(queries) / float(np.median(batches)),
        qps_single=1.0 / float(np.mean(latencies)),
        latency_ms_p50=float(p50),
        latency_ms_p99=float(p99),
    )
