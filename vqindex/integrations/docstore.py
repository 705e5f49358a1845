"""DocStore: texts and metadata in SQLite, and their vectors in an index. The frameworks' stores are built on it.

A store is a folder with ``docs.sqlite``, which has a row per document, and the index, whose ids are the numbers of
these rows. Changes stay in memory and in an open transaction until `DocStore.save`. It writes the index under a new
name, then commits the rows together with that name. If a program stops at any time, the folder has the rows and vectors
of one save. Values are JSON; nothing is pickled. One process at a time can change a folder.

Metadata filters are the frameworks' own functions, called with one record at a time. If a filter requires certain
values of a field, `Narrow` lets SQLite skip other rows first.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, InvalidInputError
from ..index import VQIndex
from ..spec import IndexSpec
from .records import Narrow, Record

__all__ = ["DocStore"]

DATABASE = "docs.sqlite"
VERSION = 1
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE docs (
    row INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: the id in the index
    id TEXT NOT NULL UNIQUE,
    text TEXT,
    metadata TEXT NOT NULL, -- a JSON object
    more TEXT NOT NULL, -- a JSON object of the framework's
    embedded INTEGER NOT NULL, -- whether the index has its vector
    embedding BLOB -- the vector itself, float32 of the machine's byte order, if it is kept
);
"""
_COLUMNS = "row, id, text, metadata, more, embedded, embedding"


