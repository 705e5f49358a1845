"""Saves: of a file that others change as well, and of processes that are killed."""

import copy
import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cli_tools
import numpy as np
import pytest

import vqindex
from vqindex import InvalidInputError, StoreError, VQIndex, file_format
from vqindex.directory import leftovers, lock
from vqindex.directory.local import LocalDirectory
from vqindex.file_format import writer

run, ok, folder = map(pytest.fixture, (cli_tools.run, cli_tools.ok, cli_tools.folder))
posix_only = pytest.mark.skipif(os.name != "posix", reason="locks and signals of POSIX")

DIM = 8
X = np.random.default_rng(0).standard_normal((60, DIM)).astype(np.float32)
CHANGED = r"a\.vqi was changed by another writer since .* or pass overwrite=True"


@pytest.fixture
def path(tmp_path):
    index = VQIndex(DIM)
    index.add(X[:10])
    index.save(tmp_path / "a.vqi")
    return tmp_path / "a.vqi"


def another_writer_adds(path, rows=X[10:20]):
    other = VQIndex.load(path)
    other.add(rows)
    other.save(path)


# ---- two writers of one file


@pytest.mark.parametrize("mmap", [False, True])
def test_a_save_that_finds_another_file_than_was_loaded_says_so_and_changes_nothing(path, mmap):
    index = VQIndex.load(path, mmap=mmap)
    another_writer_adds(path)
    theirs = path.read_bytes()
    index.add(X[20:25])
    for _ in range(2):
        with pytest.raises(StoreError, match=CHANGED):
            index.save(path)
        assert path.read_bytes() == theirs
        assert os.listdir(path.parent) == ["a.vqi"]
    assert len(index) == 15
    assert index.search(X[22], 1).ids.tolist() == [12]
    index.save(path.parent / "b.vqi")
    index.save(path, overwrite=True)
    assert len(VQIndex.load(path)) == 15
    index.save(path)  # it is the one saved last


def test_an_index_that_was_saved_remembers_what_it_saved(path):
    index = VQIndex(DIM)
    index.add(X[:5])
    index.save(path)  # never loaded from there: replaced, as ever
    index.save(path)
    another_writer_adds(path)
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)
    index.save(path.parent / "b.vqi")
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)


def test_a_file_of_the_same_bytes_a_missing_file_and_a_damaged_one(path):
    index = VQIndex.load(path)
    data = path.read_bytes()
    path.unlink()
    index.save(path)
    path.write_bytes(data)
    index.save(path)
    path.write_bytes(b"something else")
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)
    assert path.read_bytes() == b"something else"


@posix_only
def test_the_file_is_the_same_by_every_path_that_leads_to_it(path, tmp_path, monkeypatch):
    (tmp_path / "link.vqi").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for loaded, saved in (("a.vqi", path), ("link.vqi", "a.vqi"), ("folder/a.vqi", "link.vqi")):
        index = VQIndex.load(loaded)
        another_writer_adds(path)
        with pytest.raises(StoreError, match="was changed by another writer"):
            index.save(saved)
    index = VQIndex.load("a.vqi")
    another_writer_adds(path)
    monkeypatch.chdir("/")
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)


@pytest.mark.parametrize("version", [1, 2])
def test_old_versions_are_told_apart_too(tmp_path, version):
    golden = Path(__file__).parent / "golden" / f"format{version}.vqi"
    path = tmp_path / "a.vqi"
    path.write_bytes(golden.read_bytes())
    index = VQIndex.load(path)
    index.save(path)
    path.write_bytes(golden.read_bytes())
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)
    index = VQIndex.load(path)
    another_writer_adds(path, np.ones((3, 17)) if VQIndex.load(path).ids.size == 0 else np.empty((0, 17)))
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)


def test_copies_remember_the_file_and_pickles_do_not(path):
    index = VQIndex.load(path)
    copies, pickled = [copy.copy(index), copy.deepcopy(index)], pickle.loads(pickle.dumps(index))
    another_writer_adds(path)
    for each in copies:
        with pytest.raises(StoreError, match=CHANGED):
            each.save(path)
    pickled.save(path)
    copies[0].add(X[:1])
    copies[0].save(path)  # the file is again the one that they were loaded from
    with pytest.raises(StoreError, match=CHANGED):
        copies[1].save(path)
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)


def test_an_export_of_a_store_says_so_too(path, tmp_path):
    with vqindex.open(tmp_path / "store", "a", dim=DIM) as store:
        store.add(X)
        store.save(path)
        another_writer_adds(path)
        with pytest.raises(StoreError, match=CHANGED):
            store.save(path)
        store.save(path, overwrite=True)


