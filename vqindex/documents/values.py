"""The distinct values of a field, numbered, and the conditions on them as sets of numbers.

A column of a field is an array of these numbers, a code per document. A condition is decided once for each distinct
value, mostly by one comparison of arrays, and then looked up by code. Values that are equal have one code.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .meaning import MISSING, test_of
from .tree import Between, Compare, Field, In, Scalar

__all__ = ["MISSING_CODE", "Values", "parse_texts"]

Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]

_FIRST: tuple[Any, ...] = (MISSING, None, False, True)  # their codes are 0, 1, 2, 3
MISSING_CODE = 0
_NAN = object()


def parse_texts(texts: Sequence[str]) -> list[Any]:
    """Return the values of several JSON texts, parsed in one call."""
    return list(json.loads(f"[{','.join(texts)}]"))


class Values:
    """Distinct values in the order of their codes, which never change."""

    def __init__(self) -> None:
        self._values: list[Any] = list(_FIRST)
        self._code_of: dict[Any, int] = {}  # of numbers, strings, NaN, and by their text of lists and objects
        self._numbers = np.full(1024, np.nan)  # the nearest float64 by code, NaN if the value is no number
        self._numbered = 0  # how many codes `_numbers` has
        self._sorted: list[int] = []  # codes of strings in the order of code points
        self._order: list[str] = []  # these strings
        self._ranks = np.empty(0, np.int32)  # by code: the place in `_order`, -1 if the value is no string in it

    def __len__(self) -> int:
        return len(self._values)

    def code(self, value: Any) -> int:
        """Return the code of a value, a new one if it has none."""
        if value is MISSING or value is None or isinstance(value, bool):
            return 2 + value if isinstance(value, bool) else int(value is None)
        if isinstance(value, list | dict):
            key: Any = ("JSON", json.dumps(value))
        else:
            key = _NAN if value != value else value
        found = self._code_of.setdefault(key, len(self._values))
        if found == len(self._values):
            self._values.append(value)
        return found

    # ---- conditions

    def matching(self, condition: Field) -> int | Mask:
        """Return what satisfies a condition: one code (-1 for none), or a mask over all codes."""
        if isinstance(condition, Compare) and condition.operator == "==":
            return self._find(condition.value)
        if isinstance(condition, Compare) and condition.operator == "!=":
            mask = np.ones(len(self), np.bool_)
            if (found := self._find(condition.value)) >= 0:
                mask[found] = False
            return mask
        if isinstance(condition, In):
            mask = np.zeros(len(self), np.bool_)
            mask[[found for value in condition.values if (found := self._find(value)) >= 0]] = True
            return mask
        if isinstance(condition, Compare):
            return self._compared(condition.operator, condition.value, test_of(condition))
        if isinstance(condition, Between):
            lower = Compare(condition.path, ">=", condition.low)
            upper = Compare(condition.path, "<=", condition.high)
            return self._compared(">=", lower.value, test_of(lower)) & self._compared("<=", upper.value, test_of(upper))
        test = test_of(condition)
        return np.fromiter(map(test, self._values), np.bool_, len(self))

    def _find(self, value: Scalar) -> int:
        """Return the code of a scalar; -1 if it has none, and of NaN, which equals nothing."""
        if value is None or isinstance(value, bool):
            return self.code(value)
        return self._code_of.get(value, -1) if value == value else -1

    def _compared(self, operator: str, operand: Scalar, test: Callable[[Any], bool]) -> Mask:
        if isinstance(operand, str):
            return self._compared_strings(operator, operand, test)
        if operand is None or isinstance(operand, bool):
            return np.zeros(len(self), np.bool_)
        return self._compared_numbers(operator, operand, test)

    def _compared_numbers(self, operator: str, operand: int | float, test: Callable[[Any], bool]) -> Mask:
        """Compare the nearest float64; where they are equal, the numbers themselves.

        Rounding keeps the order of numbers, so only equal float64 can stand for numbers in another order.
        """
        rounded = _nearest(operand)
        numbers = self._extended_numbers()
        mask = numbers < rounded if operator in ("<", "<=") else numbers > rounded
        for code in np.flatnonzero(numbers == rounded):
            mask[code] = test(self._values[code])
        return mask

    def _extended_numbers(self) -> NDArray[np.float64]:
        size = len(self)
        if size > self._numbers.size:
            grown = np.full(max(size, 2 * self._numbers.size), np.nan)
            grown[: self._numbered] = self._numbers[: self._numbered]
            self._numbers = grown
        new = self._values[self._numbered :]
        self._numbers[self._numbered : size] = [_nearest(value) for value in new]
        self._numbered = size
        return self._numbers[:size]

    def _compared_strings(self, operator: str, operand: str, test: Callable[[Any], bool]) -> Mask:
        if len(self) - self._ranks.size > self._ranks.size // 64:
            self._sort_strings()
        low = bisect.bisect_left(self._order, operand)
        high = bisect.bisect_right(self._order, operand)
        mask = np.zeros(len(self), np.bool_)
        ranks, sorted_part = self._ranks, mask[: self._ranks.size]
        if operator in ("<", "<="):
            np.less(ranks, low if operator == "<" else high, out=sorted_part)
            sorted_part &= ranks >= 0
        else:
            np.greater_equal(ranks, high if operator == ">" else low, out=sorted_part)
        mask[ranks.size :] = [test(value) for value in self._values[ranks.size :]]
        return mask

    def _sort_strings(self) -> None:
        new = range(self._ranks.size, len(self))
        self._sorted += [code for code in new if isinstance(self._values[code], str)]
        self._sorted.sort(key=self._values.__getitem__)  # fast, as all but the new ones are in order
        self._order = [self._values[code] for code in self._sorted]
        self._ranks = np.full(len(self), -1, np.int32)
        self._ranks[self._sorted] = np.arange(len(self._sorted), dtype=np.int32)


def _nearest(value: Any) -> float:
    """Return the float64 nearest to a number, infinite if it is too large; NaN for what is no number."""
    if isinstance(value, float):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
