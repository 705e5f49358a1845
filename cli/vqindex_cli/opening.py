"""Opening an index for the commands: a ``.vqi`` file, or the folder of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vqindex
from vqindex.store.manifest import MANIFEST

from .stopping import checkpoint, identity_of, in_blocks

__all__ = ["changing", "open_index"]


def open_index(path: Path, *, mmap: bool = False, device: str = "auto") -> vqindex.VQIndex:
    """Open an index for reading."""
    if path.is_dir():
        return vqindex.open(path, mmap=mmap, device=device)
    return vqindex.VQIndex.load(path, mmap=mmap, device=device)


@contextmanager
def changing(path: Path, *, device: str = "auto") -> Iterator[vqindex.VQIndex]:
    """Give an index, and write its changes to disk at the end, unless an exception is raised.

    A file is replaced as a whole if the index changed; a store gets a commit.
    """
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
        before = len(index), dict(index.meta)
        yield index
        checkpoint()
        if index.stats()["removed"] or (len(index), index.meta) != before:
            index.save(path)
