"""The methods of the Haystack store that write, delete and find documents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..documents import Hit
from ..errors import InvalidInputError
from ._adapters import as_ids, search_options
from ._extras import missing
from ._haystack_documents import other_values, to_document
from ._haystack_filters import Filters, to_filter
from ._haystack_metadata import MetadataMethods
from ._python_values import EVERYTHING

try:
    from haystack.dataclasses import Document
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy
except ImportError as error:
    raise missing("haystack-ai", "haystack", error) from error

__all__ = ["StoreMethods"]

_BM25_SCALE = 8  # Haystack's own store divides scores of words by it before it scales them


class StoreMethods(MetadataMethods):
    """Write, delete and find documents."""

    def count_documents(self) -> int:
        """Return the number of documents."""
        return self.store.count(namespace=self._namespace)

    def filter_documents(self, filters: Filters | None = None) -> list[Document]:
        """Return the documents that match filters, all by default, in the order of their first writing."""
        where, vectors = to_filter(filters), self._keeps_embeddings()
        found = self.store.list(where=where, namespace=self._namespace, vectors=vectors)
        return [to_document(each) for each in found]

    def _keeps_embeddings(self) -> bool:
        index = self.store.index
        return index is not None and index.keep_vectors is not None

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
        if policy == DuplicatePolicy.OVERWRITE:
            self._write({document.id: document for document in documents}.values(), overwrite=True)
            return len(documents)
        while True:
            written = self._new(documents, policy)
            try:
                self._write(written, overwrite=False)
                return len(written)
            except InvalidInputError:
                # Another thread or process may have added one of them since; otherwise the documents are at fault.
                if len(self._new(documents, DuplicatePolicy.SKIP)) == len(written):
                    raise

    def _new(self, documents: list[Document], policy: DuplicatePolicy) -> list[Document]:
        """Return the documents that are not in the store, each once; raise for others unless the policy is SKIP."""
        ids = [document.id for document in documents]
        known_ids = {each.id for each in self.store.get(ids, namespace=self._namespace)}
        new = []
        for document in documents:
            if document.id not in known_ids:
                known_ids.add(document.id)
                new.append(document)
            elif policy != DuplicatePolicy.SKIP:
                raise DuplicateDocumentError(f"ID '{document.id}' already exists.")
        return new

    def _write(self, documents: Iterable[Document], overwrite: bool) -> None:
        documents = list(documents)
        write = self.store.upsert if overwrite else self.store.add
        if documents:
            write(
                [document.content for document in documents],
                [document.embedding for document in documents],
                metadata=[document.meta for document in documents],
                more=[other_values(document) for document in documents],
                ids=[document.id for document in documents],
                namespace=self._namespace,
            )

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id; unknown ids are ignored."""
        self.store.delete(as_ids(document_ids, "document_ids"), namespace=self._namespace)

    def delete_all_documents(self) -> None:
        """Delete all documents (of the namespace)."""
        self.store.drop_namespace(self._namespace or "")

    def delete_by_filter(self, filters: Filters) -> int:
        """Delete the documents that match filters; return their number. Empty filters match all documents."""
        return self.store.delete(where=to_filter(filters) or EVERYTHING, namespace=self._namespace)

    def update_by_filter(self, filters: Filters, meta: dict[str, Any]) -> int:
        """Set metadata fields of the documents that match filters; return their number."""
        return self.store.set_metadata(meta, where=to_filter(filters) or EVERYTHING, namespace=self._namespace)

    # ---- search

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        filters: Filters | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
        **options: Any,
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
        **options
            Options of `vqindex.documents.Documents.search`, such as ``rerank=`` and ``confidence=``.

        Returns
        -------
        list of Document

        Raises
        ------
        ValueError
            If the query does not fit the index, or scores can't be scaled.
        """
        if len(query_embedding) == 0:
            raise InvalidInputError("query_embedding is empty; expected a vector")
        hits = self._found("vector", query_embedding, None, filters, top_k, return_embedding, options)
        return self._scored(hits, [self._score(hit.score, scale_score) for hit in hits])

    def bm25_retrieval(
        self, query: str, filters: Filters | None = None, top_k: int = 10, scale_score: bool = False
    ) -> list[Document]:
        """Return the documents whose content fits the words of a text best, by BM25.

        Parameters
        ----------
        query : str
            Words.
        filters, top_k
            As for `embedding_retrieval`.
        scale_score : bool
            Scale scores to the range 0 to 1, as Haystack's InMemoryDocumentStore does.

        Returns
        -------
        list of Document
            Best first, with their scores.
        """
        _check_text(query)
        hits = self._found("text", None, query, filters, top_k, False, {})
        scores = [1 / (1 + math.exp(-hit.score / _BM25_SCALE)) if scale_score else hit.score for hit in hits]
        return self._scored(hits, scores)

    def hybrid_retrieval(
        self,
        query: str,
        query_embedding: list[float],
        filters: Filters | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
        **options: Any,
    ) -> list[Document]:
        """Return the best documents by both an embedding and words, joined by reciprocal-rank fusion.

        Parameters
        ----------
        query : str
            Words.
        query_embedding, filters, top_k, return_embedding
            As for `embedding_retrieval`.
        **options
            Options of `vqindex.documents.Documents.search`, such as ``weights=`` (of the embedding, and of the words).

        Returns
        -------
        list of Document
            Best first, with scores of the fusion.
        """
        _check_text(query)
        hits = self._found("hybrid", query_embedding, query, filters, top_k, return_embedding, options)
        return self._scored(hits, [hit.score for hit in hits])

    def _found(
        self,
        mode: str,
        vector: list[float] | None,
        text: str | None,
        filters: Filters | None,
        top_k: int,
        return_embedding: bool,
        options: dict[str, Any],
    ) -> list[Hit]:
        if "mode" in options:
            raise TypeError("retrieval has no argument 'mode'")
        options = {**search_options("retrieval", options), "mode": mode, "where": to_filter(filters)}
        options |= {"namespace": self._namespace, "vectors": return_embedding and self._keeps_embeddings()}
        return self.store.search(vector, top_k, text=text, **options)

    @staticmethod
    def _scored(hits: Sequence[Hit], scores: list[float]) -> list[Document]:
        return [to_document(hit, score) for hit, score in zip(hits, scores, strict=True)]

    def _score(self, score: float, scale: bool) -> float:
        metric = self.store.metric
        if not scale:
            return -score if metric == "l2" else score
        if metric == "ip":
            raise InvalidInputError("scale_score is True; expected False for metric ip, whose scores have no bounds")
        return (1 + score) / 2 if metric == "cosine" else 1 / (1 + max(score, 0.0))


def _check_text(query: object) -> None:
    if not isinstance(query, str) or not query:
        raise InvalidInputError(f"query is {query!r}; expected a text")
