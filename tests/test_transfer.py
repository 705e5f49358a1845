"""Copies of stores in buckets: push and pull, also stopped ones, and the cache of a bucket's files."""

import shutil
from contextlib import suppress

import numpy as np
import pytest
from buckets import Bucket, Died, FakeClient, open_fake
from stores import DIM, committed, content, open_with, vectors

from vqindex import FileFormatError, StorageError, StoreError
from vqindex.directory.cache import Cache
from vqindex.directory.objects import ObjectDirectory
from vqindex.store import verify_store
from vqindex.store.transfer import pull_store, push_store

FAILURES = ("before", "after", "die before", "die after")


def objects_of(bucket, at=None, how="before"):
    return ObjectDirectory(FakeClient(bucket, at, how), Cache("fake:", None))


def make_store(folder, rows=80, **parameters):
    with open_with(folder, dim=DIM, metric="l2", **parameters) as index:
        index.add(vectors(rows))
        index.commit()
        index.remove([3])
        index.commit()
        index.add(vectors(20, 2))
        index.commit(merge=False)
    return folder


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


@pytest.fixture
def pushed(store):
    bucket = Bucket()
    push_store(store, objects_of(bucket))
    return bucket


@pytest.mark.parametrize("parameters", [{}, {"graph": 8}, {"keep_vectors": "f16"}], ids=str)
def test_a_store_comes_back_from_a_bucket_as_it_was(tmp_path, parameters):
    store, bucket = make_store(tmp_path / "store", 1100, **parameters), Bucket()
    push_store(store, objects_of(bucket))
    before = bucket.data()
    push_store(store, objects_of(bucket))
    assert bucket.data() == before  # a second push writes nothing
    assert content(open_fake(bucket)) == committed(store)
    pull_store(objects_of(bucket), tmp_path / "back")
    pull_store(objects_of(bucket), tmp_path / "back")
    verify_store(tmp_path / "back")
    assert committed(tmp_path / "back") == committed(store)
    with open_with(tmp_path / "back") as index:
        index.add(vectors(3, 9))
        index.remove([7])
    verify_store(tmp_path / "back")


def test_a_push_adds_what_is_new_and_refuses_to_drop_commits_of_others(store, pushed):
    with open_with(store) as index:
        index.add(vectors(5, 5))
        index.commit(merge=False)
    push_store(store, objects_of(pushed))
    assert content(open_fake(pushed)) == committed(store)
    with open_fake(pushed, "a") as index:
        index.add(vectors(1, 6))
    with open_with(store) as index:
        index.add(vectors(5, 8))
        index.commit(merge=False)
    before = pushed.data()
    with pytest.raises(StoreError):
        push_store(store, objects_of(pushed))
    assert pushed.data() == before
    push_store(store, objects_of(pushed), replaces=True)
    assert content(open_fake(pushed)) == committed(store)


@pytest.mark.parametrize("how", FAILURES)
def test_a_push_that_stopped_at_any_request_goes_on(store, how):
    whole = objects_of(Bucket())
    push_store(store, whole)
    for at in range(len(whole.client.calls)):
        bucket = Bucket()
        with suppress(Died, StorageError):  # a push whose lost answer it could ask for again succeeds
            push_store(store, objects_of(bucket, at, how))
        push_store(store, objects_of(bucket))
        assert content(open_fake(bucket)) == committed(store)


@pytest.mark.parametrize("how", ["before", "die before"])
def test_a_pull_that_stopped_at_any_request_goes_on(tmp_path, store, pushed, how):
    whole = objects_of(pushed)
    pull_store(whole, tmp_path / "whole")
    for at in range(len(whole.client.calls)):
        folder = tmp_path / f"folder{at}"
        with pytest.raises((Died, StorageError)):
            pull_store(objects_of(pushed, at, how), folder)
        pull_store(objects_of(pushed), folder)
        assert committed(folder) == committed(store)


def test_a_pull_leaves_folders_with_other_files_or_another_index_alone(tmp_path, pushed):
    other, notes = make_store(tmp_path / "other", 30), tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("x")
    for folder in (other, notes):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises((StoreError, FileFormatError)):
            pull_store(objects_of(pushed), folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_damaged_store_is_not_pushed(store):
    path = sorted(store.glob("*.vqi"))[0]
    path.write_bytes(flipped(path.read_bytes()))
    bucket = Bucket()
    with pytest.raises(FileFormatError):
        push_store(store, objects_of(bucket))
    assert "manifest" not in bucket.data()


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "flipped": lambda path, other: path.write_bytes(flipped(path.read_bytes())),
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path, other: path.write_bytes(b""),
    "gone": lambda path, other: path.unlink(),
    "foreign": lambda path, other: shutil.copy(other, path),
    "link": lambda path, other: (path.unlink(), path.symlink_to(other)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_copies_are_fetched_again(tmp_path, pushed, damage):
    cache = tmp_path / "cache"
    want = content(open_fake(pushed, cache=cache))
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    (tmp_path / "other").write_bytes(np.arange(1000).tobytes())
    for path in files:
        DAMAGES[damage](path, tmp_path / "other")
        assert content(open_fake(pushed, cache=cache)) == want
        assert path.is_file()
        assert not path.is_symlink()
    client = FakeClient(pushed)
    assert content(open_fake(pushed, client=client, cache=cache)) == want
    assert [what for what, _ in client.calls] == ["get"]  # the manifest alone: all copies are sound
