"""Centers in files and stores: they are stored and checked, equal in all segments, and survive crashes."""

import json
import random
import shutil
from dataclasses import replace

import cli_tools
import gpu_checks as gpu
import h5py
import numpy as np
import pytest
from cli_tools import one_object
from damage import assert_refused, edit_header, replace_block
from edits import edited
from faulty import Died, FaultyDirectory, write_folder
from stores import DIM, QUERIES, content, open_with, vectors

import vqindex
from vqindex import FileFormatError, IndexSpec, InvalidInputError, VQIndex, file_format
from vqindex.file_format import layout
from vqindex.store import verify_store
from vqindex.store.manifest import MANIFEST, read_manifest

run, ok, folder = (pytest.fixture(f) for f in (cli_tools.run, cli_tools.ok, cli_tools.folder))

X = vectors(70) + 2
every_metric = pytest.mark.parametrize("metric", ["cosine", "l2"])
OPTIONS = {"center": "mean", "keep_vectors": "int8"}


def built(metric="cosine", x=X, **kwargs):
    index = VQIndex(DIM, metric=metric, **{"center": "mean", **kwargs})
    index.add(x)
    return index


def same(index, other):
    """Compare center, scores and ids."""
    assert (index.center is None) == (other.center is None)
    if other.center is not None:
        gpu.same(index.center, other.center)
    for got, want in zip(index.search(QUERIES, 20), other.search(QUERIES, 20), strict=True):
        gpu.same(got, want)


# ---- files


@every_metric
@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis", "qjl"])
def test_saved_index_with_a_center_gives_the_same_results(metric, codec, tmp_path):
    index = built(metric, codec=codec, keep_vectors="f32")
    index.remove([3, 4])
    path, again = tmp_path / "a.vqi", tmp_path / "b.vqi"
    index.save(path)
    assert dict(file_format.verify(path))["center"] == 4 * DIM
    for mmap in (False, True):
        loaded = VQIndex.load(path, mmap=mmap)
        same(loaded, index)
        assert loaded.spec == index.spec
        gpu.same(loaded.search(QUERIES, 5, rerank=True).scores, index.search(QUERIES, 5, rerank=True).scores)
        gpu.same(loaded.reconstruct(loaded.ids), index.reconstruct(index.ids))
        loaded.save(again)
        assert again.read_bytes() == path.read_bytes()
        loaded.add(X)
        index_with_more = VQIndex.load(path)
        index_with_more.add(X)
        same(loaded, index_with_more)


def test_a_center_given_as_a_vector_survives_a_mapped_file(tmp_path):
    index = built(center=np.arange(DIM))
    index.save(tmp_path / "a.vqi")
    same(VQIndex.load(tmp_path / "a.vqi", mmap=True), index)


@every_metric
def test_mean_that_is_not_chosen_yet_survives_a_file(metric, tmp_path):
    empty = VQIndex(DIM, metric=metric, center="mean")
    empty.save(tmp_path / "a.vqi")
    loaded = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    assert loaded.center is None
    assert "center=<mean>" in repr(loaded)
    loaded.add(X)
    same(loaded, built(metric))


def test_a_file_without_a_center_does_not_mention_one(tmp_path):
    VQIndex(DIM).save(tmp_path / "a.vqi")
    header = file_format.read_header(tmp_path / "a.vqi")
    assert "center" not in header["blocks"]
    assert "center" not in json.dumps(header["spec"])


# ---- damage


@pytest.fixture
def path(tmp_path):
    built("cosine").save(tmp_path / "a.vqi")
    return tmp_path / "a.vqi"


def test_damage_to_any_byte_of_the_center_is_refused(path):
    with h5py.File(path) as file:
        offset = file["center"].id.get_offset()
    whole = path.read_bytes()
    for at in range(offset, offset + 4 * DIM):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert_refused(path, "block 'center' is damaged")
    path.write_bytes(whole)
    VQIndex.load(path)


def test_a_center_block_that_contradicts_the_header_is_refused(path, tmp_path):
    with h5py.File(path) as file:
        center = file["center"][()]
    original = path.read_bytes()

    def with_block(array, **entry):
        path.write_bytes(original)
        replace_block(path, "center", array)
        checks = layout.Checksummer()
        checks.update(array)
        entry = {"crc32": checks.sums(), "shape": list(array.shape), "dtype": array.dtype.str, **entry}
        edit_header(path, lambda header: header["blocks"].update(center=entry))

    with_block(np.append(center[1:], np.float32(np.nan)))
    assert_refused(path, "block 'center'", f"center[{DIM - 1}] is nan")
    with_block(center * np.float32(2.0**70))
    assert_refused(path, "block 'center'", "2**62")
    with_block(center[1:])
    assert_refused(path, "block 'center' has shape (5,)", "(6,)")
    with_block(center.astype(np.float64))
    assert_refused(path, "block 'center' has dtype <f8")
    with_block(np.empty(0, np.float32))  # an unset mean, in an index with vectors
    assert_refused(path, "block 'center' has shape (0,)")
    with_block(center)
    VQIndex.load(path)
    edit_header(path, lambda header: header["spec"].update(metric="ip"))
    assert_refused(path, "block 'center'", "metric is 'ip'")
    edit_header(path, lambda header: header["spec"].update(metric="cosine"))
    edit_header(path, lambda header: header["blocks"].pop("center"))
    assert_refused(path, "names blocks")


