"""String ids: they give the results of integer ids, in files and stores, and cannot be mixed with them.

The state machines (test_index_machine.py, test_store_machine.py) run with string ids, too.
"""

import hashlib
import json
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from edits import edited

import vqindex
from vqindex import FileFormatError, InvalidInputError, UnknownIdError, VQIndex, file_format
from vqindex.rows import string_ids
from vqindex.store import verify_store

DIM = 8
X = np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float32)
NAMES = [f"grüße/{i % 7}/{'x' * (i % 5)}{i}" for i in range(199)] + [""]


def make(n=200, **how):
    index = VQIndex(DIM, **how)
    index.add(X[:n], ids=NAMES[-n:])
    return index


def numbered(n=200, **how):
    index = VQIndex(DIM, **how)
    index.add(X[:n])
    return index


def as_named(ids):
    return [[None if i < 0 else NAMES[i] for i in line] for line in ids.tolist()]


@pytest.mark.parametrize(
    "form",
    [list, tuple, np.array, lambda ids: np.array(ids, object), lambda ids: np.array(ids, h5py.string_dtype())],
    ids=["list", "tuple", "U", "object", "h5py"],
)
def test_string_ids_of_every_form_are_returned(form):
    index = VQIndex(DIM)
    index.add(X, ids=form(NAMES))
    assert index.ids.tolist() == NAMES
    assert all(type(name) is str for name in index.ids)
    assert index.remove(form(NAMES[:2])) == 2
    found = index.search(X[:3], 300, filter=form(NAMES[:5])).ids
    assert [sorted(n for n in line if n is not None) for line in found.tolist()] == [sorted(NAMES[2:5])] * 3


def test_string_ids_give_the_results_of_integer_ids():
    one, other = make(keep_vectors="f32"), numbered(keep_vectors="f32")
    q = X[:4] + 0.1
    for how in ({}, {"rerank": True}, {"return_stderr": True}):
        a, b = one.search(q, 7, **how), other.search(q, 7, **how)
        assert a.ids.tolist() == as_named(b.ids)
        np.testing.assert_array_equal(a.scores, b.scores)
    assert one.search(q[0], 3).ids.shape == (3,)
    some = [[NAMES[1], NAMES[5]], vqindex.exclude(NAMES[:100]), None, []]
    same = [[1, 5], vqindex.exclude(range(100)), None, []]
    assert one.search(q, 9, filter=some).ids.tolist() == as_named(other.search(q, 9, filter=same).ids)
    lims, _, ids = one.range_search(q, 0.5)
    expected = other.range_search(q, 0.5)
    np.testing.assert_array_equal(lims, expected.lims)
    assert [ids.tolist()] == as_named(expected.ids[None])
    np.testing.assert_array_equal(one.estimate(q, NAMES[3:9]), other.estimate(q, range(3, 9)))
    np.testing.assert_array_equal(one.reconstruct(NAMES[3]), other.reconstruct(3))
    by_name = one.search(q, 5, rerank=lambda ids: X[[NAMES.index(name) for name in ids]])
    assert by_name.ids.tolist() == as_named(other.search(q, 5, rerank=X).ids)
    with pytest.raises(InvalidInputError, match="rerank is an array, but ids are strings"):
        one.search(q, 5, rerank=X)


def test_string_and_integer_ids_cannot_be_mixed():
    index, numbers = make(), numbered()
    before = index.ids.tolist()
    for call in (
        lambda: index.add(X[:1], ids=[7]),
        lambda: index.upsert([7], X[:1]),
        lambda: index.remove([7]),
        lambda: index.search(X[0], filter=[7]),
        lambda: index.estimate(X[0], [7]),
        lambda: index.reconstruct(7),
        lambda: index.merge(numbers),
    ):
        with pytest.raises(InvalidInputError, match="ids are integers; those of the index are strings"):
            call()
    with pytest.raises(InvalidInputError, match="expected ids= for every vector"):
        index.add(X[:1])
    for call in (
        lambda: numbers.add(X[:1], ids=["a"]),
        lambda: numbers.upsert(["a"], X[:1]),
        lambda: numbers.remove(["a"]),
        lambda: numbers.search(X[0], filter=vqindex.exclude(["a"])),
        lambda: numbers.reconstruct("a"),
        lambda: numbers.merge(index),
    ):
        with pytest.raises(InvalidInputError, match="ids are strings; those of the index are integers"):
            call()
    assert "a" not in numbers
    assert 0 not in index
    assert index.ids.tolist() == before
    with pytest.raises(UnknownIdError, match="id 'a' is not in the index of 200 vectors"):
        index.estimate(X[0], [NAMES[0], "a"])
    with pytest.raises(InvalidInputError, match=r"id '' is already in the index \(1 of 2 given are\)"):
        index.add(X[:2], ids=["new", ""])


