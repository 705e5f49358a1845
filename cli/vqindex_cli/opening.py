"""Opening an index for the commands: a ``.vqi`` file, or the folder of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vqindex

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
    if path.is_dir():
        with vqindex.open(path, "a", device=device) as store:
            yield store
        return
    index = vqindex.VQIndex.load(path, device=device)
    before = len(index), dict(index.meta)
    yield index
    if index.stats()["removed"] or (len(index), index.meta) != before:
        try:
            index.save(path)
        except vqindex.StoreError:
            raise vqindex.StoreError(
                f"{path} was changed by another writer meanwhile; nothing was written; run the command again"
            ) from None
