"""Reports of files that were lost, half written, mixed with others, or could not be opened by a second process."""

import os
import shutil
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
from reports import DIM, index_of, nearest, rows, run, same

import vqindex
from vqindex import FileFormatError, StoreError, VQIndex

X = rows()
posix = pytest.mark.skipif(os.name != "posix", reason="limits and locks of POSIX")


@pytest.fixture
def store(tmp_path):
    """A writer's store with 60 vectors committed."""
    with vqindex.open(tmp_path / "store", "a", dim=DIM, metric="l2") as writer:
        writer.add(X)
        writer.commit()
        yield writer


# Opens a store for writing, and says whether it could.
OPEN = """
import sys, vqindex
try:
    vqindex.open(sys.argv[1], "a").close()
    print("opened")
except vqindex.StoreError as error:
    print(error)
"""


# turbovec #118: a failed save had destroyed the good file before it.
# faiss #607: a full disk ended in "write error" without more.
# h5py #914: and the process crashed when it ended.
@posix
def test_a_save_without_space_keeps_the_old_file_and_ends_well(tmp_path):
    index_of(X).save(tmp_path / "a.vqi")
    code = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from reports import index_of, rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    index_of(rows(50_000)).save(sys.argv[1])
except OSError as error:
    print(error.strerror)
"""
    assert run(code, tmp_path / "a.vqi", os.path.dirname(sys.modules["reports"].__file__)) == "File too large"
    same(VQIndex.load(tmp_path / "a.vqi").search(X, 5), index_of(X).search(X, 5))
    assert os.listdir(tmp_path) == ["a.vqi"]


# faiss #861: a process read a file that another was writing, and failed or crashed.
# zarrs-python #185: a writer that was killed left a file cut short.
def test_a_file_that_is_saved_again_and_again_is_always_whole(tmp_path):
    index_of(X[:20]).save(tmp_path / "a.vqi")
    stop = threading.Event()

    def save():
        while not stop.is_set():
            for vectors in (X, X[:20]):
                index_of(vectors).save(tmp_path / "a.vqi")

    thread = threading.Thread(target=save)
    thread.start()
    try:
        for mmap in [False, True] * 40:
            loaded = VQIndex.load(tmp_path / "a.vqi", mmap=mmap)
            assert len(loaded) in (20, 60)
            assert nearest(loaded, X[: len(loaded)]) == list(range(len(loaded)))
    finally:
        stop.set()
        thread.join()


# annoy #335: a process that had mapped a file died of a bus error when the file was written anew.
@posix
def test_a_mapped_index_answers_on_after_its_file_was_replaced_or_removed(tmp_path):
    index_of(X).save(tmp_path / "a.vqi")
    mapped = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    want = index_of(X).search(X, 5)
    index_of(X[:3]).save(tmp_path / "a.vqi")
    same(mapped.search(X, 5), want)
    (tmp_path / "a.vqi").unlink()
    same(mapped.search(X, 5), want)


# faiss #3498: an index on disk that was opened twice and changed by one of the two was wrong in the other.
def test_an_index_mapped_from_a_file_can_be_saved_over_it(tmp_path):
    index_of(X[:30]).save(tmp_path / "a.vqi")
    mapped = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    mapped.add(X[30:])
    mapped.remove([7])
    mapped.save(tmp_path / "a.vqi")
    for index in (mapped, VQIndex.load(tmp_path / "a.vqi")):
        assert nearest(index, np.delete(X, 7, axis=0)) == [i for i in range(60) if i != 7]


# h5py #879, #1179: files cut short were opened, or the error said nothing of it.
# milvus #19493: a part of the index was missing.
# usearch #776: sizes in a file were believed before they were checked.
@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, mmap):
    index_of(X).save(tmp_path / "a.vqi")
    whole = (tmp_path / "a.vqi").read_bytes()
    for share in np.linspace(0, 0.999, 25):
        (tmp_path / "b.vqi").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(FileFormatError, match=r"b\.vqi"):
            VQIndex.load(tmp_path / "b.vqi", mmap=mmap)


# turbovec #514: 96 of 100 changed bits went unnoticed and changed the results.
def test_no_changed_bit_changes_results_unnoticed(tmp_path):
    index = index_of(X)
    index.save(tmp_path / "a.vqi")
    whole, want = bytearray((tmp_path / "a.vqi").read_bytes()), index.search(X, 5)
    noticed = 0
    for at in np.random.default_rng(0).integers(0, len(whole), 60):
        whole[at] ^= 4
        (tmp_path / "b.vqi").write_bytes(whole)
        whole[at] ^= 4
        try:
            same(VQIndex.load(tmp_path / "b.vqi").search(X, 5), want)  # it hit what no one reads
        except FileFormatError:
            noticed += 1
    assert noticed > 10


# h5py #1101, #2506: a lock of HDF5 kept a second reader out, or mixed settings of locks did.
# PyTables #888: a file that one process has open can't be read by another.
@pytest.mark.parametrize("locking", ["TRUE", "FALSE", "BEST_EFFORT"])
def test_readers_do_not_lock_each_other_out(tmp_path, locking):
    index_of(X).save(tmp_path / "a.vqi")
    mapped = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    code = "import sys, vqindex; print(len(vqindex.VQIndex.load(sys.argv[1], mmap=True)))"
    with h5py.File(tmp_path / "a.vqi"):
        assert run(code, tmp_path / "a.vqi", HDF5_USE_FILE_LOCKING=locking) == "60"
    assert nearest(mapped, X) == list(range(60))


# py-lmdb #129, #193: opening a database again in the same process, and closing it, lost the lock of the first.
# lmdbjava #75: two writers in one process were let in.
@posix
def test_a_second_writer_in_the_same_process_is_refused_and_takes_no_lock_away(store):
    with pytest.raises(StoreError, match=r"open for writing by process \d+"):
        vqindex.open(store.path, "a")
    with vqindex.open(store.path) as reader:
        assert len(reader) == 60
    assert "is open for writing by process" in run(OPEN, store.path)
    store.remove([0])
    assert store.commit() == 2


# milvus-lite #227: closing did not release the lock.
# duckdb #13079: a service that reloads found the lock of its former self.
@posix
def test_a_closed_or_forgotten_writer_leaves_no_lock(store):
    store.close()
    assert run(OPEN, store.path) == "opened"
    forgotten = vqindex.open(store.path, "a")
    del forgotten
    assert run(OPEN, store.path) == "opened"
    died = "import os, sys, vqindex; s = vqindex.open(sys.argv[1], 'a'); os._exit(0)"
    run(died, store.path)
    assert run(OPEN, store.path) == "opened"


# milvus-lite #282: closing failed when it could not release the lock.
# milvus #50390: a lock that is taken was shown as "Resource temporarily unavailable".
@posix
def test_a_lock_that_is_taken_is_named_with_its_process(store):
    said = run(OPEN, store.path)
    assert f"open for writing by process {os.getpid()}" in said
    assert "temporarily unavailable" not in said


# milvus-lite #264: readers needed the right to write a lock file.
@posix
def test_a_reader_changes_no_file_of_a_store(store):
    store.close()
    before = {path.name: path.stat() for path in store.path.iterdir()}
    with vqindex.open(store.path) as reader:
        assert nearest(reader, X) == list(range(60))
    after = {path.name: path.stat() for path in store.path.iterdir()}
    assert {n: (s.st_ino, s.st_mtime_ns, s.st_size) for n, s in before.items()} == {
        n: (s.st_ino, s.st_mtime_ns, s.st_size) for n, s in after.items()
    }


# chroma #1216: a collection was still there after its folder had been deleted.
# chroma #6499: after the folder was made again, writing failed.
@posix
def test_a_folder_that_was_deleted_and_made_again_is_another_store(store):
    store.close()
    shutil.rmtree(store.path)
    with pytest.raises(FileNotFoundError, match="store"):
        vqindex.open(store.path)
    with vqindex.open(store.path, "a", dim=DIM, metric="l2") as again:
        assert len(again) == 0
        again.add(X[:5])
    with vqindex.open(store.path) as reader:
        assert nearest(reader, X[:5]) == list(range(5))


# lancedb #1615: two processes that create the same table got a confusing error.
# lancedb #725, #3377: and writers at the same time lost rows, or made them twice.
@posix
def test_of_many_processes_that_create_a_store_one_at_a_time_writes(tmp_path):
    code = """
