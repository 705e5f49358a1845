"""DurableIndex: an index whose contents a store keeps.

    DurableIndex   checks that it may change, commits, and remaps; it has
      VQIndex        the rows of all segments, mapped one after the other, then those added since; its state has
        CommitWriter   the directory and the last manifest; compares and writes (``commit.py``)
      WriterLock     held by a writer, None for a reader

It has a VQIndex and passes calls on to it. Everything about files is in the CommitWriter, which knows no index. Both
rows and CommitWriter are in the state of the index. So neither an interrupt nor another thread can separate rows from
the files that hold them.

It promises all of VQIndex: every search, every change, `save` and `merge` work as they do in memory. So it is
registered as a VQIndex: `isinstance` and type checkers accept it where they accept one.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from functools import wraps
from inspect import getattr_static
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..backends.registry import Device
from ..center import Centering
from ..changes import ChangeLock
from ..directory.local import LocalDirectory
from ..directory.objects import ManifestChangedError, ObjectDirectory
from ..directory.protocol import WriterLock
from ..errors import BackendError, FileFormatError, StoreBusyError, StoreError
from ..index import IndexState, VQIndex
from ..rows.contents import FEW_ROWS, Contents
from ..rows.graph import Curve
from ..rows.row_store import RowStore
from .commit import CommitWriter, State
from .manifest import MANIFEST, Manifest, load_with_version
from .rebase import merged_notes, replay
from .snapshot import Snapshot, join_segments, read_commit, read_snapshot

__all__ = ["DurableIndex"]

# Rows committed from memory are mapped from their files once an eighth as many as are mapped have been added: then
# opening all files again costs little per row. At least REMAP_ROWS, so that small stores do not do it often, and at
# most REMAP_MAX_ROWS, which bounds the memory of a long session.
REMAP_ROWS, REMAP_MAX_ROWS = 2**16, 2**22
# Of several writers of a bucket one succeeds at a time. Each waits for a random time, longer after each try.
_TRIES, _PAUSE, _MAX_PAUSE = 100, 0.02, 2.0  # seconds
_SWEEP_EVERY = 16  # commits to a bucket, where a sweep lists all objects
# Files are opened again, too, once the removed rows that only memory still holds outnumber the live ones, and FEW_ROWS.


class _Closed:
    """Stands for the contents of a closed index."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        raise StoreError(f"{self._folder} was closed; expected an open index")


# Members of VQIndex that are passed on as they are: copies are indexes in memory. What changes it is a method below.
_READS = (
    "spec", "dim", "changes", "keep_vectors", "center", "curve", "is_trained", "meta", "ids", "train",
    "__contains__", "search", "range_search", "estimate", "estimate_recall", "reconstruct",
    "near_pairs", "neighbors_graph", "canaries", "check_model", "save", "__copy__", "__deepcopy__",
)  # fmt: skip

_OF_MANIFEST = {"spec", "dim", "center", "is_trained", "meta", "train"}  # they need no rows

if TYPE_CHECKING:
    _Promised = VQIndex
else:
    _Promised = object


