"""Copying an index from a folder to a bucket and back: `push_store` and `pull_store`.

Both copy the files of one commit, and publish the manifest last. So a reader of the target finds the whole commit or
none of it. A copy that was stopped goes on where it was: files that are there already are not copied again.

In a bucket the name of a pushed file holds a part of the SHA-256 of its bytes, so equal names have equal bytes. Where
the target has an index, old files that it does not name may be swept at any moment. Such a file is put again under
another name.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..directory.local import LocalDirectory
from ..directory.lock import LOCK
from ..directory.object_client import ConditionFailed, ObjectEntry
from ..directory.objects import GRACE, ObjectDirectory
from ..directory.protocol import NamedFile
from ..errors import FileFormatError, StoreError
from .buckets import check_absent
from .copies import files_of
from .entries import GraphEntry, LinksEntry, RemovedEntry, SegmentEntry
from .manifest import MANIFEST, Manifest, is_ours, load_manifest, load_with_version, prepare_manifest, publish_manifest
from .sharing import next_sharing

__all__ = ["Copied", "pull_store", "push_store"]

Entry = TypeVar("Entry", SegmentEntry, RemovedEntry, LinksEntry)
Progress = Callable[[int, int], object]
_AT_ONCE = 2  # files of up to 256 MiB, in memory
_CHUNK = 2**20


class Copied(NamedTuple):
    """What a copy did.

    Attributes
    ----------
    commit : int
        The commit that the target has now.
    files : int
        How many files were copied.
    bytes : int
        Their bytes.
    present : int
        How many files were there already.
    """

    commit: int
    files: int
    bytes: int
    present: int


# ---- from a folder to a bucket


def push_store(
    folder: Path, target: ObjectDirectory, *, replaces: bool = False, progress: Progress | None = None
) -> Copied:
    """Copy the last commit of a store to a bucket and publish it there, once.

    Parameters
    ----------
    folder : Path
        The store. A writer may have it open.
    target : ObjectDirectory
        The prefix. It holds no index, or an earlier commit of this one.
    replaces : bool, default False
        Whether any index that is there is replaced.
    progress : callable, optional
        Called with the bytes that are copied so far, and all of them.

    Raises
    ------
    StoreError
        If the prefix holds another index, or a writer publishes there meanwhile.
    FileFormatError
        If a file of the store is missing or damaged.
    StorageError
        If the object store refuses a request or does not answer.
    """
    source = LocalDirectory(folder)
    manifest = load_manifest(source)
    while True:
        try:
            return _pushed(source, manifest, target, replaces, progress)
        except FileNotFoundError as error:  # noqa: PERF203
            newer = load_manifest(source)
            if newer == manifest:
                raise FileFormatError(
                    f"{source.describe(MANIFEST)}: names {error.filename}, which is missing"
                ) from None
            manifest = newer  # a writer has committed and removed files


def _pushed(
    source: LocalDirectory, manifest: Manifest, target: ObjectDirectory, replaces: bool, progress: Progress | None
) -> Copied:
    try:
        there, version = load_with_version(target)
    except FileNotFoundError:
        there, version = None, None
    if there is not None:
        if _is_same(manifest, there):
            return Copied(there.commit, 0, 0, len(files_of(there)))
        if not replaces and not _extends(manifest, there):
            raise StoreError(
                f"{target.folder} holds another index, or commits that {source.folder} has not; nothing was published; "
                "expected a prefix without an index, or one with an earlier commit of this one"
            )
    kept = set() if there is None else there.names
    published_at = target.published_at
    found = {entry.name: entry for entry in target.client.list()}
    files = files_of(manifest)
    digests = {file.name: _digest(source, file) for file in files}
    following = _renamed(manifest, {name: digest[:16] for name, digest in digests.items()})

    def is_safe(entry: ObjectEntry) -> bool:  # from sweeps, for as long as this copy may take
        return published_at is None or entry.name in kept or entry.modified > published_at - GRACE / 2

    unsafe = {
        file.name
        for file, renamed in zip(files, files_of(following), strict=True)
        if renamed.name in found and not is_safe(found[renamed.name])
    }
    following = _renamed(
        manifest, {name: secrets.token_hex(8) if name in unsafe else digests[name][:16] for name in digests}
    )
    missing = [
        (file, renamed.name)
        for file, renamed in zip(files, files_of(following), strict=True)
        if renamed.name not in found
    ]
    total, done = sum(file.size for file, _ in missing), 0
    _report(progress, 0, total)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for size in pool.map(lambda pair: _put(source, target, digests[pair[0].name], *pair), missing):
            done += size
            _report(progress, done, total)
    commit = manifest.commit if there is None else max(manifest.commit, there.commit + 1)
    following = replace(following, commit=commit)
    last = Manifest(manifest.spec) if there is None else there
    following = replace(following, sharing=next_sharing(target, last, following))
    prepare_manifest(target, following)
    publish_manifest(target, version)
    return Copied(commit, len(missing), total, len(files) - len(missing))


def _put(source: LocalDirectory, target: ObjectDirectory, digest: str, file: NamedFile, name: str) -> int:
    """Put a file. If the name is taken it has the same bytes: another copy of the same index is under way."""
    data = source.read(file.name, 0, file.size + 1)
    if hashlib.sha256(data).hexdigest() != digest:
        raise FileFormatError(f"{source.describe(file.name)}: was changed while it was read")
    with suppress(ConditionFailed):
        target.client.put_new(name, data)
        return len(data)
    if target.client.entry(name).size != len(data):
        raise StoreError(f"{target.describe(name)} is another object; expected a part of this index")
    return len(data)


def _digest(source: LocalDirectory, file: NamedFile) -> str:
    """Return the SHA-256 of a file, after a check that it is the one that the manifest names."""
    path = source.fetch(file.name)
    file.check(path)
    digest = hashlib.sha256()
    with open(path, "rb") as opened:
        while part := opened.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _renamed(manifest: Manifest, writers: dict[str, str]) -> Manifest:
    """Return a manifest of the same files under names that hold other writers; by the names of now."""

    def renamed(entry: Entry) -> Entry:
        return replace(entry, writer=writers[entry.name])

    segments = tuple(
        replace(renamed(segment), removed=None if segment.removed is None else renamed(segment.removed))
        for segment in manifest.segments
    )
    graph = manifest.graph
    if graph is not None:
        graph = GraphEntry(graph.rule, graph.curve, tuple(map(renamed, graph.files)), graph.many_entries)
    return replace(manifest, segments=segments, graph=graph)


def _bytes_of(entry: SegmentEntry) -> tuple[object, ...]:
    """Return what is the same for two segments of the same bytes, whatever their names."""
    return entry.size, entry.crc32, entry.rows, entry.first_id


def _is_same(manifest: Manifest, other: Manifest) -> bool:
    """Return whether two manifests are of the same index, name the same bytes, and have the same notes."""

    def shown(one: Manifest) -> object:
        segments = [
            (_bytes_of(segment), segment.removed and (segment.removed.rows, segment.removed.crc32))
            for segment in one.segments
        ]
        graph = one.graph and replace(one.graph, files=())
        links = [(each.first, each.linked, each.changed, each.size, each.crc32) for each in one.links]
        return one.spec, one.keep_vectors, one.center, one.next_id, one.meta, segments, graph, links

    return shown(manifest) == shown(other)


def _extends(manifest: Manifest, earlier: Manifest) -> bool:
    """Return whether a commit has all that an earlier one has: nobody has changed that one since it was pushed."""
    if (manifest.spec, manifest.keep_vectors) != (earlier.spec, earlier.keep_vectors):
        return False
    known = {_bytes_of(segment): segment for segment in manifest.segments}
    for segment in earlier.segments:
        same = known.get(_bytes_of(segment))
        if same is None or same.live > segment.live:  # more rows were removed there than here
            return False
    return bool(earlier.segments) or earlier.commit == 0


# ---- from a bucket to a folder


def pull_store(source: ObjectDirectory, folder: Path, *, progress: Progress | None = None) -> Copied:
    """Copy the last commit of an index in a bucket to a folder, and publish it there, once.

    Parameters
    ----------
    source : ObjectDirectory
        The prefix.
    folder : Path
        It is made if it is missing, and is empty or holds a part of an earlier copy. Its parent exists.
    progress : callable, optional
        Called with the bytes that are copied so far, and all of them.

    Raises
    ------
    FileNotFoundError
        If there is no index.
    FileFormatError
        If an object is missing or damaged, or the folder holds other files.
    StoreError
        If the folder holds another index or another commit, or a writer has it open.
    StorageError
        If the object store refuses a request or does not answer.
    """
    try:
        manifest = load_manifest(source)
    except FileNotFoundError:
        check_absent(source, "expected one to copy")
        raise
    target = LocalDirectory(folder)
    if not target.path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to make a store in", str(folder.parent))
    if target.path.is_dir() and target.version(MANIFEST) is None:
        _check_folder(target, {file.name for file in files_of(manifest)})  # before a lock makes its file there
    target.make_folder()
    lock = target.lock()
    try:
        return _pulled(source, manifest, target, progress)
    finally:
        lock.release()


def _pulled(source: ObjectDirectory, manifest: Manifest, target: LocalDirectory, progress: Progress | None) -> Copied:
    files = files_of(manifest)
    version = target.version(MANIFEST)
    if version is not None:
        if _is_same(manifest, load_manifest(target)):
            return Copied(manifest.commit, 0, 0, len(files))
        raise StoreError(f"{target.folder} holds another index, or another commit; expected an empty or a new folder")
    _check_folder(target, {file.name for file in files})
    missing = [file for file in files if not _is_there(target, file)]
    total, done = sum(file.size for file in missing), 0
    _report(progress, 0, total)
    for file in missing:
        _fetch(source, target, file)
        done += file.size
        _report(progress, done, total)
    prepare_manifest(target, replace(manifest, sharing=None))
    target.sync()  # the names of the files, before a manifest names them
    publish_manifest(target, None)
    return Copied(manifest.commit, len(missing), total, len(files) - len(missing))


def _check_folder(target: LocalDirectory, named: set[str]) -> None:
    """Raise FileFormatError for a folder that holds anything but parts of a copy from a bucket."""
    for name in target.names():
        is_part = is_ours(name) and (name in named or "-" in name or name == f"{MANIFEST}.tmp")
        if not (is_part or name == LOCK or (name.startswith(".") and name.endswith(".tmp"))):
            raise FileFormatError(
                f"{target.folder} is not a copy of an index and holds {name!r}; expected an empty or a new folder"
            )


def _is_there(target: LocalDirectory, file: NamedFile) -> bool:
    """Return whether an earlier copy has the file; a damaged one is removed."""
    if target.version(file.name) is None:
        return False
    try:
        file.check(target.fetch(file.name))
    except FileFormatError:
        target.remove(file.name)
        return False
    return True


def _fetch(source: ObjectDirectory, target: LocalDirectory, file: NamedFile) -> None:
    """Copy an object to a file that has its name only when all of it is on disk and checked."""
    temporary, opened = target.create_temporary(file.name)
    try:
        try:
            source.download(file, opened)
            opened.sync()
            file.check(target.path / temporary)
            target.publish(temporary, file.name, None)
        finally:
            opened.close()
    except BaseException as error:
        with suppress(OSError):
            target.remove(temporary)
        if isinstance(error, FileFormatError):
            raise FileFormatError(
                f"{source.describe(file.name)}: the object is not what the manifest names ({error})"
            ) from None
        raise
