"""Ctrl-C at any line of a change: the index is as before it or as after it, and later changes work.

A trace function raises KeyboardInterrupt before a line that a change executes in the library: before every line that it
executes, the first and the last time. A signal that Python handles between two lines does the same. A commit takes
long, so only every fourth line of it is interrupted; the environment variable VQINDEX_TEST_EVERY=1 takes all.
"""

import gc
import inspect
import os
import shutil
import sys
from contextlib import suppress
from copy import deepcopy

import numpy as np
import pytest
from tracing import moments_of, traced

import vqindex
from vqindex import VQIndex
from vqindex.directory import lock
from vqindex.directory.local import LocalDirectory
from vqindex.directory.lock import OpenFolder, lock_folder

# An interrupt between opening a file and storing it leaves the closing to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)
DIM = 8
ROWS = np.random.default_rng(0).standard_normal((400, DIM)).astype(np.float32)


def interrupt(moment, call):
    """Call something, and interrupt it."""
    remaining = moment

    def on_line(location):
        nonlocal remaining
        if remaining == 0:
            raise KeyboardInterrupt
        remaining -= 1

    with pytest.raises(KeyboardInterrupt):
        traced(call, on_line)


def observed(index):
    """Return everything that a user can see, in a form that can be compared."""
    scores, ids = index.search(ROWS[:2], len(index) + 1, confidence=1)
    found = index.search(ROWS[2], 3, rerank=True) if index.keep_vectors and len(index) else ()
    seen = [len(index), index.ids.tolist(), scores.tolist(), ids.tolist(), [a.tolist() for a in found]]
    return [*seen, None if index.center is None else index.center.tolist(), index.reconstruct(index.ids).tolist()]


def made(kind, removed=0):
    """Return an index of 30 vectors; `removed` of them are removed again."""
    index = VQIndex(DIM, 4, "l2", keep_vectors=None if kind == "automatic" else "int8")
    index.add(ROWS[:30], ids_of(kind, 0, 30))
    index.remove(index.ids[:removed].tolist())
    return index


def ids_of(kind, first, count):
    numbers = range(first, first + count)
    return None if kind == "automatic" else [str(i) for i in numbers] if kind == "strings" else [7 * i for i in numbers]


def named(kind, first, count):
    return list(range(first, first + count)) if kind == "automatic" else ids_of(kind, first, count)


CHANGES = {
    "add": lambda index, kind: index.add(ROWS[30:40], ids_of(kind, 30, 10)),
    "upsert": lambda index, kind: index.upsert(named(kind, 20, 10), ROWS[100:110]),
    "remove": lambda index, kind: index.remove(named(kind, 10, 4)),
    "remove of most": lambda index, kind: index.remove(named(kind, 5, 20)),
    "compact": lambda index, kind: index.compact(),
    "to": lambda index, kind: index.to("reference"),
}


def merge(index, kind):
    index.merge(OTHERS[kind])


def other(kind):
    index = VQIndex(DIM, 4, "l2", keep_vectors=None if kind == "automatic" else "int8")
    index.add(ROWS[200:208], ids_of(kind, 200, 8))
    return index


CHANGES["merge"] = merge
KINDS = ("automatic", "integers", "strings")
OTHERS = {kind: other(kind) for kind in KINDS}


