"""The file: what is written comes back, bytes are stable and lie where they should, and writing is atomic."""

import itertools
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import gate
import h5py
import numpy as np
import pytest
from cases import CODECS, METRICS, every_codec, every_metric
from graphs import file_with_graph, made_up_graph

import vqindex
from vqindex import InvalidInputError, VQIndex, file_format
from vqindex.file_format import writer

DIM = 12
GOLDEN = Path(__file__).parent / "golden"


def make(n, metric="ip", codec="turboquant-prod", sketch=None, *, ids=False, dim=DIM, bits=4, **kwargs):
    rng = np.random.default_rng(n + dim)
    index = VQIndex(dim, bits, metric, codec=codec, sketch=sketch, **kwargs)
    index.add(rng.standard_normal((n, dim)), ids=rng.permutation(3 * n)[:n] + 2**40 if ids else None)
    return index


def queries(dim=DIM, nq=4):
    return np.random.default_rng(99).standard_normal((nq, dim)).astype(np.float32)


def assert_same(a, b):
    """Exact equality of everything a user can see: the file holds the index, not an approximation of it."""
    assert a.spec == b.spec
    assert a.meta == b.meta
    np.testing.assert_array_equal(a.ids, b.ids)
    q = queries(a.dim)
    for one, other in zip(a.search(q, 20, return_stderr=True), b.search(q, 20, return_stderr=True), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(a.reconstruct(a.ids), b.reconstruct(b.ids))
    np.testing.assert_array_equal(a.estimate(q, a.ids), b.estimate(q, b.ids))


# ---- round trips


@pytest.mark.parametrize("n", [0, 1, 17, 300])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("codec", "sketch"), CODECS)
def test_saved_index_loads_as_it_was(tmp_path, codec, sketch, metric, ids, n):
    index = make(n, metric, codec, sketch, ids=ids)
    index.meta["note"] = {"text": "grüße", "list": [1, 2.5, None, True]}
    path = tmp_path / "a.vqi"
    index.save(path)
    assert_same(index, VQIndex.load(path))
    assert_same(index, VQIndex.load(str(path), mmap=True))
    assert_same(index, VQIndex.load(path, mmap=True, verify=True))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [1, 3, 17])
def test_codes_of_every_width_survive_a_round_trip(tmp_path, dim, bits):
    index = make(33, dim=dim, bits=bits, seed=2**64 - 1)
    index.save(tmp_path / "a.vqi")
    assert_same(index, VQIndex.load(tmp_path / "a.vqi"))


def test_the_dense_rotation_survives_a_round_trip(tmp_path):
    index = make(33, rotation="haar")
    index.save(tmp_path / "a.vqi")
    assert_same(index, VQIndex.load(tmp_path / "a.vqi"))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_adding_to_a_loaded_index_equals_adding_to_the_saved_one(tmp_path, mmap, ids):
    path = tmp_path / "a.vqi"
    more = np.random.default_rng(5).standard_normal((50, DIM))
    more_ids = np.arange(50) if ids else None
    index = make(300, ids=ids)
    index.save(path)
    loaded = VQIndex.load(path, mmap=mmap)
    for each in (index, loaded):
        each.add(more, ids=more_ids)
    assert_same(index, loaded)


def test_a_mapped_index_saved_over_its_own_file_keeps_its_rows(tmp_path):
    path = tmp_path / "a.vqi"
    index = make(300, ids=True)
    index.save(path)
    mapped = VQIndex.load(path, mmap=True)
    more = np.random.default_rng(5).standard_normal((5, DIM))
    for each in (index, mapped):
        each.add(more, ids=np.arange(5))
    mapped.save(path)
    assert_same(index, mapped)  # still maps the old file, which has no name any more
    assert_same(index, VQIndex.load(path))


def test_mapped_rows_are_not_read(tmp_path):
    for n in (1, 3, 17, 300, 2000):
        make(n, ids=True).save(tmp_path / "a.vqi")
        segment = file_format.read(tmp_path / "a.vqi", mmap=True).segment
        for part in (*segment.stored[:4], segment.ids):
            assert isinstance(part, np.memmap) or part.nbytes < 4096
            assert part.flags.aligned
            assert not part.flags.writeable


def test_adding_in_pieces_gives_the_same_file(tmp_path):
    x = np.random.default_rng(0).standard_normal((300, DIM))
    whole, pieces = VQIndex(DIM), VQIndex(DIM)
    whole.add(x)
    for part in np.array_split(x, 7):
        pieces.add(part)
    whole.save(tmp_path / "a.vqi")
    pieces.save(tmp_path / "b.vqi")
    assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes()


@pytest.mark.parametrize("n", [0, 17, 300])
def test_saving_twice_gives_identical_bytes(tmp_path, n, monkeypatch):
    index = make(n, ids=True)
    index.meta.update(b=1, a=2)
    index.save(tmp_path / "a.vqi")
    monkeypatch.setattr("time.time", lambda: 4e9)  # HDF5 can store times; ours must not
    reloaded = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    reloaded.save(tmp_path / "b.vqi")
    index.save(tmp_path / "a.vqi")
    assert (tmp_path / "a.vqi").read_bytes() == (tmp_path / "b.vqi").read_bytes()


