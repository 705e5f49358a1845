"""Reports of searches that hung in child processes, crashed on many threads, or saw half of a change."""

import multiprocessing
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reports import in_fork, index_of, nearest, rows, run, same

import vqindex
from vqindex import VQIndex

X = rows(3000)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


# faiss #5206: a child hung in its first search, as the parent had searched on threads before the fork.
# turbovec #147: a child hung even with an index of its own.
@forks
def test_a_forked_child_searches_and_builds_after_its_parent_did():
    index = index_of(X)
    want = index.search(X, 5, threads=4)

    def work():
        same(index.search(X, 5, threads=4), want)
        same(index_of(X).search(X, 5, threads=4), want)
        return True

    assert [in_fork(work) for _ in range(3)] == [0, 0, 0]
    same(index.search(X, 5, threads=4), want)


# turbovec #288: only batches of more than 65,536 numbers hung.
# turbovec #364: only an add that crosses a threshold hung.
@forks
def test_batches_of_any_size_work_in_a_forked_child():
    index = index_of(X[:999])
    index.search(X, 5)

    def work():
        for n in (1, 512, 4095, 4096, 4097, 20_000):
            assert (index.search(np.resize(X, (n, 16)), 3).ids[:999, 0] == np.arange(min(n, 999))).all()
        for i in range(999, 1003):
            index.add(X[i : i + 1])
        return nearest(index, X[:1003]) == list(range(1003))

    assert in_fork(work) == 0


# OpenBLAS #343 and gperftools #178: a lock that another thread held at the fork stayed locked in the child.
@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_at_any_line_of_another_threads_change_can_search():
    index = index_of(X[:200], range(200))
    states = [index.search(X[:9], 3)]
    lines, where, done, paused, go_on = set(), [], [], threading.Semaphore(0), threading.Semaphore(0)

    def pause(frame, event, _):
        if not frame.f_globals.get("__name__", "").startswith("vqindex."):
            return None
        if event == "line" and (frame.f_code, frame.f_lineno) not in lines and not done:
            lines.add((frame.f_code, frame.f_lineno))
            where[:] = [frame.f_code.co_filename, frame.f_lineno]
            paused.release()
            go_on.acquire()
        return pause

    def change():
        sys.settrace(pause)
        index.upsert(range(0, 200, 3), X[200:400:3])
        sys.settrace(None)
        done.append(True)
        paused.release()

    def work():
        found = index.search(X[:9], 3)
        return any(all(np.array_equal(*pair) for pair in zip(found, state, strict=True)) for state in states)

    after = index_of(X[:200], range(200))
    after.upsert(range(0, 200, 3), X[200:400:3])
    states.append(after.search(X[:9], 3))
    thread = threading.Thread(target=change)
    thread.start()
    try:
        while paused.acquire() and not done:
            assert in_fork(work) == 0, where
            go_on.release()
    finally:
        done.append(True)
        go_on.release()
        thread.join()
    assert len(lines) > 50
    same(index.search(X[:9], 3), states[1])


def _nearest_of(index, start):
    return start, nearest(index, X[start : start + 100])


# faiss #924: how to search from several processes.
# faiss #1103: results of a data loader's workers were all the same.
def test_workers_of_a_pool_search_their_own_part():
    index = index_of(X[:300])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for start, found in pool.starmap(_nearest_of, [(index, start) for start in (0, 100, 200)]):
            assert found == list(range(start, start + 100))


# usearch #389: more threads than processors crashed.
# usearch #567: after a load only one thread was allowed.
# usearch #592: the number of threads was not used.
@pytest.mark.parametrize("threads", [1, 3, 64, 10**6])
def test_any_number_of_threads_gives_the_same_results(tmp_path, threads):
    index = index_of(X)
    index.save(tmp_path / "a.vqi")
    for one in (index, VQIndex.load(tmp_path / "a.vqi")):
        same(one.search(X, 5, threads=threads), index.search(X, 5, threads=1))


# usearch #441: no method worked on several threads.
# faiss #828: a search was stuck.
def test_many_threads_search_one_index():
    index = index_of(X)
    want = index.search(X, 5)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: index.search(X[start : start + 100], 5), range(0, 3000, 100)))
    same([np.concatenate(arrays) for arrays in zip(*parts, strict=True)], want)


# usearch #735: of vectors that several threads added, some were never found.
# turbovec #161: a search during an add found ids that nobody knew.
def test_searches_during_adds_find_whole_calls_alone():
    index, done, wrong = VQIndex(16, metric="l2"), threading.Event(), []

    def search():
        while not done.is_set():
            ids = index.search(X[:5], 10).ids
            count = len(index)
            if ids.max() > count or count % 10:
                wrong.append((ids.max(), count))

    thread = threading.Thread(target=search)
    thread.start()
    for start in range(0, 1000, 10):
        index.add(X[start : start + 10])
    done.set()
    thread.join()
    assert wrong == []
    assert nearest(index, X[:1000]) == list(range(1000))


@pytest.fixture
def quick_switches():
    """Let threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


# turbovec #186: of two adds at the same time, one was lost.
# faiss #861: adds and searches at the same time ended in broken indexes.
@pytest.mark.usefixtures("quick_switches")
def test_changes_by_several_threads_are_all_made(tmp_path):
    with vqindex.open(tmp_path / "s", "a", dim=16, metric="l2") as store:

        def change(first):
            for start in range(first, first + 150, 10):
                ids = np.arange(start, start + 10)
                store.add(X[ids], ids)
                store.upsert(ids[:5], -X[ids[:5]])
                store.remove(ids[9:])
                store.commit()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(change, (0, 500, 1000, 1500)))
    ids = np.array([i for first in (0, 500, 1000, 1500) for i in range(first, first + 150) if i % 10 != 9])
    wanted = np.where(ids[:, None] % 10 < 5, -X[ids], X[ids])
    with vqindex.open(tmp_path / "s", mmap=False) as reader:
        assert sorted(reader.ids.tolist()) == ids.tolist()
        assert nearest(reader, wanted) == ids.tolist()


# pytorch #38228 and pybind11 #2215: a process with daemon threads aborted when it ended.
# aalink #3: the same with nanobind.
def test_a_process_whose_daemon_threads_search_ends_well():
    code = """
import threading, time, numpy as np, vqindex
x = np.random.default_rng(0).standard_normal((3000, 16)).astype("f4")
index = vqindex.VQIndex(16, metric="l2")
index.add(x)
def search():
    while True:
        index.search(x, 5)
for _ in range(4):
    threading.Thread(target=search, daemon=True).start()
time.sleep(0.1)
print(index.search(x[7], 1).ids)
"""
    assert run(code) == "[7]"


# arangodb #23253: results were right with OMP_NUM_THREADS=1 alone.
def test_results_do_not_depend_on_variables_of_thread_pools():
    code = """
import hashlib, numpy as np, vqindex
x = np.random.default_rng(0).standard_normal((3000, 16)).astype("f4")
index = vqindex.VQIndex(16, metric="l2")
index.add(x)
print(hashlib.sha256(b"".join(a.tobytes() for a in index.search(x, 5))).hexdigest())
"""
    one = run(code, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    assert run(code, OMP_NUM_THREADS="7", OPENBLAS_NUM_THREADS="7", VQINDEX_ISA="scalar") == one
