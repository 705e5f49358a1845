"""DurableIndex: a VQIndex whose rows lie in the files of a store, and what a commit writes.

In memory it is a VQIndex like any other: the rows of all segments, mapped one after the other, then those added since.
A commit compares this with what the manifest says and writes the difference. Rows in memory keep their places when
files are merged; which part of memory a file holds is all that has to be known (`_Held`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..center import Centering
from ..directory.local import LocalDirectory
from ..directory.protocol import WriterLock
from ..errors import StoreError
from ..file_format.contents import FileContents
from ..file_format.writer import write_file
from ..index import VQIndex
from ..rows.bitmap import bits_of
from ..rows.contents import Contents
from ..rows.ids import IdMap
from ..rows.originals import Originals
from ..rows.row_store import RowStore
from ..rows.string_ids import StringIds
from .manifest import MANIFEST, MAX_COUNTED, NEXT, Manifest, Segment, is_ours, prepare_manifest, publish_manifest
from .merge import MERGE_BYTES, merge_runs
from .removed import write_removed
from .snapshot import Part, ids_of, names_of, read_snapshot

__all__ = ["DurableIndex"]

I64 = NDArray[np.int64]
Bits = NDArray[np.bool_]

# Rows committed from memory after which they are mapped from their files instead, and removed rows are let go of: an
# eighth of those mapped, so that opening all files again is paid for, but so many at least and at most.
REMAP_ROWS, REMAP_MOST = 2**16, 2**22


@dataclass(frozen=True)
class _Held:
    """The rows in memory that a segment's file holds: from `first` to before `last`, or those of `kept` among them."""

    first: int
    last: int
    kept: I64 | None
    segment: Segment | None  # None: not in a file yet

    def of(self, bits: Bits) -> Bits:
        """Return the bits of its rows, of bits for all rows in memory."""
        mine = bits[self.first : self.last]
        return mine if self.kept is None else mine[self.kept - self.first]


