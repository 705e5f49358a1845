"""`vqindex.open`: finding a store, or making a new one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..center import Centering
from ..directory.local import LocalDirectory
from ..directory.lock import LOCK
from ..errors import FileFormatError, InvalidInputError
from ..rows.originals import as_kind
from ..spec import IndexSpec
from .durable import DurableIndex
from .manifest import MANIFEST, Manifest, is_ours, load_manifest, prepare_manifest, publish_manifest

__all__ = ["discard_store", "open_store"]


def open_store(
    path: str | os.PathLike[str],
    mode: str = "r",
    *,
    dim: int | None = None,
    bits: int | None = None,
    metric: str | None = None,
    codec: str | None = None,
    sketch: str | None = None,
    rotation: str | None = None,
    seed: int | None = None,
    keep_vectors: str | None = None,
    center: Any = None,
    device: str = "auto",
    mmap: bool = True,
    verify: bool | None = None,
) -> DurableIndex:
    """Open an index that lives in a folder, or make a new one there.

    Parameters
    ----------
    path : str or path
        The folder.
    mode : {"r", "a"}
        "r" reads the last commit and keeps to it, whatever a writer does meanwhile. "a" reads and writes; there can be
        one such at a time, and it makes the folder if `dim` is given and there is none.
    dim, bits : int, optional
        As for `VQIndex`, for a new index; so the next ones. Those given for one that is there must be its own.
    metric, codec, sketch, rotation : str, optional
        As for `VQIndex`.
    seed : int, optional
        As for `VQIndex`.
    keep_vectors : str, optional
        As for `VQIndex`.
    center : {"mean"} or array-like of float, shape (dim,), optional
        As for `VQIndex`: the mean of the first vectors added, which the next commit keeps. An index that is there and
        has a center can also be opened with "mean"; its center stays.
    device : str, default "auto"
        As for `VQIndex`.
    mmap : bool, default True
        Map codes and scalars instead of reading them.
    verify : bool, optional
        Check every block against its checksum. Default: only without `mmap`; headers and manifest are checked always.

    Returns
    -------
    DurableIndex

    Raises
    ------
    FileNotFoundError
        If there is no index, and none is made.
    StoreError
        If another writer has it open.
    FileFormatError
        If a file is missing, damaged or of an unknown version, or the folder holds other things.
    InvalidInputError
        A mode that is neither, or parameters that are not the index's.
    """
    given = {
        "dim": dim, "bits": bits, "metric": metric, "codec": codec,
        "sketch": sketch, "rotation": rotation, "seed": seed, "keep_vectors": keep_vectors, "center": center,
    }  # fmt: skip
    wanted = {name: value for name, value in given.items() if value is not None}
    return _open(LocalDirectory(Path(path)), mode, wanted, device, mmap, not mmap if verify is None else verify)


def _open(
    directory: LocalDirectory, mode: str, wanted: dict[str, Any], device: str, mmap: bool, verify: bool
) -> DurableIndex:
    folder = directory.folder
    if mode not in ("r", "a"):
        raise InvalidInputError(f"mode is {mode!r}; expected 'r' or 'a'")
    if folder.is_file():
        raise FileFormatError(f"{folder} is a file; expected a folder (VQIndex.load reads a .vqi file)")
    lock = None
    if mode == "a":
        new = directory.version(MANIFEST) is None
        if new:
            first = _first_commit(folder, wanted)
            directory.make_folder()
        lock = directory.lock()
    try:
        if lock is not None and new and directory.version(MANIFEST) is None:
            prepare_manifest(directory, first)
            publish_manifest(directory, expected=None)
        _check_spec(directory, wanted)
        return DurableIndex(directory, lock, device, mmap, verify)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _first_commit(folder: Path, wanted: dict[str, Any]) -> Manifest:
    if "dim" not in wanted:
        raise FileNotFoundError(f"{folder} holds no index; give dim= to make one")
    spec = IndexSpec(**{name: value for name, value in wanted.items() if name not in ("keep_vectors", "center")})
    first = Manifest(spec, as_kind(wanted.get("keep_vectors")), center=Centering.of(spec, wanted.get("center")).text)
    known = {LOCK, MANIFEST}
    others = (
        [p.name for p in folder.iterdir() if p.name not in known and not is_ours(p.name)] if folder.is_dir() else []
    )
    if others:
        raise FileFormatError(f"{folder} is not an index and holds {min(others)!r}; expected an empty or a new folder")
    return first


def _check_spec(directory: LocalDirectory, wanted: dict[str, Any]) -> None:
    folder, manifest = directory.folder, load_manifest(directory)
    own = {**manifest.spec.as_dict(), "keep_vectors": manifest.keep_vectors}
    there = Centering.from_text(manifest.spec, manifest.center)
    given = Centering.of(manifest.spec, wanted.pop("center", None))
    if given.on and given.text != there.text and not (given.pending and there.on):
        raise InvalidInputError(f"center is {given.describe()}; the index in {folder} has {there.describe()}")
    for name, value in wanted.items():
        if own[name] != value:
            raise InvalidInputError(f"{name} is {value!r}; the index in {folder} has {own[name]!r}")


def discard_store(path: str | os.PathLike[str]) -> None:
    """Remove the index in a folder, if there is one: its manifest first, then its other files. The folder stays."""
    directory = LocalDirectory(Path(path))
    if directory.version(MANIFEST) is None:
        return
    lock = directory.lock()
    try:
        directory.remove(MANIFEST)
        directory.sync()
        for name in filter(is_ours, directory.names()):
            directory.remove(name)
    finally:
        lock.release()
