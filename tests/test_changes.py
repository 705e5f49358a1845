"""Changes of an index in memory: remove, upsert, compact, merge. test_index_machine.py mixes them at random."""

import pickle

import numpy as np
import pytest
from cases import DIM, built, every_codec, every_metric, vectors

from vqindex import InvalidInputError, UnknownIdError, VQIndex, exclude
from vqindex.backends.registry import available
from vqindex.rows.growing import Growing
from vqindex.rows.ids import IdBatch, IdMap
from vqindex.rows.originals import Originals
from vqindex.rows.row_store import RowStore

Q = vectors(5, seed=9)


def same(one, other):
    """Fail unless two indexes hold the same vectors and find the same."""
    np.testing.assert_array_equal(one.ids, other.ids)
    for a, b in zip(one.search(Q, 20), other.search(Q, 20), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.reconstruct(one.ids), other.reconstruct(other.ids))


@every_metric
@every_codec
@pytest.mark.parametrize("explicit", [False, True])
def test_removal_leaves_the_index_of_the_remaining_vectors(codec, sketch, metric, explicit, tmp_path):
    x, n = vectors(200), 200
    ids = np.random.default_rng(0).permutation(1000)[:n] if explicit else np.arange(n)
    index = built(x, metric, codec, sketch, ids=ids if explicit else None)
    removed, remaining = np.arange(0, n, 3), np.setdiff1d(np.arange(n), np.arange(0, n, 3))
    assert index.remove(ids[removed]) == removed.size
    want = built(x[remaining], metric, codec, sketch, ids=ids[remaining])
    same(index, want)
    assert len(index) == index.ntotal == remaining.size
    assert ids[removed[1]] not in index
    assert ids[remaining[1]] in index
    for call in (index.reconstruct, lambda ids: index.estimate(Q, ids)):
        with pytest.raises(
            UnknownIdError, match=f"id {ids[removed[1]]} is not in the index of {remaining.size} vectors"
        ):
            call([ids[remaining[0]], ids[removed[1]]])
    stats = index.stats()
    assert stats["removed"] == removed.size
    index.save(tmp_path / "a.vqi")
    for mmap in (False, True):
        loaded = VQIndex.load(tmp_path / "a.vqi", mmap=mmap)
        assert loaded.stats()["removed"] == 0
        same(loaded, want)
    want.save(tmp_path / "b.vqi")
    if explicit:
        assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes(), (
            "the file holds the remaining vectors alone"
        )
    assert index.compact() == removed.size
    assert index.compact() == 0
    assert index.stats()["memory_bytes"] < stats["memory_bytes"]
    same(index, want)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 130])