import sys, time, numpy as np, vqindex
while True:
    try:
        store = vqindex.open(sys.argv[1], "a", dim=16)
        break
    except vqindex.StoreError:
        time.sleep(0.01)
with store:
    store.add(np.eye(16)[:3] + 1, ids=[int(sys.argv[2]) * 10 + i for i in range(3)])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    processes = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(3)]
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", "", ""]
    with vqindex.open(tmp_path / "s") as reader:
        assert sorted(reader.ids.tolist()) == [i * 10 + j for i in range(3) for j in range(3)]


# defradb.rs #1599: two writers of the same data were both told that they had written it, and one was not.
# zarr-python #328: of two that write at the same time, one is lost.
def test_a_save_over_the_changes_of_another_is_refused_and_loses_neither(tmp_path):
    index_of(X[:20]).save(tmp_path / "a.vqi")
    mine, theirs = (VQIndex.load(tmp_path / "a.vqi") for _ in range(2))
    theirs.add(X[20:40])
    theirs.save(tmp_path / "a.vqi")
    mine.add(X[40:], range(40, 60))
    with pytest.raises(StoreError, match=r"a\.vqi"):
        mine.save(tmp_path / "a.vqi")
    assert nearest(VQIndex.load(tmp_path / "a.vqi"), X[:40]) == list(range(40))
    mine.save(tmp_path / "b.vqi")
    assert nearest(VQIndex.load(tmp_path / "b.vqi"), X[40:]) == list(range(40, 60))


# localOllamaRAG #35: an index was replaced before its metadata, which then could not be written.
# chroma #530: two files of one store were of different moments.
@posix
def test_what_was_not_committed_is_not_there_and_what_was_is_whole(store):
    store.add(X + 1, ids=np.arange(100, 160))
    store.upsert([3], X[:1] + 5)
    store.close()  # without commit
    with vqindex.open(store.path) as reader:
        assert reader.ids.tolist() == list(range(60))
        same(reader.search(X, 5), index_of(X).search(X, 5))


# faiss #1034: a search of an old index gave other results in a new version.
def test_files_of_old_formats_load(golden):
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden")
    for number in (1, 2, 3):
        assert len(VQIndex.load(os.path.join(folder, f"format{number}.vqi"))) > 0
    with vqindex.open(os.path.join(folder, "store1")) as reader:
        assert len(reader) > 0
