"""Documents: what every call does, in memory and in a folder."""

import gc
import math
import os
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest

import vqindex
from vqindex import InvalidInputError, StoreBusyError, StoreError, documents

DIM = 16
VECTORS = np.random.default_rng(0).standard_normal((600, DIM)).astype(np.float32)


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    path = ":memory:" if request.param == "memory" else tmp_path / "store"
    opened = documents.open(path, keep_vectors="f32")
    yield opened
    opened.close()


def fill(store, count=10, **more):
    numbers = range(count)
    return store.add(
        [f"text number {i}" for i in numbers],
        VECTORS[:count],
        metadata=[{"y": i} for i in numbers],
        ids=[f"id{i}" for i in numbers],
        **more,
    )


def ids_of(found):
    return [each.id for each in found]


def seen(store):
    """Return everything that a user can see, in a form that can be compared."""
    found = {}
    for name in store.namespaces():
        all_of = store.list(namespace=name, vectors=True)
        hits = store.search(VECTORS[0], 1000, namespace=name)
        words = store.search(text="text number changed", k=1000, namespace=name)
        found[name] = (
            [(d.id, d.text, d.metadata, d.more, None if d.vector is None else d.vector.tolist()) for d in all_of],
            [(h.id, h.score) for h in hits],
            sorted((h.id, round(h.score, 6)) for h in words),
        )
    return found


def test_added_documents_are_found_by_id_filter_vector_and_words(store):
    assert fill(store) == [f"id{i}" for i in range(10)]
    assert len(store) == store.count() == 10
    assert "id3" in store
    assert "id30" not in store
    document = store.get(["id3"], vectors=True)[0]
    assert (document.text, document.metadata, document.more) == ("text number 3", {"y": 3}, {})
    assert document.vector.tolist() == VECTORS[3].tolist()
    assert ids_of(store.get(["id5", "none", "id1", "id5"])) == ["id5", "id1", "id5"]
    assert ids_of(store.list({"y": {"$gt": 6}})) == ["id7", "id8", "id9"]
    assert ids_of(store.list(limit=2, offset=3)) == ["id3", "id4"]
    assert ids_of(store.list({"y": {"$gt": 2}}, 2, 1)) == ["id4", "id5"]
    hit = store.search(VECTORS[3], 1)[0]
    assert hit.id == "id3"
    assert hit.score == pytest.approx(1, abs=0.1)
    assert ids_of(store.search(VECTORS[3], 1, where={"y": {"$lt": 3}})) != ["id3"]
    assert ids_of(store.search(text="7", k=3)) == ["id7"]
    assert store.vectors(["id2", "id1"]).tolist() == VECTORS[[2, 1]].tolist()
    store.verify()


def test_a_rerank_and_other_options_of_the_index_reach_it(store):
    fill(store)
    exact = VECTORS[:10] @ VECTORS[4] / np.linalg.norm(VECTORS[:10], axis=1) / np.linalg.norm(VECTORS[4])
    hits = store.search(VECTORS[4], 10, rerank=True, oversample=2, threads=1)
    assert ids_of(hits) == [f"id{i}" for i in np.argsort(-exact)]
    np.testing.assert_allclose([h.score for h in hits], np.sort(exact)[::-1], rtol=1e-5)  # float32 sums
    assert all(h.stderr > 0 for h in store.search(VECTORS[4], 3, return_stderr=True))
    with pytest.raises(TypeError, match="unexpected keyword argument 'reranc'"):
        store.search(VECTORS[4], 3, reranc=True)


def test_search_many_answers_each_query_as_search_does(store):
    fill(store)
    where = {"y": {"$ne": 2}}
    many = store.search_many(VECTORS[:4], 3, where=where)
    assert many == [store.search(vector, 3, where=where) for vector in VECTORS[:4]]


def test_upsert_replaces_by_id_and_keeps_the_place(store):
    fill(store)
    ids = store.upsert(
        ["first", "changed", "last"], VECTORS[20:23], ids=["new", "id4", "id4"], metadata=[{}, {}, {"y": 1}]
    )
    assert ids == ["new", "id4", "id4"]
    assert ids_of(store.list())[4] == "id4"
    assert ids_of(store.list())[-1] == "new"
    document = store.get(["id4"], vectors=True)[0]
    assert (document.text, document.metadata, document.vector.tolist()) == ("last", {"y": 1}, VECTORS[22].tolist())
    assert store.search(text="changed") == []
    assert ids_of(store.search(text="last")) == ["id4"]
    store.upsert(["without a vector"], ids=["id4"])
    assert store.get(["id4"], vectors=True)[0].vector is None
    assert "id4" not in ids_of(store.search(VECTORS[22], 20))
    with pytest.raises(InvalidInputError, match="'id4' has no vector"):
        store.vectors(["id4"])
    store.verify()


