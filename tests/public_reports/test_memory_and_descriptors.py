"""Reports of memory and descriptors that were never given back."""

import gc
import os
import sys

import numpy as np
import pytest
from reports import index_of, rows

import vqindex
from vqindex import VQIndex

X = rows(2000)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts by /proc")


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def megabytes():
    """Resident memory that is not of a file."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


# chroma #1379 and qdrant #1259: too many open files after a while.
# langchain #13409: the files of a client could not be closed.
# xagent #322: every look at a table left it open.
@linux
@pytest.mark.parametrize("mmap", [False, True])
def test_files_and_stores_that_were_let_go_leave_no_descriptor(tmp_path, mmap):
    index_of(X[:50]).save(tmp_path / "a.vqi")
    (tmp_path / "bad.vqi").write_bytes(b"no index")

    def use():
        VQIndex.load(tmp_path / "a.vqi", mmap=mmap).search(X[:2], 3)
        with vqindex.open(tmp_path / "s", "a", dim=16) as store:
            store.add(X[:5])
        vqindex.open(tmp_path / "s", mmap=mmap).search(X[:2], 3)  # not closed
        with pytest.raises(vqindex.FileFormatError):
            VQIndex.load(tmp_path / "bad.vqi", mmap=mmap)
        with pytest.raises(FileNotFoundError):
            vqindex.open(tmp_path / "none")

    use()
    before = descriptors()
    for _ in range(10):
        use()
    assert descriptors() == before


# faiss #2170 and #2054: memory grew with every search.
# faiss #2996: a filter was never given back.
@linux
def test_searches_and_filters_leave_no_memory():
    index, ids = index_of(X), np.arange(0, 2000, 2)

    def use():
        for _ in range(200):
            index.search(X[:20], 100, filter=ids)
            index.search(X[:20], 10, return_stderr=True)

    use()
    before = megabytes()
    use()
    assert megabytes() - before < 4  # the lists of 200 results are 6 MB


# hnswlib #50: every load took more.
# faiss #1350: an index that another replaced stayed in memory.
# chroma #3336: files that were read once stayed loaded.
@linux
@pytest.mark.parametrize("mmap", [False, True])
def test_an_index_that_was_let_go_leaves_no_memory(tmp_path, mmap):
    index_of(np.resize(X, (100_000, 16)), keep_vectors="f32").save(tmp_path / "a.vqi")

    def use():
        for _ in range(4):
            VQIndex.load(tmp_path / "a.vqi", mmap=mmap).search(X[:2], 3)

    use()
    before = megabytes()
    use()
    assert megabytes() - before < 4  # one copy is 8 MB


# faiss #969: many small inserts took far more memory than their vectors.
def test_many_small_additions_take_the_memory_of_one():
    parts = VQIndex(16, metric="l2")
    for start in range(0, 2000, 5):
        parts.add(X[start : start + 5])
    assert parts.stats()["memory_bytes"] <= 2 * index_of(X).stats()["memory_bytes"]