def test_kind_of_ids_stays_until_an_emptied_index_is_compacted():
    index = make(5)
    index.remove(NAMES)
    with pytest.raises(InvalidInputError, match="those of the index are strings"):
        index.add(X[:1], ids=[3])
    with pytest.raises(InvalidInputError, match="expected ids= for every vector"):
        index.add(X[:1])  # removed rows still have string ids
    index.compact()
    index.add(X[:1], ids=[3])
    assert index.ids.tolist() == [3]


def test_a_failing_add_leaves_string_ids_as_they_were(monkeypatch):
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 16 * DIM)
    for index in (make(20), VQIndex(DIM)):
        bad = X[:100].copy()
        bad[90, 3] = np.nan
        before = index.ids.tolist()
        with pytest.raises(InvalidInputError, match=r"\[90, 3\] is nan"):
            index.add(bad, ids=[f"new{i}" for i in range(100)])
        assert index.ids.tolist() == before
        index.add(X[:3], ids=["p", "q", "r"])
        assert index.ids.tolist() == [*before, "p", "q", "r"]
        assert index.search(X[1], 1, filter=["q"]).ids.tolist() == ["q"]


def test_two_string_ids_with_the_same_number_are_refused(monkeypatch):
    monkeypatch.setattr(string_ids, "_digest", lambda name: bytes([len(name)] * 8))
    index = VQIndex(DIM)
    index.add(X[:2], ids=["a", "bb"])
    assert "bb" in index
    for call in (lambda: index.add(X[:1], ids=["c"]), lambda: index.upsert(["c"], X[:1]), lambda: index.remove(["c"])):
        with pytest.raises(InvalidInputError, match="id 'c' has the same number as 'a'"):
            call()
    with pytest.raises(InvalidInputError, match="given twice"):
        index.add(X[:2], ids=["ccc", "ddd"])
    assert index.ids.tolist() == ["a", "bb"]


def test_numbers_of_string_ids_are_63_bits_of_blake2b():
    for name in NAMES:
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        assert string_ids.numbers_of([name])[0] == int.from_bytes(digest, "little") % 2**63


# ---- files


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("n", [0, 1, 200])
def test_saved_string_ids_come_back(tmp_path, n, mmap):
    index = make(n) if n else VQIndex(DIM)
    index.remove(NAMES[-n:][3:6] if n else [])
    path = tmp_path / "a.vqi"
    index.save(path)
    assert ("names" in dict(file_format.verify(path))) == (n > 0)
    loaded = VQIndex.load(path, mmap=mmap)
    assert loaded.ids.tolist() == index.ids.tolist()
    loaded.upsert(["new", *loaded.ids[:1]], X[: 1 + (n > 0)])
    index.upsert(["new", *index.ids[:1]], X[: 1 + (n > 0)])
    assert loaded.ids.tolist() == index.ids.tolist()
    assert loaded.search(X[0], 9).ids.tolist() == index.search(X[0], 9).ids.tolist()
    loaded.save(path)
    index.save(tmp_path / "b.vqi")
    assert path.read_bytes() == (tmp_path / "b.vqi").read_bytes()


def change_block(path, name, change):
    """Change a block and write valid checksums, as another writer might."""
    with edited(path) as file:
        array = change(file[name][()])
        header = json.loads(file["header"][()].tobytes())
        header["blocks"][name].update(crc32=[zlib.crc32(array.tobytes())], shape=list(array.shape))
        raw = np.frombuffer(json.dumps(header, sort_keys=True, separators=(",", ":")).encode(), np.uint8)
        del file[name], file["header"]
        file[name] = array
        file.create_dataset("header", data=raw).attrs.create("crc32", zlib.crc32(raw.tobytes()), dtype="<u4")


