"""What users pass where many are meant: it is taken, or the error names it and what was expected."""

import numpy as np
import pytest

import vqindex
from vqindex import InvalidInputError, VQIndex

DIM = 8
X = np.random.default_rng(0).standard_normal((20, DIM)).astype(np.float32)


@pytest.fixture(params=["integers", "strings"])
def index(request):
    index = VQIndex(DIM, metric="cosine")
    index.add(X, ids=None if request.param == "integers" else [str(i) for i in range(20)])
    return index


@pytest.mark.parametrize("vectors", [(row for row in X), iter(X), {"a": [1]}, {1, 2}, "text", b"text", lambda: X, X[0]])
def test_what_is_no_matrix_is_named_and_nothing_is_added(vectors):
    index = VQIndex(DIM, metric="cosine")
    expected = r"vectors (is|have) .*; expected (an array of shape \(n, 8\)|\(n, 8\), here vectors\[None\])"
    with pytest.raises(InvalidInputError, match=expected):
        index.add(vectors)
    assert len(index) == 0
    index.add(X)
    assert index.search(X[3], 1).ids.tolist() == [3]


def test_one_id_or_a_set_of_ids_can_be_removed(index):
    ids = index.ids.tolist()
    assert index.remove(ids[3]) == 1
    assert index.remove({ids[4], ids[5]}) == 2
    assert index.remove(frozenset([ids[6]])) == 1
    assert index.remove(ids[3]) == 0, "it was removed before"
    assert index.ids.tolist() == ids[:3] + ids[7:]
    assert index.search(X[7], 1).ids.tolist() == [ids[7]]


def test_a_set_of_ids_filters_like_a_list_of_them(index):
    some = [index.ids[i] for i in (2, 5, 11)]
    for as_list, as_set in ((some, set(some)), (vqindex.exclude(some), vqindex.exclude(frozenset(some)))):
        want, got = index.search(X, 5, filter=as_list), index.search(X, 5, filter=as_set)
        np.testing.assert_array_equal(got.ids, want.ids)
        np.testing.assert_array_equal(got.scores, want.scores)
    each = [set(some[:1]), None, *[set(some)] * 18]
    got = index.search(X, 5, filter=each)
    assert set(got.ids[0].tolist()) - {-1, None} == set(some[:1])


@pytest.mark.parametrize(
    ("filter", "named"),
    [
        (lambda i: True, "a function"),
        ({"color": "red"}, "a dict"),
        ("red", "'red'"),
        ((i for i in (1,)), "a generator"),
    ],
)
def test_what_is_no_filter_is_named(index, filter, named):
    with pytest.raises(InvalidInputError, match=f"filter is {named}.*expected a bool mask, ids, vqindex.exclude"):
        index.search(X, 3, filter=filter)


@pytest.mark.parametrize("ids", [{1, 2}, (i for i in range(20)), {"a": 1}])
def test_ids_without_an_order_are_refused_where_order_matters(ids):
    index = VQIndex(DIM, metric="cosine")
    with pytest.raises(InvalidInputError, match=r"ids is a .*; expected a list or an array of ids, in order"):
        index.add(X, ids=ids)
    index.add(X)
    with pytest.raises(InvalidInputError, match="ids is a set; expected a list"):
        index.estimate(X[0], {1, 2})
    assert len(index) == 20


# ---- pyarrow


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow")


def columns_of(pa):
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), DIM)
    lists = pa.array([row.tolist() for row in X], pa.list_(pa.float32()))
    return {
        "fixed": fixed,
        "sliced": pa.concat_arrays([fixed, fixed]).slice(20),
        "chunked": pa.chunked_array([fixed.slice(0, 7), fixed.slice(7)]),
        "lists": lists,
        "large": lists.cast(pa.large_list(pa.float32())),
        "column": pa.table({"v": fixed})["v"],
    }


@pytest.mark.parametrize("kind", ["fixed", "sliced", "chunked", "lists", "large", "column"])
def test_columns_of_pyarrow_are_vectors(arrow, kind):
    plain, index = VQIndex(DIM, metric="cosine"), VQIndex(DIM, metric="cosine")
    plain.add(X)
    index.add(columns_of(arrow)[kind])
    for got, want in zip(index.search(columns_of(arrow)[kind], 5), plain.search(X, 5), strict=True):
        np.testing.assert_array_equal(got, want)


def test_columns_of_pyarrow_are_ids(arrow):
    numbers, texts = VQIndex(DIM, metric="cosine"), VQIndex(DIM, metric="cosine")
    numbers.add(X, ids=arrow.array(np.arange(500, 520)))
    texts.add(X, ids=arrow.chunked_array([[f"t{i}" for i in range(20)]]))
    assert numbers.search(X[3], 1).ids.tolist() == [503]
    assert texts.search(X[3], 1).ids.tolist() == ["t3"]
    assert texts.search(X[3], 1, filter=arrow.array(["t5"])).ids.tolist() == ["t5"]


