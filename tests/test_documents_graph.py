"""Documents whose vectors have a graph: searches walk, and commits keep links, vectors and texts of one moment."""

from contextlib import closing

import numpy as np
import pytest

from vqindex import InvalidInputError, StoreError, documents
from vqindex.documents import graphs
from vqindex.linking import TAIL_ROWS

DIM, COUNT = 16, 3 * TAIL_ROWS
VECTORS = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)
FEW = 600  # documents, enough to link some
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


@pytest.fixture
def plain(tmp_path):
    """A folder of documents whose vectors have no graph."""
    with documents.open(tmp_path / "s") as store:
        add(store, 0, FEW)
    return tmp_path / "s"


def test_a_built_graph_and_its_curve_reach_other_views_of_the_store(plain):
    with (
        closing(documents.open(plain)) as other,
        documents.open(plain, "r") as reader,
        closing(documents.open(plain)) as store,
    ):
        expected = found(store, exact=True)
        with pytest.raises(InvalidInputError, match="build_graph"):
            store.search(QUERIES[0], effort=50)
        store.build_graph(12)
        with pytest.raises(InvalidInputError, match="tune"):
            store.search(QUERIES[0], recall=0.9)
        curve = store.tune()
        assert curve.agreement[-1] > 0.7
        walked = found(store, recall=0.6)
        assert other.curve == curve
        assert found(other, recall=0.6) == walked
        assert reader.curve is None
        reader.refresh()
        assert reader.curve == curve
        assert found(reader, recall=0.6) == walked
        assert found(reader, exact=True) == expected
        store.upsert(["new"], VECTORS[:1], ids=["0"])  # a commit that writes no segment
        store.delete(["1"])
        assert other.curve == curve
        other.upsert(["newer"], VECTORS[:1], ids=["0"])
        assert store.curve == curve
    with documents.open(plain, "r") as reader:
        assert reader.curve == curve
        reader.verify()


def test_a_dropped_graph_is_gone_in_other_views_of_the_store(plain):
    with closing(documents.open(plain)) as other, closing(documents.open(plain)) as store:
        store.build_graph(12)
        store.tune()
        assert other.index.stats()["links"] == 12
        store.drop_graph()
        assert other.index.stats()["links"] is None
        assert other.curve is None
        store.verify()
    assert not list(plain.glob("*.links"))
    with pytest.raises(InvalidInputError, match="graph is 12; the documents in"):
        documents.open(plain, graph=12)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_rollback_undoes_graph_and_curve(tmp_path, in_memory):
    with documents.open(":memory:" if in_memory else tmp_path / "s", autocommit=False) as store:
        add(store, 0, FEW)
        store.commit()
        before = found(store)
        store.build_graph(12)
        store.tune()
        store.rollback()
        assert store.curve is None
        assert store.index.stats()["links"] is None
        assert found(store) == before
        store.clear()
        add(store, 0, FEW)
        assert store.index.stats()["links"] is None
        store.rollback()
        store.build_graph(12)
        store.commit()
        store.tune()
        store.rollback()
        assert store.curve is None
        assert store.index.stats()["links"] == 12


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_store_without_vectors_gets_its_graph_with_them(tmp_path, in_memory):
    with documents.open(":memory:" if in_memory else tmp_path / "s") as store:
        store.build_graph(np.int64(12))
        store.commit()
        with pytest.raises(InvalidInputError, match="no linked vectors"):
            store.tune()
        add(store, 0, FEW)
        store.commit()
        assert store.index.stats()["links"] == 12
        store.clear()
        add(store, 0, FEW)
        assert store.index.stats()["links"] == 12


def test_another_process_that_clears_keeps_the_graph_it_did_not_build(plain):
    with closing(documents.open(plain)) as other, closing(documents.open(plain)) as store:
        store.build_graph(12)
        store.commit()
        assert other.curve is None
        other.clear()
        add(other, 0, FEW)
        other.commit()
        assert store.index.stats()["links"] == 12
        store.verify()
    with documents.open(plain, "r", graph=12) as reader:
        assert reader.index.stats()["links"] == 12


def test_a_reader_tunes_for_its_own_searches_until_it_refreshes(plain):
    with documents.open(plain, autocommit=True) as store:
        store.build_graph(12)
    with documents.open(plain, "r") as reader:
        curve = reader.tune(QUERIES)
        assert curve.queries == len(QUERIES)
        assert reader.curve == curve
        assert found(reader, recall=0.5)
        with documents.open(plain, "r") as later:
            assert later.curve is None
        reader.refresh()
        assert reader.curve is None
        with pytest.raises(StoreError, match="is open for reading"):
            reader.build_graph()
        with pytest.raises(StoreError, match="is open for reading"):
            reader.drop_graph()


def test_a_graph_with_a_wrong_number_of_links_changes_nothing(plain):
    with documents.open(plain) as store:
        before = found(store)
        for links in (3, 1000, "many", True):
            with pytest.raises(InvalidInputError, match="links is"):
                store.build_graph(links)
        assert store.index.stats()["links"] is None
        assert found(store) == before
        with pytest.raises(InvalidInputError, match="build_graph"):
            store.tune()


def test_a_stopped_build_leaves_the_store_as_it_was(plain):
    def stop(done, total):
        raise KeyboardInterrupt

    with closing(documents.open(plain)) as store:
        expected = found(store)
        with pytest.raises(KeyboardInterrupt):
            store.build_graph(12, progress=stop)
        assert store.index.stats()["links"] is None
        store.upsert(["new"], VECTORS[:1], ids=["0"])
        assert [[hit[0] for hit in hits] for hits in found(store)] == [[hit[0] for hit in hits] for hits in expected]
    with documents.open(plain, "r") as reader:
        assert reader.index.stats()["links"] is None
        reader.verify()


def test_the_graph_is_not_replaced_while_it_is_measured(plain, monkeypatch):
    with closing(documents.open(plain)) as store:
        store.build_graph(12)

        def slow(*arguments):
            store.build_graph(16)
            return measure(*arguments)

        measure = graphs.measure
        monkeypatch.setattr(graphs, "measure", slow)
        with pytest.raises(InvalidInputError, match="was replaced while it was measured"):
            store.tune()
        assert store.curve is None
        assert store.index.stats()["links"] == 16
