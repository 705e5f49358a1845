"""Reports of results that changed from run to run, with the batch, with k, or from machine to machine."""

import locale
import time

import numpy as np
import pytest
from reports import index_of, rows, same

from vqindex import VQIndex

X = rows(700)


# faiss #563 and #1808: distances changed with the number of queries of a call.
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
def test_scores_do_not_depend_on_the_batch(codec):
    index = index_of(X, codec=codec)
    whole = index.search(X, 5)
    for size in (1, 5, 19, 20, 64, 699):
        same(index.search(X[:size], 5), [array[:size] for array in whole])


# faiss #983, #1073, #2548: an index built twice from the same data gave other results.
# hnswlib #65: only one thread built the same index twice.
def test_an_index_built_twice_is_the_same_file(tmp_path):
    index_of(X).save(tmp_path / "a.vqi")
    parts = VQIndex(16, metric="l2")
    for start in range(0, 700, 97):
        parts.add(X[start : start + 97])
    parts.save(tmp_path / "b.vqi")
    assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes()


# pyserini #1255: the first ten of a hundred results were not the ten results.
def test_a_smaller_k_gives_the_first_of_a_larger_one():
    index = index_of(np.repeat(X, 2, axis=0))  # with ties
    large = index.search(X, 100)
    for k in (1, 2, 10, 11):
        same(index.search(X, k), [array[:, :k] for array in large])


# faiss #2854: results differed between machines.
# jvector #235: the vectorized code had another recall than the plain one.
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_compiled_and_plain_code_give_the_same_results(metric):
    compiled, plain = index_of(X, metric=metric), index_of(X, metric=metric, device="reference")
    same(compiled.search(X, 9), plain.search(X, 9))


# faiss #3482: results differed after saving and loading.
def test_a_loaded_index_gives_the_same_results(tmp_path):
    index = index_of(X, keep_vectors="int8")
    index.save(tmp_path / "a.vqi")
    for mmap in (False, True):
        loaded = VQIndex.load(tmp_path / "a.vqi", mmap=mmap)
        same(loaded.search(X, 9), index.search(X, 9))
        same(loaded.search(X, 9, rerank=True), index.search(X, 9, rerank=True))


# parson #142 and GoldenCheetah #365: numbers of a file were misread where a comma is the decimal point.
def test_files_do_not_depend_on_locale_and_time_zone(tmp_path, monkeypatch):
    index = index_of(X)
    index.meta["share"] = 0.5
    index.save(tmp_path / "a.vqi")
    before = locale.setlocale(locale.LC_ALL)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_ALL, name)
            except locale.Error:
                continue  # not on this machine
            monkeypatch.setenv("TZ", "Pacific/Kiritimati")
            getattr(time, "tzset", lambda: None)()
            loaded = VQIndex.load(tmp_path / "a.vqi")
            assert loaded.meta == {"share": 0.5}
            loaded.save(tmp_path / "b.vqi")
            assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes()
    finally:
        locale.setlocale(locale.LC_ALL, before)
        monkeypatch.undo()
        getattr(time, "tzset", lambda: None)()
