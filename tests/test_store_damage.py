"""Stores and files that are not what a commit wrote: noticed by `verify`, named, and no claim is given memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from edits import edited, reseal
from stores import DIM, committed, content, make_store, vectors

import vqindex
from vqindex import FileFormatError, InvalidInputError, VQIndex, file_format
from vqindex.store import discard_store, verify_store
from vqindex.store.manifest import read_manifest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with every kind of file. One segment has blocks of more than a page."""
    folder = make_store(tmp_path_factory.mktemp("damage") / "store")
    with vqindex.open(folder, "a") as index:
        index.add(vectors(2500, 5))
        index.commit(merge=False)
        index.remove([1000])
        index.commit(merge=False)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def names(folder):
    return sorted(read_manifest(folder).names)


def test_a_whole_store_passes_verification(folder):
    checked = dict(verify_store(folder))
    assert set(checked) == set(names(folder))
    assert all((folder / name).stat().st_size == size for name, size in checked.items())
    assert len(checked) > 5


@pytest.mark.parametrize("mmap", [False, True])
def test_every_flipped_bit_is_noticed(folder, mmap):
    expected = committed(folder)
    sizes = {name: (folder / name).stat().st_size for name in names(folder)}
    loaded_all_the_same = 0
    for name, size in sizes.items():
        path = folder / name
        whole = path.read_bytes()
        step = max(1, size // 40)
        for at in range(0, size, step + (step % 2 == 0)):  # odd steps, so that every bit of a byte has its turn
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            with pytest.raises(FileFormatError, match="copy"):
                verify_store(folder)
            if mmap:
                continue
            try:
                found = vqindex.open(folder, mmap=False)
            except FileFormatError as error:
                assert "copy" in str(error)  # noqa: PT017
            else:
                assert content(found) == expected, (name, at)
                loaded_all_the_same += 1
        path.write_bytes(whole)
    assert committed(folder) == expected
    assert loaded_all_the_same < 10  # zeros between the blocks of the large segment


def test_every_truncation_is_noticed(folder):
    for name in names(folder):
        path = folder / name
        whole = path.read_bytes()
        for length in sorted({0, 1, len(whole) // 3, len(whole) - 1}):
            path.write_bytes(whole[:length])
            for call in (verify_store, vqindex.open):
                with pytest.raises(FileFormatError, match="copy"):
                    call(folder)
        path.write_bytes(whole + b"x")
        with pytest.raises(FileFormatError, match="copy"):
            verify_store(folder)
        path.write_bytes(whole)
    verify_store(folder)


def test_missing_files_are_named(folder):
    for name in names(folder):
        shutil.move(folder / name, folder / "elsewhere")
        for call in (verify_store, vqindex.open):
            with pytest.raises(FileNotFoundError if name == "manifest" else FileFormatError, match=name):
                call(folder)
        shutil.move(folder / "elsewhere", folder / name)


def test_files_in_each_others_places_are_refused(folder):
    segments = read_manifest(folder).segments
    a, b = segments[0], segments[1]
    for one, other in ((a.name, b.name), (a.removed.name, segments[-1].removed.name)):
        shutil.move(folder / one, folder / "elsewhere")
        shutil.copy(folder / other, folder / one)
        for call in (verify_store, vqindex.open):
            with pytest.raises(FileFormatError, match=one):
                call(folder)
        shutil.move(folder / "elsewhere", folder / one)
    # A file of the same rows and size, right in itself.
    other = VQIndex(DIM, metric="l2")
    other.add(vectors(20, 77))
    other.save(folder / a.name)
    for call in (verify_store, vqindex.open):
        with pytest.raises(FileFormatError, match=a.name):
            call(folder)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"vqindex-store 2 %s", "store version is 2; this vqindex reads: 1"),
        (b"vqindex 1 %s", "not the manifest"),
        (b"", "not the manifest"),
        (b"vqindex-store 1 00000000 999999999\n", "damaged"),
    ],
)
def test_manifests_of_other_kinds_are_refused(folder, line, said):
    body = (folder / "manifest").read_bytes().split(b" ", 2)[2]
    (folder / "manifest").write_bytes(line % body if b"%s" in line else line)
    with pytest.raises(FileFormatError, match=said):
        vqindex.open(folder)


