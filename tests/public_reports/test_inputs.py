"""Reports of vectors that were misread, or killed the process: types, layouts, shapes, values, large k."""

import h5py
import numpy as np
import pytest
from reports import DIM, index_of, nearest, rows, same

from vqindex import InvalidInputError, VQIndex

X = rows()


# faiss #459: a slice of a matrix failed an assertion without a message.
# faiss #1941: a matrix in Fortran order was refused by search.
def test_strided_and_transposed_vectors_are_read_by_value():
    wide = np.repeat(X, 2, axis=1)
    for view in (np.asfortranarray(X), wide[:, ::2], X[::-1][::-1], np.broadcast_to(X, (1, *X.shape))[0]):
        index = index_of(view)
        same(index.search(view[:9], 5), index_of(X).search(X[:9], 5))


# faiss #461: float64 read from HDF5 ended in an error of the binding.
# graphrag-toolkit #260: the bytes of float64 were taken for float32.
def test_float64_and_hdf5_data_sets_have_the_values_of_float32(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=X.astype(np.float64))
        index = index_of(stored)
        same(index.search(stored, 5), index_of(X).search(X, 5))


# numpy #25178: big-endian float16 was computed wrongly.
@pytest.mark.parametrize("dtype", [">f2", "<f2", ">f4", ">f8", ">i4"])
def test_other_byte_orders_and_half_precision_keep_their_values(dtype):
    stored = (X * 100).astype(dtype)
    plain = stored.astype(np.float32)
    same(index_of(stored).search(stored, 5), index_of(plain).search(plain, 5))


# faiss #655: ids of a type the binding did not expect: "did not recognize array type".
@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", ">i8", "u8"])
def test_ids_of_any_integer_type_come_back_as_they_went_in(dtype):
    ids = np.arange(60).astype(dtype)[::-1]
    assert nearest(index_of(X, ids), X) == ids.tolist()


# turbovec #119: a count of 2**32 and more was cut to 32 bits, silently.
# faiss #1731: ids came back as numbers that nobody gave, such as 4458766603700305201.
def test_ids_beyond_32_bits_are_not_cut():
    ids = [2**32, 2**32 + 1, 1, 2**53 + 1, 2**63 - 1]
    assert nearest(index_of(X[:5], ids), X[:5]) == ids
    with pytest.raises(InvalidInputError, match="id 18446744073709551615 does not fit int64"):
        index_of(X[:1], np.array([2**64 - 1], np.uint64))


# faiss #2986: vectors with a NaN were added, and training and search went wrong later.
# matrixone #28881: an infinite value ended in a panic of the server.
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_when_added(value):
    index, wrong = index_of(X), X.copy()
    wrong[7, 3] = value
    with pytest.raises(InvalidInputError, match=r"vectors\[7, 3\] is -?(nan|inf); expected a finite"):
        index.add(wrong)
    assert nearest(index, X) == list(range(60))


# faiss #244: a query with a NaN got ids of -1 alone.
# spiceai #13091: a NaN counted as a perfect match.
# turbovec #105: a query with a NaN ended in a panic that could not be caught.
def test_a_query_that_is_not_finite_is_refused_by_name():
    wrong = X[:3].copy()
    wrong[2, 0] = np.nan
    for call in (index_of(X).search, lambda q: index_of(X).range_search(q, 1), lambda q: index_of(X).estimate(q, [1])):
        with pytest.raises(InvalidInputError, match=r"queries\[2, 0\] is nan"):
            call(wrong)


# knowhere #1676: the squared norm of a large finite vector overflowed, and its cosine became 0.
# matrixone #29082: cosines of tiny vectors were -inf.
@pytest.mark.parametrize("scale", [1e20, 1e-20, 1e37, 1e-35])
def test_cosines_do_not_depend_on_the_length_of_vectors(scale):
    scaled = (X * np.float64(scale)).astype(np.float32)
    index = index_of(scaled, metric="cosine", keep_vectors="f32")
    found = index.search(scaled, 1, rerank=True)
    assert found.ids[:, 0].tolist() == list(range(60))
    np.testing.assert_allclose(found.scores, 1, rtol=2e-7)  # one rounding to float32


# hnswlib #2: a single vector needed another dimension, and was misread without it.
def test_one_vector_is_a_query_and_is_named_where_many_are_expected():
    index = index_of(X)
    assert index.search(X[5], 3).ids.shape == (3,)
    same(index.search(X[5], 3), [array[0] for array in index.search(X[5:6], 3)])
    with pytest.raises(InvalidInputError, match=r"one vector; expected \(n, 16\), here vectors\[None\]"):
        index.add(X[5])
    assert len(index) == 60


