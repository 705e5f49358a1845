"""Edits of index files that end with a valid seal, as another writer might write them."""

import contextlib
import os

import h5py

from vqindex.file_format import seal


def reseal(path):
    """Write the seal of a file's bytes, if it has one. In huge files only the length is valid."""
    size = os.stat(path).st_size
    with open(path, "r+b", buffering=0) as file:
        if file.read(8) != seal.MAGIC:
            return
        if size < 2**26:
            seal.write_seal(file)
        else:
            file.seek(0)
            file.write(seal.page_of(seal.Seal(size, 0)))


@contextlib.contextmanager
def edited(path):
    """Open a file with h5py for changes, and seal it again."""
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        yield file
    reseal(path)