def test_an_id_in_two_segments_is_noticed(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    with vqindex.open(folder, "a", dim=DIM) as index:
        index.add(vectors(9), ids=np.arange(9) * 2)
        index.commit(merge=False)
        index.upsert([4], vectors(1, 1))  # in two segments, and removed from the first
        index.commit(merge=False)
        verify_store(folder)
        monkeypatch.setattr("vqindex.rows.ids.IdMap.check_new", lambda self, ids: None)
        index.add(vectors(2, 2), ids=[100, 4])
        index.commit(merge=False)
    with pytest.raises(FileFormatError, match="manifest: id 4 is there twice"):
        verify_store(folder)


# ---- claims


def claimed(path, name, shape, dtype="u1"):
    """Replace a block by one that says it is large; the file is cut to what it was."""
    with edited(path) as file:
        if name in file:
            del file[name]
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple(shape)
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, create)


@pytest.mark.parametrize("name", ["header", "codes", "factor", "ids", "levels", "signs"])
@pytest.mark.parametrize("way", ["sparse", "cut", "unwritten"])
def test_absurd_sizes_are_refused_without_memory(tmp_path, name, way):
    path = tmp_path / "a.vqi"
    index = VQIndex(DIM)
    index.add(vectors(9), ids=np.arange(9) * 2)
    index.save(path)
    size = path.stat().st_size
    shape = (2**42,) if name in ("header", "factor", "ids", "levels") else (2**40, 4)
    if way == "unwritten":
        with edited(path) as file:
            del file[name]
            file.create_dataset(name, shape, "u1")
    else:
        claimed(path, name, shape)
    if way == "cut":
        os.truncate(path, size)
        reseal(path)
    for call in (VQIndex.load, lambda p: VQIndex.load(p, mmap=True), file_format.verify, file_format.read_header):
        if call is file_format.read_header and name != "header" and way != "cut":
            continue
        with pytest.raises(FileFormatError, match=r"a\.vqi"):
            call(path)


def test_attributes_that_are_no_short_values_are_refused(tmp_path):
    path = tmp_path / "a.vqi"
    for name, value in (("format", b"v" * 60_000), ("format", ["vqindex"] * 1000), ("format_version", np.zeros(8000))):
        VQIndex(DIM).save(path)
        with edited(path) as file:
            del file.attrs[name]
            file.attrs[name] = value
        with pytest.raises(FileFormatError, match=r"of shape \("):
            VQIndex.load(path)


def test_randomly_damaged_files_are_refused_or_read_as_before(tmp_path):
    """Examples of each kind: VQINDEX_TEST_FUZZ, 150 by default."""
    pytest.importorskip("resource", reason="limits of memory are POSIX")
    examples = os.environ.get("VQINDEX_TEST_FUZZ", "150")
    command = [sys.executable, str(HERE / "support" / "fuzz_files.py"), str(tmp_path), examples]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 6


def test_bad_arguments_for_kept_vectors_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="keep_vectors is 'f64'"):
        vqindex.open(tmp_path / "new", "a", dim=3, keep_vectors="f64")
    vqindex.open(tmp_path / "new", "a", dim=3, keep_vectors="f16").close()
    with pytest.raises(InvalidInputError, match=r"keep_vectors is 'f32'; the index in .* has 'f16'"):
        vqindex.open(tmp_path / "new", keep_vectors="f32")


@pytest.mark.parametrize("mode", ["r", "a"])
def test_segments_without_their_manifest_are_refused_and_kept(tmp_path, mode):
    folder = make_store(tmp_path / "store")
    manifest = (folder / "manifest").read_bytes()
    (folder / "manifest").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for parameters in ({}, {"dim": DIM, "metric": "l2"}):
        with pytest.raises(
            FileNotFoundError, match=r"is missing, but .* holds files of an index \(\d+\.\w+\); expected"
        ):
            vqindex.open(folder, mode, **parameters)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "manifest").write_bytes(manifest)
    assert len(vqindex.open(folder)) > 0


def test_discarding_a_store_without_its_manifest_leaves_room_for_a_new_one(tmp_path):
    folder = make_store(tmp_path / "store")
    (folder / "manifest").unlink()
    (folder / "notes").write_bytes(b"of the user")
    discard_store(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "notes"]
    (folder / "notes").unlink()
    with vqindex.open(folder, "a", dim=DIM) as index:
        assert len(index) == 0
