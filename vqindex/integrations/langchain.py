"""A LangChain vector store over `vqindex.documents`."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InvalidInputError
from ._adapters import as_ids, no_more, open_documents, save
from ._extras import missing

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise missing("langchain-core", "langchain", error) from error

from ._langchain_search import SearchMethods

__all__ = ["VQIndexVectorStore"]


class VQIndexVectorStore(SearchMethods):
    """Documents in a vqindex.

    Parameters
    ----------
    embedding : Embeddings
        Embedding model for texts.
    folder : path, optional
        Folder of the store, new or existing. None: in memory.
    namespace : str, optional
        The part of the store that this object reads and writes.
    mode : one of {"a", "r"}, default "a"
        "r" only reads, and needs an existing store.
    bits, metric, codec, sketch, rotation, seed, keep_vectors, center, graph
        Parameters of a new index, see `vqindex.VQIndex`; metric is "cosine" by default. Those of an existing index must
        be equal.
    autocommit : bool, default True
        Every change is on disk when its method returns. With False, and in a ``with`` block, `save` writes the changes
        to disk; so does the end of the block, unless it ends with an error, which undoes them.
    timeout : float, default 10.0
        Seconds to wait for another process that is writing.
    device, mmap
        As for `vqindex.open`.

    Notes
    -----
    ``filter`` of the search methods is a function of a Document, or a dict as for `vqindex.documents.Documents.search`:
    ``{"year": 2024}``, ``{"year": {"$gte": 2020}}``, with the operators $eq $ne $gt $gte $lt $lte $in $nin $exists
    $between $contains $like $ilike, and $and, $or, $not around dicts. None equals a stored None only; $exists finds
    missing fields.

    The search methods take the options of `vqindex.documents.Documents.search` as well: ``mode="hybrid"`` (or "text")
    with ``weights``, ``rerank``, ``confidence`` and others. A retriever passes them on:
    ``store.as_retriever(search_kwargs={"k": 5, "mode": "hybrid"})``.

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
        autocommit: bool = True,
        timeout: float = 10.0,
        device: str | None = None,
        mmap: bool | None = None,
    ) -> None:
        for method in ("embed_documents", "embed_query"):
            if not callable(getattr(embedding, method, None)):
                kind = type(embedding).__name__
                raise InvalidInputError(f"embedding is a {kind} without {method}(); expected a model of LangChain")
        self._embedding = embedding
        self._namespace = namespace
        parameters = {
            "bits": bits, "metric": metric, "codec": codec, "sketch": sketch, "rotation": rotation, "seed": seed,
            "keep_vectors": keep_vectors, "center": center, "graph": graph, "mode": mode, "autocommit": autocommit,
            "timeout": timeout, "device": device, "mmap": mmap,
        }  # fmt: skip
        self.store = open_documents(folder, "langchain", parameters)

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model."""
        return self._embedding

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

    def __enter__(self) -> VQIndexVectorStore:
        self.store.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.store.__exit__(*error)

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
        texts = _checked(texts, metadatas, ids, kwargs)
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
        texts = _checked(texts, metadatas, ids, kwargs)
        vectors = await self._embedding.aembed_documents(texts)
        return await asyncio.to_thread(self._write, texts, vectors, metadatas, ids)

    def _write(
        self,
        texts: list[str],
        vectors: list[list[float]],
        metadatas: list[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[str]:
        if len(vectors) != len(texts):
            raise InvalidInputError(f"{len(vectors)} vectors were given for {len(texts)} texts")
        all_ids = [id_ or str(uuid.uuid4()) for id_ in ids or [None] * len(texts)]
        return self.store.upsert(texts, vectors, metadata=metadatas, ids=all_ids, namespace=self._namespace)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id; without ids all documents (of the namespace), as LangChain defines it.

        Parameters
        ----------
        ids : list of str, optional
            Ids; unknown ones are ignored. An empty list deletes nothing.

        Returns
        -------
        bool
            True.
        """
        no_more("delete", kwargs)
        if ids is not None:
            self.store.delete(as_ids(ids), namespace=self._namespace)
        else:
            self.store.drop_namespace(self._namespace or "")
        return True

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
        """Add texts to the store in a folder, which is made if it is not there; return the store.

        Parameters
        ----------
        texts, metadatas, ids
            As for `add_texts`. They are embedded before a folder is made.
        embedding : Embeddings
            Embedding model for texts.
        **kwargs
            The other arguments of the constructor, such as ``folder=``.

        Returns
        -------
        VQIndexVectorStore
        """
        texts = _checked(texts, metadatas, ids, {})
        return cls._made(embedding, texts, embedding.embed_documents(texts), metadatas, ids, kwargs)

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
        texts = _checked(texts, metadatas, ids, {})
        vectors = await embedding.aembed_documents(texts)
        return await asyncio.to_thread(cls._made, embedding, texts, vectors, metadatas, ids, kwargs)

    @classmethod
    def _made(
        cls,
        embedding: Embeddings,
        texts: list[str],
        vectors: list[list[float]],
        metadatas: list[dict[str, Any]] | None,
        ids: list[str] | None,
        kwargs: dict[str, Any],
    ) -> VQIndexVectorStore:
        store = cls(embedding, **kwargs)
        try:
            store._write(texts, vectors, metadatas, ids)
        except BaseException:
            store.close()
            raise
        return store


def _checked(texts: Iterable[str], metadatas: Any, ids: Any, kwargs: Mapping[str, Any]) -> list[str]:
    """Return texts as a list, if the other arguments of `add_texts` fit them."""
    # LangChain's indexing API passes the size of its batches to every store.
    no_more("add_texts", {name: value for name, value in kwargs.items() if name != "batch_size"})
    found = as_ids(texts, "texts")
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if values is None:
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise InvalidInputError(f"{name} is {values!r}; expected a list")
        if len(values) != len(found):
            raise InvalidInputError(f"{len(values)} {name} were given for {len(found)} texts")
    for each in metadatas or ():
        if each is not None and not isinstance(each, Mapping):
            raise InvalidInputError(f"metadatas has {each!r}; expected dicts")
    return found
