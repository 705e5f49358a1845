"""Every write, sync, rename and unlink of a commit, a new store, a compaction and a save fails once, in every way.

After each the folder holds the old commit or the new one, all of it; what raised can be tried again; and a crash,
whatever it keeps of what was not synced, leaves nothing else.
"""

import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys

import pytest
from faulty import Died, FaultyDirectory, write_folder
from stores import DIM, change, committed, content, make_store, open_with, vectors

import vqindex
from vqindex import VQIndex, file_format
from vqindex.store import verify_store

CRASHES = 3  # folders made up for each crash, besides the least and the most that may be there


def commit(index):
    change(index)
    index.commit()


def commit_without_merge(index):
    change(index)
    index.commit(merge=False)


def compact(index):
    change(index)
    index.compact()


def remove_all(index):
    index.remove(index.ids)
    index.commit()


def commit_links(index):
    index.add(vectors(1100, 13))
    commit(index)


WAYS = {f.__name__: f for f in (commit, commit_without_merge, compact, remove_all, commit_links)}


@pytest.fixture(scope="module", params=list(WAYS))
def case(request, tmp_path_factory):
    """A store, what is done to it, and what it holds before and after."""
    base = tmp_path_factory.mktemp("base")
    old = make_store(base / "store", graph=8 if request.param == "commit_links" else None)
    before = committed(old)
    way = WAYS[request.param]
    shutil.copytree(old, base / "changed")
    with open_with(base / "changed") as index:
        way(index)
        after = content(index)
    assert committed(base / "changed") == after != before
    assert bool(list((base / "changed").glob("*.links"))) == (request.param == "commit_links")
    return old, way, before, after


def attempt(case, folder, at, how, torn=0.0):
    """Do it to a copy; return the file system, the error or None, and the index if it is still open."""
    old, way, _, _ = case
    shutil.copytree(old, folder)
    directory = FaultyDirectory(folder)
    index = open_with(folder, directory=directory)
    directory.calls.clear()
    directory.at, directory.how, directory.torn = at, how, torn
    try:
        way(index)
    except (OSError, Died) as error:
        return directory, error, index
    return directory, None, index


def count_calls(case, tmp_path):
    directory, error, index = attempt(case, tmp_path / "counted", None, "raise")
    index.close()
    assert error is None
    kinds = {what for what, _ in directory.calls}
    assert kinds >= {"create", "write", "sync", "publish", "remove", "sync_names"}
    return len(directory.calls)


def test_an_error_at_any_call_loses_nothing(case, tmp_path):
    _, _, before, after = case
    rng = random.Random(0)
    for at in range(count_calls(case, tmp_path)):
        folder = tmp_path / str(at)
        directory, error, index = attempt(case, folder, at, "raise", rng.choice([0.0, 0.5, 1.0]))
        what = directory.calls[at][0]
        # Removing what is not needed any more may fail; a later commit or writer does it.
        assert (error is None) == (what == "remove"), (at, directory.calls[at])
        assert committed(folder) in (before, after)
        directory.at = None
        index.commit()  # again
        assert content(index) == after
        index.close()
        assert_tidy(folder, after)


def assert_tidy(folder, expected):
    """The next writer finds a commit, and nothing is left of what failed."""
    with open_with(folder) as index:
        assert content(index) == expected
        assert {p.name for p in folder.iterdir()} == {"lock", *index._commits.manifest.names}


def test_a_crash_at_any_call_leaves_the_old_or_the_new_commit(case, tmp_path):
    _, _, before, after = case
    rng = random.Random(0)
    calls = count_calls(case, tmp_path)
    seen = {}  # what was found in each folder that a crash may leave
    for at in range(calls + 1):
        folder = tmp_path / str(at)
        directory, error, index = attempt(case, folder, at, "die", rng.choice([0.0, 0.3, 1.0]))
        assert isinstance(error, Died) == (at < calls)
        index.close()
        replaced = any(what == "publish" for what, _ in directory.calls[:at])
        for number, state in enumerate(directory.crash_states(rng, CRASHES)):
            key = tuple(sorted(state.items()))
            if key not in seen:
                found = tmp_path / f"{at}-{number}"
                write_folder(found, state)
                now = committed(found)
                assert now in (before, after), (at, number)
                assert_tidy(found, now)
                if at % 8 == 0 or list(found.glob("*.links")):
                    verify_store(found)
                seen[key] = now == after
            assert replaced or not seen[key], "a commit that never was"
            assert at < calls or seen[key], "a commit that returned is lost"
    assert set(seen.values()) == {False, True}
    assert len(seen) > calls


