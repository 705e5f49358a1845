"""Documents whose vectors have a graph: searches walk, and commits keep links, vectors and texts of one moment."""

import numpy as np
import pytest

from vqindex import InvalidInputError, documents
from vqindex.linking import TAIL_ROWS

DIM, COUNT = 16, 3 * TAIL_ROWS
VECTORS = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)
QUERIES = VECTORS[:20] + 0.05


def add(store, first, last):
    numbers = range(first, last)
    store.add(
        [f"text {i}" for i in numbers],
        VECTORS[first:last],
        metadata=[{"y": i % 5} for i in numbers],
        ids=[str(i) for i in numbers],
    )


def found(store, **how):
    return [[(hit.id, hit.text, hit.score) for hit in hits] for hits in store.search_many(QUERIES, 5, **how)]


@pytest.mark.parametrize("in_memory", [True, False])
def test_searches_walk_the_graph(tmp_path, in_memory):
    path = ":memory:" if in_memory else tmp_path / "s"
    with documents.open(path, graph=12) as store:
        add(store, 0, COUNT)
        assert store.index.stats()["linked"] > COUNT - TAIL_ROWS
        exact = found(store, exact=True, confidence=1)
        walked = found(store, effort=200)
        assert sum(one == other for one, other in zip(walked, exact, strict=True)) >= 19
        assert found(store, effort=200, where={"y": {"$gt": 3}}) != walked


def test_a_graph_survives_commits_deletions_and_reopening(tmp_path):
    store = documents.open(tmp_path / "s", dim=DIM, graph=12)
    for first in range(0, COUNT, 512):
        add(store, first, first + 512)
    store.delete([str(i) for i in range(0, COUNT, 3)])
    store.upsert(["new text"], VECTORS[7:8], ids=["7"])
    linked = store.index.stats()["linked"]
    assert linked > TAIL_ROWS
    expected = found(store, exact=True)
    store.close()
    assert list((tmp_path / "s").glob("*.links"))
    with documents.open(tmp_path / "s", "r") as reader:
        assert reader.index.stats()["links"] == 12
        assert reader.index.stats()["linked"] > TAIL_ROWS
        assert found(reader, exact=True) == expected
        assert found(reader, effort=4000, confidence=1) == found(reader, exact=True, confidence=1)
        reader.verify()


def test_another_graph_than_the_stored_one_is_refused(tmp_path):
    documents.open(tmp_path / "s", dim=DIM, graph=12).close()
    with pytest.raises(InvalidInputError, match="graph is 32; the documents in"):
        documents.open(tmp_path / "s", graph=32)
    with pytest.raises(InvalidInputError, match="graph is 3; expected an integer from 8 to 128"):
        documents.open(tmp_path / "new", graph=3)
    assert not (tmp_path / "new").exists()


def test_a_reopened_store_with_a_graph_can_grow(tmp_path):
    with documents.open(tmp_path / "s", graph=12) as store:
        add(store, 0, 2 * TAIL_ROWS)
    with documents.open(tmp_path / "s") as store:
        add(store, 2 * TAIL_ROWS, COUNT)
        expected = found(store, exact=True)
    with documents.open(tmp_path / "s", "r") as store:
        assert found(store, exact=True) == expected
        store.verify()
