"""Reports of searches that returned what a filter excludes, or nothing of what it allows."""

import numpy as np
import pytest
from reports import index_of, rows, same

import vqindex
from vqindex import InvalidInputError

X = rows(200)
INDEX = index_of(X)


def allowed(ids, q=X[:9], k=5):
    """The k nearest of some ids by the order of an unfiltered search."""
    everything = INDEX.search(q, 200).ids
    return [[i for i in line if i in set(ids)][:k] for line in everything.tolist()]


# faiss #3156: an allowed id far above the size of the index ended in an access violation.
# qdrant #7425: one id in a list made the whole filter find nothing.
def test_unknown_ids_in_a_filter_change_nothing():
    known = [3, 50, 51, 99, 120, 7]
    for unknown in ([], [200], [10**9, 2**63 - 1]):
        assert INDEX.search(X[:9], 5, filter=known + unknown).ids.tolist() == allowed(known)
        same(INDEX.search(X[:9], 5, filter=vqindex.exclude(unknown)), INDEX.search(X[:9], 5))


# faiss #3112: allowed vectors that exist were not found.
# faiss #3186: a bitmap that allows a few vectors found none.
@pytest.mark.parametrize("count", [1, 5, 63, 64, 65, 199])
def test_every_allowed_vector_is_found(count):
    ids = np.sort(np.random.default_rng(count).permutation(200)[:count])
    mask = np.isin(np.arange(200), ids)
    packed = vqindex.bitmap(np.packbits(mask, bitorder="little"))
    for form in (ids, mask, packed, set(ids.tolist()), vqindex.exclude(np.flatnonzero(~mask))):
        found = INDEX.search(X[:9], count, filter=form).ids
        assert (np.sort(found, axis=1) == ids).all()


# k-NN #1435: the size of a bitmap was taken for the number of its bits, and the last vectors were never found.
@pytest.mark.parametrize("n", [63, 64, 65, 127, 128, 129])
def test_a_bitmap_reaches_the_last_vector(n):
    index, mask = index_of(X[:n]), np.zeros(n, bool)
    mask[-1] = True
    for form in (mask, vqindex.bitmap(np.packbits(mask, bitorder="little"))):
        assert index.search(X[:3], 2, filter=form).ids.tolist() == [[n - 1, -1]] * 3


# faiss #5211: a bitmap of another size was dropped in silence, and all vectors came back.
@pytest.mark.parametrize("wrong", [np.ones(24, np.uint8), np.ones(26, np.uint8), np.ones(3, np.uint64)])
def test_a_bitmap_of_another_size_is_refused(wrong):
    with pytest.raises(InvalidInputError, match=r"bitmap of uint.* has shape .*bits of 200 vectors"):
        INDEX.search(X, 5, filter=vqindex.bitmap(wrong))


# faiss #2843: an index with ids of its own took no filter.
def test_filters_mean_ids_and_not_rows():
    index = index_of(X[:50], np.arange(1000, 1050))
    assert index.search(X[3], 2, filter=[1007, 7]).ids.tolist() == [1007, -1]
    assert index.search(X[3], 1, filter=vqindex.exclude([1003])).ids[0] != 1003


# faiss #5592: one way of scanning did not apply the filter.
# faiss #3924: the filter had no effect on one device.
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_every_way_of_searching_applies_the_filter(device):
    index, some = index_of(X, device=device, keep_vectors="f32"), [5, 60, 61]
    assert set(index.range_search(X, np.inf, filter=some).ids.tolist()) == set(some)
    for q in (X[0], X[:2], X):
        for settings in ({}, {"rerank": True}, {"confidence": 1}, {"return_stderr": True}):
            assert set(index.search(q, 5, filter=some, **settings).ids.ravel().tolist()) == {*some, -1}


# qdrant-client #1372: a filter was ignored where two stages search.
# WeKnora #2440: filtering after the best k had been chosen lost all results.
def test_a_filter_comes_before_the_shortlist():
    index = index_of(X, keep_vectors="f32")
    far = index.search(X[0], 200).ids[-5:]  # in no shortlist of an unfiltered search
    for rerank in (True, X, lambda ids: X[ids]):
        found = index.search(X[0], 5, filter=far, rerank=rerank, oversample=1)
        assert set(found.ids.tolist()) == set(far.tolist())
        np.testing.assert_allclose(np.sort(found.scores), np.sort(((X[far] - X[0]) ** 2).sum(axis=1)), rtol=1e-6)


# qdrant-client #1368: a condition that nothing can meet returned the whole collection.
# qdrant-client #1333: an empty list of conditions matched the wrong points.
@pytest.mark.parametrize("nothing", [[], set(), np.array([], int), np.zeros(200, bool), range(0)])
def test_an_empty_filter_allows_nothing(nothing):
    assert (INDEX.search(X[:9], 5, filter=nothing).ids == -1).all()
    assert INDEX.range_search(X[:9], np.inf, filter=nothing).ids.size == 0


# qdrant #1086: results outside the filter.
# qdrant #7855: points of another set than the filter's.
def test_each_query_has_its_own_filter():
    filters = [range(i * 20, i * 20 + 20) for i in range(9)]
    found = INDEX.search(X[:9], 5, filter=filters).ids
    assert (found // 20 == np.arange(9)[:, None]).all()
    assert found.tolist() == [allowed(ids, X[i : i + 1])[0] for i, ids in enumerate(filters)]


# qdrant-client #405: a list within a list had no effect.
# hnswlib #417: a function as filter.
def test_what_is_no_filter_is_an_error_and_never_ignored():
    for wrong in (lambda i: True, {"color": "red"}, "red", [[[1, 2]]], [1.5], object(), (i for i in range(3))):
        with pytest.raises(InvalidInputError, match=r"filter|ids"):
            INDEX.search(X[0], 5, filter=wrong)
    with pytest.raises(InvalidInputError, match=r"all 0 or 1.*expected a bool mask"):
        INDEX.search(X[0], 5, filter=np.arange(200) % 2)


# faiss-serving #4: places without a result were looked up as if they were ids.
def test_a_source_of_vectors_is_never_asked_for_missing_results():
    asked = []

    def vectors_of(ids):
        asked.append(ids)
        assert len(ids)
        assert (ids >= 0).all()
        return X[ids]

    assert INDEX.search(X[:2], 5, filter=[], rerank=vectors_of).ids.tolist() == [[-1] * 5] * 2
    assert INDEX.search(X[:2], 5, filter=[3, 4], rerank=vectors_of).ids[:, 2:].max() == -1
    assert [ids.tolist() for ids in asked] == [[3, 4]]
