"""The vectors of documents: an index whose ids are the rows of ``docs``, and how its changes reach the disk.

The last commit of a store's vectors is the segments that the manifest names, changed by the table ``pending``. A commit
of few vectors writes only rows of that table, in the transaction of their documents: one sync of the disk makes it
durable. Once there are many, a commit writes them as segments (``store/commit.py``) and empties the table.

The state of an index never changes, so a savepoint is a reference to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.registry import Device
from ..center import Centering
from ..errors import FileFormatError, InvalidInputError, StoreError
from ..index import IndexState, VQIndex
from ..linking import as_rule
from ..rows.contents import FEW_ROWS, Contents
from ..rows.graph import Curve, Graph
from ..rows.ids import IdBatch
from ..rows.originals import as_kind
from ..rows.row_store import RowStore
from ..store.commit import CommitWriter, State
from ..store.manifest import MANIFEST, GraphEntry, Manifest
from ..store.snapshot import join_segments, read_snapshot
from .database import about, set_about
from .encoding import digest_of_vector
from .folder import DocumentsFolder
from .parameters import set_graph, spec_of, stored_graph

__all__ = ["Savepoint", "Vectors", "write_copy"]

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
Progress = Callable[[int, int], object]

_HEAD = 64  # bytes of a manifest; its first line has the checksum of all others
MAX_PENDING = 512  # changes of vectors that wait in the database for a segment
# Rows that only memory holds are mapped from their files once there are so many, as in ``store/durable.py``.
REMAP_ROWS, REMAP_MAX_ROWS = 2**16, 2**22


class Savepoint(NamedTuple):
    """The vectors at one moment."""

    vectors: VQIndex | None
    state: IndexState | None
    pending: int
    fold: bool
    parameters: Mapping[str, Any]


class _Followed(NamedTuple):
    """A commit whose vectors are in memory, so that the next one needs only what came after it."""

    key: tuple[bytes, object]  # of the segments, and how often `pending` was emptied
    place: int  # the last one in `pending`
    contents: Contents


class Vectors:
    """The index of a store of documents.

    Parameters
    ----------
    parameters : mapping
        Parameters of a new index, as for `VQIndex`, without `dim` perhaps.
    device : str
        Where it searches.
    mmap : bool
        Whether files are mapped.
    folder : DocumentsFolder or None
        Where the files lie; None keeps all in memory.
    """

    def __init__(
        self, parameters: Mapping[str, Any], device: Device, mmap: bool, folder: DocumentsFolder | None
    ) -> None:
        self.parameters: Mapping[str, Any] = dict(parameters)  # replaced as a whole, since savepoints share it
        self.index: VQIndex | None = None
        self._device, self._mmap, self._folder = device, mmap, folder
        self._pending = 0
        self._fold = False  # the next commit writes segments
        self._mapped_rows = 0
        self._base: tuple[Manifest, VQIndex, IndexState] | None = None  # what the segments of a manifest hold
        self._order: tuple[object, I64] | None = None
        self._followed: _Followed | None = None

    # ---- reading

    def load(self, database: sqlite3.Connection) -> None:
        """Read the last commit that a connection sees.

        Raises
        ------
        FileFormatError
            If a file is missing, damaged, or not the one that the manifest names.
        """
        if self._folder is None:
            return
        self.parameters = _with_graph(self.parameters, stored_graph(database))
        key = self._key(database)
        if key is None:
            self.restore(Savepoint(None, None, 0, False, self.parameters))
            return
        if not self._follow(database, key):
            self._load_all(database)
        self._pending = int(database.execute("SELECT count(*) FROM pending").fetchone()[0])
        self._remember(database)

    def _key(self, database: sqlite3.Connection) -> tuple[bytes, object] | None:
        """Return what is the same as long as commits only add to ``pending``; None without vectors."""
        found = database.execute("SELECT substr(manifest, 1, ?) FROM vectors", (_HEAD,)).fetchone()
        return None if found is None else (bytes(found[0]), about(database, "folds"))

    def _remember(self, database: sqlite3.Connection) -> None:
        """Remember that the index has what the last commit of a connection holds."""
        key, index = self._key(database), self.index
        last = database.execute("SELECT max(place) FROM pending").fetchone()[0]
        self._followed = None if key is None or index is None else _Followed(key, last or 0, index._state.contents)

    def _follow(self, database: sqlite3.Connection, key: tuple[bytes, object]) -> bool:
        """Apply what commits have added since the one in memory; False if that is not known."""
        followed, index = self._followed, self.index
        if followed is None or index is None or followed.key != key or index._state.contents is not followed.contents:
            return False
        self._apply(index, database, followed.place)
        return True

    def _load_all(self, database: sqlite3.Connection) -> None:
        """Open the segments, unless they are open, and apply all changes since."""
        assert self._folder is not None
        self._folder.database = database
        (found,) = database.execute("SELECT manifest FROM vectors").fetchone()
        if self._base is None or self._base[0].to_bytes() != bytes(found):
            self._base = self._load_segments()
        manifest, index, state = self._base
        fresh = VQIndex._empty(Centering.from_text(manifest.spec, manifest.center), index._backend.name)
        fresh._meta = deepcopy(dict(manifest.meta))
        fresh._state = _apart(state)
        self._apply(fresh, database, 0)
        self.restore(Savepoint(fresh, fresh._state, 0, False, self.parameters))
        self._mapped_rows = state.contents.ids.rows_ever

    def _load_segments(self) -> tuple[Manifest, VQIndex, IndexState]:
        assert self._folder is not None
        snapshot = read_snapshot(self._folder, self._mmap, not self._mmap)
        manifest = snapshot.manifest
        index = VQIndex._empty(Centering.from_text(manifest.spec, manifest.center), self._device)
        rows = RowStore(index._codec.spec, index._backend.put, records=snapshot.graph is not None)
        contents = join_segments(rows, snapshot, str(self._folder.folder))
        commits = CommitWriter(self._folder, manifest, None, snapshot.graph)
        count = contents.ids.rows_ever
        return manifest, index, index._state._replace(contents=contents, filed_rows=count, files=commits)

    def _apply(self, index: VQIndex, database: sqlite3.Connection, place: int) -> None:
        """Make the changes of the table ``pending`` after a place."""
        statement = "SELECT row, vector FROM pending WHERE place > ? ORDER BY place"
        found = database.execute(statement, (place,)).fetchall()
        if not found:
            return
        ids = index._state.contents.ids.explicit
        newest = index._state.contents.ids.rows_ever - 1 if ids is None else int(ids.max(initial=-1))
        index.remove(np.array([row for row, _ in found if row <= newest], np.int64))
        rows = np.array([row for row, vector in found if vector is not None], np.int64)
        data = [vector for _, vector in found if vector is not None]
        size = 4 * index.dim
        if any(len(vector) != size for vector in data):
            raise FileFormatError(f"{self._where}: a vector of the table 'pending' has not {index.dim} coordinates")
        _append(index, rows, np.frombuffer(b"".join(data), "<f4").reshape(-1, index.dim))

    @property
    def _where(self) -> str:
        return "the database" if self._folder is None else self._folder.describe(MANIFEST)

    @property
    def how(self) -> dict[str, Any]:
        """How the index was opened."""
        device = self._device if self.index is None else self.index._backend.name
        return {"device": device, "mmap": self._mmap}

    @property
    def dim(self) -> int | None:
        """Number of coordinates; None until the first vector, unless it was given."""
        return self.parameters.get("dim") if self.index is None else self.index.dim

    @property
    def order(self) -> I64:
        """The rows of ``docs`` in the order of the index; the same array while the index is the same."""
        index = self.index
        if index is None:
            return np.empty(0, np.int64)
        ids = index._state.contents.ids
        if self._order is None or self._order[0] is not ids:
            self._order = ids, index.ids
        return self._order[1]

    def kept(self, rows: I64) -> F32:
        """Return the vectors of rows, float32 (n, dim): those that are kept, or reconstructions."""
        if self.index is None or not rows.size:
            return np.empty((0, self.dim or 0), np.float32)
        contents = self.index._contents
        if contents.originals is None:
            return self.index.reconstruct(rows)
        return contents.originals.gather(contents.ids.rows(contents.ids.parse_ids(rows)))

    # ---- savepoints

    def savepoint(self) -> Savepoint:
        """Return what `restore` comes back to."""
        index = self.index
        return Savepoint(index, None if index is None else index._state, self._pending, self._fold, self.parameters)

    def restore(self, savepoint: Savepoint) -> None:
        """Undo all changes since a savepoint."""
        index = savepoint.vectors
        if index is not None and savepoint.state is not None and index._state is not savepoint.state:
            index._state = _apart(savepoint.state)
        self.index, self._pending, self._fold = savepoint.vectors, savepoint.pending, savepoint.fold
        self.parameters = savepoint.parameters

    # ---- changes, in the open transaction

    def write(self, database: sqlite3.Connection, rows: I64, vectors: F32, known: I64) -> None:
        """Add or replace the vectors of rows, shape (n,), distinct.

        Parameters
        ----------
        database : sqlite3.Connection
            The connection.
        rows : ndarray of int64, shape (n,)
            The rows.
        vectors : ndarray of float32, shape (n, dim)
            Their vectors.
        known : ndarray of int64
            Those of the rows that were there before, and may have a vector.
        """
        if not rows.size:
            return
        index = self.index
        if index is None:
            if self.parameters.get("dim", vectors.shape[1]) != vectors.shape[1]:
                raise InvalidInputError(f"vectors have {vectors.shape[1]} coordinates; expected {self.dim}")
            index = VQIndex(**{**self.parameters, "dim": vectors.shape[1]}, device=self._device)
            if self._folder is not None:
                first = _first_manifest(index, _next_file(database))
                index._state = index._state._replace(files=CommitWriter(self._folder, first, None))
                self._fold = True  # `pending` needs a manifest, which says what index it belongs to
        if known.size:
            index.remove(known)
        _append(index, rows, vectors)
        self.index = index
        self._note(database, rows, vectors)

    def remove(self, database: sqlite3.Connection, rows: I64) -> None:
        """Remove the vectors of rows; rows without one are ignored."""
        if self.index is not None and rows.size:
            self.index.remove(rows)
            if len(self.index) or "dim" in self.parameters:
                self._note(database, rows, None)
            else:
                self.clear(database)

    def clear(self, database: sqlite3.Connection) -> None:
        """Remove all vectors; the next ones may have another dimension."""
        if self.index is not None and self._folder is not None:
            manifest = self.index._state.files.manifest
            set_about(database, "next_file", max(manifest.next_file, _next_file(database)))
        _empty_pending(database)
        database.execute("DELETE FROM vectors")
        self.index, self._pending, self._fold = None, 0, False

    # ---- graph

    def build_graph(self, database: sqlite3.Connection, links: int, progress: Progress | None) -> None:
        """Link the vectors, and those to come; the next commit writes all of them again."""
        as_rule("links", links, spec_of(self.parameters))
        if self.index is not None:
            self.index.build_graph(links, progress=progress)
        self._note_graph(database, int(links))

    def drop_graph(self, database: sqlite3.Connection) -> None:
        """Remove the links; the next commit writes all vectors again."""
        if self.index is not None:
            self.index.drop_graph()
        self._note_graph(database, None)

    def _note_graph(self, database: sqlite3.Connection, links: int | None) -> None:
        set_graph(database, links)
        self.parameters = _with_graph(self.parameters, links)
        self._fold = self.index is not None and self._folder is not None

    def set_curve(self, measured: Graph, curve: Curve) -> None:
        """Take what was measured with a graph; the next commit, if there is one, writes it.

        Raises
        ------
        InvalidInputError
            If the graph was replaced since.
        """
        index = self.index
        graph = None if index is None else index._state.contents.graph
        if index is None or graph is None or graph.rule != measured.rule:
            raise InvalidInputError("the graph was replaced while it was measured; expected tune() again")
        with index._changes.lock:
            contents = index._state.contents
            index._take(index._state, contents._replace(graph=graph._replace(curve=curve)))
        self._fold = self._folder is not None

    def _note(self, database: sqlite3.Connection, rows: I64, vectors: F32 | None) -> None:
        """Write a change to the table ``pending``, unless the next commit writes segments."""
        if self._folder is None or self._fold:
            return
        self._pending += rows.size
        self._fold = self._pending > MAX_PENDING
        if self._fold:
            return
        data = [None] * rows.size if vectors is None else [each.tobytes() for each in vectors.astype("<f4")]
        last = database.execute("SELECT max(place) FROM pending").fetchone()[0] or 0
        generation = int(database.execute("PRAGMA user_version").fetchone()[0])
        first = 1 + max(last, generation << 20)  # no place comes again after the table was emptied
        places = range(first, first + rows.size)
        database.executemany(
            "INSERT OR REPLACE INTO pending (row, place, digest, vector) VALUES (?, ?, ?, ?)",
            [
                (row, place, digest_of_vector(row, vector), vector)
                for row, place, vector in zip(rows.tolist(), places, data, strict=True)
            ],
        )

    # ---- commits

    def prepare(self, database: sqlite3.Connection) -> CommitWriter | None:
        """Write what the next COMMIT needs; return what `take` then takes, None if there is nothing to take."""
        index, folder = self.index, self._folder
        if index is None or folder is None or not self._fold:
            return None
        folder.database = database
        with index._changes.lock:
            index._state = state = index._state._replace(filed_rows=index._state.contents.ids.rows_ever)
        commits: CommitWriter = state.files
        following = commits.commit(_state_of(index, state), merge=True)
        if following.manifest.commit == 0:  # a new index whose vectors are all gone again
            return None
        _empty_pending(database)
        return following

    def take(self, database: sqlite3.Connection, following: CommitWriter | None) -> None:
        """Take the writer of the next commit after a COMMIT."""
        if self._folder is None:
            return
        if self.index is not None and following is not None:
            self._take(database, self.index, following)
        self._remember(database)

    def _take(self, database: sqlite3.Connection, index: VQIndex, following: CommitWriter) -> None:
        assert self._folder is not None
        is_new = following is not index._state.files
        index._state = index._state._replace(files=following)
        self._pending, self._fold = 0, False
        if is_new:
            self._base = None
            self._folder.sweep(following.manifest.names)
            if self._is_worth_remapping():
                with suppress(OSError, MemoryError, StoreError):  # what is in memory is as good
                    self._load_all(database)

    def _is_worth_remapping(self) -> bool:
        """Whether mapping the last commit from its files frees enough memory."""
        index = self.index
        assert index is not None
        ids = index._state.contents.ids
        added = ids.rows_ever - self._mapped_rows
        if self._mmap and added >= max(REMAP_ROWS, min(self._mapped_rows // 8, REMAP_MAX_ROWS)):
            return True
        if self._mmap and index._state.files.is_renumbered:
            return True
        in_files = sum(entry.rows - entry.live for entry in index._state.files.manifest.segments)
        return bool(ids.rows_ever - len(ids) - in_files > max(FEW_ROWS, len(ids)))


def _empty_pending(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM pending")
    folds = about(database, "folds")
    set_about(database, "folds", 1 + (folds if isinstance(folds, int) else 0))


def _with_graph(parameters: Mapping[str, Any], links: int | None) -> dict[str, Any]:
    """Return parameters with so many links of a row, or without a graph."""
    others = {name: value for name, value in parameters.items() if name != "graph"}
    return others if links is None else {**others, "graph": links}


def _append(index: VQIndex, rows: I64, vectors: F32) -> None:
    """Add the vectors of rows that are not in the index, without looking for them there."""
    if rows.size:
        with index._changes.lock:
            index._append(index._state, index._state.encoder.source(vectors), IdBatch(rows))


def _apart(state: IndexState) -> IndexState:
    """Return a state from which the index may grow otherwise than it did before."""
    return state._replace(contents=state.contents._replace(ids=state.contents.ids.apart()))


def _state_of(index: VQIndex, state: IndexState) -> State:
    """Return what a commit is to put on disk."""
    backend, centering = state.encoder
    return State(index._codec, centering, state.contents, index._meta, backend)


def _first_manifest(index: VQIndex, next_file: int) -> Manifest:
    """Return the manifest of a new index, which was never published."""
    graph = index._contents.graph
    return Manifest(
        index.spec,
        as_kind(index.keep_vectors),
        next_file=next_file,
        center=index._centering.text,
        graph=None if graph is None else GraphEntry(graph.rule),
    )


def _next_file(database: sqlite3.Connection) -> int:
    """Return the least number that no file of the store ever had."""
    number = about(database, "next_file")
    return number if isinstance(number, int) else 0


def write_copy(index: VQIndex | None, folder: DocumentsFolder, database: sqlite3.Connection) -> set[str]:
    """Write all vectors of an index as those of a database whose vectors were cleared; return the names of files.

    Parameters
    ----------
    index : VQIndex or None
        The index.
    folder : DocumentsFolder
        The folder of the database.
    database : sqlite3.Connection
        Its connection, in a transaction.
    """
    if index is None or not len(index):
        return set()
    folder.database = database
    first = CommitWriter(folder, _first_manifest(index, _next_file(database)), None)
    following = first.compact(_state_of(index, index._state))
    return following.manifest.names