def test_a_centered_file_relabeled_as_version_1_is_refused(path):
    """A reader of version 1 knows neither the seal nor the center block."""
    with edited(path) as file:
        file.attrs.modify("format_version", np.uint32(1))
    assert_refused(path, "format version is 1, but its first page holds a seal")


# ---- stores


def test_the_first_commit_keeps_the_mean(tmp_path):
    with open_with(tmp_path, dim=DIM, metric="cosine", **OPTIONS) as index:
        index.add(X)
        alone = built(**OPTIONS)
        same(index, alone)
    for number in range(3):
        with open_with(tmp_path) as index:
            same(index, alone)
            more = vectors(30, number) - number
            index.add(more)
            alone.add(more)
            index.remove([number])
            alone.remove([number])
            index.commit(merge=False)
    with open_with(tmp_path, "r") as index:
        same(index, alone)
        assert index.stats()["segments"] > 1
        assert index.spec == alone.spec
        gpu.same(index.search(QUERIES, 5, rerank=True).scores, alone.search(QUERIES, 5, rerank=True).scores)
        for file in tmp_path.glob("*.vqi"):
            gpu.same(VQIndex.load(file).center, alone.center)
        index.save(tmp_path.with_suffix(".vqi"))
    same(VQIndex.load(tmp_path.with_suffix(".vqi")), alone)
    with open_with(tmp_path) as index:
        index.compact()
    with open_with(tmp_path, "r") as index:
        same(index, alone)
    assert verify_store(tmp_path)


def test_an_uncommitted_add_leaves_the_mean_unset(tmp_path):
    index = open_with(tmp_path, dim=DIM, metric="l2", center="mean")
    assert index.center is None
    index.add(X)
    assert index.center is not None
    index.close()
    with open_with(tmp_path) as index:
        assert index.center is None
        index.add(X + 5)
    alone = built("l2", X + 5)
    with open_with(tmp_path, "r") as index:
        same(index, alone)


def test_a_mean_without_its_vectors_is_kept(tmp_path):
    with open_with(tmp_path, dim=DIM, metric="l2", center="mean") as index:
        index.add(X)
        center = index.center
        index.remove(index.ids)
    with open_with(tmp_path) as index:
        assert len(index) == 0
        gpu.same(index.center, center)


def test_store_opens_only_with_its_own_center(tmp_path):
    center = np.arange(DIM) / 7
    with vqindex.open(tmp_path, "a", dim=DIM, metric="l2", center=center) as index:
        gpu.same(index.center, center.astype(np.float32))
    for same_center in (None, center, "mean"):  # a build that continues passes "mean" again
        with vqindex.open(tmp_path, "a", center=same_center) as index:
            gpu.same(index.center, center.astype(np.float32))
    with pytest.raises(InvalidInputError, match=r"center is vector of norm .*; the index in .* has vector of norm"):
        vqindex.open(tmp_path, center=center + 1)
    with pytest.raises(InvalidInputError, match=r"expected 'mean'"):
        vqindex.open(tmp_path, center="middle")
    plain = tmp_path / "plain"
    with open_with(plain, dim=DIM, metric="l2"):
        pass
    with pytest.raises(InvalidInputError, match=r"center is mean; the index in .* has None"):
        open_with(plain, center="mean")
    with pytest.raises(InvalidInputError, match="expected 'mean'"):
        open_with(tmp_path / "new", dim=DIM, metric="l2", center=[1])
    assert not (tmp_path / "new").exists()


def test_older_readers_refuse_the_manifest_of_a_centered_store(tmp_path):
    """They refuse unknown fields of a spec. A store without a center has none."""
    with open_with(tmp_path / "a", dim=DIM, metric="l2", center="mean") as index:
        assert read_manifest(tmp_path / "a").center == "mean"
        index.add(X)
    body = json.loads((tmp_path / "a" / MANIFEST).read_bytes().split(b"\n", 1)[1])
    with pytest.raises(TypeError, match="center"):
        IndexSpec(**body["spec"])
    with open_with(tmp_path / "b", dim=DIM):
        pass
    assert b"center" not in (tmp_path / "b" / MANIFEST).read_bytes()


def test_segments_of_another_center_are_refused(tmp_path):
    with open_with(tmp_path, dim=DIM, metric="l2", center="mean") as index:
        index.add(X)
    other = replace(read_manifest(tmp_path), center=VQIndex(DIM, metric="l2", center=np.ones(DIM))._centering.text)
    (tmp_path / MANIFEST).write_bytes(other.to_bytes())
    with pytest.raises(FileFormatError, match="not the file that"):
        open_with(tmp_path, "r")


