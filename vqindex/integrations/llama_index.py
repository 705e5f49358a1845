"""A LlamaIndex vector store over `vqindex.documents`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import Documents, Hit
from ..documents.filters import And, Filter, Ids
from ..errors import InvalidInputError
from ._adapters import as_ids, no_more, open_documents, save, search_options
from ._extras import missing
from ._llama_index_filters import from_source, to_filter
from ._llama_index_nodes import stored_parts, to_node

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
    from llama_index.core.schema import BaseNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
except ImportError as error:
    raise missing("llama-index-core", "llama-index", error) from error

__all__ = ["VQIndexVectorStore"]

_MMR_PREFETCH = 4  # candidates of MMR per requested node, as in LlamaIndex's own stores
_MODES = {
    VectorStoreQueryMode.DEFAULT: "vector",
    VectorStoreQueryMode.MMR: "vector",
    VectorStoreQueryMode.TEXT_SEARCH: "text",
    VectorStoreQueryMode.SPARSE: "text",
    VectorStoreQueryMode.HYBRID: "hybrid",
}
_PERSIST_DIR, _NAMESPACE = "./storage", "default"  # LlamaIndex's defaults


class VQIndexVectorStore(BasePydanticVectorStore):  # type: ignore[misc]
    """Nodes in a vqindex.

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
    autocommit : bool, default True
        Every change is on disk when its method returns. With False, and in a ``with`` block, `persist` writes the
        changes to disk; so does the end of the block, unless it ends with an error, which undoes them.
    timeout : float, default 10.0
        Seconds to wait for another process that is writing.
    device, mmap
        As for `vqindex.open`.

    Notes
    -----
    Similarities are the index's scores, or ``1 / (1 + distance)`` for metric l2; higher is better.
    `llama_index.core.vector_stores.utils.build_metadata_filter_fn` defines metadata filters; they may be nested. The
    keys ref_doc_id, doc_id and document_id all mean a node's source document.

    Examples
    --------
    >>> from llama_index.core.schema import TextNode
    >>> from llama_index.core.vector_stores.types import VectorStoreQuery
    >>> from vqindex.integrations.llama_index import VQIndexVectorStore
    >>> store = VQIndexVectorStore()
    >>> store.add([TextNode(id_="cat", text="a cat", embedding=[1.0, 0.0]), TextNode(id_="dog", embedding=[0.0, 1.0])])
    ['cat', 'dog']
    >>> store.query(VectorStoreQuery(query_embedding=[0.9, 0.1], similarity_top_k=1)).ids
    ['cat']
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    folder: str | None = None
    namespace: str | None = None
    mode: str = "a"
    bits: int | None = None
    metric: str | None = None
    codec: str | None = None
    sketch: str | None = None
    rotation: str | None = None
    seed: int | None = None
    keep_vectors: str | None = None
    center: Any = None
    graph: int | None = None
    autocommit: bool = True
    timeout: float = 10.0
    device: str | None = None
    mmap: bool | None = None
    _store: Documents = PrivateAttr()

    def __init__(self, folder: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        fields = {**kwargs, "folder": None if folder is None else os.fspath(folder)}
        no_more("VQIndexVectorStore", {name: each for name, each in fields.items() if name not in self._field_names()})
        super().__init__(**fields)
        places = ("stores_text", "is_embedding_query", "folder", "namespace")
        parameters = {name: getattr(self, name) for name in self._field_names() if name not in places}
        self._store = open_documents(self.folder, "llama_index", parameters)

    @classmethod
    def _field_names(cls) -> list[str]:
        return list(VQIndexVectorStore.model_fields)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serializes the store."""
        return "VQIndexVectorStore"

    @property
    def client(self) -> Documents:
        """The documents of this store."""
        return self._store

    def __reduce__(self) -> Any:
        fields = {name: getattr(self, name) for name in self._field_names()}
        return _unpickled, (type(self), fields, self._store)

    # ---- change

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes that have embeddings, replacing those with the same ids.

        Parameters
        ----------
        nodes : sequence of BaseNode
            Nodes; their metadata must have JSON types.

        Returns
        -------
        list of str
            Their ids.

        Raises
        ------
        ValueError
            If a node has no embedding, or one that does not fit the index. The store is then unchanged.
        """
        no_more("add", kwargs)
        parts = [stored_parts(node) for node in nodes]
        return self._store.upsert(
            [text for text, _, _ in parts],
            [node.embedding for node in nodes],
            metadata=[metadata for _, metadata, _ in parts],
            more=[more for _, _, more in parts],
            ids=[node.node_id for node in nodes],
            namespace=self.namespace,
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do as `add`."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str | None, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document; None is the source of no node, and deletes nothing."""
        no_more("delete", delete_kwargs)
        if ref_doc_id is not None:
            self._store.delete(where=from_source([ref_doc_id]), namespace=self.namespace)

    async def adelete(self, ref_doc_id: str | None, **delete_kwargs: Any) -> None:
        """Do as `delete`."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that have one of these ids and match the filters; with neither, nothing."""
        no_more("delete_nodes", delete_kwargs)
        if node_ids is not None or filters is not None:
            where = _where(node_ids, None, filters)
            if where is None:  # filters without conditions: all nodes match
                self.clear()
            else:
                self._store.delete(where=where, namespace=self.namespace)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Do as `delete_nodes`."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    def clear(self) -> None:
        """Delete all nodes (of the namespace)."""
        self._store.drop_namespace(self.namespace or "")

    async def aclear(self) -> None:
        """Do as `clear`."""
        await asyncio.to_thread(self.clear)

    # ---- read

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes that have one of these ids and match the filters, without their embeddings."""
        where = _where(node_ids, None, filters)
        return [to_node(each) for each in self._store.list(where=where, namespace=self.namespace)]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do as `get_nodes`."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the best nodes for an embedding, a text, or both.

        Parameters
        ----------
        query : VectorStoreQuery
            Query with filters, node_ids, doc_ids, and a mode: DEFAULT, or MMR with mmr_threshold, for query_embedding;
            TEXT_SEARCH or SPARSE for the words of query_str; HYBRID for both, with alpha (0: only words, 1: only the
            embedding, default 0.5) and hybrid_top_k. SPARSE and TEXT_SEARCH return sparse_top_k nodes if it is given.
        **kwargs
            ``mmr_prefetch_factor=``, and options of `vqindex.documents.Documents.search` such as ``rerank=`` and
            ``confidence=``. A retriever passes them on from ``vector_store_kwargs``.

        Returns
        -------
        VectorStoreQueryResult
            Nodes, similarities and ids, best first.

        Raises
        ------
        ValueError
            If the query lacks what its mode needs, or has another mode.
        """
        if query.mode not in _MODES:
            known = ", ".join(mode.value for mode in _MODES)
            raise InvalidInputError(f"mode is {query.mode.value!r}; expected one of {known}")
        prefetch = kwargs.pop("mmr_prefetch_factor", _MMR_PREFETCH)
        options = search_options("query", kwargs)
        k, mode = query.similarity_top_k, _MODES[query.mode]
        if query.mode == VectorStoreQueryMode.MMR:
            k *= int(prefetch)
        if mode != "vector":
            options |= {"text": _needed("query_str", query.query_str, query.mode)}
            # LlamaIndex's names of how many nodes to return in these modes.
            k = (query.hybrid_top_k if mode == "hybrid" else query.sparse_top_k) or k
        if mode == "hybrid" and query.alpha is not None:
            options["weights"] = (query.alpha, 1 - query.alpha)
        vector = None if mode == "text" else _needed("query_embedding", query.query_embedding, query.mode)
        # A VectorStoreIndex over a store with texts passes empty lists, which mean no restriction.
        where = _where(query.node_ids or None, query.doc_ids or None, query.filters)
        is_mmr = query.mode == VectorStoreQueryMode.MMR
        options |= {"where": where, "mode": mode, "namespace": self.namespace, "vectors": is_mmr}
        hits = self._store.search(vector, k, **options)
        if is_mmr:
            hits = self._diverse(query, hits)
        return VectorStoreQueryResult(
            nodes=[to_node(hit) for hit in hits],
            similarities=[self._similarity(hit.score, mode) for hit in hits],
            ids=[hit.id for hit in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do as `query`."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _diverse(self, query: VectorStoreQuery, hits: list[Hit]) -> list[Hit]:
        """Return hits selected by maximal marginal relevance of their kept or reconstructed vectors."""
        if not hits:
            return []
        by_id = {hit.id: hit for hit in hits}
        _, selected = get_top_k_mmr_embeddings(
            query.query_embedding,
            [hit.vector.tolist() for hit in hits if hit.vector is not None],
            similarity_top_k=query.similarity_top_k,
            embedding_ids=list(by_id),
            mmr_threshold=query.mmr_threshold,
        )
        return [by_id[id_] for id_ in selected]

    def _similarity(self, score: float, mode: str) -> float:
        return 1 / (1 + max(score, 0.0)) if mode == "vector" and self._store.metric == "l2" else score

    # ---- files

    def persist(self, persist_path: str | os.PathLike[str] | None = None, fs: Any = None) -> None:
        """Write changes that are not on disk yet to the store's folder, or write a copy of the store to another folder.

        Parameters
        ----------
        persist_path : path, optional
            Folder of the copy. A StorageContext passes a path that ends in .json; the suffix is removed.
        fs : a file system of fsspec, optional
            Only local file systems are supported.

        Raises
        ------
        InvalidInputError
            If the store is in memory and no folder is given, or `fs` is not local.
        """
        _check_local(fs)
        save(self._store, None if persist_path is None else _folder(persist_path))

    @classmethod
    def from_persist_path(
        cls, persist_path: str | os.PathLike[str], fs: Any = None, **kwargs: Any
    ) -> VQIndexVectorStore:
        """Open a store that `persist` wrote; the other arguments are the constructor's."""
        _check_local(fs)
        folder = _folder(persist_path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected a store that was persisted")
        return cls(folder, **kwargs)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | os.PathLike[str] = _PERSIST_DIR,
        namespace: str = _NAMESPACE,
        fs: Any = None,
        **kwargs: Any,
    ) -> VQIndexVectorStore:
        """Open the store that a StorageContext persisted in a folder, where `namespace` is its name in the context."""
        return cls.from_persist_path(Path(persist_dir) / f"{namespace}__vector_store.json", fs, **kwargs)

    def close(self) -> None:
        """Close the store. Changes made with ``autocommit=False`` and not persisted are lost, with a warning."""
        self._store.close()

    def __enter__(self) -> VQIndexVectorStore:
        self._store.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._store.__exit__(*error)


def _unpickled(cls: type[VQIndexVectorStore], fields: dict[str, Any], store: Documents) -> VQIndexVectorStore:
    new = cls.__new__(cls)
    BasePydanticVectorStore.__init__(new, **fields)
    new._store = store
    return new


def _folder(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_suffix("") if str(path).endswith(".json") else Path(path)


def _check_local(fs: Any) -> None:
    if fs is not None and "file" not in np.atleast_1d(fs.protocol):
        raise InvalidInputError(f"fs is {fs!r}; expected the local file system")


def _needed(name: str, value: Any, mode: VectorStoreQueryMode) -> Any:
    if value is None:
        raise InvalidInputError(f"{name} is None; the mode {mode.value!r} needs it")
    return value


def _where(node_ids: list[str] | None, doc_ids: list[str] | None, filters: MetadataFilters | None) -> Filter | None:
    """Return the condition that nodes meet all three restrictions, of which each may be None."""
    parts = [
        None if node_ids is None else Ids(tuple(as_ids(node_ids, "node_ids"))),
        None if doc_ids is None else from_source(as_ids(doc_ids, "doc_ids")),
        to_filter(filters),
    ]
    found = tuple(part for part in parts if part is not None)
    return And(found) if len(found) > 1 else found[0] if found else None
