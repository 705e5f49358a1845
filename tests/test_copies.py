"""Copies and pickles: an index of its own with the same results, and a store's path."""

import copy
import multiprocessing
import pickle
import threading

import numpy as np
import pytest

import vqindex
from vqindex import FileFormatError, InvalidInputError, StoreError, VQIndex

DIM = 12
X = np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32)
Q = X[:20] + np.float32(0.01)
KINDS = {
    "plain": {},
    "empty": {},
    "cosine with a center": {"metric": "cosine", "center": "mean"},
    "l2 trellis with vectors": {"metric": "l2", "codec": "trellis", "bits": 3, "keep_vectors": "int8"},
    "strings": {"metric": "l2"},
    "removed": {"metric": "l2", "keep_vectors": "f16"},
}
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda index, n=n: pickle.loads(pickle.dumps(index, n)) for n in (2, pickle.HIGHEST_PROTOCOL)},
}


def make(kind):
    index = VQIndex(DIM, **KINDS[kind])
    if kind != "empty":
        index.add(X, ids=[f"v{i}" for i in range(300)] if kind == "strings" else None)
    if kind in ("strings", "removed"):
        index.remove(index.ids[5:70].tolist())
    index.meta["notes"] = {"a": [1]}
    return index


def assert_same(got, want):
    assert got.ids.tolist() == want.ids.tolist()
    assert (got.spec, got.meta, got.keep_vectors) == (want.spec, want.meta, want.keep_vectors)
    np.testing.assert_array_equal(got.center, want.center)
    for one, other in zip(got.search(Q, 9), want.search(Q, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    if want.keep_vectors and len(want):
        for one, other in zip(got.search(Q, 9, rerank=True), want.search(Q, 9, rerank=True), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_answers_alike_and_shares_nothing_that_changes(kind, how):
    index, untouched = make(kind), make(kind)
    twin = COPIES[how](index)
    assert type(twin) is VQIndex
    assert_same(twin, untouched)
    new_ids = ["new 0", "new 1"] if kind == "strings" else None
    twin.add(X[:2] * 3, ids=new_ids)
    twin.remove(twin.ids[:1].tolist())
    twin.meta["notes"]["a"].append(2)
    assert_same(index, untouched)
    if kind != "empty":  # numbering goes on where the original's does
        index.add(X[:2] * 3, ids=new_ids)
        assert twin.ids[-2:].tolist() == index.ids[-2:].tolist()
        index.remove(index.ids[:1].tolist())
        index.meta["notes"]["a"].append(2)
        assert_same(twin, index)


def test_a_mapped_index_is_copied_without_its_file(tmp_path):
    make("removed").save(tmp_path / "a.vqi")
    mapped = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    twin = copy.copy(mapped)
    (tmp_path / "a.vqi").unlink()
    assert_same(twin, make("removed"))


def test_a_damaged_pickle_is_refused():
    rebuild, (kind, data, backend) = make("plain").__reduce__()
    broken = bytearray(data)
    broken[len(broken) // 2] ^= 1
    with pytest.raises(FileFormatError):
        rebuild(kind, bytes(broken), backend)


def test_a_pickle_from_a_backend_that_is_missing_opens_on_the_cpu():
    rebuild, (kind, data, _) = make("plain").__reduce__()
    moved = rebuild(kind, data, "no such backend")
    assert moved.stats()["backend"] in ("native", "reference")
    assert_same(moved, make("plain"))


def searched(index):
    return index.search(Q, 5).ids.tolist()


def test_an_index_goes_to_another_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(searched, (make("strings"),)) == searched(make("strings"))


def test_a_reader_of_a_store_pickles_as_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with vqindex.open("store", "a", dim=DIM) as index:
        index.add(X)
        with pytest.raises(StoreError, match="is open for writing; expected mode 'r'"):
            pickle.dumps(index)
        twin = copy.copy(index)
        assert type(twin) is VQIndex
        assert twin.ids.tolist() == index.ids.tolist()
    with vqindex.open("store") as reader:
        data = pickle.dumps(reader)
        want = searched(reader)
    assert len(data) < 1000
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pickle.loads(data) as again:
        assert (type(again), again.mode, searched(again)) == (vqindex.DurableIndex, "r", want)


def test_a_save_while_another_thread_adds_is_of_one_moment(tmp_path):
    index = VQIndex(DIM, metric="l2", keep_vectors="f16")
    stop = threading.Event()

    def add():
        while not stop.is_set() and len(index) < 60_000:
            index.add(X[:37])

    thread = threading.Thread(target=add)
    thread.start()
    try:
        for number in range(25):
            index.save(tmp_path / "a.vqi")
            loaded = VQIndex.load(tmp_path / "a.vqi")
            assert len(loaded) % 37 == 0, number
            assert len(copy.copy(index)) % 37 == 0
            assert len(index.ids) % 37 == 0
            if len(loaded):
                np.testing.assert_array_equal(loaded.search(X[:5], 1).ids[:, 0], np.arange(5))
    finally:
        stop.set()
        thread.join()


class Named(VQIndex):
    def __init__(self, name):
        super().__init__(DIM, metric="l2")
        self.name, self.tags = name, [name]


@pytest.mark.parametrize("how", COPIES)
def test_attributes_of_users_and_subclasses_are_copied(how):
    index = Named("mine")
    index.add(X)
    index.note = {"a": 1}
    index.self = index
    twin = COPIES[how](index)
    assert (type(twin), twin.name, twin.tags, twin.note) == (Named, "mine", ["mine"], {"a": 1})
    assert (twin.tags is index.tags) == (how == "copy")
    assert twin.self is (index if how == "copy" else twin)
    assert_same(twin, index)
    assert vars(VQIndex(DIM)).keys() == vqindex.index._OWN


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (object(), r"meta\['a'\] is <object .* of type object; expected JSON types"),
        ([1, np.float32(2)], r"meta\['a'\]\[1\] is .* of type float32; expected JSON"),
        ({"b": float("nan")}, r"meta\['a'\]\['b'\] is nan of type float; expected JSON types: text, finite"),
        ({1: 2}, r"meta\['a'\] has the key 1; expected text"),
        ({1, 2}, r"meta\['a'\] is \{1, 2\} of type set"),
        (..., r"meta(\['a'\])+ holds itself; expected JSON types"),
    ],
)
def test_notes_that_would_not_come_back_are_refused_by_name(note, message, tmp_path):
    index = make("plain")
    index.save(tmp_path / "a.vqi")
    index.meta["a"] = index.meta if note is ... else note
    for call in (lambda: index.save(tmp_path / "a.vqi"), lambda: pickle.dumps(index)):
        with pytest.raises(InvalidInputError, match=message):
            call()
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as store:
        store.meta["a"] = store.meta if note is ... else note
        with pytest.raises(InvalidInputError, match=message):
            store.commit()
        del store.meta["a"]
    assert VQIndex.load(tmp_path / "a.vqi").meta == {"notes": {"a": [1]}}
    index.meta["a"] = (1, [None, True, 2.5, "\u00fc"])
    index.save(tmp_path / "a.vqi")
    assert VQIndex.load(tmp_path / "a.vqi").meta["a"] == [1, [None, True, 2.5, "\u00fc"]]


def test_a_closed_store_says_so(tmp_path):
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as store:
        store.add(X)
    assert repr(store) == f"<DurableIndex of {str(tmp_path / 's')!r}, closed>"


def test_the_pickle_of_a_store_that_is_gone_or_closed_says_so(tmp_path):
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as writer:
        writer.add(X)
    with pytest.raises(StoreError, match="was closed"):
        pickle.dumps(writer)
    pickled = pickle.dumps(vqindex.open(tmp_path / "s"))
    (tmp_path / "s").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"the store of this pickle is not here: '.*s'"):
        pickle.loads(pickled)
