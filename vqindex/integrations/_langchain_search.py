"""The reading methods of the LangChain vector store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..documents import Document as StoredDocument
from ..documents import Documents, Hit
from ..documents.filters import Custom, Filter, parse
from ..errors import InvalidInputError
from ._adapters import as_ids, search_options
from ._extras import missing

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ImportError as error:
    raise missing("langchain-core", "langchain", error) from error

__all__ = ["SearchMethods"]

LangChainFilter = Mapping[str, Any] | Callable[[Document], bool] | Filter


class SearchMethods(VectorStore):  # type: ignore[misc]
    """Get and search documents; `VQIndexVectorStore` sets the attributes."""

    store: Documents
    _embedding: Embeddings
    _namespace: str | None

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in that order; unknown ids are skipped."""
        return [_document(each) for each in self.store.get(as_ids(ids), namespace=self._namespace)]

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, filter: LangChainFilter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the best documents for a vector with their scores; `vqindex.VQIndex` explains scores."""
        return [(_document(hit), hit.score) for hit in self._search(embedding, None, k, filter, kwargs)]

    def similarity_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, filter: LangChainFilter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the best documents for a vector."""
        return [_document(hit) for hit in self._search(embedding, None, k, filter, kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: LangChainFilter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the best documents for a text with their scores."""
        vector = self._embedding.embed_query(query) if _needs_vector(kwargs) else None
        return [(_document(hit), hit.score) for hit in self._search(vector, query, k, filter, kwargs)]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: LangChainFilter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Do as `similarity_search_with_score`, with the model's asynchronous method."""
        vector = await self._embedding.aembed_query(query) if _needs_vector(kwargs) else None
        hits = await asyncio.to_thread(self._search, vector, query, k, filter, kwargs)
        return [(_document(hit), hit.score) for hit in hits]

    def similarity_search(
        self, query: str, k: int = 4, filter: LangChainFilter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the best documents for a text."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: LangChainFilter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Do as `similarity_search`, with the model's asynchronous method."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, filter, **kwargs)]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: LangChainFilter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return documents near a vector and unlike each other, compared by their kept or reconstructed vectors."""
        hits = self._search(embedding, None, fetch_k, filter, kwargs, vectors=True)
        if not hits:
            return []
        vectors = [hit.vector for hit in hits]
        selected = maximal_marginal_relevance(np.asarray(embedding, np.float32), vectors, lambda_mult, k)
        return [_document(hits[i]) for i in selected]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: LangChainFilter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return documents that are near a text and unlike each other."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter, **kwargs)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: LangChainFilter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Do as `max_marginal_relevance_search`, with the model's asynchronous method."""
        vector = await self._embedding.aembed_query(query)
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector, vector, k, fetch_k, lambda_mult, filter, **kwargs
        )

    def _search(
        self,
        vector: Sequence[float] | None,
        text: str | None,
        k: int,
        filter: LangChainFilter | None,
        kwargs: dict[str, Any],
        vectors: bool = False,
    ) -> list[Hit]:
        options = search_options("search", kwargs)
        if options.setdefault("mode", "vector") == "vector":
            text = None
        options |= {"where": _where(filter), "namespace": self._namespace, "vectors": vectors}
        return self.store.search(vector, k, text=text, **options)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        _check_relevance(kwargs)
        found: list[tuple[Document, float]] = super()._similarity_search_with_relevance_scores(query, k, **kwargs)
        return found

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        _check_relevance(kwargs)
        found: list[tuple[Document, float]] = await super()._asimilarity_search_with_relevance_scores(
            query, k, **kwargs
        )
        return found

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return the function that maps the scores of vectors to relevance, from 0 to 1."""
        if self.store.metric == "l2":
            return lambda distance: 1 / (1 + max(distance, 0.0))
        return lambda score: min(max(score, 0.0), 1.0)


def _document(stored: StoredDocument) -> Document:
    return Document(id=stored.id, page_content=stored.text or "", metadata=stored.metadata)


class _DocumentTest:
    """A function of a stored document: what a function says of the Document of LangChain. Its equality is theirs."""

    def __init__(self, function: Callable[[Document], object]) -> None:
        self._function = function

    def __call__(self, stored: StoredDocument) -> bool:
        return bool(self._function(_document(stored)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _DocumentTest) and self._function == other._function

    def __hash__(self) -> int:
        return hash(self._function)


def _where(filter: LangChainFilter | None) -> Filter | None:
    """Return a filter of LangChain's users as a filter of documents."""
    if callable(filter) and not isinstance(filter, Filter):
        return Custom(_DocumentTest(filter))
    return parse(filter)


def _needs_vector(kwargs: Mapping[str, Any]) -> bool:
    return bool(kwargs.get("mode", "vector") != "text")


def _check_relevance(kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("mode", "vector") != "vector":
        raise InvalidInputError(
            f"mode is {kwargs['mode']!r}; expected 'vector' for relevance scores, others have no fixed range"
        )
