"""Searches for few queries by one call of the backend find what the steps find, or leave it to the steps."""

import gc
import weakref

import numpy as np
import pytest

from vqindex import InvalidInputError, VQIndex
from vqindex.search.searcher import Searcher

DIM, ROWS = 40, 1500
X = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32) + np.float32(0.5)
X[7] = 0
X[20:24] = X[19]
QUERIES = np.concatenate([X[[3, 7, 19]], np.random.default_rng(1).standard_normal((37, DIM)).astype(np.float32)])
SHAPES = {"one": QUERIES[3], "zero": QUERIES[1], "row": QUERIES[:1], "few": QUERIES[:16]}
SPECS = {
    "prod": {},
    "mse": {"codec": "turboquant-mse", "bits": 3},
    "trellis": {"codec": "trellis", "bits": 2},
    "trellis1": {"codec": "trellis", "bits": 1},
    "wide": {"bits": 8},
}
SEARCHES = {
    "plain": {},
    "k above rows": {"k": ROWS + 5},
    "all scored": {"confidence": 1.0, "threads": 2},
    "re-ranked": {"rerank": True},
    "longer shortlist": {"rerank": True, "oversample": 9, "threads": 1},
    "scanned": {"exact": True},
}
WALKS = {
    "walked": {"effort": 30},
    "walked far": {"effort": 400, "threads": 3},
    "walked and re-ranked": {"effort": 11, "rerank": True, "oversample": 2},
    "recall": {"recall": 0.9, "k": 5},
}


def made(metric="cosine", center=None, ids=None, graph=None, rows=ROWS, **spec):
    index = VQIndex(DIM, metric=metric, center=center, keep_vectors="f16", graph=graph, **spec)
    index.add(X[:rows], None if ids is None else ids[:rows])
    return index


def in_steps(index, queries, **arguments):
    return index.search(queries, **arguments, explain=True)


@pytest.fixture
def at_once(monkeypatch):
    """Refuse searches step by step, but for those that explain themselves."""
    steps = Searcher._search

    def refuse(self, queries, filter, rerank_from, arguments, return_stderr, return_interval, explain):
        assert explain, "the search was made step by step"
        return steps(self, queries, filter, rerank_from, arguments, return_stderr, return_interval, explain)

    monkeypatch.setattr(Searcher, "_search", refuse)


def same(got, want, what=""):
    assert got.scores.dtype == np.float32
    assert got.scores.shape == want.scores.shape, what
    assert got.scores.tobytes() == want.scores.tobytes(), what
    assert got.ids.dtype == want.ids.dtype
    np.testing.assert_array_equal(got.ids, want.ids, what)


def search_all(index, names):
    for name, arguments in names.items():
        for shape, queries in SHAPES.items():
            found, expected = index.search(queries, **arguments), in_steps(index, queries, **arguments)
            same(found, expected, f"{name}, {shape}")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("metric", "center"), [("cosine", None), ("ip", None), ("l2", None), ("cosine", "mean"), ("l2", "mean")]
)
def test_scans_equal_the_steps(spec, metric, center):
    search_all(made(metric, center, **SPECS[spec]), SEARCHES)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("metric", "center"), [("cosine", None), ("ip", None), ("l2", "mean")])
def test_walks_equal_the_steps(spec, metric, center):
    index = made(metric, center, graph=16, **SPECS[spec])
    index.tune(QUERIES)
    search_all(index, SEARCHES | WALKS)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("ids", [np.arange(ROWS) * 3 + 10**12, [f"name {i}" for i in range(ROWS)]])
def test_ids_are_those_of_the_steps(ids):
    search_all(made(ids=ids), SEARCHES)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("graph", [None, 16])
def test_removed_vectors_are_left_out(graph):
    index = made(graph=graph)
    index.remove(np.arange(0, 700))
    index.remove([1003])
    search_all(index, SEARCHES | ({} if graph is None else {"walked": {"effort": 30}}))
    assert index.search(X[1003], 1).ids[0] != 1003


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65])
@pytest.mark.parametrize("graph", [None, 16])
def test_small_indexes_equal_the_steps(rows, graph):
    search_all(made("l2", graph=graph, rows=rows), {"plain": {}, "re-ranked": {"rerank": True}})


