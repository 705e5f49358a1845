"""A LangChain vector store: texts and metadata in SQLite, their vectors in a vqindex (`docstore.py`)."""

from __future__ import annotations

import asyncio
import operator
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ._extras import missing
from .docstore import DocStore
from .records import Narrow, Record

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ImportError as error:
    raise missing("langchain-core", "langchain", error) from error

__all__ = ["VQIndexVectorStore"]

Filter = Mapping[str, Any] | Callable[[Document], bool]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$in": lambda value, operand: value in operand,
    "$nin": lambda value, operand: value not in operand,
}


class VQIndexVectorStore(VectorStore):  # type: ignore[misc]
    """Documents in a vqindex.

    Parameters
    ----------
    embedding : Embeddings
        Embedding model for texts.
    folder : path, optional
        Folder of the store, new or existing. `save` writes changes to disk. None: in memory.
    bits, metric, codec, seed
        Parameters of a new index, see `vqindex.VQIndex`; metric is "cosine" by default.

    Notes
    -----
    ``filter`` of the search methods is a function of a Document, or a dict: ``{"year": 2024}``,
    ``{"year": {"$gte": 2020}}``, with the operators $eq $ne $gt $gte $lt $lte $in $nin, and $and, $or, $not around
    dicts. A comparison with a missing field, or a field of another type, is false; its negation is true.

    Examples
    --------
    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from vqindex.integrations.langchain import VQIndexVectorStore
    >>> store = VQIndexVectorStore(DeterministicFakeEmbedding(size=64))
    >>> _ = store.add_texts(["a cat", "a dog"], [{"legs": 4}, {"legs": 4}])
    >>> store.similarity_search("a cat", k=1, filter={"legs": 4})[0].page_content
    'a cat'
    """

    def __init__(
        self,
        embedding: Embeddings,
        folder: str | os.PathLike[str] | None = None,
        *,
        bits: int = 4,
        metric: str = "cosine",
        codec: str = "turboquant-prod",
        seed: int = 0,
    ) -> None:
        self._embedding = embedding
        self.store = DocStore(folder, bits=bits, metric=metric, codec=codec, seed=seed)

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model."""
        return self._embedding

    def save(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Write all changes to the store's folder atomically, or a copy of the store to another folder."""
        self.store.save(folder)

    def close(self) -> None:
        """Close the store; changes that were not saved are lost."""
        self.store.close()

    # ---- change

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed texts and add them, replacing texts with the same ids.

        Parameters
        ----------
        texts : iterable of str
            Texts.
        metadatas : list of dict, optional
            Metadata in JSON types, one dict for each text.
        ids : list of str or None, optional
            Ids; a random one for None.

        Returns
        -------
        list of str
            The ids.

        Raises
        ------
        InvalidInputError
            If the lists differ in length, or a vector does not fit the index. The store is then unchanged.
        """
        texts = list(texts)
        return self._write(texts, self._embedding.embed_documents(texts), metadatas, ids)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Do as `add_texts`, with the model's asynchronous method."""
        texts = list(texts)
        vectors = await self._embedding.aembed_documents(texts)
        return await asyncio.to_thread(self._write, texts, vectors, metadatas, ids)

    def _write(
        self,
        texts: list[str],
        vectors: list[list[float]],
        metadatas: list[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[str]:
        for name, values in (("metadatas", metadatas), ("ids", ids), ("vectors", vectors)):
            if values is not None and len(values) != len(texts):
                raise InvalidInputError(f"{len(values)} {name} were given for {len(texts)} texts")
        all_ids = [id_ or str(uuid.uuid4()) for id_ in ids or [None] * len(texts)]
        self.store.write(
            [
                Record(id_, text, dict(metadata or {}), embedding=np.asarray(vector, np.float32))
                for id_, text, metadata, vector in zip(
                    all_ids, texts, metadatas or [{}] * len(texts), vectors, strict=True
                )
            ]
        )
        return all_ids

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id, or all documents if `ids` is None; unknown ids are ignored."""
        if ids is None:
            self.store.clear()
        else:
            self.store.delete(ids)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Do as `delete`."""
        return await asyncio.to_thread(self.delete, ids)

    # ---- read

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in that order; unknown ids are skipped."""
        return [_document(record) for record in self.store.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Do as `get_by_ids`."""
        return await asyncio.to_thread(self.get_by_ids, ids)

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the best documents for a vector with their scores; `vqindex.VQIndex` explains scores."""
        return [(_document(record), score) for record, score in self._search(embedding, k, filter)]

    def similarity_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the best documents for a vector."""
        return [_document(record) for record, _ in self._search(embedding, k, filter)]

    async def asimilarity_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Do as `similarity_search_by_vector`."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, filter)

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the best documents for a text with their scores."""
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, filter)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Do as `similarity_search_with_score`, with the model's asynchronous method."""
        vector = await self._embedding.aembed_query(query)
        return await asyncio.to_thread(self.similarity_search_with_score_by_vector, vector, k, filter)

    def similarity_search(self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any) -> list[Document]:
        """Return the best documents for a text."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter)]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """Do as `similarity_search`, with the model's asynchronous method."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, filter)]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return documents near a vector and unlike each other, compared by their reconstructed vectors."""
        records = [record for record, _ in self._search(embedding, fetch_k, filter)]
        if not records:
            return []
        vectors = list(self.store.vectors(records))
        selected = maximal_marginal_relevance(np.asarray(embedding, np.float32), vectors, lambda_mult, k)
        return [_document(records[i]) for i in selected]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return documents that are near a text and unlike each other."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Do as `max_marginal_relevance_search`, with the model's asynchronous method."""
        vector = await self._embedding.aembed_query(query)
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector, vector, k, fetch_k, lambda_mult, filter
        )

    def _search(self, vector: Sequence[float], k: int, filter: Filter | None) -> list[tuple[Record, float]]:
        if filter is None:
            return self.store.search(vector, k)
        if callable(filter):
            return self.store.search(vector, k, lambda record: bool(filter(_document(record))))
        return self.store.search(vector, k, lambda record: _matches(filter, record.metadata), _narrow(filter))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return the function that maps the index's scores to relevance, from 0 to 1."""
        if self.store.metric == "l2":
            return lambda distance: 1 / (1 + max(distance, 0.0))
        return lambda score: min(max(score, 0.0), 1.0)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> VQIndexVectorStore:
        """Return a new store of texts; the other arguments are the constructor's."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> VQIndexVectorStore:
        """Do as `from_texts`, with the model's asynchronous method."""
        store = cls(embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store


def _document(record: Record) -> Document:
    return Document(id=record.id, page_content=record.text or "", metadata=record.metadata)


def _matches(filter: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether metadata match a filter that is a dict."""
    return all(_satisfies(name, condition, metadata) for name, condition in filter.items())


def _satisfies(name: str, condition: Any, metadata: Mapping[str, Any]) -> bool:
    if name == "$and":
        return all(_matches(each, metadata) for each in condition)
    if name == "$or":
        return any(_matches(each, metadata) for each in condition)
    if name == "$not":
        return not _matches(condition, metadata)
    if name.startswith("$"):
        raise InvalidInputError(f"filter has {name!r}; expected a field, or one of $and, $or, $not")
    comparisons = condition if _has_operators(condition) else {"$eq": condition}
    return all(_compare(symbol, metadata.get(name), operand) for symbol, operand in comparisons.items())


def _has_operators(condition: Any) -> bool:
    return isinstance(condition, Mapping) and any(str(symbol).startswith("$") for symbol in condition)


def _compare(symbol: str, value: Any, operand: Any) -> bool:
    if symbol not in _COMPARE:
        raise InvalidInputError(f"filter has {symbol!r}; expected one of {', '.join(_COMPARE)}")
    try:
        return bool(_COMPARE[symbol](value, operand))
    except TypeError:  # values of these types have no order
        return False


def _narrow(filter: Mapping[str, Any]) -> list[Narrow]:
    """Return the conditions that SQLite may check first: fields that must have one of some values."""
    out = []
    for name, condition in filter.items():
        if name.startswith("$"):
            continue
        values = [condition]
        if _has_operators(condition):
            values = list(condition["$in"]) if "$in" in condition else [condition.get("$eq")]
        out.append(Narrow("metadata", (name,), tuple(values)))
    return out