def test_nulls_ragged_lists_and_tables_of_pyarrow_are_refused_by_name(arrow):
    index = VQIndex(2)
    floats = arrow.list_(arrow.float32())
    for column, message in (
        (arrow.array([[1, 2], None], floats), "row 1 is null"),
        (arrow.array([[1, 2], [3, None]], floats), "row 1 holds a null"),
        (arrow.array([[1, 2], [3]], floats), "row 1 has 1 numbers and row 0 has 2"),
        (arrow.table({"v": arrow.array([[1.0, 2.0]])}), "pyarrow Table; expected a column"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            index.add(column)
    assert len(index) == 0


def test_valid_columns_with_empty_or_unequal_chunks_of_pyarrow(arrow):
    floats = arrow.list_(arrow.float32())
    two, none, three = (arrow.array(rows, floats) for rows in ([[1, 2], [3, 4]], [], [[1, 2, 3]]))
    index = VQIndex(2)
    index.add(arrow.chunked_array([two, none, two]))
    assert len(index) == 4
    with pytest.raises(InvalidInputError, match="rows have 2, 3 numbers; expected equal lengths"):
        index.add(arrow.chunked_array([two, three]))
    with pytest.raises(InvalidInputError, match=r"pyarrow .*Scalar; expected a column"):
        index.add(arrow.scalar(1.0))


@pytest.mark.parametrize("queries", [(row for row in X), {1, 2}, "text", lambda: X])
def test_what_are_no_queries_is_named(queries):
    index = VQIndex(DIM)
    index.add(X)
    with pytest.raises(InvalidInputError, match=r"queries is .*; expected an array of shape \(nq, 8\) or \(8,\)"):
        index.search(queries, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.add(5), r"vectors is 5; expected an array of shape \(n, 8\)"),
        (lambda i: i.add(None), "vectors is None; expected"),
        (lambda i: i.add(X[:1], ids=7), "ids is 7; expected a list or an array of ids"),
        (lambda i: i.add(X[:1], ids=object()), "ids is a object; expected a list"),
        (lambda i: i.upsert(None, X[:1]), "ids is None; expected a list"),
        (lambda i: i.remove(None), "ids is None; expected a list"),
        (lambda i: i.remove({"a": 1}.values()), "ids is a dict_values; expected a list"),
        (lambda i: i.estimate(X[0], 3), "ids is 3; expected a list"),
        (lambda i: i.search(None), "queries is None; expected an array"),
        (lambda i: i.search(X, filter=[1.5]), "ids have dtype float64; expected an integer"),
        (lambda i: i.search(X, filter=vqindex.exclude(None)), "ids is None; expected a list"),
    ],
)
def test_one_value_where_many_are_meant_is_named(call, message):
    index = VQIndex(DIM, metric="cosine")
    index.add(X)
    with pytest.raises(InvalidInputError, match=message):
        call(index)
    assert index.search(X[3], 1).ids.tolist() == [3]
    assert len(index) == 20


def test_keys_of_a_dictionary_are_a_set_of_ids(index):
    texts = {index.ids[3]: "three", index.ids[4]: "four"}
    assert set(index.search(X, 5, filter=texts.keys()).ids[0, :2]) == set(texts)
    assert not np.isin(index.search(X, 5, filter=vqindex.exclude(texts.keys())).ids, list(texts)).any()
    assert index.remove(texts.keys()) == 2
    assert len(index) == 18


def test_a_mask_of_zeros_and_ones_is_not_taken_for_ids():
    index = VQIndex(DIM, metric="cosine")
    index.add(X)
    mask = np.arange(20) % 3 == 0
    for dtype in (np.uint8, np.int64):
        with pytest.raises(InvalidInputError, match=r"filter has 20 integers, all 0 or 1.*expected a bool mask"):
            index.search(X, 5, filter=mask.astype(dtype))
        with pytest.raises(InvalidInputError, match="all 0 or 1"):
            index.search(X[:2], 5, filter=np.stack([mask, ~mask]).astype(dtype))
    assert set(index.search(X[0], 20, filter=mask).ids.tolist()) == {-1, *np.flatnonzero(mask).tolist()}
    assert index.search(X[0], 2, filter=[0, 1, 0]).ids.tolist() == [0, 1], "repeated ids are ids"


def test_tensors_of_fixed_shape_of_pyarrow_are_vectors():
    arrow = pytest.importorskip("pyarrow")
    found, expected = VQIndex(DIM), VQIndex(DIM)
    found.add(arrow.FixedShapeTensorArray.from_numpy_ndarray(X)[3:9])
    expected.add(X[3:9])
    np.testing.assert_array_equal(found.search(X, 6).scores, expected.search(X, 6).scores)


def test_a_column_of_arrays_is_refused_with_the_remedy():
    column = np.empty(len(X), object)
    column[:] = list(X)
    with pytest.raises(InvalidInputError, match=r"shape \(20,\); expected \(n, 8\), here np\.stack\(vectors\)"):
        VQIndex(DIM).add(column)