def test_a_full_disk_at_any_call_leaves_the_old_commit(case, tmp_path):
    _, _, before, after = case
    for at in range(count_calls(case, tmp_path)):
        folder = tmp_path / str(at)
        directory, error, index = attempt(case, folder, at, "full", 0.5)
        if error is not None:
            assert error.errno == errno.ENOSPC
            assert committed(folder) == before
            assert set(os.listdir(folder)) == set(os.listdir(case[0]))
        directory.how, directory.at = "raise", None  # there is room again
        index.commit()
        index.close()
        assert committed(folder) == after


def test_store_that_could_not_be_made_can_be_made_again(tmp_path):
    rng = random.Random(0)
    for at in range(100):
        folder = tmp_path / str(at)
        folder.mkdir()
        directory = FaultyDirectory(folder, at, "die")
        with contextlib.suppress(Died):
            open_with(folder, directory=directory, dim=DIM).close()
        for number, state in enumerate(directory.crash_states(rng, CRASHES)):
            found = tmp_path / f"{at}-{number}"
            write_folder(found, state)
            with open_with(found, dim=DIM) as index:  # made now, or there already
                index.add(vectors(3))
            assert len(committed(found)[0]) == 3
        if not directory.dead:
            break
    assert 3 < at < 20


# ---- saves of single files


def test_saves_that_fail_at_any_call_leave_the_old_file_or_the_new_one(tmp_path):
    old, new = VQIndex(DIM), VQIndex(DIM)
    old.add(vectors(9))
    new.add(vectors(70, 1))
    before, after = content(old), content(new)
    rng = random.Random(0)

    def save(index, path, directory):
        contents = file_format.FileContents(index._centering, index._contents.segments(), index.meta)
        file_format.write(path, index._codec, contents, directory=directory)

    finished = 0
    for how in ("raise", "die", "full"):
        for at in range(1000):
            folder = tmp_path / f"{how}-{at}"
            folder.mkdir()
            old.save(folder / "a.vqi")
            directory = FaultyDirectory(folder, at, how, rng.choice([0.0, 0.5, 1.0]))
            error = None
            try:
                save(new, folder / "a.vqi", directory)
            except (OSError, Died) as caught:
                error = caught
            if how != "die":
                assert os.listdir(folder) == ["a.vqi"]
            now = content(VQIndex.load(folder / "a.vqi"))
            assert now in ([before, after] if error else [after])
            for number, state in enumerate(directory.crash_states(rng, CRASHES)):
                found = tmp_path / f"{how}-{at}-{number}"
                write_folder(found, state)
                now = content(VQIndex.load(found / "a.vqi"))
                assert now in ([before, after] if error else [after])
                shutil.rmtree(found)
            shutil.rmtree(folder)
            if error is None:
                finished += at
                break
    assert finished > 3 * 10


