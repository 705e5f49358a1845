"""Builds in processes of this machine: the engine that needs nothing but the standard library."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

from ..arguments import as_threads
from ..errors import StoreError
from ..native_calls import cpu_count, limit_processors
from ..store.manifest import SegmentEntry
from .commit import commit_build
from .encode import encode_shard, finished_shard
from .plan import BuildPlan

__all__ = ["build"]

_AHEAD = 2  # tasks per worker that are submitted: a stopped build then has few to drop
_RETRIES = 3  # pools that may die in a row without a shard that was finished


class _StoppedError(Exception):
    """The build was stopped while a worker encoded."""


_stop: Any = None  # in a worker: the event by which the parent stops it


def _begin(stop: Any, processors: int) -> None:
    """Prepare a worker process."""
    global _stop
    _stop = stop
    limit_processors(processors)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent takes Ctrl-C, and stops the workers
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when its parent has ended, even by a kill: it would wait for work for ever."""
    wait_for([sentinel])
    os._exit(1)


def _reading() -> None:
    if _stop is not None and _stop.is_set():
        raise _StoppedError


def _work(plan: BuildPlan, shard: int) -> SegmentEntry:
    return encode_shard(plan, shard, device="cpu", reading=_reading)


def build(
    plan: BuildPlan,
    workers: int | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
    meta: Callable[[], dict[str, Any]] | None = None,
    verify: bool = False,
) -> None:
    """Encode all shards of a plan in processes of this machine, and commit them.

    Shards that are finished stay, so a build that was stopped or killed goes on. A worker that dies is replaced. The
    processes are spawned: a script must call this under ``if __name__ == "__main__":``.

    Parameters
    ----------
    plan : BuildPlan
        The plan.
    workers : int, optional
        Number of processes; by default as many as processors. They share the processors evenly.
    progress : callable, optional
        Called with the number of vectors that are encoded, and of all. What it raises stops the build.
    meta : callable, optional
        Called at the end; returns more notes for the store.
    verify : bool, default False
        As for `commit_build`.

    Raises
    ------
    InvalidInputError
        As `encode_shard` and `commit_build`.
    StoreError
        If workers die again and again without finishing a shard; the message names the shards.
    """
    processors = cpu_count()
    workers = as_threads(workers) or processors
    entries: dict[int, SegmentEntry] = {}
    for shard in range(plan.shards):
        entry = finished_shard(plan, shard)
        if entry is not None:
            entries[shard] = entry
    fruitless = 0
    while len(entries) < plan.shards:
        before = len(entries)
        waiting = [shard for shard in range(plan.shards) if shard not in entries]
        try:
            _run(plan, waiting, min(workers, len(waiting)), processors, entries, progress)
        except BrokenProcessPool:
            fruitless = 0 if len(entries) > before else fruitless + 1
            if fruitless == _RETRIES:
                raise StoreError(
                    f"workers died {_RETRIES} times in a row while encoding shards {waiting[:workers]} of {plan.data}; "
                    "what is finished stays, and the same call goes on (memory may be short: try fewer workers)"
                ) from None
    if progress is not None:
        progress(plan.rows, plan.rows)
    commit_build(plan, entries.values(), verify=verify, meta=None if meta is None else meta())


def _run(
    plan: BuildPlan,
    waiting: list[int],
    workers: int,
    processors: int,
    entries: dict[int, SegmentEntry],
    progress: Callable[[int, int], object] | None,
) -> None:
    """Encode shards in a pool of processes, and put what they return into `entries`."""
    context = multiprocessing.get_context("spawn")
    stop, queue = context.Event(), iter(waiting)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(stop, max(1, processors // workers))
    )
    running: dict[Future[SegmentEntry], int] = {}
    try:
        while True:
            while len(running) < _AHEAD * workers and (shard := next(queue, None)) is not None:
                running[pool.submit(_work, plan, shard)] = shard
            if progress is not None:
                progress(sum(entry.rows for entry in entries.values()), plan.rows)
            if not running:
                break
            for future in wait(running, timeout=0.2, return_when=FIRST_COMPLETED).done:
                shard = running.pop(future)
                entries[shard] = future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
