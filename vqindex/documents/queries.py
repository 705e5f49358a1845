"""Reading documents: by id, by filter, by search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_host
from ..errors import InvalidInputError
from . import table
from .batch import as_ids, as_rows
from .document import Document, Hit
from .encoding import encode_text
from .filters import And, parse
from .found import Found
from .searching import as_weights, by_vector, by_words, fused, hits_of
from .session import Session

__all__ = ["Queries", "as_namespace"]

# The class has a method `list`.
Hits = list[Hit]
HitLists = list[list[Hit]]
DocumentList = list[Document]
Rows = list[int]

_OPTIONS = frozenset({"rerank", "oversample", "threads", "return_stderr", "confidence", "effort", "recall", "exact"})
_DEPTH = 4  # of each ranking that a hybrid search joins, in multiples of k
_MIN_DEPTH = 50


class Queries:
    """The methods of `Documents` that read.

    Parameters
    ----------
    session : Session
        The session that they read in.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, ids: Iterable[str], *, namespace: str | None = None, vectors: bool = False) -> DocumentList:
        """Return documents by their ids, in that order; unknown ids are skipped.

        Parameters
        ----------
        ids : iterable of str
            Ids.
        namespace : str, optional
            The namespace.
        vectors : bool, default False
            Also return their vectors: those that are kept, or reconstructions.

        Returns
        -------
        list of Document
            The documents that were found.

        Raises
        ------
        InvalidInputError
            If the ids are no list of strings.
        """
        given, name = as_ids(ids), as_namespace(namespace)
        with self._session.reading() as database:
            number = table.namespace_number(database, name)
            known = {} if number is None else table.rows_of_ids(database, number, given)
            rows = [known[each] for each in map(encode_text, given) if each in known]
            return self._documents(rows, vectors)

    def _documents(self, rows: Rows, vectors: bool) -> DocumentList:
        found = table.select_rows(self._session.database, rows)
        documents = [table.document_of(found[row]) for row in rows]
        if vectors:
            self._attach(documents, rows, found)
        return documents

    def _attach(self, documents: Sequence[Document], rows: Rows, found: dict[int, tuple[Any, ...]]) -> None:
        """Give documents their vectors."""
        embedded = [at for at, row in enumerate(rows) if found[row][4]]
        matrix = self._session.vectors.kept(np.array([rows[at] for at in embedded], np.int64))
        for at, vector in zip(embedded, matrix, strict=True):
            documents[at].vector = vector

    def list(
        self,
        where: Any = None,
        limit: int | None = None,
        offset: int = 0,
        *,
        namespace: str | None = None,
        vectors: bool = False,
    ) -> DocumentList:
        """Return the documents that match a filter, in the order in which they were first written.

        Parameters
        ----------
        where : a mapping, a Filter or a callable, optional
            A filter, as for `search`; by default all documents.
        limit : int, optional
            Most documents to return.
        offset : int, default 0
            So many of the first ones are skipped.
        namespace : str, optional
            The namespace.
        vectors : bool, default False
            As for `get`.

        Returns
        -------
        list of Document
            The documents.

        Raises
        ------
        InvalidInputError
            If the filter can't be understood, or a number is negative.
        """
        limit, offset = None if limit is None else _as_count(limit, "limit"), _as_count(offset, "offset")
        condition, name = parse(where), as_namespace(namespace)
        with self._session.reading() as database:
            number = table.namespace_number(database, name)
            if number is None:
                return []
            if condition is None:
                statement = "SELECT row FROM docs WHERE namespace = ? ORDER BY row LIMIT ? OFFSET ?"
                most = -1 if limit is None else limit
                rows = [row for (row,) in database.execute(statement, (number, most, offset))]
            else:
                found = self._session.columns.find(database, number, condition).rows
                rows = found[offset : None if limit is None else offset + limit].tolist()
            return self._documents(rows, vectors)

    def count(self, where: Any = None, *, namespace: str | None = None) -> int:
        """Return how many documents match a filter.

        Parameters
        ----------
        where : a mapping, a Filter or a callable, optional
            A filter, as for `search`; by default all documents of the namespace.
        namespace : str, optional
            The namespace.

        Returns
        -------
        int
            Their number.

        Raises
        ------
        InvalidInputError
            If the filter can't be understood.
        """
        condition, name = parse(where), as_namespace(namespace)
        with self._session.reading() as database:
            number = table.namespace_number(database, name)
            if number is None:
                return 0
            if condition is None:
                return table.count_in(database, number)
            return self._session.columns.find(database, number, condition).count

    def __len__(self) -> int:
        """Return the number of documents of all namespaces."""
        with self._session.reading() as database:
            return int(database.execute("SELECT total(documents) FROM namespaces").fetchone()[0])

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and bool(self.get([id]))

    def vectors(self, ids: Iterable[str], *, namespace: str | None = None) -> NDArray[np.float32]:
        """Return the vectors of documents: those that are kept, or reconstructions.

        Parameters
        ----------
        ids : iterable of str
            Ids of documents that have vectors.
        namespace : str, optional
            The namespace.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            In the order of the ids.

        Raises
        ------
        InvalidInputError
            If an id is not there, or its document has no vector.
        """
        given = as_ids(ids)
        found = {each.id: each.vector for each in self.get(given, namespace=namespace, vectors=True)}
        for each in given:
            if found.get(each) is None:
                raise InvalidInputError(f"id {each!r} has no vector; expected ids of documents that have one")
        rows: Sequence[Any] = [found[each] for each in given]
        return np.stack(rows) if rows else np.empty((0, self._session.vectors.dim or 0), np.float32)

    # ---- search

    def search(
        self,
        vector: Any = None,
        k: int = 10,
        *,
        text: str | None = None,
        where: Any = None,
        mode: str | None = None,
        weights: Sequence[float] = (1.0, 1.0),
        namespace: str | None = None,
        vectors: bool = False,
        **options: Any,
    ) -> Hits:
        """Find the best documents for a vector, a text, or both.

        Parameters
        ----------
        vector : array-like of shape (dim,), optional
            The query.
        k : int, default 10
            Most documents to return.
        text : str, optional
            Words to look for in the texts.
        where : a mapping, a Filter or a callable, optional
            Only documents that match: ``{"year": {"$gt": 2020}, "lang": "en"}``. A callable is a function of a
            Document, which is called for every one.
        mode : one of {"vector", "text", "hybrid"}, optional
            "vector" ranks by the index's scores, "text" by BM25, and "hybrid" by the reciprocal ranks in both. By
            default what is given: "vector" for a vector, "text" for a text, "hybrid" for both.
        weights : pair of float, default (1, 1)
            Weights of the two rankings of a hybrid search, by vector and by text.
        namespace : str, optional
            The namespace to search; by default the one without a name. No search crosses namespaces.
        vectors : bool, default False
            Also return the vectors of the documents.
        **options
            Options of `VQIndex.search`: rerank, oversample, threads, return_stderr, confidence, effort, recall, exact.

        Returns
        -------
        list of Hit
            Best first.

        Raises
        ------
        InvalidInputError
            If the mode lacks its vector or text, or an option does not fit.
        """
        queries = None if vector is None else np.asarray(_one(vector))[None]
        return self._search(queries, [text], k, where, mode, weights, namespace, vectors, options)[0]

    def search_many(
        self,
        vectors: Any,
        k: int = 10,
        *,
        where: Any = None,
        namespace: str | None = None,
        **options: Any,
    ) -> HitLists:
        """Find the best documents for each of several vectors, which takes less time than one by one.

        Parameters
        ----------
        vectors : array-like of shape (nq, dim)
            Queries.
        k : int, default 10
            Most documents for each.
        where : a mapping, a Filter or a callable, optional
            As for `search`.
        namespace : str, optional
            As for `search`.
        **options
            As for `search`.

        Returns
        -------
        list of list of Hit
            A list for each query.

        Raises
        ------
        InvalidInputError
            As for `search`.
        """
        queries = as_rows(vectors)
        return self._search(queries, [None] * len(queries), k, where, "vector", (1, 1), namespace, False, options)

    def _search(
        self,
        queries: Any,
        texts: Sequence[str | None],
        k: int,
        where: Any,
        mode: str | None,
        weights: Sequence[float],
        namespace: str | None,
        vectors: bool,
        options: Mapping[str, Any],
    ) -> HitLists:
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise TypeError(f"search() got an unexpected keyword argument {unknown[0]!r}")
        mode = _as_mode(mode, queries, texts[0])
        k, both, name, condition = _as_count(k, "k"), as_weights(weights), as_namespace(namespace), parse(where)
        with self._session.reading() as database:
            number = table.namespace_number(database, name)
            if number is None or k == 0:
                return [[] for _ in texts]
            found = self._selected(number, condition)
            depth = k if mode != "hybrid" else max(_DEPTH * k, _MIN_DEPTH)
            lists: Sequence[Any] = [[] for _ in texts]
            if mode != "text":
                for at, ranked in enumerate(by_vector(self._session.vectors, queries, depth, found, options)):
                    lists[at].append(ranked)
            if mode != "vector":
                for at, text in enumerate(texts):
                    lists[at].append(by_words(database, text or "", depth, found))
            answers = []
            for each in lists:
                ranked = fused(each, both, k) if mode == "hybrid" else each[0]
                hits = hits_of(database, ranked)
                if vectors:
                    self._attach(hits, ranked.rows, table.select_rows(database, ranked.rows))
                answers.append(hits)
            return answers

    def _selected(self, number: int, condition: Any) -> Found | None:
        """Return the documents that a search may find; None for all of the store."""
        database = self._session.database
        if condition is None:
            others = "SELECT 1 FROM namespaces WHERE documents > 0 AND number != ? LIMIT 1"
            if database.execute(others, (number,)).fetchone() is None:
                return None
            condition = And(())
        return self._session.columns.find(database, number, condition)


def _one(vector: Any) -> Any:
    found = as_host(vector)
    if found.ndim != 1:
        raise InvalidInputError(f"vector has shape {found.shape}; expected one query of shape (dim,)")
    return found


def as_namespace(name: object) -> str:
    """Return the name of a namespace; None is the one without a name."""
    if name is None:
        return ""
    if not isinstance(name, str):
        raise InvalidInputError(f"namespace is {name!r}; expected a string")
    return name


def _as_count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise InvalidInputError(f"{name} is {value!r}; expected a whole number from 0 on")
    return int(value)


def _as_mode(mode: str | None, queries: Any, text: str | None) -> str:
    if mode is None:
        mode = "hybrid" if queries is not None and text is not None else "vector" if text is None else "text"
    if mode not in ("vector", "text", "hybrid"):
        raise InvalidInputError(f"mode is {mode!r}; expected 'vector', 'text' or 'hybrid'")
    if queries is None and mode != "text":
        raise InvalidInputError(f"vector is None; expected one for mode {mode!r}")
    if text is not None and not isinstance(text, str):
        raise InvalidInputError(f"text is {text!r}; expected a string")
    if text is None and mode != "vector":
        raise InvalidInputError(f"text is None; expected one for mode {mode!r}")
    return mode
