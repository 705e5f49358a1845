"""Damage index files and stores at random; run as a program of its own, since HDF5 could crash on what it is given.

    python fuzz_files.py FOLDER EXAMPLES

Memory is limited to what there is after a first load and LIMIT bytes more: nothing may be allocated because a file
says so.
Each example is refused with FileFormatError, or gives the right answers.
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


def main(folder, examples):
    index = VQIndex(8, 4, "l2", keep_vectors="int8", center="mean")
    index.add(np.random.default_rng(0).standard_normal((50, 8)), ids=np.arange(50) * 5)
    file = folder / "a.vqi"
    index.save(file)
    whole = file.read_bytes()
    with vqindex.open(folder / "store", "a", dim=8, metric="l2", keep_vectors="int8", center="mean") as store:
        store.add(np.random.default_rng(0).standard_normal((50, 8)), ids=np.arange(50) * 5)
        store.commit()
        store.remove([0, 5])
    right = {True: answer(store_of(folder / "store")), False: answer(VQIndex.load(file))}
    files = {path.name: path.read_bytes() for path in (folder / "store").iterdir() if path.name != "lock"}
    header = json.loads(h5py.File(file)["header"][()].tobytes())
    manifest = json.loads(files["manifest"].split(b"\n", 1)[1])
    counts = {"refused": 0, "right": 0}
    limit_memory()

    def must_be_right(load, is_store, checked=True):
        try:
            found = load()
        except FileFormatError as error:
            if str(folder) not in str(error):
                raise
            counts["refused"] += 1
            return
        assert not checked or answer(found) == right[is_store]
        counts["right"] += 1

    def config(test):
        few = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        return seed(0)(few(test))

    edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)

    def damaged(data, changes, cut):
        data = bytearray(data)
        for place, value in changes:
            data[int(place * len(data))] ^= value
        return bytes(data[: int(cut * len(data))] if cut < 0.5 else data)

    @config
    @given(edits, st.floats(0, 2))
    def bytes_of_a_file(changes, cut):
        file.write_bytes(damaged(whole, changes, cut))
        must_be_right(lambda: VQIndex.load(file), False)
        must_be_right(lambda: VQIndex.load(file, mmap=True), False, checked=False)
        with contextlib.suppress(FileFormatError):
            file_format.verify(file)

    @config
    @given(st.sampled_from(sorted(files)), edits, st.floats(0, 2))
    def bytes_of_a_store(name, changes, cut):
        path = folder / "store" / name
        path.write_bytes(damaged(files[name], changes, cut))
        changed = path.read_bytes() != files[name]
        must_be_right(lambda: store_of(folder / "store"), True)
        try:
            verify_store(folder / "store")
            assert not changed, f"{name}: damage is not noticed"
        except FileFormatError:
            assert changed
        path.write_bytes(files[name])

    @config
    @given(
        st.sampled_from([at for at in places(header) if at and at[0] not in ("meta", "writer")]), st.sampled_from(NASTY)
    )
    def headers(at, new):
        raw = json.dumps(edited(header, at, new)).encode()
        file.write_bytes(whole)
        with opened(file) as hdf5:
            del hdf5["header"]
            hdf5["header"] = np.frombuffer(raw, np.uint8)
            hdf5["header"].attrs.create("crc32", zlib.crc32(raw), dtype="<u4")
        for mmap in (False, True):
            must_be_right(lambda mmap=mmap: VQIndex.load(file, mmap=mmap), False, checked=False)

    @config
    @given(
        st.sampled_from([at for at in places(manifest) if at and at[0] not in ("meta", "commit")]),
        st.sampled_from(NASTY),
    )
    def manifests(at, new):
        body = json.dumps(edited(manifest, at, new)).encode()
        path = folder / "store" / "manifest"
        path.write_bytes(b"vqindex-store 1 %08x %d\n" % (zlib.crc32(body), len(body)) + body)
        must_be_right(lambda: store_of(folder / "store"), True, checked=False)
        path.write_bytes(files["manifest"])

    for test in (bytes_of_a_file, bytes_of_a_store, headers, manifests):
        test()
        print(test.__name__, counts, flush=True)
        assert counts["refused"] > examples / 2
        counts.update(refused=0, right=0)
    shutil.rmtree(folder / "store")


def store_of(path):
    return vqindex.open(path, mmap=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