def test_a_change_while_the_new_file_is_written_is_found_before_it_is_published(path, monkeypatch):
    index = VQIndex.load(path)
    real = writer.write_seal

    def sealed(file):
        monkeypatch.setattr(writer, "write_seal", real)
        another_writer_adds(path)
        return real(file)

    monkeypatch.setattr(writer, "write_seal", sealed)
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)
    assert len(VQIndex.load(path)) == 20
    assert os.listdir(path.parent) == ["a.vqi"]


def test_a_file_that_was_changed_is_found_before_anything_is_written(path, monkeypatch):
    index = VQIndex.load(path)
    another_writer_adds(path)
    created = []
    monkeypatch.setattr(LocalDirectory, "create_temporary", lambda self, target: created.append(target))
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)
    assert not created


@posix_only
def test_of_two_savers_at_the_same_moment_only_one_wins(path, monkeypatch):
    """The second one begins its comparison while the first is between comparison and rename, and must wait."""
    indexes = [VQIndex.load(path) for _ in range(2)]
    real, waiting = LocalDirectory.publish, threading.Event()
    results = []

    def save(index):
        try:
            index.save(path)
            results.append("saved")
        except StoreError:
            results.append("refused")

    second = threading.Thread(target=save, args=[indexes[1]])

    def publish(self, *args):
        if not waiting.is_set():
            waiting.set()
            second.start()
            until = time.monotonic() + 0.5  # the second one could overtake now, if nothing kept it from that
            while second.is_alive() and time.monotonic() < until:
                time.sleep(0.01)
        return real(self, *args)

    monkeypatch.setattr(LocalDirectory, "publish", publish)
    for number, index in enumerate(indexes):
        index.add(X[20 + 5 * number : 23 + 6 * number])
    save(indexes[0])
    second.join()
    assert sorted(results) == ["refused", "saved"]
    assert len(VQIndex.load(path)) == 13


def test_threads_that_save_one_index_are_no_other_writers_and_the_last_save_has_the_last_word(path, monkeypatch):
    index, write, second, errors = VQIndex.load(path), file_format.write, [], []

    def save():
        try:
            index.save(path)
        except StoreError as error:
            errors.append(error)

    def write_after_the_second(*args, **options):
        if not second:
            index.add(X[20:30])
            second.append(threading.Thread(target=save))
            second[0].start()
            second[0].join(0.5)  # the second one could overtake now, if nothing kept it from that
        return write(*args, **options)

    monkeypatch.setattr(file_format, "write", write_after_the_second)
    save()
    second[0].join()
    assert errors == []
    assert len(VQIndex.load(path)) == 20


def test_a_save_writes_the_notes_of_its_beginning(path, monkeypatch):
    index, write = VQIndex.load(path), file_format.write
    index.meta["before"] = 1

    def write_later(*args, **options):
        index.meta["meanwhile"] = 2
        return write(*args, **options)

    monkeypatch.setattr(file_format, "write", write_later)
    index.save(path)
    assert VQIndex.load(path).meta == {"before": 1}
    assert index.meta == {"before": 1, "meanwhile": 2}


@posix_only
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_saves_work_where_folders_cannot_be_locked(path, monkeypatch, number):
    def fail(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    index = VQIndex.load(path)
    index.save(path)
    another_writer_adds(path)
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)


@posix_only
def test_a_folder_that_somebody_else_has_locked_is_not_waited_for_long(path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0.05)
    held = lock.lock_folder(path.parent)
    try:
        assert lock.lock_folder(path.parent) is None
        VQIndex.load(path).save(path)
    finally:
        held.close()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["publish", "sync"])
def test_after_an_error_or_interrupt_at_the_rename_the_index_can_be_saved_again(path, monkeypatch, step, error):
    """Whether the file has its name by then or not, it is not taken for one of another writer."""
    index = VQIndex.load(path)
    index.add(X[:3])
    real = LocalDirectory.publish

    def fail(self, *args):
        raise error

    for rename in (True, False):
        with monkeypatch.context() as patched:
            if step == "publish" and rename:
                patched.setattr(LocalDirectory, "publish", lambda *args: (real(*args), fail(*args)))
            else:
                patched.setattr(LocalDirectory, step, fail)
            with pytest.raises(type(error)):
                index.save(path)
        index.save(path)
    assert len(VQIndex.load(path)) == 13
    another_writer_adds(path)
    with pytest.raises(StoreError, match=CHANGED):
        index.save(path)


