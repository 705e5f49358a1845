"""The index that is served: opened at one moment, and again when its file or store changes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import vqindex
from vqindex.backends.registry import Device
from vqindex.store.manifest import MANIFEST

__all__ = ["Moment", "Source"]

_Identity = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Moment:
    """The index at one moment. Each request uses one from its start to its end.

    Attributes
    ----------
    index : VQIndex
        The index, which nobody changes.
    commit : int or None
        Commit of the store; None for a file.
    number : int
        How often the index was opened before.
    identity : tuple of int
        Tells the file, or the manifest, from those that replace it.
    """

    index: vqindex.VQIndex
    commit: int | None
    number: int
    identity: _Identity

    @property
    def has_string_ids(self) -> bool:
        """Whether ids are strings."""
        index = self.index.__vqindex__() if isinstance(self.index, vqindex.DurableIndex) else self.index
        return index._ids.string_ids is not None


class Source:
    """Opens an index again whenever it has changed.

    Parameters
    ----------
    path : Path
        A ``.vqi`` file, or the folder of a store.
    device : str
        As for `VQIndex`.
    mmap : bool
        Map codes instead of reading them.
    """

    def __init__(self, path: Path, device: Device = "auto", *, mmap: bool = True) -> None:
        self.path, self._device, self._mmap = path, device, mmap
        self._opened = 0
        self.moment = self._open()

    def refresh(self) -> bool:
        """Open the index again if it has changed since; return whether it has. Searches go on with the old one."""
        if self._identity() == self.moment.identity:
            return False
        self.moment = self._open()  # by one assignment; the old one is freed with the last request that uses it
        return True

    def _identity(self) -> _Identity:
        found = os.stat(self.path / MANIFEST if self.path.is_dir() else self.path)
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _open(self) -> Moment:
        identity = self._identity()  # before: what changes meanwhile is noticed the next time
        index: vqindex.VQIndex
        commit = None
        if self.path.is_dir():
            index = vqindex.open(self.path, "r", mmap=self._mmap, device=self._device)
            commit = index.stats()["commit"]
        else:
            index = vqindex.VQIndex.load(self.path, mmap=self._mmap, device=self._device)
        number, self._opened = self._opened, self._opened + 1
        return Moment(index, commit, number, identity)
