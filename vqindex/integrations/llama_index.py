"""A LlamaIndex vector store: nodes in SQLite, their vectors in a vqindex (`docstore.py`)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ._extras import missing
from .docstore import DocStore
from .records import Narrow, Record

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
    from llama_index.core.schema import BaseNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import (
        build_metadata_filter_fn,
        metadata_dict_to_node,
        node_to_metadata_dict,
    )
except ImportError as error:
    raise missing("llama-index-core", "llama-index", error) from error

__all__ = ["VQIndexVectorStore"]

_MMR_PREFETCH = 4  # candidates of MMR per requested node, as in LlamaIndex's own stores


class VQIndexVectorStore(BasePydanticVectorStore):  # type: ignore[misc]
    """Nodes in a vqindex.

    Parameters
    ----------
    folder : path, optional
        Folder of the store, new or existing. `persist` writes changes to disk. None: in memory.
    bits, metric, codec, seed
        Parameters of a new index, see `vqindex.VQIndex`; metric is "cosine" by default.

    Notes
    -----
    Similarities are the index's scores, or ``1 / (1 + distance)`` for metric l2; higher is better.
    `llama_index.core.vector_stores.utils.build_metadata_filter_fn` defines metadata filters; they may be nested.

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
    bits: int = 4
    metric: str = "cosine"
    codec: str = "turboquant-prod"
    seed: int = 0
    _store: DocStore = PrivateAttr()

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        bits: int = 4,
        metric: str = "cosine",
        codec: str = "turboquant-prod",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        path = None if folder is None else os.fspath(folder)
        super().__init__(folder=path, bits=bits, metric=metric, codec=codec, seed=seed, **kwargs)
        self._store = DocStore(path, bits=bits, metric=metric, codec=codec, seed=seed)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex serializes the store."""
        return "VQIndexVectorStore"

    @property
    def client(self) -> DocStore:
        """The DocStore of this store."""
        return self._store

    # ---- change

    def add(self, nodes: list[BaseNode], **add_kwargs: Any) -> list[str]:
        """Add nodes that have embeddings, replacing those with the same ids.

        Parameters
        ----------
        nodes : list of BaseNode
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
        self._store.write([_record(node) for node in nodes])
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: list[BaseNode], **kwargs: Any) -> list[str]:
        """Do as `add`."""
        return await asyncio.to_thread(self.add, nodes)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document."""
        narrow = [Narrow("more", ("ref_doc_id",), (ref_doc_id,))]
        found = self._store.records(lambda record: record.more["ref_doc_id"] == ref_doc_id, narrow)
        self._store.delete(record.id for record in found)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do as `delete`."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that have one of these ids and match the filters; with neither, nothing."""
        if node_ids is not None or filters is not None:
            self._store.delete(record.id for record in self._found(node_ids, None, filters))

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Do as `delete_nodes`."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def clear(self) -> None:
        """Delete all nodes."""
        self._store.clear()

    async def aclear(self) -> None:
        """Do as `clear`."""
        await asyncio.to_thread(self.clear)

    # ---- read

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes that have one of these ids and match the filters, without their embeddings."""
        return [_node(record) for record in self._found(node_ids, None, filters)]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do as `get_nodes`."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the nodes nearest to an embedding.

        Parameters
        ----------
        query : VectorStoreQuery
            Query with a query_embedding; filters, node_ids, doc_ids; mode DEFAULT, or MMR with mmr_threshold.

        Returns
        -------
        VectorStoreQueryResult
            Nodes, similarities and ids, best first.

        Raises
        ------
        ValueError
            If the query has no embedding, or another mode.
        """
        if query.query_embedding is None:
            raise InvalidInputError("query_embedding is None; expected a vector, this store does not search texts")
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise InvalidInputError(f"mode is {query.mode.value!r}; expected 'default' or 'mmr'")
        mmr = query.mode == VectorStoreQueryMode.MMR
        k = query.similarity_top_k * (int(kwargs.get("mmr_prefetch_factor", _MMR_PREFETCH)) if mmr else 1)
        # A VectorStoreIndex over a store with texts passes empty lists, which mean no restriction.
        node_ids, doc_ids = query.node_ids or None, query.doc_ids or None
        is_restricted = node_ids is not None or doc_ids is not None or query.filters is not None
        matches = _matcher(node_ids, doc_ids, query.filters) if is_restricted else None
        hits = self._store.search(query.query_embedding, k, matches, _narrow(doc_ids, query.filters))
        if mmr:
            hits = self._diverse(query, hits)
        return VectorStoreQueryResult(
            nodes=[_node(record) for record, _ in hits],
            similarities=[self._similarity(score) for _, score in hits],
            ids=[record.id for record, _ in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do as `query`."""
        return await asyncio.to_thread(lambda: self.query(query, **kwargs))

    def _diverse(self, query: VectorStoreQuery, hits: list[tuple[Record, float]]) -> list[tuple[Record, float]]:
        """Return hits selected by maximal marginal relevance of their reconstructed vectors."""
        by_id = {record.id: (record, score) for record, score in hits}
        vectors = self._store.vectors([record for record, _ in hits]).tolist()
        _, selected = get_top_k_mmr_embeddings(
            query.query_embedding,
            vectors,
            similarity_top_k=query.similarity_top_k,
            embedding_ids=list(by_id),
            mmr_threshold=query.mmr_threshold,
        )
        return [by_id[id_] for id_ in selected]

    def _similarity(self, score: float) -> float:
        return 1 / (1 + max(score, 0.0)) if self._store.metric == "l2" else score

    def _found(
        self, node_ids: list[str] | None, doc_ids: list[str] | None, filters: MetadataFilters | None
    ) -> list[Record]:
        return self._store.records(_matcher(node_ids, doc_ids, filters), _narrow(doc_ids, filters))

    # ---- files

    def persist(self, persist_path: str | None = None, fs: Any = None) -> None:
        """Write all changes to the store's folder atomically, or a copy of the store to another folder.

        Parameters
        ----------
        persist_path : str, optional
            A folder. A StorageContext passes a path that ends in .json; the suffix is removed.
        fs : a file system of fsspec, optional
            Only local file systems are supported.

        Raises
        ------
        InvalidInputError
            If the store is in memory and no folder is given, or `fs` is not local.
        """
        if fs is not None and "file" not in np.atleast_1d(fs.protocol):
            raise InvalidInputError(f"fs is {fs!r}; expected the local file system")
        self._store.save(None if persist_path is None else _folder(persist_path))

    @classmethod
    def from_persist_path(cls, persist_path: str, **kwargs: Any) -> VQIndexVectorStore:
        """Open a store that `persist` wrote; the other arguments are the constructor's."""
        if not _folder(persist_path).is_dir():
            raise FileNotFoundError(f"{_folder(persist_path)}: no such folder; expected a store that was persisted")
        return cls(_folder(persist_path), **kwargs)

    def close(self) -> None:
        """Close the store; changes that were not persisted are lost."""
        self._store.close()


def _folder(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_suffix("") if str(path).endswith(".json") else Path(path)


def _record(node: BaseNode) -> Record:
    if node.embedding is None:
        raise InvalidInputError(f"node {node.node_id!r} has no embedding; expected one")
    whole = node_to_metadata_dict(node)
    more = {name: whole[name] for name in ("_node_content", "_node_type")}
    metadata = {name: value for name, value in node.metadata.items()}
    vector = np.asarray(node.embedding, np.float32)
    return Record(node.node_id, None, metadata, {**more, "ref_doc_id": node.ref_doc_id}, vector)


def _node(record: Record) -> BaseNode:
    return metadata_dict_to_node(record.more)


def _matcher(node_ids: list[str] | None, doc_ids: list[str] | None, filters: MetadataFilters | None) -> Any:
    """Return a predicate: whether a record matches all three conditions; None matches everything."""
    ids = None if node_ids is None else set(node_ids)
    sources = None if doc_ids is None else set(doc_ids)

    def matches(record: Record) -> bool:
        if ids is not None and record.id not in ids:
            return False
        if sources is not None and record.more["ref_doc_id"] not in sources:
            return False
        return filters is None or _satisfies(record.metadata, filters)

    return matches


def _satisfies(metadata: dict[str, Any], filters: MetadataFilters) -> bool:
    """Whether metadata match filters. LlamaIndex's function checks each one; it refuses nested filters itself."""
    results = []
    for each in filters.filters:
        if isinstance(each, MetadataFilters):
            results.append(_satisfies(metadata, each))
        else:
            results.append(build_metadata_filter_fn(lambda _: metadata, MetadataFilters(filters=[each]))(""))
    if filters.condition == FilterCondition.OR:
        return any(results)
    if filters.condition == FilterCondition.NOT:
        return not any(results)
    return all(results)


def _narrow(doc_ids: list[str] | None, filters: MetadataFilters | None) -> list[Narrow]:
    """Return the conditions that SQLite may check first: source documents, and fields with one of some values."""
    out = [] if doc_ids is None else [Narrow("more", ("ref_doc_id",), tuple(doc_ids))]
    if filters is None or filters.condition not in (None, FilterCondition.AND):
        return out
    for each in filters.filters:
        if isinstance(each, MetadataFilters):
            out += _narrow(None, each)
        elif isinstance(each, MetadataFilter) and each.operator == FilterOperator.EQ:
            out.append(Narrow("metadata", (each.key,), (each.value,)))
        elif isinstance(each, MetadataFilter) and each.operator == FilterOperator.IN and isinstance(each.value, list):
            out.append(Narrow("metadata", (each.key,), tuple(each.value)))
    return out
