"""Damage index files and stores at random. A program of its own, because HDF5 could crash on damaged files.

    python fuzz_files.py FOLDER EXAMPLES

Each example is refused with FileFormatError, or gives the right answers. Memory is limited to LIMIT bytes more than a
first load takes, so that sizes which a file only claims are not allocated.
"""

import contextlib
import json
import shutil
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
from edits import edited as opened
from graphs import file_with_graph, made_up_graph
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import vqindex
from vqindex import FileFormatError, VQIndex, file_format
from vqindex.store import verify_store

LIMIT = 2**28
QUERIES = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
NASTY = [
    0, -1, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64, 10**30, 1e300, -0.5, "", "17", None, True, [], {},
    [2**40], [17, 2**40], ["x"], {"x": 1}, "trellis", "haar" * 1000, [[]], [-1],
]  # fmt: skip


def answer(index):
    return [part.tobytes() for part in index.search(QUERIES, 60, return_stderr=True)]


def limit_memory():
    with contextlib.suppress(ImportError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT,) * 2)


def places(value, at=()):
    """Paths to all values of a JSON object."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def edited(value, at, new):
    if not at:
        return new
    copy = value.copy()
    copy[at[0]] = edited(value[at[0]], at[1:], new)
    return copy


def damaged(data, changes, cut):
    """Return bytes with some of them changed, and cut off at a share of their length if that is below a half."""
    data = bytearray(data)
    for place, value in changes:
        data[int(place * len(data))] ^= value
    return bytes(data[: int(cut * len(data))] if cut < 0.5 else data)


EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)
CUTS = st.floats(0, 2)


def paths_of(json_object, ignored):
    """A strategy of paths to values of a JSON object, except those in ignored entries."""
    return st.sampled_from([at for at in places(json_object) if at and at[0] not in ignored])


class Fuzzer:
    """A file and a store, their right answers, and what is done to them."""

    def __init__(self, folder, examples, records=False):
        self.folder, self.file, self.store, self.examples = folder, folder / "a.vqi", folder / "store", examples
        vectors, ids = np.random.default_rng(0).standard_normal((50, 8)), np.arange(50) * 5
        index = VQIndex(8, 4, "l2", keep_vectors="int8", center="mean")
        index.add(vectors, ids=ids)
        index.save(self.file)
        right = answer(VQIndex.load(self.file))
        if records:
            file_format.write(self.file, index._codec, file_with_graph(index, made_up_graph(40, 5)))
            assert answer(VQIndex.load(self.file)) == right
        self.whole = self.file.read_bytes()
        with vqindex.open(self.store, "a", dim=8, metric="l2", keep_vectors="int8", center="mean") as store:
            store.add(vectors, ids=ids)
            store.commit()
            store.remove([0, 5])
        self.file_answer, self.store_answer = answer(VQIndex.load(self.file)), answer(open_read(self.store))
        self.files = {path.name: path.read_bytes() for path in self.store.iterdir() if path.name != "lock"}
        self.header = json.loads(h5py.File(self.file)["header"][()].tobytes())
        self.manifest = json.loads(self.files["manifest"].split(b"\n", 1)[1])
        self.counts = {"refused": 0, "right": 0}

    def expect(self, load, right):
        """Load something: it is refused by a path of the folder, or it answers right (None: as it likes)."""
        try:
            found = load()
        except FileFormatError as error:
            if str(self.folder) not in str(error):
                raise
            self.counts["refused"] += 1
            return
        assert right is None or answer(found) == right
        self.counts["right"] += 1

    def fuzz_bytes_of_the_file(self, changes, cut):
        self.file.write_bytes(damaged(self.whole, changes, cut))
        self.expect(lambda: VQIndex.load(self.file), self.file_answer)
        self.expect(lambda: VQIndex.load(self.file, mmap=True), None)
        with contextlib.suppress(FileFormatError):
            file_format.verify(self.file)

    def fuzz_bytes_of_the_store(self, name, changes, cut):
        path = self.store / name
        path.write_bytes(damaged(self.files[name], changes, cut))
        changed = path.read_bytes() != self.files[name]
        self.expect(lambda: open_read(self.store), self.store_answer)
        try:
            verify_store(self.store)
            assert not changed, f"{name}: damage is not noticed"
        except FileFormatError:
            assert changed
        path.write_bytes(self.files[name])

    def fuzz_the_header(self, at, new):
        raw = json.dumps(edited(self.header, at, new)).encode()
        self.file.write_bytes(self.whole)
        with opened(self.file) as hdf5:
            del hdf5["header"]
            hdf5["header"] = np.frombuffer(raw, np.uint8)
            hdf5["header"].attrs.create("crc32", zlib.crc32(raw), dtype="<u4")
        for mmap in (False, True):
            self.expect(lambda mmap=mmap: VQIndex.load(self.file, mmap=mmap), None)

    def fuzz_the_manifest(self, at, new):
        body = json.dumps(edited(self.manifest, at, new)).encode()
        path = self.store / "manifest"
        path.write_bytes(b"vqindex-store 1 %08x %d\n" % (zlib.crc32(body), len(body)) + body)
        self.expect(lambda: open_read(self.store), None)
        path.write_bytes(self.files["manifest"])

    def run(self, fuzz, *strategies):
        """Run one of the properties above on examples; damage must not be harmless too often."""

        def example(values):
            fuzz(*values)

        few = settings(
            max_examples=self.examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        self.counts.update(refused=0, right=0)
        seed(0)(few(given(st.tuples(*strategies))(example)))()
        print(fuzz.__name__, self.counts, flush=True)
        assert self.counts["refused"] > self.examples / 2


def main(folder, examples):
    fuzzer = Fuzzer(folder, examples)
    (folder / "records").mkdir()
    of_records = Fuzzer(folder / "records", examples, records=True)
    limit_memory()
    fuzzer.run(fuzzer.fuzz_bytes_of_the_file, EDITS, CUTS)
    fuzzer.run(fuzzer.fuzz_bytes_of_the_store, st.sampled_from(sorted(fuzzer.files)), EDITS, CUTS)
    fuzzer.run(fuzzer.fuzz_the_header, paths_of(fuzzer.header, {"meta", "writer"}), st.sampled_from(NASTY))
    fuzzer.run(fuzzer.fuzz_the_manifest, paths_of(fuzzer.manifest, {"meta", "commit"}), st.sampled_from(NASTY))
    of_records.run(of_records.fuzz_bytes_of_the_file, EDITS, CUTS)
    of_records.run(of_records.fuzz_the_header, paths_of(of_records.header, {"meta", "writer"}), st.sampled_from(NASTY))
    shutil.rmtree(fuzzer.store)


def open_read(path):
    return vqindex.open(path, mmap=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
