"""Reports of vectors that came back after they were deleted, were lost, or answered under another's id."""

import numpy as np
import pytest
from reports import DIM, index_of, nearest, rows, same

import vqindex
from vqindex import InvalidInputError, UnknownIdError, VQIndex

X = rows()


# hnswlib #309: an id that was deleted and added again stayed deleted.
def test_an_id_that_was_removed_can_be_added_again():
    index = index_of(X[:2], [12, 3])
    index.remove(3)
    assert 3 not in index
    with pytest.raises(UnknownIdError, match="id 3 is not in the index"):
        index.reconstruct(3)
    index.add(X[5:6], [3])
    assert (nearest(index, X[5:6]), index.ids.tolist(), len(index)) == ([3], [12, 3], 2)


# hnswlib #321: after deletions some queries raised an exception.
# hnswlib #344: with half of the vectors deleted, some queries got 1 result of 100.
def test_k_results_are_found_whatever_was_removed():
    x = rows(2000)
    index = index_of(x)
    assert index.remove(range(0, 2000, 2)) == 1000
    left = index.search(x, 100).ids
    assert (left % 2 == 1).all()
    assert index.remove(range(3, 2000, 2)) == 999
    assert (index.search(x, 3).ids == [1, -1, -1]).all()


# hnswlib #62: two vectors could have one label.
# chroma #4076: an id that existed was skipped with a line in the log.
def test_an_id_that_is_taken_is_refused_and_nothing_is_added():
    index = index_of(X[:3], [1, 2, 3])
    with pytest.raises(InvalidInputError, match=r"id 3 is already in the index \(1 of 2"):
        index.add(X[3:5], [4, 3])
    with pytest.raises(InvalidInputError, match="ids are given twice: 7"):
        index.add(X[3:5], [7, 7])
    assert index.ids.tolist() == [1, 2, 3]
    index.add(X[3:5], [4, 7])
    assert nearest(index, X[:5]) == [1, 2, 3, 4, 7]


# hnswlib #190: a label got another vector, and the ranking stayed as it was.
# hnswlib #160: what a second vector under a label means was unclear.
def test_an_upsert_changes_the_ranking():
    index = index_of(X[:4], [1, 2, 3, 4])
    index.upsert([2], X[40:41])
    assert nearest(index, X[40:41]) == [2]
    assert index.search(X[1], 4).scores[0] > 1, "no vector near the old one is left"
    assert len(index) == 4


# hnswlib #236: one id was twice in a result.
# arangodb #23253: merging the lists of several threads repeated results.
def test_no_id_is_twice_in_a_result():
    x = rows(3000)
    index = index_of(x)
    index.upsert(np.arange(0, 3000, 3), x[::3])
    for threads in (1, 4):
        ids = index.search(x[:50], 200, threads=threads).ids
        assert all(len(set(line)) == 200 for line in ids.tolist())


# usearch #445: after all keys were removed and added in another order, each found another.
def test_vectors_added_again_in_any_order_keep_their_ids():
    index = index_of(X[:3], [1, 2, 3])
    for order in ([2, 1, 3], [3, 1, 2], [1, 2, 3]):
        index.remove(order)
        index.add(X[:3], [1, 2, 3])
        assert nearest(index, X[:3]) == [1, 2, 3]


# chroma #2532: deleted records came back in results before the index was written.
def test_removed_vectors_stay_away_before_and_after_a_commit(tmp_path):
    with vqindex.open(tmp_path / "s", "a", dim=DIM, metric="l2") as store:
        store.add(X)
        store.commit()
        store.remove(range(10))
        assert not np.isin(store.search(X, 60).ids, range(10)).any()
    with vqindex.open(tmp_path / "s") as store:
        assert not np.isin(store.search(X, 60).ids, range(10)).any()
        assert len(store) == 50


# ChromaDB.Client #31: delete said that it removed ids that were not there.
def test_remove_counts_what_was_there():
    index = index_of(X)
    assert (index.remove([3, 3, 1000, 4]), index.remove([3]), index.remove([])) == (2, 0, 0)
    assert len(index) == 58


# hnswlib #30: labels that are strings.
def test_strings_are_ids():
    names = [f"doc-{i}" for i in range(59)] + ["\u65e5\u672c \u00e9"]
    assert nearest(index_of(X, names), X) == names


# turbovec #398: a change that failed half way left rows that answered under the ids of later ones.
@pytest.mark.parametrize("keep", [None, "f16"])
def test_vectors_added_after_a_change_that_failed_answer_under_their_ids(keep):
    index = index_of(X[:20], np.arange(20), keep_vectors=keep)
    wrong = X[20:40].copy()
    wrong[-1, -1] = np.nan
    for call in (lambda: index.add(wrong, np.arange(20, 40)), lambda: index.upsert(np.arange(10, 30), wrong)):
        with pytest.raises(InvalidInputError, match=r"vectors\[19, 15\] is nan"):
            call()
    index.add(X[40:], np.arange(40, 60))
    assert nearest(index, np.concatenate([X[:20], X[40:]])) == [*range(20), *range(40, 60)]


# turbovec #444: removing a vector gave its place to another, and masks meant other vectors.
def test_removing_vectors_keeps_the_order_that_masks_have():
    index = index_of(X)
    index.remove([1, 30])
    assert index.ids.tolist() == [i for i in range(60) if i not in (1, 30)]
    mask = index.ids == 59
    assert index.search(X[0], 2, filter=mask).ids.tolist() == [59, -1]
    with pytest.raises(InvalidInputError, match=r"mask of shape \(60,\); expected \(58,\)"):
        index.search(X, 2, filter=np.ones(60, bool))


# mem0 #7117: after a damaged file was passed over, new vectors got the ids of old ones.
# txtai #86: changes needed a new index.
def test_numbering_goes_on_after_a_load(tmp_path):
    index = index_of(X[:30])
    index.remove([29])
    index.save(tmp_path / "a.vqi")
    loaded = VQIndex.load(tmp_path / "a.vqi")
    loaded.add(X[30:])
    assert loaded.ids.tolist() == [*range(29), *range(30, 60)]
    assert nearest(loaded, X[[5, 45]]) == [5, 45]


# faiss #3498: merging into an index on disk made results wrong.
def test_a_merge_keeps_every_vector_under_its_id(tmp_path):
    for mmap in (False, True):
        index_of(X[:30], np.arange(30)).save(tmp_path / "a.vqi")
        index = VQIndex.load(tmp_path / "a.vqi", mmap=mmap)
        index.merge(index_of(X[30:], np.arange(30, 60)))
        assert nearest(index, X) == list(range(60))
        same(index.search(X, 5), index_of(X).search(X, 5))
