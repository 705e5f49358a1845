"""The vectors of a file as an object with slices, which `VQIndex.add` reads one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from vqindex_datasets import VectorSource

from .stopping import checkpoint

__all__ = ["SourceRows"]


class SourceRows:
    """Rows [start, stop) of a source. Each read reports progress and adds its seconds to `read_seconds`.

    A read is a `checkpoint`: Ctrl-C takes effect there.

    Errors of `VQIndex.add` name rows of the file if `start` is 0.
    """

    def __init__(
        self,
        source: VectorSource,
        report: Callable[[int, int | None], None],
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        stop = source.shape[0] if stop is None else stop
        self.shape, self.dtype = (stop - start, source.shape[1]), source.dtype
        self._source, self._report, self._start = source, report, start
        self.read_seconds = 0.0

    def __getitem__(self, at: slice) -> NDArray[Any]:
        checkpoint()
        start, stop, _ = at.indices(self.shape[0])
        self._report(self._start + start, self._source.shape[0])
        before = time.perf_counter()
        rows: NDArray[Any] = self._source.read(self._start + start, self._start + stop)
        self.read_seconds += time.perf_counter() - before
        return rows
