"""Damage the blocks of mapped files, which nothing checks before they are used, and call everything on the index.

    python fuzz_mapped.py FOLDER [KIND ...]

Each call returns, for a flipped bit of a code is still a code, or raises FileFormatError. A program of its own, because
a block that is out of order could crash it. It prints each call that ends otherwise, and what it did.
"""

import copy
import os
import pickle
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
from graphs import file_with_graph, made_up_graph

import vqindex
from vqindex import FileFormatError, UnknownIdError, VQIndex, file_format

DIM, N = 8, 80
X = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
Q = X[:3] + 0.1
NEW = np.random.default_rng(1).standard_normal((4, DIM)).astype(np.float32)

KINDS = {
    "automatic": {"metric": "ip"},
    "integers": {"metric": "l2", "keep_vectors": "f32", "ids": np.arange(N) * 3 + 5},
    "strings": {"metric": "cosine", "keep_vectors": "int8", "center": "mean", "ids": [f"näme-{i}" for i in range(N)]},
    "f16": {"metric": "l2", "keep_vectors": "f16", "codec": "trellis", "bits": 2, "ids": np.arange(N)[::-1] + 9},
    "qjl": {"metric": "cosine", "codec": "qjl", "bits": 3, "ids": [str(i) for i in range(N)]},
    "mse": {"metric": "ip", "codec": "turboquant-mse", "bits": 3},
    "orthogonal": {"metric": "l2", "sketch": "orthogonal", "keep_vectors": "int8"},
}
RECORDS = ("records", "trellis records")  # kinds of files whose rows are records
KINDS |= {
    "records": {"metric": "l2", "ids": np.arange(N) * 3 + 5},
    "trellis records": {"metric": "cosine", "codec": "trellis", "bits": 2, "keep_vectors": "int8"},
}
PER_VECTOR = (
    *("signs", "codes", "factor", "norm", "records", "links"),
    *("ids", "names", "name_ends", "vectors", "vector_scale"),
)


def make(kind):
    options = dict(KINDS[kind])
    ids = options.pop("ids", None)
    index = VQIndex(DIM, **options)
    index.add(X, ids=ids)
    return index, None if ids is None else list(ids)


