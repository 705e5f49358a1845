"""The methods of the Haystack store that summarize metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..documents import Document, Documents
from ._haystack_filters import Filters, to_filter

__all__ = ["MetadataMethods"]


class MetadataMethods:
    """Count and list values of metadata; `VQIndexDocumentStore` sets the attributes."""

    store: Documents
    _namespace: str | None

    def _listed(self, filters: Filters | None = None) -> list[Document]:
        return self.store.list(where=to_filter(filters), namespace=self._namespace)

    def count_documents_by_filter(self, filters: Filters) -> int:
        """Return the number of documents that match filters."""
        return self.store.count(to_filter(filters), namespace=self._namespace)

    def count_unique_metadata_by_filter(self, filters: Filters, metadata_fields: list[str]) -> dict[str, int]:
        """Return the number of distinct values of each field among the documents that match filters."""
        found = self._listed(filters)
        names = [field.removeprefix("meta.") for field in metadata_fields]
        return {name: len(_unique(found, name)) for name in names}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Return the type of each field, boolean, int, float or keyword, in the last document that has it."""
        types = {bool: "boolean", int: "int", float: "float"}
        return {
            name: {"type": types.get(type(value), "keyword")}
            for document in self._listed()
            for name, value in document.metadata.items()
            if value is not None
        }

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Return the least and the greatest value of a field; None without values, or if they have no order."""
        name = metadata_field.removeprefix("meta.")
        values = [document.metadata.get(name) for document in self._listed()]
        try:
            ordered = sorted(value for value in values if isinstance(value, int | float | str))
        except TypeError:  # numbers and texts
            ordered = []
        return {"min": ordered[0] if ordered else None, "max": ordered[-1] if ordered else None}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: Filters | None = None,
    ) -> tuple[list[Any], int]:
        """Return a page of the distinct values of a field, and the number of all of them.

        Parameters
        ----------
        metadata_field : str
            The field, with or without "meta.".
        search_term : str, optional
            Only values that contain it, in upper or lower case.
        from_, size : int
            Position of the first value of the page, and length of the page.
        filters : dict, optional
            Only values of documents that match them.
        """
        values = _unique(self._listed(filters), metadata_field.removeprefix("meta."))
        matching = [value for value in values if not search_term or search_term.lower() in str(value).lower()]
        matching.sort(key=lambda value: (str(value), type(value).__name__))
        return matching[from_ : from_ + size], len(matching)


def _unique(documents: Iterable[Document], name: str) -> list[Any]:
    """Return the distinct values of a field; 1, 1.0 and True are distinct."""
    found = {repr(value): value for document in documents if (value := document.metadata.get(name)) is not None}
    return list(found.values())
