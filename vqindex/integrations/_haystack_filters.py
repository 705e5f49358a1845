"""Haystack's filters as filters of documents.

`haystack.utils.filters.document_matches_filter` defines what they mean. A missing field is None there. Strings that are
dates compare by time, whatever their spelling and time zone. Haystack raises a FilterError when it meets a document
whose value can't be compared; here that document does not match.
"""

from __future__ import annotations

import re
from dataclasses import fields as fields_of
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

from ..documents.filters import (
    And,
    Between,
    Compare,
    Custom,
    Exists,
    Filter,
    Ids,
    Like,
    Not,
    Or,
    Path,
)
from ._extras import missing
from ._python_values import EVERYTHING, NOTHING, equals, is_scalar, one_of, ordered, passing

try:
    import dateutil.parser
    from haystack.dataclasses import Document
    from haystack.errors import FilterError
    from haystack.utils.filters import document_matches_filter
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from error

__all__ = ["Filters", "to_filter"]

Filters = dict[str, Any]

_ORDERS = ("<", "<=", ">", ">=")
_COMPARISONS = ("==", "!=", *_ORDERS, "in", "not in")
_FIELDS = frozenset(each.name for each in fields_of(Document)) - {"meta"}
# Two time zones differ by less than two days, and one spelling of midnight is 24:00 of the day before.
_DAYS = timedelta(days=3)
_IS_TEXT, _IS_DATE = "%", "____-__-__%"
_DEFAULTS = (datetime(2000, 1, 1), datetime(2004, 3, 2))


def to_filter(filters: Filters | None) -> Filter | None:
    """Return Haystack's filters as a filter; None if there are none.

    Parameters
    ----------
    filters : dict or None
        ``{"field": ..., "operator": ..., "value": ...}`` or ``{"operator": ..., "conditions": [...]}``.

    Returns
    -------
    Filter or None

    Raises
    ------
    FilterError
        If they have another form, an unknown operator, or a value that the operator can't compare.
    """
    if not filters:
        return None
    if not isinstance(filters, dict) or ("operator" not in filters and "conditions" not in filters):
        raise FilterError(f"filters are {filters!r}; expected 'field', 'operator' and 'value', or 'conditions'")
    return _condition(filters)


def _condition(condition: Any) -> Filter:
    if not isinstance(condition, dict):
        raise FilterError(f"a condition is {condition!r}; expected a dict")
    names = ("operator", "value") if "field" in condition else ("operator", "conditions")
    for name in names:
        if name not in condition:
            raise FilterError(f"{name!r} is missing in {condition!r}")
    if "field" in condition:
        return _comparison(condition)
    symbol, inner = condition["operator"], condition["conditions"]
    if symbol not in ("AND", "OR", "NOT"):
        raise FilterError(f"logical operator is {symbol!r}; expected 'AND', 'OR' or 'NOT'")
    if not isinstance(inner, list | tuple):
        raise FilterError(f"'conditions' are {inner!r}; expected a list")
    parts = tuple(_condition(each) for each in inner)
    if symbol == "OR":
        return Or(parts)
    return Not(And(parts)) if symbol == "NOT" else And(parts)


def _comparison(condition: Filters) -> Filter:
    field, symbol, value = condition["field"], condition["operator"], condition["value"]
    if not isinstance(field, str):
        raise FilterError(f"'field' is {field!r}; expected a string")
    if symbol not in _COMPARISONS:
        raise FilterError(f"comparison operator is {symbol!r}; expected one of {', '.join(_COMPARISONS)}")
    if symbol in ("in", "not in") and not isinstance(value, list):
        raise FilterError(f"value of {symbol!r} is {value!r}; expected a list")
    if symbol in _ORDERS:
        _check_order(symbol, value)
    if symbol in ("!=", "not in"):
        return Not(_positive(field, "==" if symbol == "!=" else "in", value))
    return _positive(field, symbol, value)


def _positive(field: str, symbol: str, value: Any) -> Filter:
    """Return a comparison by ==, in, <, <=, > or >=."""
    root, *keys = field.split(".")
    if root == "meta" and keys:
        return _of_field(tuple(keys), symbol, value)
    if not keys and field not in _FIELDS and field != "meta":
        return _of_field((field,), symbol, value)  # Haystack's old filters have no "meta."
    if keys:  # no other field of a document has fields inside
        return EVERYTHING if _matches(symbol, value, None) else NOTHING
    if field == "id" and symbol != "in" and isinstance(value, str) and not _day(value):
        return Ids((value,)) if symbol == "==" else _whole(field, symbol, value)
    if field == "id" and symbol == "in" and all(isinstance(each, str) and not _day(each) for each in value):
        return Ids(tuple(value))
    return _whole(field, symbol, value)


def _whole(field: str, symbol: str, value: Any) -> Filter:
    """Return a comparison of a field of documents that is not metadata."""
    if field == "embedding":
        raise FilterError("'field' is 'embedding'; expected a field of the metadata, id, content or blob")
    condition = {"field": field, "operator": symbol, "value": value}
    return Custom(_WholeTest(condition))


