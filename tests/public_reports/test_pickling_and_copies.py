"""Reports of indexes that could not be copied or sent, or whose copies shared what changes."""

import copy
import inspect
import io
import pickle
import weakref

import numpy as np
import pytest
from reports import index_of, nearest, rows, same

import vqindex
from vqindex import VQIndex

X = rows()


# annoy #367 and #634: an index could not be pickled.
# hnswlib #605: one of two kinds could not.
# faiss #2945: pickling failed with an error of the file format.
@pytest.mark.parametrize("codec", ["turboquant-prod", "turboquant-mse", "trellis"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_kind_of_index_can_be_pickled_by_every_protocol(codec, protocol):
    index = index_of(X, codec=codec)
    index.remove([7])
    twin = pickle.loads(pickle.dumps(index, protocol))
    same(twin.search(X, 5), index.search(X, 5))
    assert twin.ids.tolist() == index.ids.tolist()


# turbovec #149: a copy shared the index, and changes of one showed in the other.
# faiss #2773: an index of some kinds could not be cloned.
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_shares_nothing_that_changes(how):
    index = index_of(X)
    twin = how(index)
    twin.upsert([3], X[:1] + 9)
    twin.remove([4])
    twin.meta["a"] = 1
    same(index.search(X, 5), index_of(X).search(X, 5))
    index.remove([5])
    assert (len(index), len(twin), index.meta) == (59, 59, {})
    assert nearest(twin, X[5:6]) == [5]


# turbovec #148: a pickle was an empty store.
# langchain #789: a pickle held a pointer.
def test_a_pickle_has_the_vectors_themselves():
    data = pickle.dumps(index_of(X, [f"d{i}" for i in range(60)], keep_vectors="f32"))
    assert len(data) > X.nbytes
    twin = pickle.loads(data)
    assert nearest(twin, X) == [f"d{i}" for i in range(60)]
    assert twin.search(X, 1, rerank=True).scores.max() == 0


# dnnr #36: an estimator that holds an index could not be pickled.
def test_an_estimator_with_an_index_goes_through_joblib():
    joblib = pytest.importorskip("joblib")
    neighbors = pytest.importorskip("vqindex.integrations.sklearn").VQNearestNeighbors
    fitted, file = neighbors(n_neighbors=3).fit(X), io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    same(joblib.load(file).kneighbors(X), fitted.kneighbors(X))
    same(copy.deepcopy(fitted).kneighbors(), fitted.kneighbors())


# turbovec #340: signatures hid parameters, and indexes took no weak reference.
def test_indexes_are_ordinary_objects():
    index = index_of(X)
    assert weakref.ref(index)() is index
    for kind in (VQIndex, vqindex.DurableIndex):
        for name in ("search", "range_search", "add", "upsert", "remove", "save"):
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(
                inspect.signature(getattr(VQIndex, name)).parameters
            )
        assert kind.__module__.startswith("vqindex")


# towhee #2522 and superduper #1910: what holds an index could not be pickled either.
def test_results_filters_specs_and_errors_can_be_pickled():
    index = index_of(X)
    found = index.search(X, 3, return_stderr=True)
    again = pickle.loads(pickle.dumps(found))
    same(again, found)
    np.testing.assert_array_equal(again.stderr, found.stderr)
    assert pickle.loads(pickle.dumps(index.spec)) == index.spec
    some = pickle.loads(pickle.dumps(vqindex.exclude([3])))
    assert 3 not in index.search(X[3], 5, filter=some).ids
    with pytest.raises(vqindex.UnknownIdError) as raised:
        index.reconstruct(99)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


# faiss #1608: memory of Python was damaged after arrays had been given away.
def test_what_was_given_may_change_afterwards():
    given, ids, q = X.copy(), np.arange(60) + 7, X[:5].copy()
    index = index_of(given, ids, keep_vectors="f32", center=X.mean(axis=0))
    found = index.search(q, 3)
    kept = [array.copy() for array in found]
    given[:], ids[:], q[:] = 0, 0, 0
    same(found, kept)
    found.ids[:] = 0
    assert nearest(index, X) == list(range(7, 67))
    assert index.search(X, 1, rerank=True).scores.max() == 0
    assert index.ids.tolist() == list(range(7, 67))
