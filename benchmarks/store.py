"""Commit, remove and open of a store, beside turbovec's `sync` and `remove` and faiss's write_index and remove_ids.

    python benchmarks/store.py --rows 1000000 --dim 384 --bits 4 --only vqindex,turbovec,faiss

Every index holds the same rows with ids of their own. Each round adds 100 vectors and makes them durable, then removes
100 ids one by one and makes that durable; at the end the index is opened from disk and answers a first query. faiss has
no incremental save: it writes its whole file, which is then synced, as the others do. One JSON line for each index.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vqindex

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class Vqindex:
    """A store."""

    def __init__(self, folder: Path, dim: int, bits: int) -> None:
        self.folder = folder / "store"
        self.index = vqindex.open(self.folder, "a", dim=dim, bits=bits)

    def add(self, x: F32, ids: I64) -> None:
        self.index.add(x, ids)

    def remove(self, id: int) -> None:
        self.index.remove([id])

    def durable(self) -> None:
        self.index.commit()

    def reopen(self) -> Callable[[F32], Any]:
        self.index.close()
        opened = vqindex.open(self.folder)
        return lambda q: opened.search(q, 10).ids


class Turbovec:
    """An IdMapIndex, synced."""

    def __init__(self, folder: Path, dim: int, bits: int) -> None:
        import turbovec

        self.made_by, self.path = turbovec.IdMapIndex, str(folder / "index.tvim")
        self.index = turbovec.IdMapIndex(dim, bits)

    def add(self, x: F32, ids: I64) -> None:
        self.index.add_with_ids(x, ids.astype(np.uint64))

    def remove(self, id: int) -> None:
        assert self.index.remove(id)

    def durable(self) -> None:
        self.index.sync(self.path)

    def reopen(self) -> Callable[[F32], Any]:
        opened = self.made_by.load(self.path)
        return lambda q: opened.search(q, 10)[1]


class Faiss:
    """A scalar quantizer of as many bits (4, 6 or 8), with ids; its file is written whole and synced."""

    def __init__(self, folder: Path, dim: int, bits: int) -> None:
        import faiss

        self.faiss, self.path = faiss, str(folder / "index.faiss")
        self.index = faiss.index_factory(dim, f"IDMap2,SQ{max(4, bits)}", faiss.METRIC_INNER_PRODUCT)

    def add(self, x: F32, ids: I64) -> None:
        if not self.index.is_trained:
            self.index.train(x[:10_000])
        self.index.add_with_ids(x, ids)

    def remove(self, id: int) -> None:
        self.index.remove_ids(np.array([id]))

    def durable(self) -> None:
        self.faiss.write_index(self.index, self.path + ".tmp")
        with open(self.path + ".tmp", "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path + ".tmp", self.path)

    def reopen(self) -> Callable[[F32], Any]:
        opened = self.faiss.read_index(self.path)
        return lambda q: opened.search(q, 10)[1]


KINDS = {"vqindex": Vqindex, "turbovec": Turbovec, "faiss": Faiss}


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def mixture(rows: int, dim: int, seed: int) -> Iterator[F32]:
    """Rows of unit length in parts, so that a large index needs no copy of its vectors."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 100_000):
        x = rng.standard_normal((min(100_000, rows - start), dim), dtype=np.float32)
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def measure(name: str, rows: int, dim: int, bits: int, rounds: int, batch: int, where: Path) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(dir=where))
    try:
        index = KINDS[name](folder, dim, bits)
        done = 0
        for x in mixture(rows, dim, 0):
            index.add(x, np.arange(done, done + len(x)))
            done += len(x)
        first, _ = seconds(index.durable)
        rng = np.random.default_rng(1)
        gone = rng.permutation(rows)[: rounds * batch].reshape(rounds, batch)
        times: dict[str, list[float]] = {"add": [], "commit_added": [], "remove": [], "commit_removed": []}
        for number in range(rounds):
            x = next(mixture(batch, dim, 2 + number))
            ids = np.arange(done, done + batch)
            done += batch
            times["add"].append(seconds(lambda x=x, ids=ids: index.add(x, ids))[0])
            times["commit_added"].append(seconds(index.durable)[0])
            times["remove"] += [seconds(lambda i=i: index.remove(int(i)))[0] for i in gone[number]]
            times["commit_removed"].append(seconds(index.durable)[0])
        opened, search = seconds(index.reopen)
        query = next(mixture(1, dim, 99))
        answered, _ = seconds(lambda: search(query))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        report = {"index": name, "rows": rows, "dim": dim, "bits": bits, "rounds": rounds, "batch": batch}
        report |= {"first_commit_s": first, "open_s": opened, "first_query_s": answered, "bytes": size}
        for what, values in times.items():
            report |= {f"{what}_s": statistics.median(values), f"{what}_s_max": max(values)}
        return report
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--only", default="vqindex,turbovec,faiss")
    parser.add_argument("--where", type=Path, default=Path(), help="folder on the disk to be measured")
    parser.add_argument("--results", type=Path, help="file to append the lines to")
    given = parser.parse_args()
    for name in given.only.split(","):
        try:
            report = measure(name, given.rows, given.dim, given.bits, given.rounds, given.batch, given.where)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        line = json.dumps({key: round(v, 9) if isinstance(v, float) else v for key, v in report.items()})
        print(line, flush=True)
        if given.results is not None:
            with given.results.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
