"""Conditions that compare as Python does, where True is 1 and False is 0; in a filter's own conditions types never mix.

The in-memory stores of LlamaIndex and Haystack compare values of metadata by Python's operators.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..documents.filters import (
    And,
    Compare,
    Contains,
    Custom,
    Exists,
    Filter,
    In,
    Or,
    Path,
    Scalar,
    Source,
)
from ..documents.meaning import MISSING, value_at

__all__ = ["EVERYTHING", "NOTHING", "FieldTest", "contains", "equals", "is_scalar", "one_of", "ordered", "passing"]

EVERYTHING = And(())
NOTHING = Or(())

_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class FieldTest:
    """A function of a document: whether the value of a field passes a test.

    Attributes
    ----------
    path, source
        The field.
    test : callable
        Function of the value and the operand.
    operand : object
        What the test compares with.
    key : str
        The operand's `repr`. Tests with the same field, function and key are equal, and so are filters of them.
    """

    path: Path
    source: Source
    test: Callable[[Any, Any], bool]
    operand: Any = field(compare=False)
    key: str

    def __call__(self, document: Any) -> bool:
        value = value_at(getattr(document, self.source), self.path)
        return value is not MISSING and self.test(value, self.operand)


def passing(
    path: Path, test: Callable[[Any, Any], bool], operand: Any, source: Source = "metadata", first: Filter | None = None
) -> Filter:
    """Return the condition that a field passes a test in Python; `first` is another one that must hold before."""
    custom = Custom(FieldTest(path, source, test, operand, repr(operand)))
    return And((Exists(path, source) if first is None else first, custom))


def is_scalar(value: object) -> bool:
    """Whether a value is one that conditions hold: a string, a number, a bool or None."""
    return value is None or isinstance(value, str | int | float)


def _alike(value: Scalar) -> tuple[Scalar, ...]:
    """Return the values that Python holds equal to a value, as conditions tell them apart."""
    if isinstance(value, int | float) and value in (0, 1):
        return (int(value), bool(value))
    return (value,)


def equals(path: Path, value: Scalar, source: Source = "metadata") -> Filter:
    """Return the condition that a field equals a value."""
    found = _alike(value)
    return Compare(path, "==", value, source) if len(found) == 1 else In(path, found, source)


def one_of(path: Path, values: list[Any], source: Source = "metadata") -> Filter:
    """Return the condition that a field equals one of some values."""
    return In(path, tuple(found for value in values for found in _alike(value)), source)


def ordered(path: Path, symbol: str, value: str | int | float, source: Source = "metadata") -> Filter:
    """Return the condition that a field is less or greater than a string or a number."""
    compared = Compare(path, symbol, int(value) if isinstance(value, bool) else value, source)
    if isinstance(value, str):
        return compared
    bools = tuple(each for each in (False, True) if _ORDERS[symbol](each, value))
    return Or((compared, In(path, bools, source))) if bools else compared


def contains(path: Path, value: Scalar, source: Source = "metadata") -> Filter:
    """Return the condition that a field is a list or a string that contains a value, or a dict with that key."""
    parts: list[Filter] = [Contains(path, each, source=source) for each in _alike(value)]
    if isinstance(value, str):
        parts.append(Exists((*path, value), source))
    return parts[0] if len(parts) == 1 else Or(tuple(parts))