def test_a_document_may_have_no_vector_or_no_text(store):
    store.add(
        ["both", "text only", None], [VECTORS[0], None, VECTORS[1]], ids=["a", "b", "c"], more=[None, None, {"n": 1}]
    )
    assert ids_of(store.search(VECTORS[0], 10)) == ["a", "c"]
    assert ids_of(store.search(text="only text")) == ["b"]
    assert store.get(["c"])[0].more == {"n": 1}
    assert store.get(["c"])[0].text is None


def test_embed_is_called_once_with_all_texts(store):
    calls = []

    def embed(texts):
        calls.append(texts)
        return VECTORS[: len(texts)]

    store.add(["a", None, "b"], embed=embed, ids=["1", "2", "3"])
    assert calls == [["a", "b"]]
    assert store.vectors(["3"]).tolist() == [VECTORS[1].tolist()]
    with pytest.raises(InvalidInputError, match="embed returned 2 vectors for 1"):
        store.add(["a"], embed=lambda texts: VECTORS[:2])


def test_delete_takes_ids_a_filter_or_both_and_refuses_neither(store):
    fill(store)
    assert store.delete(["id1", "id1", "none"]) == 1
    assert store.delete(where={"y": {"$gte": 8}}) == 2
    assert store.delete(["id2", "id3"], where={"y": 3}) == 1
    assert store.delete([]) == 0
    with pytest.raises(InvalidInputError, match="neither ids nor where"):
        store.delete()
    with pytest.raises(InvalidInputError, match="expected a list of strings"):
        store.delete("id4")
    assert ids_of(store.list()) == ["id0", "id2", "id4", "id5", "id6", "id7"]
    assert sorted(ids_of(store.search(VECTORS[0], 10))) == ids_of(store.list())
    assert store.count({"y": {"$gt": 4}}) == 3
    store.verify()


def test_update_metadata_changes_neither_text_nor_vector(store):
    fill(store)
    assert store.count({"y": 3}) == 1
    assert store.update_metadata({"id3": {"y": "three"}, "none": {}}) == 1
    assert store.count({"y": 3}) == 0
    assert ids_of(store.list({"y": "three"})) == ["id3"]
    document = store.get(["id3"], vectors=True)[0]
    assert (document.text, document.vector.tolist()) == ("text number 3", VECTORS[3].tolist())
    store.verify()


def test_set_metadata_keeps_other_fields_and_takes_ids_a_filter_or_both(store):
    store.add(["a", "b", "c"], ids=["a", "b", "c"], metadata=[{"x": 1, "y": {"z": 1}}, {"x": 2}, {}])
    store.add(["a"], ids=["a"], metadata=[{"x": 1}], namespace="other")
    assert store.set_metadata({"y": 5}, where={"x": 1}) == 1
    assert store.set_metadata({"w": None}, ["b", "c", "none"]) == 2
    assert store.set_metadata({"v": 1}, ["a", "b"], where={"w": None}) == 1
    assert store.set_metadata({"x": 9}, namespace="nowhere") == 0
    assert store.set_metadata({"u": [1]}) == 3
    assert [each.metadata for each in store.get(["a", "b", "c"])] == [
        {"x": 1, "y": 5, "u": [1]},
        {"x": 2, "w": None, "v": 1, "u": [1]},
        {"w": None, "u": [1]},
    ]
    assert store.count({"u": {"$exists": True}}) == 3
    assert store.get(["a"], namespace="other")[0].metadata == {"x": 1}
    store.verify()


def nested(depth):
    value = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_metadata_may_be_a_hundred_deep(store):
    store.add(["a"], metadata=[nested(100)], ids=["a"])
    assert store.get(["a"])[0].metadata == nested(100)