def damages(values, random):
    """Yield names and damaged copies of a block."""

    def at(rows, value):
        changed = values.copy()
        changed.reshape(len(values), -1)[rows] = value
        return changed

    def raw(data):
        return np.frombuffer(data, values.dtype).reshape(values.shape).copy()

    yield "zeros", np.zeros_like(values)
    yield "ones", raw(b"\xff" * values.nbytes)
    yield "random", raw(random.bytes(values.nbytes))
    some = [0, len(values) // 2, len(values) - 1]
    if values.dtype.kind == "f":
        for value in (np.nan, np.inf, -np.inf, -1, 0, -0.0, np.finfo(values.dtype).max, np.finfo(values.dtype).tiny):
            yield f"some {value}", at(some, value)
        yield "all nan", at(slice(None), np.nan)
    if values.dtype.kind == "i" and values.dtype.itemsize == 8:
        for value in (-1, -(2**63), 2**63 - 1, 2**62, 7, 2**31, 0):
            yield f"all {value}", at(slice(None), value)
            yield f"{value} in a row", at([len(values) // 2], value)
        yield "reversed", values[::-1].copy()
        yield "shuffled", random.permutation(values)
        yield "twice", np.where(np.arange(len(values)) % 2, np.roll(values, 1), values)
        yield "higher", values + 10
        yield "lower", values - 10
    if values.dtype == np.uint8:
        yield "255 in some", at(some, 255)
        yield "some flipped", at(some, values.reshape(len(values), -1)[some] ^ 128)


def calls(index, known, folder):
    """Yield the name and function of each thing to do with an index; the last ones change it."""
    some = known[:3] if known else [1, 2, 3]
    new = [f"new-{i}" for i in range(4)] if known and isinstance(known[0], str) else np.arange(4) + 10**6

    def known_only(call):
        """A number that is damaged to be another valid one is unknown; what else is damaged is found."""
        try:
            call()
        except UnknownIdError:
            if isinstance(some[0], str) or not set(some) - set(index.ids.tolist()):
                raise

    def of_all():
        ids = index.ids
        index.estimate(Q, ids)
        index.reconstruct(ids)
        return index.search(Q, 5, filter=set(ids.tolist()))  # an array of zeros could be meant as a mask

    def saved():
        index.save(folder / "again.vqi")
        return len(VQIndex.load(folder / "again.vqi"))

    def merged():
        other = VQIndex(
            DIM,
            **{k: v for k, v in index.spec.as_dict().items() if k not in ("dim", "sketch")}
            | ({"sketch": index.spec.sketch} if index.spec.sketch != "none" else {}),
            keep_vectors=index.keep_vectors,
            center=index.center,
        )
        other.merge(index)

    yield "search", lambda: index.search(Q, 5)
    yield "search all", lambda: index.search(Q, N, confidence=1, return_stderr=True)
    yield "one query", lambda: index.search(Q[0], 1)
    yield "range", lambda: index.range_search(Q, 0.5)
    yield "mask", lambda: index.search(Q, 5, filter=np.arange(len(index)) % 3 == 0)
    yield "allow", lambda: index.search(Q, 5, filter=some)
    yield "exclude", lambda: index.search(Q, 5, filter=vqindex.exclude(some))
    if index.keep_vectors:
        yield "rerank", lambda: index.search(Q, 5, rerank=True)
        yield "rerank all", lambda: index.search(Q, N, rerank=True)
    yield "rerank by function", lambda: index.search(Q, 5, rerank=lambda ids: np.ones((len(ids), DIM), np.float32))
    yield "ids", lambda: index.ids
    yield "of all", of_all
    yield "in", lambda: [each in index for each in some]
    yield "estimate", lambda: known_only(lambda: index.estimate(Q, some))
    yield "reconstruct", lambda: known_only(lambda: index.reconstruct(some))
    yield "stats", lambda: index.stats()
    yield "repr", lambda: repr(index)
    yield "save", saved
    yield "deepcopy", lambda: copy.deepcopy(index).search(Q, 3)
    if not hasattr(index, "mode"):  # a writer's store can't be pickled
        yield "pickle", lambda: pickle.loads(pickle.dumps(index)).search(Q, 3)
    yield "merge", merged
    yield "add", lambda: index.add(NEW, ids=new if known else None)
    yield "upsert", lambda: index.upsert(some, NEW[: len(some)]) if known else None
    yield "remove", lambda: index.remove(some)
    yield "search after changes", lambda: index.search(Q, 5)
    yield "compact", lambda: index.compact()
    yield "save after changes", saved
    yield "search at last", lambda: index.search(Q, 5)


class Report:
    def __init__(self):
        self.wrong, self.refused, self.returned = 0, 0, 0

    def call(self, what, function):
        try:
            function()
            self.returned += 1
        except FileFormatError:
            self.refused += 1
        except Exception as error:  # any other is a fault
            self.wrong += 1
            print("WRONG", what, type(error).__name__, str(error)[:150].replace("\n", " "), flush=True)


def fuzz_file(folder, kind, report):
    index, known = make(kind)
    path = folder / f"{kind}.vqi"
    if kind in RECORDS:
        file_format.write(path, index._codec, file_with_graph(index, made_up_graph(64, 5)))
    else:
        index.save(path)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        blocks = {name: (file[name].id.get_offset(), file[name][()]) for name in file if name in PER_VECTOR}
    random = np.random.default_rng(2)
    for name, (offset, values) in blocks.items():
        for damage, damaged in damages(values, random):
            data = bytearray(whole)
            data[offset : offset + values.nbytes] = damaged.tobytes()
            path.unlink()
            path.write_bytes(data)
            index = None
            report.call((kind, name, damage, "load"), lambda: VQIndex.load(path, mmap=True))
            for number, (what, _) in enumerate(calls(make(kind)[0], known, folder)):
                if what in ("search", "add"):  # a fresh index for the first call of each group
                    index = VQIndex.load(path, mmap=True)
                    todo = dict(calls(index, known, folder))
                print("at", kind, name, damage, what, number, flush=True)
                report.call((kind, name, damage, what), todo[what])
            firsts = (
                ("in", "estimate", "remove", "upsert", "ids", "of all") if name in ("ids", "names", "name_ends") else ()
            )
            for what in firsts:  # as the first call of all
                first = VQIndex.load(path, mmap=True)
                report.call((kind, name, damage, what, "first"), dict(calls(first, known, folder))[what])


def fuzz_store(folder, kind, report):
    options = dict(KINDS[kind])
    ids = options.pop("ids", None)
    store_folder = folder / f"{kind}-store"
    with vqindex.open(store_folder, "a", dim=DIM, **options) as store:
        half = N // 2
        for part in (slice(0, half), slice(half, N)):
            store.add(X[part], ids=None if ids is None else ids[part])
            store.commit(merge=False)
        store.remove([ids[0] if ids is not None else 0])
        store.commit(merge=False)
    files = {path.name: path.read_bytes() for path in store_folder.iterdir()}
    known = None if ids is None else list(ids)[1:]
    name = sorted(file for file in files if file.endswith(".vqi"))[1]
    with h5py.File(store_folder / name) as file:
        blocks = {block: (file[block].id.get_offset(), file[block][()]) for block in file if block in PER_VECTOR}
    random = np.random.default_rng(3)
    for block, (offset, values) in blocks.items():
        for damage, damaged in damages(values, random):
            for path in store_folder.iterdir():
                path.unlink()
            for file, content in files.items():
                (store_folder / file).write_bytes(content)
            data = bytearray(files[name])
            data[offset : offset + values.nbytes] = damaged.tobytes()
            (store_folder / name).unlink()
            (store_folder / name).write_bytes(data)
            where = (f"{kind} store", block, damage)
            try:
                store = vqindex.open(store_folder, "a")
            except FileFormatError:
                report.refused += 1
                continue
            try:
                for what, function in calls(store, known, folder):
                    print("at", *where, what, flush=True)
                    report.call((*where, what), function)
                for what in ("commit", "compact", "stats"):
                    print("at", *where, what, flush=True)
                    report.call((*where, what), getattr(store, what))
            finally:
                store.close()
            report.call((*where, "reopened"), lambda: vqindex.open(store_folder, mmap=False).search(Q, 3))


def main(folder, kinds):
    warnings.simplefilter("ignore")
    os.fsync = lambda descriptor: None  # nothing here has to survive a crash
    report = Report()
    for kind in kinds or KINDS:
        fuzz_file(folder, kind, report)
        if kind not in RECORDS:
            fuzz_store(folder, kind, report)
    print("done", report.wrong, report.refused, report.returned)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