# ---- layout


def test_blocks_are_plain_contiguous_arrays(tmp_path):
    path = tmp_path / "a.vqi"
    index = make(3000, "l2", ids=True)
    index.save(path)
    rows = file_format.read(path).segment.stored
    expected = {**rows._asdict(), "ids": index.ids}
    assert expected.pop("records") is None
    expected["factor"] = expected.pop("rescale")  # files keep the name of the block
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"vqindex"
        assert file.attrs["format_version"] == 3
        for name, array in expected.items():
            dataset = file[name]
            assert dataset.chunks is None
            np.testing.assert_array_equal(dataset[()], array)
            offset = dataset.id.get_offset()
            assert offset % 4096 == 0, f"{name} begins at {offset}: not at a page"
            np.testing.assert_array_equal(np.memmap(path, array.dtype, "r", offset, array.shape), array)


@every_metric
@every_codec
def test_stored_bytes_are_what_the_index_says(tmp_path, codec, sketch, metric):
    index = make(960, metric, codec, sketch, bits=3, dim=13)  # whole blocks of 64: the last one may be padded
    index.save(tmp_path / "a.vqi")
    sizes = dict(file_format.verify(tmp_path / "a.vqi"))
    assert ("signs" in sizes) == index.spec.has_sign_bits
    stored = sum(size for name, size in sizes.items() if name in ("signs", "codes", "factor", "norm"))
    assert stored == 960 * index.spec.bytes_per_vector
    # Tables, header, HDF5 structures and the pages' alignment: 6 pages at most.
    assert (tmp_path / "a.vqi").stat().st_size <= stored + 6 * 4096


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 128, 130])
def test_sign_plane_has_whole_blocks_filled_with_zeros(tmp_path, n):
    index = make(n, dim=13)
    index.save(tmp_path / "a.vqi")
    with h5py.File(tmp_path / "a.vqi") as file:
        signs = file["signs"][()]
        assert file["codes"].shape == (n, 5)
    assert signs.shape == (-(-n // 64), 2, 64)
    assert not signs.transpose(0, 2, 1).reshape(-1, 2)[n:].any()
    assert not (signs[:, 1] >> 5).any(), "bits past the last coordinate"


def test_codes_without_a_sign_plane_are_whole_rows(tmp_path):
    for codec, sketch in (("trellis", None), ("qjl", None), ("turboquant-prod", "orthogonal")):
        index = make(70, codec=codec, sketch=sketch, bits=1 if codec == "trellis" else 2)
        index.save(tmp_path / "a.vqi")
        with h5py.File(tmp_path / "a.vqi") as file:
            assert "signs" not in file
            assert file["codes"].shape == (70, index.spec.code_bytes)


def test_verify_names_every_block(tmp_path):
    make(300, ids=True).save(tmp_path / "a.vqi")
    names = [name for name, _ in file_format.verify(tmp_path / "a.vqi")]
    assert names == ["codes", "factor", "ids", "levels", "norm", "signs", "thresholds"]


def test_header_can_be_read_alone(tmp_path):
    index = make(300, "cosine")
    index.meta["answer"] = 42
    index.save(tmp_path / "a.vqi")
    header = file_format.read_header(tmp_path / "a.vqi")
    assert header["format_version"] == 3
    assert header["ntotal"] == 300
    assert header["spec"] == index.spec.as_dict()
    assert header["meta"] == {"answer": 42}
    assert header["writer"] == f"vqindex {vqindex.__version__}"


# ---- files of all versions are read for ever


@pytest.fixture(params=[1, 2, 3, 4])
def golden_file(request, golden, tmp_path):
    """A copy of the committed file of a format version, its version, and what a search of it gives."""
    name = f"format{request.param}"
    expected = golden(f"{name}.json")
    expected["scores"] = [[float.fromhex(score) for score in row] for row in expected["scores"]]
    return shutil.copy(GOLDEN / f"{name}.vqi", tmp_path), request.param, expected


def golden_index():
    index = VQIndex(17, 3, "l2", seed=5)
    index.add(gate.corpus(17)[14:], ids=np.arange(82) * 10 + 7)
    index.meta["note"] = "golden"
    return index


@pytest.mark.parametrize("mmap", [False, True])
def test_golden_files_load_with_the_frozen_results(golden_file, mmap):
    path, version, expected = golden_file
    header = file_format.read_header(path)
    assert header["format_version"] == version
    assert ("signs" in header["blocks"]) == (version > 1)
    assert ("records" in header["blocks"]) == (version == 4)
    file_format.verify(path)
    for device in ("auto", "reference"):
        index = VQIndex.load(path, mmap=mmap, device=device)
        scores, ids = index.search(gate.queries(17), 5, confidence=1)
        np.testing.assert_array_equal(scores, np.float32(expected["scores"]))
        np.testing.assert_array_equal(ids, expected["ids"])
    assert_same(index, golden_index())


def test_rows_of_golden_files_are_what_is_written_today(golden_file, tmp_path):
    path, version, _ = golden_file
    if version < 4:
        golden_index().save(tmp_path / "today.vqi")
    else:
        index, graph = golden_index(), made_up_graph(70, 6)
        file_format.write(tmp_path / "today.vqi", index._codec, file_with_graph(index, graph))
    today, then = (file_format.read(each).segment.stored for each in (tmp_path / "today.vqi", path))
    for one, other in zip(then, today, strict=True):
        np.testing.assert_array_equal(one, other)
    with h5py.File(path) as old, h5py.File(tmp_path / "today.vqi") as new:
        for name in old if version >= 2 else ("thresholds", "levels", "factor", "norm", "ids"):
            if name != "header":
                assert old[name].dtype == new[name].dtype
                np.testing.assert_array_equal(old[name][()], new[name][()])


@pytest.mark.parametrize("mmap", [False, True])
def test_golden_files_can_grow_and_be_saved_as_today(golden_file, tmp_path, mmap):
    path, version, _ = golden_file
    index, expected = VQIndex.load(path, mmap=mmap), golden_index()
    for each in (index, expected):
        each.add(gate.corpus(17)[:14], ids=np.arange(14) * 10)
    index.save(path)
    assert file_format.read_header(path)["format_version"] == max(3, version)
    assert_same(VQIndex.load(path, mmap=mmap), expected)


# ---- writing is atomic and durable


def break_block(monkeypatch, which, error):
    real, count = writer._put, itertools.count()

    def put(*args):
        entry = real(*args)
        if next(count) == which:
            raise error
        return entry

    monkeypatch.setattr(writer, "_put", put)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("which", [0, 2, 3, 5])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failing_half_way_keeps_the_old_file(tmp_path, monkeypatch, error, which, there):
    path = tmp_path / "a.vqi"
    if there:
        make(17).save(path)
    before = path.read_bytes() if there else None
    break_block(monkeypatch, which, error)
    with pytest.raises(type(error)):
        make(300).save(path)
    assert os.listdir(tmp_path) == (["a.vqi"] if there else [])
    if there:
        assert path.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failing_at_the_last_steps_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.vqi"
    make(17).save(path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="Input/output error"):
        make(300).save(path)
    assert os.listdir(tmp_path) == ["a.vqi"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [np.float32(1), float("nan"), {1, 2}, object()])
def test_notes_that_are_not_json_change_nothing(tmp_path, value):
    path = tmp_path / "a.vqi"
    index = make(17)
    index.save(path)
    before = path.read_bytes()
    index.meta["x"] = value
    with pytest.raises((TypeError, ValueError)):
        index.save(path)
    assert os.listdir(tmp_path) == ["a.vqi"]
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="folders can be synced on POSIX only")
def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(tmp_path, monkeypatch):
    path = tmp_path / "a.vqi"
    events = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        status = os.fstat(descriptor)
        events.append(("fsync", "folder" if stat.S_ISDIR(status.st_mode) else status.st_ino))
        fsync(descriptor)

    def note_replace(source, target):
        assert os.path.dirname(source) == str(tmp_path), "a rename is atomic within one folder only"
        events.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    make(17).save(path)
    inode = path.stat().st_ino
    assert events == [("fsync", inode), ("replace", inode), ("fsync", "folder")]


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_of_a_new_file_follows_the_umask(tmp_path, umask):
    old = os.umask(umask)
    try:
        make(1).save(tmp_path / "a.vqi")
        assert os.umask(umask) == umask, "saving changed the umask"
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.vqi").stat().st_mode) == 0o666 & ~umask


def test_relative_and_long_file_names_can_be_saved_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = make(17)
    for name in ("a.vqi", "x" * 251 + ".vqi", "ü" * 120 + ".vqi"):  # 255 bytes is what file systems allow
        index.save(name)
        assert_same(index, VQIndex.load(name))


def test_targets_that_cannot_be_written_raise_and_leave_no_file(tmp_path):
    index = make(1)
    with pytest.raises(FileNotFoundError):
        index.save(tmp_path / "no" / "a.vqi")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInputError, match="is a folder"):
        index.save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


INTERRUPTED = """
import os, signal, sys
import numpy as np
from vqindex import VQIndex
from vqindex.file_format import writer
name, at, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
real, calls = getattr(writer._Hdf5Output, name), 0
def interrupted(*args):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGINT)
    return real(*args)
setattr(writer._Hdf5Output, name, interrupted)
signal.signal(signal.SIGINT, signal.default_int_handler)
index = VQIndex(16)
index.add(np.ones((200, 16)), ids=np.arange(200))
try:
    index.save(path)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize(("name", "at"), [("seek", 1), ("tell", 1), ("write", 1), ("write", 12), ("truncate", 1)])
def test_an_interrupt_while_hdf5_writes_neither_crashes_nor_replaces_the_file(tmp_path, name, at):
    path = tmp_path / "a.vqi"
    make(3).save(path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, name, str(at), path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.vqi"]
