"""DocStore, which the stores for retrieval frameworks share: its records and vectors agree at all times."""

import json
import os
import sqlite3
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vqindex
from vqindex.integrations.docstore import DATABASE, DocStore
from vqindex.integrations.records import Narrow, Record

DIM = 16


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def records(n, seed=0):
    return [Record(f"r{i}", f"text {i}", {"number": i}, {"more": [i]}, row) for i, row in enumerate(vectors(n, seed))]


def names(found):
    return [record.id for record, _ in found]


@pytest.fixture
def store():
    with DocStore(bits=8) as store:
        store.write(records(20))
        yield store


# ---- in memory


def test_search_gives_the_results_of_an_index(store):
    index = vqindex.VQIndex(DIM, 8, "cosine")
    index.add(vectors(20))
    for query in vectors(5, seed=1):
        found = store.search(query, 7)
        scores, ids = index.search(query, 7)
        assert names(found) == [f"r{i}" for i in ids]
        assert [score for _, score in found] == scores.tolist()
    assert len(store.search(vectors(1)[0], 100)) == 20
    assert store.search(vectors(1)[0], 0) == []


def test_records_come_back_as_written_and_in_order(store):
    assert len(store) == 20
    (back,) = store.get(["r3"])
    assert (back.id, back.text, back.metadata, back.more, back.embedding) == (
        "r3", "text 3", {"number": 3}, {"more": [3]}, None,
    )  # fmt: skip
    assert [record.id for record in store.get(["r5", "none", "r1"])] == ["r5", "r1"]
    assert [record.id for record in store.records()] == [f"r{i}" for i in range(20)]


def test_an_empty_store_answers_with_nothing():
    with DocStore() as store:
        assert len(store) == 0
        assert store.search(vectors(1)[0], 3) == []
        assert store.get(["a"]) == store.records() == []
        assert store.delete(["a"]) == 0
        store.write([])
        store.clear()
        assert store.index is None


def test_a_record_written_again_replaces_the_old_one(store):
    query = vectors(1, seed=9)[0]
    store.write([Record("r4", "new", {}, embedding=query), Record("r4", "newer", {}, embedding=query)])
    assert len(store) == 20
    assert store.search(query, 1)[0][0].text == "newer"
    store.write([Record("r4", "bare")])
    assert "r4" not in names(store.search(query, 100))
    assert len(store.search(query, 100)) == 19
    store.write([Record("r4", "back", embedding=query)])
    assert names(store.search(query, 1)) == ["r4"]


def test_kept_embeddings_come_back_exactly():
    with DocStore(keep_embeddings=True) as store:
        store.write([*records(5), Record("bare")])
        found = {record.id: record.embedding for record in store.records()}
        for i, row in enumerate(vectors(5)):
            np.testing.assert_array_equal(found[f"r{i}"], row)
        assert found["bare"] is None
        np.testing.assert_array_equal(store.vectors(store.get(["r2", "r0"])), vectors(5)[[2, 0]])


def test_vectors_without_embeddings_come_from_codes(store):
    rows = vectors(20)
    back = store.vectors(store.get(["r2", "r0"]))
    unit = rows[[2, 0]] / np.linalg.norm(rows[[2, 0]], axis=1, keepdims=True)
    np.testing.assert_allclose(back, unit, atol=0.02)  # eight bits of directions
    assert store.vectors([]).shape[0] == 0


def test_narrowing_does_not_change_what_the_predicate_selects(store):
    for narrow in ([], [Narrow("metadata", ("number",), (1, 2, 3))]):
        found = store.records(lambda record: record.metadata["number"] in (2, 3), narrow)
        assert [record.id for record in found] == ["r2", "r3"]
        hits = store.search(vectors(1)[0], 10, lambda record: record.metadata["number"] in (2, 3), narrow)
        assert sorted(names(hits)) == ["r2", "r3"]
    assert store.search(vectors(1)[0], 10, lambda record: False) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", 'q"', ""]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=60)
@given(values=st.lists(JSON, min_size=1, max_size=6), key=st.sampled_from(["a", "a.b", 'q"', "", "ü", "$", "[0]"]))
def test_narrowing_leaves_out_no_equal_value(values, key):
    """SQLite leaves out no value that Python calls equal."""
    with DocStore() as store:
        store.write([Record(str(i), metadata={key: value}) for i, value in enumerate(values)])
        for accepted in (values[:1], values[:2]):

            def equal(record, accepted=accepted):
                return any(record.metadata[key] == one for one in accepted)

            narrow = [Narrow("metadata", (key,), tuple(accepted))]
            assert store.records(equal, narrow) == store.records(equal)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Record("x", embedding=np.zeros(DIM + 1, np.float32)), r"shape \(17,\)"),
        (Record("x", embedding=np.full(DIM, np.nan, np.float32)), "nan"),
        (Record("x", embedding=np.zeros((2, DIM), np.float32)), "shape"),
        (Record("x", metadata={"a": float("inf")}), "JSON"),
        (Record(7), "id is 7"),
    ],
)
def test_a_write_with_one_bad_record_changes_nothing(store, record, words):
    query = vectors(1, seed=9)[0]
    before, hits = store.records(), store.search(query, 20)
    with pytest.raises(ValueError, match=words):
        store.write([Record("r1", "changed", embedding=query), record])
    with pytest.raises(TypeError):
        store.write([Record("r1", "changed", embedding=query), Record("x", metadata={"a": {1, 2}})])
    assert store.records() == before
    assert store.search(query, 20) == hits


def test_bad_parameters_are_refused_when_a_store_is_opened():
    for wrong in ({"bits": 9}, {"metric": "euclid"}, {"codec": "pq"}):
        with pytest.raises(vqindex.InvalidInputError, match=next(iter(wrong))):
            DocStore(**wrong)


