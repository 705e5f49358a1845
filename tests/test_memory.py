"""The memory of building, and the pages read of a mapped file, measured in separate processes."""

import ctypes
import json
import mmap
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from vqindex import VQIndex, file_format
from vqindex.arrays import _CHUNK_VALUES
from vqindex.center import Centering
from vqindex.codes.bitplanes import BLOCK_ROWS, StoredRows
from vqindex.codes.codec import Codec
from vqindex.file_format import seal, writer
from vqindex.file_format.layout import CHECK_BYTES
from vqindex.rows.segment import Segment
from vqindex.spec import IndexSpec

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads Linux's account of a process")
MIB = 2**20


def run(code, *args):
    """Return the JSON that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


BUILD = """
import json, sys
import numpy as np
from vqindex import VQIndex

dim, bits, n, codec = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
more = {"metric": "cosine", "center": "mean"} if sys.argv[5:] else {}

class Rows:  # an array that is never in memory at once
    dtype = np.dtype(np.float32)
    pool = np.random.default_rng(0).standard_normal((256, dim), dtype=np.float32)
    def __init__(self, n):
        self.shape = (n, dim)
    def __getitem__(self, rows):
        return self.pool[np.arange(rows.start, min(rows.stop, self.shape[0])) % 256]

def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

VQIndex(dim, bits, codec=codec, **more).add(Rows(3000))  # tables, and pages of code
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # reset the peak
before = kib("VmRSS")
index = VQIndex(dim, bits, codec=codec, **more)
for _ in range(2):
    index.add(Rows(n // 2))
print(json.dumps({"peak": (kib("VmHWM") - before) * 1024, "codes": index.stats()["bytes_per_vector"] * index.ntotal}))
"""


@pytest.mark.parametrize(
    ("dim", "bits", "n", "codec", "more"),
    [
        (768, 4, 400_000, "turboquant-prod", ()),
        (64, 1, 2_000_000, "turboquant-mse", ()),
        (3072, 8, 80_000, "turboquant-prod", ()),
        (768, 4, 100_000, "turboquant-prod", ("centered",)),
    ],
)
def test_building_takes_no_more_memory_than_a_chunk_and_the_codes(dim, bits, n, codec, more):
    """Rows of 388 B, 16 B and 3 KiB give many segments, one, and segments of few rows.

    A chunk of input is one float32 array of _CHUNK_VALUES. The limit allows 64 MiB besides it and the codes: the next
    chunk, which is read before the last one is freed (16), the masks of the NaN check (8), the codes of a chunk (at
    most 4), scratch memory of threads, and half a segment that is copied when a segment is full (32). With a center
    the residuals of a chunk (16) replace the masks.
    """
    found = run(BUILD, dim, bits, n, codec, *more)
    assert found["codes"] > 30 * MIB, "too few codes: a second copy would fit in the 64 MiB"
    assert found["peak"] > found["codes"], "the measurement must include the codes"
    assert found["peak"] < found["codes"] + 4 * _CHUNK_VALUES + 64 * MIB


# ---- mapped files


def sparse(monkeypatch, path, spec, n):
    """Write a valid file of n zero rows. The writer writes all but the zeros, which are holes of the file."""
    real = writer._put

    def put(file, name, dtype, shape, parts, check):
        if name in ("thresholds", "levels"):
            return real(file, name, dtype, shape, parts, check)
        created = writer.h5py.h5p.create(writer.h5py.h5p.DATASET_CREATE)
        created.set_layout(writer.h5py.h5d.CONTIGUOUS)
        created.set_alloc_time(writer.h5py.h5d.ALLOC_TIME_EARLY)
        created.set_fill_time(writer.h5py.h5d.FILL_TIME_NEVER)
        kind = writer.h5py.h5t.py_create(np.dtype(dtype))
        space = writer.h5py.h5s.create_simple(shape)
        writer.h5py.h5d.create(file.id, name.encode(), kind, space, created)
        whole, rest = divmod(int(np.prod(shape)) * np.dtype(dtype).itemsize, CHECK_BYTES)
        sums = [zlib.crc32(bytes(CHECK_BYTES))] * whole + ([zlib.crc32(bytes(rest))] if rest else [])
        return {"dtype": np.dtype(dtype).str, "shape": list(shape), "crc32": sums}

    def zeros(*shape):
        return np.broadcast_to(np.uint8(0), shape)

    rows = StoredRows(zeros(-(-n // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS), zeros(n, spec.row_bytes), zeros(n), None)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_put", put)
        if n > 10**6:  # the CRC-32 of so many zeros takes too long
            patch.setattr(writer, "write_seal", unread_seal)
        file_format.write(path, Codec(spec), file_format.FileContents(Centering.of(spec, None), [Segment(rows)], {}))
    if path.stat().st_blocks * 512 > 64 * MIB:
        path.unlink()
        pytest.skip("this file system has no holes")


def unread_seal(file):
    """Seal a file by its length alone."""
    unread = seal.Seal(file.seek(0, os.SEEK_END), 0)
    file.seek(0)
    file.write(seal.page_of(unread))
    return unread


OPEN = """
import json, sys
import numpy as np
from vqindex import VQIndex

def bytes_read():
    return next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith("rchar"))

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024

VQIndex.load(sys.argv[1], mmap=True)  # tables, and pages of code
before, memory = bytes_read(), resident()
index = VQIndex.load(sys.argv[2], mmap=True)
print(json.dumps({"read": bytes_read() - before, "memory": resident() - memory, "ntotal": index.ntotal}))
"""


def test_opening_a_mapped_file_reads_as_little_whatever_its_size(monkeypatch, tmp_path):
    """Counts bytes that calls read and resident memory, not time, and subtracts those of a small file."""
    spec = IndexSpec(768, 4, "cosine")
    small, large = tmp_path / "small.vqi", tmp_path / "large.vqi"
    rows = 10 * 2**30 // spec.bytes_per_vector // BLOCK_ROWS * BLOCK_ROWS
    sparse(monkeypatch, small, spec, 640)
    sparse(monkeypatch, large, spec, rows)
    assert large.stat().st_size > 10**10
    assert file_format.verify(small), "a valid file, checksums and all"
    few, many = (run(OPEN, small, path) for path in (small, large))
    assert many["ntotal"] == rows
    # The header holds a checksum of at most 12 characters for every 4 MiB, and is read by equally small calls.
    header = 12 * (large.stat().st_size // CHECK_BYTES + 4)
    assert many["read"] - few["read"] <= header + 4096
    # The parsed checksums take 32 bytes of int and 8 of list each; the heap may grow by some pages.
    assert many["memory"] < 2 * MIB


def resident(array):
    """Return for each page of a mapped array whether it is in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    start = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    length = array.ctypes.data + array.nbytes - start
    pages = (ctypes.c_ubyte * (-(-length // mmap.PAGESIZE)))()
    assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(length), pages) == 0, os.strerror(ctypes.get_errno())
    return np.frombuffer(pages, np.uint8) & 1


def test_search_reads_the_sign_bits_and_the_codes_of_candidate_rows_only(tmp_path):
    n, dim = 40_000, 768
    x = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)
    index = VQIndex(dim, 8, "cosine")
    index.add(x)
    path = tmp_path / "x.vqi"
    index.save(path)
    want = index.search(x[3], 1)
    mapped = VQIndex.load(path, mmap=True)
    (block, *_) = mapped._rows.stored()
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for array in (block.signs, block.codes, block.rescale):
        base = array
        while not isinstance(base, mmap.mmap):
            base = base.base
        base.madvise(mmap.MADV_RANDOM)  # no read-ahead
    if resident(block.codes).mean() > 0.01:
        pytest.skip("this file system keeps its pages in memory")
    got = mapped.search(x[3], 1, threads=1)
    np.testing.assert_array_equal(got.ids, want.ids)
    np.testing.assert_array_equal(got.scores, want.scores)
    assert resident(block.signs).all(), "all sign bits are read"
    # The query is a stored row that the seed sample contains, so its score is the threshold from the start, and the
    # bound of no other row reaches it. The scan scores the two likeliest rows of the sample, and this row again. Each
    # has 672 bytes and lies in at most two pages. The limit of 20 allows for blocks of the file that share a page.
    touched = resident(block.codes)
    assert 1 <= touched.sum() <= 20, touched.sum()
