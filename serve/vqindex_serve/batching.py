"""Micro-batching: one scan answers all searches that came while the last scan ran.

A scan for 64 queries takes far less time than 64 scans. One thread runs searches, one after the other. A search that
finds it idle starts at once. Those that come meanwhile wait, and when the thread is free it takes the oldest with all
others of the same parameters. So nobody waits for a batch to fill. Results do not depend on the batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from vqindex import InvalidInputError, SearchResult

from .calls import SearchCall
from .errors import RequestError
from .metrics import Metrics

__all__ = ["Batcher"]


class _Job(NamedTuple):
    call: SearchCall
    future: asyncio.Future[SearchResult]


class Batcher:
    """Runs searches in one thread.

    Parameters
    ----------
    most : int
        Queries of a batch.
    seconds : float
        Time that a search may wait and run.
    threads : int or None
        Threads of a scan.
    metrics : Metrics
        Counts batches.
    """

    def __init__(self, most: int, seconds: float, threads: int | None, metrics: Metrics) -> None:
        self._most, self._seconds, self._threads, self._metrics = most, seconds, threads, metrics
        self._waiting: deque[_Job] = deque()
        self._is_running = False
        self._task: asyncio.Task[None] | None = None  # the loop keeps no task alive
        self._pool = ThreadPoolExecutor(1, "vqindex-search")

    async def search(self, call: SearchCall) -> SearchResult:
        """Return the results of a call, arrays of shape (nq, k).

        Raises
        ------
        RequestError
            If it takes too long, or the index can't do what is asked.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SearchResult] = loop.create_future()
        timer = loop.call_later(self._seconds, self._give_up, future)
        self._waiting.append(_Job(call, future))
        self._start(loop)
        try:
            return await future
        finally:
            timer.cancel()

    def close(self) -> None:
        """Let the running search end, and start no other."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _give_up(self, future: asyncio.Future[SearchResult]) -> None:
        if not future.done():
            text = f"the search took more than {self._seconds:g} s"
            future.set_exception(RequestError(503, "timeout", text, self._seconds, {"retry-after": "1"}))

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the thread the next batch, if it is idle and somebody waits."""
        if self._is_running:
            return
        jobs = self._next()
        if jobs:
            self._is_running = True
            self._task = loop.create_task(self._run(loop, jobs))

    def _next(self) -> list[_Job]:
        """Take the oldest search, and others that one scan answers with it."""
        jobs: list[_Job] = []
        others: list[_Job] = []
        key, rows = None, 0
        while self._waiting and rows < self._most:
            job = self._waiting.popleft()
            if job.future.done():  # its time was over, or its client is gone
                continue
            if not jobs:
                jobs, key, rows = [job], job.call.key, len(job.call.queries)
                if key is None:
                    break
            elif job.call.key == key and rows + len(job.call.queries) <= self._most:
                jobs.append(job)
                rows += len(job.call.queries)
            else:
                others.append(job)
        self._waiting.extendleft(reversed(others))
        return jobs

    async def _run(self, loop: asyncio.AbstractEventLoop, jobs: Sequence[_Job]) -> None:
        calls = [job.call for job in jobs]
        try:
            results = await loop.run_in_executor(self._pool, _search, calls, self._threads)
        except BaseException as error:
            refused = _as_refused(error)
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(refused)
            if not isinstance(error, Exception):
                raise
        else:
            self._metrics.count_batch(sum(len(call.queries) for call in calls))
            for job, result in zip(jobs, results, strict=True):
                if not job.future.done():
                    job.future.set_result(result)
        finally:
            self._is_running = False
            self._start(loop)


def _as_refused(error: BaseException) -> BaseException:
    if isinstance(error, InvalidInputError):
        return RequestError(400, "invalid", str(error))
    if isinstance(error, MemoryError):
        return RequestError(503, "memory", "there is not enough memory for the search")
    return error if isinstance(error, Exception) else asyncio.CancelledError()


def _search(calls: Sequence[SearchCall], threads: int | None) -> list[SearchResult]:
    """Search for the queries of all calls at once; they differ in nothing else."""
    first = calls[0]
    queries = first.queries if len(calls) == 1 else np.concatenate([call.queries for call in calls])
    found = first.moment.index.search(queries, filter=first.filter, threads=threads, **dict(first.options))
    results, start = [], 0
    for call in calls:
        at = slice(start, start + len(call.queries))
        result = SearchResult(found.scores[at], found.ids[at])
        if found.low is not None and found.high is not None:
            result.low, result.high = found.low[at], found.high[at]
        results.append(result)
        start = at.stop
    return results