class DocStore:
    """Documents with vectors.

    Parameters
    ----------
    folder : path, optional
        Folder of the store, new or existing. None keeps the store in memory.
    bits, metric, codec, seed
        Parameters of a new index, see `vqindex.VQIndex`. An existing index keeps its own bits, codec and seed.
    keep_embeddings : bool, default False
        Also store the original vectors, in SQLite.

    Raises
    ------
    InvalidInputError
        If the folder's index has another metric, or a parameter is out of range.
    FileFormatError
        If the folder has files of another kind.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        bits: int = 4,
        metric: str = "cosine",
        codec: str = "turboquant-prod",
        seed: int = 0,
        keep_embeddings: bool = False,
    ) -> None:
        IndexSpec(1, bits, metric, codec, seed=seed)  # checks the parameters now, not at the first vector
        self._new: dict[str, Any] = {"bits": bits, "metric": metric, "codec": codec, "seed": seed}
        self._keep = keep_embeddings
        self._index: VQIndex | None = None
        self._lock = threading.RLock()
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        name = ":memory:" if self.folder is None else str(self.folder / DATABASE)
        self._db = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        self._close = weakref.finalize(self, self._db.close)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._close()
            raise FileFormatError(f"{name}: {error}; expected a store of vqindex") from error
        except BaseException:
            self._close()
            raise

    def _open(self) -> None:
        """Create the tables, or read an existing store."""
        if self.folder is not None:
            self._db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the open transaction
        if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._db.executescript(f"BEGIN; {_SCHEMA} INSERT INTO about VALUES ('version', '{VERSION}'); COMMIT;")
            return
        about = self._about()
        if about.get("version") != str(VERSION):
            raise FileFormatError(f"{self.folder} has version {about.get('version')}; expected {VERSION}")
        if "index" in about and self.folder is not None:
            self._index = VQIndex.load(self.folder / about["index"])
            metric = self._index.spec.metric
            if metric != self._new["metric"]:
                raise InvalidInputError(f"metric is {self._new['metric']!r}; the index in {self.folder} has {metric!r}")

    def _about(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, value FROM about").fetchall())

    def close(self) -> None:
        """Close the store; changes that were not saved are lost."""
        with self._lock:
            self._close()

    def __enter__(self) -> DocStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def index(self) -> VQIndex | None:
        """The index; None before the first vector."""
        return self._index

    @property
    def metric(self) -> str:
        """The metric of scores."""
        return str(self._new["metric"])

    def __len__(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM docs").fetchone()[0])

    # ---- change

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock during a change; an error undoes its changes of rows."""
        with self._lock:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("SAVEPOINT change")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK TO change")
                raise
            finally:
                self._db.execute("RELEASE change")

    def write(self, records: Sequence[Record]) -> None:
        """Add records, replacing those with the same ids; of equal ids in one call the last one is written.

        Parameters
        ----------
        records : sequence of Record
            Records. `search` does not return those without an embedding; all other methods do.

        Raises
        ------
        InvalidInputError
            If a vector does not fit the index. The store is then unchanged.
        TypeError, ValueError
            If metadata are not JSON. The store is then unchanged.
        """
        last = {record.id: record for record in records}
        with self._changing():
            rows = [self._put(record) for record in last.values()]
            vectors = [
                (row, r.embedding) for row, r in zip(rows, last.values(), strict=True) if r.embedding is not None
            ]
            without_vector = [row for row, r in zip(rows, last.values(), strict=True) if r.embedding is None]
            if vectors:
                matrix = _matrix([vector for _, vector in vectors])
                index = self._index or VQIndex(matrix.shape[1], **self._new)
                index.upsert(np.array([row for row, _ in vectors], np.int64), matrix)
                self._index = index
            if without_vector and self._index is not None:
                self._index.remove(np.array(without_vector, np.int64))

    def _put(self, record: Record) -> int:
        """Write one row and return its number."""
        if not isinstance(record.id, str):
            raise InvalidInputError(f"id is {record.id!r}; expected a string")
        vector = None
        if self._keep and record.embedding is not None:
            vector = np.ascontiguousarray(record.embedding, np.float32).tobytes()
        values = (
            record.text,
            json.dumps(record.metadata, ensure_ascii=False, allow_nan=False),
            json.dumps(record.more, ensure_ascii=False, allow_nan=False),
            record.embedding is not None,
            vector,
        )
        found = self._db.execute("SELECT row FROM docs WHERE id = ?", (record.id,)).fetchone()
        if found:
            self._db.execute(
                "UPDATE docs SET text = ?, metadata = ?, more = ?, embedded = ?, embedding = ? WHERE row = ?",
                (*values, found[0]),
            )
            return int(found[0])
        inserted = self._db.execute(
            "INSERT INTO docs (text, metadata, more, embedded, embedding, id) VALUES (?, ?, ?, ?, ?, ?)",
            (*values, record.id),
        )
        return int(inserted.lastrowid or 0)

    def update_metadata(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the metadata of documents by id; texts and vectors stay."""
        with self._changing():
            self._db.executemany(
                "UPDATE docs SET metadata = ? WHERE id = ?",
                [(json.dumps(data, ensure_ascii=False, allow_nan=False), id_) for id_, data in changes.items()],
            )

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents; unknown ids are ignored. Returns the number of deleted documents."""
        id_list = json.dumps(list(ids))
        with self._changing():
            found = self._db.execute(
                "SELECT row FROM docs WHERE id IN (SELECT value FROM json_each(?))", (id_list,)
            ).fetchall()
            self._db.execute("DELETE FROM docs WHERE id IN (SELECT value FROM json_each(?))", (id_list,))
            if self._index is not None and found:
                self._index.remove(np.array(found, np.int64)[:, 0])
        return len(found)

    def clear(self) -> None:
        """Delete all documents; the next vectors may have another dimension."""
        with self._changing():
            self._db.execute("DELETE FROM docs")
            self._index = None

    # ---- read

    def get(self, ids: Iterable[str]) -> list[Record]:
        """Return the records with these ids, in that order; unknown ids are skipped."""
        requested = list(ids)
        with self._lock:
            found = {
                r.id: r for _, r, _ in self._select("id IN (SELECT value FROM json_each(?))", [json.dumps(requested)])
            }
        return [found[id_] for id_ in requested if id_ in found]

    def records(self, matches: Callable[[Record], bool] | None = None, narrow: Sequence[Narrow] = ()) -> list[Record]:
        """Return the records that match a predicate, all by default, in the order of their first writing.

        Parameters
        ----------
        matches : callable, optional
            Predicate of a record.
        narrow : sequence of Narrow
            Conditions for SQLite; `matches` is False for records that do not meet them.
        """
        return [record for _, record, _ in self._matching(matches, narrow)]

    def _matching(
        self, matches: Callable[[Record], bool] | None, narrow: Sequence[Narrow]
    ) -> list[tuple[int, Record, bool]]:
        conditions = [condition for each in narrow if (condition := each.sql()) is not None]
        where = " AND ".join(text for text, _ in conditions) or "1"
        with self._lock:
            found = self._select(where, [value for _, values in conditions for value in values])
            return [item for item in found if matches is None or matches(item[1])]

    def _select(self, where: str, values: Sequence[Any]) -> Iterator[tuple[int, Record, bool]]:
        """Yield row number, record, and whether the index has it."""
        for row, id_, text, metadata, more, embedded, blob in self._db.execute(
            f"SELECT {_COLUMNS} FROM docs WHERE {where} ORDER BY row", values
        ):
            vector = None if blob is None else np.frombuffer(blob, np.float32)
            yield row, Record(id_, text, json.loads(metadata), json.loads(more), vector), bool(embedded)

    def search(
        self,
        vector: Any,
        k: int,
        matches: Callable[[Record], bool] | None = None,
        narrow: Sequence[Narrow] = (),
    ) -> list[tuple[Record, float]]:
        """Find the best records for a query vector.

        Parameters
        ----------
        vector : array-like of shape (dim,)
            The query.
        k : int
            Most records to return; 0 gives none.
        matches, narrow
            As for `records`; the search returns only matching records.

        Returns
        -------
        list of (Record, float)
            Best first, with the index's scores: inner products, cosines or squared distances.
        """
        with self._lock:
            if self._index is None or k == 0:
                return []
            allowed = None
            if matches is not None or narrow:
                rows = [row for row, _, embedded in self._matching(matches, narrow) if embedded]
                allowed = np.array(rows, np.int64)
            k = min(k, max(1, len(self._index) if allowed is None else len(allowed)))
            scores, ids = self._index.search(np.asarray(vector, np.float32), k, filter=allowed)
            rows_json = json.dumps(ids[ids >= 0].tolist())
            selected = self._select("row IN (SELECT value FROM json_each(?))", [rows_json])
            found = {row: record for row, record, _ in selected}
            return [(found[row], score) for row, score in zip(ids.tolist(), scores.tolist(), strict=True) if row >= 0]

    def vectors(self, records: Sequence[Record]) -> NDArray[np.float32]:
        """Return the vectors, float32 (n, dim), of records that have one: the stored ones, or reconstructions."""
        if self._keep and all(record.embedding is not None for record in records):
            return _matrix([record.embedding for record in records])
        with self._lock:
            id_list = json.dumps([record.id for record in records])
            rows = dict(
                self._db.execute("SELECT id, row FROM docs WHERE id IN (SELECT value FROM json_each(?))", (id_list,))
            )
            if self._index is None or not records:
                return np.empty((0, 0), np.float32)
            return self._index.reconstruct([rows[record.id] for record in records])

    # ---- files

    def save(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Write all changes to disk, atomically.

        Parameters
        ----------
        folder : path, optional
            Folder of a copy; by default the store's own folder.

        Raises
        ------
        InvalidInputError
            If the store is in memory and no folder is given.
        OSError
            If the files can't be written; the folder then has the last save.
        """
        with self._lock:
            if folder is None and self.folder is None:
                raise InvalidInputError("folder is None and the store is in memory; expected a folder to save to")
            if folder is None or (self.folder is not None and Path(folder).resolve() == self.folder.resolve()):
                assert self.folder is not None
                with self._changing():
                    name = self._write_index(self._db, self.folder)
                self._db.execute("COMMIT")
            else:
                name = self._copy(Path(folder))
                self._remove_old_indexes(Path(folder), name)
                return
            self._remove_old_indexes(self.folder, name)

    def _write_index(self, database: sqlite3.Connection, folder: Path) -> str:
        """Write the index under a new name, store the name in a database, and return it."""
        if self._index is None:
            database.execute("DELETE FROM about WHERE name = 'index'")
            return ""
        name = f"index-{secrets.token_hex(8)}.vqi"
        self._index.save(folder / name)
        database.execute("INSERT OR REPLACE INTO about VALUES ('index', ?)", (name,))
        return name

    def _copy(self, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{DATABASE}.{secrets.token_hex(8)}"
        try:
            with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
                # Connection.backup does not promise to see the rows of an open transaction.
                copy.executescript(f"BEGIN; {_SCHEMA}")
                for table in ("about", "docs"):
                    rows = self._db.execute(f"SELECT * FROM {table}")
                    marks = ", ".join("?" * len(rows.description))
                    copy.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
                name = self._write_index(copy, folder)
                copy.execute("COMMIT")
            os.replace(temporary, folder / DATABASE)
        finally:
            temporary.unlink(missing_ok=True)
        return name

    @staticmethod
    def _remove_old_indexes(folder: Path, current: str) -> None:
        """Remove the index files of earlier saves."""
        for path in folder.glob("index-*.vqi"):
            if path.name != current:
                path.unlink(missing_ok=True)


def _matrix(vectors: Sequence[Any]) -> NDArray[np.float32]:
    """Stack vectors, shape (n, dim); raises InvalidInputError naming the first of another length."""
    rows = [np.asarray(vector, np.float32) for vector in vectors]
    for number, row in enumerate(rows):
        if row.ndim != 1 or row.shape != rows[0].shape:
            raise InvalidInputError(f"embedding {number} has shape {row.shape}; expected {rows[0].shape}, as the first")
    return np.stack(rows)
