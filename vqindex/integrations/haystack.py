"""A Haystack document store and its retriever: documents in SQLite, their vectors in a vqindex (`docstore.py`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..errors import InvalidInputError
from ._extras import missing
from ._haystack_filters import Filters, matcher, to_document, to_record
from .docstore import DocStore
from .records import Record

try:
    from haystack import component, default_from_dict, default_to_dict
    from haystack.dataclasses import Document
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from error

__all__ = ["VQIndexDocumentStore", "VQIndexEmbeddingRetriever"]


class VQIndexDocumentStore:
    """Documents in a vqindex.

    Parameters
    ----------
    folder : path, optional
        Folder of the store, new or existing. `save` writes changes to disk. None: in memory.
    bits, metric, codec, seed
        Parameters of a new index, see `vqindex.VQIndex`; metric is "cosine" by default.
    keep_embeddings : bool, default True
        Store embeddings as float32, so that documents come back with them. False saves this space.

    Notes
    -----
    `haystack.utils.filters.document_matches_filter` defines the filters. The ``score`` of a document is its cosine or
    inner product, or for metric l2 its negated squared distance; higher is better.

    Examples
    --------
    >>> from haystack import Document
    >>> from vqindex.integrations.haystack import VQIndexDocumentStore
    >>> store = VQIndexDocumentStore()
    >>> store.write_documents([Document(content="a cat", embedding=[1.0, 0.0]), Document(content="a dog")])
    2
    >>> store.embedding_retrieval([0.9, 0.1], top_k=1)[0].content
    'a cat'
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        bits: int = 4,
        metric: str = "cosine",
        codec: str = "turboquant-prod",
        seed: int = 0,
        keep_embeddings: bool = True,
    ) -> None:
        self._parameters: dict[str, Any] = {"folder": None if folder is None else os.fspath(folder), "bits": bits}
        self._parameters |= {"metric": metric, "codec": codec, "seed": seed, "keep_embeddings": keep_embeddings}
        self.store = DocStore(**self._parameters)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters of the store, without its documents."""
        result: dict[str, Any] = default_to_dict(self, **self._parameters)
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VQIndexDocumentStore:
        """Return a store from the result of `to_dict`."""
        store: VQIndexDocumentStore = default_from_dict(cls, data)
        return store

    def save(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Write all changes to the store's folder atomically, or a copy of the store to another folder."""
        self.store.save(folder)

    def close(self) -> None:
        """Close the store; changes that were not saved are lost."""
        self.store.close()

    # ---- documents

    def count_documents(self) -> int:
        """Return the number of documents."""
        return len(self.store)

    def filter_documents(self, filters: Filters | None = None) -> list[Document]:
        """Return the documents that match filters, all by default, in the order of their first writing."""
        return [to_document(record) for record in self._found(filters)]

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Add documents.

        Parameters
        ----------
        documents : list of Document
            Documents. Retrieval by embedding does not return those without an embedding.
        policy : DuplicatePolicy
            For an id in the store or repeated in the list: FAIL (also NONE), SKIP or OVERWRITE.

        Returns
        -------
        int
            Number of documents written.

        Raises
        ------
        ValueError
            If an entry is not a Document, or an embedding does not fit the index. Nothing is written then.
        DuplicateDocumentError
            With the policy FAIL; nothing is written then.
        """
        if isinstance(documents, str) or not isinstance(documents, Iterable):
            raise InvalidInputError(f"documents is a {type(documents).__name__}; expected a list of Document")
        documents = list(documents)
        for document in documents:
            if not isinstance(document, Document):
                raise InvalidInputError(f"documents holds a {type(document).__name__}; expected Document")
        written = documents
        if policy != DuplicatePolicy.OVERWRITE:
            known_ids = {record.id for record in self.store.get(document.id for document in documents)}
            written = []
            for document in documents:
                if document.id not in known_ids:
                    known_ids.add(document.id)
                    written.append(document)
                elif policy != DuplicatePolicy.SKIP:
                    raise DuplicateDocumentError(f"ID '{document.id}' already exists.")
        self.store.write([to_record(document) for document in written])
        return len(written)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id; unknown ids are ignored."""
        self.store.delete(document_ids)

    def delete_all_documents(self) -> None:
        """Delete all documents."""
        self.store.clear()

    def delete_by_filter(self, filters: Filters) -> int:
        """Delete the documents that match filters; return their number."""
        return self.store.delete(record.id for record in self._found(filters))

    def update_by_filter(self, filters: Filters, meta: dict[str, Any]) -> int:
        """Set metadata fields of the documents that match filters; return their number."""
        found = self._found(filters)
        self.store.update_metadata({record.id: {**record.metadata, **meta} for record in found})
        return len(found)

    def _found(self, filters: Filters | None) -> list[Record]:
        return self.store.records(*matcher(filters))

    # ---- metadata

    def count_documents_by_filter(self, filters: Filters) -> int:
        """Return the number of documents that match filters."""
        return len(self._found(filters))

    def count_unique_metadata_by_filter(self, filters: Filters, metadata_fields: list[str]) -> dict[str, int]:
        """Return the number of distinct values of each field among the documents that match filters."""
        found = self._found(filters)
        names = [field.removeprefix("meta.") for field in metadata_fields]
        return {name: len(_unique(found, name)) for name in names}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Return the type of each field, boolean, int, float or keyword, in the last document that has it."""
        types = {bool: "boolean", int: "int", float: "float"}
        return {
            name: {"type": types.get(type(value), "keyword")}
            for record in self.store.records()
            for name, value in record.metadata.items()
            if value is not None
        }

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Return the least and the greatest value of a field; None without values, or if they have no order."""
        name = metadata_field.removeprefix("meta.")
        values = [record.metadata.get(name) for record in self.store.records()]
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
        values = _unique(self._found(filters), metadata_field.removeprefix("meta."))
        matching = [value for value in values if not search_term or search_term.lower() in str(value).lower()]
        matching.sort(key=lambda value: (str(value), type(value).__name__))
        return matching[from_ : from_ + size], len(matching)

    # ---- search

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        filters: Filters | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
    ) -> list[Document]:
        """Return the documents nearest to an embedding, best first, with their scores.

        Parameters
        ----------
        query_embedding : list of float, shape (dim,)
            The query.
        filters : dict, optional
            The result has only documents that match them.
        top_k : int
            Most documents to return.
        scale_score : bool
            Scale scores to the range 0 to 1: (1 + cos) / 2, or 1 / (1 + distance). Not for metric ip.
        return_embedding : bool
            Return documents with their embeddings, if the store keeps them.

        Raises
        ------
        ValueError
            If the query does not fit the index, or scores can't be scaled.
        """
        if len(query_embedding) == 0:
            raise InvalidInputError("query_embedding is empty; expected a vector")
        hits = self.store.search(query_embedding, top_k, *matcher(filters))
        out = []
        for record, score in hits:
            document = to_document(record)
            embedding = document.embedding if return_embedding else None
            out.append(replace(document, score=self._score(score, scale_score), embedding=embedding))
        return out

    def _score(self, score: float, scale: bool) -> float:
        metric = self.store.metric
        if not scale:
            return -score if metric == "l2" else score
        if metric == "ip":
            raise InvalidInputError("scale_score is True; expected False for metric ip, whose scores have no bounds")
        return (1 + score) / 2 if metric == "cosine" else 1 / (1 + max(score, 0.0))

    # ---- asynchronous methods: the same in a thread

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

    async def embedding_retrieval_async(
        self,
        query_embedding: list[float],
        filters: Filters | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
    ) -> list[Document]:
        """Do as `embedding_retrieval`."""
        return await asyncio.to_thread(
            self.embedding_retrieval, query_embedding, filters, top_k, scale_score, return_embedding
        )