def test_searches_see_a_change_whole_or_not_at_all(store):
    """Each search sees the store before or after a change, never its records without their vectors."""
    stop, failures = threading.Event(), []

    def search():
        while not stop.is_set():
            found = store.search(vectors(1)[0], 40)
            if len(found) not in (20, 40):
                failures.append(len(found))

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for thread in searchers:
        thread.start()
    extra = [Record(f"e{i}", embedding=row) for i, row in enumerate(vectors(20, seed=3))]
    for _ in range(20):
        store.write(extra)
        store.delete(record.id for record in extra)
    stop.set()
    for thread in searchers:
        thread.join()
    assert failures == []


# ---- on disk


def test_only_saved_changes_are_on_disk(tmp_path):
    with DocStore(tmp_path / "s", bits=3, metric="l2") as store:
        store.write(records(20))
        store.save()
        store.write(records(30, seed=2))
        store.delete(["r0"])
    with DocStore(tmp_path / "s", metric="l2") as store:
        assert len(store) == len(store.index) == 20
        assert store.index.spec.bits == 3
        store.delete(["r0", "r1"])
        store.save()
        store.clear()
    with DocStore(tmp_path / "s", metric="l2") as store:
        assert sorted(names(store.search(vectors(1)[0], 99))) == sorted(f"r{i}" for i in range(2, 20))
        store.clear()
        store.save()
    with DocStore(tmp_path / "s") as store:
        assert len(store) == 0
        assert store.index is None
        store.write([Record("wide", embedding=np.ones(DIM + 3, np.float32))])
    assert sorted(os.listdir(tmp_path / "s")) == [DATABASE]


def test_row_numbers_are_never_reused(tmp_path):
    with DocStore(tmp_path) as store:
        store.write(records(3))
        store.delete(["r2"])
        store.write([Record("new", embedding=vectors(1, seed=4)[0])])
        store.save()
        assert store.index.ids.tolist() == [1, 2, 4]
        assert names(store.search(vectors(1, seed=4)[0], 1)) == ["new"]


@pytest.mark.parametrize("place", ["index", "commit"])
def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch, place):
    with DocStore(tmp_path) as store:
        store.write(records(10))
        store.save()
        saved = sorted(os.listdir(tmp_path))
        store.write(records(20))
        if place == "index":

            def fail(self, path):
                raise OSError("no room")

            monkeypatch.setattr(vqindex.VQIndex, "save", fail)
            with pytest.raises(OSError, match="no room"):
                store.save()
            monkeypatch.undo()
        else:  # the program stops after it has written the index
            with store._changing():
                store._write_index(store._db, store.folder)
        if place == "index":
            assert len(store.search(vectors(1)[0], 99)) == 20
    with DocStore(tmp_path) as store:
        assert len(store) == len(store.index) == 10
        store.save()
        assert len(os.listdir(tmp_path)) <= len(saved)
    with DocStore(tmp_path) as store:
        assert len(store.search(vectors(1)[0], 99)) == 10


def test_a_copy_answers_as_the_store_does(tmp_path, store):
    store.save(tmp_path / "a")
    store.write([Record("more", "x", embedding=vectors(1, seed=8)[0])])
    store.save(tmp_path / "b")
    store.save(tmp_path / "a")  # over an older copy
    with pytest.raises(ValueError, match="folder is None"):
        store.save()
    for name in "ab":
        with DocStore(tmp_path / name) as copy:
            assert copy.records() == store.records()
            assert copy.search(vectors(1)[0], 21) == store.search(vectors(1)[0], 21)
            copy.write([Record("fresh", embedding=vectors(1)[0])])
            assert len(copy.index) == 22
        assert len(list((tmp_path / name).glob("*.vqi"))) == 1


def test_another_process_reads_while_changes_are_open(tmp_path):
    with DocStore(tmp_path) as store:
        store.write(records(10))
        store.save()
        store.write(records(15))
        with DocStore(tmp_path) as reader:
            assert len(reader) == 10
            reader._db.execute("PRAGMA busy_timeout = 0")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                reader.write(records(1))


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / DATABASE).write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(vqindex.FileFormatError, match="expected a store of vqindex"):
        DocStore(tmp_path / "text")
    (tmp_path / "other").mkdir()
    with sqlite3.connect(tmp_path / "other" / DATABASE) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    with pytest.raises(vqindex.FileFormatError, match="expected a store of vqindex"):
        DocStore(tmp_path / "other")
    with DocStore(tmp_path / "new") as store:
        store.write(records(1))
        store._db.execute("UPDATE about SET value = '99' WHERE name = 'version'")
        store.save()
    with pytest.raises(vqindex.FileFormatError, match="version 99; expected 1"):
        DocStore(tmp_path / "new")
    with DocStore(tmp_path / "l2", metric="l2") as store:
        store.write(records(1))
        store.save()
    with pytest.raises(vqindex.InvalidInputError, match=r"metric is 'cosine'; the index in .* has 'l2'"):
        DocStore(tmp_path / "l2")


def test_saved_records_are_json_and_not_pickles(tmp_path, store):
    store.save(tmp_path)
    database = sqlite3.connect(tmp_path / DATABASE)
    rows = database.execute("SELECT metadata, more FROM docs ORDER BY rowid").fetchall()
    database.close()
    assert [(json.loads(metadata), json.loads(more)) for metadata, more in rows] == [
        ({"number": i}, {"more": [i]}) for i in range(20)
    ]
    vqindex.file_format.verify(next(tmp_path.glob("*.vqi")))
