"""A name stands for what it stood for when it was opened: relative paths, moved and replaced folders, links."""

import os
import shutil
import socket
import stat
from pathlib import Path

import numpy as np
import pytest

import vqindex
from vqindex import FileFormatError, InvalidInputError, StoreError, VQIndex
from vqindex.store import commit

DIM = 8
X = np.random.default_rng(0).standard_normal((40, DIM)).astype(np.float32)
posix = pytest.mark.skipif(os.name != "posix", reason="folders can't be moved while a file in them is open")


def new_store(path, rows=X[:10]):
    with vqindex.open(path, "a", dim=DIM, metric="l2") as index:
        index.add(rows)


def vectors_in(path):
    with vqindex.open(path) as index:
        return len(index)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "lock"}


def test_a_store_opened_by_a_relative_path_stays_the_same_after_chdir(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        new_store(tmp_path / name / "store", X[:10] if name == "here" else X[:5])
    foreign = content(tmp_path / "there" / "store")
    monkeypatch.chdir(tmp_path / "here")
    with vqindex.open("store", "a") as index:
        index.add(X[10:20])
        monkeypatch.chdir(tmp_path / "there")
        index.commit()
        index.add(X[20:30])
        index.compact()
        assert index.search(X[25], 1).ids.tolist() == [25]
    assert content(tmp_path / "there" / "store") == foreign
    assert vectors_in(tmp_path / "here" / "store") == 30


@posix
@pytest.mark.parametrize("what", ["moved", "moved and replaced", "removed", "a link to another store"])
@pytest.mark.parametrize("call", ["commit", "compact"])
def test_a_writer_whose_folder_is_gone_or_another_one_refuses_and_writes_to_neither(tmp_path, what, call):
    folder, other = tmp_path / "store", tmp_path / "other"
    new_store(folder)
    new_store(other, X[:3])
    index = vqindex.open(folder, "a")
    index.add(X[10:20])
    if what == "removed":
        shutil.rmtree(folder)
    else:
        folder.rename(tmp_path / "moved")
        if what == "moved and replaced":
            shutil.copytree(other, folder)
        elif what == "a link to another store":
            folder.symlink_to(other)
    before = {path: content(path) for path in tmp_path.iterdir() if path.is_dir()}
    with pytest.raises(StoreError, match="was moved, removed or replaced while it was open for writing"):
        getattr(index, call)()
    assert {path: content(path) for path in tmp_path.iterdir() if path.is_dir()} == before
    assert index.search(X[15], 1).ids.tolist() == [15], "what is in memory stays"
    if what.startswith("moved"):
        if folder.exists():
            shutil.rmtree(folder)
        (tmp_path / "moved").rename(folder)
        getattr(index, call)()
        index.close()
        assert vectors_in(folder) == 20
    else:
        index.close()


@posix
def test_a_folder_that_is_replaced_in_the_middle_of_a_commit_gets_no_manifest(tmp_path, monkeypatch):
    folder, real = tmp_path / "store", commit.publish_manifest
    new_store(folder)
    new_store(tmp_path / "other", X[:3])
    index = vqindex.open(folder, "a")
    index.add(X[10:20])

    def publish(*args, **kwargs):
        folder.rename(tmp_path / "moved")
        (tmp_path / "other").rename(folder)
        return real(*args, **kwargs)

    monkeypatch.setattr(commit, "publish_manifest", publish)
    with pytest.raises(StoreError, match="was moved, removed or replaced while it was open for writing"):
        index.commit()
    index.close()
    assert vectors_in(folder) == 3
    assert vectors_in(tmp_path / "moved") == 10


@pytest.mark.parametrize("target", ["a file", "nothing"])
def test_a_lock_that_is_a_link_is_refused_and_its_target_untouched(tmp_path, target):
    new_store(tmp_path / "store")
    victim = tmp_path / "victim"
    if target == "a file":
        victim.write_text("precious")
    (tmp_path / "store" / "lock").unlink()
    (tmp_path / "store" / "lock").symlink_to(victim)
    with pytest.raises(StoreError, match="lock is a link or no regular file"):
        vqindex.open(tmp_path / "store", "a")
    assert victim.exists() == (target == "a file")
    assert target != "a file" or victim.read_text() == "precious"
    assert vectors_in(tmp_path / "store") == 10, "reading needs no lock"


@pytest.mark.parametrize("name", ["manifest", "0000000001.vqi"])
def test_files_of_a_store_that_are_links_are_refused(tmp_path, name):
    new_store(tmp_path / "store")
    if not (tmp_path / "store" / name).exists():
        (name,) = (path.name for path in (tmp_path / "store").glob("*.vqi"))
    (tmp_path / "store" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "store" / name).symlink_to(tmp_path / "elsewhere")
    for mode in ("r", "a"):
        with pytest.raises(FileFormatError, match=f"{name} is a symbolic link; expected a regular file"):
            vqindex.open(tmp_path / "store", mode)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no list of open files here")
def test_closing_a_writer_closes_all_its_descriptors(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    writers = []
    for number in range(8):
        writers.append(vqindex.open(tmp_path / str(number), "a", dim=DIM))
        writers[-1].add(X)
        writers[-1].close()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- saving


def test_save_refuses_what_is_no_regular_file(tmp_path, monkeypatch):
    index = VQIndex(DIM)
    index.add(X)
    (tmp_path / "folder.vqi").mkdir()
    kinds = {"folder.vqi": "a folder"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.vqi")
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(tmp_path)  # names of sockets are short
            server.bind("socket.vqi")
        kinds |= {"pipe.vqi": "a pipe", "socket.vqi": "a socket"}
    before = sorted(os.listdir(tmp_path))
    for name, kind in kinds.items():
        mode = (tmp_path / name).stat().st_mode
        with pytest.raises(InvalidInputError, match=f"{name} is {kind}; expected a file or a new name"):
            index.save(tmp_path / name)
        assert (tmp_path / name).stat().st_mode == mode
    assert sorted(os.listdir(tmp_path)) == before


def test_save_refuses_a_device_and_leaves_it_alone():
    index = VQIndex(DIM)
    with pytest.raises(InvalidInputError, match="/dev/null is a device"):
        index.save("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_missing_folder_is_named_and_no_temporary_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        VQIndex(DIM).save(tmp_path / "missing" / "a.vqi")
    assert str(caught.value) == f"[Errno 2] there is no such folder to save to: '{tmp_path / 'missing'}'"


@posix
def test_save_through_a_link_replaces_its_target_and_keeps_link_and_mode(tmp_path):
    index = VQIndex(DIM)
    index.add(X)
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "a.vqi", tmp_path / "link.vqi"
    VQIndex(DIM).save(target)
    target.chmod(0o640)
    link.symlink_to(target)
    index.save(link)
    assert link.is_symlink()
    assert len(VQIndex.load(target)) == 40
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path / "data")) == ["a.vqi"]


def test_an_index_saved_by_a_relative_path_can_be_saved_again_after_chdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    index = VQIndex(DIM)
    index.save("a.vqi")
    monkeypatch.chdir(tmp_path / "sub")
    index.save("a.vqi")
    assert (tmp_path / "a.vqi").exists()
    assert (tmp_path / "sub" / "a.vqi").exists()


# ---- names that lead nowhere


def test_urls_are_refused_as_urls(tmp_path):
    calls = (
        lambda: VQIndex.load("s3://bucket/a.vqi"),
        lambda: VQIndex(DIM).save("https://example.org/a.vqi"),
        lambda: vqindex.open("https://example.org/store", "a", dim=DIM),
        lambda: VQIndex(DIM).save(Path("https://example.org/a.vqi")),
    )
    for call in calls:
        with pytest.raises(InvalidInputError, match="is a URL; expected a path of the local file system"):
            call()


def test_missing_stores_and_folders_are_named_as_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    for name, found in (("missing", "does not exist"), ("empty", "holds no index")):
        with pytest.raises(FileNotFoundError) as caught:
            vqindex.open(name)
        assert str(caught.value) == f"[Errno 2] {found}; mode 'a' with dim= makes an index in a folder: {name!r}"
    with pytest.raises(FileNotFoundError, match="there is no such folder to make a store in: 'no'"):
        vqindex.open("no/store", "a", dim=DIM)
    with pytest.raises(IsADirectoryError, match=r"a folder is no \.vqi file; vqindex.open opens a store: 'empty'"):
        VQIndex.load("empty")


@posix
def test_a_folder_is_found_as_the_system_finds_it_also_behind_a_link(tmp_path, monkeypatch):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    monkeypatch.chdir(tmp_path)
    for path in ("link/../store", str(tmp_path / "link" / ".." / "other")):
        new_store(path)
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["deep", "other", "store"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def restored(folder, backup):
    """Put the files of a backup into the same folder, as `rsync --delete` does."""
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()
    for name, data in backup.items():
        (folder / name).write_bytes(data)


@posix
@pytest.mark.parametrize("call", ["commit", "compact"])
@pytest.mark.parametrize("what", ["an older commit", "no manifest"])
def test_a_writer_refuses_when_a_backup_is_copied_over_its_files(tmp_path, what, call):
    folder = tmp_path / "store"
    new_store(folder)
    with vqindex.open(folder, "a") as index:
        backup = content(folder)
        index.add(X[10:20])
        index.commit()
        restored(folder, backup)
        if what == "no manifest":
            (folder / "manifest").unlink()
        before = content(folder)
        index.add(X[20:30])
        for _ in range(2):
            with pytest.raises(StoreError, match=r"while .* open for writing"):
                getattr(index, call)()
            assert content(folder) == before
        index.save(tmp_path / "rescued.vqi")
        index.close()
    assert len(VQIndex.load(tmp_path / "rescued.vqi")) == 30
    if what == "an older commit":
        assert vectors_in(folder) == 10


@posix
@pytest.mark.parametrize("damage", ["removed", "cut off"])
def test_a_writer_refuses_to_name_a_segment_that_is_gone(tmp_path, damage):
    folder = tmp_path / "store"
    new_store(folder)
    with vqindex.open(folder, "a", mmap=False) as index:
        segment = next(folder.glob("*.vqi"))
        data = segment.read_bytes()
        segment.unlink()
        if damage == "cut off":
            segment.write_bytes(data[:-1])
        index.add(X[10:13])
        before = content(folder)
        with pytest.raises(StoreError, match=rf"{segment.name} .* was removed or replaced while"):
            index.commit()
        assert content(folder) == before
        segment.write_bytes(data)
        index.commit()
    assert vectors_in(folder) == 13


def test_a_lock_that_holds_something_else_is_left_alone(tmp_path):
    new_store(tmp_path / "store")
    precious = tmp_path / "precious"
    precious.write_bytes(b"not a lock")
    lock = tmp_path / "store" / "lock"
    lock.unlink()
    os.link(precious, lock)
    with pytest.raises(StoreError, match="lock holds something else than the lock of a store"):
        vqindex.open(tmp_path / "store", "a")
    assert precious.read_bytes() == b"not a lock"
    lock.unlink()
    lock.write_bytes(bytes(30))  # a power cut may leave zeros
    with vqindex.open(tmp_path / "store", "a"):
        assert lock.read_bytes().startswith(b"process ")
    with vqindex.open(tmp_path / "store", "a"):
        pass


@posix
def test_a_store_at_a_link_to_no_folder_is_refused_by_the_name_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("none", "dangling")
    with pytest.raises(FileNotFoundError, match="is a link to a folder that does not exist: 'dangling'"):
        vqindex.open("dangling", "a", dim=4)
