"""Fields read from the table ``docs`` as JSON texts, by statements whose text depends on no key and no value."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError
from .meaning import MISSING, value_at
from .tree import Path, Source
from .values import Values, parse_texts

__all__ = ["FieldName", "encode", "read_all", "read_some", "rows_of_namespace"]

FieldName = tuple[Source, Path]
I64 = NDArray[np.int64]

# SQLite gives the JSON text of one field. A text that SQLite does not accept (it has NaN, or is nested very deep) comes
# whole, behind an "!", with which no JSON begins; the field is then found in Python.
_FIELD = "CASE WHEN json_valid({0}) THEN {0} -> ? ELSE '!' || {0} END"
_WHOLE = "'!' || {0}"
_CHUNK = 50_000  # rows
_HAS_ARROW = sqlite3.sqlite_version_info >= (3, 38)


def rows_of_namespace(db: sqlite3.Connection, namespace: Any) -> I64:
    """Return the rows of a namespace, ascending."""
    first, last, count = db.execute(
        "SELECT min(row), max(row), count(*) FROM docs WHERE namespace = ?", (namespace,)
    ).fetchone()
    if count and last - first + 1 == count:
        return np.arange(first, last + 1, dtype=np.int64)
    found = db.execute("SELECT row FROM docs WHERE namespace = ? ORDER BY row", (namespace,))
    return np.fromiter((row for (row,) in found), np.int64, count)


def read_all(
    db: sqlite3.Connection, namespace: Any, fields: Sequence[FieldName]
) -> Iterator[list[tuple[str | None, ...]]]:
    """Yield the texts of fields of all rows of a namespace, in the order of rows; None where a field is missing."""
    expressions, values = _columns(fields)
    statement = f"SELECT {', '.join(expressions)} FROM docs WHERE namespace = ? ORDER BY row"
    cursor = db.execute(statement, (*values, namespace))
    while lines := cursor.fetchmany(_CHUNK):
        yield lines


def read_some(
    db: sqlite3.Connection, namespace: Any, ranges: Iterable[tuple[int, int]], fields: Sequence[FieldName]
) -> list[tuple[Any, ...]]:
    """Return row number and texts of fields, of the rows of a namespace in ranges, first and last."""
    expressions, values = _columns(fields)
    statement = (
        f"SELECT {', '.join(['row', *expressions])} FROM docs WHERE row BETWEEN ? AND ? AND +namespace = ? ORDER BY row"
    )
    return [found for first, last in ranges for found in db.execute(statement, (*values, first, last, namespace))]


def _columns(fields: Sequence[FieldName]) -> tuple[list[str], list[str]]:
    """Return the expressions of fields in SQL, of fixed texts, and their parameters."""
    expressions, values = [], []
    for source, path in fields:
        if _HAS_ARROW and all(_is_plain(key) for key in path):
            expressions.append(_FIELD.format(source))
            values.append("$" + "".join(f'."{key}"' for key in path))
        else:
            expressions.append(_WHOLE.format(source))
    return expressions, values


def _is_plain(key: str) -> bool:
    """Whether every version of SQLite finds a key by its name in quotes: it is spelled the same inside JSON."""
    return key.isascii() and key.isprintable() and '"' not in key and "\\" not in key and key != ""


def encode(texts: Sequence[str | None], path: Path, values: Values) -> NDArray[np.int32]:
    """Return the codes of a field, given its texts as SQLite returned them.

    Parameters
    ----------
    texts : sequence of (str or None)
        JSON of the field, an "!" and JSON of the object that `path` starts from, or None.
    path : tuple of str
        The field.
    values : Values
        The field's values; new ones are added.

    Returns
    -------
    ndarray of int32
        A code for each text.

    Raises
    ------
    FileFormatError
        If an object is no JSON.
    """
    numbers: dict[str | None, int] = {}
    number_of = numbers.setdefault
    numbered = np.fromiter((number_of(text, len(numbers)) for text in texts), np.int32, len(texts))
    parsed = iter(parse_texts([text for text in numbers if text is not None and text[0] != "!"]))
    distinct = (
        MISSING if text is None else value_at(_parsed(text[1:]), path) if text[0] == "!" else next(parsed)
        for text in numbers
    )
    return np.array(values.codes_of(distinct), np.int32).take(numbered)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise FileFormatError(f"a document has {text[:60]!r}; expected JSON: the database is damaged") from None
