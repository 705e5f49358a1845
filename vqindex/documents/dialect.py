"""The dialect of `Documents`: mappings such as ``{"year": {"$gt": 2020}, "lang": "en"}``, parsed into a tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InvalidInputError
from .tree import And, Between, Compare, Contains, Custom, Exists, Filter, In, Like, Not, Or, Path, as_scalar

__all__ = ["OPERATORS", "parse"]

_DEEPEST = 100  # nested operators of one filter; more would exhaust Python's stack
_COMPARISONS = {"$eq": "==", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_LOGICAL = ("$and", "$or", "$not")
OPERATORS = (*_COMPARISONS, "$in", "$nin", "$exists", "$between", "$contains", "$like", "$ilike", "$not")


def parse(where: Mapping[str, Any] | Filter | Callable[[Any], object] | None) -> Filter | None:
    """Return the filter that a mapping, a tree, or a function stands for.

    Parameters
    ----------
    where : mapping, Filter, callable or None
        A mapping from fields to values or to operators, all of which hold: ``{"a": 1, "b": {"$gt": 2, "$lt": 5}}``.
        Operators of a field are $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $between, $contains, $like,
        $ilike and $not. The keys $and and $or take a list of filters, $not one filter. A mapping without operators
        goes into nested metadata: ``{"author": {"name": "Ann"}}``. A function is called with each document. None and
        an empty mapping stand for all documents.

    Returns
    -------
    Filter or None
        The tree; None for all documents.

    Raises
    ------
    InvalidInputError
        If an operator is unknown, or a value is not of the kind that its operator takes.
    """
    if where is None or (isinstance(where, Mapping) and not where):
        return None
    return _filter(where, 0)


def _filter(where: Any, depth: int) -> Filter:
    if isinstance(where, Filter):
        return where
    if isinstance(where, Mapping):
        if not where:
            raise InvalidInputError("a filter inside another is {}; expected at least one condition")
        return _all([_entry(key, value, (), depth) for key, value in where.items()])
    if callable(where):
        return Custom(where)
    raise InvalidInputError(
        f"filter is {where!r}; expected a mapping, a tree of vqindex.documents.filters, or a function"
    )


def _all(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _entry(key: Any, value: Any, path: Path, depth: int) -> Filter:
    """Parse one item of a mapping: a logical operator, or a field, which lies in the field `path` if that has keys."""
    if depth > _DEEPEST:
        raise InvalidInputError(f"filter is nested more than {_DEEPEST} deep; expected fewer levels")
    if not isinstance(key, str):
        raise InvalidInputError(f"filter has the key {key!r}; expected a string")
    if not key.startswith("$"):
        return _field((*path, key), value, depth + 1)
    if path or key not in _LOGICAL:
        raise InvalidInputError(f"filter has the key {key!r}; expected a field, or one of {', '.join(_LOGICAL)}")
    if key == "$not":
        return Not(_filter(value, depth + 1))
    if not isinstance(value, list | tuple) or not value:
        raise InvalidInputError(f"{key} is {value!r}; expected a list of at least one filter")
    parts = tuple(_filter(part, depth + 1) for part in value)
    return And(parts) if key == "$and" else Or(parts)


def _field(path: Path, condition: Any, depth: int) -> Filter:
    """Parse what a field is compared with: a value, operators, or the fields inside it."""
    if not isinstance(condition, Mapping):
        return Compare(path, "==", _scalar(condition, path, "a value, or operators such as $in and $contains"))
    if not condition:
        raise InvalidInputError(f"filter of {_name(path)} is {{}}; expected at least one operator")
    are_operators = [isinstance(key, str) and key.startswith("$") for key in condition]
    if all(are_operators):
        return _all([_operator(path, symbol, operand, depth) for symbol, operand in condition.items()])
    if any(are_operators):
        raise InvalidInputError(f"filter of {_name(path)} is {condition!r}; expected only operators, or only fields")
    return _all([_entry(key, value, path, depth) for key, value in condition.items()])


def _operator(path: Path, symbol: str, operand: Any, depth: int) -> Filter:
    if symbol in _COMPARISONS:
        return Compare(path, _COMPARISONS[symbol], _scalar(operand, path, f"a value of {symbol}"))
    if symbol == "$contains":
        return Contains(path, _scalar(operand, path, "a value of $contains"))
    if symbol in ("$in", "$nin"):
        found = In(path, _scalars(operand, path, symbol))
        return found if symbol == "$in" else Not(found)
    if symbol == "$between":
        bounds = _scalars(operand, path, symbol)
        if len(bounds) != 2:
            raise _unexpected(path, symbol, operand, "the lowest and highest value")
        return Between(path, *bounds)
    if symbol == "$exists":
        if not isinstance(operand, bool):
            raise _unexpected(path, symbol, operand, "True or False")
        return Exists(path) if operand else Not(Exists(path))
    if symbol in ("$like", "$ilike"):
        if not isinstance(operand, str):
            raise _unexpected(path, symbol, operand, "a pattern with % and _")
        return Like(path, operand, symbol == "$ilike")
    return _negated(path, symbol, operand, depth)


def _negated(path: Path, symbol: str, operand: Any, depth: int) -> Filter:
    if symbol != "$not":
        raise InvalidInputError(f"{_name(path)} has the operator {symbol!r}; expected one of {', '.join(OPERATORS)}")
    if not isinstance(operand, Mapping):
        raise _unexpected(path, symbol, operand, "operators")
    if depth > _DEEPEST:
        raise InvalidInputError(f"filter is nested more than {_DEEPEST} deep; expected fewer levels")
    return Not(_field(path, operand, depth + 1))


def _unexpected(path: Path, symbol: str, operand: Any, expected: str) -> InvalidInputError:
    return InvalidInputError(f"{symbol} of {_name(path)} is {operand!r}; expected {expected}")


def _scalars(operand: Any, path: Path, symbol: str) -> tuple[Any, ...]:
    if not isinstance(operand, list | tuple | set | frozenset):
        raise _unexpected(path, symbol, operand, "a list of values")
    return tuple(_scalar(each, path, f"values of {symbol}") for each in operand)


def _scalar(value: Any, path: Path, expected: str) -> Any:
    try:
        return as_scalar(value)
    except InvalidInputError as error:
        raise InvalidInputError(f"filter of {_name(path)}: expected {expected}; {error}") from None


def _name(path: Path) -> str:
    return repr(path[0] if len(path) == 1 else path)
