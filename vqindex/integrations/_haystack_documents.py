"""Haystack's documents as documents of a store, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..documents import Document as StoredDocument
from ._extras import missing

try:
    from haystack.dataclasses import Document
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from error

__all__ = ["other_values", "to_document"]

_STORED = ("id", "content", "meta", "embedding", "score")


def other_values(document: Document) -> dict[str, Any]:
    """Return the values of a document that have no place of their own in a store."""
    bare = replace(document, content=None, meta={}, embedding=None)  # `to_dict` copies an embedding number by number
    values: dict[str, Any] = bare.to_dict(flatten=False)
    return {name: value for name, value in values.items() if name not in _STORED and value is not None}


def to_document(stored: StoredDocument, score: float | None = None) -> Document:
    """Return a stored document as it was, with its embedding if the store has read it."""
    embedding = None if stored.vector is None else stored.vector.tolist()
    values = {**stored.more, "id": stored.id, "content": stored.text, "meta": stored.metadata}
    return Document.from_dict({**values, "embedding": embedding, "score": score})