# ---- real file systems


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
        )
    except OSError:
        pytest.skip("there is no mount")
    if made.returncode:
        pytest.skip("this user can't mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_full_keeps_the_last_commit_and_the_old_file(small_disk):
    folder = small_disk / "store"
    index = open_with(folder, dim=DIM)
    index.add(vectors(50))
    index.commit()
    before = content(index)
    index.add(vectors(30_000, 1))
    with pytest.raises(OSError, match="No space left"):
        index.commit()
    assert committed(folder) == before
    index.remove(range(1000, 30_050))  # most of it: then it fits
    index.commit()
    index.close()
    assert len(committed(folder)[0]) == 1000
    single = VQIndex(DIM)
    single.add(vectors(50))
    single.save(small_disk / "a.vqi")
    data = (small_disk / "a.vqi").read_bytes()
    single.add(vectors(30_000))
    with pytest.raises(OSError, match="No space left"):
        single.save(small_disk / "a.vqi")
    assert (small_disk / "a.vqi").read_bytes() == data
    assert sorted(os.listdir(small_disk)) == ["a.vqi", "store"]


def test_a_store_on_a_disk_that_cannot_be_written_can_be_read(small_disk):
    folder = make_store(small_disk / "store")
    before = committed(folder)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert committed(folder) == before
    with pytest.raises(OSError, match=r"Read-only file system.*lock"):
        open_with(folder)
    with pytest.raises(OSError, match="Read-only"):
        open_with(small_disk / "new", dim=3)
    assert vqindex.open(folder).ids.tolist() == before[0]


def test_a_store_in_a_folder_that_may_not_be_written_can_be_read(tmp_path):
    folder = make_store(tmp_path / "store")
    before = committed(folder)
    os.unlink(folder / "lock")
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(PermissionError):
            open_with(folder)
        assert committed(folder) == before
    finally:
        folder.chmod(0o755)


# ---- real deaths

WRITER = """
import sys
import numpy as np, vqindex
folder, seed = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(seed)
index = vqindex.open(folder, "a")
print("open", flush=True)
while True:
    state = index.meta["state"] + 1
    index.add(rng.standard_normal((int(rng.integers(1, 40)), index.dim), dtype=np.float32))
    index.remove(rng.choice(index.ids, min(len(index) - 1, 15), replace=False))
    index.meta.update(state=state, count=len(index), sum=int(index.ids.sum()))
    index.commit()
    print(state, flush=True)
"""


def commits_until_killed(process, seconds, at_least):
    """Kill a writer some time after it reported so many commits, however slow the machine; return all its reports."""
    said = [int(process.stdout.readline()) for _ in range(at_least)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    assert process.returncode is None, "the writer stopped by itself"
    process.kill()
    return said + [int(line) for line in process.stdout.read().split("\n") if line]


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_last_commit_survives_kill_9(tmp_path):
    """Rounds: VQINDEX_TEST_KILLS, 12 by default."""
    folder = tmp_path / "store"
    rng = random.Random(0)
    with open_with(folder, dim=DIM) as index:
        index.add(vectors(5))
        index.meta.update(state=0, count=5, sum=10)
    states = 0
    for kill in range(int(os.environ.get("VQINDEX_TEST_KILLS", "12"))):
        command = [sys.executable, "-c", WRITER, str(folder), str(kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "open\n"
            said = commits_until_killed(process, rng.uniform(0, 0.12), at_least=kill % 2)
        with open_with(folder) as index:  # the lock is free at once
            meta = index.meta
            assert meta["state"] in (states + len(said), states + len(said) + 1), "a commit that was reported is lost"
            assert (len(index), int(index.ids.sum())) == (meta["count"], meta["sum"])
            states = meta["state"]
            now = content(index)
        verify_store(folder)
        assert_tidy(folder, now)
    assert states > 0


SAVER = """
import sys
import numpy as np
from vqindex import VQIndex
path = sys.argv[1]
index = VQIndex.load(path)
print("open", flush=True)
while True:
    index.meta["state"] += 1
    index.add(np.random.default_rng(index.meta["state"]).standard_normal((5, index.dim), dtype=np.float32))
    index.remove(index.ids[:4])
    index.save(path)
    print(index.meta["state"], flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_old_file_survives_kill_9_while_saving(tmp_path):
    """Rounds: VQINDEX_TEST_KILLS, 12 by default."""
    path = tmp_path / "a.vqi"
    rng = random.Random(0)
    index = VQIndex(DIM)
    index.add(vectors(70))
    index.meta["state"] = 0
    index.save(path)
    state = 0
    for kill in range(int(os.environ.get("VQINDEX_TEST_KILLS", "12"))):
        with subprocess.Popen([sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "open\n"
            said = commits_until_killed(process, rng.uniform(0, 0.06), at_least=kill % 2)
        file_format.verify(path)
        found = VQIndex.load(path)
        assert found.meta["state"] in (state + len(said), state + len(said) + 1), "a save that returned is lost"
        state = found.meta["state"]
        # Of five new ones in each state, four of the oldest went.
        assert found.ids.tolist() == list(range(4 * state, 70 + 5 * state))
    assert state > 0


def test_readers_beside_a_writer_see_whole_commits(tmp_path):
    """A reader never sees a mixture, although files that it is about to open go away."""
    folder = tmp_path / "store"
    with open_with(folder, dim=DIM) as index:
        index.add(vectors(5))
        index.meta.update(state=0, count=5, sum=10)
    command = [sys.executable, "-c", WRITER, str(folder), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "open\n"
            states = []
            for number in range(60):
                with vqindex.open(folder, mmap=number % 2 == 0) as index:
                    states.append(index.meta["state"])
                    assert (len(index), int(index.ids.sum())) == (index.meta["count"], index.meta["sum"])
                    index.search(vectors(1), 10)
            assert process.poll() is None
        finally:
            process.kill()
    assert states == sorted(states)
    assert len(set(states)) > 5
