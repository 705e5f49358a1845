"""Opening a file: all of it comes from one opening, and errors of the system keep their names."""

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

import vqindex
from vqindex import FileFormatError, VQIndex, file_format
from vqindex.file_format import reader, source

DIM = 16
QUERIES = np.random.default_rng(7).standard_normal((3, DIM)).astype(np.float32)
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX files and limits")


def make(seed, n=300):
    index = VQIndex(DIM, 4, "l2", keep_vectors="f32")
    x = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    index.add(x, ids=[f"{seed}-{i}" for i in range(n)])
    index.meta["seed"] = seed
    return index


def seen(index):
    scores, ids = index.search(QUERIES, 20, confidence=1)
    exact, reranked = index.search(QUERIES, 5, rerank=True)
    return [index.meta["seed"], scores.tolist(), ids.tolist(), exact.tolist(), reranked.tolist(), index.ids.tolist()]


@contextmanager
def at_line(number, act):
    """Call `act` before the line of that number that vqindex executes for files; give the count of such lines."""
    roots = tuple(str(Path(vqindex.__file__).parent / part) for part in ("file_format", "directory"))
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(roots):
            return None
        if event == "line":
            count += 1
            if count == number:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: count
    finally:
        sys.settrace(before)


def some_of(lines):
    """Numbers of about a hundred lines, evenly spread."""
    return range(1, lines + 1, max(1, lines // 100))


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two versions of an index, of equal size, and what each answers."""
    folder = tmp_path_factory.mktemp("versions")
    for seed in (1, 2):
        make(seed).save(folder / f"{seed}.vqi")
    assert os.stat(folder / "1.vqi").st_size == os.stat(folder / "2.vqi").st_size
    return [folder / "1.vqi", folder / "2.vqi"], [seen(VQIndex.load(folder / f"{seed}.vqi")) for seed in (1, 2)]


@posix_only
@pytest.mark.parametrize("opener", ["loaded", "mapped", "mapped and verified"])
def test_a_load_is_of_one_file_wherever_a_save_replaces_it(versions, tmp_path, opener):
    """Replaced before a line of a load, for a hundred lines in turn: the answers are those of one version."""
    files, answers = versions
    path, load = tmp_path / "a.vqi", lambda path: VQIndex.load(path, mmap="mapped" in opener, verify="ver" in opener)
    new = tmp_path / "new"
    shutil.copy(files[0], path)
    load(path)
    with at_line(0, None) as lines:
        load(path)
    total, answered = lines(), set()
    for number in some_of(total):
        shutil.copy(files[0], new)
        os.replace(new, path)
        shutil.copy(files[1], new)
        with at_line(number, lambda: os.replace(new, path)):
            index = load(path)
        found = seen(index)
        assert found in answers, f"replaced before line {number} of {total}"
        answered.add(answers.index(found))
    assert answered == {0, 1}


@posix_only
def test_verify_and_the_header_are_of_one_file_wherever_a_save_replaces_it(versions, tmp_path):
    path, new = tmp_path / "a.vqi", tmp_path / "new"
    for look in (file_format.verify, lambda path: file_format.read_header(path)["meta"]["seed"]):
        shutil.copy(versions[0][0], path)
        look(path)
        with at_line(0, None) as lines:
            look(path)
        for number in some_of(lines()):
            shutil.copy(versions[0][0], new)
            os.replace(new, path)
            shutil.copy(versions[0][1], new)
            with at_line(number, lambda: os.replace(new, path)):
                look(path)  # raises where it meets two versions


def test_a_file_that_is_replaced_again_and_again_is_refused_by_name(versions, tmp_path, monkeypatch):
    path = tmp_path / "a.vqi"
    shutil.copy(versions[0][0], path)
    real = h5py.File

    def replaced(*args, **kwargs):
        shutil.copy(path, tmp_path / "new")
        os.replace(tmp_path / "new", path)
        return real(*args, **kwargs)

    monkeypatch.setattr(source.h5py, "File", replaced)
    monkeypatch.setattr(reader, "_TRIES", 3)
    with pytest.raises(FileFormatError, match=r"a\.vqi: was replaced 3 times"):
        VQIndex.load(path)


CUT = """
import os, shutil, sys
sys.path[:0] = sys.argv[1:2]
from test_file_format_opening import at_line, some_of, file_format, FileFormatError, VQIndex
original, path, what = sys.argv[2:]
look = {
    "load": VQIndex.load,
    "verified": lambda path: file_format.read(path, mmap=True, verify=True),
    "mapped": lambda path: file_format.read(path, mmap=True, verify=False),
    "verify": file_format.verify,
}[what]
shutil.copy(original, path)
look(path)
with at_line(0, None) as lines:
    look(path)
refused = passed = 0
for number in some_of(lines()):
    shutil.copy(original, path)
    with at_line(number, lambda: os.truncate(path, 5000)):
        try:
            look(path)
            passed += 1
        except FileFormatError as error:
            assert path in str(error), error
            refused += 1
print(refused, passed)
"""


@posix_only
@pytest.mark.parametrize("what", ["load", "verified", "mapped", "verify"])
def test_a_file_cut_off_while_it_is_read_is_refused_by_name(versions, tmp_path, what):
    """Cut off before one of a hundred lines of a load, in a process of its own: the map of a cut file would kill it."""
    command = [sys.executable, "-c", CUT, str(Path(__file__).parent), versions[0][0], tmp_path / "a.vqi", what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    refused, passed = map(int, done.stdout.split())
    assert refused > passed


@posix_only
def test_a_file_overwritten_in_place_while_it_is_mapped_is_refused_by_name(versions, tmp_path, monkeypatch):
    path = tmp_path / "a.vqi"
    shutil.copy(versions[0][0], path)
    os.utime(path, ns=(0, 0))
    real = h5py.File

    def overwritten(*args, **kwargs):
        file = real(*args, **kwargs)
        path.write_bytes(versions[0][1].read_bytes())
        return file

    monkeypatch.setattr(source.h5py, "File", overwritten)
    with pytest.raises(FileFormatError, match=r"a\.vqi: (was changed in place|block)"):
        VQIndex.load(path, mmap=True)


@posix_only
@pytest.mark.parametrize("what", ["time stamp", "first page"])
def test_a_byte_changed_in_place_shows_in_the_time_stamp_or_the_first_page(versions, tmp_path, monkeypatch, what):
    path = tmp_path / "a.vqi"
    shutil.copy(versions[0][0], path)
    os.utime(path, ns=(0, 0))
    real = h5py.File

    def changed(*args, **kwargs):
        file = real(*args, **kwargs)
        with open(path, "r+b") as same:
            same.seek(source.PAGE - 1 if what == "first page" else source.PAGE)
            same.write(b"x")
        if what == "first page":
            os.utime(path, ns=(0, 0))
        return file

    monkeypatch.setattr(source.h5py, "File", changed)
    with pytest.raises(FileFormatError, match=r"a\.vqi: was changed in place"):
        VQIndex.load(path, mmap=True)


# ---- descriptors


def descriptors():
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")


@needs_proc
def test_a_mapped_file_takes_at_most_one_descriptor_and_a_loaded_one_none(tmp_path):
    make(1).save(tmp_path / "a.vqi")
    before = descriptors()
    loaded = VQIndex.load(tmp_path / "a.vqi")
    assert descriptors() == before
    mapped = VQIndex.load(tmp_path / "a.vqi", mmap=True)
    assert descriptors() <= before + 1
    assert seen(mapped) == seen(loaded)
    del mapped
    assert descriptors() == before


@needs_proc
def test_arrays_of_a_map_stay_readable_after_the_index_is_gone(tmp_path):
    make(1).save(tmp_path / "a.vqi")
    segment = file_format.read(tmp_path / "a.vqi", mmap=True).segment
    codes, want = segment.stored.codes, segment.stored.codes.tobytes()
    os.unlink(tmp_path / "a.vqi")
    del segment
    assert codes.tobytes() == want
    assert codes.copy().flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        codes[0, 0] = 1


LIMITED = """
import json, resource, sys
import numpy as np
import vqindex
from vqindex import VQIndex
what, path, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
kept = []
if what != "store":
    VQIndex.load(path)  # imports what it needs
try:
    if what == "store":
        index = vqindex.open(path)
        print(json.dumps(["opened", len(index), index.stats()["segments"]]))
    else:
        while True:
            kept.append(open("/dev/null"))
except OSError:
    pass
if what != "store":
    for spare in (0, 1):
        for mmap in (False, True):
            try:
                VQIndex.load(path, mmap=mmap)
                print(json.dumps(["loaded", spare]))
            except Exception as error:
                print(json.dumps([type(error).__name__, getattr(error, "errno", None), str(error)]))
        kept.pop()
"""


def limited(what, path, limit):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, what, str(path), str(limit)], capture_output=True, text=True, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@needs_proc
def test_too_many_open_files_are_called_by_their_name(tmp_path):
    """Neither the opening by the reader nor the one by HDF5 makes damage of it."""
    path = tmp_path / "a.vqi"
    make(1).save(path)
    lines, stderr = limited("file", path, 40)
    assert len(lines) == 4, stderr
    for kind, number, text in lines:
        assert (kind, number) == ("OSError", errno.EMFILE)
        assert "too many open files" in text
        assert "ulimit -n" in text
        assert str(path) in text
        assert "HDF5" not in text


@needs_proc
def test_a_store_of_many_segments_takes_a_descriptor_for_each_at_most(tmp_path):
    segments = 60
    with vqindex.open(tmp_path / "store", "a", dim=4, keep_vectors="f32") as store:
        for i in range(segments):
            store.add(np.ones((2, 4)), ids=[f"{i}-a", f"{i}-b"])
            store.commit(merge=False)
    lines, stderr = limited("store", tmp_path / "store", segments + 30)  # four blocks of each are mapped
    assert lines == [["opened", 2 * segments, segments]], stderr
    if sys.version_info >= (3, 13):
        lines, stderr = limited("store", tmp_path / "store", 30)
        assert lines == [["opened", 2 * segments, segments]], stderr
    else:
        _, stderr = limited("store", tmp_path / "store", 30)
        assert not _
        assert stderr == ""


# ---- errors of the system


@posix_only
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("call", ["os.open", "h5py.File"])
def test_errors_of_the_system_stay_what_they_are_and_name_the_path(tmp_path, monkeypatch, number, call):
    path = tmp_path / "a.vqi"
    make(1).save(path)

    def fail(*args, **kwargs):
        texts = {"os.open": os.strerror(number), "h5py.File": f"Unable to open (errno = {number}, flags = 0)"}
        raise OSError(number, texts[call])

    monkeypatch.setattr(*((os, "open") if call == "os.open" else (source.h5py, "File")), fail)
    for look in (VQIndex.load, file_format.verify, file_format.read_header):
        with pytest.raises(OSError, match=r"a\.vqi'$") as caught:
            look(path)
        assert caught.value.errno == number
        assert not isinstance(caught.value, FileFormatError)


@posix_only
def test_a_read_that_fails_keeps_the_systems_error(tmp_path, monkeypatch):
    path = tmp_path / "a.vqi"
    make(1).save(path)
    real = source.open_for_reading

    class Failing:
        def __init__(self, file):
            self.file, self.reads = file, 0

        def __getattr__(self, name):
            return getattr(self.file, name)

        def readinto(self, buffer):
            self.reads += 1
            if self.reads > 3:
                raise OSError(errno.EIO, "Input/output error")
            return self.file.readinto(buffer)

    monkeypatch.setattr(source, "open_for_reading", lambda *args, **kwargs: Failing(real(*args, **kwargs)))
    for mmap in (False, True):
        with pytest.raises(OSError, match=r"a\.vqi'$") as caught:
            VQIndex.load(path, mmap=mmap)
        assert caught.value.errno == errno.EIO


@posix_only
def test_paths_that_lead_nowhere_keep_the_systems_errors(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("x")
    for path, kind in (
        (tmp_path / "loop", OSError),
        (tmp_path / "file" / "a.vqi", NotADirectoryError),
        (tmp_path / ("x" * 300), OSError),
    ):
        with pytest.raises(kind) as caught:
            VQIndex.load(path)
        assert not isinstance(caught.value, FileFormatError)
        assert str(path) in str(caught.value)


@posix_only
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a pipe"), (Path("/dev/null"), "a device")):
        for look in (VQIndex.load, file_format.verify, file_format.read_header):
            with pytest.raises(FileFormatError, match=f"{path.name} is {what}; expected a regular file"):
                look(path)


@posix_only
def test_a_file_that_hdf5_finds_locked_is_waited_for_a_moment(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "a.vqi"
    make(1).save(path)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() not in ("FALSE", "0"):
            with pytest.raises(BlockingIOError, match="another program has the file open"):
                VQIndex.load(path)
    assert len(VQIndex.load(path)) == 300


def test_bytes_are_read_without_a_temporary_file(monkeypatch):
    index = make(1)
    data = file_format.to_bytes(index._codec, index._file_contents())
    monkeypatch.setattr("tempfile.mkdtemp", None)
    assert seen(index._of_file(file_format.read_bytes(data), "auto")) == seen(index)
    for damaged in (b"", data[:-1], data[:5000], b"x" * 5000, data[:4500] + bytes([data[4500] ^ 1]) + data[4501:]):
        with pytest.raises(FileFormatError, match="bytes in memory"):
            file_format.read_bytes(damaged)
