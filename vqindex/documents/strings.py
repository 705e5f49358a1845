"""The strings among the distinct values of a field: their order, and tests of each."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rows.growing import Growing
from .meaning import has_substring, is_ordered

__all__ = ["Strings"]

Mask = NDArray[np.bool_]

_UNSORTED = 64  # one of so many values may be new, and is compared alone, before all are sorted or joined again


class Strings:
    """The strings of a list of values.

    Parameters
    ----------
    values : list
        All values of a field by code; it may become longer.
    """

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self._seen = 0  # how many values `_codes` and `_texts` are of
        self._codes = Growing(np.empty(0, np.intp))
        self._texts: list[str] = []
        self._joined: dict[bool, _Joined] = {}  # by whether case is ignored
        self._sorted: list[int] = []  # codes of strings in the order of code points
        self._order: list[str] = []  # these strings
        self._ranks = np.empty(0, np.int32)  # by code: the place in `_order`; -1 of other values

    def satisfying(self, test: Callable[[str], object]) -> Mask:
        """Return the mask, over all codes, of the strings that pass a test."""
        self._extend()
        mask = np.zeros(len(self._values), np.bool_)
        mask[self._codes.array[: len(self._texts)]] = np.fromiter(map(test, self._texts), np.bool_, len(self._texts))
        return mask

    def containing(self, substring: str, ignore_case: bool) -> Mask:
        """Return the mask, over all codes, of the strings that have a substring."""
        self._extend()
        joined = self._joined.get(ignore_case)
        if joined is None or len(self._texts) - joined.count > joined.count // _UNSORTED:
            joined = self._joined[ignore_case] = _Joined(self._texts, ignore_case)
        new = map(has_substring(substring, ignore_case), self._texts[joined.count :])
        found = np.concatenate([joined.containing(substring), np.fromiter(new, np.bool_)])
        mask = np.zeros(len(self._values), np.bool_)
        mask[self._codes.array[: len(self._texts)]] = found
        return mask

    def _extend(self) -> None:
        first, self._seen = self._seen, len(self._values)
        new = [code for code in range(first, self._seen) if isinstance(self._values[code], str)]
        self._codes = self._codes.extended(len(self._texts), np.array(new, np.intp))
        self._texts += [self._values[code] for code in new]

    def compared(self, operator: str, operand: str) -> Mask:
        """Return the mask, over all codes, of the strings that are less or greater than another, or equal."""
        self._sort_most()
        bisection = bisect.bisect_left if operator in ("<", ">=") else bisect.bisect_right
        at = bisection(self._order, operand)
        low, high = (0, at) if operator in ("<", "<=") else (at, len(self._order))
        return self._between(low, high, lambda text: is_ordered(text, operator, operand))

    def starting_with(self, prefix: str) -> Mask:
        """Return the mask, over all codes, of the strings that begin with another."""
        self._sort_most()
        low = bisect.bisect_left(self._order, prefix)
        high = bisect.bisect_left(self._order, True, low, key=lambda text: not text.startswith(prefix))
        return self._between(low, high, lambda text: isinstance(text, str) and text.startswith(prefix))

    def _between(self, low: int, high: int, test: Callable[[Any], bool]) -> Mask:
        """Return the mask of the strings from one place in `_order` to another; the test is for those not in it."""
        mask = np.zeros(len(self._values), np.bool_)
        size = self._ranks.size
        mask[:size] = (self._ranks >= low) & (self._ranks < high)
        mask[size:] = [test(value) for value in self._values[size:]]
        return mask

    def _sort_most(self) -> None:
        """Sort the strings again unless only few are new."""
        if len(self._values) - self._ranks.size > self._ranks.size // _UNSORTED:
            self._sort()

    def _sort(self) -> None:
        new = range(self._ranks.size, len(self._values))
        self._sorted += [code for code in new if isinstance(self._values[code], str)]
        self._sorted.sort(key=self._values.__getitem__)  # fast, as all but the new ones are in order
        self._order = [self._values[code] for code in self._sorted]
        self._ranks = np.full(len(self._values), -1, np.int32)
        self._ranks[self._sorted] = np.arange(len(self._sorted), dtype=np.int32)


class _Joined:
    """Strings one behind the other, so that one search finds a substring in all of them.

    Parameters
    ----------
    texts : list of str
        The strings.
    ignore_case : bool
        Whether to search in lower case.
    """

    def __init__(self, texts: list[str], ignore_case: bool) -> None:
        parts = [text.lower() for text in texts] if ignore_case else texts
        self.count = len(parts)
        self._ignore_case = ignore_case
        self._text = "".join(parts)
        self._starts = [0, *itertools.accumulate(map(len, parts))]

    def containing(self, substring: str) -> Mask:
        """Return which of the strings have a substring."""
        sought = substring.lower() if self._ignore_case else substring
        found = np.full(self.count, not sought)
        at = self._text.find(sought) if sought else -1
        while at >= 0:
            number = bisect.bisect_right(self._starts, at) - 1
            end = self._starts[number + 1]
            found[number] = at + len(sought) <= end
            at = self._text.find(sought, end)  # what begins later in this string ends later, too
        return found
