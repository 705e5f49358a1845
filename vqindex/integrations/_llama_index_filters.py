"""LlamaIndex's MetadataFilters as filters of documents.

`llama_index.core.vector_stores.utils.build_metadata_filter_fn` defines what they mean. It raises a TypeError for
documents whose value has no order or no parts; here these do not match.
"""

from __future__ import annotations

from typing import Any

from ..documents.filters import And, Compare, Contains, Empty, Exists, Filter, Not, Or, Path, Source
from ..errors import InvalidInputError
from ._extras import missing
from ._python_values import EVERYTHING, NOTHING, contains, equals, is_scalar, one_of, ordered, passing

try:
    from llama_index.core.vector_stores.types import (
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
    )
except ImportError as error:
    raise missing("llama-index-core", "llama-index", error) from error

__all__ = ["REF_DOC_ID", "from_source", "to_filter"]

REF_DOC_ID = "ref_doc_id"
# What LlamaIndex adds to the metadata of a node that it stores. Three of them name its source document.
_ADDED = {"ref_doc_id": REF_DOC_ID, "doc_id": REF_DOC_ID, "document_id": REF_DOC_ID, "_node_type": "_node_type"}
_ORDERS = ("<", "<=", ">", ">=")


def from_source(ref_doc_ids: list[str]) -> Filter:
    """Return the condition that a node comes from one of these documents."""
    return one_of((REF_DOC_ID,), ref_doc_ids, "more")


def to_filter(filters: MetadataFilters | None) -> Filter | None:
    """Return LlamaIndex's filters as a filter; None if they restrict nothing.

    Parameters
    ----------
    filters : MetadataFilters or None
        Filters, also nested. A list without filters matches every node, as in LlamaIndex.

    Returns
    -------
    Filter or None

    Raises
    ------
    InvalidInputError
        If `filters` is of another type, or an operator gets a value that it can't compare.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise InvalidInputError(f"filters is {filters!r}; expected MetadataFilters")
    return _combined(filters) if filters.filters else None


def _combined(filters: MetadataFilters) -> Filter:
    if not filters.filters:
        return EVERYTHING
    parts = tuple(_combined(each) if isinstance(each, MetadataFilters) else _compared(each) for each in filters.filters)
    if filters.condition == FilterCondition.OR:
        return Or(parts)
    if filters.condition == FilterCondition.NOT:
        return Not(Or(parts))
    return parts[0] if len(parts) == 1 else And(parts)


def _compared(each: MetadataFilter) -> Filter:
    """Return one comparison. A missing field and None satisfy NE, NIN and IS_EMPTY only."""
    source: Source = "more" if each.key in _ADDED else "metadata"
    path, symbol, value = (_ADDED.get(each.key, each.key),), each.operator, each.value
    if symbol == FilterOperator.EQ:
        return _equal(path, value, source)
    if symbol == FilterOperator.NE:
        return Not(_equal(path, value, source))
    if symbol == FilterOperator.IN:
        return _in(path, value, source, symbol)
    if symbol == FilterOperator.NIN:
        return Not(_in(path, value, source, symbol))
    if symbol.value in _ORDERS:
        if not isinstance(value, str | int | float):
            raise _unfit(each, "a number or a string")
        return ordered(path, symbol.value, value, source)
    if symbol == FilterOperator.IS_EMPTY:
        return Or((Not(Exists(path, source)), Compare(path, "==", None, source), Empty(path, source)))
    return _of_parts(each, path, source)


def _of_parts(each: MetadataFilter, path: Path, source: Source) -> Filter:
    """Return a comparison with the elements of a list, or with parts of a text."""
    symbol, value = each.operator, each.value
    if symbol == FilterOperator.CONTAINS:
        if is_scalar(value):
            return contains(path, value, source)
        return passing(path, _has_list, value, source)
    if symbol in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        if not isinstance(value, str):
            raise _unfit(each, "a string")
        return Contains(path, value, ignore_case=symbol == FilterOperator.TEXT_MATCH_INSENSITIVE, source=source)
    if symbol in (FilterOperator.ALL, FilterOperator.ANY):
        if not isinstance(value, list | str):
            raise _unfit(each, "a list")
        parts = tuple(contains(path, part, source) for part in value)
        if symbol == FilterOperator.ANY:
            return Or(parts)
        return And((Exists(path, source), Not(Compare(path, "==", None, source)), *parts))
    raise InvalidInputError(f"operator of the filter on {each.key!r} is {symbol!r}; expected one of LlamaIndex's")


def _equal(path: Path, value: Any, source: Source) -> Filter:
    if value is None:  # LlamaIndex's filters for None match nothing; IS_EMPTY does
        return NOTHING
    if isinstance(value, list):
        return passing(path, _is_list, value, source)
    return equals(path, value, source)


def _in(path: Path, value: Any, source: Source, symbol: FilterOperator) -> Filter:
    if isinstance(value, str):  # Python's `in`: the field is a part of this text
        return passing(path, _is_part, value, source)
    if not isinstance(value, list):
        raise InvalidInputError(f"value of the filter {symbol.value!r} on {path[0]!r} is {value!r}; expected a list")
    return one_of(path, value, source)


def _is_list(value: Any, operand: list[Any]) -> bool:
    return bool(value == operand)


def _has_list(value: Any, operand: list[Any]) -> bool:
    return isinstance(value, list) and operand in value


def _is_part(value: Any, operand: str) -> bool:
    return isinstance(value, str) and value in operand


def _unfit(each: MetadataFilter, expected: str) -> InvalidInputError:
    return InvalidInputError(
        f"value of the filter {each.operator.value!r} on {each.key!r} is {each.value!r}; expected {expected}"
    )