class _WholeTest:
    """A function of a document: whether it meets a condition as Haystack says."""

    def __init__(self, condition: Filters) -> None:
        self.condition = condition

    def __call__(self, document: Any) -> bool:
        values = {**document.more, "id": document.id, "content": document.text, "meta": document.metadata}
        return _holds(self.condition, Document.from_dict(values))


def _of_field(path: Path, symbol: str, value: Any) -> Filter:
    if symbol in _ORDERS:
        return _ordered(path, symbol, value)
    values = value if symbol == "in" else [value]
    plain = [each for each in values if is_scalar(each) and each is not None and not _day(each)]
    parts: list[Filter] = [_equal(path, each) for each in values if not is_scalar(each) or each is None or _day(each)]
    if len(plain) == 1:
        parts.append(equals(path, plain[0]))
    elif plain or not parts:
        parts.append(one_of(path, plain))
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


def _equal(path: Path, value: Any) -> Filter:
    """Return an equality with None, a date, a list or another object."""
    if value is None:
        return Or((Not(Exists(path)), Compare(path, "==", None)))
    day, near = _day(value), None
    if day is not None:
        low, high = _around(day)
        near = Between(path, low, high)
    return passing(path, _is_equal, value, first=near)


def _check_order(symbol: str, value: Any) -> None:
    """Raise FilterError for a value that has no order."""
    if value is None or isinstance(value, int | float | datetime):
        return
    if not isinstance(value, str):
        raise FilterError(f"value of {symbol!r} is {value!r}; expected a number or a date")
    _day_of_order(symbol, value)


def _ordered(path: Path, symbol: str, value: Any) -> Filter:
    if value is None:
        return NOTHING
    if isinstance(value, int | float):
        return ordered(path, symbol, value)
    low, high = _around(_day_of_order(symbol, value))
    is_date = Like(path, _IS_DATE)
    # Days far from this one compare as their spellings do; Haystack decides for near days and for other spellings.
    far = Compare(path, ">", high) if symbol in (">", ">=") else Compare(path, "<", low)
    near = passing(path, _ORDER_TESTS[symbol], value, first=And((Between(path, low, high), is_date)))
    other = passing(path, _ORDER_TESTS[symbol], value, first=And((Like(path, _IS_TEXT), Not(is_date))))
    return Or((And((far, is_date)), near, other))


def _day(value: Any) -> date | None:
    """Return the day of what Haystack's == may take for a date; None for other values."""
    if isinstance(value, datetime):
        return value.date()
    if not isinstance(value, str) or not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return None
    try:
        return date.fromisoformat(value[:10])
    except ValueError:
        return None


def _day_of_order(symbol: str, value: str | datetime) -> date:
    """Return the day of a date as Haystack's orders read it; FilterError if it is no date."""
    if isinstance(value, datetime):
        return value.date()
    try:
        return datetime.fromisoformat(value).date()
    except ValueError:
        pass
    try:  # what is not in the text comes from the default; so two defaults tell whether the text is a whole date
        first, second = (dateutil.parser.parse(value, default=each).date() for each in _DEFAULTS)
        if first == second:
            return date.fromordinal(first.toordinal())
    except (ValueError, OverflowError):
        pass
    raise FilterError(f"value of {symbol!r} is {value!r}; expected a number or a date such as '2024-12-31'")


def _around(day: date) -> tuple[str, str]:
    """Return bounds: strings that begin with an earlier or a later day are surely before or after any time of `day`."""
    low = day - _DAYS if day - date.min > _DAYS else date.min
    high = (day + _DAYS).isoformat() if date.max - day > _DAYS else "~"
    return low.isoformat(), high


def _matches(symbol: str, value: Any, stored: Any) -> bool:
    """Whether a stored value meets a comparison as Haystack says."""
    if isinstance(stored, str) and isinstance(value, str) and _day(stored) and _day(value):
        return _date_matches(symbol, value, stored)
    return _holds({"field": "meta.v", "operator": symbol, "value": value}, Document(id="v", meta={"v": stored}))


@lru_cache(maxsize=2**16)
def _date_matches(symbol: str, value: str, stored: str) -> bool:
    """Do as `_matches`, and remember: days repeat, and reading two dates takes longer than all the rest."""
    return _holds({"field": "meta.v", "operator": symbol, "value": value}, Document(id="v", meta={"v": stored}))


def _holds(condition: Filters, document: Document) -> bool:
    try:
        return bool(document_matches_filter(condition, document))
    except (FilterError, TypeError):  # the document's value can't be compared
        return False


def _is_equal(stored: Any, value: Any) -> bool:
    return _matches("==", value, stored)


def _is_less(stored: Any, value: Any) -> bool:
    return _matches("<", value, stored)


def _is_at_most(stored: Any, value: Any) -> bool:
    return _matches("<=", value, stored)


def _is_greater(stored: Any, value: Any) -> bool:
    return _matches(">", value, stored)


def _is_at_least(stored: Any, value: Any) -> bool:
    return _matches(">=", value, stored)


_ORDER_TESTS = {"<": _is_less, "<=": _is_at_most, ">": _is_greater, ">=": _is_at_least}
