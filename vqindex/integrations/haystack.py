"""A Haystack document store over `vqindex.documents`, and its retrievers."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InvalidInputError
from ._adapters import open_documents, save
from ._extras import missing
from ._haystack_async import AsyncMethods
from ._haystack_filters import Filters

try:
    from haystack import component, default_from_dict, default_to_dict
    from haystack.dataclasses import Document
    from haystack.document_stores.types import FilterPolicy, apply_filter_policy
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from error

__all__ = ["VQIndexBM25Retriever", "VQIndexDocumentStore", "VQIndexEmbeddingRetriever", "VQIndexHybridRetriever"]


class VQIndexDocumentStore(AsyncMethods):
    """Documents in a vqindex.

    Parameters
    ----------
    folder : path, optional
        Folder of the store, new or existing. None: in memory.
    namespace : str, optional
        The part of the store that this object reads and writes.
    mode : one of {"a", "r"}, default "a"
        "r" only reads, and needs an existing store.
    bits, metric, codec, sketch, rotation, seed, keep_vectors, center, graph
        Parameters of a new index, see `vqindex.VQIndex`; metric is "cosine" by default. Those of an existing index must
        be equal.
    keep_embeddings : bool, optional
        Store embeddings as float32 (or as `keep_vectors` says), so that documents come back with them. A new store
        keeps them by default; False saves this space.
    autocommit : bool, default True
        Every change is on disk when its method returns. With False, and in a ``with`` block, `save` writes the changes
        to disk; so does the end of the block, unless it ends with an error, which undoes them.
    timeout : float, default 10.0
        Seconds to wait for another process that is writing.
    device, mmap
        As for `vqindex.open`.

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
        namespace: str | None = None,
        mode: str = "a",
        bits: int | None = None,
        metric: str | None = None,
        codec: str | None = None,
        sketch: str | None = None,
        rotation: str | None = None,
        seed: int | None = None,
        keep_vectors: str | None = None,
        center: Any = None,
        graph: int | None = None,
        keep_embeddings: bool | None = None,
        autocommit: bool = True,
        timeout: float = 10.0,
        device: str | None = None,
        mmap: bool | None = None,
    ) -> None:
        if keep_embeddings is False and keep_vectors is not None:
            raise InvalidInputError(f"keep_embeddings is False and keep_vectors {keep_vectors!r}; expected one of them")
        parameters = {
            "bits": bits, "metric": metric, "codec": codec, "sketch": sketch, "rotation": rotation, "seed": seed,
            "keep_vectors": keep_vectors, "center": center, "graph": graph, "mode": mode, "autocommit": autocommit,
            "timeout": timeout, "device": device, "mmap": mmap,
        }  # fmt: skip
        places = {"folder": None if folder is None else os.fspath(folder), "namespace": namespace}
        self._parameters: dict[str, Any] = {**places, **parameters, "keep_embeddings": keep_embeddings}
        self._namespace = namespace
        if keep_embeddings and keep_vectors is None:
            parameters["keep_vectors"] = "f32"
        defaults = {} if keep_embeddings is False else {"keep_vectors": "f32"}
        self.store = open_documents(folder, "haystack", parameters, **defaults)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters of the store, without its documents."""
        result: dict[str, Any] = default_to_dict(
            self, **{name: value for name, value in self._parameters.items() if value is not None}
        )
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VQIndexDocumentStore:
        """Return a store from the result of `to_dict`."""
        store: VQIndexDocumentStore = default_from_dict(cls, data)
        return store

    def save(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Write changes that are not on disk yet to the store's folder, or write a copy of the store to another folder.

        Parameters
        ----------
        folder : path, optional
            Folder of the copy.

        Raises
        ------
        InvalidInputError
            If the store is in memory and no folder is given.
        """
        save(self.store, folder)

    def close(self) -> None:
        """Close the store. Changes made with ``autocommit=False`` and not saved are lost, with a warning."""
        self.store.close()

    def __enter__(self) -> VQIndexDocumentStore:
        self.store.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.store.__exit__(*error)