# faiss #2250: an array of another kind was handed to C++ as it was.
@pytest.mark.parametrize("wrong", [X > 0, X.astype(complex), X.astype(str), X.astype(object), X[:, :7], X[None]])
def test_arrays_of_another_kind_are_refused_and_nothing_is_added(wrong):
    index = VQIndex(DIM)
    with pytest.raises(InvalidInputError, match=r"vectors have (dtype|shape|7 columns)"):
        index.add(wrong)
    assert len(index) == 0


# usearch #393: with k above the size of the index, keys were what lay in memory.
# faiss #1016: what an id of -1 means was nowhere to be found.
@pytest.mark.parametrize(("metric", "worst"), [("l2", np.inf), ("ip", -np.inf), ("cosine", -np.inf)])
def test_a_search_with_k_above_ntotal_fills_with_missing_ids(metric, worst):
    scores, ids = index_of(X[:7], metric=metric).search(X, 100)
    assert (np.sort(ids[:, :7], axis=1) == np.arange(7)).all()
    assert (ids[:, 7:] == -1).all()
    assert (scores[:, 7:] == worst).all()
    assert index_of(X[:7], [f"v{i}" for i in range(7)]).search(X[0], 9).ids[7:].tolist() == [None, None]


# faiss #3830: an empty index gave 0 instead of -1 for 20 and more queries.
@pytest.mark.parametrize("queries", [1, 19, 20, 500])
def test_an_empty_index_finds_nothing_for_any_number_of_queries(queries):
    scores, ids = VQIndex(DIM, metric="l2").search(rows(queries), 3)
    assert (ids == -1).all()
    assert (scores == np.inf).all()


# sqlite-vec #157: k above 4096 was an error.
# sqlite-vec #152: a query found nothing with k = 96 that it found with k = 384.
def test_k_is_not_limited_and_a_smaller_k_gives_the_head_of_a_larger_one():
    x = rows(5000)
    index = index_of(x)
    everything = index.search(x[:4], 5000)
    assert (np.sort(everything.ids, axis=1) == np.arange(5000)).all()
    for k in (1, 96, 384, 4097):
        same(index.search(x[:4], k), [array[:, :k] for array in everything])


# pgvector #196: the cosine distance of parallel vectors was negative.
def test_the_cosine_of_parallel_vectors_is_at_most_one():
    pair = np.array([[0.111] * 1536, [0.1] * 1536], np.float32)
    index = index_of(pair, metric="cosine", keep_vectors="f32")
    assert index.search(pair, 2, rerank=True).scores.max() <= 1


# hnswlib #130: the same vector many times over never came to an end.
def test_equal_vectors_are_all_found_in_the_order_they_came():
    index = index_of(np.repeat(X[:1], 3000, axis=0))
    assert index.search(X[0], 3000).ids.tolist() == list(range(3000))


# vectordb #10: an array of shape (0,), of a memory without texts, could not be unpacked.
def test_adding_nothing_changes_nothing():
    index = index_of(X)
    for nothing in ([], np.empty(0), np.empty((0, DIM)), np.empty((0, DIM), np.float64)):
        index.add(nothing)
        index.upsert([], nothing)
    assert len(index) == 60
    index.add(X[:1])
    assert index.ids[-1] == 60


# librosa #1484 and numpy #23003: with errors of NumPy turned on, tiny numbers ended in FloatingPointError.
@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_tiny_numbers_are_no_errors_of_numpy(metric, device):
    x = X.copy()
    x[3:6] *= np.array([[1e-38], [1e-30], [0]], np.float32)
    before = np.seterr(all="raise")
    try:
        center = None if metric == "ip" else "mean"
        index = index_of(x, metric=metric, device=device, center=center, keep_vectors="int8")
        found = index.search(x, 60, return_stderr=True)
        assert (np.sort(found.ids, axis=1) == np.arange(60)).all()
        assert np.isfinite(index.search(x, 60, rerank=True).scores).all()
        assert np.isfinite(index.reconstruct(range(60))).all()
        assert np.isfinite(index.estimate(x, range(60))).all()
        assert index.range_search(x[:1], np.inf if metric == "l2" else -np.inf).ids.size == 60
    finally:
        np.seterr(**before)


# faiss #655: "did not recognize array type" named neither the array nor its type.
def test_rows_of_unequal_length_and_ids_of_another_kind_are_named():
    index = VQIndex(2)
    for wrong, message in (([[1, 2], [3]], "row 1 has 1 entries and row 0 has 2"), ([[1, 2], None], "row 1 is None")):
        with pytest.raises(InvalidInputError, match=f"ragged: {message}"):
            index.add(wrong)
    with pytest.raises(InvalidInputError, match=r"the first of another kind is b'a'; expected an integer type, or str"):
        index.add([[1, 2]], ids=np.array([b"a"], object))
    assert len(index) == 0