@component
class VQIndexEmbeddingRetriever:
    """Retrieves the documents of a `VQIndexDocumentStore` that are nearest to an embedding.

    Parameters
    ----------
    document_store : VQIndexDocumentStore
        The store.
    filters, top_k, scale_score, return_embedding
        As for `VQIndexDocumentStore.embedding_retrieval`; arguments of `run` override them.
    filter_policy : FilterPolicy
        Whether the filters of `run` replace these or are added to them.
    """

    def __init__(
        self,
        document_store: VQIndexDocumentStore,
        filters: Filters | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, VQIndexDocumentStore):
            raise InvalidInputError(
                f"document_store is a {type(document_store).__name__}; expected a VQIndexDocumentStore"
            )
        if top_k < 1:
            raise InvalidInputError(f"top_k is {top_k}; expected at least 1")
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.scale_score = scale_score
        self.return_embedding = return_embedding
        self.filter_policy = filter_policy

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters of the retriever."""
        result: dict[str, Any] = default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            scale_score=self.scale_score,
            return_embedding=self.return_embedding,
            filter_policy=self.filter_policy.value,
        )
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VQIndexEmbeddingRetriever:
        """Return a retriever from the result of `to_dict`."""
        parameters = dict(data["init_parameters"])
        parameters["document_store"] = VQIndexDocumentStore.from_dict(parameters["document_store"])
        parameters["filter_policy"] = FilterPolicy.from_str(parameters["filter_policy"])
        return cls(**parameters)

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(
        self, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Return ``{"documents": ...}``, best first."""
        return {"documents": self.document_store.embedding_retrieval(*self._arguments(query_embedding, filters, top_k))}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Do as `run`."""
        arguments = self._arguments(query_embedding, filters, top_k)
        return {"documents": await self.document_store.embedding_retrieval_async(*arguments)}

    def _arguments(self, query_embedding: list[float], filters: Filters | None, top_k: int | None) -> tuple[Any, ...]:
        combined = apply_filter_policy(self.filter_policy, self.filters, filters)
        count = self.top_k if top_k is None else top_k
        return query_embedding, combined, count, self.scale_score, self.return_embedding


def _unique(records: list[Record], name: str) -> list[Any]:
    """Return the distinct values of a field; 1, 1.0 and True are distinct."""
    found = {repr(value): value for record in records if (value := record.metadata.get(name)) is not None}
    return list(found.values())
