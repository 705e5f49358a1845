"""Calls of compiled code that end before the interpreter does.

Compiled code works without the interpreter's lock and asks for it at the end. In an interpreter that is ending, CPython
before 3.14 answers a daemon thread by unwinding it, and C++ answers that by aborting the process. So at exit running
calls of daemon threads are awaited, and no more of them begin. Other threads have ended by then. The main thread is the
one that ends the interpreter, so its calls need no such care.

The module also says which instruction set compiled code uses, and on how many processors it may run.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ._native import supported_isas
from .errors import BackendError

__all__ = ["call_native", "chosen_isa", "cpu_count", "limit_processors"]

P = ParamSpec("P")
T = TypeVar("T")

_ISAS = supported_isas()
_LONGEST = 10.0  # seconds; a call that takes longer is not worth waiting for


class _Limit:
    """The most processors that this process uses."""

    processors = sys.maxsize


_running: set[object] = set()
_ending = threading.Event()
_main = threading.main_thread().ident


def call_native(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of the extension that releases the interpreter's lock."""
    if threading.get_ident() == _main:
        return function(*args, **kwargs)
    call = object()
    try:
        _running.add(call)  # before looking at _ending: then no call comes in between
        if _ending.is_set():
            _running.discard(call)
            threading.Event().wait()  # until the process has ended
        return function(*args, **kwargs)
    finally:
        _running.discard(call)


def chosen_isa() -> str:
    """Return the instruction set to use: the widest, or the one in the environment variable VQINDEX_ISA.

    Raises
    ------
    BackendError
        If VQINDEX_ISA names no instruction set of this machine.
    """
    names = _ISAS
    isa = os.environ.get("VQINDEX_ISA") or names[-1]
    if isa not in names:
        raise BackendError(f"VQINDEX_ISA is {isa!r}; this machine has: {', '.join(names)}")
    return isa


def cpu_count() -> int:
    """Return the number of processors this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, _Limit.processors)


def limit_processors(count: int) -> None:
    """Use at most so many processors in this process from now on: one of several that share a machine."""
    _Limit.processors = count


def _end() -> None:
    _ending.set()
    stop = time.monotonic() + _LONGEST
    while _running and time.monotonic() < stop:
        time.sleep(0.001)


def _after_fork() -> None:
    global _main
    _main = threading.main_thread().ident  # the thread that forked
    _running.clear()  # the threads of these calls are in the parent


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
