"""What a round is about: a ``.vqi`` file or a store, by the same calls."""

import os
from pathlib import Path

import vqindex
from vqindex import VQIndex, file_format
from vqindex.directory.lock import LOCK
from vqindex.store import verify_store
from vqindex.store.manifest import read_manifest

__all__ = ["FileSubject", "StoreSubject", "names_in"]


def names_in(folder):
    """Return {name: bytes} of the files of a folder, but not of its lock."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.name != LOCK}


class FileSubject:
    """A ``.vqi`` file, alone in its folder."""

    is_store = False

    def __init__(self, folder, setup):
        self.folder, self.setup = folder, setup
        self.path = folder / "index.vqi"

    def create(self):
        self.folder.mkdir()
        VQIndex(**self.setup.parameters).save(self.path)

    def open(self, mmap=False, verify=None):
        """Open it for reading."""
        return VQIndex.load(self.path, mmap=mmap, verify=verify)

    def edit(self, path=None, mmap=False):
        """Open it for writing, by another path if one is given."""
        return VQIndex.load(path or self.path, mmap=mmap)

    def put(self, index, random):
        """Put the changes of an index on disk."""
        index.save(self.path)

    def close(self, index):
        pass

    def verify(self):
        file_format.verify(self.path)

    def leftovers(self):
        """Return names of files that should not be there any more."""
        return sorted(set(os.listdir(self.folder)) - {self.path.name})


class StoreSubject:
    """The store in a folder."""

    is_store = True

    def __init__(self, folder, setup):
        self.folder, self.setup = folder, setup
        self.path = folder / "store"

    def create(self):
        self.folder.mkdir()
        vqindex.open(self.path, "a", **self.setup.parameters).close()

    def open(self, mmap=True, verify=None):
        return vqindex.open(self.path, mmap=mmap, verify=verify)

    def edit(self, path=None, mmap=True):
        return vqindex.open(path or self.path, "a", mmap=mmap, **self.setup.parameters)

    def put(self, index, random):
        if random.random() < 0.1:
            index.compact()
        else:
            index.commit(merge=random.random() < 0.8)

    def close(self, index):
        index.close()

    def verify(self):
        verify_store(self.path)

    def leftovers(self):
        return sorted(set(os.listdir(self.path)) - read_manifest(self.path).names - {LOCK})