def put(at, value):
    def change(array):
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "words", "when"),
    [
        ("name_ends", put(3, 0), "out of order", "load"),
        ("name_ends", put(-1, 2**40), "out of order", "load"),
        ("name_ends", put(0, -5), "out of order", "load"),
        ("name_ends", lambda a: a[:-1], "shape", "map"),
        ("names", lambda a: a[:-1], "out of order", "load"),
        ("names", put(0, 0xFF), "no UTF-8", "verify"),
        ("names", put(0, ord("h")), "not the numbers", "verify"),
        ("ids", put(0, 5), "not the numbers", "verify"),
    ],
)
def test_inconsistent_blocks_of_string_ids_are_refused(tmp_path, name, change, words, when):
    path = tmp_path / "a.vqi"
    make().save(path)
    change_block(path, name, change)
    calls = {
        "verify": file_format.verify,
        "load": VQIndex.load,
        "map": lambda path: VQIndex.load(path, mmap=True),
    }
    for call in list(calls.values())[: list(calls).index(when) + 1]:
        with pytest.raises(FileFormatError, match=words):
            call(path)


def test_a_false_text_size_in_a_mapped_file_is_refused_before_allocation(tmp_path):
    path = tmp_path / "a.vqi"
    make().save(path)
    change_block(path, "name_ends", put(-1, 2**45))
    index = VQIndex.load(path, mmap=True)
    index.remove([NAMES[0]])
    for call in (index.compact, lambda: index.save(tmp_path / "b.vqi")):
        with pytest.raises(FileFormatError, match="names of the index: the ends of names are out of order"):
            call()


def test_string_ids_in_a_file_of_version_2_are_refused(tmp_path):
    path = tmp_path / "old.vqi"
    path.write_bytes((Path(__file__).parent / "golden" / "format2.vqi").read_bytes())
    with edited(path) as file:
        file["names"] = np.zeros(3, np.uint8)
    with pytest.raises(FileFormatError, match="'names'"):
        VQIndex.load(path)


# ---- stores


def test_a_store_keeps_string_ids_through_commits_and_compaction(tmp_path):
    folder = tmp_path / "store"
    with vqindex.open(folder, "a", dim=DIM) as index:
        index.add(X[:100], ids=NAMES[:100])
        index.commit(merge=False)
        index.remove(NAMES[5:9])
        index.upsert(["a", NAMES[50]], X[:2])
        index.commit(merge=False)
    expected = [name for name in NAMES[:100] if name not in {*NAMES[5:9], NAMES[50]}] + ["a", NAMES[50]]
    verify_store(folder)
    for mmap in (False, True):
        assert vqindex.open(folder, mmap=mmap).ids.tolist() == expected
    with vqindex.open(folder, "a") as index:
        with pytest.raises(InvalidInputError, match="those of the index are strings"):
            index.add(X[:1], ids=[1])
        index.compact()
        assert index.ids.tolist() == expected
        index.save(tmp_path / "whole.vqi")
    assert VQIndex.load(tmp_path / "whole.vqi").ids.tolist() == expected
    verify_store(folder)


def test_a_store_with_string_ids_in_some_segments_only_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    with vqindex.open(folder, "a", dim=DIM) as index:
        index.add(X[:10], ids=NAMES[:10])
        index.commit(merge=False)
    monkeypatch.setattr("vqindex.rows.ids.IdMap._check_kind", lambda self, given: None)
    with vqindex.open(folder, "a") as index:
        index._index._ids._string_ids = None
        index.add(X[:10], ids=np.arange(10))
        index.commit(merge=False)
    with pytest.raises(FileFormatError, match="1 of its 2 segments have names; expected all or none"):
        vqindex.open(folder)
    with pytest.raises(FileFormatError, match="1 of its 2 segments have names; expected all or none"):
        verify_store(folder)