class DurableIndex(_Promised):
    """A VQIndex in a folder, made by `vqindex.open`. Changes are in memory until `commit` puts them on disk.

    All of `VQIndex` works: add, upsert, remove, search, range_search, estimate, estimate_recall, reconstruct,
    near_pairs, neighbors_graph, set_canaries, check_model, save (to a single file).
    Used as a context manager it commits at the end, unless an exception ends it.

    Examples
    --------
    >>> import numpy as np, tempfile, vqindex
    >>> folder = tempfile.mkdtemp()
    >>> with vqindex.open(folder, "a", dim=8) as index:
    ...     index.add(np.eye(8))
    >>> with vqindex.open(folder) as index:
    ...     index.search(np.eye(8)[2], k=1).ids.tolist()
    [2]
    """

    def __init__(
        self,
        directory: LocalDirectory | ObjectDirectory,
        lock: WriterLock | None,
        device: str,
        mmap: bool,
        verify: bool,
        reopening: tuple[Any, ...] | None = None,
    ) -> None:
        self._folder: Path | str = directory.folder
        self._lock, self._mmap, self._verify = lock, mmap, verify
        if isinstance(directory, LocalDirectory):
            reopening = (_reopen, str(directory.path))
        self._reopening = reopening  # how a pickle opens it again: a function and its arguments; None if it can't
        self._committing, self._reading = ChangeLock(), ChangeLock()
        # The last commit, if its files have not been read yet: those of a bucket are fetched when they are needed.
        self._unread: CommitWriter | None = None
        if directory.writer is not None:
            manifest, version = load_with_version(directory)
            self._unread = CommitWriter(directory, manifest, version)
        else:
            version = directory.version(MANIFEST)
            snapshot = read_snapshot(directory, mmap, verify)
            manifest = snapshot.manifest
        self._index = VQIndex._empty(Centering.from_text(manifest.spec, manifest.center), device)
        self._index._meta = deepcopy(dict(manifest.meta))
        if self._unread is None:
            self._attach(CommitWriter(directory, manifest, version, snapshot.graph), snapshot)
            if lock is not None:
                self._commits.sweep()

    def _attach(self, commits: CommitWriter, snapshot: Snapshot) -> None:
        """Hold the contents of a commit."""
        contents = self._joined(self._index, snapshot)
        count = contents.ids.rows_ever
        self._mapped_rows = count
        commits.ids = contents.ids
        self._index._state = self._index._state._replace(contents=contents, filed_rows=count, files=commits)

    def _joined(self, index: VQIndex, snapshot: Snapshot) -> Contents:
        """Return the contents of a commit, for an index."""
        rows = RowStore(index._codec.spec, index._backend.put, records=snapshot.graph is not None)
        return join_segments(rows, snapshot, str(self._folder))

    def _read(self) -> VQIndex:
        """Return the index that it has, after its files have been read."""
        if self._unread is not None:
            with self._reading.lock:
                if self._unread is not None:  # another thread may have read them meanwhile
                    commits = self._unread
                    snapshot = _of_kept_files(commits, self._mmap, self._verify)
                    following = CommitWriter(commits.directory, commits.manifest, commits._version, snapshot.graph)
                    self._attach(following, snapshot)
                    self._unread = None
        return self._index

    @property
    def _commits(self) -> CommitWriter:
        commits: CommitWriter = self._index._state.files
        return commits

    @property
    def _manifest(self) -> Manifest:
        """The last commit."""
        unread = self._unread
        return (self._commits if unread is None else unread).manifest

    def __vqindex__(self) -> VQIndex:
        """Return the index that it has, for `VQIndex.merge`."""
        return self._read()

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> VQIndex:
        """Load a single file, as `VQIndex.load`, and return a VQIndex."""
        return VQIndex.load(*args, **kwargs)

    # ---- what it is

    @property
    def path(self) -> Path | str:
        """The folder, or the URL."""
        return self._folder

    @property
    def mode(self) -> str:
        """How it was opened, "r" or "a"."""
        return "r" if self._lock is None else "a"

    def __repr__(self) -> str:
        if isinstance(self._index._contents, _Closed):
            return f"<DurableIndex of {str(self._folder)!r}, closed>"
        if self._unread is not None:
            return f"<DurableIndex of {str(self._folder)!r}, commit {self._unread.manifest.commit}, not read yet>"
        return f"{repr(self._index)[:-1]}, path={str(self._folder)!r}, mode={self.mode!r})".replace("VQ", "Durable", 1)

    def __reduce__(self) -> Any:
        """Pickle as the path, to be opened for reading; the other process sees the last commit."""
        len(self)  # raises if closed
        if self._lock is not None:
            raise StoreError(f"{self._folder} is open for writing; expected mode 'r', whose pickles hold the path")
        if self._reopening is None:
            raise StoreError(
                f"{self._folder} was opened with storage_options, which may be secret and are not put into pickles; "
                "expected credentials from the environment"
            )
        function, *arguments = self._reopening
        return function, (*arguments, self._index._backend.name, self._mmap)

    @property
    def ntotal(self) -> int:
        """Number of vectors, as `VQIndex.ntotal`."""
        return len(self)

    def __len__(self) -> int:
        unread = self._unread
        return len(self._index) if unread is None else sum(entry.live for entry in unread.manifest.segments)

    def to(self, device: Device) -> DurableIndex:
        """Search and encode on another device from now on, as `VQIndex.to`."""
        self._index.to(device)
        return self

    def stats(self) -> dict[str, Any]:
        """Return what `VQIndex.stats` does, and the number of commits and segments, and the bytes of their files."""
        len(self)  # raises if closed
        state = self._read()._state
        manifest: Manifest = state.files.manifest
        segments = manifest.segments
        return {
            **self._index._stats_of(state),
            "commit": manifest.commit,
            "segments": len(segments),
            "file_bytes": sum(segment.size for segment in segments) + sum(links.size for links in manifest.links),
        }

    # ---- changes

    def _check_writable(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self._folder} is open for reading; expected mode 'a'")
        len(self)  # raises if closed
        if not self._lock.held:
            raise StoreError(f"{self._folder} was opened for writing by another process, before a fork; open it here")
        self._read()

    def add(self, vectors: Any, ids: Any = None) -> None:
        """Add vectors, in memory until `commit`; as `VQIndex.add`."""
        self._check_writable()
        self._index.add(vectors, ids)

    def upsert(self, ids: Any, vectors: Any) -> None:
        """Add or replace vectors, in memory until `commit`; as `VQIndex.upsert`."""
        self._check_writable()
        self._index.upsert(ids, vectors)

    def merge(self, other: VQIndex) -> None:
        """Add all vectors of another index, in memory until `commit`; as `VQIndex.merge`."""
        self._check_writable()
        self._index.merge(other)

    def remove(self, ids: Any) -> int:
        """Remove vectors, in memory until `commit`; as `VQIndex.remove`."""
        self._check_writable()
        return self._index.remove(ids)

    def set_canaries(self, ids: Any = None, texts: Iterable[str] | None = None, *, model: str | None = None) -> None:
        """Remember which vectors `check_model` compares, in memory until `commit`; as `VQIndex.set_canaries`."""
        self._check_writable()
        self._index.set_canaries(ids, texts, model=model)

    def build_graph(self, links: int = 32, *, progress: Callable[[int, int], object] | None = None) -> None:
        """Link the rows, in memory until `commit`, which then writes all files again; as `VQIndex.build_graph`."""
        self._check_writable()
        self._index.build_graph(links, progress=progress)

    def drop_graph(self) -> None:
        """Remove the links, in memory until `commit`, which then writes all files again."""
        self._check_writable()
        self._index.drop_graph()

    def tune(self, queries: Any = None, k: int = 10, *, threads: int | None = None) -> Curve:
        """Measure how well walks agree with the scan, as `VQIndex.tune`.

        The curve is in memory until `commit`. A store that is open for reading may be tuned, for its own searches.
        """
        return self._read().tune(queries, k, threads=threads)

    def commit(self, *, merge: bool = True) -> int:
        """Put all changes on disk. Once it returns they survive a crash; if it fails, the last commit remains.

        In a bucket other writers may have committed meanwhile. Then the changes of this one are applied on top of
        theirs, and new vectors without ids get the next ids there.

        It writes the vectors added since the last commit as a new file, a bit for each row of files in which more
        vectors are removed, and a manifest. It also merges small files from time to time, and rewrites a file when more
        than half of its vectors are removed, so that each vector is rewritten only a few times (``store/merge.py``).

        Parameters
        ----------
        merge : bool, default True
            False writes only what is new, however many files that leaves.

        Returns
        -------
        int
            The number of commits so far.

        Raises
        ------
        StoreError
            If the index is open for reading or was closed.
        StoreConflictError
            In a bucket, if another writer committed changes that exclude those of this one.
        StoreBusyError
            In a bucket, if other writers were faster a hundred times in a row.
        OSError
            If the disk or the network fails. What is in memory is unchanged, and `commit` can be called again.
        """
        with self._committing.lock:
            self._check_writable()
            state = self._commit(merge)
            if self._is_worth_remapping(state) and not self._remap(state):
                with self._index._changes.lock:  # threads that change the index all the time wait for once
                    self._remap(self._commit(merge))
            return self._commits.manifest.commit

    def _commit(self, merge: bool) -> IndexState:
        """Put the state of this moment on disk and return it."""
        return self._published(lambda commits, state: commits.commit(state, merge=merge))

    def _published(self, write: Callable[[CommitWriter, State], CommitWriter]) -> IndexState:
        """Write the state of this moment and return it; where another writer was faster, on top of its commit."""
        for attempt in range(_TRIES):
            state = self._keep_rows()
            try:
                self._take_commit(write(state.files, self._state_of(state)))
                return state
            except ManifestChangedError:
                time.sleep(random.random() * min(_PAUSE * 1.5**attempt, _MAX_PAUSE))
                self._rebase()
        raise StoreBusyError(
            f"{self._folder}: other writers were faster {_TRIES} times in a row; nothing was published"
        )

    def _rebase(self) -> None:
        """Hold the last commit of the bucket, and our changes on top of it."""
        index, last = self._index, self._commits
        manifest, version = load_with_version(last.directory)
        tokens = () if manifest.sharing is None else manifest.sharing.tokens
        # A commit of ours whose answer was lost may have been published. Then our changes are those since that one.
        base = next((commits for token, commits in reversed(last.unsure) if token in tokens), last)
        with index._changes.lock:
            ours = index._state
            snapshot = read_commit(last.directory, manifest, self._mmap, not self._mmap)
            centering = Centering.from_text(manifest.spec, manifest.center)
            if centering.pending:  # neither the index nor we had vectors; ours may have some by now
                centering = ours.encoder.centering
            theirs = VQIndex._empty(centering, index._backend.name)
            theirs._contents = contents = self._joined(theirs, snapshot)
            assert base.ids is not None
            where = str(self._folder)
            notes = merged_notes(where, index._meta, base.manifest.meta, manifest.meta)
            replay(where, ours, base.manifest, base.ids, theirs, manifest)
            commits = CommitWriter(last.directory, manifest, version, snapshot.graph, contents.ids)
            count = self._mapped_rows = contents.ids.rows_ever
            index._state = theirs._state._replace(filed_rows=count, files=commits, changes=ours.changes + 1)
            index._meta.clear()
            index._meta.update(deepcopy(notes))

    def compact(self) -> int:
        """Commit, and rewrite all files without removed vectors, in as few files as possible.

        The old files are removed after the new ones are written, which needs free disk space for the remaining vectors.

        Returns
        -------
        int
            How many removed vectors took up space.
        """
        with self._committing.lock:
            self._check_writable()
            state = self._published(lambda commits, state: commits.compact(state))
            if self._commits.directory.writer is not None:
                self._commits.sweep()
            removed = state.contents.ids.rows_ever - len(state.contents.ids)
            if self._commits is not state.files or removed:  # removed rows may never have reached a file
                self._remap(state)
            return removed

    def close(self) -> None:
        """Release the files and the right to write. Changes since the last commit are lost."""
        with self._committing.lock, self._index._changes.lock:  # another thread finishes its commit or change first
            self._index._contents = _Closed(self._folder)  # type: ignore[assignment]
            self._unread = None
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> DurableIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._lock is not None and not isinstance(self._index._contents, _Closed):
                self.commit()
        finally:
            self.close()

    # ---- how a commit is made

    def _keep_rows(self) -> IndexState:
        """Return the state of the index. Its rows keep their places from now on, while a commit writes them."""
        index = self._index
        with index._changes.lock:
            index._state = index._state._replace(filed_rows=index._state.contents.ids.rows_ever)
            return index._state

    def _state_of(self, state: IndexState) -> State:
        backend, centering = state.encoder
        return State(self._index._codec, centering, state.contents, self._index._meta, backend)

    def _take_commit(self, commits: CommitWriter) -> None:
        """Take the writer of the next commit, and then remove the files that it no longer needs."""
        index = self._index
        with index._changes.lock:
            is_new, index._state = commits is not index._state.files, index._state._replace(files=commits)
        if is_new and (commits.directory.writer is None or commits.manifest.commit % _SWEEP_EVERY == 0):
            commits.sweep()

    def _is_worth_remapping(self, committed: IndexState) -> bool:
        """Return whether mapping a committed state again from its files frees enough memory."""
        ids = committed.contents.ids
        added = ids.rows_ever - self._mapped_rows
        if self._mmap and added >= max(REMAP_ROWS, min(self._mapped_rows // 8, REMAP_MAX_ROWS)):
            return True
        if self._mmap and self._commits.is_renumbered:  # each commit would have to renumber the links again
            return True
        in_files = sum(entry.rows - entry.live for entry in self._commits.manifest.segments)
        return ids.rows_ever - len(ids) - in_files > max(FEW_ROWS, len(ids))

    def _remap(self, committed: IndexState) -> bool:
        """Map a committed state again from its files, which frees memory, also that of removed rows.

        Return False if another thread has changed the index since; nothing is mapped then.
        """
        with suppress(OSError, MemoryError, StoreError):  # what is in memory is as good
            snapshot = _of_kept_files(self._commits, self._mmap, not self._mmap)
            with self._index._changes.lock:
                if self._index._contents is not committed.contents:  # that change would be lost
                    return False
                self._attach(self._commits.reread(snapshot.manifest, snapshot.graph), snapshot)
        return True


def _of_kept_files(commits: CommitWriter, mmap: bool, verify: bool) -> Snapshot:
    """Read the last commit of a writer. In a bucket others may have committed since; its files are kept for a while."""
    directory, manifest = commits.directory, commits.manifest
    if directory.writer is None:
        return read_snapshot(directory, mmap, verify)
    try:
        return read_commit(directory, manifest, mmap, verify)
    except FileNotFoundError as error:
        missing = error.filename
    newer, _ = load_with_version(directory)
    if newer.commit == manifest.commit:
        raise FileFormatError(f"{directory.describe(MANIFEST)}: names {missing}, which is missing")
    raise StoreError(
        f"{directory.describe(MANIFEST)}: commit {manifest.commit} was replaced too long ago, and its files were "
        "removed; open the index again"
    )


def _passed_on(name: str) -> Any:
    """Return a property or method that asks the index that a store has."""
    member: Any = getattr_static(VQIndex, name)
    index_of = (lambda self: self._index) if name in _OF_MANIFEST else DurableIndex._read
    if isinstance(member, property):
        return property(lambda self: getattr(index_of(self), name), doc=member.__doc__)

    @wraps(member)
    def call(self: DurableIndex, *args: Any, **kwargs: Any) -> Any:
        return member(index_of(self), *args, **kwargs)

    return call


for _name in _READS:
    setattr(DurableIndex, _name, _passed_on(_name))
VQIndex.register(DurableIndex)


def _reopen(path: str, backend: str, mmap: bool) -> DurableIndex:
    """Return the index of a pickle, on the backend it had, or on the CPU where that backend can't be used."""
    directory = LocalDirectory(Path(path))
    if directory.version(MANIFEST) is None:
        raise FileNotFoundError(errno.ENOENT, "the store of this pickle is not here", path)
    try:
        return DurableIndex(directory, None, backend, mmap, not mmap)
    except BackendError:
        return DurableIndex(directory, None, "cpu", mmap, not mmap)