@pytest.mark.parametrize("text", ["", "AAAA", "means", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "/" * 32, 5, [1.0] * DIM])
def test_a_manifest_with_a_malformed_center_is_refused(tmp_path, text):
    with open_with(tmp_path, dim=DIM, metric="l2", center=np.zeros(DIM)):
        pass
    (tmp_path / MANIFEST).write_bytes(replace(read_manifest(tmp_path), center=text).to_bytes())
    with pytest.raises(FileFormatError, match="can't be read by this version"):
        read_manifest(tmp_path)


def test_a_crash_at_any_call_leaves_a_center_and_its_vectors_or_neither(tmp_path):
    """The crashing commit is the one that stores the first vectors and their mean."""
    start = tmp_path / "start"
    with open_with(start, dim=DIM, metric="cosine", center="mean"):
        pass
    whole, rng, seen = built(), random.Random(0), set()
    for at in range(100):
        copy = tmp_path / str(at)
        shutil.copytree(start, copy)
        directory = FaultyDirectory(copy)
        index = open_with(copy, directory=directory)
        directory.at, directory.how, directory.torn = len(directory.calls) + at, "die", rng.choice([0.0, 0.5, 1.0])
        index.add(X)
        try:
            index.commit()
        except Died:
            index.close()
        for number, state in enumerate(directory.crash_states(rng, 3)):
            found = tmp_path / f"{at}-{number}"
            write_folder(found, state)
            with open_with(found) as reopened:
                seen.add(len(reopened))
                if len(reopened):
                    same(reopened, whole)
                else:
                    assert reopened.center is None
                    reopened.add(X + 1)
                    same(reopened, built(x=X + 1))
            verify_store(found)
        if not directory.dead:
            assert content(index) == content(whole)
            break
    assert 5 < at < 50
    assert seen == {0, len(X)}


# ---- the command line


def test_build_command_uses_the_mean(ok, folder):
    ok("build", "base.npy", "-o", "a.vqi", "--metric", "cosine", "--center", "mean")
    base = np.load("base.npy")
    index = VQIndex(base.shape[1], metric="cosine", center="mean")
    index.add(base)
    gpu.same(VQIndex.load("a.vqi").center, index.center)
    np.save("c.npy", index.center.astype(np.float64))
    built = one_object(ok("build", "base.npy", "-o", "b.vqi", "--metric", "cosine", "--center", "c.npy", "--json"))
    assert built["center"] == index.stats()["center"]
    assert built["bytes_per_vector"] == index.stats()["bytes_per_vector"]
    facts = one_object(ok("info", "a.vqi", "--json"))
    assert facts["centered"]
    assert facts["metric"] == "cosine"
    assert facts["bytes_per_vector"] == index.stats()["bytes_per_vector"]
    assert ok("search", "a.vqi", "queries.npy", "--json") == ok("search", "b.vqi", "queries.npy", "--json")
    report = one_object(ok("eval", "a.vqi", "base.npy", "--queries", "queries.npy", "--exact", "--json"))
    assert report["bytes_per_vector"] == index.stats()["bytes_per_vector"]
    assert "center" in one_object(ok("verify", "a.vqi", "--json"))["blocks"]


def test_a_store_that_goes_on_keeps_the_center_of_its_first_commit(ok, folder, monkeypatch):
    base = np.load("base.npy")
    args = ("build", "base.npy", "-o", "s", "--metric", "l2", "--store", "--commit-every", 25, "--center", "mean")
    real, calls = vqindex.DurableIndex.add, []

    def stopped(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(vqindex.DurableIndex, "add", stopped)
        with pytest.raises(AssertionError):  # the command reports on stderr that it was stopped
            ok(*args)
    assert len(vqindex.open("s")) == 25
    first = VQIndex(base.shape[1], metric="l2", center="mean")
    first.add(base[:25])
    gpu.same(vqindex.open("s").center, first.center)
    assert one_object(ok("info", "s", "--json"))["centered"]


def test_build_refuses_a_center_file_that_holds_no_vector(run, folder):
    np.save("c.npy", np.zeros(3))
    code, _, err = run("build", "base.npy", "-o", "a.vqi", "--metric", "l2", "--center", "c.npy")
    assert code == 1
    assert "center has dtype float64 and shape (3,)" in err
    code, _, err = run("build", "base.npy", "-o", "a.vqi", "--metric", "l2", "--center", "none.npy")
    assert code == 1
    assert "none.npy" in err
    (folder / "text.npy").write_text("1 2 3")
    code, _, err = run("build", "base.npy", "-o", "a.vqi", "--metric", "l2", "--center", "text.npy")
    assert code == 1
    assert "not a .npy file of numbers" in err
