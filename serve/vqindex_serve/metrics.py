"""What a server counts, as text in the format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from .source import Moment

__all__ = ["Metrics"]

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    """Counters of one server; only its event loop changes them."""

    def __init__(self) -> None:
        self.running = 0  # searches that are read, wait or run
        self.reloads = self.failed_reloads = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._batches = self._queries = 0
        self._seconds = 0.0
        self._buckets = [0] * (len(_BOUNDS) + 1)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests[path, status] += 1
        if path == "/search":
            self._seconds += seconds
            self._buckets[bisect_left(_BOUNDS, seconds)] += 1

    def count_batch(self, queries: int) -> None:
        """Count a scan for so many queries."""
        self._batches += 1
        self._queries += queries

    def text(self, moment: Moment) -> str:
        """Return all counters."""
        lines: list[str] = []

        def add(name: str, kind: str, text: str, values: list[tuple[str, float]]) -> None:
            lines.extend((f"# HELP vqindex_{name} {text}", f"# TYPE vqindex_{name} {kind}"))
            lines.extend(f"vqindex_{name}{labels} {value}" for labels, value in values)

        requests = [(f'{{path="{p}",status="{s}"}}', count) for (p, s), count in sorted(self._requests.items())]
        add("requests_total", "counter", "Requests by path and status.", [*requests])
        add("queries_total", "counter", "Queries that were searched.", [("", self._queries)])
        add("batches_total", "counter", "Scans; queries_total divided by it is the mean batch.", [("", self._batches)])
        add("searches_running", "gauge", "Searches that are read, wait or run.", [("", self.running)])
        add("vectors", "gauge", "Vectors of the index.", [("", moment.index.ntotal)])
        add("reloads_total", "counter", "How often the index was opened again.", [("", self.reloads)])
        add("failed_reloads_total", "counter", "How often that failed.", [("", self.failed_reloads)])
        if moment.commit is not None:
            add("commit", "gauge", "Commit of the store.", [("", moment.commit)])
        name = "search_seconds"
        lines.extend((f"# HELP vqindex_{name} Time of searches.", f"# TYPE vqindex_{name} histogram"))
        total = 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'vqindex_{name}_bucket{{le="{bound}"}} {total}')
        lines.extend((f"vqindex_{name}_sum {self._seconds:.6f}", f"vqindex_{name}_count {total}"))
        return "\n".join(lines) + "\n"
