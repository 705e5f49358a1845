"""`vqindex.open` for URLs: opening the index under a prefix of a bucket, or creating one."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..arguments import as_path
from ..directory.cache import Cache, default_cache
from ..directory.objects import ManifestChangedError, ObjectDirectory
from ..directory.obstore_client import ObstoreClient
from ..errors import BackendError, InvalidInputError
from .durable import DurableIndex
from .manifest import MANIFEST, is_ours, prepare_manifest, publish_manifest
from .parameters import check_parameters, first_manifest
from .sharing import first_sharing

__all__ = ["Place", "check_absent", "open_bucket", "open_directory"]


class Place(NamedTuple):
    """Where an index lies in a bucket, and where its copies lie on this machine.

    Attributes
    ----------
    url : str
        The bucket and the prefix.
    cache : str, path or None
        The folder for copies; None for the user's folder for caches.
    cache_bytes : int or None
        Most bytes of copies.
    storage_options : mapping or None
        Settings for obstore.
    """

    url: str
    cache: str | os.PathLike[str] | None = None
    cache_bytes: int | None = None
    storage_options: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Place {self.url}>"  # the options may be secret


def open_directory(place: Place) -> ObjectDirectory:
    """Return a prefix of a bucket as a directory; no request is made.

    Raises
    ------
    ImportError
        If obstore is not installed.
    InvalidInputError
        If the URL, the options or the cache are not valid.
    """
    options = place.storage_options
    if options is not None and not isinstance(options, Mapping):
        raise InvalidInputError(f"storage_options is of type {type(options).__name__}; expected a dict")
    client = ObstoreClient(place.url, options)
    folder = None if client.is_memory else default_cache()
    if place.cache is not None:
        folder = as_path(place.cache)
        if folder.exists() and not folder.is_dir():
            raise InvalidInputError(f"cache is {str(folder)!r}, which is not a folder")
    return ObjectDirectory(client, Cache(client.url, folder, place.cache_bytes), MANIFEST)


def open_bucket(
    place: Place, mode: str, parameters: dict[str, Any], device: str, mmap: bool, verify: bool
) -> DurableIndex:
    """Open the index at a place, as `open_store`."""
    if mode not in ("r", "a"):
        raise InvalidInputError(f"mode is {mode!r}; expected 'r' or 'a'")
    reopening = None if place.storage_options else (_reopen, place.url, place.cache, place.cache_bytes)
    return open_in(open_directory(place), mode, parameters, device, mmap, verify, reopening)


def open_in(
    directory: ObjectDirectory,
    mode: str,
    parameters: dict[str, Any],
    device: str,
    mmap: bool,
    verify: bool,
    reopening: tuple[Any, ...] | None = None,
) -> DurableIndex:
    """Open the index in a directory of objects. Where there is one, this reads its manifest and nothing else."""
    lock = directory.lock() if mode == "a" else None
    try:
        index = DurableIndex(directory, lock, device, mmap, verify, reopening)
    except FileNotFoundError:
        index = None
    if index is None:
        may_create = mode == "a" and "dim" in parameters
        check_absent(directory, None if may_create else "mode 'a' with dim= makes an index there")
        _create(directory, parameters)
        index = DurableIndex(directory, lock, device, mmap, verify, reopening)
    if parameters:
        check_parameters(directory.folder, index._manifest, parameters)
    return index


def check_absent(directory: ObjectDirectory, advice: str | None) -> None:
    """Raise for a prefix without a manifest in which no index can be made, or, with `advice`, may be."""
    if any(map(is_ours, directory.names())):
        text = "is missing, but files of an index are there: a push is under way, or was stopped; repeat it"
        raise FileNotFoundError(errno.ENOENT, text, directory.describe(MANIFEST))
    if advice is not None:
        raise FileNotFoundError(errno.ENOENT, f"there is no index; {advice}", directory.folder)


def _create(directory: ObjectDirectory, parameters: dict[str, Any]) -> None:
    """Publish the manifest of a new index, unless another writer does so first."""
    manifest = replace(first_manifest(parameters), sharing=first_sharing(directory))
    prepare_manifest(directory, manifest)
    try:
        publish_manifest(directory, None)
    except ManifestChangedError:
        return


def _reopen(
    url: str, cache: str | os.PathLike[str] | None, cache_bytes: int | None, backend: str, mmap: bool
) -> DurableIndex:
    """Return the index of a pickle, on the backend it had, or on the CPU where that backend can't be used."""
    place = Place(url, cache, cache_bytes)
    try:
        return open_bucket(place, "r", {}, backend, mmap, not mmap)
    except BackendError:
        return open_bucket(place, "r", {}, "cpu", mmap, not mmap)
