"""The commit algorithm: what changes on disk when the rows in memory have changed.

Rows in memory keep their places from one commit to the next: those of all segments one after the other, then those
added since. So a commit compares two things: which file holds which rows, and which rows are live. It writes

* rows that no file holds as new segments;
* segments that ``merge.py`` chooses as new segments without their removed rows;
* a file of bits for each other segment of which more rows are removed than before;
* the links that differ from those of the last commit, if there is a graph (``links.py``);
* a manifest that names the files.

Links are numbers of rows. A segment that is rewritten without its removed rows changes the numbers of the rows after
it, so their links are written again. Segments at the end are rewritten most often, and few rows come after them.

It then publishes the manifest, which is the moment at which readers see the commit, and removes the files that the
manifest does not name. FORMAT.md describes the order of writes and syncs that makes this safe at any crash.

A commit fails in one of two ways. Before the manifest is published, or if another writer published instead, the new
files are removed and nothing has changed. Otherwise the manifest on disk may be the old or the new one, so the new
files stay; a later sweep removes those that are not named. In both cases the rows in memory are untouched, and the
commit can be repeated.

A `CommitWriter` never changes: a commit returns the next one. The store takes it by one assignment together with the
rows in memory, and only then sweeps. So an interrupt at any point leaves a writer whose files all exist.

This module knows directories only as `Directory`, and no index: it is given a `State`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.protocol import Backend
from ..center import Centering
from ..codes.codec import Codec
from ..directory.protocol import Directory, OutputFile
from ..errors import StoreError
from ..linking import renumbered
from ..rows.bitmap import bits_of
from ..rows.contents import Contents
from ..rows.graph import Graph
from ..rows.ids import IdMap
from .entries import GraphEntry, LinksEntry, RemovedEntry, SegmentEntry, file_name
from .links import write_links
from .manifest import NEXT, Manifest, is_ours, prepare_manifest, publish_manifest
from .merge import MERGE_BYTES, merge_runs
from .removed import write_removed
from .segments import write_segment
from .sharing import next_sharing

__all__ = ["CommitWriter", "State"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
Bits = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class State:
    """What a commit is to put on disk.

    Attributes
    ----------
    codec : Codec
        Tables of the codes.
    centering : Centering
        Spec and center.
    contents : Contents
        Rows, ids and originals in memory, removed rows included.
    meta : mapping
        Notes of the user.
    backend : Backend
        It links rows whose neighbors are removed.
    """

    codec: Codec
    centering: Centering
    contents: Contents
    meta: Mapping[str, Any]
    backend: Backend

    @property
    def live(self) -> Bits:
        """A bit for each row in memory: whether it is live."""
        count, words = self.contents.ids.rows_ever, self.contents.ids.live
        return np.ones(count, np.bool_) if words is None else bits_of(words, count)

    @property
    def max_segment_rows(self) -> int:
        """Most rows of a segment; segments with as many live rows are not merged."""
        originals = self.contents.originals
        vector_bytes = 0 if originals is None else originals.bytes_per_vector
        return max(1, MERGE_BYTES // (self.codec.spec.bytes_per_vector + vector_bytes))


# All links are written as one file once those after the first file are this share of it, or so many files.
_LINKS_SHARE, _LINKS_FILES = 0.5, 32


@dataclass(frozen=True, eq=False)
class _SegmentRows:
    """Which rows in memory a segment holds: those from `first` to before `last`, or only `rows` among them."""

    first: int
    last: int
    rows: I64 | None
    entry: SegmentEntry | None  # None: no file holds them yet

    def select(self, bits: Bits) -> Bits:
        """Return the bits of its rows, out of bits for all rows in memory."""
        in_range = bits[self.first : self.last]
        return in_range if self.rows is None else in_range[self.rows - self.first]

    @property
    def count(self) -> int:
        """Number of its rows."""
        return self.last - self.first if self.rows is None else self.rows.size

    @property
    def numbers(self) -> I64:
        """Its rows in memory, ascending."""
        return np.arange(self.first, self.last) if self.rows is None else self.rows


class _FileNumbers:
    """The numbers of files. A commit that fails does not free its numbers."""

    def __init__(self, first: int) -> None:
        self.next = first

    def take(self) -> int:
        """Return the next number."""
        number = self.next
        self.next += 1
        return number


class CommitWriter:
    """The last commit of a store, and how the next one is written.

    Parameters
    ----------
    directory : Directory
        Where its files lie.
    manifest : Manifest
        The last commit. The rows in memory are those of its segments, one after the other.
    version : str or None
        The version of the manifest, from before it was read (`Directory.version`).
    graph : Graph or None
        The graph of that commit, as it was read.
    ids : IdMap or None
        The ids of that commit, as they were read. Only needed where there are several writers.
    """

    def __init__(
        self,
        directory: Directory,
        manifest: Manifest,
        version: str | None,
        graph: Graph | None = None,
        ids: IdMap | None = None,
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.ids = ids
        # Writers of commits of which nobody knows whether they were published, each with the token of its manifest.
        self.unsure: list[tuple[str, CommitWriter]] = []
        self._version = version
        self._graph = graph  # of the last commit, whose numbers are those of rows in files
        self._links = None if graph is None else graph.links  # those in memory that it was made from
        self._numbers = _FileNumbers(manifest.next_file)
        self._segments: list[_SegmentRows] = []
        first = 0
        for entry in manifest.segments:
            self._segments.append(_SegmentRows(first, first + entry.rows, None, entry))
            first += entry.rows

    def _next(self, manifest: Manifest, version: str | None, graph: Graph | None) -> CommitWriter:
        """Return the writer after a commit, for rows in memory that were read from its files."""
        following = CommitWriter(self.directory, manifest, version, graph)
        following._numbers = self._numbers
        return following

    def reread(self, manifest: Manifest, graph: Graph | None) -> CommitWriter:
        """Return the writer of the same commit for rows in memory that were read from its files again."""
        following = self._next(manifest, self._version, graph)
        following.unsure = self.unsure
        return following

    @property
    def is_renumbered(self) -> bool:
        """Whether the links in its files number rows otherwise than those in memory."""
        return self._graph is not None and self._graph.links is not self._links

    def commit(self, state: State, *, merge: bool) -> CommitWriter:
        """Put a state on disk and return the next writer: this one if the last commit has that state.

        Parameters
        ----------
        state : State
            What to write.
        merge : bool
            Whether to rewrite segments that ``merge.py`` chooses.
        """
        live = state.live
        segments = self._all_segments(state)
        if not self._has_changes(state, segments, live):
            return self
        selected = [segment.select(live) for segment in segments]
        rows, live_rows = [bits.size for bits in selected], [int(np.count_nonzero(bits)) for bits in selected]
        runs = merge_runs(rows, live_rows, state.max_segment_rows) if merge else []
        if self._has_other_layout(state):
            runs = [slice(0, len(segments))]
        return self._write(state, segments, runs, live)

    def compact(self, state: State) -> CommitWriter:
        """Put a state on disk without removed rows, in as few segments as possible; return the next writer."""
        live = state.live
        segments = self._all_segments(state)
        is_compact = all(segment.select(live).all() for segment in segments) and all(
            segment.select(live).size == state.max_segment_rows for segment in segments[:-1]
        )
        if is_compact and not self._has_changes(state, segments, live):
            return self
        return self._write(state, segments, [slice(0, len(segments))], live)

    def sweep(self) -> None:
        """Remove the store's files that nobody needs. A failure is harmless: a later sweep repeats it.

        In a folder these are all that the manifest does not name. In a bucket others may need them (``sharing.py``).
        """
        named = self.manifest.names | (set() if self.manifest.sharing is None else set(self.manifest.sharing.retired))
        with suppress(OSError):
            for name in self.directory.removable():
                if is_ours(name) and name not in named:
                    with suppress(OSError):
                        self.directory.remove(name)

    def _all_segments(self, state: State) -> list[_SegmentRows]:
        """Return the segments of the last commit, then segments of the rows that no file holds."""
        first = self._segments[-1].last if self._segments else 0
        count, step = state.contents.ids.rows_ever, state.max_segment_rows
        new = [_SegmentRows(start, min(start + step, count), None, None) for start in range(first, count, step)]
        return [*self._segments, *new]

    def _has_changes(self, state: State, segments: Sequence[_SegmentRows], live: Bits) -> bool:
        last = self.manifest
        if (state.meta, state.contents.ids.next_id, state.centering.text) != (last.meta, last.next_id, last.center):
            return True
        for segment in segments:
            live_rows = np.count_nonzero(segment.select(live))
            if live_rows != (0 if segment.entry is None else segment.entry.live):
                return True
        return self._has_other_graph(state.contents.graph)

    def _has_other_layout(self, state: State) -> bool:
        """Return whether rows became records since the last commit, or cease to be records."""
        return (state.contents.graph is None) != (self.manifest.graph is None)

    def _has_other_graph(self, graph: Graph | None) -> bool:
        """Return whether a graph has other links than that of the last commit, or another curve, or other entries."""
        last = self.manifest.graph
        if graph is None or last is None:
            return graph is not None or last is not None
        known = last.rule, last.curve, last.many_entries
        return graph.links is not self._links or (graph.rule, graph.curve, graph.many_entries) != known

    def _write(self, state: State, segments: Sequence[_SegmentRows], runs: Sequence[slice], live: Bits) -> CommitWriter:
        """Write a commit in which each run of segments is rewritten; return the next writer."""
        created: list[str] = []
        published = False
        try:
            after = self._write_segments(state, segments, runs, live, created)
            entry, graph = self._write_graph(state, after, created)
            self._check_kept(after, entry, created)
            originals = state.contents.originals
            entries = tuple(segment.entry for segment in after if segment.entry is not None)
            manifest = Manifest(
                state.centering.spec,
                None if originals is None else originals.kind,
                self.manifest.commit + 1,
                self._numbers.next,
                state.contents.ids.next_id,
                entries,
                deepcopy(dict(state.meta)),  # a later change inside of it must count as a change
                state.centering.text,
                entry,
            )
            manifest = replace(manifest, sharing=next_sharing(self.directory, self.manifest, manifest))
            created.append(NEXT)
            prepare_manifest(self.directory, manifest)
            self.directory.sync()  # the names of the new files, before a manifest names them
            published = True  # perhaps, from here on
            version = publish_manifest(self.directory, self._version)
        except BaseException as error:
            if not published or isinstance(error, StoreError):
                for name in created:
                    with suppress(OSError):
                        self.directory.remove(name)
            elif manifest.sharing is not None:
                self.unsure.append((manifest.sharing.tokens[-1], self._after(state, manifest, None, graph, after)))
            raise
        return self._after(state, manifest, version, graph, after)

    def _after(
        self,
        state: State,
        manifest: Manifest,
        version: str | None,
        graph: Graph | None,
        segments: list[_SegmentRows],
    ) -> CommitWriter:
        """Return the writer after a commit of a state."""
        following = self._next(manifest, version, graph)
        following._segments = segments
        following._links = None if state.contents.graph is None else state.contents.graph.links
        following.ids = state.contents.ids
        return following

    def _check_kept(self, after: Sequence[_SegmentRows], graph: GraphEntry | None, created: Sequence[str]) -> None:
        """Raise StoreError if a file that the next manifest names, and that is not new, is gone or another one.

        Objects in a bucket are never replaced, and are removed only after no manifest has named them for long.
        """
        if self.directory.writer is not None:
            return
        links = () if graph is None else graph.files
        for entry in (*(segment.entry for segment in after), *links):
            if entry is None or entry.name in created:
                continue
            try:
                found = self.directory.size(entry.name)
            except FileNotFoundError:
                found = None
            if found != entry.size:
                shown = "is missing" if found is None else f"has {found} bytes; expected {entry.size}"
                raise StoreError(
                    f"{self.directory.describe(entry.name)} {shown}: it was removed or replaced while the store was "
                    "open for writing; what is in memory can be saved to a file with `save`"
                )

    def _write_segments(
        self, state: State, segments: Sequence[_SegmentRows], runs: Sequence[slice], live: Bits, created: list[str]
    ) -> list[_SegmentRows]:
        """Write new segments and bits; return which segments hold which rows afterwards."""
        after: list[_SegmentRows] = []
        stops = {run.start: run.stop for run in runs}
        step = state.max_segment_rows
        at = 0
        while at < len(segments):
            stop = stops.get(at, at + 1)
            if at in stops or segments[at].entry is None:
                first, last = segments[at].first, segments[stop - 1].last
                rows = np.flatnonzero(live[first:last]) + first
                parts = [rows[start : start + step] for start in range(0, rows.size, step)]
                after += [self._write_segment(state, part, created) for part in parts]
            else:
                after += self._write_removed(segments[at], live, created)
            at = stop
        return after

    def _create(self, ending: str, created: list[str]) -> tuple[int, str, OutputFile]:
        """Create the next file, and return its number and name, too."""
        number = self._numbers.take()
        name = file_name(number, self.directory.writer, ending)
        file = self.directory.create(name)
        created.append(name)  # only now: a name that is taken belongs to another commit
        return number, name, file

    def _write_segment(self, state: State, rows: I64, created: list[str]) -> _SegmentRows:
        """Write some rows, ascending, as a segment."""
        number, name, file = self._create("vqi", created)
        try:
            entry = write_segment(
                self.directory,
                file,
                name,
                number,
                state.codec,
                state.centering,
                state.contents,
                rows,
                self.directory.writer,
            )
        finally:
            file.close()
        first, last = int(rows[0]), int(rows[-1]) + 1
        return _SegmentRows(first, last, None if last - first == rows.size else rows, entry)

    def _write_removed(self, segment: _SegmentRows, live: Bits, created: list[str]) -> list[_SegmentRows]:
        """Write which rows of a segment are removed, if that has changed; drop a segment without live rows."""
        bits, entry = segment.select(live), segment.entry
        live_rows = int(np.count_nonzero(bits))
        if live_rows == 0 or entry is None:
            return []
        if live_rows == entry.live:
            return [segment]
        number, _, file = self._create("removed", created)
        try:
            crc = write_removed(file, ~bits)
        finally:
            file.close()
        removed = RemovedEntry(number, entry.rows - live_rows, crc, self.directory.writer)
        return [replace(segment, entry=replace(entry, removed=removed))]

    def _write_graph(
        self, state: State, after: Sequence[_SegmentRows], created: list[str]
    ) -> tuple[GraphEntry | None, Graph | None]:
        """Write the links that differ from those of the last commit.

        Return what the manifest says of the graph, and the graph whose numbers are those of rows in files.
        """
        graph, last = state.contents.graph, self._graph
        if graph is None:
            return None, None
        numbers = _numbers(after, state.contents.ids.rows_ever)
        if numbers is not None:
            keep = np.zeros(graph.linked, np.bool_)
            keep[numbers[: np.searchsorted(numbers, graph.linked)]] = True
            graph = renumbered(state.contents, keep, state.backend)
        files = self.manifest.links
        is_same_rule = last is not None and last.rule == graph.rule and last.bytes_per_row == graph.bytes_per_row
        if last is None or not files or not is_same_rule:
            files, first, changed = (), 0, np.empty(0, np.uint32)
        else:
            first = min(last.linked, graph.linked, self._same_rows(numbers))
            changed = _differing(graph.links[:first], last.links[:first])
            size = (graph.linked - first + changed.size) * graph.bytes_per_row
            if sum(file.size for file in files[1:]) + size > _LINKS_SHARE * files[0].size or len(files) >= _LINKS_FILES:
                files, first, changed = (), 0, changed[:0]
        if graph.linked > first or changed.size or (files and files[-1].linked != graph.linked):
            number, name, file = self._create("links", created)
            try:
                crc = write_links(file, graph, first, changed)
            finally:
                file.close()
            size = self.directory.size(name)
            writer = self.directory.writer
            files = (*files, LinksEntry(number, first, graph.linked, changed.size, size, crc, writer))
        return GraphEntry(graph.rule, graph.curve, files, graph.many_entries), graph

    def _same_rows(self, numbers: I64 | None) -> int:
        """Return how many of the first rows in files are the same as in the last commit, given those of the next."""
        rows_ever = self._segments[-1].last if self._segments else 0
        old = _numbers(self._segments, rows_ever)
        if old is None and numbers is None:
            return rows_ever
        old = np.arange(rows_ever) if old is None else old
        new = np.arange(rows_ever) if numbers is None else numbers
        count = min(old.size, new.size)
        differ = np.flatnonzero(old[:count] != new[:count])
        return int(differ[0]) if differ.size else count


def _numbers(segments: Sequence[_SegmentRows], rows_ever: int) -> I64 | None:
    """Return the rows in memory that segments hold, in their order; None if they hold all."""
    if sum(segment.count for segment in segments) == rows_ever:
        return None
    return np.concatenate([np.empty(0, np.int64), *(segment.numbers for segment in segments)])


def _differing(links: U8, others: U8) -> U32:
    """Return the rows whose links differ, ascending."""
    step = 2**16
    parts = [
        np.flatnonzero((links[at : at + step] != others[at : at + step]).any(axis=1)) + at
        for at in range(0, len(links), step)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.uint32)
