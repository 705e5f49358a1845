"""Stores of version 1, which `vqindex.integrations` wrote before: read as they are, converted by the first change.

A folder of version 1 has ``docs.sqlite`` with the tables ``about`` and ``docs``, and one index file
``index-<hex>.vqi``, which ``about`` names. A session reads all of it into a store in memory. The first change converts
the tables in one transaction, after the vectors were written as a segment. So a process that is killed meanwhile leaves
the old store or the new one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.registry import Device
from ..errors import FileFormatError
from ..index import VQIndex
from .database import about, check_schema, connect_memory, create_tables, set_about
from .encoding import encode_json, encode_text
from .folder import DATABASE, DocumentsFolder
from .log import close_connection, connect_reader, connect_writer, note_session
from .parameters import store_parameters, stored_parameters
from .session import Session
from .table import NewRow, namespace_number, seal_vectors, write_rows
from .vectors import Vectors, write_copy

__all__ = ["OldStore"]

_AT_ONCE = 4096  # rows in memory at a time
_TRIES = 100


class OldStore:
    """A folder with a store of version 1.

    Parameters
    ----------
    folder : DocumentsFolder
        The folder.
    given : mapping
        Parameters of the index, for a store that has none yet.
    timeout : float
        Seconds to wait for other processes.
    device, mmap
        As for `vqindex.open`.
    """

    def __init__(
        self, folder: DocumentsFolder, given: Mapping[str, Any], timeout: float, device: Device, mmap: bool
    ) -> None:
        self.folder, self._given, self._timeout, self._device, self._mmap = folder, given, timeout, device, mmap

    def session(self, mode: str) -> Session:
        """Return a session with what the store holds, which converts it before it changes anything."""
        database, index = self._read()
        vectors = Vectors(stored_parameters(database), self._device, self._mmap, None)
        vectors.index = index
        session = Session(None, database, vectors, mode, self._timeout, home=self.folder)
        session.old = self
        return session

    def _read(self) -> tuple[sqlite3.Connection, VQIndex | None]:
        """Read a whole store into memory; again if another process replaces the index meanwhile."""
        for last in (*[False] * _TRIES, True):
            try:
                return self._read_once()
            except FileNotFoundError as error:  # noqa: PERF203
                if last:
                    raise FileFormatError(
                        f"{self.folder.describe(DATABASE)}: names {error.filename}, which is missing"
                    ) from None
        raise AssertionError

    def _read_once(self) -> tuple[sqlite3.Connection, VQIndex | None]:
        source, shared = connect_reader(self.folder, self._timeout)
        target = connect_memory()
        try:
            source.execute("BEGIN")
            index = self._load_index(source, "docs")
            target.execute("BEGIN")
            self._write(source, "docs", target, index)
            target.execute("COMMIT")
        except BaseException:
            target.close()
            raise
        finally:
            source.close()
            if shared is not None:
                shared.close()
        return target, index

    def _load_index(self, source: sqlite3.Connection, table: str) -> VQIndex | None:
        """Return the index; with the vectors themselves if the store kept those of all documents."""
        name = about(source, "index")
        if name is None:
            return None
        path = self.folder.path / Path(str(name)).name
        index = VQIndex.load(path, device=self._device)
        embedded = [row for (row,) in source.execute(f"SELECT row FROM {table} WHERE embedded ORDER BY row")]
        if sorted(index.ids.tolist()) != embedded:
            raise FileFormatError(f"{path} has not the vectors that {self.folder.describe(DATABASE)} names")
        kept = source.execute(f"SELECT embedding FROM {table} WHERE embedded AND embedding IS NOT NULL ORDER BY row")
        blobs = [blob for (blob,) in kept]
        if not blobs or len(blobs) < len(embedded):
            return index
        spec = {name: value for name, value in index.spec.as_dict().items() if name != "dim"}
        whole = VQIndex(index.dim, **spec, keep_vectors="f32", device=self._device)
        whole.add(np.frombuffer(b"".join(blobs), np.float32).reshape(len(blobs), index.dim), np.array(embedded))
        return whole

    def _write(self, source: sqlite3.Connection, table: str, target: sqlite3.Connection, index: VQIndex | None) -> None:
        """Write the rows of a store into new tables, in the open transaction."""
        create_tables(target)  # with the epoch of the file, 0: the log continues it
        parameters = dict(self._given)
        if index is not None:
            spec = {name: value for name, value in index.spec.as_dict().items() if name != "dim"}
            parameters = {**spec, "keep_vectors": index.keep_vectors} if index.keep_vectors else spec
        store_parameters(target, parameters)
        number = namespace_number(target, "", make=True)
        assert number is not None
        for rows in self._new_rows(source, table):
            write_rows(target, number, rows, [])
        last = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        if last is not None:  # numbers of deleted rows do not come again
            target.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'docs'", last)
        set_about(target, "converted", 1)

    def _new_rows(self, source: sqlite3.Connection, table: str) -> Iterator[list[NewRow]]:
        cursor = source.execute(f"SELECT row, id, metadata, more, embedded, text FROM {table} ORDER BY row")
        while found := cursor.fetchmany(_AT_ONCE):
            yield [
                NewRow(row, encode_text(id_), _again(metadata), _again(more), bool(embedded), text)
                for row, id_, metadata, more, embedded, text in found
            ]

    def convert(self, session: Session) -> None:
        """Convert the store, unless another process has done so, and let a session use it. It holds the lock."""
        database = connect_writer(self.folder, self._timeout)
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                if check_schema(database, self.folder.describe(DATABASE)) == 1:
                    self._convert(database)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            self._sweep()
            self.give(session, database)
        except BaseException:
            if session.database is not database:
                close_connection(self.folder, database)
            raise

    def _convert(self, database: sqlite3.Connection) -> None:
        index = self._load_index(database, "docs")
        database.execute("ALTER TABLE docs RENAME TO old_docs")
        database.execute("DROP TABLE about")
        self._write(database, "old_docs", database, index)
        database.execute("DROP TABLE old_docs")
        write_copy(index, self.folder, database)
        seal_vectors(database)
        note_session(self.folder, database)
        database.execute("PRAGMA user_version = 1")

    def _sweep(self) -> None:
        """Remove the index files of version 1. A failure is harmless."""
        with suppress(OSError):
            for path in self.folder.path.glob("index-*.vqi"):
                with suppress(OSError):
                    os.unlink(path)

    def give(self, session: Session, database: sqlite3.Connection) -> None:
        """Let a session use the converted store from now on, through a connection."""
        vectors = Vectors(stored_parameters(database), self._device, self._mmap, self.folder)
        session.use(database, vectors)
        session.old = None

    def is_converted(self) -> bool:
        """Whether another process has converted the store."""
        source, shared = connect_reader(self.folder, self._timeout)
        try:
            return check_schema(source, self.folder.describe(DATABASE)) != 1
        finally:
            source.close()
            if shared is not None:
                shared.close()


def _again(text: str) -> str:
    """Return a JSON object as it is written now."""
    return encode_json(json.loads(text), "metadata", sys.maxsize)  # what was stored stays, however deep
