"""Haystack's filters for the records of a `DocStore`, and the conversion of documents to records and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._extras import missing
from .records import Narrow, Record

try:
    from haystack.dataclasses import Document
    from haystack.errors import FilterError
    from haystack.utils.filters import document_matches_filter
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from error

__all__ = ["Filters", "matcher", "narrow", "to_document", "to_record"]

Filters = dict[str, Any]


def to_record(document: Document) -> Record:
    """Return a document as a record."""
    more = document.to_dict(flatten=False)
    for name in ("id", "content", "meta", "embedding", "score"):
        more.pop(name, None)
    return Record(document.id, document.content, document.meta, more, document.embedding)


def to_document(record: Record) -> Document:
    """Return a record as a document, with its embedding if it has one."""
    embedding = None if record.embedding is None else record.embedding.tolist()
    values = {**record.more, "id": record.id, "content": record.text, "meta": record.metadata, "embedding": embedding}
    return Document.from_dict(values)


def matcher(filters: Filters | None) -> tuple[Callable[[Record], bool] | None, list[Narrow]]:
    """Return a predicate of records, and the conditions that SQLite may check first."""
    if not filters:
        return None, []
    if "operator" not in filters and "conditions" not in filters:
        raise FilterError(f"filters are {filters!r}; expected 'field', 'operator' and 'value', or 'conditions'")
    return lambda record: bool(document_matches_filter(filters, to_document(record))), narrow(filters)


def narrow(filters: Filters) -> list[Narrow]:
    """Return the conditions that fields have one of some values: the comparisons == and in, alone or inside AND.

    Haystack compares dates by time, whatever their spelling, so strings that may be dates give no condition.
    """
    if filters.get("operator") == "AND" and isinstance(filters.get("conditions"), list):
        return [found for each in filters["conditions"] if isinstance(each, dict) for found in narrow(each)]
    if filters.get("operator") not in ("==", "in") or "value" not in filters or "field" not in filters:
        return []
    values = filters["value"] if filters["operator"] == "in" else [filters["value"]]
    if not isinstance(values, list) or any(isinstance(v, str) and v[:4].isdigit() for v in values):
        return []
    parts = str(filters["field"]).split(".")
    if parts[0] != "meta" or len(parts) != 2:
        return []
    return [Narrow("metadata", (parts[1],), tuple(values))]