class _Retriever:
    """What the retrievers share: their store, filters, number of results, and how they are serialized."""

    document_store: VQIndexDocumentStore
    filters: Filters | None
    top_k: int
    filter_policy: FilterPolicy

    def _set(self, store: VQIndexDocumentStore, filters: Filters | None, top_k: int, policy: FilterPolicy) -> None:
        if not isinstance(store, VQIndexDocumentStore):
            raise InvalidInputError(f"document_store is a {type(store).__name__}; expected a VQIndexDocumentStore")
        if top_k < 1:
            raise InvalidInputError(f"top_k is {top_k}; expected at least 1")
        self.document_store, self.filters, self.top_k, self.filter_policy = store, filters, top_k, policy

    def _to_dict(self, **parameters: Any) -> dict[str, Any]:
        result: dict[str, Any] = default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
            **parameters,
        )
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return a retriever from the result of `to_dict`."""
        parameters = dict(data["init_parameters"])
        parameters["document_store"] = VQIndexDocumentStore.from_dict(parameters["document_store"])
        if "filter_policy" in parameters:
            parameters["filter_policy"] = FilterPolicy.from_str(parameters["filter_policy"])
        return cls(**parameters)

    def _limits(self, filters: Filters | None, top_k: int | None) -> dict[str, Any]:
        combined = apply_filter_policy(self.filter_policy, self.filters, filters)
        return {"filters": combined, "top_k": self.top_k if top_k is None else top_k}


@component
class VQIndexEmbeddingRetriever(_Retriever):
    """Retrieves the documents of a `VQIndexDocumentStore` that are nearest to an embedding.

    Parameters
    ----------
    document_store : VQIndexDocumentStore
        The store.
    filters, top_k, scale_score, return_embedding
        As for `VQIndexDocumentStore.embedding_retrieval`; arguments of `run` override them.
    filter_policy : FilterPolicy
        Whether the filters of `run` replace these or are added to them.
    search_options : dict, optional
        Options of `vqindex.documents.Documents.search`, such as ``{"rerank": True}`` or ``{"confidence": 1}``.
    """

    def __init__(
        self,
        document_store: VQIndexDocumentStore,
        filters: Filters | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
        search_options: dict[str, Any] | None = None,
    ) -> None:
        self._set(document_store, filters, top_k, filter_policy)
        self.scale_score = scale_score
        self.return_embedding = return_embedding
        self.search_options = search_options

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters of the retriever."""
        return self._to_dict(
            scale_score=self.scale_score, return_embedding=self.return_embedding, search_options=self.search_options
        )

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(
        self, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Return ``{"documents": ...}``, best first."""
        arguments = self._arguments(query_embedding, filters, top_k)
        return {"documents": self.document_store.embedding_retrieval(**arguments)}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Do as `run`."""
        arguments = self._arguments(query_embedding, filters, top_k)
        return {"documents": await self.document_store.embedding_retrieval_async(**arguments)}

    def _arguments(self, query_embedding: list[float], filters: Filters | None, top_k: int | None) -> dict[str, Any]:
        shown = {"scale_score": self.scale_score, "return_embedding": self.return_embedding}
        options = self.search_options or {}
        return {"query_embedding": query_embedding, **self._limits(filters, top_k), **shown, **options}


@component
class VQIndexBM25Retriever(_Retriever):
    """Retrieves the documents of a `VQIndexDocumentStore` whose content fits the words of a text best.

    Parameters
    ----------
    document_store : VQIndexDocumentStore
        The store.
    filters, top_k, scale_score
        As for `VQIndexDocumentStore.bm25_retrieval`; arguments of `run` override them.
    filter_policy : FilterPolicy
        Whether the filters of `run` replace these or are added to them.
    """

    def __init__(
        self,
        document_store: VQIndexDocumentStore,
        filters: Filters | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        self._set(document_store, filters, top_k, filter_policy)
        self.scale_score = scale_score

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters of the retriever."""
        return self._to_dict(scale_score=self.scale_score)

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, query: str, filters: Filters | None = None, top_k: int | None = None) -> dict[str, list[Document]]:
        """Return ``{"documents": ...}``, best first."""
        limits = {**self._limits(filters, top_k), "scale_score": self.scale_score}
        return {"documents": self.document_store.bm25_retrieval(query, **limits)}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query: str, filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Do as `run`."""
        limits = {**self._limits(filters, top_k), "scale_score": self.scale_score}
        return {"documents": await self.document_store.bm25_retrieval_async(query, **limits)}


@component
class VQIndexHybridRetriever(_Retriever):
    """Retrieves the best documents of a `VQIndexDocumentStore` by both an embedding and the words of a text.

    Parameters
    ----------
    document_store : VQIndexDocumentStore
        The store.
    filters, top_k, return_embedding
        As for `VQIndexDocumentStore.hybrid_retrieval`; arguments of `run` override them.
    filter_policy : FilterPolicy
        Whether the filters of `run` replace these or are added to them.
    search_options : dict, optional
        Options of `vqindex.documents.Documents.search`, such as ``{"weights": [2, 1]}``.
    """

    def __init__(
        self,
        document_store: VQIndexDocumentStore,
        filters: Filters | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
        search_options: dict[str, Any] | None = None,
    ) -> None:
        self._set(document_store, filters, top_k, filter_policy)
        self.return_embedding = return_embedding
        self.search_options = search_options

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters of the retriever."""
        return self._to_dict(return_embedding=self.return_embedding, search_options=self.search_options)

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(
        self, query: str, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Return ``{"documents": ...}``, best first."""
        arguments = self._arguments(query, query_embedding, filters, top_k)
        return {"documents": self.document_store.hybrid_retrieval(**arguments)}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query: str, query_embedding: list[float], filters: Filters | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Do as `run`."""
        arguments = self._arguments(query, query_embedding, filters, top_k)
        return {"documents": await self.document_store.hybrid_retrieval_async(**arguments)}

    def _arguments(
        self, query: str, query_embedding: list[float], filters: Filters | None, top_k: int | None
    ) -> dict[str, Any]:
        given = {"query": query, "query_embedding": query_embedding, "return_embedding": self.return_embedding}
        return {**given, **self._limits(filters, top_k), **(self.search_options or {})}