@pytest.mark.parametrize("is_loaded", [True, False])
def test_saves_that_failed_at_the_rename_can_be_repeated_until_they_succeed(path, monkeypatch, is_loaded):
    index = VQIndex.load(path) if is_loaded else VQIndex(DIM)

    def fail(self, *args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(LocalDirectory, "publish", fail)
        for rows in (X[:3], X[3:5], X[5:9]):
            index.add(rows)
            with pytest.raises(OSError, match="Input/output error"):
                index.save(path)
    index.save(path)
    assert len(VQIndex.load(path)) == len(index)


def test_errors_of_a_save_name_the_path_that_was_given(path, monkeypatch):
    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vqindex.directory.local.LocalFile.write", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.vqi'$"):
        VQIndex.load(path).save(path)
    assert os.listdir(path.parent) == ["a.vqi"]


@pytest.mark.parametrize("command", ["add", "delete"])
def test_commands_that_change_a_file_say_in_one_line_that_another_writer_changed_it(
    folder, ok, run, monkeypatch, command
):
    ok("build", "base.npy", "-o", "a.vqi")
    np.save("ids.npy", np.array([1, 2]))
    arguments = {"add": ["base.npy"], "delete": ["--ids", "ids.npy"]}[command]
    real = VQIndex.load

    def load(path, **kwargs):
        index = real(path, **kwargs)
        other = real(path)
        other.add(np.ones((1, cli_tools.DIM)))
        other.save(path)
        return index

    monkeypatch.setattr(VQIndex, "load", load)
    code, out, err = run(command, "a.vqi", *arguments)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "error: a.vqi was changed by another writer meanwhile; nothing was written; run the command again"
    ]
    assert len(real("a.vqi")) == 61
    assert not [name for name in os.listdir() if name.startswith(".")]


# ---- temporary files of killed saves

KILLED = """
import os, signal, sys, time
import numpy as np
from vqindex import VQIndex
from vqindex.file_format import writer
path, what = sys.argv[1:]
real = writer.write_seal
def stop(file):
    print("writing", flush=True)
    if what == "wait":
        sys.stdin.read()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(file)
writer.write_seal = stop
index = VQIndex(8)
index.add(np.ones((50, 8)))
index.save(path)
print("saved", flush=True)
"""


def start(path, what):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def temporaries(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".tmp"))


@posix_only
def test_the_next_save_removes_what_a_killed_one_left_and_nothing_of_a_living_one(path):
    with start(path, "wait") as living:
        assert living.stdout.readline() == "writing\n"
        (of_living,) = temporaries(path.parent)
        with start(path, "kill") as killed:
            assert killed.wait() == -signal.SIGKILL
        assert len(temporaries(path.parent)) == 2
        other = path.parent / ".a.vqi.0123456789abcdef.txt"
        other.write_text("of somebody else")
        VQIndex.load(path).save(path)
        assert temporaries(path.parent) == [of_living]
        living.stdin.close()
        assert living.stdout.read() == "saved\n"
        assert living.wait() == 0
    assert sorted(os.listdir(path.parent)) == [other.name, "a.vqi"]
    assert len(VQIndex.load(path)) == 50


@posix_only
def test_links_folders_files_of_other_targets_and_of_other_machines_are_not_swept(path):
    folder = path.parent
    ours = leftovers.temporary_name("a.vqi")
    foreign = re.sub(r"[0-9a-f]{16}", "0" * 16, ours)
    assert foreign != ours
    for name in (ours, foreign, leftovers.temporary_name("b.vqi"), ".a.vqi.tmp", ours + "x", "x" + ours):
        (folder / name).write_text(name)
    link, sub = leftovers.temporary_name("a.vqi"), leftovers.temporary_name("a.vqi")
    (folder / "precious").write_text("precious")
    (folder / link).symlink_to(folder / "precious")
    (folder / sub).mkdir()
    os.mkfifo(folder / (pipe := leftovers.temporary_name("a.vqi")))
    before = set(os.listdir(folder))
    leftovers.sweep(folder, "a.vqi")
    assert set(os.listdir(folder)) == before - {ours}
    assert (folder / "precious").read_text() == "precious"
    assert pipe in before
    os.utime(folder / foreign, (0, 0))  # a day old: nobody writes it
    leftovers.sweep(folder, "a.vqi")
    assert set(os.listdir(folder)) == before - {ours, foreign}


@posix_only
@pytest.mark.parametrize("moment", ["created", "locked by the sweep"])
def test_a_sweep_between_making_and_locking_a_file_takes_no_save(path, monkeypatch, moment):
    """A sweep gets the lock of a file that was just made: the save makes another one."""
    real, names = LocalDirectory.create, []

    def create(self, name):
        file = real(self, name)
        names.append(name)
        if len(names) == 1 and moment == "created":
            leftovers.sweep(self.path, "a.vqi")
            assert not (self.path / name).exists()
        elif len(names) == 1:
            create.held = os.open(self.path / name, os.O_RDONLY)
            lock.fcntl.flock(create.held, lock.fcntl.LOCK_EX)
        return file

    monkeypatch.setattr(LocalDirectory, "create", create)
    index = VQIndex.load(path)
    index.add(X[:3])
    index.save(path)
    assert len(names) == 2
    assert len(VQIndex.load(path)) == 13
    assert os.listdir(path.parent) == ["a.vqi"]