@pytest.mark.parametrize("removed", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_an_interrupt_at_any_line_of_a_change_leaves_the_index_before_or_after_it(change, kind, removed, monkeypatch):
    monkeypatch.setattr("vqindex.rows.contents.FEW_ROWS", 4)
    template = made(kind, removed)
    wanted = [deepcopy(template), deepcopy(template)]
    moments = moments_of(lambda: CHANGES[change](wanted[1], kind))
    assert len(moments) > 10
    before, after = map(observed, wanted)
    for one in wanted:
        one.add(ROWS[300:305], ids_of(kind, 300, 5))
    later = [observed(one) for one in wanted]
    outcomes = []
    for moment in moments:
        index = deepcopy(template)
        interrupt(moment, lambda: CHANGES[change](index, kind))  # noqa: B023
        seen = observed(index)
        assert seen in (before, after), moment
        outcomes.append(seen != before)
        # The next change writes where the interrupted one may have written.
        index.add(ROWS[300:305], ids_of(kind, 300, 5))
        assert observed(index) == later[outcomes[-1]], moment
    assert not outcomes[0]
    assert outcomes == sorted(outcomes), "it takes effect at one line"


@pytest.mark.parametrize("center", [None, "mean"])
def test_an_interrupt_at_any_line_of_the_first_add_leaves_an_empty_index(center):
    def empty():
        return VQIndex(DIM, 4, "l2", center=center)

    whole = empty()
    for moment in moments_of(lambda: whole.add(ROWS[:50])):
        index = empty()
        interrupt(moment, lambda: index.add(ROWS[:50]))  # noqa: B023
        if not len(index):
            assert index.center is None
            index.add(ROWS[:50])
        assert observed(index) == observed(whole)


def test_an_interrupt_at_any_line_of_a_save_leaves_the_old_file_or_the_new_one(tmp_path):
    path, kept = tmp_path / "a.vqi", tmp_path / "b.vqi"
    made("integers").save(kept)

    def changed():
        shutil.copy(kept, path)
        index = VQIndex.load(path)
        index.remove(index.ids[:20].tolist())
        return index

    first = changed()
    wanted = [observed(VQIndex.load(path)), observed(first)]
    for moment in moments_of(lambda: first.save(path)):
        index = changed()
        interrupt(moment, lambda: index.save(path))  # noqa: B023
        assert observed(VQIndex.load(path)) in wanted, moment
        index.save(path)  # which knows the file that is there
        assert observed(VQIndex.load(path)) == wanted[1], moment
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.vqi", "b.vqi"]


@pytest.mark.parametrize("change", ["compact", "commit and map again"])
def test_an_interrupt_at_any_line_of_a_commit_loses_nothing(change, tmp_path, monkeypatch):
    """Afterwards the rows in memory are the same, another commit works, and what it wrote is found again."""
    if change == "commit and map again":
        monkeypatch.setattr("vqindex.store.durable.REMAP_ROWS", 1)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # test_store_faults.py looks at what is synced when
    kept = tmp_path / "kept"
    with vqindex.open(kept, "a", dim=DIM, metric="l2", keep_vectors="f16") as store:
        for first in (0, 30, 60):
            store.add(ROWS[first : first + 30], ids_of("strings", first, 30))
            store.commit(merge=False)

    def opened(folder):
        shutil.copytree(kept, folder)
        store = vqindex.open(folder, "a")
        store.upsert(ids_of("strings", 20, 30), ROWS[100:130])
        store.remove(ids_of("strings", 70, 5))
        return store

    def make(store):
        return store.compact() if change == "compact" else store.commit()

    with opened(tmp_path / "wanted") as store:
        wanted = observed(store)
        moments = moments_of(lambda: make(store), only_first=True)
        store.add(ROWS[300:310], ids_of("strings", 300, 10))
        later = observed(store)
    assert len(moments) > 200
    for moment in moments[:: int(os.environ.get("VQINDEX_TEST_EVERY", 4))]:
        folder = tmp_path / str(moment)
        store = opened(folder)
        interrupt(moment, lambda: make(store))  # noqa: B023
        assert observed(store) == wanted, moment
        with vqindex.open(folder) as reader:
            assert len(reader) in (90, len(store)), moment
        store.add(ROWS[300:310], ids_of("strings", 300, 10))
        store.commit()
        assert {p.name for p in folder.iterdir()} == {"lock", *store._commits.manifest.names}, moment
        store.close()
        with vqindex.open(folder, verify=True) as reader:
            assert observed(reader) == later, moment
        shutil.rmtree(folder)


def test_an_interrupt_at_any_line_of_taking_and_releasing_the_lock_leaves_it_free(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def lock_and_release():
        held = LocalDirectory(tmp_path).lock()
        held.release()

    moments = moments_of(lock_and_release)
    assert len(moments) > 30
    for moment in moments:
        with suppress(AssertionError, pytest.fail.Exception):  # a finalizer swallows the interrupt
            interrupt(moment, lock_and_release)
        lock_and_release()


@pytest.mark.skipif(sys.platform == "win32", reason="folders can't be locked there")
def test_an_interrupt_at_any_line_of_an_exclusive_moment_leaves_the_folder_free(tmp_path, monkeypatch):
    monkeypatch.setattr("vqindex.directory.lock._PATIENCE", 0)
    closing, lines = set(), []
    for method in (OpenFolder.close, OpenFolder.__del__):
        source, first = inspect.getsourcelines(method)
        closing |= {(inspect.getsourcefile(method), first + number) for number in range(len(source))}

    def exclusive():
        with LocalDirectory(tmp_path).exclusive():
            pass

    traced(exclusive, lines.append)
    # CPython handles signals when a function begins and between calls, so not between the lines of `close`; and it
    # swallows what a finalizer raises.
    moments = [number for number, location in enumerate(lines) if location not in closing]
    assert len(moments) > 15
    for moment in moments:
        interrupt(moment, exclusive)
        gc.collect()
        held = lock_folder(tmp_path)
        assert held is not None, lines[moment]
        held.close()


@pytest.mark.skipif(sys.platform == "win32", reason="folders can't be locked there")
def test_an_interrupt_while_a_folder_is_locked_frees_it_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vqindex.directory.lock._PATIENCE", 0)
    take = lock._lock_exclusively

    def take_and_interrupt(descriptor):
        take(descriptor)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_lock_exclusively", take_and_interrupt)
        with pytest.raises(KeyboardInterrupt) as kept:  # the traceback keeps all frames alive
            lock_folder(tmp_path)
    held = lock_folder(tmp_path)
    assert held is not None
    held.close()
    del kept


@pytest.mark.parametrize("is_new", [False, True])
def test_an_interrupted_opening_leaves_the_lock_free(is_new, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    kept, folder = tmp_path / "kept", tmp_path / "store"
    kept.mkdir()
    if not is_new:
        with vqindex.open(kept, "a", dim=DIM) as store:
            store.add(ROWS[:20])

    def open_and_close():
        shutil.copytree(kept, folder)
        vqindex.open(folder, "a", dim=DIM).close()

    moments = moments_of(open_and_close, only_first=True)
    assert len(moments) > 100
    for moment in moments[::7]:
        shutil.rmtree(folder)
        with suppress(AssertionError, pytest.fail.Exception):
            interrupt(moment, open_and_close)
        with vqindex.open(folder, "a", dim=DIM) as store:
            assert len(store) == (0 if is_new else 20), moment
