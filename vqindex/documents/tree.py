"""The nodes of filters. Each checks its values when it is made, so a tree is always well formed.

Types never mix. A number equals only numbers, and True is not 1. NaN equals nothing. Two numbers or two strings
(compared by code points) have an order, no other values do. None is a value: a field without a value is another thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InvalidInputError

__all__ = [
    "And",
    "Between",
    "Compare",
    "Contains",
    "Custom",
    "Empty",
    "Exists",
    "Field",
    "Filter",
    "Ids",
    "In",
    "Like",
    "Not",
    "Or",
    "Path",
    "Scalar",
    "Source",
    "TextMatch",
    "as_scalar",
]

Scalar = str | int | float | bool | None
Path = tuple[str, ...]
Source = Literal["metadata", "more"]

_OPERATORS = ("==", "!=", "<", "<=", ">", ">=")


class Filter:
    """Base class of all nodes. Nodes are equal if they mean the same: 1 equals 1.0, and neither equals True."""

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        values = (getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]
        return (type(self).__name__, *map(_tagged, values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _tagged(value: Any) -> Any:
    """Return a value of a node such that bools differ from the numbers that Python holds them equal to."""
    if isinstance(value, tuple):
        return tuple(map(_tagged, value))
    return ("bool", value) if isinstance(value, bool) else value


@dataclass(frozen=True, eq=False)
class And(Filter):
    """All parts hold; so does an And of no parts."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_parts(self, self.parts)


@dataclass(frozen=True, eq=False)
class Or(Filter):
    """Some part holds; an Or of no parts does not."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_parts(self, self.parts)


@dataclass(frozen=True, eq=False)
class Not(Filter):
    """The part does not hold."""

    part: Filter

    def __post_init__(self) -> None:
        _check_parts(self, (self.part,))


@dataclass(frozen=True, eq=False)
class Field(Filter):
    """Base class of the conditions of one field. A path of several keys is a field of nested metadata."""

    path: Path

    if TYPE_CHECKING:  # the last field of each subclass

        @property
        def source(self) -> Source:
            """Which JSON column of a row has the field."""

    def __post_init__(self) -> None:
        if not isinstance(self.path, tuple) or not self.path or not all(isinstance(key, str) for key in self.path):
            raise InvalidInputError(f"path of a filter is {self.path!r}; expected a tuple of at least one key")
        source = getattr(self, "source", None)
        if source not in ("metadata", "more"):
            raise InvalidInputError(f"source of a filter is {source!r}; expected 'metadata' or 'more'")

    def _plain(self, *names: str) -> None:
        """Replace values by plain scalars, so that np.float32(1) or a member of an enum is what it stands for."""
        for name in names:
            object.__setattr__(self, name, as_scalar(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Compare(Field):
    """A field compares so with a value. A missing field satisfies only "!=", which is exactly the opposite of "=="."""

    operator: str
    value: Scalar
    source: Source = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator not in _OPERATORS:
            raise InvalidInputError(f"operator is {self.operator!r}; expected one of {', '.join(_OPERATORS)}")
        self._plain("value")


@dataclass(frozen=True, eq=False)
class In(Field):
    """A field equals one of some values."""

    values: tuple[Scalar, ...]
    source: Source = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.values, tuple):
            raise InvalidInputError(f"values of In are {self.values!r}; expected a tuple")
        object.__setattr__(self, "values", tuple(map(as_scalar, self.values)))


@dataclass(frozen=True, eq=False)
class Exists(Field):
    """A field is there; its value may be None."""

    source: Source = "metadata"


@dataclass(frozen=True, eq=False)
class Empty(Field):
    """A field is an empty string or an empty list."""

    source: Source = "metadata"


@dataclass(frozen=True, eq=False)
class Between(Field):
    """A field is at least `low` and at most `high`."""

    low: Scalar
    high: Scalar
    source: Source = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._plain("low", "high")


@dataclass(frozen=True, eq=False)
class Contains(Field):
    """A field is a list that has the value, or a string that has it as a substring.

    With `ignore_case`, substrings are compared in lower case; the values of lists are compared as ever.
    """

    value: Scalar
    ignore_case: bool = False
    source: Source = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.ignore_case, bool):
            raise InvalidInputError(f"ignore_case is {self.ignore_case!r}; expected True or False")
        self._plain("value")


@dataclass(frozen=True, eq=False)
class Like(Field):
    """A field is a string of this pattern, where % stands for any text and _ for any one character."""

    pattern: str
    ignore_case: bool = False
    source: Source = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pattern, str) or not isinstance(self.ignore_case, bool):
            raise InvalidInputError(
                f"pattern and ignore_case are {self.pattern!r}, {self.ignore_case!r}; expected a string and a bool"
            )


@dataclass(frozen=True, eq=False)
class TextMatch(Filter):
    """The document's text has all words of this text, in any order and case; a text without words matches nothing."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidInputError(f"text of a filter is {self.text!r}; expected a string")


@dataclass(frozen=True, eq=False)
class Ids(Filter):
    """The document has one of these ids."""

    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.ids, tuple) or not all(isinstance(id_, str) for id_ in self.ids):
            raise InvalidInputError(f"ids of a filter are {self.ids!r}; expected a tuple of strings")


@dataclass(frozen=True, eq=False)
class Custom(Filter):
    """A Python function of a document returns a true value."""

    function: Callable[[Any], object]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InvalidInputError(f"function of a filter is {self.function!r}; expected a callable")


def _check_parts(node: Filter, parts: object) -> None:
    if not isinstance(parts, tuple) or not all(isinstance(part, Filter) for part in parts):
        raise InvalidInputError(f"parts of {type(node).__name__} are {parts!r}; expected filters in a tuple")


def as_scalar(value: Any) -> Scalar:
    """Return a value of a filter as a plain scalar of Python.

    Raises
    ------
    InvalidInputError
        If it is no string, number, bool or None.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or isinstance(plain, bool):
        return plain
    if isinstance(plain, str):
        return str.__str__(plain)  # members of enums too
    if isinstance(plain, int):
        return int(plain)
    if isinstance(plain, float):
        return float(plain)
    raise InvalidInputError(
        f"value of a filter is {value!r}; expected a string, a number, a bool or None (of a date, its ISO string)"
    )
