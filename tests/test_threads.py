"""Searches while another thread changes the index: each sees the index as it was before or after a change."""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
from tracing import moments_of, traced

from vqindex import VQIndex, exclude
from vqindex.rows.row_store import RowStore

DIM = 16
X = np.random.default_rng(0).standard_normal((6000, DIM)).astype(np.float32)
QUERIES = X[:3]
STEP = 30


@pytest.fixture(autouse=True)
def threads_take_turns_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def small_segments(monkeypatch):
    """Fill segments after a few hundred rows, so that additions often seal and grow them."""
    real = RowStore.__init__

    def init(self, spec, put, **layout):
        real(self, spec, put, **layout)
        self._full = 256

    monkeypatch.setattr(RowStore, "__init__", init)


def while_changing(change, look):
    """Call `look` repeatedly in two threads while `change` runs in this one; raise their errors in this thread."""
    done, errors, looks = threading.Event(), [], []

    def looking():
        try:
            while not done.is_set():
                look()
                looks.append(1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=looking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        change()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    assert looks, "no look ran during the change"


@pytest.mark.parametrize("ids", ["automatic", "explicit"])
@pytest.mark.parametrize("keep", [None, "f32"])
def test_searches_during_additions_see_whole_calls(small_segments, ids, keep):
    index = VQIndex(DIM, 4, "cosine", keep_vectors=keep)
    numbers = np.arange(len(X)) if ids == "automatic" else np.arange(len(X)) * 3 + 10**12
    exact = VQIndex(DIM, 4, "cosine")
    exact.add(X)
    scores = exact.estimate(QUERIES, np.arange(len(X)))

    def change():
        for start in range(0, len(X), STEP):
            index.add(X[start : start + STEP], ids=None if ids == "automatic" else numbers[start : start + STEP])

    def look():
        found = index.search(QUERIES, 20, confidence=1)
        whole = index.search(QUERIES, 2000, filter=exclude(numbers[:7]), confidence=1)
        lims, range_scores, named = index.range_search(QUERIES, 0.5, confidence=1)
        assert np.isin(named, numbers).all()
        assert len(range_scores) == lims[-1]
        assert not np.isin(whole.ids, numbers[:7]).any()
        for line, (best, who) in enumerate(zip(found.scores, found.ids, strict=True)):
            is_present = who >= 0
            assert np.isin(who[is_present], numbers).all()
            at = np.searchsorted(numbers, who[is_present])
            np.testing.assert_array_equal(best[is_present], scores[line, at])
            # A search sees a prefix of the rows that ends where a call ended.
            if is_present.all():
                sizes = [n for n in range(STEP, len(X) + 1, STEP) if n > at.max()]
                assert any(np.array_equal(np.sort(scores[line, :n])[::-1][:20], best) for n in sizes), who
        if keep is not None:
            again = index.search(QUERIES, 5, rerank=True)
            assert np.isin(again.ids[again.ids >= 0], numbers).all()
        assert len(index) % STEP == 0

    while_changing(change, look)
    assert len(index) == len(X)
    np.testing.assert_array_equal(
        index.search(QUERIES, 20, confidence=1).ids, numbers[exact.search(QUERIES, 20, confidence=1).ids]
    )


def test_a_search_in_the_middle_of_an_add_finds_no_rows_without_ids(monkeypatch):
    """A search runs when the rows of a chunk are stored and their ids are not."""
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 100 * DIM)
    index = VQIndex(DIM, 4)
    index.add(X[:70], ids=np.arange(70) + 1000)
    index.remove([1003])
    before = index.search(QUERIES, 100, confidence=1)
    looked = []
    real = RowStore.append

    def append(self, rows):
        real(self, rows)
        now = index.search(QUERIES, 100, confidence=1)
        np.testing.assert_array_equal(now.ids, before.ids)
        np.testing.assert_array_equal(now.scores, before.scores)
        some = index.search(QUERIES, 100, filter=exclude([1000]), confidence=1)
        assert set(some.ids.ravel().tolist()) == set(range(1001, 1070)) - {1003} | {-1}
        looked.append(len(index))

    monkeypatch.setattr(RowStore, "append", append)
    index.add(X[70:1000], ids=np.arange(70, 1000) + 1000)
    assert looked == [69] * 10
    assert len(index) == 999


