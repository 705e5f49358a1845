"""Documents and several processes: writers that are killed, forks, copies and backups. tests/soak/ has more of it."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from reports import in_fork

pytest.importorskip("fcntl", reason="forks and locks of POSIX")

from soak.documents import Replay, check, expected_after, soak, write_once

from vqindex import FileFormatError, StoreBusyError, StoreError, documents

KEPT = {"keep_vectors": "f32", "metric": "l2"}

# Writes commits, says their numbers, and never ends by itself.
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from soak.documents import write_once
from vqindex import documents
store = documents.open(sys.argv[2], autocommit=False, keep_vectors="f32", metric="l2")
while True:
    print(write_once(store), flush=True)
"""


# Begins to write and stays there.
HOLDER = """
import sys
from vqindex import documents
store = documents.open(sys.argv[1], autocommit=False)
store.add(["a"])
print(store, flush=True)
input()
"""


def killed_writer(folder, commits):
    """Let a process make commits until it has said so many, and kill it in the middle of what it does then."""
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = [int(process.stdout.readline()) for _ in range(commits)]
        time.sleep(random.random() * 0.02)
        process.kill()
        said += [int(line) for line in process.stdout.read().split()]
    assert process.returncode == -signal.SIGKILL
    return said[-1]


def written(folder, commits):
    with documents.open(folder, autocommit=False, **KEPT) as store:
        for _ in range(commits):
            last = write_once(store)
    return last


def looked_at(folder, mode="r"):
    """Check all of a store; return the number of its last commit."""
    store = documents.open(folder, mode)
    number = check(store, Replay(), random.Random(0))
    store.verify()
    store.close()
    return number


def test_a_short_soak_loses_and_mixes_nothing(tmp_path):
    roles = ("writer", "would-be writer", "reader", "reader")
    counts = soak(tmp_path / "store", 4, 0, pause=(0.05, 0.3), roles=roles)
    assert counts["kills"] > 3


@pytest.mark.parametrize("commits", [1, 70])  # the second one makes segments of what waited in the database
def test_what_a_killed_writer_committed_is_there(tmp_path, commits):
    folder = tmp_path / "store"
    last = killed_writer(folder, commits)
    found = looked_at(folder)
    assert found in (last, last + 1)
    assert looked_at(folder, "a") == found
    assert written(folder, 3) == found + 3
    assert looked_at(folder) == found + 3
    assert not [name for name in os.listdir(folder) if name.startswith("docs.sqlite-")]


def test_a_copy_of_a_killed_store_is_whole(tmp_path):
    killed_writer(tmp_path / "store", 5)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    found = looked_at(tmp_path / "copy")
    assert found == looked_at(tmp_path / "store")
    assert written(tmp_path / "copy", 2) == found + 2
    assert looked_at(tmp_path / "copy") == found + 2
    assert looked_at(tmp_path / "store") == found


def test_a_copy_without_the_log_is_whole_or_refused(tmp_path):
    killed_writer(tmp_path / "store", 5)
    shutil.copytree(tmp_path / "store", tmp_path / "copy", ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    try:
        found = looked_at(tmp_path / "copy")
    except FileFormatError:
        return
    assert 0 <= found <= 5


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_backup_that_is_restored_over_a_killed_store_is_the_backup(tmp_path, mode):
    folder, backup = tmp_path / "store", tmp_path / "backup"
    written(folder, 4)
    shutil.copytree(folder, backup)
    killed_writer(folder, 30)
    assert os.path.getsize(folder / "docs.sqlite-wal") > 0
    for name in os.listdir(backup):
        shutil.copyfile(backup / name, folder / name)
    found = looked_at(folder, mode)
    assert found == 4
    assert written(folder, 2) == 6
    assert looked_at(folder) == 6


def test_a_log_of_another_store_is_not_used(tmp_path):
    written(tmp_path / "one", 3)
    written(tmp_path / "two", 3)
    killed_writer(tmp_path / "two", 4)
    shutil.copyfile(tmp_path / "two" / "docs.sqlite-wal", tmp_path / "one" / "docs.sqlite-wal")
    assert looked_at(tmp_path / "one") == 3
    assert looked_at(tmp_path / "one", "a") == 3


def test_a_log_of_a_later_moment_than_its_file_is_not_used(tmp_path):
    """As in a copy that was made while a writer moved the log into the file."""
    folder = tmp_path / "store"
    written(folder, 2)
    store = documents.open(folder, autocommit=False, **KEPT)
    for _ in range(4):
        write_once(store)
    shutil.copytree(folder, tmp_path / "torn")
    for _ in range(10):
        write_once(store)
    store._session.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for _ in range(4):
        write_once(store)
    shutil.copyfile(folder / "docs.sqlite-wal", tmp_path / "torn" / "docs.sqlite-wal")
    shutil.copyfile(folder / "docs.sqlite-shm", tmp_path / "torn" / "docs.sqlite-shm")
    store.close()
    for mode in ("r", "a"):
        assert looked_at(tmp_path / "torn", mode) == 2  # the file alone, which is whole
    assert looked_at(folder) == 20


def test_a_copy_of_a_store_in_use_is_checked_before_it_is_used(tmp_path):
    folder = tmp_path / "store"
    store = documents.open(folder, autocommit=False, **KEPT)
    for _ in range(5):
        write_once(store)
    shutil.copytree(folder, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "docs.sqlite") as database:
        database.execute("UPDATE docs SET text = 'another' WHERE row = 3")
    database.close()
    with pytest.raises(FileFormatError, match="row 3 of docs has not the content of its digest"):
        documents.open(tmp_path / "copy", "r")
    store.close()


def test_copies_made_while_a_writer_works_are_whole_or_refused(tmp_path):
    folder = tmp_path / "store"
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder)]
    outcomes = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        for number in range(12):
            copy = tmp_path / f"copy-{number}"
            copy.mkdir()
            for name in sorted(os.listdir(folder), reverse=number % 2 == 0):
                try:
                    shutil.copyfile(folder / name, copy / name)
                except FileNotFoundError:
                    continue
                time.sleep(0.02)
            try:
                outcomes.append(looked_at(copy))
            except (FileFormatError, StoreError) as error:
                outcomes.append(type(error))
        process.kill()
    assert all(isinstance(each, type) or each >= 0 for each in outcomes)
    assert len(outcomes) == 12


