"""Directories: commits need no more of one than its protocol, so object storage with conditional puts will do."""

import os

import numpy as np
import pytest
from buckets import Bucket, FakeClient
from stores import DIM, QUERIES, vectors

from vqindex import StoreError, VQIndex
from vqindex.directory.cache import Cache
from vqindex.directory.local import LocalDirectory
from vqindex.directory.objects import ObjectDirectory
from vqindex.rows.row_store import RowStore
from vqindex.store.commit import CommitWriter, State
from vqindex.store.manifest import MANIFEST, Manifest, load_manifest, prepare_manifest, publish_manifest
from vqindex.store.snapshot import join_segments, read_snapshot


def objects_in(bucket, cache):
    return ObjectDirectory(FakeClient(bucket), Cache("fake:", cache))


@pytest.fixture(params=["local", "objects"])
def directory(request, tmp_path):
    if request.param == "local":
        return LocalDirectory(tmp_path)
    return objects_in(Bucket(), tmp_path)


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
    if isinstance(directory, LocalDirectory):
        assert {MANIFEST, *directory.names()} == writer.manifest.names
    assert_holds(directory, index)


def test_second_writer_that_publishes_is_refused_and_leaves_the_first_ones_commit(tmp_path):
    bucket = Bucket()
    directory, other = objects_in(bucket, tmp_path), objects_in(bucket, tmp_path)
    first, second = VQIndex(DIM, metric="l2"), VQIndex(DIM, metric="l2")
    writer, late = new_writer(directory, first), new_writer(other, second)
    first.add(vectors(30))
    second.add(vectors(50, 1))  # in a file of the same number
    writer = writer.commit(state_of(first), merge=True)
    with pytest.raises(StoreError, match="changed by another writer"):
        late.commit(state_of(second), merge=True)
    assert {*directory.names()} == writer.manifest.names, "the late one has removed its files"
    assert_holds(directory, first)
    first.add(vectors(5, 2))
    writer.commit(state_of(first), merge=True)
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