def test_clear_and_the_last_delete_free_the_dimension(store):
    fill(store)
    store.clear()
    assert (len(store), store.dim, store.namespaces(), store.search(VECTORS[0])) == (0, None, [], [])
    store.add(["a"], np.ones((1, 3)), ids=["a"])
    assert store.dim == 3
    store.delete(["a"])
    fill(store)
    assert store.dim == DIM
    store.verify()


def test_namespaces_keep_documents_apart(store):
    fill(store)
    fill(store, 5, namespace="a")
    store.add(["text number 0"], VECTORS[:1], ids=["id0"], namespace="é\udc80\0")
    assert store.namespaces() == ["", "a", "é\udc80\0"]
    assert (len(store), store.count(), store.count(namespace="a")) == (16, 10, 5)
    assert len(store.search(VECTORS[0], 100, namespace="a")) == 5
    assert len(store.search(VECTORS[0], 100, text="number", namespace="a")) == 5
    assert len(store.list({"y": {"$gt": 3}}, namespace="a")) == 1
    assert store.search(VECTORS[0], 10, namespace="A") == store.list(namespace="A") == []
    assert store.delete(["id0"], namespace="a") == 1
    assert store.drop_namespace("") == 10
    assert store.drop_namespace("none") == 0
    assert store.namespaces() == ["a", "é\udc80\0"]
    assert ids_of(store.search(VECTORS[0], 10, namespace="a"))
    assert store.list() == []
    store.verify()


def test_a_hybrid_search_joins_both_rankings_by_reciprocal_ranks(store):
    texts = ["red fox", "blue fox", "red hen", "green hen"]
    store.add(texts, VECTORS[:4], ids=list("abcd"))
    vector, words = VECTORS[3], "red"
    by_vector, by_words = store.search(vector, 4), store.search(text=words, k=4)
    expected = {}
    for weight, ranked in ((2, by_vector), (1, by_words)):
        for rank, hit in enumerate(ranked, 1):
            expected[hit.id] = expected.get(hit.id, 0) + weight / (60 + rank)
    hits = store.search(vector, 4, text=words, weights=(2, 1))
    assert {hit.id: hit.score for hit in hits} == pytest.approx(expected)
    assert [h.score for h in hits] == sorted(expected.values(), reverse=True)
    assert ids_of(store.search(vector, 4, text=words, mode="text")) == ids_of(by_words)
    assert ids_of(store.search(vector, 4, text=words, mode="vector")) == ids_of(by_vector)
    assert ids_of(store.search(vector, 4, text=words, weights=(0, 1)))[:2] == ids_of(by_words)
    for wrong in ((0, 0), (-1, 2), (1,), "ab", (math.nan, 1)):
        with pytest.raises(InvalidInputError, match="weights is"):
            store.search(vector, 4, text=words, weights=wrong)


@pytest.mark.parametrize(
    "text", ['"', "a OR", "NEAR(", "*", "col:x", "-", "", "\0", "\udc80", "a\0b", "'; DROP TABLE docs"]
)
def test_a_text_query_is_words_and_never_syntax(store, text):
    fill(store)
    assert isinstance(store.search(text=text), list)
    assert len(store) == 10


ODD = [
    "",
    "\0",
    "a\0b",
    "\udc80",
    "\ud83d",
    "\\",
    '"',
    "'",
    "\x01\x1f\x7f",
    "é",
    "e\u0301",
    "😀",
    "\u2028",
    "a" * 5000,
    "NULL",
]


def test_ids_texts_and_values_of_every_kind_come_back(store):
    value = {"list": [1, [None, {"a": {}}]], "big": 2**200, "tiny": 5e-324, "inf": math.inf, "none": None, "t": True}
    metadata = [{**value, text: text} for text in ODD]
    store.add(ODD, VECTORS[: len(ODD)], metadata=metadata, ids=ODD, more=metadata)
    found = store.get(ODD)
    assert [(d.id, d.text, d.metadata, d.more) for d in found] == [
        (text, text, data, data) for text, data in zip(ODD, metadata, strict=True)
    ]
    store.add([None], metadata=[{"nan": math.nan}], ids=["nan"])
    assert math.isnan(store.get(["nan"])[0].metadata["nan"])
    assert store.delete(ODD) == len(ODD)
    store.verify()


