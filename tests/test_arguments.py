"""Plain arguments: paths, devices and numbers of threads are taken in every usual form, or named in the error."""

import os
from pathlib import Path

import numpy as np
import pytest

import vqindex
from vqindex import BackendError, InvalidInputError, VQIndex

X = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


@pytest.fixture
def index():
    index = VQIndex(8, metric="cosine")
    index.add(X)
    return index


def test_paths_of_every_form_are_taken_and_what_is_no_path_is_named(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (b"bytes.vqi", os.fsencode("\u00fc \u65e5.vqi"), Path("object.vqi"), "text.vqi"):
        index.save(path)
        for mmap in (False, True):
            assert VQIndex.load(path, mmap=mmap).search(X[7], 1).ids.tolist() == [7]
    with vqindex.open(b"store", "a", dim=8) as store:
        store.add(X)
    with vqindex.open("store") as store:
        assert (store.path, len(store)) == (Path("store"), 40)
    before = sorted(os.listdir(tmp_path))
    for wrong in (None, 3, "", b"", "a\0b", ["a.vqi"], object()):
        for call in (index.save, VQIndex.load, lambda path: vqindex.open(path, "a", dim=8)):
            with pytest.raises(InvalidInputError, match=r"path is .*; expected the path of a file or folder"):
                call(wrong)
    with pytest.raises(InvalidInputError, match=r"s3://b/x\.vqi is a URL"):
        index.save(b"s3://b/x.vqi")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("device", [["cpu"], {"cpu"}, None, 0])
def test_what_is_no_device_is_named(index, device):
    for call in (lambda: VQIndex(8, device=device), lambda: index.to(device)):
        with pytest.raises(BackendError, match=r"device is .*; this build has: auto, cpu"):
            call()
    assert index.search(X[7], 1).ids.tolist() == [7]


def test_any_number_of_threads_gives_the_same_results(index):
    want = index.search(X, 5)
    for threads in (1, 2**31, 2**63, 2**70):
        for got, expected in zip(index.search(X, 5, threads=threads), want, strict=True):
            np.testing.assert_array_equal(got, expected)
        assert index.range_search(X[7], 0.99, threads=threads).ids.tolist() == [7]


def test_a_numpy_bool_says_whether_to_rerank(index):
    kept = VQIndex(8, metric="cosine", keep_vectors="f32")
    kept.add(X)
    exact = kept.search(X[:5], 3, rerank=True)
    np.testing.assert_array_equal(kept.search(X[:5], 3, rerank=np.True_).scores, exact.scores)
    np.testing.assert_array_equal(kept.search(X[:5], 3, rerank=np.False_).scores, kept.search(X[:5], 3).scores)
    with pytest.raises(InvalidInputError, match="the index keeps no vectors"):
        index.search(X[:5], 3, rerank=np.True_)