def test_a_killed_process_lets_the_next_writer_in(tmp_path):
    folder = tmp_path / "store"
    killed_writer(folder, 2)
    store = documents.open(folder, timeout=0)
    store.add(["more"], ids=["more"])
    assert "more" in store
    store.close()


def test_a_writer_in_another_process_is_named(tmp_path):
    folder = tmp_path / "store"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        store = documents.open(folder, timeout=0.1)
        with pytest.raises(StoreBusyError, match=f"process {process.pid} on "):
            store.add(["b"])
        assert len(documents.open(folder, "r")) == 0
        process.kill()
    store.add(["b"])
    assert len(store) == 1
    store.close()


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_forked_child_reads_the_last_commit_and_the_parent_goes_on(tmp_path, mode):
    folder = tmp_path / "store"
    last = written(folder, 5)
    store, replay = documents.open(folder, mode, **KEPT), Replay()

    def child():
        assert check(store, replay, random.Random(0)) == last
        if mode == "a":
            with store:
                write_once(store)
        store.close()
        return True

    assert in_fork(child) == 0
    store.refresh()
    assert check(store, replay, random.Random(0)) == last + (mode == "a")
    if mode == "a":
        with store:
            write_once(store)
        assert looked_at(folder) == last + 2


def test_a_child_never_commits_what_its_parent_has_begun(tmp_path):
    folder = tmp_path / "store"
    last = written(folder, 3)
    store = documents.open(folder, autocommit=False, **KEPT)
    store.upsert(["begun"], ids=["begun"])

    def child():
        assert "begun" not in store
        with pytest.raises(StoreBusyError):
            documents.open(folder, timeout=0).add(["b"])
        store.commit()
        return True

    assert in_fork(child) == 0
    assert "begun" in store
    store.commit()
    with documents.open(folder, "r") as reader:
        assert len(reader) == len(expected_after(last)) + 1


def test_memory_after_many_rewrites_is_near_that_of_a_new_store(tmp_path):
    folder, count, dim = tmp_path / "store", 500, 32
    store = documents.open(folder)
    ids, rng = [str(i) for i in range(count)], np.random.default_rng(0)

    def rewrite(number):
        store.upsert([f"text {number}"] * count, rng.standard_normal((count, dim)), ids=ids)

    rewrite(0)
    before = store._session.vectors.index.stats()["memory_bytes"]
    for number in range(60):
        rewrite(number)
    assert store._session.vectors.index.stats()["memory_bytes"] < 3 * before
    sizes = sum(os.path.getsize(folder / name) for name in os.listdir(folder) if name.endswith((".vqi", ".removed")))
    store.verify()
    store.close()
    with documents.open(tmp_path / "new") as new:
        new.add([f"text {i}" for i in ids], rng.standard_normal((count, dim)), ids=ids)
    assert sizes < 4 * os.path.getsize(tmp_path / "new" / "0000000000.vqi")


READ_ONLY = """
import os, sys
import numpy as np
from vqindex import StoreError, documents
folder = sys.argv[1]
before = sorted(os.listdir(folder))
with documents.open(folder, "r") as store:
    found = len(store), len(store.search(np.ones(12), 3)), store.count({"n": {"$gt": 0}})
assert sorted(os.listdir(folder)) == before
try:
    documents.open(folder).add(["x"])
except (StoreError, OSError) as error:
    print(*found, type(error).__name__)
"""


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_folder_that_is_read_only_can_be_read(tmp_path, is_killed):
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    folder = tmp_path / "store"
    if is_killed:
        killed_writer(folder, 3)
    else:
        written(folder, 3)
    count = len(expected_after(looked_at(folder) if is_killed else 3))
    mounts = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$0" -c "$2" "$1"'
    command = [*inside, "sh", "-c", mounts, sys.executable, str(folder), READ_ONLY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == [str(count), "3", str(count)]
    assert done.stdout.split()[3] in ("StoreError", "OSError")
