"""`vqindex.open`: opening the store in a folder, or creating one."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..arguments import as_path
from ..backends.registry import Device
from ..directory.local import LocalDirectory
from ..directory.lock import LOCK
from ..directory.obstore_client import is_url
from ..errors import FileFormatError, InvalidInputError
from ..rows.originals import Kind
from ..spec import CodecName, Metric, RotationName, SketchName
from .buckets import Place, open_bucket
from .durable import DurableIndex
from .manifest import (
    BUILD_PLAN,
    MANIFEST,
    NEXT,
    Manifest,
    is_ours,
    load_manifest,
    prepare_manifest,
    publish_manifest,
)
from .parameters import check_parameters, first_manifest

__all__ = ["discard_store", "open_store"]


def open_store(
    path: str | os.PathLike[str],
    mode: str = "r",
    *,
    dim: int | None = None,
    bits: int | None = None,
    metric: Metric | None = None,
    codec: CodecName | None = None,
    sketch: SketchName | None = None,
    rotation: RotationName | None = None,
    seed: int | None = None,
    keep_vectors: Kind | None = None,
    center: Any = None,
    graph: int | None = None,
    device: Device = "auto",
    mmap: bool = True,
    verify: bool | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> DurableIndex:
    """Open the index in a folder or a bucket, or create one there.

    Parameters
    ----------
    path : str or path
        The folder, or the URL of a bucket and a prefix: ``s3://bucket/prefix``, ``gs://bucket/prefix``,
        ``az://account/container/prefix``, or ``memory:name`` in this process. They need ``vqindex[s3]``, Python 3.11.
    mode : one of {"r", "a"}
        "r" reads the last commit and keeps it, whatever a writer does meanwhile. "a" reads and writes. It creates the
        index if `dim` is given and the folder holds none. Only one writer can have an index in a folder open at a time.
        An index in a bucket may have any number of writers (`DurableIndex.commit`).
    dim, bits : int, optional
        As for `VQIndex`. A new index gets these parameters and the next ones; those of an existing index must be equal.
    metric, codec, sketch, rotation : str, optional
        As for `VQIndex`.
    seed : int, optional
        As for `VQIndex`.
    keep_vectors : str, optional
        As for `VQIndex`.
    center : array-like of float, shape (dim,), or "mean", optional
        As for `VQIndex`. "mean" is the mean of the first vectors added; the next commit stores it. An existing index
        that has a center can also be opened with "mean" and keeps its center.
    graph : int, optional
        As for `VQIndex`: most links of a row. `DurableIndex.build_graph` gives an existing index a graph.
    device : str, default "auto"
        As for `VQIndex`.
    mmap : bool, default True
        Map codes and scalars instead of reading them.
    verify : bool, optional
        Check every block against its checksum. Default: only without `mmap`. Headers and the manifest are always
        checked.
    cache : str or path, optional
        For a URL: the folder for copies of the files, which processes may share. Default: the user's folder for caches,
        and a temporary folder for ``memory:``. Copies are checked before they are used.
    cache_bytes : int, optional
        For a URL: most bytes of all copies in the folder. Those that were not used for the longest time are removed
        first. Default: no limit.
    storage_options : dict, optional
        For a URL: settings for obstore, such as ``region``, ``endpoint``, ``access_key_id`` and ``secret_access_key``,
        and ``client_options`` and ``retry_config``. Default: the environment's.

    Returns
    -------
    DurableIndex

    Raises
    ------
    FileNotFoundError
        If there is no index, and none is created.
    StoreError
        If another writer has it open.
    StorageError
        If the object store refuses a request or does not answer.
    FileFormatError
        If a file is missing, damaged or of an unknown version, or the folder holds other files.
    InvalidInputError
        If the mode is neither, or parameters differ from those of the index.
    """
    parameters = {
        "dim": dim, "bits": bits, "metric": metric, "codec": codec,
        "sketch": sketch, "rotation": rotation, "seed": seed, "keep_vectors": keep_vectors, "center": center,
        "graph": graph,
    }  # fmt: skip
    parameters = {name: value for name, value in parameters.items() if value is not None}
    verify = not mmap if verify is None else verify
    if is_url(path):
        place = Place(str(path), cache, cache_bytes, storage_options)
        return open_bucket(place, mode, parameters, device, mmap, verify)
    for name, value in (("cache", cache), ("cache_bytes", cache_bytes), ("storage_options", storage_options)):
        if value is not None:
            raise InvalidInputError(f"{name} is for an index in a bucket; {path!r} is a folder")
    return _open(LocalDirectory(as_path(path)), mode, parameters, device, mmap, verify)


def _open(
    directory: LocalDirectory, mode: str, parameters: dict[str, Any], device: str, mmap: bool, verify: bool
) -> DurableIndex:
    folder = directory.folder
    if mode not in ("r", "a"):
        raise InvalidInputError(f"mode is {mode!r}; expected 'r' or 'a'")
    if folder.is_file():
        raise FileFormatError(f"{folder} is a file; expected a folder (VQIndex.load reads a .vqi file)")
    if directory.version(MANIFEST) is None:
        _check_absent(directory, may_create=mode == "a" and "dim" in parameters)
    lock = None
    if mode == "a":
        is_new = directory.version(MANIFEST) is None
        if is_new:
            first = _first_commit(folder, parameters)
            if not directory.path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, "there is no such folder to make a store in", str(folder.parent))
            directory.make_folder()
    try:
        lock = directory.lock() if mode == "a" else None
        if lock is not None and is_new and directory.version(MANIFEST) is None:
            prepare_manifest(directory, first)
            publish_manifest(directory, expected=None)
        check_parameters(str(folder), load_manifest(directory), parameters)
        return DurableIndex(directory, lock, device, mmap, verify)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _check_absent(directory: LocalDirectory, may_create: bool) -> None:
    """Raise for a folder without a manifest in which no index can be made, or may be.

    One with segments had an index, perhaps until its manifest was lost: a new index would remove them.
    """
    folder, found = directory.folder, "does not exist"
    if directory.path.is_dir():
        segments = [name for name in directory.names() if is_ours(name) and name != NEXT]
        if directory.version(MANIFEST) is not None:  # another process has made an index since
            return
        if segments:
            if directory.version(BUILD_PLAN) is not None:
                text = (
                    f"is missing: {folder} holds an unfinished build ({BUILD_PLAN}), which the same call goes on with"
                )
                raise FileNotFoundError(errno.ENOENT, text, directory.describe(MANIFEST))
            text = f"is missing, but {folder} holds files of an index ({segments[0]}); expected the manifest with them"
            raise FileNotFoundError(errno.ENOENT, text, directory.describe(MANIFEST))
        found = "holds no index"
    if not may_create:
        raise FileNotFoundError(errno.ENOENT, f"{found}; mode 'a' with dim= makes an index in a folder", str(folder))


def _first_commit(folder: Path, parameters: dict[str, Any]) -> Manifest:
    """Return the manifest of a new store; FileFormatError if its folder holds files of another kind."""
    first = first_manifest(parameters)
    known = {LOCK, MANIFEST}
    others = (
        [p.name for p in folder.iterdir() if p.name not in known and not is_ours(p.name)] if folder.is_dir() else []
    )
    if others:
        raise FileFormatError(f"{folder} is not an index and holds {min(others)!r}; expected an empty or a new folder")
    return first


def discard_store(path: str | os.PathLike[str]) -> None:
    """Remove the index in a folder, if there is one: its manifest first, then its other files. The folder stays."""
    directory = LocalDirectory(Path(path))
    is_whole = directory.version(MANIFEST) is not None
    if not is_whole and not (directory.path.is_dir() and any(map(is_ours, directory.names()))):
        return
    lock = directory.lock()
    try:
        if is_whole:
            directory.remove(MANIFEST)
            directory.sync()
        for name in filter(is_ours, directory.names()):
            directory.remove(name)
    finally:
        lock.release()
