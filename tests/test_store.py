"""`vqindex.open`: an index in a folder behaves like one in memory, and commits are what others see."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import gate
import numpy as np
import pytest
from stores import DIM, QUERIES, committed, content, make_store, vectors

import vqindex
from vqindex import FileFormatError, InvalidInputError, StoreError, UnknownIdError, VQIndex, file_format
from vqindex.store import commit, durable, merge, verify_store
from vqindex.store.manifest import read_manifest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def folder(tmp_path):
    return make_store(tmp_path / "store")


def rewrite_manifest(folder, change):
    """Change the manifest as a newer writer might have: with a right checksum."""
    first, body = (folder / "manifest").read_bytes().split(b"\n", 1)
    content = json.loads(body)
    change(content)
    body = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    version = first.split()[1]
    (folder / "manifest").write_bytes(b"vqindex-store %s %08x %d\n" % (version, zlib.crc32(body), len(body)) + body)


# ---- opening


def test_opening_where_nothing_is_raises_and_makes_nothing(tmp_path):
    for mode in ("r", "a"):
        with pytest.raises(FileNotFoundError, match="none"):
            vqindex.open(tmp_path / "none", mode)
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        vqindex.open(tmp_path / "no" / "parent", "a", dim=3)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"dim": 3, "bits": 9}, {"dim": 3, "metric": "hamming"}])
def test_a_wrong_spec_makes_no_folder(tmp_path, wrong):
    with pytest.raises(InvalidInputError):
        vqindex.open(tmp_path / "new", "a", **wrong)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", ["w", "rb", "", None])
def test_other_modes_are_refused(tmp_path, mode):
    with pytest.raises(InvalidInputError, match=f"mode is {mode!r}; expected 'r' or 'a'"):
        vqindex.open(tmp_path, mode)


def test_a_new_store_is_on_disk_once_it_is_open(tmp_path):
    with vqindex.open(tmp_path / "new", "a", dim=7, bits=3, metric="cosine", codec="trellis", seed=4) as index:
        spec = index.spec
        assert vqindex.open(tmp_path / "new").spec == spec
        assert len(vqindex.open(tmp_path / "new")) == 0
    assert spec == vqindex.IndexSpec(7, 3, "cosine", "trellis", seed=4)


def test_parameters_other_than_its_own_are_refused(folder):
    vqindex.open(folder, "a", dim=DIM, metric="l2", bits=4, seed=0).close()
    with pytest.raises(InvalidInputError, match=r"bits is 2; the index in .* has 4"):
        vqindex.open(folder, "a", bits=2)
    with pytest.raises(InvalidInputError, match=r"metric is 'ip'; .* has 'l2'"):
        vqindex.open(folder, metric="ip")
    vqindex.open(folder, "a").close()  # the lock is free


def test_a_file_and_a_folder_of_other_things_are_refused(tmp_path):
    VQIndex(3).save(tmp_path / "a.vqi")
    with pytest.raises(FileFormatError, match=r"a\.vqi is a file; expected a folder \(VQIndex\.load"):
        vqindex.open(tmp_path / "a.vqi")
    with pytest.raises(FileFormatError, match=r"is not an index and holds 'a\.vqi'"):
        vqindex.open(tmp_path, "a", dim=3)
    assert os.listdir(tmp_path) == ["a.vqi"]


def test_a_store_can_be_made_in_an_existing_folder(tmp_path):
    vqindex.open(tmp_path, "a", dim=3).close()
    assert sorted(os.listdir(tmp_path)) == ["lock", "manifest"]


# ---- one writer, many readers


def test_a_second_writer_is_told_who_writes(folder):
    with (
        vqindex.open(folder, "a"),
        pytest.raises(StoreError, match=f"open for writing by process {os.getpid()} on .*expected one writer"),
    ):
        vqindex.open(folder, "a")
    vqindex.open(folder, "a").close()


OTHER = """
import sys, vqindex
try:
    vqindex.open(sys.argv[1], "a").close()
    print("opened")
except vqindex.StoreError as error:
    print(error)
