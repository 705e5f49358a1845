"""Directories: commits need no more of one than its protocol, so object storage with conditional puts will do."""

import io
import os

import numpy as np
import pytest
from stores import DIM, QUERIES, vectors

from vqindex import StoreError, VQIndex
from vqindex.directory.local import LocalDirectory
from vqindex.rows.row_store import RowStore
from vqindex.store.commit import CommitWriter, State
from vqindex.store.manifest import MANIFEST, Manifest, load_manifest, prepare_manifest, publish_manifest
from vqindex.store.snapshot import join_segments, read_snapshot


class Upload(io.BytesIO):
    """An object that is being written; it exists once it is synced."""

    def __init__(self, directory, name):
        super().__init__()
        self.directory, self.name = directory, name

    def sync(self):
        self.directory.put(self.name, self.getvalue())


class ObjectDirectory:
    """Objects with entity tags: no rename, no lock, and a conditional put."""

    def __init__(self, cache):
        self.cache, self.objects, self.puts = cache, {}, 0

    def put(self, name, data):
        self.puts += 1
        self.objects[name] = f"tag {self.puts}", data

    def describe(self, name):
        return f"memory://{name}"

    def create(self, name):
        if name in self.objects:
            raise FileExistsError(name)
        return Upload(self, name)

    def read(self, name, start, size):
        if name not in self.objects:
            raise FileNotFoundError(2, "No such object", self.describe(name))
        return self.objects[name][1][start : start + size]

    def size(self, name):
        return len(self.read(name, 0, 2**40))

    def fetch(self, name):
        (self.cache / name).write_bytes(self.read(name, 0, 2**40))
        return self.cache / name

    def names(self):
        return sorted(self.objects)

    def remove(self, name):
        del self.objects[name]

    def version(self, name):
        return self.objects[name][0] if name in self.objects else None

    def publish(self, source, target, expected):
        if self.version(target) != expected:
            raise StoreError(f"{self.describe(target)} was changed by another writer")
        self.put(target, self.objects.pop(source)[1])
        return self.version(target)

    def sync(self):
        pass


@pytest.fixture(params=["local", "objects"])
def directory(request, tmp_path):
    if request.param == "local":
        return LocalDirectory(tmp_path)
    return ObjectDirectory(tmp_path)


def state_of(index):
    return State(index._codec, index._centering, index._contents, index.meta, index._backend)


def new_writer(directory, index):
    version = directory.version(MANIFEST)
    if version is None:
        prepare_manifest(directory, Manifest(index.spec))
        version = publish_manifest(directory, None)
    return CommitWriter(directory, load_manifest(directory), version)


def assert_holds(directory, index):
    """What a reader of the directory finds is what the index holds."""
    snapshot = read_snapshot(directory, mmap=False, verify=True)
    found = VQIndex(DIM, metric="l2")
    rows = RowStore(snapshot.manifest.spec, found._backend.put)
    found._contents = join_segments(rows, snapshot, "here")
    assert found.ids.tolist() == index.ids.tolist()
    for one, other in zip(found.search(QUERIES, 100), index.search(QUERIES, 100), strict=True):
        np.testing.assert_array_equal(one, other)


def test_commits_work_in_any_directory(directory):
    index = VQIndex(DIM, metric="l2")
    writer = new_writer(directory, index)
    for i in range(10):
        index.add(vectors(20, i))
        index.remove([3 * i, 3 * i + 1])
        before, writer = writer, writer.commit(state_of(index), merge=True)
        assert writer is not before
        assert writer.commit(state_of(index), merge=True) is writer, "nothing has changed"
        assert_holds(directory, index)
    writer = writer.compact(state_of(index))
    assert_holds(directory, index)
    assert {MANIFEST, *directory.names()} > writer.manifest.names, "the files of earlier commits"
    writer.sweep()
    assert {MANIFEST, *directory.names()} == writer.manifest.names


def test_second_writer_that_publishes_is_refused_and_leaves_the_first_ones_commit(tmp_path):
    directory = ObjectDirectory(tmp_path)
    first, second = VQIndex(DIM, metric="l2"), VQIndex(DIM, metric="l2")
    writer, late = new_writer(directory, first), new_writer(directory, second)
    late._numbers.next += 100  # numbers that the first one does not take
    first.add(vectors(30))
    second.add(vectors(50, 1))
    writer = writer.commit(state_of(first), merge=True)
    with pytest.raises(StoreError, match="changed by another writer"):
        late.commit(state_of(second), merge=True)
    assert {*directory.names()} == writer.manifest.names, "the late one has removed its files"
    assert_holds(directory, first)
    first.add(vectors(5, 2))
    writer.commit(state_of(first), merge=True)
    assert_holds(directory, first)


def test_file_of_another_writer_is_not_removed_when_its_number_is_taken(tmp_path):
    directory = ObjectDirectory(tmp_path)
    first, second = VQIndex(DIM, metric="l2"), VQIndex(DIM, metric="l2")
    writer, late = new_writer(directory, first), new_writer(directory, second)
    first.add(vectors(30))
    second.add(vectors(50, 1))
    writer = writer.commit(state_of(first), merge=True)
    with pytest.raises(FileExistsError):
        late.commit(state_of(second), merge=True)
    assert_holds(directory, first)


def test_version_of_a_missing_file_is_none_and_reading_it_names_it(directory):
    assert directory.version("none") is None
    for call in (lambda: directory.read("none", 0, 10), lambda: directory.size("none")):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert str(caught.value.filename) == directory.describe("none")


def test_folder_that_another_process_makes_at_the_same_moment_is_taken(tmp_path, monkeypatch):
    directory, mkdir = LocalDirectory(tmp_path / "s"), os.mkdir

    def made_by_another(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)  # between our look and our call
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", made_by_another)
    directory.make_folder()
    assert (tmp_path / "s").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file"):
        LocalDirectory(tmp_path / "file").make_folder()
