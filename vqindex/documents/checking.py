"""Checking a store of documents: every row and every file of one commit, and that they belong together."""

from __future__ import annotations

import sqlite3

import numpy as np

from ..errors import FileFormatError
from ..store.snapshot import verify_files
from .database import MEMORY, about
from .encoding import digest_of, digest_of_vector
from .folder import DocumentsFolder
from .stored_columns import check as check_columns
from .table import DIGESTS, vectors_sum

__all__ = ["check_all", "check_rows"]


def check_rows(database: sqlite3.Connection, where: str) -> np.typing.NDArray[np.int64]:
    """Check the structure of a database, and every row of ``docs`` against its digest, and all against their sum.

    Returns
    -------
    ndarray of int64
        The rows that have vectors, ascending.

    Raises
    ------
    FileFormatError
        At the first thing that does not check.
    """
    try:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise FileFormatError(f"{where}: damaged ({found})")
        total, counts, embedded = 0, dict[int, int](), []
        statement = "SELECT row, namespace, embedded, digest, id, text, metadata, more FROM docs ORDER BY row"
        for row, namespace, is_in, digest, *columns in database.execute(statement):
            if digest_of(row, namespace, bool(is_in), *columns) != digest:
                raise FileFormatError(f"{where}: damaged (row {row} of docs has not the content of its digest)")
            total += digest
            counts[namespace] = counts.get(namespace, 0) + 1
            if is_in:
                embedded.append(row)
        for row, digest, vector in database.execute("SELECT row, digest, vector FROM pending"):
            if digest_of_vector(row, vector) != digest:
                raise FileFormatError(f"{where}: damaged (row {row} of pending has not the content of its digest)")
        stored, sealed = about(database, "digest") or 0, about(database, "vectors")
        if sealed is not None and sealed != vectors_sum(database):
            raise FileFormatError(f"{where}: damaged (vectors and documents are of different commits)")
        check_columns(database)
        named = dict(database.execute("SELECT number, documents FROM namespaces WHERE documents > 0"))
    except sqlite3.DatabaseError as error:
        raise FileFormatError(f"{where}: damaged ({error})") from None
    if total % DIGESTS != stored:
        raise FileFormatError(f"{where}: damaged (rows of docs are missing, or are of different commits)")
    if named != counts:
        raise FileFormatError(f"{where}: damaged (namespaces have {counts} documents; expected {named})")
    return np.array(embedded, np.int64)


def check_all(
    database: sqlite3.Connection, folder: DocumentsFolder | None, order: np.typing.NDArray[np.int64]
) -> list[tuple[str, int]]:
    """Check all of a store, in the open transaction of a connection; return name and size of its files of vectors.

    Parameters
    ----------
    database : sqlite3.Connection
        The connection.
    folder : DocumentsFolder or None
        The folder; None for a store in memory.
    order : ndarray of int64
        The rows that have vectors, in any order.

    Raises
    ------
    FileFormatError
        At the first thing that does not check.
    """
    where = MEMORY if folder is None else str(folder.folder)
    embedded, found = check_rows(database, where), np.sort(order)
    if not np.array_equal(found, embedded):
        odd = np.setxor1d(found, embedded)[0]
        raise FileFormatError(f"{where}: row {odd} has a vector or says that it has one, not both")
    if folder is None or database.execute("SELECT 1 FROM vectors").fetchone() is None:
        return []
    folder.database = database
    return verify_files(folder, where)