@pytest.mark.usefixtures("at_once")
def test_an_index_whose_mean_is_pending_finds_nothing():
    index = VQIndex(DIM, metric="cosine", center="mean")
    assert index.search(QUERIES[0], 3).ids.tolist() == [-1] * 3


@pytest.mark.usefixtures("at_once")
def test_each_search_is_of_the_index_after_the_last_change():
    index = made(rows=100)
    assert index.search(X[50], 1).ids.tolist() == [50]
    index.remove([50])
    assert index.search(X[50], 1).ids[0] != 50
    index.upsert([50], X[50:51])
    assert index.search(X[50], 1, rerank=True).ids.tolist() == [50]
    index.add(X[100:200])
    assert index.search(X[150], 1).ids.tolist() == [150]
    index.compact()
    index.build_graph(16)
    assert index.search(X[150], 1, exact=True).ids.tolist() == [150]


@pytest.mark.parametrize(
    "queries",
    [
        QUERIES.astype(np.float64)[:3],
        QUERIES[:6:2],
        QUERIES[:3].astype(">f4"),
        QUERIES[0].tolist(),
        QUERIES,
        QUERIES[:0],
        np.asfortranarray(QUERIES[:5]),
        np.round(QUERIES[:2] * 10).astype(np.int32),
    ],
    ids=["float64", "strided", "big-endian", "list", "many", "none", "columns", "integers"],
)
def test_other_queries_are_left_to_the_steps(queries):
    index = made(graph=16)
    same(index.search(queries, effort=30), in_steps(index, queries, effort=30))


@pytest.mark.parametrize("graph", [None, 16])
def test_errors_name_the_value(graph):
    index = made("l2", graph=graph)
    bad = QUERIES[:2].copy()
    bad[1, 5] = np.nan
    arguments = {} if graph is None else {"effort": 20}
    with pytest.raises(InvalidInputError, match=r"queries\[1, 5\] is nan; expected a finite float32 value"):
        index.search(bad, 3, **arguments)
    with pytest.raises(InvalidInputError, match=r"queries\[0\] has norm .*; expected less than 2\*\*62"):
        index.search(np.full(DIM, 1e18, np.float32), 3, **arguments)
    with pytest.raises(InvalidInputError, match="queries have 41 columns; the index has dim 40"):
        index.search(np.zeros(DIM + 1, np.float32), 3, **arguments)
    same(index.search(QUERIES[0], 3, **arguments), in_steps(index, QUERIES[0], k=3, **arguments))


@pytest.mark.parametrize(
    ("name", "good", "wrong"),
    [
        ("k", 1, (True, 1.0, [1], np.array(1), None, "1", 0)),
        ("threads", 1, (True, 1.0, [1], 0)),
        ("confidence", 1, (True, "1", [1.0], 0.5)),
        ("effort", 1, (True, 1.0, [1], 0)),
        ("exact", False, (0, 0.0, [])),
        ("oversample", 1, (True, [1], 0.5)),
    ],
)
def test_an_argument_that_equals_a_good_one_is_no_good_one(name, good, wrong):
    index = made(graph=16)
    more = {"rerank": True} if name == "oversample" else {}
    index.search(QUERIES[0], **more, **{name: good})
    for value in wrong:
        with pytest.raises(InvalidInputError, match=f"^{name} is "):
            index.search(QUERIES[0], **more, **{name: value})


def test_a_change_frees_what_searches_kept():
    index = made(graph=16)
    index.search(QUERIES[0], 3)
    index.search(QUERIES[0], 3, effort=20)
    kept = weakref.ref(index._state.searcher), weakref.ref(index._state.searcher._finder)
    gc.disable()
    try:
        index.add(X[:1])
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()