"""


def test_a_second_writer_in_another_process_is_refused_until_the_first_has_closed(folder):
    def other():
        return subprocess.run(
            [sys.executable, "-c", OTHER, str(folder)], capture_output=True, text=True, check=True
        ).stdout

    index = vqindex.open(folder, "a")
    assert f"process {os.getpid()} " in other()
    index.close()
    assert other() == "opened\n"
    index = vqindex.open(folder, "a")
    del index  # forgotten, not closed
    assert other() == "opened\n"


def test_an_error_while_opening_frees_the_lock(folder):
    shutil.move(folder / "manifest", folder / "elsewhere")
    (folder / "manifest").write_bytes(b"x")
    with pytest.raises(FileFormatError) as kept:
        vqindex.open(folder, "a")
    shutil.move(folder / "elsewhere", folder / "manifest")
    vqindex.open(folder, "a").close()
    assert kept.tb is not None, "the error still refers to all that was opened"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_reads_and_leaves_the_lock_to_its_parent(folder):
    index = vqindex.open(folder, "a")
    expected = content(index)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert content(index) == expected
            for call in (lambda: index.add(vectors(1)), index.commit, lambda: index.remove([0]), index.compact):
                with pytest.raises(StoreError, match="fork"):
                    call()
            index.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(StoreError, match="open for writing"):
        vqindex.open(folder, "a")
    index.add(vectors(1))
    index.commit()
    index.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_lives_on_does_not_keep_the_lock_of_its_parent(folder):
    index = vqindex.open(folder, "a")
    (started, start), (ended, end) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.write(start, b"x")
        os.read(ended, 1)
        os._exit(0)
    os.close(ended)
    try:
        assert os.read(started, 1) == b"x"
        index.close()
        vqindex.open(folder, "a").close()
    finally:
        os.close(end)
        os.waitpid(child, 0)
        os.close(started)
        os.close(start)


def test_a_reader_keeps_its_commit(folder):
    before = committed(folder)
    readers = [vqindex.open(folder, mmap=mmap) for mmap in (True, False)]
    with vqindex.open(folder, "a") as index:
        for i in range(10):
            index.add(vectors(30, i))
            index.remove(index.ids[::3])
            index.commit()
            assert committed(folder) == content(index)
        index.compact()
        assert committed(folder) == content(index)
        assert len(os.listdir(folder)) == 3
    for reader in readers:
        assert content(reader) == before


def test_a_reader_between_manifest_and_segments_takes_the_next_commit(folder, monkeypatch):
    """The writer replaces files after the manifest was read: the reader starts again."""
    from vqindex.store import snapshot

    index = vqindex.open(folder, "a")
    real, hurried = snapshot.load_manifest, []

    def read_and_be_late(where):
        manifest = real(where)
        if len(hurried) < 3:
            hurried.append(1)
            index.add(vectors(3))
            index.compact()
        return manifest

    monkeypatch.setattr(snapshot, "load_manifest", read_and_be_late)
    found = content(vqindex.open(folder))
    assert found == content(index)
    assert len(hurried) == 3
    index.close()


def test_reading_needs_no_right_to_write(folder):
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    with vqindex.open(folder) as index:
        for call in (
            lambda: index.add(vectors(1)),
            lambda: index.upsert([1], vectors(1)),
            lambda: index.remove([1]),
            index.commit,
            index.compact,
        ):
            with pytest.raises(StoreError, match=r"open for reading; expected mode 'a'"):
                call()
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_closed_index_refuses_every_call(folder):
    index = vqindex.open(folder, "a")
    index.close()
    index.close()
    for call in (
        lambda: len(index),
        lambda: index.search(QUERIES),
        lambda: index.ids,
        lambda: 1 in index,
        lambda: index.add(vectors(1)),
        lambda: index.reconstruct([5]),
        lambda: index.stats(),
        index.commit,
    ):
        with pytest.raises(StoreError, match="was closed"):
            call()


# ---- commits


def test_what_is_not_committed_is_not_there(folder):
    before = committed(folder)
    index = vqindex.open(folder, "a")
    index.add(vectors(3))
    index.remove([5])
    index.meta["x"] = 1
    assert committed(folder) == before
    index.close()
    assert committed(folder) == before

    def fail():
        with vqindex.open(folder, "a") as index:
            index.add(vectors(3))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert committed(folder) == before
    with vqindex.open(folder, "a") as index:
        index.add(vectors(3))
        after = content(index)
    assert committed(folder) == after


def test_only_what_changed_is_written(folder):
    def files():
        return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != "lock"}

    with vqindex.open(folder, "a") as index:
        before, number = files(), index.commit()
        assert files() == before, "nothing had changed"
        index.meta["x"] = 5
        assert index.commit() == number + 1
        assert set(files().items()) ^ set(before.items()) == {
            ("manifest", files()["manifest"]),
            ("manifest", before["manifest"]),
        }
        old = files()
        index.remove([6])
        index.commit(merge=False)
        changed = {name for name, _ in set(files().items()) ^ set(old.items())}
        assert {name.split(".")[-1] for name in changed} == {"manifest", "removed"}
        old = files()
        index.add(vectors(9))
        index.commit(merge=False)
        assert len(files()) == len(old) + 1
        index.remove(index.ids)
        index.commit()
        assert set(files()) == {"manifest"}
        assert index.ids.size == 0
        index.add(vectors(2))
        assert index.ids.tolist() == [49, 50], "ids are never given twice"
        index.commit()
    assert committed(folder)[0] == [49, 50]


def test_notes_that_are_not_json_change_nothing(folder):
    before = committed(folder)
    with vqindex.open(folder, "a") as index:
        index.add(vectors(3))
        index.meta["x"] = object()
        with pytest.raises(InvalidInputError, match=r"meta\['x'\] is <object"):
            index.commit()
        assert committed(folder) == before
        assert not [p for p in folder.iterdir() if p.name not in {"lock", *read_manifest(folder).names}]
        del index.meta["x"]


def test_notes_changed_in_place_are_committed(folder, monkeypatch):
    monkeypatch.setattr(durable, "REMAP_ROWS", 1)
    with vqindex.open(folder, "a") as index:
        notes = index.meta
        notes["list"] = [1]
        index.commit()
        notes["list"].append(2)
        index.add(vectors(3))
        index.commit()
        notes["list"].append(3)
    assert vqindex.open(folder).meta == {"note": 1, "list": [1, 2, 3]}


def test_leftovers_are_swept_and_nothing_else(folder):
    before = committed(folder)
    ours = ["0000009999.vqi", "0000009999.removed", "manifest.tmp"]
    others = ["notes.txt", "999.vqi", "a.vqi", "0000009999.vqi.bak"]
    for name in ours + others:
        (folder / name).write_bytes(b"x")
    (folder / "0000009998.vqi").mkdir()
    assert committed(folder) == before
    assert (folder / ours[0]).exists(), "a reader cleans nothing"
    vqindex.open(folder, "a").close()
    assert not any((folder / name).exists() for name in ours)
    assert all((folder / name).exists() for name in others)
    verify_store(folder)


def test_segments_are_index_files(folder):
    manifest = read_manifest(folder)
    assert len(manifest.segments) == 3
    everything = vqindex.open(folder)
    for segment in manifest.segments:
        single = VQIndex.load(folder / segment.name)
        assert len(single) == segment.rows
        assert single.spec == everything.spec
        first = segment.first_id if segment.first_id is not None else 0
        ids = [i for i in (single.ids + first).tolist() if i in everything]
        if segment.removed is None:
            np.testing.assert_array_equal(single.estimate(QUERIES, single.ids), everything.estimate(QUERIES, ids))


def test_long_sessions_map_what_they_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "REMAP_ROWS", 100)
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as index:
        for i in range(12):
            index.add(vectors(30, i))
            index.remove([i * 30])
            before = content(index)
            index.commit()
            assert content(index) == before
        tail = len(index._index._rows) - index._mapped_rows
        assert tail < 100
        expected = content(index)
    assert committed(tmp_path / "s") == expected


def test_removed_vectors_that_only_memory_holds_leave_memory(tmp_path):
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as index:
        index.add(vectors(300))
        index.commit()
        index.remove(range(200))
        before = content(index)
        contents = index._index._contents
        index.commit(merge=False)
        assert index._index._contents is contents, "the file holds them too"
        assert index.stats()["removed"] == 200
        index.commit()
        assert index.stats()["removed"] == 200, "nothing is new"
        index.remove([200])
        before = content(index)
        index.commit()
        assert index.stats()["removed"] == 0, "the file was rewritten without them"
        assert content(index) == before
    assert committed(tmp_path / "s") == before


@pytest.mark.parametrize("call", ["commit", "compact"])
def test_changes_during_a_commit_are_kept_for_the_next_one(tmp_path, monkeypatch, call):
    """Another thread removes most vectors and adds some, while the files of a commit are written."""
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as index:
        index.add(vectors(200))
        index.remove([3])
        before = content(index)
        real = commit.prepare_manifest

        def prepare(*args):
            monkeypatch.setattr(commit, "prepare_manifest", real)
            index.remove(range(150))
            index.add(vectors(20, 7))
            return real(*args)

        monkeypatch.setattr(commit, "prepare_manifest", prepare)
        getattr(index, call)()
        assert committed(tmp_path / "s") == before
        assert index.ids.tolist() == list(range(150, 220))
        before = content(index)
        getattr(index, call)()
        assert content(index) == before
    assert committed(tmp_path / "s") == before


@pytest.mark.parametrize("other", ["commit", "close"])
def test_of_two_threads_one_waits_until_the_other_has_committed(tmp_path, monkeypatch, other):
    index = vqindex.open(tmp_path / "s", "a", dim=DIM)
    index.add(vectors(20))
    real, errors = commit.publish_manifest, []

    def call():
        try:
            if other == "commit":
                index.add(vectors(10, 1))
            getattr(index, other)()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)

    def publish(*args, **kwargs):
        monkeypatch.setattr(commit, "publish_manifest", real)
        thread.start()
        thread.join(0.3)  # it could go on now, if nothing kept it from that
        assert index._lock.held, "the right to write ends after the last write"
        return real(*args, **kwargs)

    monkeypatch.setattr(commit, "publish_manifest", publish)
    index.commit()
    thread.join()
    assert not errors
    index.close()
    with vqindex.open(tmp_path / "s") as reader:
        assert len(reader) == (30 if other == "commit" else 20)


def test_large_commits_are_cut_into_segments_of_the_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "MERGE_BYTES", 100 * 16)
    with vqindex.open(tmp_path / "s", "a", dim=16, metric="cosine") as index:
        assert index.spec.bytes_per_vector == 12
        index.add(np.random.default_rng(0).standard_normal((1000, 16)))
        index.commit()
        assert [s.rows for s in index._commits.manifest.segments] == [133] * 7 + [69]
        index.remove(range(0, 1000, 2))
        index.compact()
        assert [s.rows for s in index._commits.manifest.segments] == [133] * 3 + [101]
        assert index.compact() == 0
        assert index.ids.tolist() == list(range(1, 1000, 2))


def test_ids_and_metrics_of_all_kinds_survive_a_commit(tmp_path):
    for number, (codec, metric, ids) in enumerate(
        [("turboquant-prod", "ip", None), ("trellis", "cosine", [5, 900, 2**62, 7]), ("qjl", "l2", [4, 3, 2, 1])]
    ):
        with vqindex.open(tmp_path / str(number), "a", dim=DIM, codec=codec, metric=metric, bits=2) as index:
            index.add(vectors(4), ids)
            expected = content(index)
            copy = VQIndex(DIM, 2, metric, codec=codec)
            copy.add(vectors(4), ids)
            assert content(copy)[:3] == expected[:3]
        assert committed(tmp_path / str(number)) == expected
        with vqindex.open(tmp_path / str(number)) as index, pytest.raises(UnknownIdError):
            index.reconstruct([10**9])


@pytest.mark.parametrize("ids", [[2**63 - 1], [2**63 - 2, 2**63 - 1], [2**62 - 1, 2**62], [0, 2**63 - 1], [2**62]])
def test_largest_ids_survive_a_commit(tmp_path, ids):
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as index:
        index.add(vectors(len(ids)), ids)
    assert committed(tmp_path / "s")[0] == ids


def test_saving_a_store_gives_a_file_with_the_same_content(folder, tmp_path):
    with vqindex.open(folder) as index:
        index.save(tmp_path / "a.vqi")
        assert content(VQIndex.load(tmp_path / "a.vqi")) == content(index)


def test_saving_segments_that_end_between_blocks_gives_the_file_of_the_same_vectors(tmp_path):
    with vqindex.open(tmp_path / "s", "a", dim=DIM) as index:
        for count, seed in ((20, 1), (70, 2), (5, 3)):
            index.add(vectors(count, seed))
            index.commit(merge=False)
    plain = VQIndex(DIM)
    plain.add(np.concatenate([vectors(20, 1), vectors(70, 2), vectors(5, 3)]))
    plain.save(tmp_path / "plain.vqi")
    with vqindex.open(tmp_path / "s") as index:
        assert index.stats()["segments"] == 3
        index.save(tmp_path / "a.vqi")
    assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "plain.vqi").read_bytes()


def test_representation_and_stats_say_what_the_store_is(folder):
    with vqindex.open(folder) as index:
        assert re.fullmatch(r"DurableIndex\(dim=6, .*, path='.*store', mode='r'\)", repr(index))
        stats = index.stats()
        assert (stats["segments"], stats["ntotal"], stats["removed"]) == (3, 37, 4)
        assert stats["file_bytes"] == sum(p.stat().st_size for p in folder.glob("*.vqi"))
    with pytest.raises(TypeError, match="missing"):
        vqindex.DurableIndex()


# ---- stores of all versions are read for ever


def assert_golden(index, expected):
    scores, ids = index.search(gate.queries(17), 5, confidence=1)
    np.testing.assert_array_equal(scores, np.float32([[float.fromhex(s) for s in row] for row in expected["scores"]]))
    assert ids.tolist() == expected["ids"]


def test_files_without_a_seal_that_grew_are_refused(tmp_path):
    for mmap in (False, True):
        folder = tmp_path / str(mmap)
        shutil.copytree(GOLDEN / "store1", folder)
        path = min(folder.glob("*.vqi"))
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(b"x")
        with pytest.raises(FileFormatError, match=f"{path.name}: has {size + 1} bytes; expected {size}"):
            vqindex.open(folder, mmap=mmap)


@pytest.mark.parametrize("mmap", [False, True])
def test_golden_store_opens_with_the_frozen_results(golden, tmp_path, mmap):
    expected = golden("store1.json")
    corpus = gate.corpus(17)
    kept = {i: corpus[14 + i] for i in expected["row order"]} | {5: corpus[64], 40: corpus[65]}
    far = {i: ((np.float64(np.float16(x)) - gate.queries(17)[0]) ** 2).sum() for i, x in kept.items()}
    nearest = sorted(far, key=far.get)
    folder = tmp_path / "store1"
    shutil.copytree(GOLDEN / "store1", folder)
    assert len(verify_store(folder)) == 6
    for device in ("auto", "reference"):
        with vqindex.open(folder, mmap=mmap, device=device) as index:
            assert_golden(index, expected)
            assert index.ids.tolist() == expected["row order"]
            assert (index.meta, index.keep_vectors) == ({"note": "golden"}, "f16")
            found = index.search(gate.queries(17)[0], 3, rerank=True, oversample=30).ids
            assert found.tolist() == nearest[:3]
    with vqindex.open(folder, "a", mmap=mmap) as index:
        index.compact()
        assert_golden(index, expected)
    assert_golden(vqindex.open(folder), expected)


@pytest.mark.parametrize("mmap", [False, True])
def test_golden_file_with_vectors_reranks_as_frozen(golden, mmap):
    path = GOLDEN / "format2-vectors.vqi"
    assert len(file_format.verify(path)) == 8
    for device in ("auto", "reference"):
        index = VQIndex.load(path, mmap=mmap, device=device)
        assert_golden(index, golden("format2-vectors.json"))
        assert (index.keep_vectors, index.ids.tolist()) == ("int8", [i for i in range(82) if i not in (3, 70)])
        assert index._ids.next_id == 82


# ---- merging


@pytest.mark.parametrize("sizes", ["ones", "hundreds", "any"])
def test_merges_are_few_and_files_too(sizes):
    rng = np.random.default_rng(0)
    segments, total, written = [], 0, 0
    for _ in range(3000):
        size = {"ones": 1, "hundreds": 100, "any": int(rng.choice([1, 10, 1000, 50_000]))}[sizes]
        segments.append(size)
        total, written = total + size, written + size
        runs = merge.merge_runs(segments, segments, 10**12)
        for run in reversed(runs):
            assert run.stop - run.start > 1
            written += sum(segments[run])
            segments[run] = [sum(segments[run])]
        levels = np.log(total) / np.log(merge.FANOUT) + 1
        assert sum(segments) == total
        assert written <= total * (levels + 1)
        assert len(segments) <= (merge.FANOUT - 1) * levels * (1 if sizes != "any" else 2)


def test_merges_leave_large_segments_alone():
    assert merge.merge_runs([100] * 20, [100] * 20, 50) == []
    assert merge.merge_runs([100, 1, 1, 1, 1, 1, 1, 1, 1], [100, *[1] * 8], 50) == [slice(1, 9)]


def test_segments_of_which_little_is_left_are_rewritten():
    assert merge.merge_runs([100, 20, 100], [49, 10, 0], 1000) == [slice(0, 1), slice(2, 3)]
    assert merge.merge_runs([100, 8, 8, 8], [49, 1, 1, 8], 1000)[0] == slice(0, 1)


def test_filters_allow_the_same_vectors_in_segments_of_any_length(tmp_path):
    rows = vectors(260)
    with vqindex.open(tmp_path / "store", "a", dim=DIM, metric="l2") as index:
        for piece in np.split(rows, [20, 110]):
            index.add(piece)
            index.commit(merge=False)
    with vqindex.open(tmp_path / "store") as index:
        assert index.stats()["segments"] == 3
        for share in (0.1, 0.5, 0.9):
            mask = np.random.default_rng(0).random(260) < share
            found = index.search(QUERIES, 260, filter=mask, confidence=1).ids
            for line in found:
                assert sorted(line[line >= 0]) == np.flatnonzero(mask).tolist()


def test_vectors_removed_after_others_never_reached_a_file_are_gone_when_reopened(tmp_path):
    with vqindex.open(tmp_path / "store", "a", dim=DIM) as index:
        index.add(vectors(50))
        index.remove([10, 20])
        index.commit()
        index.remove([5, 30, 49])
        index.commit(merge=False)
        want = index.ids.tolist()
    with vqindex.open(tmp_path / "store") as index:
        assert index.ids.tolist() == want == sorted(set(range(50)) - {5, 10, 20, 30, 49})


def test_bits_of_another_removed_vector_are_noticed(tmp_path):
    with vqindex.open(tmp_path / "store", "a", dim=DIM) as index:
        index.add(vectors(20))
        index.commit()
        index.remove([3])
    (path,) = (tmp_path / "store").glob("*.removed")
    data = bytearray(path.read_bytes())
    data[24] ^= 0b11000  # vector 4 for vector 3: as many as before
    path.write_bytes(data)
    with pytest.raises(vqindex.FileFormatError, match="CRC-32 differs"):
        vqindex.open(tmp_path / "store")


# ---- a store has an index


def test_an_opened_store_has_all_that_an_index_has(tmp_path):
    public = {name for name in dir(VQIndex) if not name.startswith("_")} - {"register"}
    with vqindex.open(tmp_path / "store", "a", dim=6) as index:
        assert isinstance(index, VQIndex)
        assert issubclass(vqindex.DurableIndex, VQIndex)
        assert VQIndex not in type(index).__mro__, "it has one, and is none by inheritance"
        assert public <= set(dir(index))
        for name in public:
            own, promised = getattr(type(index), name), getattr(VQIndex, name)
            assert own.__doc__, name
            if callable(promised) and name not in ("load", "compact"):
                assert list(inspect.signature(own).parameters) == list(inspect.signature(promised).parameters), name


def test_an_opened_store_moves_merges_and_answers_like_its_index(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 6)).astype(np.float32)
    plain = VQIndex(6, metric="l2")
    plain.add(x)
    with vqindex.open(tmp_path / "store", "a", dim=6, metric="l2") as index:
        index.add(x)
        assert index.to("reference") is index
        assert index.stats()["backend"] == "reference"
        assert (len(index), 3 in index, 50 in index, index.dim, index.is_trained) == (50, True, False, 6, True)
        for one, other in zip(index.search(x, 5), plain.search(x, 5), strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(index.range_search(x, 3.0), plain.range_search(x, 3.0), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(index.estimate(x[0], [4, 2]), plain.estimate(x[0], [4, 2]))
        np.testing.assert_array_equal(index.reconstruct(7), plain.reconstruct(7))
        plain.merge(index)
        index.merge(index)
        assert len(plain) == len(index) == 100
        np.testing.assert_array_equal(index.search(x, 5).ids, plain.search(x, 5).ids)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("commits", [True, False])
def test_replacing_the_same_vectors_for_ever_takes_the_memory_of_a_few_times_as_many(tmp_path, mmap, commits):
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    names = [str(i) for i in range(300)]
    with vqindex.open(tmp_path / "s", "a", dim=16, keep_vectors="f16", mmap=mmap) as store:
        store.upsert(names, x)
        once = store.stats()["memory_bytes"]
        for turn in range(40):
            store.upsert(names, x[::-1] if turn % 2 else x)
            if commits:
                store.commit()
            assert store.stats()["removed"] <= 3 * len(store)
        assert store.stats()["memory_bytes"] < 6 * once
        assert store.search(x[5], 1).ids.tolist() == ["294"]
    with vqindex.open(tmp_path / "s", verify=True) as reader:
        assert len(reader) == 300
        assert reader.search(x[5], 1).ids.tolist() == ["294"]


def test_another_threads_vectors_survive_a_commit_that_maps_again(tmp_path, monkeypatch):
    """They are added between the commit and the mapping of its files."""
    monkeypatch.setattr("vqindex.store.durable.REMAP_ROWS", 1)
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    with vqindex.open(tmp_path / "s", "a", dim=16) as store:
        store.add(x[:20])
        real = durable.read_snapshot

        def read_snapshot(*args):
            monkeypatch.setattr(durable, "read_snapshot", real)
            store.add(x[20:30])
            return real(*args)

        monkeypatch.setattr(durable, "read_snapshot", read_snapshot)
        store.commit()
        assert len(store) == 30
        store.commit()
        assert store.search(x[25], 1).ids.tolist() == [25]
    with vqindex.open(tmp_path / "s", verify=True) as reader:
        assert reader.ids.tolist() == list(range(30))


def test_a_commit_frees_the_memory_of_replaced_rows_also_while_other_threads_change_the_index(tmp_path, monkeypatch):
    rows, ids = vectors(200), np.arange(200)
    real, changed = durable.read_snapshot, []

    def read_snapshot(*args):
        found = real(*args)
        if not changed and threading.current_thread() is threading.main_thread():
            changed.append(True)
            other = threading.Thread(target=index.upsert, args=(ids[:1], rows[:1]))
            other.start()
            other.join()
        return found

    with vqindex.open(tmp_path / "store", "a", dim=DIM) as index:
        index.add(rows, ids)
        monkeypatch.setattr(durable, "read_snapshot", read_snapshot)
        for _ in range(20):
            changed.clear()
            index.upsert(ids, rows)
            index.commit()
            assert index.stats()["removed"] <= 400
        assert len(index) == 200
    with vqindex.open(tmp_path / "store") as index:
        assert sorted(index.ids) == ids.tolist()
