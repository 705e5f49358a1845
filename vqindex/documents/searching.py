"""Searches of documents: by vector, by words, and by both with reciprocal rank fusion."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError, StoreError
from ..rows.filters import bitmap
from .document import Document, Hit
from .found import Found
from .meaning import words_of_text
from .table import document_of, has_words, rows_of_ids, select_rows
from .vectors import Vectors

__all__ = ["Lookups", "Ranked", "as_weights", "by_vector", "by_words", "fused", "hits_of"]

I64 = NDArray[np.int64]

RANK_CONSTANT = 60  # of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)
_FEW = 64  # of so many documents a filter may allow one: then its rows are given, and no bits


class Ranked(NamedTuple):
    """Rows of documents, best first, with their scores."""

    rows: list[int]
    scores: list[float]
    stderr: list[float] | None = None


class Lookups:
    """What filters ask of the database besides fields (``columns.py``)."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def rows_of_ids(self, namespace: int, ids: tuple[str, ...]) -> I64:
        """Return the rows of documents with these ids."""
        return np.array(list(rows_of_ids(self.database, namespace, ids).values()), np.int64)

    def rows_of_text(self, namespace: int, words: list[str]) -> I64:
        """Return the rows of documents whose text has all of these words."""
        found = _matches(self.database, " AND ".join(map(_phrase, words)), "rowid")
        return np.array([row for (row,) in found], np.int64)

    def documents(self, namespace: int, rows: I64) -> Iterable[Document]:
        """Return the documents of rows, in that order."""
        numbers = rows.tolist()
        found = select_rows(self.database, numbers)
        return [document_of(found[row]) for row in numbers]


def _phrase(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'


def _matches(database: sqlite3.Connection, expression: str, columns: str, more: str = "") -> list[tuple[Any, ...]]:
    if not has_words(database):
        raise StoreError("this store has no index of words: it was made with an SQLite without FTS5")
    if not expression:
        return []
    return database.execute(f"SELECT {columns} FROM words WHERE words MATCH ? {more}", (expression,)).fetchall()


def by_vector(vectors: Vectors, queries: Any, k: int, found: Found | None, options: Mapping[str, Any]) -> list[Ranked]:
    """Return the best rows for each query of shape (nq, dim)."""
    index = vectors.index
    if index is None or not len(index) or (found is not None and not found.count):
        return [Ranked([], []) for _ in range(len(queries))]
    chosen: Any = None
    if found is not None:
        few = found.count * _FEW < len(index)
        chosen = found.rows if few else bitmap(found.words(vectors.order))
    k = min(k, len(index) if found is None else min(found.count, len(index)))
    result = index.search(queries, k, filter=chosen, **options)
    answers = []
    for at, (scores, ids) in enumerate(zip(np.asarray(result.scores), np.asarray(result.ids), strict=True)):
        count = int(np.count_nonzero(ids >= 0))
        stderr = None if result.stderr is None else np.asarray(result.stderr)[at, :count].tolist()
        answers.append(Ranked(ids[:count].tolist(), scores[:count].tolist(), stderr))
    return answers


def by_words(database: sqlite3.Connection, text: str, k: int, found: Found | None) -> Ranked:
    """Return the rows whose texts have words of a text, by BM25."""
    expression = " OR ".join(map(_phrase, dict.fromkeys(words_of_text(text))))
    if found is None:
        rows = _matches(database, expression, "rowid, rank", f"ORDER BY rank, rowid LIMIT {k:d}")
    else:
        rows = _matches(database, expression, "rowid, rank", "ORDER BY rank, rowid")
        if rows:
            is_found = np.isin(np.array([row for row, _ in rows], np.int64), found.rows)
            rows = [rows[at] for at in np.flatnonzero(is_found)[:k].tolist()]
    return Ranked([row for row, _ in rows], [-score for _, score in rows])


def fused(lists: Sequence[Ranked], weights: Sequence[float], k: int) -> Ranked:
    """Return the best rows of several rankings, by the weighted sum of their reciprocal ranks."""
    scores: dict[int, float] = {}
    for ranked, weight in zip(lists, weights, strict=True):
        for rank, row in enumerate(ranked.rows, 1):
            scores[row] = scores.get(row, 0.0) + weight / (RANK_CONSTANT + rank)
    best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
    return Ranked([row for row, _ in best], [score for _, score in best])


def as_weights(weights: Any) -> tuple[float, float]:
    """Check the weights of the rankings by vector and by words."""
    try:
        vector, text = (float(each) for each in weights)
    except (TypeError, ValueError):
        vector = text = -1.0
    if not (vector >= 0 and text >= 0 and 0 < vector + text < float("inf")):
        raise InvalidInputError(f"weights is {weights!r}; expected two numbers from 0 on, one of them above 0")
    return vector, text


def hits_of(database: sqlite3.Connection, ranked: Ranked) -> list[Hit]:
    """Return the documents of rows with their scores."""
    found = select_rows(database, ranked.rows)
    hits = []
    for at, (row, score) in enumerate(zip(ranked.rows, ranked.scores, strict=True)):
        hit = document_of(found[row], Hit)
        assert isinstance(hit, Hit)
        hit.score, hit.stderr = score, None if ranked.stderr is None else ranked.stderr[at]
        hits.append(hit)
    return hits
