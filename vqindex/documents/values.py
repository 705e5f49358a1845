"""The distinct values of a field, numbered, and the conditions on them as sets of numbers.

A column of a field is an array of these numbers, a code per document. A condition is decided once for each distinct
value, mostly by one comparison of arrays, and then looked up by code. Values that are equal have one code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rows.growing import Growing
from .meaning import MISSING, is_ordered, like
from .strings import Strings
from .tree import Between, Compare, Contains, Empty, Exists, Field, In, Like, Scalar

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
        self._strings = Strings(self._values)
        self._members: Members | None = None

    def __len__(self) -> int:
        return len(self._values)

    def codes_of(self, values: Iterable[Any]) -> list[int]:
        """Return the codes of values, new ones of those that have none."""
        known, number_of = self._values, self._code_of.setdefault
        codes = []
        for value in values:
            kind = type(value)
            if kind is str or kind is int:
                key = value
            elif value is MISSING or value is None or kind is bool:
                codes.append(2 + value if kind is bool else int(value is None))
                continue
            elif kind is float:
                key = value if value == value else _NAN
            else:
                key = ("JSON", json.dumps(value))
            code = number_of(key, len(known))
            if code == len(known):
                known.append(value)
            codes.append(code)
        return codes

    # ---- conditions

    def matching(self, condition: Field) -> int | Mask:
        """Return what satisfies a condition: one code (-1 for none), or a mask over all codes."""
        if isinstance(condition, Compare):
            return self._compared(condition.operator, condition.value)
        if isinstance(condition, In):
            return self._mask([found for value in condition.values if (found := self.find(value)) >= 0])
        if isinstance(condition, Between):
            return self._ordered(">=", condition.low) & self._ordered("<=", condition.high)
        if isinstance(condition, Exists):
            return np.logical_not(self._mask([MISSING_CODE]))
        if isinstance(condition, Like):
            return self._like(condition)
        if isinstance(condition, Contains):
            return self._containing(condition)
        assert isinstance(condition, Empty)
        return self._mask([code for key in ("", ("JSON", "[]")) if (code := self._code_of.get(key, -1)) >= 0])

    def _like(self, condition: Like) -> Mask:
        text = condition.pattern.strip("%")
        if not condition.ignore_case and "%" not in text and "_" not in text:
            if condition.pattern == f"{text}%":
                return self._strings.starting_with(text)
            if condition.pattern == f"%{text}%":
                return self._strings.containing(text, False)
        return self._strings.satisfying(like(condition.pattern, condition.ignore_case))

    def _mask(self, codes: Sequence[int]) -> Mask:
        mask = np.zeros(len(self), np.bool_)
        mask[np.asarray(codes, np.intp)] = True
        return mask

    def _containing(self, condition: Contains) -> Mask:
        if self._members is None:
            self._members = Members(self._values, Values())
        mask = self._members.having(condition.value)
        if isinstance(condition.value, str):
            mask |= self._strings.containing(condition.value, condition.ignore_case)
        return mask

    def find(self, value: Scalar) -> int:
        """Return the code of a scalar; -1 if it has none, and of NaN, which equals nothing."""
        if value is None or isinstance(value, bool):
            return self.codes_of([value])[0]
        return self._code_of.get(value, -1) if value == value else -1

    def _compared(self, operator: str, operand: Scalar) -> int | Mask:
        if operator == "==":
            return self.find(operand)
        if operator == "!=":
            found = self.find(operand)
            return np.logical_not(self._mask([found] if found >= 0 else []))
        return self._ordered(operator, operand)

    def _ordered(self, operator: str, operand: Scalar) -> Mask:
        if isinstance(operand, str):
            return self._strings.compared(operator, operand)
        if operand is None or isinstance(operand, bool):
            return np.zeros(len(self), np.bool_)
        return self._compared_numbers(operator, operand)

    def _compared_numbers(self, operator: str, operand: int | float) -> Mask:
        """Compare the nearest float64; where they are equal, the numbers themselves.

        Rounding keeps the order of numbers, so only equal float64 can stand for numbers in another order.
        """
        rounded = _nearest(operand)
        numbers = self._extended_numbers()
        mask = numbers < rounded if operator in ("<", "<=") else numbers > rounded
        for code in np.flatnonzero(numbers == rounded):
            mask[code] = is_ordered(self._values[code], operator, operand)
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


class Members:
    """Which lists have which values: pairs of codes, of a list and of a scalar in it.

    Parameters
    ----------
    values : list
        All values of a field; it may become longer.
    scalars : Values
        The distinct values of the lists' entries.
    """

    def __init__(self, values: list[Any], scalars: Values) -> None:
        self._values, self._scalars = values, scalars
        self._seen = 0  # how many values the pairs are of
        self._lists = Growing(np.empty(0, np.int32))
        self._entries = Growing(np.empty(0, np.int32))
        self._pairs = 0

    def having(self, value: Scalar) -> Mask:
        """Return the mask, over all codes, of the lists that have a value."""
        self._extend()
        mask = np.zeros(len(self._values), np.bool_)
        at = np.flatnonzero(self._entries.array[: self._pairs] == self._scalars.find(value))
        mask[self._lists.array[at]] = True
        return mask

    def _extend(self) -> None:
        first, self._seen = self._seen, len(self._values)
        new = [(code, self._values[code]) for code in range(first, self._seen)]
        lists = [(code, entries) for code, entries in new if isinstance(entries, list) and entries]
        if lists:
            codes = np.repeat([code for code, _ in lists], [len(entries) for _, entries in lists])
            entries = self._scalars.codes_of(entry for _, entries in lists for entry in entries)
            self._lists = self._lists.extended(self._pairs, codes)
            self._entries = self._entries.extended(self._pairs, np.asarray(entries))
            self._pairs += codes.size