WRONG = {
    "a bare string of texts": (lambda s: s.add("text"), "texts is 'text'"),
    "a text of another type": (lambda s: s.add([3]), "texts has 3"),
    "a bare string of ids": (lambda s: s.add(["a"], ids="x"), "ids is 'x'"),
    "an id of another type": (lambda s: s.add(["a"], ids=[1]), "ids has 1"),
    "too few ids": (lambda s: s.add(["a", "b"], ids=["x"]), "1 ids are given for 2"),
    "an id twice": (lambda s: s.add(["a", "b"], ids=["x", "x"]), "given twice: 'x'"),
    "an id that is there": (lambda s: s.add(["a", "b"], ids=["x", "id3"]), "'id3' is there already"),
    "one mapping for many": (lambda s: s.add(["a"], metadata={"a": 1}), "metadata is"),
    "metadata of another type": (lambda s: s.add(["a"], metadata=[3]), r"metadata\[0\] is 3"),
    "a key that is no string": (lambda s: s.add(["a"], metadata=[{"b": [{1: 2}]}]), "has the key 1"),
    "a value that is not JSON": (lambda s: s.add(["a"], metadata=[{"b": {1, 2}}]), "expected values in JSON types"),
    "metadata too deep": (
        lambda s: s.add(["a"], metadata=[nested(101)]),
        r"metadata\[0\] has values inside more than 100",
    ),
    "metadata far too deep": (lambda s: s.update_metadata({"id1": nested(100_000)}), "expected at most 100"),
    "fields too deep": (lambda s: s.set_metadata({"a": nested(100)}), "fields has values inside more than 100"),
    "fields that are not JSON": (lambda s: s.set_metadata({"a": {1}}, ["id1"]), "expected values in JSON types"),
    "fields of another type": (lambda s: s.set_metadata(["a"]), "fields is"),
    "another dimension": (lambda s: s.add(["a"], np.ones((1, 3))), "3 columns"),
    "vectors of different lengths": (lambda s: s.add(["a", "b"], [[1, 2], [1]]), "coordinates"),
    "too few vectors": (lambda s: s.add(["a", "b"], VECTORS[:1]), "1 vectors are given for 2"),
    "a vector with a NaN": (lambda s: s.upsert(["a", "b"], VECTORS[:2] * [[1], [math.nan]], ids=["id1", "x"]), "nan"),
    "vectors and embed": (lambda s: s.add(["a"], VECTORS[:1], embed=lambda texts: VECTORS[:1]), "both given"),
    "a namespace of another type": (lambda s: s.add(["a"], namespace=3), "namespace is 3"),
    "metadata of an id of another type": (lambda s: s.update_metadata({3: {}}), "has 3"),
    "an operator that is unknown": (lambda s: s.delete(where={"a": {"$foo": 1}}), "foo"),
    "a negative k": (lambda s: s.search(VECTORS[0], -1), "k is -1"),
    "a query of two vectors": (lambda s: s.search(VECTORS[:2]), "expected one query"),
    "a query of another dimension": (lambda s: s.search(np.ones(3)), "3"),
    "no query": (lambda s: s.search(), "vector is None"),
    "no text": (lambda s: s.search(VECTORS[0], mode="hybrid"), "text is None"),
    "an unknown mode": (lambda s: s.search(VECTORS[0], mode="both"), "mode is 'both'"),
    "a negative limit": (lambda s: s.list(limit=-1), "limit is -1"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_refused_call_changes_nothing(store, kind):
    call, message = WRONG[kind]
    fill(store)
    before, generation = seen(store), store.generation
    with pytest.raises(InvalidInputError, match=message):
        call(store)
    assert (seen(store), store.generation) == (before, generation)
    store.add(["text number 10"], VECTORS[10:11], ids=["id10"])
    assert ids_of(store.search(VECTORS[10], 1)) == ["id10"]
    store.verify()


def test_a_rollback_restores_documents_vectors_words_and_filters(store):
    fill(store)
    before = seen(store)
    assert store.count({"y": {"$gt": 4}}) == 5
    store._session.autocommit = False
    store.add(["text changed"], VECTORS[11:12], ids=["x"], metadata=[{"y": 11}])
    store.upsert(["text changed"], VECTORS[12:13], ids=["id2"], metadata=[{"y": 12}])
    store.delete(["id9"])
    store.update_metadata({"id8": {"y": 0}})
    assert ids_of(store.list({"y": {"$gt": 4}})) == ["id2", "id5", "id6", "id7", "x"]
    changed = seen(store)
    with pytest.raises(InvalidInputError, match="is there already"):
        store.add(["text"], VECTORS[11:12], ids=["id3"])
    assert seen(store) == changed != before
    store.rollback()
    assert seen(store) == before
    assert store.count({"y": {"$gt": 4}}) == 5


def test_a_block_commits_once_and_closes(tmp_path):
    with documents.open(tmp_path / "a") as store:
        for i in range(5):
            store.add([str(i)], VECTORS[i : i + 1], ids=[str(i)])
        assert documents.open(tmp_path / "a", "r").list() == []
    with pytest.raises(StoreError, match="was closed"):
        store.list()
    with documents.open(tmp_path / "a", "r") as reader:
        assert (ids_of(reader.list()), reader.generation) == (list("01234"), 1)
    store = documents.open(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="texts is 3"), store:
        store.clear() or store.add(3)
    assert len(documents.open(tmp_path / "a", "r")) == 5


def test_every_call_is_durable_by_default_and_none_without_autocommit(tmp_path):
    store = documents.open(tmp_path / "a")
    fill(store)
    reader = documents.open(tmp_path / "a", "r")
    assert len(reader) == 10
    store.close()
    store = documents.open(tmp_path / "a", autocommit=False)
    store.delete(["id1"])
    assert (len(store), reader.refresh(), len(reader)) == (9, 1, 10)
    assert (store.commit(), store.commit()) == (2, 2)
    assert (reader.refresh(), len(reader)) == (2, 9)
    store.delete(["id2"])
    with pytest.warns(ResourceWarning, match="1 changes were not committed and are lost"):
        store.close()
    assert (reader.refresh(), len(reader)) == (2, 9)


def test_a_store_that_is_forgotten_with_changes_warns(tmp_path):
    store = documents.open(tmp_path / "a", autocommit=False)
    fill(store)
    held = [store]
    del store
    with pytest.warns(ResourceWarning, match="not committed"):
        held.clear() or gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(documents.open(tmp_path / "a"))
        gc.collect()
    assert len(documents.open(tmp_path / "a", "r")) == 10


def test_a_reader_stays_at_its_commit_until_refresh(tmp_path):
    writer = documents.open(tmp_path / "a")
    fill(writer)
    reader = documents.open(tmp_path / "a", "r")
    before = seen(reader)
    for i in range(5):
        writer.upsert([f"text changed {i}"], VECTORS[i + 20 : i + 21], ids=["id1"])
    writer.delete(["id2"])
    assert seen(reader) == before
    assert reader.generation == 1
    assert reader.refresh() == 7
    assert seen(reader) == seen(writer) != before
    with pytest.raises(StoreError, match="open for reading"):
        reader.add(["a"])
    with pytest.raises(StoreError, match="open for reading"):
        reader.commit()
    writer.close()
    assert seen(reader) != before


def test_two_that_write_follow_each_other(tmp_path):
    first, second = documents.open(tmp_path / "a"), documents.open(tmp_path / "a")
    fill(first)
    assert seen(second) == seen(first)
    second.upsert(["text changed"], VECTORS[30:31], ids=["id3"], metadata=[{"y": 30}])
    assert first.count({"y": 30}) == 1
    first.delete(["id4"])
    second.clear()
    assert len(first) == 0
    first.add(["text"], np.ones((1, 3)), ids=["x"])
    assert second.dim == 3
    assert ids_of(second.search(np.ones(3))) == ["x"]
    second.verify()


def test_a_writer_waits_and_then_names_the_holder(tmp_path):
    first = documents.open(tmp_path / "a", autocommit=False)
    second = documents.open(tmp_path / "a", timeout=0.05)
    fill(first)
    with pytest.raises(StoreBusyError, match=rf"a is open for writing by process {os.getpid()} on .*waited 0.05 s"):
        second.add(["b"])
    assert len(second) == 0
    releasing = threading.Timer(0.2, first.commit)
    waiting = documents.open(tmp_path / "a", timeout=30)
    releasing.start()
    waiting.add(["b"], VECTORS[20:21], ids=["b"])
    releasing.join()
    assert len(second) == 11


def test_parameters_are_kept_and_different_ones_are_refused(tmp_path):
    path = tmp_path / "a"
    documents.open(path, dim=DIM, bits=2, metric="l2", center=np.ones(DIM), keep_vectors="f16", writer="one").close()
    store = documents.open(path, defaults={"keep_vectors": "f32", "bits": 8})
    assert (store.dim, store.metric, len(store)) == (DIM, "l2", 0)
    fill(store)
    assert (store.index.spec.bits, store.index.keep_vectors) == (2, "f16")
    assert store.index.center.tolist() == [1] * DIM
    store.close()
    documents.open(path, "r", dim=DIM, bits=2, metric="l2", center=np.ones(DIM), writer="one").close()
    for wrong in ({"dim": 3}, {"bits": 4}, {"metric": "cosine"}, {"keep_vectors": "f32"}, {"center": np.zeros(DIM)}):
        with pytest.raises(InvalidInputError, match=f"{next(iter(wrong))} is .* the documents in .* have"):
            documents.open(path, **wrong)
    with pytest.raises(InvalidInputError, match="was written by 'one'; expected a store of 'two'"):
        documents.open(path, writer="two")
    plain = documents.open(tmp_path / "plain")
    documents.open(tmp_path / "plain", writer="two").add(["a"])
    plain.add(["b"])
    with pytest.raises(InvalidInputError, match="was written by 'two'; expected a store of 'one'"):
        documents.open(tmp_path / "plain", writer="one")
    with pytest.raises(InvalidInputError, match="bits"):
        documents.open(tmp_path / "b", bits=99)
    assert not (tmp_path / "b").exists()
    new = documents.open(tmp_path / "b", defaults={"keep_vectors": "f32"})
    fill(new)
    assert new.index.keep_vectors == "f32"
    with pytest.raises(InvalidInputError, match="dim is 3"):
        documents.open(tmp_path / "b", dim=3)


def test_a_mean_center_is_that_of_the_first_vectors(tmp_path):
    store = documents.open(tmp_path / "a", center="mean", metric="l2")
    fill(store)
    np.testing.assert_allclose(store.index.center, VECTORS[:10].mean(axis=0), rtol=1e-5, atol=1e-6)
    store.add(["b"], VECTORS[20:21], ids=["b"])
    before = seen(store)
    assert seen(documents.open(tmp_path / "a", "r", center="mean")) == before


def test_small_commits_become_segments_and_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("vqindex.documents.vectors.MAX_PENDING", 7)
    one_by_one, at_once = documents.open(tmp_path / "a"), documents.open(":memory:")
    rng = np.random.default_rng(0)
    for step in range(60):
        vector, name = VECTORS[step : step + 1], f"id{rng.integers(20)}"
        for store in (one_by_one, at_once):
            if step % 5 == 4:
                store.delete([name])
            else:
                store.upsert([f"text {step}"], vector, ids=[name], metadata=[{"y": step}])
        if step % 10 == 9:
            assert seen(documents.open(tmp_path / "a", "r")) == seen(one_by_one) == seen(at_once)
    one_by_one.verify()
    files = [name for name in os.listdir(tmp_path / "a") if name.endswith(".vqi")]
    assert 0 < len(files) < 10


def test_reading_makes_no_files(tmp_path):
    path = tmp_path / "a"
    for mode, found in (("r", "does not exist"), ("r", "holds no documents")):
        with pytest.raises(FileNotFoundError, match=found):
            documents.open(path, mode)
        assert os.listdir(tmp_path) == ([] if found == "does not exist" else ["a"])
        path.mkdir(exist_ok=True)
    with documents.open(path) as store:
        fill(store)
    before = sorted(os.listdir(path))
    assert before == ["0000000000.vqi", "docs.sqlite", "lock"]
    with documents.open(path, "r") as reader:
        assert len(reader.search(VECTORS[0], 3, text="number")) == 3
        assert sorted(os.listdir(path)) == before
        writer = documents.open(path)
        fill(writer, namespace="more")
        writer.close()
        assert len(reader) == 10
        assert reader.refresh() == 2
    assert len(documents.open(path, "r")) == 20
    documents.open(path).close()
    assert sorted(os.listdir(path)) == ["0000000000.vqi", "docs.sqlite", "lock"]


def test_a_new_store_is_made_in_no_folder_with_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(vqindex.FileFormatError, match=r"holds no documents, but 'notes.txt'"):
        documents.open(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(vqindex.FileFormatError, match="is a file"):
        documents.open(tmp_path / "notes.txt")
    store = documents.open(tmp_path / "parent" / "a")
    fill(store)
    (tmp_path / "parent" / "a" / "notes.txt").write_text("mine")
    store.close()
    assert len(documents.open(tmp_path / "parent" / "a")) == 10


def test_segments_without_their_database_are_left_alone(tmp_path):
    with documents.open(tmp_path / "a") as store:
        fill(store)
    (tmp_path / "a" / "docs.sqlite").unlink()
    with pytest.raises(vqindex.FileFormatError, match=r"docs\.sqlite is missing, but .* holds files of documents"):
        documents.open(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        documents.open(tmp_path / "a", "r")
    assert sorted(os.listdir(tmp_path / "a")) == ["0000000000.vqi", "lock"]


def test_a_copy_has_everything_and_replaces_what_was_there(store, tmp_path):
    fill(store)
    fill(store, 3, namespace="other")
    store.delete(["id7"])
    store.copy(tmp_path / "copy")
    copy = documents.open(tmp_path / "copy", "r")
    assert seen(copy) == seen(store)
    copy.verify()
    store.upsert(["text changed"], VECTORS[40:41], ids=["id1"])
    before = seen(copy)
    store.copy(tmp_path / "copy")
    assert seen(copy) == before
    copy.refresh()
    assert seen(copy) == seen(store)
    copy.verify()
    more = documents.open(tmp_path / "copy")
    more.add(["text"], VECTORS[41:42])
    more.verify()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").touch()
    with pytest.raises(vqindex.FileFormatError, match="'x'"):
        store.copy(tmp_path / "foreign")


def test_a_copy_to_its_own_folder_is_a_commit(tmp_path):
    store = documents.open(tmp_path / "a", autocommit=False)
    fill(store)
    store.copy(tmp_path / "." / "a")
    assert len(documents.open(tmp_path / "a", "r")) == 10


def test_a_pickle_has_everything(store):
    fill(store)
    fill(store, 3, namespace="other")
    other = pickle.loads(pickle.dumps(store))
    assert seen(other) == seen(store)
    other.verify()
    other.add(["text"], VECTORS[41:42], ids=["more"])
    assert ("more" in store) == (store.path is not None)


def test_a_pickle_of_a_folder_that_is_gone_makes_nothing(tmp_path):
    store = documents.open(tmp_path / "a", autocommit=False)
    fill(store)
    with pytest.raises(StoreError, match="changes without a commit"):
        pickle.dumps(store)
    store.commit()
    data = pickle.dumps(store)
    store.close()
    os.rename(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)
    assert os.listdir(tmp_path) == ["b"]


def test_a_filter_function_may_read_the_store_and_not_change_it(store):
    fill(store)
    found = store.list(lambda document: store.get([document.id])[0].metadata["y"] > 7)
    assert ids_of(found) == ["id8", "id9"]

    def deleting(document):
        store.delete([document.id])

    with pytest.raises(StoreError, match="in the middle of another call"):
        store.list(deleting)
    with pytest.raises(ZeroDivisionError):
        store.delete(where=lambda document: 1 / 0)
    assert len(store) == 10


def test_threads_that_write_and_read_see_whole_documents(store):
    faults = []

    def write(name):
        for i in range(15):
            store.upsert([str(i)], np.full((1, DIM), i + 1.0), ids=[name], metadata=[{"n": i}])

    def read():
        for _ in range(30):
            hits = store.search(np.ones(DIM), 5, vectors=True)
            values = [{int(hit.text), hit.metadata["n"], round(float(hit.vector[0])) - 1} for hit in hits]
            faults.extend(each for each in values if len(each) > 1)

    threads = [threading.Thread(target=write, args=[name]) for name in "abc"]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert [d.text for d in store.list()] == ["14"] * 3
    store.verify()


def test_the_folder_is_resolved_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, reader = documents.open("a"), None
    monkeypatch.chdir("/")
    fill(store)
    reader = documents.open(tmp_path / "a", "r")
    assert len(reader) == 10
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="open folders can't be renamed there")
def test_nothing_is_written_to_a_folder_that_took_the_place(tmp_path):
    store = documents.open(tmp_path / "a")
    fill(store)
    os.rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(StoreError, match="was moved, removed or replaced"):
        store.add(["x"])
    assert os.listdir(tmp_path / "a") == []
    assert len(store) == 10
    os.rmdir(tmp_path / "a")
    os.rename(tmp_path / "b", tmp_path / "a")
    store.add(["x"])
    assert len(store) == 11


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks /proc which file is synced")
def test_files_and_their_names_are_on_disk_before_the_commit_that_names_them(tmp_path, monkeypatch):
    events, sync = [], os.fsync

    def fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def traced(statement):
        if statement == "COMMIT":
            events.append([name for name in os.listdir(tmp_path / "a") if name.endswith((".vqi", ".removed"))])

    store = documents.open(tmp_path / "a")
    fill(store)
    monkeypatch.setattr("os.fsync", fsync)
    store._session.database.set_trace_callback(traced)
    store.add(["text"] * 590, VECTORS[:590], metadata=[{"z": i} for i in range(590)])
    store.delete(where={"z": {"$lt": 560}})
    store._session.database.set_trace_callback(None)
    at = 0
    synced = {"0000000000.vqi"}
    for number, event in enumerate(events):
        if isinstance(event, list):
            between = events[at:number]
            new = set(event) - synced
            assert new <= set(between), (new, between)
            assert not new or between[-1] == "a", "the folder's names come last"
            synced |= new
            at = number + 1
    assert len(synced) > 2
    store.close()


def refuse(*args):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_full_disk_leaves_the_last_commit_and_the_call_can_be_repeated(tmp_path, monkeypatch, autocommit):
    store = documents.open(tmp_path / "a", autocommit=autocommit, keep_vectors="f32")
    fill(store)
    store.commit()
    before = seen(store)
    many = {"vectors": VECTORS[:550], "ids": [f"many{i}" for i in range(550)]}  # more than wait in the database

    def write():
        store.add(["text"] * 550, **many)
        store.commit()

    with monkeypatch.context() as patch:
        patch.setattr("vqindex.documents.folder.DocumentsFolder.create", refuse)
        with pytest.raises(OSError, match="No space left"):
            write()
        assert seen(documents.open(tmp_path / "a", "r")) == before
        assert (seen(store) == before) == autocommit
    database = store._session.database
    if autocommit:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="full"):
            write()
        assert seen(store) == seen(documents.open(tmp_path / "a", "r")) == before
        database.execute("PRAGMA max_page_count = 1000000")
        write()
    else:
        store.commit()
    assert len(store) == len(documents.open(tmp_path / "a", "r")) == 560
    store.verify()
    named = {name for name, _ in store.verify()} - {"manifest"}
    assert {name for name in os.listdir(tmp_path / "a") if name.endswith((".vqi", ".removed"))} == named
    store.close()


@pytest.mark.parametrize("damage", ["a page", "no database", "another schema", "a segment", "no segment"])
def test_damage_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "a"
    with documents.open(path) as store:
        fill(store)
        store.add(["text " + "word " * 400] * 100)
    file, segment = path / "docs.sqlite", path / "0000000000.vqi"
    if damage == "a page":
        data = bytearray(file.read_bytes())
        data[3 * 4096 : 20 * 4096] = bytes(17 * 4096)
        file.write_bytes(data)
    elif damage == "no database":
        file.write_bytes(b"text" * 1000)
    elif damage == "another schema":
        import sqlite3

        with sqlite3.connect(file) as database:
            database.execute("CREATE TRIGGER t AFTER INSERT ON docs BEGIN DELETE FROM docs; END")
        database.close()
    elif damage == "a segment":
        data = bytearray(segment.read_bytes())
        data[-1] ^= 1
        segment.write_bytes(data)
    else:
        segment.unlink()
    with pytest.raises(vqindex.FileFormatError, match=r"docs\.sqlite|0000000000\.vqi|/a: "):
        documents.open(path, "r").verify()


def test_changes_that_are_not_committed_yet_can_be_verified(tmp_path):
    store = documents.open(tmp_path / "s", dim=DIM, autocommit=False)
    fill(store, 10)
    store.verify()
    store.commit()
    store.delete(["id3"])
    store.verify()
    with documents.open(tmp_path / "s", "r") as reader:
        assert len(reader) == 10
        reader.verify()
    store.rollback()
    store.verify()
    store.close()