@pytest.mark.parametrize("device", available())
def test_removals_at_the_edges_of_sizes_leave_the_others(n, device, monkeypatch):
    """Segments have 64 rows, so that the remaining vectors lie in several."""
    monkeypatch.setattr("vqindex.rows.row_store.SEGMENT_ROWS", 64)
    monkeypatch.setattr("vqindex.rows.row_store._FIRST_ROWS", 8)
    x = vectors(n)
    for remaining in (np.arange(n), np.arange(0), np.arange(n)[-1:], np.arange(n)[: n // 2], np.arange(1, n, 2)):
        index = built(x, device=device)
        index.remove(np.setdiff1d(np.arange(n), remaining))
        want = built(x[remaining], ids=remaining, device=device)
        same(index, want)
        index.compact()
        same(index, want)
        index.add(x[:1])
        want.add(x[:1], ids=[n][: n > 0])
        same(index, want)


def test_remove_accepts_every_form_of_ids():
    index = built(vectors(10), ids=np.arange(10) + 5)
    assert index.remove([]) == 0
    assert index.remove([1, 2, 100, 2**62]) == 0
    assert index.remove([5, 5, 5, 6, 100]) == 2
    assert index.remove([5]) == 0
    for wrong in ([-1], [0.5], [[7]], "a"):
        with pytest.raises(InvalidInputError, match="id"):
            index.remove(wrong)
    assert len(index) == 8
    assert index.ids.tolist() == list(range(7, 15))


def test_numbers_are_never_given_twice(tmp_path):
    index = built(vectors(5))
    index.remove([1, 4])
    index.add(vectors(2))
    assert index.ids.tolist() == [0, 2, 3, 5, 6]
    index.remove([6])
    index.save(tmp_path / "a.vqi")
    for other in (index, VQIndex.load(tmp_path / "a.vqi")):
        other.compact()
        other.add(vectors(1))
        assert other.ids.tolist() == [0, 2, 3, 5, 7]
        other.upsert([2, 6], vectors(2))  # ids that automatic numbering has used: it continues
        other.add(vectors(1))
        assert other.ids.tolist() == [0, 3, 5, 7, 2, 6, 8]
        other.upsert([9], vectors(1))  # an id that it has not used: numbering ends
        with pytest.raises(InvalidInputError, match="explicit ids"):
            other.add(vectors(1))


def test_numbering_starts_anew_once_all_explicit_ids_are_gone():
    index = built(vectors(2), ids=[70, 80])
    index.remove([70, 80])
    index.add(vectors(2))
    assert index.ids.tolist() == [0, 1]


@every_metric
@pytest.mark.parametrize("explicit", [False, True])
def test_upsert_gives_the_index_built_from_what_remains(metric, explicit):
    x = vectors(100)
    ids = np.arange(100) * (3 if explicit else 1)
    index = built(x, metric, ids=ids if explicit else None)
    new = vectors(4, seed=5)
    index.upsert([ids[7], 1000, ids[99], ids[0]], new)
    remaining = np.setdiff1d(np.arange(100), [7, 99, 0])
    want = built(np.concatenate([x[remaining], new]), metric, ids=[*ids[remaining], ids[7], 1000, ids[99], ids[0]])
    same(index, want)
    assert len(index) == 101
    index.upsert([], new[:0])
    same(index, want)
    for _ in range(3):
        index.upsert([1000], new[1:2])  # replaces itself each time
    assert len(index) == 101


def failing_after(count, real):
    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) > count:
            raise MemoryError
        return real(*args)

    return fail


def test_a_change_that_raises_changes_nothing(monkeypatch):
    index = built(vectors(70), ids=np.arange(70), keep_vectors="f16")
    index.remove([3])
    before = index.search(Q, 70, rerank=True)

    def unchanged():
        assert index.ids.tolist() == [0, 1, 2, *range(4, 70)]
        assert index.stats()["removed"] == 1
        for one, other in zip(index.search(Q, 70, rerank=True), before, strict=True):
            np.testing.assert_array_equal(one, other)
        assert all(i in index for i in (0, 69))
        assert not any(i in index for i in (3, 70, 71))

    bad = vectors(2, seed=3)
    bad[1, 5] = np.nan
    big = vectors(2, seed=3) * np.float32(1e6)
    for ids, x, words in (
        ([0, 70], bad, r"vectors\[1, 5\] is nan"),
        ([0, 70], big, "keep_vectors='f16'"),
        ([0, 0], bad, "given twice: 0"),
        ([0], bad, "1 ids were given for 2 vectors"),
        ([0, -1], bad, "id -1 is negative"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            index.upsert(ids, x)
        unchanged()
    # Memory may run out at any step of an upsert.
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 600 * DIM)
    for owner, name, calls in ((RowStore, "append", 1), (Originals, "append", 1), (Growing, "extended", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing_after(calls, getattr(owner, name)))
            with pytest.raises(MemoryError):
                index.upsert(np.arange(4000), vectors(4000))
        unchanged()
    index.upsert([0, 3], vectors(2))
    assert index.ids.tolist()[-2:] == [0, 3]


@every_metric
@every_codec
def test_merge_gives_the_index_built_from_both(codec, sketch, metric, tmp_path):
    x, y = vectors(100), vectors(70, seed=1)
    one, other = built(x, metric, codec, sketch), built(y, metric, codec, sketch)
    other.remove([0, 5])
    one.merge(other)
    remaining = np.setdiff1d(np.arange(70), [0, 5])
    want = built(np.concatenate([x, y[remaining]]), metric, codec, sketch)
    assert one.ids.tolist() == list(range(168)), "automatic ids continue"
    for a, b in zip(one.search(Q, 20), want.search(Q, 20), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(other) == 68
    other.save(tmp_path / "a.vqi")
    named = built(x, metric, codec, sketch, ids=np.arange(100) + 100)
    named.merge(VQIndex.load(tmp_path / "a.vqi", mmap=True))
    assert named.ids.tolist() == [*range(100, 200), *remaining]
    np.testing.assert_array_equal(named.reconstruct(remaining), other.reconstruct(remaining))


def test_merge_of_a_different_index_is_refused():
    index = built(vectors(5), ids=np.arange(5))
    for other, words in (
        (built(vectors(2), bits=2), "bits is 2 in the other index and 4 in this one"),
        (built(vectors(2), "l2", seed=3), "metric is 'l2' .*; seed is 3 in"),
        (built(vectors(2), keep_vectors="f16"), "keep_vectors is 'f16' in the other index and None"),
        (built(vectors(2), ids=[70, 3]), r"id 3 is already in the index \(1 of 2"),
        (vectors(2), "expected a VQIndex"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            index.merge(other)
        assert index.ids.tolist() == [0, 1, 2, 3, 4]
    index.merge(VQIndex(DIM))
    assert len(index) == 5
    empty = VQIndex(DIM)
    empty.merge(built(vectors(2), ids=[70, 3]))
    assert empty.ids.tolist() == [70, 3]
    twice = built(vectors(3))
    twice.merge(twice)
    assert twice.ids.tolist() == list(range(6))
    np.testing.assert_array_equal(twice.reconstruct([3, 4, 5]), twice.reconstruct([0, 1, 2]))


# ---- the id map


def test_ids_agree_with_a_dict_after_many_changes():
    rng = np.random.default_rng(0)
    ids, model, count = IdMap(), {}, 0
    for _ in range(400):
        new = np.unique(rng.integers(0, 500, rng.integers(0, 30))) << 40  # far apart, with equal low bits
        old = ids.find(IdBatch(new))
        assert old.tolist() == [model.get(int(i), -1) for i in new]
        ids = ids.extended(new.size, IdBatch(new)).without(old)
        model.update({int(i): count + place for place, i in enumerate(new)})
        count += new.size
        gone = np.unique(rng.integers(0, 500, 5)) << 40
        ids = ids.without(ids.find(IdBatch(gone)))
        for i in gone:
            model.pop(int(i), None)
        assert len(ids) == len(model)
        if rng.random() < 0.05:
            ids = ids.compacted()
            count = len(ids)
            model = {int(i): row for row, i in enumerate(ids.explicit)}
    everything = np.arange(500) << 40
    assert ids.find(IdBatch(everything)).tolist() == [model.get(int(i), -1) for i in everything]
    assert sorted(ids.ids(ids.live_rows()).tolist()) == sorted(model)


def test_ids_do_not_see_later_changes():
    snapshot = IdMap().extended(3, IdBatch(np.array([50, 6, 700]))).without(np.array([0]))
    ids = snapshot.extended(2, IdBatch(np.array([6, 9]))).without(np.array([1]))
    batch = IdBatch(np.array([700, 6, 50, 9]))
    assert ids.find(batch).tolist() == [2, 3, -1, 4]  # from now on the table holds the later rows
    assert snapshot.find(batch).tolist() == [2, 1, -1, -1]
    assert ids.find(batch).tolist() == [2, 3, -1, 4]
    assert (len(snapshot), len(ids), snapshot.ids(snapshot.live_rows()).tolist()) == (2, 3, [6, 700])


def test_search_keeps_to_the_vectors_of_its_beginning_while_some_are_removed():
    x = vectors(80)
    index = built(x, "l2")
    index.remove([7])  # creates the bitmap of removed rows

    class Removing:
        """Ids that remove a vector from the index when they are read."""

        def __array__(self, dtype=None, copy=None):
            index.remove([5])
            return np.array([60], dtype)

    found = index.search(x[5], 80, filter=exclude(Removing()), confidence=1).ids.tolist()
    assert found[0] == 5
    assert 60 not in found
    assert index.search(x[5], 80).ids.tolist().count(5) == 0


# ---- versions of an index share arrays


def ids_of(kind, first, count):
    numbers = range(first, first + count)
    return None if kind == "automatic" else [f"document {i}" for i in numbers] if kind == "strings" else [*numbers]


@pytest.mark.parametrize("kind", ["automatic", "integers", "strings"])
def test_two_versions_that_follow_one_keep_their_own_rows(kind):
    """The room behind the rows of a version is given out once; the other one gets a copy."""
    index = built(vectors(60), "l2", ids=ids_of(kind, 0, 60), keep_vectors="f16")
    index.add(vectors(70)[60:], ids_of(kind, 60, 10))  # makes room for more
    before, after = index._state, []
    for number in (1, 2):
        index._state = before
        for part in (0, 10):
            index.add(vectors(10, seed=number + part), ids_of(kind, 1000 * number + part, 10))
        after.append(index._state)
    for number, state in enumerate(after, 1):
        index._state = state
        x = np.concatenate([vectors(70), vectors(10, seed=number), vectors(10, seed=number + 10)])
        ids = None if kind == "automatic" else ids_of(kind, 0, 70) + ids_of(kind, 1000 * number, 20)
        assert pickle.dumps(index) == pickle.dumps(built(x, "l2", ids=ids, keep_vectors="f16"))


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_rows_added_one_by_one_are_copied_few_times(kind, monkeypatch):
    copies = {Growing: 0, RowStore: 0}
    init, grow = Growing.__init__, RowStore._grow

    def counting_init(self, entries):
        copies[Growing] += len(entries) > 9  # the new entries of a call are not copies
        init(self, entries)

    def counting_grow(self, more):
        copies[RowStore] += 1
        grow(self, more)

    monkeypatch.setattr(Growing, "__init__", counting_init)
    monkeypatch.setattr(RowStore, "_grow", counting_grow)
    index, x = VQIndex(8), vectors(900, 8)
    for i in range(900):
        index.add(x[i : i + 1], [f"abc{i:06}"] if kind == "strings" else [7 * i])
    assert copies[RowStore] == 1
    assert 5 < copies[Growing] < (20 if kind == "integers" else 60), "each copy has half as much room again"


def test_an_add_in_chunks_takes_the_memory_of_its_rows_at_once(monkeypatch):
    """No block is allocated twice, and none is longer than its rows need."""
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 100 * DIM)
    allocated, real = [], RowStore._allocate

    def allocate(self, rows):
        allocated.append(rows)
        return real(self, rows)

    monkeypatch.setattr(RowStore, "_allocate", allocate)
    index = VQIndex(DIM)
    index.add(vectors(5000))
    assert [rows for rows in allocated if rows] == [5056]


# ---- removed vectors leave memory


def removed_of(index):
    return index.stats()["removed"]


def test_removed_vectors_leave_memory_once_they_are_many_and_most():
    x = vectors(260)
    index = built(x[:100])
    index.remove(range(63))
    assert removed_of(index) == 63, "few"
    index.remove([63])
    assert removed_of(index) == 0
    same(index, built(x[64:100], ids=range(64, 100)))
    index = built(x[:200])
    index.remove(range(100))
    assert removed_of(index) == 100, "not most"
    index.remove([100])
    assert removed_of(index) == 0
    index = built(x[:100])
    index.upsert(range(64), x[100:164])
    assert removed_of(index) == 64, "not most"
    index.upsert(range(64), x[164:228])
    assert removed_of(index) == 0
    same(index, built(np.concatenate([x[64:100], x[164:228]]), ids=[*range(64, 100), *range(64)]))


@pytest.mark.parametrize("kind", ["automatic", "integers", "strings"])
def test_rows_in_a_mapped_file_keep_their_places_while_later_ones_leave_memory(kind, tmp_path):
    x, number = vectors(230), {"automatic": 0, "integers": 1000, "strings": 1000}[kind]

    def ids(first, count):
        return [*range(first, first + count)] if kind == "automatic" else ids_of(kind, number + first, count)

    built(x[:100], ids=ids_of(kind, number, 100), keep_vectors="f16").save(tmp_path / "a.vqi")
    index = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    mapped = index._rows.stored()[0].codes
    index.remove(ids(0, 90))
    assert removed_of(index) == 90
    index.add(x[100:], None if kind == "automatic" else ids(100, 130))
    index.remove(ids(101, 70))
    assert removed_of(index) == 90, "of the later ones they are most"
    assert np.shares_memory(index._rows.stored()[0].codes, mapped)
    left = [*range(90, 101), *range(171, 230)]
    rest = built(x[left], ids=[name for i in left for name in ids(i, 1)], keep_vectors="f16")
    same(index, rest)
    for one, other in zip(index.search(Q, 20, rerank=True), rest.search(Q, 20, rerank=True), strict=True):
        np.testing.assert_array_equal(one, other)
    index = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    index.compact()
    index.remove(ids(0, 70))
    assert removed_of(index) == 0, "after `compact` no row need keep its place"


# ---- one change at a time, and each counts


def test_a_change_in_the_middle_of_another_one_is_kept_and_the_other_refused():
    x = vectors(40)

    class Changing:
        """Vectors or ids that change the index when they are read."""

        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            index.add(x[30:31], ids=[len(index) + 1000])
            return np.asarray(self.values, dtype)

    calls = {
        "add": lambda: index.add(Changing(x[31:33]), ids=[50, 51]),
        "upsert": lambda: index.upsert([3, 50], Changing(x[31:33])),
        "remove": lambda: index.remove(Changing([3, 4])),
    }
    for call in calls.values():
        index = built(x[:30], ids=range(30))
        with pytest.raises(InvalidInputError, match="was changed in the middle of another change; expected one at a"):
            call()
        same(index, built(x[:31], ids=[*range(30), 1030]))


def test_an_index_counts_its_changes():
    x = vectors(40)
    index, other = built(x[:20]), built(x[20:])
    counts = [index.changes]
    assert counts == [1]
    for change in (
        lambda: index.add(x[20:30]),
        lambda: index.upsert([3, 90], x[30:32]),
        lambda: index.remove([4, 5]),
        lambda: index.compact(),
        lambda: index.merge(VQIndex(DIM)) or index.upsert([1], x[:1]),
        lambda: VQIndex.merge(other, built(x[:2])) or index.remove([6]),
    ):
        change()
        counts.append(index.changes)
        index.add(x[:0], ids=[])
        index.remove([1234])
        index.search(Q, 3)
        index.to("cpu")
        assert index.changes == counts[-1], "nothing changed"
    assert counts == [1, 2, 3, 4, 5, 6, 7]
    assert other.changes == 2


@pytest.mark.parametrize("kind", ["integers", "strings"])
@pytest.mark.parametrize("keep", [None, "f16"])
def test_replacing_the_same_vectors_for_ever_takes_the_memory_of_twice_as_many(kind, keep):
    x = vectors(300)
    ids = np.arange(300) if kind == "integers" else [str(i) for i in range(300)]
    index = built(x, ids=ids, keep_vectors=keep)
    once = index.stats()["memory_bytes"]
    for _ in range(30):
        index.upsert(ids, x)
        assert index.stats()["removed"] <= len(index)
    assert index.stats()["memory_bytes"] < 4 * once
    same(index, built(x, ids=ids, keep_vectors=keep))


def test_a_map_apart_grows_otherwise_than_the_map_it_came_from():
    first = IdMap(20, np.arange(100, 120))
    older = first.apart()
    longer = first.extended(40, IdBatch(np.arange(500, 540)))
    assert (longer.find(IdBatch(np.arange(500, 540))) == np.arange(20, 60)).all()
    other = older.extended(40, IdBatch(np.arange(700, 740)))
    assert (other.find(IdBatch(np.arange(700, 740))) == np.arange(20, 60)).all()
    assert (other.find(IdBatch(np.arange(500, 540))) == -1).all()
    assert (other.find(IdBatch(np.arange(100, 120))) == np.arange(20)).all()
