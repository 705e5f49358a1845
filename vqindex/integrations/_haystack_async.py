"""The asynchronous methods of the Haystack store: each does as the one without ``_async``, in a thread."""

from __future__ import annotations

import asyncio
from typing import Any

from ._extras import missing
from ._haystack_filters import Filters
from ._haystack_store import StoreMethods

try:
    from haystack.dataclasses import Document
    from haystack.document_stores.types import DuplicatePolicy
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from error

__all__ = ["AsyncMethods"]


class AsyncMethods(StoreMethods):
    """The asynchronous methods of the store."""

    async def count_documents_async(self) -> int:
        """Do as `count_documents`."""
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: Filters | None = None) -> list[Document]:
        """Do as `filter_documents`."""
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Do as `write_documents`."""
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """Do as `delete_documents`."""
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        """Do as `delete_all_documents`."""
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: Filters) -> int:
        """Do as `delete_by_filter`."""
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: Filters, meta: dict[str, Any]) -> int:
        """Do as `update_by_filter`."""
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def count_documents_by_filter_async(self, filters: Filters) -> int:
        """Do as `count_documents_by_filter`."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def count_unique_metadata_by_filter_async(
        self, filters: Filters, metadata_fields: list[str]
    ) -> dict[str, int]:
        """Do as `count_unique_metadata_by_filter`."""
        return await asyncio.to_thread(self.count_unique_metadata_by_filter, filters, metadata_fields)

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """Do as `get_metadata_fields_info`."""
        return await asyncio.to_thread(self.get_metadata_fields_info)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """Do as `get_metadata_field_min_max`."""
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: Filters | None = None,
    ) -> tuple[list[Any], int]:
        """Do as `get_metadata_field_unique_values`."""
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values, metadata_field, search_term, from_, size, filters
        )

    async def embedding_retrieval_async(self, *args: Any, **kwargs: Any) -> list[Document]:
        """Do as `embedding_retrieval`."""
        return await asyncio.to_thread(self.embedding_retrieval, *args, **kwargs)

    async def bm25_retrieval_async(self, *args: Any, **kwargs: Any) -> list[Document]:
        """Do as `bm25_retrieval`."""
        return await asyncio.to_thread(self.bm25_retrieval, *args, **kwargs)

    async def hybrid_retrieval_async(self, *args: Any, **kwargs: Any) -> list[Document]:
        """Do as `hybrid_retrieval`."""
        return await asyncio.to_thread(self.hybrid_retrieval, *args, **kwargs)