@pytest.mark.parametrize("keep", [None, "f16"])
def test_searches_during_other_changes_see_one_state_of_the_index(small_segments, keep):
    """Vectors with ids from 2000 on never change. They are found with their own scores throughout."""
    index = VQIndex(DIM, 4, "ip", keep_vectors=keep)
    index.add(X, ids=np.arange(len(X)))
    own = index.estimate(QUERIES, np.arange(2000, len(X)))
    best = np.argsort(-own, axis=1, kind="stable")[:, :10] + 2000
    decoded = index.reconstruct(int(best[0, 0]))

    def change():
        rng = np.random.default_rng(1)
        for _ in range(60):
            some = rng.permutation(2000)[:600]
            index.upsert(some, X[some + 2000])
            index.remove(rng.permutation(2000)[:300])
            index.compact()

    def look():
        found = index.search(QUERIES, 10, filter=np.arange(2000, len(X)), confidence=1)
        np.testing.assert_array_equal(found.ids, best)
        plain = index.search(QUERIES, 50, confidence=1)
        assert plain.ids.min() >= 0
        for line in plain.ids.tolist():
            assert len(set(line)) == 50, "a vector and its replacement"
        np.testing.assert_array_equal(index.estimate(QUERIES, best[0]), own[:, best[0] - 2000])
        np.testing.assert_array_equal(index.reconstruct(int(best[0, 0])), decoded)

    while_changing(change, look)


def test_a_save_in_the_middle_of_an_add_leaves_the_new_rows_alone(monkeypatch):
    """A file ends with zeros where the block in memory has the sign bits of rows that are being added."""
    index, wanted = VQIndex(DIM, 4, "l2"), VQIndex(DIM, 4, "l2")
    index.add(X[:70])
    wanted.add(X[:100])
    before, saved = pickle.dumps(index), []
    real = RowStore.append

    def append(self, rows):
        real(self, rows)
        saved.append(pickle.dumps(index))

    with monkeypatch.context() as patched:
        patched.setattr(RowStore, "append", append)
        index.add(X[70:100])
    assert saved == [before]
    np.testing.assert_array_equal(index.reconstruct(index.ids), wanted.reconstruct(wanted.ids))
    assert pickle.dumps(index) == pickle.dumps(wanted)


CALLS = {
    "search": lambda index: index.search(QUERIES, 5, confidence=1),
    "range search": lambda index: index.range_search(QUERIES, np.inf, confidence=1),
    "file": pickle.dumps,
    "copy": lambda index: pickle.dumps(copy.copy(index)),
    "deep copy": lambda index: pickle.dumps(copy.deepcopy(index)),
    "stats": lambda index: {name: value for name, value in index.stats().items() if name != "memory_bytes"},
}


@pytest.mark.parametrize("call", CALLS)
def test_a_change_before_any_line_of_a_call_leaves_it_with_one_state_of_the_index(call):
    """The change is a first addition, which sets the center: rows and center are of one moment.

    It comes before lines of ``index.py``, which alone has the state; other modules are given what it read.
    """

    def empty():
        return VQIndex(DIM, 4, "l2", center="mean")

    def result(index):
        found = CALLS[call](index)
        return [array.tolist() for array in found] if "search" in call else found

    before, full = empty(), empty()
    full.add(X[:70])
    states = [result(full), result(before)]
    outcomes = []
    for moment in moments_of(lambda: result(before), module="index.py"):
        index, remaining, seen = empty(), [moment], []

        def on_line(location, index=index, remaining=remaining):
            remaining[0] -= 1
            if remaining[0] == -1:
                index.add(X[:70])

        traced(lambda: seen.append(result(index)), on_line)  # noqa: B023
        assert seen[0] in states, moment
        outcomes.append(states.index(seen[0]))
    assert set(outcomes) == {0, 1}
    assert outcomes == sorted(outcomes), "it reads the state once"