class _Closed:
    """Stands for the contents of a closed index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        raise StoreError(f"{self._folder} was closed; expected an open index")


class DurableIndex(VQIndex):
    """A VQIndex in a folder, made by `vqindex.open`. Changes are in memory until `commit` puts them on disk.

    All of `VQIndex` works: add, upsert, remove, search, range_search, estimate, reconstruct, save (to a single file).
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
        self, directory: LocalDirectory, lock: WriterLock | None, device: str, mmap: bool, verify: bool
    ) -> None:
        self._folder, self._directory, self._lock, self._mmap = directory.folder, directory, lock, mmap
        self._version = directory.version(MANIFEST)
        manifest, parts = read_snapshot(directory, mmap, verify)
        self._start(Centering.from_text(manifest.spec, manifest.center), device, None)
        self._attach(manifest, parts)
        self._meta = deepcopy(dict(manifest.meta))
        self._next_file = manifest.next_file
        if lock is not None:
            self._sweep()

    def _attach(self, manifest: Manifest, parts: Sequence[Part]) -> None:
        """Take rows and ids from a commit."""
        rows = RowStore(self._codec.spec, self._backend.put)
        kind = manifest.keep_vectors
        originals = None if kind is None else Originals(self._spec.dim, kind)
        held, gone, first = [], [], 0
        for segment, (stored, removed) in zip(manifest.segments, parts, strict=True):
            rows.seal(stored.segment.stored, whole=True)
            if originals is not None and stored.segment.originals is not None:
                originals.parts += stored.segment.originals.parts  # `append` would copy small ones into memory
            held.append(_Held(first, first + segment.rows, None, segment))
            gone.append(removed + first)
            first += segment.rows
        ids = IdMap(first, _ids(manifest, parts), manifest.next_id, _names(self._folder, parts))
        if any(part.size for part in gone):
            ids.remove(np.concatenate(gone))
        self._contents = Contents(rows, ids, originals)
        self._manifest, self._held, self._mapped = manifest, held, first

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> VQIndex:
        """Load a single file: see `VQIndex.load`. What it gives is no store."""
        return VQIndex.load(*args, **kwargs)

    # ---- what it is

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def mode(self) -> str:
        """How it was opened, "r" or "a"."""
        return "r" if self._lock is None else "a"

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, path={str(self._folder)!r}, mode={self.mode!r})".replace("VQ", "Durable", 1)

    def stats(self) -> dict[str, Any]:
        """Return what `VQIndex.stats` does, and the number of commits and segments, and the bytes of their files."""
        segments = self._manifest.segments
        return {
            **super().stats(),
            "commit": self._manifest.commit,
            "segments": len(segments),
            "file_bytes": sum(segment.size for segment in segments),
        }

    # ---- changes

    def _writable(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self._folder} is open for reading; expected mode 'a'")
        len(self)  # raises if closed
        if not self._lock.held:
            raise StoreError(f"{self._folder} was opened for writing by another process, before a fork; open it here")

    def add(self, vectors: Any, ids: Any = None) -> None:
        """Add vectors, in memory until `commit`; as `VQIndex.add`."""
        self._writable()
        super().add(vectors, ids)

    def upsert(self, ids: Any, vectors: Any) -> None:
        """Add or replace vectors, in memory until `commit`; as `VQIndex.upsert`."""
        self._writable()
        super().upsert(ids, vectors)

    def merge(self, other: VQIndex) -> None:
        """Add all vectors of another index, in memory until `commit`; as `VQIndex.merge`."""
        self._writable()
        super().merge(other)

    def remove(self, ids: Any) -> int:
        """Remove vectors, in memory until `commit`; as `VQIndex.remove`."""
        self._writable()
        return super().remove(ids)

    def commit(self, *, merge: bool = True) -> int:
        """Put all changes on disk. When it returns they survive a crash; if it raises or dies, the last commit does.

        Writes the vectors added since the last commit as a new file, a bit for each row of the files of which some
        were removed, and a manifest. From time to time small files are merged into one, and files of which less
        than half is left are rewritten: each vector a few times in all (``store/merge.py``).

        Parameters
        ----------
        merge : bool, default True
            False writes only what is new, however many files there are then.

        Returns
        -------
        int
            The number of commits so far.

        Raises
        ------
        StoreError
            If the index is open for reading or was closed.
        OSError
            If the disk is full or fails. What is in memory is unchanged, and `commit` can be called again.
        """
        self._writable()
        live = self._live()
        held = self._all_held()
        rows = [int(part.of(live).size) for part in held]
        left = [int(np.count_nonzero(part.of(live))) for part in held]
        if self._is_new(held, live):
            runs = merge_runs(rows, left, self._most_rows) if merge else []
            self._publish(held, runs, live)
            if self._mmap and self._ids.rows_ever - self._mapped >= max(REMAP_ROWS, min(self._mapped // 8, REMAP_MOST)):
                self._remap()
        return self._manifest.commit

    def compact(self) -> int:
        """Commit, and rewrite all files without removed vectors, as few as may be.

        Needs as much free disk as the vectors that are left take, for the old files go when the new ones are there.

        Returns
        -------
        int
            How many removed vectors took room.
        """
        self._writable()
        live = self._live()
        held = self._all_held()
        removed = live.size - int(np.count_nonzero(live))
        whole = all(part.of(live).all() for part in held)
        tidy = whole and all(part.of(live).size == self._most_rows for part in held[:-1])
        if not tidy or self._is_new(held, live):
            self._publish(held, [slice(0, len(held))], live)
            self._remap()
        elif removed:  # before they came into a file
            self._remap()
        return removed

    def close(self) -> None:
        """Let go of the files and of the right to write. Changes since the last commit are lost."""
        self._contents = _Closed(self._folder)  # type: ignore[assignment]
        self._held = []
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> DurableIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._lock is not None and not isinstance(self._contents, _Closed):
                self.commit()
        finally:
            self.close()

    # ---- how a commit is made

    @property
    def _most_rows(self) -> int:
        originals = self._contents.originals
        kept = 0 if originals is None else originals.bytes_per_vector
        return max(1, MERGE_BYTES // (self._codec.spec.bytes_per_vector + kept))

    def _live(self) -> Bits:
        """Return a bit for each row in memory: whether it is there."""
        count, words = self._ids.rows_ever, self._ids.live
        return np.ones(count, np.bool_) if words is None else bits_of(words, count)

    def _all_held(self) -> list[_Held]:
        """Return the rows of all segments, then those that are in no file yet, by at most so many."""
        first = self._held[-1].last if self._held else 0
        count, most = self._ids.rows_ever, self._most_rows
        new = [_Held(start, min(start + most, count), None, None) for start in range(first, count, most)]
        return [*self._held, *new]

    def _is_new(self, held: Sequence[_Held], live: Bits) -> bool:
        """Whether there is anything to commit."""
        known = self._manifest
        return (
            (self._meta, self._ids.next_id, self._centering.text) != (known.meta, known.next_id, known.center)
            or any(part.segment is None and part.of(live).any() for part in held)
            or any(part.segment is not None and np.count_nonzero(part.of(live)) != part.segment.live for part in held)
        )

    def _publish(self, held: Sequence[_Held], runs: Sequence[slice], live: Bits) -> None:
        """Write a commit in which each run of `held` is rewritten."""
        written: list[str] = []
        published = False
        try:
            after = self._write_rows(held, runs, live, written)
            segments = tuple(part.segment for part in after if part.segment is not None)
            manifest = Manifest(
                self._spec,
                self.keep_vectors,
                self._manifest.commit + 1,
                self._next_file,
                self._ids.next_id,
                segments,
                deepcopy(self._meta),  # what is changed inside it later is a change
                self._centering.text,
            )
            written.append(NEXT)
            prepare_manifest(self._directory, manifest)
            self._directory.sync()  # the names of the new files, before a manifest says them
            published = True
            self._version = publish_manifest(self._directory, self._version)
        except BaseException:
            if not published:  # else the manifest on disk may name them; a later commit or `open` sweeps them if not
                for name in written:
                    with suppress(OSError):
                        self._directory.remove(name)
            raise
        self._manifest, self._held = manifest, after
        self._sweep()

    def _write_rows(self, held: Sequence[_Held], runs: Sequence[slice], live: Bits, written: list[str]) -> list[_Held]:
        """Write segments and bits; return what is held by which file then."""
        after: list[_Held] = []
        starts = {run.start: run.stop for run in runs}
        at = 0
        while at < len(held):
            stop = starts.get(at, at + 1)
            if at in starts or held[at].segment is None:
                rows = np.flatnonzero(live[held[at].first : held[stop - 1].last]) + held[at].first
                pieces = [rows[start : start + self._most_rows] for start in range(0, rows.size, self._most_rows)]
                after += [self._write_segment(piece, written) for piece in pieces]
            else:
                after += self._write_bits(held[at], live, written)
            at = stop
        return after

    def _take_name(self, ending: str, written: list[str]) -> tuple[int, str]:
        number = self._next_file
        self._next_file += 1
        name = f"{number:010d}.{ending}"
        written.append(name)
        return number, name

    def _write_segment(self, rows: I64, written: list[str]) -> _Held:
        number, file_name = self._take_name("vqi", written)
        ids = self._ids.numbers(rows)
        names = None if self._ids.string_ids is None else self._ids.string_ids.select(rows)
        counted = names is None and ids[-1] < MAX_COUNTED and bool((np.diff(ids) == 1).all())
        first_id = int(ids[0]) if counted else None
        file = self._directory.create(file_name)
        try:
            originals = None if self._contents.originals is None else self._contents.originals.select(rows)
            explicit = None if first_id is not None else ids
            rows_to_write = Contents(self._rows.select(rows), IdMap(rows.size, explicit, None, names), originals)
            crc = write_file(file, self._codec, FileContents(self._centering, rows_to_write.segments(), {}))
        finally:
            file.close()
        segment = Segment(number, rows.size, self._directory.size(file_name), crc, first_id)
        first, last = int(rows[0]), int(rows[-1]) + 1
        return _Held(first, last, None if last - first == rows.size else rows, segment)

    def _write_bits(self, part: _Held, live: Bits, written: list[str]) -> list[_Held]:
        """Write which rows of a segment are removed, if that is new; a segment without rows goes."""
        there = part.of(live)
        left = int(np.count_nonzero(there))
        assert part.segment is not None
        if left == 0:
            return []
        if left == part.segment.live:
            return [part]
        number, _ = self._take_name("removed", written)
        removed = write_removed(self._directory, number, ~there)
        return [replace(part, segment=replace(part.segment, removed=removed))]

    def _sweep(self) -> None:
        """Remove files that no manifest names: merged ones, and what a crash left. Failing is no harm."""
        needed = self._manifest.names
        with suppress(OSError):
            for name in self._directory.names():
                if is_ours(name) and name not in needed:
                    with suppress(OSError):
                        self._directory.remove(name)

    def _remap(self) -> None:
        """Map what was committed from its files: memory goes, of removed rows too."""
        with suppress(OSError, MemoryError):  # what is in memory is as good
            self._attach(*read_snapshot(self._directory, self._mmap, not self._mmap))


def _ids(manifest: Manifest, parts: Sequence[Part]) -> I64 | None:
    """Return the ids of all rows, None if row i has id i and that is all there ever was."""
    firsts = np.cumsum([0, *(segment.rows for segment in manifest.segments)])
    counted = all(s.first_id == first for s, first in zip(manifest.segments, firsts, strict=False))
    if counted and manifest.next_id == firsts[-1]:
        return None
    ids = [ids_of(segment, stored) for segment, (stored, _) in zip(manifest.segments, parts, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *ids])


def _names(folder: Path, parts: Sequence[Part]) -> StringIds | None:
    """Return the names of all rows."""
    named = names_of(str(folder), [stored for stored, _ in parts])
    if len(named) < 2:
        return named[0] if named else None
    together = StringIds()
    for names in named:
        together.extend(names)
    return together
