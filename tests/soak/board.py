"""Counters in memory that all processes of a soak share, so that a killed process's counts remain."""

import mmap
import os

import numpy as np

__all__ = ["SLOTS", "Board"]

SLOTS = 8  # processes of a round; each slot is written by one process at a time
_MOST = 64  # kinds of events


class Board:
    """Counts events by kind and slot, and says when the processes are to stop."""

    def __init__(self, kinds):
        memory = np.frombuffer(mmap.mmap(-1, 8 * (SLOTS * _MOST + 1)), np.int64)
        self._counts, self._stop = memory[:-1].reshape(SLOTS, _MOST), memory[-1:]
        self._numbers = {kind: number for number, kind in enumerate(kinds)}
        self._main = os.getpid()

    def counter(self, slot):
        """Return the function with which the process in a slot counts an event."""
        row = self._counts[slot]

        def count(kind, times=1):
            row[self._numbers[kind]] += times

        return count

    def totals(self):
        """Return {kind: events}."""
        sums = self._counts.sum(0)
        return {kind: int(sums[number]) for kind, number in self._numbers.items()}

    @property
    def stopping(self):
        """Whether the processes are to end: they were told to, or their parent is gone."""
        return bool(self._stop[0]) or (os.getpid() != self._main and os.getppid() != self._main)

    def stop(self, value=True):
        """Tell all processes to end, or that new ones may begin."""
        self._stop[0] = value
