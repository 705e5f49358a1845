"""Ctrl-C at any line of a change of documents: they are as before it or as after it, and later changes work.

The environment variable VQINDEX_TEST_EVERY=1 interrupts every line; by default some of them.
"""

import os
import shutil
from contextlib import suppress

import numpy as np
import pytest
from tracing import moments_of, traced

from vqindex import StoreError, documents

# An interrupt between opening a file and storing it leaves the closing to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)
DIM = 8
VECTORS = np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float32)


def interrupt(moment, call):
    """Call something, and interrupt it."""
    remaining = moment

    def on_line(location):
        nonlocal remaining
        if remaining == 0:
            raise KeyboardInterrupt
        remaining -= 1

    with suppress(KeyboardInterrupt):
        traced(call, on_line)
        return False
    return True


def seen(store):
    """Return everything that a user can see, in a form that can be compared."""
    all_of = store.list(vectors=True)
    return (
        [(d.id, d.text, d.metadata, None if d.vector is None else d.vector.tolist()) for d in all_of],
        [(h.id, h.score) for h in store.search(VECTORS[0], 300)],
        sorted(h.id for h in store.search(text="text changed new", k=300)),
        [d.id for d in store.list({"y": {"$gt": 4}})],
        len(store),
    )


def written(*numbers, text="text", name="id"):
    return {
        "texts": [f"{text} {i}" for i in numbers],
        "vectors": VECTORS[list(numbers)],
        "ids": [f"{name}{i}" for i in numbers],
        "metadata": [{"y": i} for i in numbers],
    }


CHANGES = {
    "add": lambda store: store.add(**written(20, 21, name="new")),
    "add of many": lambda store: store.add(**written(*range(20, 60), name="new")),
    "upsert": lambda store: store.upsert(**{**written(3, 30, text="changed"), "vectors": VECTORS[[80, 81]]}),
    "delete": lambda store: store.delete(["id1", "id7"]),
    "delete by a filter": lambda store: store.delete(where={"y": {"$lte": 3}}),
    "delete of all": lambda store: store.delete(where={"y": {"$exists": True}}),
    "update of metadata": lambda store: store.update_metadata({"id3": {"y": 100}, "id8": {}}),
    "fields of metadata": lambda store: store.set_metadata({"z": 1}, where={"y": {"$lt": 4}}),
    "clear": lambda store: store.clear(),
}


def made(folder):
    with documents.open(folder, keep_vectors="f32") as store:
        store.add(**written(*range(10)))
    with documents.open(folder) as store:
        store.delete(["id9"])
        store.upsert(["text"], VECTORS[70:71], ids=["id4"], metadata=[{"y": 4}])


def later(store):
    store.upsert(**written(5, 6, 90, text="later"))
    return seen(store)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("autocommit", [True, False])
def test_an_interrupt_at_any_line_leaves_documents_before_or_after_it(tmp_path, monkeypatch, change, autocommit):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("vqindex.documents.vectors.MAX_PENDING", 8)
    made(tmp_path / "kept")
    number = 0

    def opened():
        nonlocal number
        number += 1
        shutil.copytree(tmp_path / "kept", tmp_path / str(number))
        store = documents.open(tmp_path / str(number), autocommit=autocommit)
        store.count({"y": {"$gt": 4}})
        store.upsert(**written(2))
        return store

    first = opened()
    before = seen(first)
    moments = moments_of(lambda: CHANGES[change](first), only_first=True)
    after = seen(first)
    afterwards = {"after": later(first)}
    second = opened()
    afterwards["before"] = later(second)
    for store in (first, second):
        store.commit()
        store.close()
    assert len(moments) > 50
    outcomes = []
    for moment in moments[:: int(os.environ.get("VQINDEX_TEST_EVERY", 41))]:
        store = opened()
        is_interrupted = interrupt(moment, lambda: CHANGES[change](store))  # noqa: B023
        found = seen(store)
        assert found in (before, after), moment
        if not is_interrupted:  # a finalizer swallowed it
            assert found == after, moment
            continue
        outcomes.append(found != before)
        if autocommit:
            with documents.open(store.path, "r") as reader:
                assert seen(reader) == found, moment
        assert later(store) == afterwards["after" if outcomes[-1] else "before"], moment
        store.verify()
        store.commit()
        store.close()
        with documents.open(store.path, timeout=0) as again:
            assert seen(again) == afterwards["after" if outcomes[-1] else "before"], moment
            again.verify()
        shutil.rmtree(store.path)
    assert not outcomes[0]
    assert outcomes == sorted(outcomes), "it takes effect at one line"


@pytest.mark.parametrize("merging", [False, True])
def test_an_interrupt_at_any_line_of_a_commit_loses_nothing(tmp_path, monkeypatch, merging):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("vqindex.documents.vectors.MAX_PENDING", 3 if merging else 100)
    made(tmp_path / "kept")
    number = 0

    def opened():
        nonlocal number
        number += 1
        shutil.copytree(tmp_path / "kept", tmp_path / str(number))
        store = documents.open(tmp_path / str(number), autocommit=False)
        store.add(**written(20, 21, 22, 23, name="new"))
        store.delete(["id1"])
        return store

    with opened() as store:
        wanted = seen(store)
        moments = moments_of(store.commit, only_first=True)
    for moment in moments[:: int(os.environ.get("VQINDEX_TEST_EVERY", 15))]:
        store = opened()
        interrupt(moment, store.commit)
        assert seen(store) == wanted, moment
        store.commit()
        with documents.open(store.path, "r") as reader:
            assert seen(reader) == wanted, moment
        store.verify()
        store.close()
        kept = {name for name in os.listdir(store.path) if name.endswith((".vqi", ".removed"))}
        with documents.open(store.path) as again:
            named = again._session.vectors.index._state.files.manifest.names - {"manifest"}
        assert kept >= named
        shutil.rmtree(store.path)


@pytest.mark.parametrize("call", ["open", "close", "refresh"])
def test_an_interrupted_opening_closing_or_refresh_leaves_the_store_free(tmp_path, monkeypatch, call):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    made(tmp_path / "kept")
    number = 0

    def work():
        store = documents.open(tmp_path / str(number), "r" if call == "refresh" else "a")
        held.append(store)
        if call == "refresh":
            documents.open(tmp_path / str(number)).add(["more"])
            store.refresh()
        if call == "close":
            store.upsert(["text"], ids=["id0"])
            store.close()

    held = []
    shutil.copytree(tmp_path / "kept", tmp_path / "0")
    moments = moments_of(work, only_first=True)
    held.pop().close()
    for moment in moments[:: int(os.environ.get("VQINDEX_TEST_EVERY", 31))]:
        number += 1
        shutil.copytree(tmp_path / "kept", tmp_path / str(number))
        interrupt(moment, work)
        for store in held:
            with suppress(StoreError):  # it may be closed
                store.list()
            store.close()
        held.clear()
        with documents.open(tmp_path / str(number), timeout=5) as store:
            store.verify()
            assert store.count({"y": {"$exists": True}}) in (8, 9), moment
            store.add(["text"])
        shutil.rmtree(tmp_path / str(number))