@posix_only
def test_a_file_is_held_until_it_has_its_final_name(path, monkeypatch):
    real = LocalDirectory.publish

    def publish(self, source, target, expected):
        leftovers.sweep(self.path, target)
        return real(self, source, target, expected)

    monkeypatch.setattr(LocalDirectory, "publish", publish)
    VQIndex.load(path).save(path)
    assert len(VQIndex.load(path)) == 10


@posix_only
def test_a_file_that_has_come_to_a_swept_name_stays(path, monkeypatch):
    left = path.parent / leftovers.temporary_name("a.vqi")
    left.write_text("left")
    real = leftovers._is_left

    def is_left(descriptor):
        left.unlink()
        left.write_text("of somebody else")
        return real(descriptor)

    monkeypatch.setattr(leftovers, "_is_left", is_left)
    leftovers.sweep(path.parent, "a.vqi")
    assert left.read_text() == "of somebody else"


@posix_only
def test_without_locks_nothing_is_swept(path, monkeypatch):
    left = path.parent / leftovers.temporary_name("a.vqi")
    left.write_text("x")

    def fail(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(leftovers.fcntl, "flock", fail)
    VQIndex.load(path).save(path)
    assert left.exists()


# ---- locks of stores


@posix_only
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_not_taken_for_another_writer(tmp_path, monkeypatch, number):
    def fail(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    with pytest.raises(OSError, match=r"can't lock files .*store/lock'$") as caught:
        vqindex.open(tmp_path / "store", "a", dim=DIM)
    assert caught.value.errno == number
    assert not isinstance(caught.value, StoreError)


@posix_only
def test_errors_of_a_store_name_the_folder_that_was_given(tmp_path, monkeypatch):
    vqindex.open(tmp_path / "store", "a", dim=DIM).close()
    real = os.open

    def fail(path, flags, *args, **kwargs):
        if str(path) in ("lock", "0000000001.vqi"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        patched.setattr(os, "supports_dir_fd", {fail, *os.supports_dir_fd})
        with pytest.raises(OSError, match=r"Read-only file system: '.*store/lock'$"):
            vqindex.open(tmp_path / "store", "a")
    with vqindex.open(tmp_path / "store", "a") as store:
        store.add(X)
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", fail)
            patched.setattr(os, "supports_dir_fd", {fail, *os.supports_dir_fd})
            with pytest.raises(OSError, match=r"Read-only file system: '.*store/0000000001\.vqi'$"):
                store.commit()


@posix_only
def test_a_lock_or_manifest_that_is_a_pipe_is_refused_at_once(tmp_path):
    vqindex.open(tmp_path / "store", "a", dim=DIM).close()
    for name, kind in (("lock", StoreError), ("manifest", vqindex.FileFormatError)):
        (tmp_path / "store" / name).rename(tmp_path / "kept")
        os.mkfifo(tmp_path / "store" / name)
        with pytest.raises(kind, match="expected"):
            vqindex.open(tmp_path / "store", "a")
        (tmp_path / "store" / name).unlink()
        (tmp_path / "kept").rename(tmp_path / "store" / name)
    vqindex.open(tmp_path / "store", "a").close()


@posix_only
@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_folder_that_cannot_be_searched_is_not_called_empty(tmp_path, monkeypatch, mode):
    vqindex.open(tmp_path / "store", "a", dim=DIM).close()
    real = os.lstat

    def fail(path, *args, **kwargs):
        if str(path).endswith("manifest"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", fail)
        with pytest.raises(PermissionError, match=r"store/manifest'$"):
            vqindex.open(tmp_path / "store", mode)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop") as caught:
        vqindex.open(tmp_path / "loop", mode)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.skipif(os.name != "posix", reason="links need a right on Windows")
def test_a_save_through_a_link_into_a_missing_folder_names_that_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "none" / "x.vqi")
    with pytest.raises(FileNotFoundError, match=r"no such folder to save to: '.*none'"):
        VQIndex(4).save(tmp_path / "link")


@pytest.mark.parametrize("exists", [True, False])
def test_a_path_that_ends_in_a_slash_is_no_file_to_save_to(tmp_path, exists):
    if exists:
        (tmp_path / "x").write_bytes(b"a file of the user")
    with pytest.raises(InvalidInputError, match="ends in a slash; expected the path of a file"):
        VQIndex(4).save(f"{tmp_path}/x/")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a file of the user"] * exists
