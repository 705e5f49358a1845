"""Opening an index for the commands: a ``.vqi`` file, or the folder of a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import vqindex
from vqindex.backends.registry import Device
from vqindex.store.manifest import BUILD_PLAN, MANIFEST, is_ours
from vqindex_datasets import DatasetError
from vqindex_datasets.files import check_content, check_file

from .stopping import checkpoint, identity_of, in_blocks

__all__ = ["changing", "check_index", "open_index"]

_EXPECTED = "an index file (.vqi) or the folder of a store"


def check_index(path: Path) -> None:
    """Raise for a path that is neither a file nor the folder of a store; opening a pipe would wait for its writer."""
    if path.is_dir():
        names = os.listdir(path)
        if MANIFEST not in names:
            found = "holds files of an index, but not its manifest" if any(map(is_ours, names)) else "holds no index"
            if BUILD_PLAN in names:
                found = f"holds an unfinished build ({BUILD_PLAN}), which the same command goes on with"
            raise click.ClickException(f"{path}: a folder that {found}; expected {_EXPECTED}")
        return
    try:
        check_file(path, _EXPECTED)
        check_content(path, _EXPECTED)
    except DatasetError as error:
        raise click.ClickException(str(error)) from None


def open_index(path: Path, *, mmap: bool = False, device: Device = "auto") -> vqindex.VQIndex:
    """Open an index for reading."""
    check_index(path)
    if path.is_dir():
        return vqindex.open(path, mmap=mmap, device=device)
    return vqindex.VQIndex.load(path, mmap=mmap, device=device)


@contextmanager
def changing(path: Path, *, device: Device = "auto") -> Iterator[vqindex.VQIndex]:
    """Give an index, and write its changes to disk at the end, unless an exception is raised.

    A file is replaced as a whole if the index changed; a store gets a commit.
    """
    check_index(path)
    before_file = identity_of(path / MANIFEST if path.is_dir() else path)

    def left() -> str:
        same = identity_of(path / MANIFEST if path.is_dir() else path) == before_file
        return f"{path} is unchanged" if same else f"{path} is changed as asked"

    with in_blocks(left):
        if path.is_dir():
            with vqindex.open(path, "a", device=device) as store:
                yield store
                checkpoint()
            return
        index = vqindex.VQIndex.load(path, device=device)
        before = index.changes, dict(index.meta)
        yield index
        checkpoint()
        if (index.changes, index.meta) != before:
            _save(index, path)


def _save(index: vqindex.VQIndex, path: Path) -> None:
    try:
        index.save(path)
    except vqindex.StoreError:
        raise vqindex.StoreError(
            f"{path} was changed by another writer meanwhile; nothing was written; run the command again"
        ) from None
