"""ChangeLock: one change, one save and one commit of an index at a time. Searches need no lock."""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["ChangeLock"]

_locks: weakref.WeakSet[ChangeLock] = weakref.WeakSet()


class ChangeLock:
    """A lock for the changes, the saves or the commits of one index, used as ``with changes.lock:``.

    A thread that holds the lock of commits may take that of changes, but not the other way round.

    In the child of a fork the lock is free, also if another thread of the parent held it: changes take effect by one
    assignment, so the child has the index as it was before or after that thread's change.
    """

    def __init__(self) -> None:
        # The interpreter's own lock: an interrupt can't come between taking it and the body of `with`.
        self.lock = threading.RLock()
        _locks.add(self)


def _free_in_child() -> None:
    for changes in list(_locks):
        changes.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_in_child)
